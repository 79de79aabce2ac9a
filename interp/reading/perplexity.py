"""How well a model predicts ordinary text, the check that an edit left its general ability alone, or a given reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch.nn import functional as F

from interp.architecture import one_at_a_time, run_pass
from interp.door import public
from interp.passes import passes
from interp.passes.looks_ahead import looks_ahead
from interp.prompts import Prompt
from interp.statistics import Estimate, Interval, ratio_interval

if TYPE_CHECKING:
    from interp.models import Model

_MAX_LOGITS = 2**26  # of one batch: 256 MB in float32
_ROWS = 32  # positions whose log-softmax is taken at a time


@dataclass(frozen=True, eq=False)
class Perplexity:
    """What a model makes of some texts.

    ``nll``: each text's negative log-likelihood in nats, summed over its scored tokens, float64. ``n_tokens``: how
    many were scored: all but the first, which nothing precedes (a BOS, if the tokenizer adds one).
    """

    texts: tuple[str, ...]
    nll: Float[np.ndarray, " text"]
    n_tokens: Int[np.ndarray, " text"]

    @property
    def value(self) -> float:
        """exp(total nll / total tokens): 1 is certainty, the size of the vocabulary is a blind guess."""
        return _per_token(self.nll, self.n_tokens)

    @cached_property
    def interval(self) -> Interval:
        """95 % interval of ``value`` over texts. NaN for a single text.

        It says how far other texts of this kind would give another value. Two models are compared by
        :func:`perplexity_ratio`, not by whether their intervals overlap.
        """
        return _interval(self.nll, self.n_tokens)

    def to_frame(self) -> pd.DataFrame:
        """One row for each text: text, nll, n_tokens and the text's own perplexity."""
        own = np.exp(self.nll / self.n_tokens)
        return pd.DataFrame({"text": self.texts, "nll": self.nll, "n_tokens": self.n_tokens, "perplexity": own})

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"Perplexity({Estimate(self.value, low, high):.4g}, {len(self.texts)} texts, {self.n_tokens.sum()} tokens)"
        )


class PerplexityRatio(NamedTuple):
    """A perplexity divided by another, and its 95 % interval: 1.01 is one per cent worse."""

    value: float
    interval: Interval


@public
@one_at_a_time
def perplexity(model: Model, texts: Sequence[str], *, batch_size: int = 8) -> Perplexity:
    """The perplexity of ``model`` on ``texts``: exp of the mean negative log-likelihood of a token, in nats.

    Low is good. Every token but a text's first is predicted from those before it. Texts are read as they stand, without
    chat template, with the BOS that the tokenizer itself adds. Edits that are active act on every position.

    Costs one forward pass for each batch: 7,600 tokens take SmolLM2-135M about 30 s on one core. ``batch_size`` is the
    most texts of a batch, and does not change the numbers (1e-4 in float32). A batch holds fewer where its logits would
    pass 256 MB in float32, but at least one text: memory is then [longest text, vocabulary]. The softmax is float32,
    also for a bfloat16 model, whose logits are rounded before it.

    Misleads: models with other tokenizers can't be compared by it, since their tokens are longer or shorter. An
    instruction-tuned model is often worse at plain text than its base model. Without a BOS the second token is guessed
    from the first alone, which can cost more than 10 nats (SmolLM2): short texts look hard for that reason.

    Raises ``ValueError`` without texts, and for a text of fewer than two tokens or beyond the context;
    ``NonFiniteLogitsError`` where the model gives NaN or infinity.

        >>> perplexity(model, passages)  # doctest: +SKIP
        Perplexity(54.99 [48.42, 62.21], 60 texts, 7598 tokens)
    """
    if isinstance(texts, str) or not texts:
        raise ValueError(f"texts={texts!r}; expected a list of at least one text. Put a single text in a list.")
    prompts = [_read(model, number, text) for number, text in enumerate(texts)]
    n_tokens = np.array([len(p) - 1 for p in prompts])
    return Perplexity(tuple(texts), _nll(model, prompts, n_tokens, batch_size), n_tokens)


@public
@one_at_a_time
def reply_nll(
    model: Model, prompts: Sequence[Prompt], replies: Sequence[Sequence[int]], *, batch_size: int = 8
) -> Float[np.ndarray, " reply"]:
    """Negative log-likelihood of each reply (token ids) after its prompt, in nats, summed over the reply's tokens.

    The first token is scored too: that is the decision how to begin. 0 for a reply without tokens. exp of a sum over
    replies, divided by their number of tokens, is the perplexity of replies. Edits that are active act on every
    position. Costs one forward pass for each batch; memory and precision as for :func:`perplexity`.

    Raises ``ValueError`` unless there is a reply for each prompt, and for one that does not fit the context;
    ``NonFiniteLogitsError`` where the model gives NaN or infinity.
    """
    if len(prompts) != len(replies):
        raise ValueError(f"{len(replies)} replies were given for {len(prompts)} prompts; expected one for each.")
    n_tokens = np.array([len(reply) for reply in replies], dtype=int)
    rows = np.flatnonzero(n_tokens)
    whole = [_continued(prompts[i], replies[i]) for i in rows]
    model.require_fits(whole)
    nll = np.zeros(len(replies))
    nll[rows] = _nll(model, whole, n_tokens[rows], batch_size)
    return nll


@public
def perplexity_ratio(after: Perplexity, before: Perplexity) -> PerplexityRatio:
    """``after.value / before.value``, with a paired interval over texts.

    Both are drawn on the same texts each time, so what makes a text hard cancels, and the interval is far narrower than
    that of either. NaN for a single text. Raises ``ValueError`` unless both are of the same texts and tokens.
    """
    if after.texts != before.texts:
        raise ValueError(
            f"the perplexities are of {len(after.texts)} and {len(before.texts)} texts, not the same ones; expected "
            "the same texts in the same order. Measure both on one list."
        )
    if not np.array_equal(after.n_tokens, before.n_tokens):
        raise ValueError(
            f"the same texts have {after.n_tokens.sum()} and {before.n_tokens.sum()} tokens; expected one tokenizer. "
            "Perplexities of different tokens have no ratio."
        )
    difference = after.nll - before.nll
    return PerplexityRatio(_per_token(difference, before.n_tokens), _interval(difference, before.n_tokens))


def _continued(prompt: Prompt, reply: Sequence[int]) -> Prompt:
    spans = {} if prompt.image is None else {"image": prompt.span("image")}
    ids = [*prompt.token_ids, *reply]
    return Prompt.from_token_ids(ids, id=prompt.id, image=prompt.image, spans=spans, text_only=prompt.text_only)


def _read(model: Model, number: int, text: str) -> Prompt:
    prompt = model.prompt(text, chat=False, id=f"text {number}", text_only=model.has_vision) if text else None
    if prompt is None or len(prompt) < 2:
        raise ValueError(
            f"text {number}, {text!r}, has {len(prompt) if prompt else 0} tokens; expected at least 2, since the first "
            "is only read. Leave it out or lengthen it."
        )
    return prompt


def _nll(
    model: Model, prompts: Sequence[Prompt], n_scored: Int[np.ndarray, " prompt"], batch_size: int
) -> Float[np.ndarray, " prompt"]:
    """Nats of the last ``n_scored`` tokens of each prompt, each given all before it."""
    if any(p.image is None for p in prompts) and looks_ahead(model):
        raise ValueError(
            f"{model.name} reads text without a picture both ways, so its tokens are not predicted from those before. "
            "Give prompts with pictures, or another model."
        )
    nll = np.full(len(prompts), np.nan)
    for batch in _batches(model, n_scored, batch_size):
        for places in passes(model, [prompts[i] for i in batch]):
            chosen = [batch[place] for place in places]
            nll[chosen] = _nll_of_batch(model, [prompts[i] for i in chosen], n_scored[chosen])
    return nll


def _batches(model: Model, n_scored: Int[np.ndarray, " prompt"], batch_size: int) -> list[list[int]]:
    """Indices of prompts, those with most to score first, so that little is padded."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected 1 or more.")
    vocabulary = model.n_tokens
    left = sorted(range(len(n_scored)), key=lambda i: -n_scored[i])
    batches = []
    while left:
        size = max(1, min(batch_size, int(_MAX_LOGITS // (vocabulary * (n_scored[left[0]] + 1)))))
        batches.append(left[:size])
        left = left[size:]
    return batches


@torch.no_grad()
def _nll_of_batch(model: Model, prompts: list[Prompt], n_scored: Int[np.ndarray, " prompt"]) -> list[float]:
    n_kept = int(n_scored.max()) + 1
    keep = dict.fromkeys(model.last_logits_only(), n_kept)
    logits = run_pass(model, {**model.inputs(prompts).inputs, "use_cache": False, **keep}).logits
    sums = []
    for row, prompt, n in zip(logits, prompts, n_scored.tolist(), strict=True):
        own = row[-n - 1 : -1]  # [scored, vocabulary]; nothing is asked of the last position
        model.require_finite(own[None], [prompt])
        targets = torch.tensor(prompt.token_ids[-n:], device=own.device)
        parts = [
            F.cross_entropy(some.float(), wanted, reduction="none").double().sum().item()
            for some, wanted in zip(own.split(_ROWS), targets.split(_ROWS), strict=True)
        ]
        sums.append(sum(parts))
    return sums


def _per_token(nll: np.ndarray, n_tokens: np.ndarray) -> float:
    """exp of nats per token: a perplexity, or a ratio of two for a difference of nats."""
    return float(np.exp(nll.sum() / n_tokens.sum()))


def _interval(nll: np.ndarray, n_tokens: np.ndarray) -> Interval:
    return Interval(*(float(np.exp(end)) for end in ratio_interval(nll, n_tokens)))

"""How well a model predicts ordinary text: the check that an edit left its general ability alone."""

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

from interp.prompts import pad_left
from interp.statistics import Interval, bootstrap_interval

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompts import Prompt

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
        """95 % bootstrap interval of ``value`` over texts. NaN for a single text.

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
            f"Perplexity({self.value:.4g} [{low:.4g}, {high:.4g}], {len(self.texts)} texts, "
            f"{self.n_tokens.sum()} tokens)"
        )


class PerplexityRatio(NamedTuple):
    """A perplexity divided by another, and its 95 % interval: 1.01 is one per cent worse."""

    value: float
    interval: Interval


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
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected 1 or more texts.")
    prompts = [_read(model, number, text) for number, text in enumerate(texts)]
    nll = np.empty(len(prompts))
    for batch in _batches(model, prompts, batch_size):
        nll[batch] = _nll(model, [prompts[i] for i in batch])
    return Perplexity(tuple(texts), nll, np.array([len(p) - 1 for p in prompts]))


def perplexity_ratio(after: Perplexity, before: Perplexity) -> PerplexityRatio:
    """``after.value / before.value``, with a paired bootstrap interval over texts.

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


def _read(model: Model, number: int, text: str) -> Prompt:
    prompt = model.prompt(text, chat=False, id=f"text {number}") if text else None
    if prompt is None or len(prompt) < 2:
        raise ValueError(
            f"text {number}, {text!r}, has {len(prompt) if prompt else 0} tokens; expected at least 2, since the first "
            "is only read. Leave it out or lengthen it."
        )
    return prompt


def _batches(model: Model, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    """Indices of prompts, the longest first, so that little is padded."""
    vocabulary = model.hf.config.get_text_config().vocab_size
    left = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    batches = []
    while left:
        size = max(1, min(batch_size, _MAX_LOGITS // (vocabulary * len(prompts[left[0]]))))
        batches.append(left[:size])
        left = left[size:]
    return batches


@torch.no_grad()
def _nll(model: Model, prompts: list[Prompt]) -> list[float]:
    batch = pad_left(prompts, model.device)
    logits = model.hf(**batch.inputs, use_cache=False).logits
    sums = []
    for row, prompt, offset in zip(logits, prompts, batch.offsets, strict=True):
        own = row[offset:-1]  # [pos - 1, vocabulary]; nothing is asked of the last position
        model.require_finite(own[None], [prompt])
        targets = torch.tensor(prompt.token_ids[1:], device=own.device)
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
    return Interval(*map(float, bootstrap_interval(_per_token, nll, n_tokens)))

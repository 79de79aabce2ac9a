"""`explore`: what every head does in a few prompts, read from a model."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

from interp.architecture import UnsupportedAttention
from interp.door import public
from interp.door.brief import brief
from interp.explorer.exploration import SCALES, Exploration, ExploredPrompt
from interp.interventions import Branch, HeadEdit
from interp.overlays.patches import covered
from interp.rankings import HeadRanking, Measure
from interp.reading import (
    LogitDifference,
    Probability,
    attention_log_probs,
    attention_sources,
    attribute,
    kinds_beside,
)
from interp.records import now, showing_progress
from interp.scans import AskedAgain, Positions, scan_readings, span_length
from interp.vision import ImageLike, image_sha256, read_image

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

_MOST_ANSWERS = 4
_SIDE = 448  # pixels of a picture's longer side on the page
_LEAST_SHARE = 1e-30  # of a probability, below which its logarithm is not taken


@dataclass(frozen=True, eq=False)
class Live:
    """A model and prompts with their answers, to be asked again with some heads turned down."""

    model: Model
    prompts: tuple[Prompt, ...]
    positions: Positions
    asking: AskedAgain

    __repr__ = brief

    def probabilities(self, prompt: int, factors: Mapping[tuple[int, int], float]) -> list[float]:
        """Of the answers, and last of everything else, with each head's output multiplied by its factor: exact.

        prompt: which one, from 0. factors: (layer, head) -> what its output is multiplied by; others stay as they are.
        """
        edits = [HeadEdit(layer, head, "scale", factor) for (layer, head), factor in factors.items()]
        asked = self.prompts[prompt]
        metrics = list(map(Probability, asked.answers))
        held = self.asking.values(asked, span_length(asked, self.positions), edits, metrics)
        return [*held, max(0.0, 1.0 - sum(held))]


@public
def explore(
    model: Model,
    prompts: Sequence[Prompt | str],
    *,
    ranking: HeadRanking | Mapping[str, HeadRanking] | None = None,
    answers: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    positions: Positions = "answer",
    pictures: Sequence[ImageLike] | None = None,
    n_sources: int = 4,
    memory_mib: float = 1024.0,
) -> Exploration:
    """Read what every head does in some prompts: where it looks, what it writes toward the answer, and what the answer
    becomes when the head is turned down. The result is a widget in a notebook, and one HTML page by ``save_explorer``.

    Args:
        model: asked as it is, with the edits that are on it.
        prompts: built with ``model.prompt``, or texts.
        ranking: heads in an order of your own, shown first; several by name. If none is given, heads are ranked by
            their total effect on these prompts.
        answers: words whose probabilities are followed, for prompts given as texts. A prompt without answers gets the
            two most probable next tokens, the likelier first.
        kinds: head ("L3H5") -> what kind of head it is, where that is known.
        positions: where a head is turned down, as of :func:`interp.scan`: at the answer's position, or everywhere.
        pictures: of prompts with pictures, to lay attention over: those that the prompts were built with.
        n_sources: of each token, so many tokens that each head looks at most are kept.
        memory_mib: how much memory a chunk of branches may take.

    Raises:
        ValueError: no prompts, a ranking of other heads than the model's, pictures that are not the prompts'.

    Returns an :class:`interp.explorer.Exploration`. Effects: the output of each head times 0, 0.5, 1.5 and 2; the total
    effect is the drop of the log odds (logits) of the first answer against the second when the head is zeroed, the
    direct effect what it writes toward them itself.

    What an architecture does not let be read is left out, and ``notes`` say why.

    Cost for each prompt: two passes, and a scan of four edits a head with the whole vocabulary unembedded (SmolLM2's
    270 heads: about 5 s a prompt on one CPU core). Memory: 8 (2 + ``n_sources``) bytes for each head and token.

    Misleads: a head that does nothing at the answer's position may do much before it (``positions="all"``); heads
    turned down together need not do the sum of what each does.

    >>> interp.explore(model, ["The capital of France is"]).save_explorer("heads.html")
    """
    if not prompts:
        raise ValueError("no prompts were given; give at least one prompt or text.")
    built = [model.prompt(p, answers=tuple(answers)) if isinstance(p, str) else p for p in prompts]
    built = [_with_answers(model, p) for p in built]
    if pictures is not None and len(pictures) != len(built):
        raise ValueError(f"{len(pictures)} pictures for {len(built)} prompts; expected one for each.")
    notes: dict[str, None] = {}
    n, shape = len(built), (model.n_layers, model.n_heads)
    rankings = {} if ranking is None else dict(ranking) if isinstance(ranking, Mapping) else {ranking.score: ranking}
    for name, given in rankings.items():
        if given.scores.shape[1:] != shape:
            raise ValueError(
                f"the ranking {name!r} is of {given.n_layers} layers of {given.n_heads} heads; {model.name} has "
                f"{shape[0]} of {shape[1]}. Give a ranking of this model."
            )
    shown, effects, directs = [], np.full((n, *shape), np.nan, np.float32), []
    fans_out = True
    with showing_progress("explore", n, after_s=3) as advance:
        for i, prompt in enumerate(built):
            split = _attribution(model, prompt, notes)
            directs.append(None if split is None else split.heads)
            attention, sources = _attention(model, prompt, n_sources, notes, split)
            clean, changes, effects[i], how = _effects(model, prompt, positions, memory_mib, check=3 if i == 0 else 0)
            if i == 0 and how:
                notes[how], fans_out = None, False
            shown.append(
                ExploredPrompt(
                    prompt.id or f"prompt {i + 1}",
                    _shown_tokens(prompt),
                    tuple(prompt.answers),
                    clean,
                    attention,
                    None if split is None else split.by_token.astype(np.float32),
                    *sources,
                    changes,
                    title=_title(prompt),
                    may_harm=prompt.may_harm,
                    **({} if pictures is None else _picture(model, prompt, pictures[i])),
                )
            )
            advance(1)
    own = _own_ranking(model, built, effects, directs, positions)
    rankings |= {("effects on these prompts" if rankings else own.score): own}
    return Exploration(
        rankings,
        tuple(shown),
        dict(kinds or {}),
        str(positions),
        tuple(notes),
        live=Live(model, tuple(built), positions, AskedAgain(model, fans_out)),
    )


def _with_answers(model: Model, prompt: Prompt) -> Prompt:
    """At most four answers; of a prompt with fewer than two, the most probable next tokens."""
    if len(prompt.answers) >= 2:
        first = list(prompt.answers)[:_MOST_ANSWERS]
        gold = prompt.gold if prompt.gold in first else None
        return replace(prompt, answers={word: prompt.answers[word] for word in first}, gold=gold)
    likely = model.final_logits([prompt])[0].topk(3).indices.tolist()
    found = dict(prompt.answers)
    taken = {token for tokens in found.values() for token in tokens}
    for token in likely:
        if len(found) < 2 and token not in taken:
            text = str(token) if model.tokenizer is None else model.tokenizer.decode([token])
            found[text if text.strip() and text not in found else f"token {token}"] = (token,)
    return replace(prompt, answers=found)


def _metric(prompt: Prompt) -> LogitDifference:
    first, second, *_ = prompt.answers
    return LogitDifference(first, second)


def _attribution(model: Model, prompt: Prompt, notes: dict[str, None]) -> Any:
    try:
        return attribute(model, prompt, _metric(prompt))
    except (ValueError, UnsupportedAttention) as error:
        notes[f"Direct effects and contributions are left out: {error}"] = None
        return None


def _attention(model: Model, prompt: Prompt, k: int, notes: dict[str, None], split: Any) -> tuple[Any, tuple[Any, Any]]:
    """From the answer's position to every token, and from every token to its strongest sources."""
    try:
        sources = (None, None)
        if k > 0:
            places, weights = attention_sources(model, prompt, k)
            sources = (places.numpy().astype(np.int32), weights.numpy())
        if split is not None:
            return split.attention.astype(np.float32), sources
        n = len(prompt)
        read = attention_log_probs(model, [prompt], [[n - 1]], [[[i] for i in range(n)]])[0]
        return read[:, :, 0].exp().numpy(), sources
    except UnsupportedAttention as error:
        notes[f"Attention is left out: {error}"] = None
        return None, (None, None)


def _effects(model: Model, prompt: Prompt, positions: Positions, memory_mib: float, check: int) -> Any:
    """Clean probabilities, their changes [layer, head, scale, answer], the total effect [layer, head], what to note."""
    branches = [
        Branch((HeadEdit(layer, head, "scale", scale),))
        for layer in range(model.n_layers)
        for head in range(model.n_heads)
        for scale in SCALES
    ]
    metrics = [_metric(prompt), *map(Probability, prompt.answers)]
    difference, *held = scan_readings(
        model, [prompt], branches, metrics, positions=positions, check=check, memory_mib=memory_mib
    )
    values = np.stack([h.values[0] for h in held], axis=-1)  # [branch, answer]
    clean = np.array([h.clean[0] for h in held])
    changes = _logs(values) - _logs(clean)
    shape = (model.n_layers, model.n_heads, len(SCALES))
    drop = difference.drop[0].reshape(shape)[..., SCALES.index(0.0)]
    changes = rearrange(changes, "(layer head scale) answer -> layer head scale answer", layer=shape[0], head=shape[1])
    return _whole(clean), changes.astype(np.float32), drop, "" if difference.how == "fan-out" else difference.check


def _whole(held: np.ndarray) -> np.ndarray:
    """The probabilities of the answers, and last of everything else."""
    rest = np.clip(1.0 - held.sum(-1, keepdims=True), 0.0, 1.0)
    return np.concatenate([held, rest], axis=-1).astype(np.float32)


def _logs(held: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(_whole(held).astype(np.float64), _LEAST_SHARE))


def _shown_tokens(prompt: Prompt) -> tuple[str, ...]:
    """The tokens' texts, each with the space before it in the prompt's text that a tokenizer of whole words leaves out;
    of a prompt that is token ids alone, these, apart from each other."""
    tokens = prompt.tokens or tuple(map(str, prompt.token_ids))
    if all(token.isdigit() for token in tokens):
        return tuple(f" {token}" for token in tokens)
    shown, end = [], 0
    for token in tokens:
        at = prompt.text.find(token, end) if token else -1
        between = prompt.text[end:at] if at > end > 0 else ""
        shown.append(f" {token}" if between and between.isspace() else token)
        end = at + len(token) if at >= 0 else end
    return tuple(shown)


def _title(prompt: Prompt) -> str:
    """What the user says, on a line."""
    tokens = _shown_tokens(prompt)
    text = "".join(tokens[p] for p in prompt.spans.get("text", ()) if p < len(tokens)) or prompt.text
    text = " ".join(text.split())
    return text if len(text) <= 90 else f"{text[:40]} … {text[-45:]}"


def _picture(model: Model, prompt: Prompt, given: ImageLike) -> dict[str, Any]:
    """The part of the picture that the patches cover, as a PNG file, and where its patches are among the tokens."""
    picture = read_image(given)
    if prompt.image is None or image_sha256(picture) != prompt.image.sha256:
        raise ValueError(
            f"prompt {prompt.id!r}: the picture given ({picture.width} x {picture.height}) is not the one that the "
            "prompt was built with: its pixels differ, or the prompt has none."
        )
    picture = picture.crop(tuple(round(edge) for edge in covered(model, prompt)))
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    encoded = base64.b64encode(file.getvalue()).decode()
    return {"picture": encoded, "grid": prompt.image.grid, "first_patch": prompt.span("image")[0]}


def _own_ranking(
    model: Model, prompts: Sequence[Prompt], effects: np.ndarray, directs: Sequence[Any], positions: Positions
) -> HeadRanking:
    """Heads by their effects on these prompts."""
    pairs = {tuple(list(p.answers)[:2]) for p in prompts}
    first, second = next(iter(pairs)) if len(pairs) == 1 else ("the likelier answer", "the other")
    of = f"{first!r} against {second!r}" if len(pairs) == 1 else f"{first} against {second}"
    where = "at the answer's position" if positions == "answer" else "at the positions that were scanned"
    measures = {"total_effect": effects}
    described = {
        "total_effect": Measure(
            "total_effect",
            f"What the head adds to {of} through every path: the log odds less those with its output zeroed {where}.",
            "logits",
        )
    }
    if all(found is not None for found in directs):
        measures["direct_effect"] = np.stack(directs).astype(np.float32)
        described["direct_effect"] = Measure("direct_effect", f"What the head itself writes toward {of}.", "logits")
    provenance = {
        "title": f"The heads of {model.name} on {len(prompts)} prompts",
        "model": model.name,
        "created": now(),
        "positions": str(positions),
        "scales": list(SCALES),
        **kinds_beside(model),
    }
    ids = tuple(p.id or f"prompt {i + 1}" for i, p in enumerate(prompts))
    ids = ids if len(set(ids)) == len(ids) else tuple(f"{name} ({i + 1})" for i, name in enumerate(ids))
    return HeadRanking("total_effect", measures, ids, described, provenance)

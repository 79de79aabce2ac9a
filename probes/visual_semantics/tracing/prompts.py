"""Edited pairs as prompts of a model: before, after, and the question on an unrelated picture; and their traces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.models import Model
from interp.prompts import Prompt
from interp.reading import Probability, metric_values
from interp.scans import Logit, trace
from interp.scans.regions import each_position
from interp.scans.traces import Measured, Trace
from probes.pairs import PicturePair, picture_pair
from probes.scenes import EditedPair
from probes.visual_semantics.questions import Asked, VisualExamples, visual_examples
from probes.visual_semantics.tracing.roles import EDITED, OTHERS, ROLES, roles_of

METRICS = (Probability("gold"), Logit("gold"))


@dataclass(frozen=True)
class Twins:
    """The prompts of one pair: of the pictures before and after the edit, and of an unrelated one."""

    before: Prompt
    after: Prompt
    unrelated: Prompt | None


class PairPrompts:
    """Prompts of pairs, built when they are needed, and their traces."""

    def __init__(self, model: Model, pairs: Sequence[PicturePair], spans, instruction: str | None, seed: int) -> None:
        self.model, self.spans, self.pairs = model, spans, list(pairs)
        by_name = {pair.name: pair for pair in pairs}
        sources = _others(self.pairs, seed)
        asked = [in_words(pair) for pair in pairs]
        pictures = (
            lambda q: by_name[q.id].before,
            lambda q: by_name[q.id].after,
            lambda q: by_name[sources.get(q.id, q.id)].before,
        )
        self._examples: list[VisualExamples] = [visual_examples(model, asked, p, instruction) for p in pictures]
        self.left_out = self._examples[0].left_out
        self._index = {q.id: i for i, q in enumerate(self._examples[0].asked)}
        self._sources = sources

    def twins(self, pair: PicturePair) -> Twins:
        before, after, unrelated = (examples[self._index[pair.name]].prompt for examples in self._examples)
        fits = pair.name in self._sources and unrelated.span("image") == after.span("image")
        return Twins(before, after, unrelated if fits and len(unrelated) == len(after) else None)

    def all_of(self, pairs: Sequence[PicturePair]) -> Iterator[Prompt]:
        """Every prompt of the pairs, one after the other."""
        for pair in pairs:
            twins = self.twins(pair)
            yield from (prompt for prompt in (twins.before, twins.after, twins.unrelated) if prompt is not None)

    def screen(self, batch: Sequence[PicturePair]) -> dict[str, np.ndarray]:
        """P(gold) on both pictures, and whether the most probable token begins the right answer to each."""
        twins = [self.twins(pair) for pair in batch]
        found: dict[str, list[float]] = {"p_before": [], "p_after": [], "right_before": [], "right_after": []}
        for when, answers in (("before", [p.answer_before for p in batch]), ("after", [p.answer_after for p in batch])):
            prompts = [getattr(t, when) for t in twins]
            for prompt, answer, logits in zip(prompts, answers, self.model.final_logits(prompts), strict=True):
                found[f"p_{when}"].append(metric_values(Probability("gold"), logits[None], prompt).item())
                right = answer in prompt.answers and int(logits.argmax()) in prompt.answers[answer]
                found[f"right_{when}"].append(right)
        return {name: np.array(values) for name, values in found.items()}

    def trace(self, batch: Sequence[PicturePair], *, regions: Sequence[str] = ROLES, **options: Any) -> Trace:
        twins = [self.twins(pair) for pair in batch]
        roles = [self._roles(pair, t.after) for pair, t in zip(batch, twins, strict=True)]
        return trace(
            self.model,
            [t.before for t in twins],
            [t.after for t in twins],
            regions={role: [r[role] for r in roles] for role in regions},
            metric=METRICS,
            **options,
        )

    def control(self, batch: Sequence[PicturePair], like: Trace, **options: Any) -> Trace:
        """As :meth:`trace`, with states of unrelated pictures; NaN for pairs that have none of their size."""
        twins = [self.twins(pair) for pair in batch]
        known = [i for i, t in enumerate(twins) if t.unrelated is not None]
        measured = [
            Measured(m.name, m.unit, np.full_like(m.values, np.nan), np.full_like(m.clean, np.nan), m.corrupt)
            for m in like.measured
        ]
        if known:
            roles = [self._roles(batch[i], twins[i].after) for i in known]
            found = trace(
                self.model,
                [twins[i].unrelated for i in known],
                [twins[i].after for i in known],
                regions={role: [r[role] for r in roles] for role in ROLES},
                metric=METRICS,
                check=0,
                **options,
            )
            for of, new in zip(measured, found.measured, strict=True):
                of.values[known], of.clean[known] = new.values, new.clean
        axes = {name: getattr(like, name) for name in ("parts", "layers", "regions", "n_positions", "example_ids")}
        return Trace(tuple(measured), **axes, window=like.window, how=like.how, check=like.check, seconds=0.0)

    def by_token(self, pair: PicturePair, **options: Any) -> Trace:
        """Every text position apart, and the edited and the other patches."""
        twins = self.twins(pair)
        regions = each_position([twins.before], [twins.after])
        roles = self._roles(pair, twins.after)
        if roles[EDITED]:
            del regions["image"]
            regions = {EDITED: [roles[EDITED]], OTHERS: [roles[OTHERS]], **regions}
        return trace(self.model, [twins.before], [twins.after], regions=regions, metric=METRICS, **options)

    def _roles(self, pair: PicturePair, prompt: Prompt) -> dict[str, tuple[int, ...]]:
        return roles_of(self.model, prompt, pair.question, self.spans[pair.name], pair.mask)


def _others(pairs: Sequence[PicturePair], seed: int) -> dict[str, str]:
    """For each pair another one, of whose picture to take states: never its own picture, before or after."""
    rng = np.random.default_rng(seed)
    by_size: dict[tuple[int, int], list[PicturePair]] = {}
    for pair in pairs:
        by_size.setdefault(pair.before.size, []).append(pair)
    chosen = {}
    for pair in pairs:
        own = [np.asarray(picture) for picture in (pair.before, pair.after)]
        others = by_size[pair.before.size]
        for i in rng.permutation(len(others)):
            if not any(np.array_equal(np.asarray(others[i].before), picture) for picture in own):
                chosen[pair.name] = others[i].name
                break
    return chosen


def in_words(pair: PicturePair) -> Asked:
    """The question of a pair about the picture before its edit."""
    kind = "yes_no" if {pair.answer_before.casefold(), pair.answer_after.casefold()} == {"yes", "no"} else "open"
    return Asked(
        id=pair.name,
        question_text=pair.question,
        gold=pair.answer_before,
        options=(pair.answer_before, pair.answer_after),
        level=pair.level,
        kind=kind,
        image_id=pair.name,
    )


def named_pairs(pairs: Sequence[PicturePair | EditedPair]) -> list[PicturePair]:
    """Pairs of pictures with names, drawn scenes named by their number. ``ValueError`` for none, and for a name given
    twice."""
    if not pairs:
        raise ValueError("no pairs were given; give at least one.")
    named = [p if isinstance(p, PicturePair) else picture_pair(p, f"{i:04d}") for i, p in enumerate(pairs)]
    names = [p.name for p in named]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} is given to two pairs; expected names that differ.")
    return named

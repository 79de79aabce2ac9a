"""V-SEAM's modulation of heads, on visual questions: does it help answers about pictures that it has not seen?

See :mod:`probes.modulation`, which does the work for text and vision models alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from interp.door import public
from interp.models import Model
from interp.prompts import Prompt
from interp.rankings import HeadRanking
from interp.records import Kept, keeps_work
from probes.modulation import (
    ALL,
    HeadScores,
    Item,
    ItemSet,
    Modulation,
    ModulationSettings,
    modulate_items,
    scores_of_ranking,
)
from probes.visual_semantics.heads import VisualHeads
from probes.visual_semantics.questions import Asked, VisualExample, asked_of, describe_asked
from probes.visual_semantics.questions.asked import YES

Rankings = VisualHeads | HeadRanking | Mapping[str, HeadRanking]


@public
@keeps_work
def modulate(
    model: Model,
    rankings: Rankings,
    fit_examples: Sequence[VisualExample],
    validation_examples: Sequence[VisualExample],
    tests: Mapping[str, Sequence[VisualExample]],
    *,
    each_level: bool = False,
    settings: ModulationSettings | None = None,
    batch_size: int = 16,
    memory_mib: float = 1024.0,
    say: Callable[[str], None] | None = None,
    keep: Kept = None,
) -> Modulation:
    """Turn heads up and down by a ranking of visual heads, or by search; choose on validation, read once on ``tests``.

    Args:
        model: a loaded model.
        rankings: :class:`~probes.visual_semantics.heads.heads.VisualHeads` (D for the rule, S+ and S- for the top k),
            one ranking for all questions, or one for each level.
        fit_examples: what factors are searched on; those that made the ranking may be among these alone.
        validation_examples: what decides between the candidates.
        tests: sets that the choice is read on once, by name: ``{"test": ..., "out of distribution": ...}``.
        each_level: a modulation of its own for each level, as the paper has one for each concept; by default one for
            all questions, which is what can be deployed.
        settings: what is tried, and how it is chosen; by default :class:`probes.modulation.Settings` as it is.
        batch_size: questions in a pass and in a part file.
        memory_mib: for the states that a search keeps.
        say: gets a sentence before each long step.
        keep: where the work, the report and the edit are kept, if anywhere.

    Returns: candidates, the choice, and readings of the test sets; accuracies and probabilities in shares.

    What is tried, and the controls: :func:`probes.modulation.modulate_items`.

    Raises:
        ValueError: a question, or its picture, that stands in two sets, one of validation or test that made the
            ranking, and as :func:`probes.modulation.modulate_items`.

    Cost: the passes of :func:`probes.modulation.modulate_items`.
    Misleads: the best of many candidates on validation is too good there; only ``tests``, read once, say what it does.
    Source: V-SEAM, arXiv 2509.14837; the searches and controls are ours.

    >>> modulation = modulate(model, heads, train, validation, {"test": test, "ood": ood}, keep="reports/modulation")
    >>> print(*modulation.statement(), sep="\\n")
    >>> modulation.edit.export(model, "modulated", measures=modulation.measures())
    """
    levels = tuple(dict.fromkeys(q.level for q in asked_of(validation_examples)))
    return modulate_items(
        model,
        scores_of(rankings, levels if each_level else None),
        visual_items(fit_examples),
        visual_items(validation_examples),
        {name: visual_items(examples) for name, examples in tests.items()},
        settings=settings,
        title="Modulation of visual heads",
        batch_size=batch_size,
        memory_mib=memory_mib,
        say=say,
        keep=keep,
    )


def scores_of(rankings: Rankings, levels: Sequence[str] | None = None) -> dict[str, HeadScores]:
    """Scores of heads by scope: of all questions, or of each of ``levels``.

    Raises ``ValueError`` for rankings of levels where one for all is wanted, and for a level without a ranking."""
    if isinstance(rankings, VisualHeads):
        return {level or ALL: scores_of_heads(rankings, level) for level in (levels or [None])}
    if isinstance(rankings, HeadRanking):
        scores = scores_of_ranking(rankings)
        return dict.fromkeys(levels or [ALL], scores)
    if levels is None:
        raise ValueError(
            f"rankings of {', '.join(map(repr, rankings))} were given for one modulation of all questions. Give one "
            "ranking, or each_level=True."
        )
    if missing := [level for level in levels if level not in rankings]:
        raise ValueError(f"level {missing[0]!r} has no ranking; given are those of {list(rankings)}.")
    return {level: scores_of_ranking(rankings[level]) for level in levels}


def scores_of_heads(heads: VisualHeads, level: str | None = None) -> HeadScores:
    """D, S+ and S- of the questions of a level (None: of all). S+ is 0 where no question is answered correctly, S-
    where none is answered wrongly."""
    signed, positive, negative = (heads.mean_score(s, level) for s in ("signed_drop", "s_plus", "s_minus"))
    about = {
        "ranking": heads.provenance.get("run_id"),
        "measure": "D, S+, S-",
        "level": level,
        "weights_sha256": heads.provenance["model"].get("weights_sha256"),
    }
    made_on = frozenset(mark for q in heads.asked for mark in _marks(q))
    name = f"visual heads{f', {level} questions' if level else ''}"
    return HeadScores(name, signed, np.nan_to_num(positive), np.nan_to_num(negative), made_on, about)


def visual_items(examples: Sequence[VisualExample]) -> ItemSet:
    """Visual questions as items; prompts with pictures are still built when they are read. What was left out of them,
    and why, goes into what is described."""
    asked = asked_of(examples)
    items = tuple(
        Item(
            id=q.id,
            gold=q.gold,
            options=q.options,
            level=q.level,
            kind=q.kind,
            group=q.image_id,
            yes=YES if q.kind == "yes_no" else "",
            marks=_marks(q),
        )
        for q in asked
    )
    described = describe_asked(asked)
    if left_out := getattr(examples, "left_out", {}):
        described["left_out"] = dict(left_out)
    return ItemSet(items, _Prompts(examples), described)


def _marks(question: Asked) -> tuple[str, ...]:
    """Questions about one picture stand together: by its pixels (or its scene), else by its name."""
    if question.image_sha256:
        return (f"picture {question.image_sha256}",)
    return (question.id, *([f"picture {question.image_id}"] if question.image_id else []))


class _Prompts(Sequence[Prompt]):
    """The prompts of examples, kept once built as long as their pictures take little."""

    def __init__(self, examples: Sequence[VisualExample], most_mib: float = 256.0) -> None:
        self._examples, self._left_bytes = examples, most_mib * 2**20
        self._kept: dict[int, Prompt] = {}

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index in self._kept:
            return self._kept[index]
        prompt = self._examples[index].prompt
        inputs = prompt.image.inputs.values() if prompt.image is not None else ()
        size = sum(value.numel() * value.element_size() for value in inputs)
        if size <= self._left_bytes:
            self._left_bytes -= size
            self._kept[index] = prompt
        return prompt

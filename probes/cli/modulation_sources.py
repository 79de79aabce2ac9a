"""What a modulation is fitted on, chosen on and tested on, from names of data: scenes, a benchmark, yes/no questions.

    scenes:hard:100      100 scenes each of train (to fit on), validation, test and ood
    scenes:folder        scenes or edited photographs in a folder, divided by picture (a photograph with its twins)
    gqa:questions.json   a benchmark, divided by picture (or pope:, cocoqa:, vqav2:, naturalbench:)
    questions.csv        yes/no questions, divided by passage and pair (or builtin)

Questions that made the ranking, and those about the same pictures or passages, are for fitting; none is tested on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.models import Model
from interp.rankings import HeadRanking
from interp.reports import load_result
from probes.modulation import HeadScores, ItemSet, question_items
from probes.pairs import RECORDS, UsedPairs
from probes.questions import Instruction, Question, apart_from, load_questions, sample_questions, split_questions
from probes.rows import AS_IT_IS, Reading, stem_of
from probes.visual_semantics.heads import VisualHeads
from probes.visual_semantics.modulation import visual_items
from probes.visual_semantics.questions import FORMATS, VisualSource, read_source

FIT, VALIDATION, TEST, OOD = "fit", "validation", "test", "out of distribution"
_SPLITS = {FIT: "train", VALIDATION: "validation", TEST: "test", OOD: "ood"}
_SHARES = {FIT: 0.3, VALIDATION: 0.3, TEST: 0.4}  # of what did not make the ranking


@dataclass(frozen=True)
class Material:
    """Data that were read, still without a model. ``parts``: a source for each set, or one, under "", that is divided
    by ``seed``. ``more``: further test sets."""

    parts: Mapping[str, VisualSource | Sequence[Question]]
    more: Mapping[str, VisualSource | Sequence[Question]]
    seed: int = 0
    limit: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_visual(self) -> bool:
        return isinstance(next(iter(self.parts.values())), VisualSource)

    def __str__(self) -> str:
        given = [*self.parts.values(), *self.more.values()]
        return "; ".join(str(of) if self.is_visual else f"{len(of)} yes/no questions" for of in given)

    def __len__(self) -> int:
        """Questions, or scenes, in all."""
        return sum(map(_size, [*self.parts.values(), *self.more.values()]))

    def origin(self) -> dict[str, Any]:
        """For provenance: the same on another machine."""
        head: dict[str, Any] = {"seed": self.seed, "limit": self.limit}
        return head | {
            name or "data": of.origin() if isinstance(of, VisualSource) else len(of)
            for name, of in [*self.parts.items(), *self.more.items()]
        }

    def sets(
        self, model: Model, scores: Sequence[HeadScores], instruction: str | None = None, cases: str = "both"
    ) -> dict[str, ItemSet]:
        """The questions as items of a model: "fit", "validation", and the test sets.

        Raises ``ValueError`` where all questions made the ranking, or too few are left for every set."""
        made = frozenset(mark for s in scores for mark in s.made_on)
        if not self.is_visual:
            asked = Instruction() if instruction is None else Instruction(instruction)
            parts = _divided_questions(self.parts[""], made, self.seed) | dict(self.more)
            return {name: question_items(model, self._some(part), asked) for name, part in parts.items()}
        found, more = (
            {name: visual_items(of.examples(model, instruction, cases)) for name, of in given.items()}
            for given in (self.parts, self.more)
        )
        return (_divided_items(found[""], made, self.seed, self.limit) if "" in found else found) | more

    def _some(self, questions: Sequence[Question]) -> Sequence[Question]:
        return questions if self.limit is None else sample_questions(questions, self.limit, self.seed)


def _size(of: VisualSource | Sequence[Question]) -> int:
    if not isinstance(of, VisualSource):
        return len(of)
    if isinstance(of.content, Path):
        return len((of.content / RECORDS).read_text(encoding="utf-8").splitlines())
    return 2 * len(of.content.pairs) if isinstance(of.content, UsedPairs) else len(of.content)


def read_material(
    data: str,
    more: Sequence[str] = (),
    *,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
    missing: str = "refuse",
    levels: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    decisions: str | Path | None = None,
    max_leak: float = 0.0,
    reading: Reading = AS_IT_IS,
) -> Material:
    """Read what a name stands for (see the module). ``more``: names of further test sets, as
    :func:`probes.visual_semantics.questions.sources.read_source` takes them (scenes:test:hard:50), or files of yes/no
    questions. ``limit``: at most so many questions of each set. ``decisions`` and ``max_leak``: of edited photographs
    in ``data``; those of ``more`` have the same ``max_leak``. ``reading``: how the files are read; a benchmark's format
    is in its name.

    Raises ``ValueError`` and ``FileNotFoundError`` as :func:`probes.visual_semantics.questions.sources.read_source` and
    :func:`probes.questions.load_questions`."""
    kind = data.partition(":")[0]
    if reading.format is not None and (kind == "scenes" or kind in FORMATS):
        raise ValueError(f"data {data!r} says its format itself; leave out the other, {reading.format!r}.")
    options = {"images": images, "annotations": annotations, "missing": missing, "levels": levels, "seed": seed}
    options |= {"max_leak": max_leak, "columns": reading.columns}
    if kind == "scenes":
        _, _, rest = data.partition(":")
        of_tests = any(not name.startswith("scenes:") for name in more)  # then images are theirs
        if reading:
            raise ValueError(f"data {data!r} is no file with columns; leave them out.")
        own = {**options, "decisions": decisions} | ({"images": None, "annotations": None} if of_tests else {})
        if rest and Path(rest).expanduser().is_dir():
            source, further = read_source(data, **own), {name: _further(name, limit, options) for name in more}
            return Material({"": source}, further, seed, limit, _warnings({"": source, **further}))
        if len(rest.split(":")) != 2:
            raise ValueError(
                f"data {data!r}; expected scenes:DIFFICULTY:N, such as scenes:hard:100: N scenes each of train, "
                "validation, test and ood; or scenes:FOLDER, a folder that is there."
            )
        parts = {name: read_source(f"scenes:{split}:{rest}", limit=limit, **own) for name, split in _SPLITS.items()}
        further = {name: _further(name, limit, options) for name in more}
        return Material(parts, further, seed, limit, _warnings(further))
    if kind in FORMATS and ":" in data:
        source = read_source(data, decisions=decisions, **options)
        further = {name: _further(name, limit, options) for name in more}
        return Material({"": source}, further, seed, limit, _warnings({"": source, **further}))
    if images is not None or levels or decisions is not None:
        raise ValueError(
            f"data {data!r} are yes/no questions without pictures; leave out images, levels and decisions."
        )
    first, *others = (
        load_questions(name, seed=seed, format=reading.of(name).format, columns=reading.of(name).columns)
        for name in (data, *more)
    )
    return Material({"": first}, dict(zip(map(stem_of, more), others, strict=True)), seed, limit)


def _warnings(sources: Mapping[str, VisualSource]) -> tuple[str, ...]:
    return tuple(warning for of in sources.values() for warning in of.warnings)


def _further(name: str, limit: int | None, options: Mapping[str, Any]) -> VisualSource:
    """A test set by its own name; the image folder is for those that need one."""
    if name.startswith("scenes:"):
        options = {**options, "images": None, "annotations": None, "columns": None}
    return read_source(name, limit=limit, **options)


def read_ranking(folder: str | Path) -> VisualHeads | HeadRanking:
    """A saved ranking: of `interp rank visual-heads`, or of any other `interp rank`.

    Raises as :func:`interp.load_result`, and ``ValueError`` for the result of another study."""
    found = load_result(folder)
    if not isinstance(found, HeadRanking | VisualHeads):
        raise ValueError(f"{folder} holds a {type(found).__name__}, not a ranking of heads. Make one: `interp rank`.")
    return found


def _divided_questions(questions: Sequence[Question], made: frozenset[str], seed: int) -> dict[str, list[Question]]:
    left = apart_from(questions, made)
    kept = {q.id for q in left}
    ranked = [q for q in questions if q.id not in kept]
    if not left:
        raise ValueError(
            f"all {len(questions)} questions made the ranking, or stand beside one that did. A modulation is chosen "
            "and tested on others: give other questions, or rank on fewer (--limit)."
        )
    parts = split_questions(left, _SHARES if not ranked else {VALIDATION: 0.4, TEST: 0.6}, seed)
    return {FIT: [*ranked, *parts.get(FIT, ())], VALIDATION: parts[VALIDATION], TEST: parts[TEST]}


def _divided_items(given: ItemSet, made: frozenset[str], seed: int, limit: int | None) -> dict[str, ItemSet]:
    """By group (picture); groups with an item that made the ranking go to "fit"."""
    groups = [item.group or item.id for item in given.items]
    ranked = {g for g, item in zip(groups, given.items, strict=True) if {*item.marks, item.id} & made}
    others = sorted(set(groups) - ranked)
    shares = _SHARES if not ranked else {VALIDATION: 0.4, TEST: 0.6}
    if len(others) < len(shares):
        raise ValueError(
            f"{len(set(groups))} pictures were given and {len(ranked)} made the ranking: {len(others)} are left for "
            f"{', '.join(shares)}. Give more, or rank on fewer (--limit)."
        )
    rng = np.random.default_rng((seed, 13))
    order = rng.permutation(len(others))
    ends = np.round(np.cumsum([0.0, *shares.values()]) * len(others)).astype(int)
    of_group = dict.fromkeys(ranked, FIT)
    for name, low, high in zip(shares, ends, ends[1:], strict=False):
        of_group |= {others[i]: name for i in order[low:high]}
    parts = {}
    for name in (FIT, VALIDATION, TEST):
        places = np.array([i for i, g in enumerate(groups) if of_group[g] == name])
        if limit is not None and len(places) > limit:
            places = np.sort(rng.permutation(places)[:limit])
        parts[name] = given.at(places)
    return parts

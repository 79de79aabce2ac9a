"""The passes behind a study of modulation: fit, choose on validation, read the test sets; each kept as it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp.door.brief import brief
from interp.fitting import Factors, random_factors
from interp.records import count_left, hash_json
from probes.modulation.candidates import HeadScores, ModulationSettings, planned, searched
from probes.modulation.effects import ALL, OFFSET, RANDOM, UNMODULATED, ReadSet, paired
from probes.modulation.offsets import Offsets, fit_offsets, offsets_of
from probes.modulation.passes import read_answers
from probes.modulation.readings import Arrays, ItemSet, Readings
from probes.modulation.result import FAMILIES, Candidate
from probes.studies import Study

_TIMED = 2  # questions that a time estimate is measured on


@dataclass(frozen=True, eq=False)
class Scope:
    """One modulation, of all questions or of a level's: what was tried, the best of each family, the family that was
    chosen, and the constants of the rival."""

    name: str
    candidates: tuple[Candidate, ...]
    validation: pd.DataFrame
    best: Mapping[str, Candidate]
    chosen: str
    offsets: Offsets
    history: list[dict[str, Any]]

    __repr__ = brief

    @property
    def factors(self) -> Factors:
        """The chosen ones."""
        return self.best[self.chosen].factors


@dataclass(frozen=True, eq=False)
class ModulationWork:
    """Reads and fits with the model of a study, and keeps what is done as its steps. ``width``: most options of any
    question. ``say`` gets a sentence before each long step."""

    study: Study
    settings: ModulationSettings
    width: int
    memory_mib: float
    say: Callable[[str], None] | None

    __repr__ = brief

    def scope(self, number: int, name: str, scores: HeadScores, sets: Mapping[str, ItemSet]) -> Scope:
        """Fit and choose, for all questions or for those of a level."""
        fit, validation = (sets[s] if name == ALL else sets[s].of_level(name) for s in ("fit", "validation"))
        by_search, history = searched(self.study, number, name, scores, fit, self.settings, self.memory_mib, self.say)
        candidates = (*planned(name, scores, self.settings), *by_search)
        nothing = np.ones_like(scores.signed)
        of_fit = self.read(f"fit-{number}", fit, [nothing])
        read = self.read(f"validation-{number}", validation, [nothing, *(c.factors for c in candidates)])
        frame = validation_frame(candidates, read, self.settings.choose_by)
        best = {c.family: c for c, is_best in zip(candidates, frame["best_of_family"], strict=True) if is_best}
        chosen = frame.loc[frame["chosen"], "family"].iloc[0]
        offsets = fit_offsets(Readings.concatenated([of_fit, read.columns([0])]))
        return Scope(name, candidates, frame, best, chosen, offsets, history)

    def tested(self, number: int, name: str, given: ItemSet, scopes: Sequence[Scope]) -> ReadSet:
        """One test set, each question under its scope's tables: unmodulated, best of each family, random heads."""
        families = [family for family in FAMILIES if all(family in scope.best for scope in scopes)]
        drawn = [random_factors(scope.factors, self.settings.n_random, self.settings.seed) for scope in scopes]
        n_random = min(map(len, drawn))
        conditions = [UNMODULATED, *families, *(f"{RANDOM} {i + 1}" for i in range(n_random))]
        parts, order, chosen = [], [], np.zeros(len(given), dtype=np.int64)
        has_offsets = all(scope.offsets for scope in scopes)
        for i, (scope, random) in enumerate(zip(scopes, drawn, strict=True)):
            places = [j for j, item in enumerate(given.items) if scope.name in (ALL, item.level)]
            tables = [np.ones_like(scope.factors), *(scope.best[f].factors for f in families), *random[:n_random]]
            read = self.read(f"test-{number}-{i}", given.at(places), tables)
            if has_offsets:
                offset = offsets_of(read.items, scope.offsets, self.width)
                read = read.joined(read.columns([0]).with_offsets(offset))
            chosen[places] = conditions.index(scope.chosen)
            parts.append(read)
            order += places
        whole = Readings.concatenated(parts).rows(np.argsort(order))
        return ReadSet(name, whole, (*conditions, *([OFFSET] if has_offsets else [])), chosen)

    def read(self, step: str, given: ItemSet, tables: Sequence[Factors]) -> Readings:
        """Every item under every table, kept batch by batch."""
        left = count_left(len(given), self.study.step(step), self.study.batch_size)
        if self.say is not None and left:
            first, began = given.at(range(min(_TIMED, len(given)))), time.perf_counter()
            read_answers(self.study.model, first, tables[:1], self.width)
            minutes = (time.perf_counter() - began) / len(first) * left * len(tables) / 60
            self.say(f"{step}: {left} questions, {len(tables)} tables of factors: about {minutes:.1f} min")

        def score(batch: range) -> Arrays:
            return read_answers(self.study.model, given.at(batch), tables, self.width)

        found = self.study.run(range(len(given)), score, step, tables=hash_json([table.tolist() for table in tables]))
        return Readings(given.items, **found)


def validation_frame(candidates: Sequence[Candidate], read: Readings, choose_by: str) -> pd.DataFrame:
    """One row for each candidate: its changes on validation (``read``: unmodulated, then each), which is the best of
    its family, and which is chosen: the best of all by ``choose_by``, ties by the gold answer's probability."""
    groups = np.array([item.group or item.id for item in read.items])
    rows = [candidate.described() | {"n": len(read.items)} for candidate in candidates]
    for measure in ("accuracy", "gold_prob"):
        values = getattr(read, measure)
        changes = paired(values[:, 1:] - values[:, :1], groups, measure != "gold_prob")
        for row, mean, change in zip(rows, values[:, 1:].mean(0), changes, strict=True):
            row |= {measure: float(mean)} | change.columns(f"{measure}_change")
    frame = pd.DataFrame(rows)
    order = frame.sort_values([choose_by, "gold_prob"], ascending=False, kind="stable").index
    best = {frame.loc[i, "family"]: i for i in reversed(order)}
    frame = frame.assign(best_of_family=frame.index.isin(best.values()), chosen=frame.index == order[0])
    return frame[[*frame.columns.drop("note"), "note"]]


def require_apart(sets: Mapping[str, ItemSet], made_scores: set[str] | frozenset[str]) -> None:
    """Raise ``ValueError`` listing the items that stand in "fit" or "validation" and in another set, or in another set
    than "fit" and among those that made the scores: by picture, passage, pair or text (``Item.marks``), or by id where
    an item has no marks."""
    found, owner = [], dict[str, str]()
    for name, given in sets.items():
        of_set: set[str] = set()
        for item in given.items:
            known = set(item.marks) or {item.id}
            others = {owner[mark] for mark in known if mark in owner}
            if name != "fit" and (known | {item.id}) & made_scores:
                others.add("what made the scores")
            if others:
                found.append(f"{item.id} ({name}; {', '.join(sorted(others))})")
            of_set |= known
        if name in ("fit", "validation"):  # two test sets may share questions: nothing is chosen on either
            owner |= {mark: name for mark in of_set if mark not in owner}
    if found:
        listed = "; ".join(found[:20])
        raise ValueError(
            f"{len(found)} questions stand, themselves or with their picture, passage or twin, in two sets: {listed}"
            f"{' ...' if len(found) > 20 else ''}. A modulation that was fitted or chosen on a question looks better "
            "on it: give sets that share nothing."
        )

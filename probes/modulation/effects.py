"""What a modulation does to answers, question by question: beside the unmodulated model, random heads, constants.

Everything here is arithmetic on readings; questions of one picture (passage, pair) are drawn, and flipped, together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Float, Int

from interp.door.brief import brief
from interp.statistics import UNKNOWN, Claim, Estimate, group_sums, mean_estimate, paired_share_change, sign_flip_p
from probes.heads import permutation_p
from probes.modulation.readings import Readings

UNMODULATED, OFFSET, RANDOM = "unmodulated", "constant offset", "random heads"
MEASURES = {
    "accuracy": "accuracy (most probable token of the whole vocabulary)",
    "gold_prob": "probability of the gold answer's first token",
    "option_accuracy": "accuracy among the options",
    "says_yes": "share of yes/no questions answered yes",
}
ALL = "all"
TOO_FEW = "too few questions"


@dataclass(frozen=True, eq=False)
class ReadSet:
    """One set of questions read under every condition.

    ``conditions`` name the readings' columns: "unmodulated" first, the best candidate of each family, random heads
    ("random heads 1" ...), "constant offset". ``chosen``: the column of each question's chosen modulation.
    """

    name: str
    readings: Readings
    conditions: tuple[str, ...]
    chosen: Int[np.ndarray, " example"]

    __repr__ = brief

    @cached_property
    def groups(self) -> np.ndarray:
        """Of each question: what is drawn as one."""
        return np.array([item.group or item.id for item in self.readings.items])

    @cached_property
    def _values(self) -> dict[str, Float[np.ndarray, "example condition"]]:
        return {measure: getattr(self.readings, measure) for measure in MEASURES}

    def values(self, measure: str) -> Float[np.ndarray, "example condition"]:
        return self._values[measure]

    def after(self, measure: str) -> Float[np.ndarray, " example"]:
        """With the chosen modulation."""
        return np.take_along_axis(self.values(measure), self.chosen[:, None], 1)[:, 0]

    @property
    def random(self) -> list[int]:
        """The columns of random heads."""
        return [i for i, name in enumerate(self.conditions) if name.startswith(f"{RANDOM} ")]

    def parts(self) -> list[tuple[str, str, np.ndarray]]:
        """(level, kind, which questions): all, each level, and within these each kind."""
        level = np.array([item.level or ALL for item in self.readings.items])
        kind = np.array([item.kind for item in self.readings.items])
        levels = list(dict.fromkeys(level))
        found = []
        for name in [*([ALL] if len(levels) > 1 and ALL not in levels else []), *levels]:
            of_level = (level == name) | (name == ALL)
            kinds = list(dict.fromkeys(kind[of_level]))
            for of in ["both", *kinds] if len(kinds) > 1 else kinds:
                found.append((name, of, of_level & ((kind == of) | (of == "both"))))
        return found


def effects_frame(tests: Sequence[ReadSet]) -> pd.DataFrame:
    """One row for each set, level, kind of question and measure, of the chosen modulation.

    ``before``, ``after``; ``change`` with its paired 95 % interval and ``p`` (signs of whole pictures flipped);
    ``p_mcnemar`` (exact, of accuracies; takes questions of one picture for independent). ``random_change``: mean over
    the draws of random heads with the same factors in the same layers, with the 2.5 and 97.5 percentiles of draws;
    ``more_than_random``: the chosen change less that mean, paired; ``p_random``: (1 + c) / (1 + n), c of n draws
    at least as far from the mean of all, either way. ``offset_change``, ``more_than_offset``: the same for constants
    added to the options' logits.
    """
    return pd.DataFrame([row for test in tests for part in test.parts() for row in _effects(test, *part)])


def conditions_frame(tests: Sequence[ReadSet]) -> pd.DataFrame:
    """One row for each set, level, kind and condition (random heads: the mean over draws): accuracy, probability of the
    gold answer, and their changes with paired 95 % intervals."""
    rows = []
    for test in tests:
        columns = {name: [i] for i, name in enumerate(test.conditions) if i not in test.random}
        columns |= {RANDOM: test.random} if test.random else {}
        for level, kind, which in test.parts():
            heads = [{"set": test.name, "level": level, "kind": kind, "condition": name} for name in columns]
            of_part = [head | {"n": int(which.sum())} for head in heads]
            for measure in ("accuracy", "gold_prob"):
                values = test.values(measure)[which]
                now = np.stack([values[:, places].mean(1) for places in columns.values()], 1)
                changes = paired(now - values[:, :1], test.groups[which], measure != "gold_prob")
                for row, mean, change in zip(of_part, now.mean(0), changes, strict=True):
                    row |= {measure: float(mean)} | change.columns(f"{measure}_change")
            rows += of_part
    return pd.DataFrame(rows)


def paired(changes: Float[np.ndarray, "example column"], groups: np.ndarray, is_share: bool) -> list[Estimate]:
    """Each column's mean with its 95 % interval: over groups; of shares with a width also where nothing changes."""
    if is_share:
        return [paired_share_change(column.clip(0), (-column).clip(0), groups) for column in changes.T]
    return [mean_estimate(column, groups) for column in changes.T]


def no_change_p(change: Float[np.ndarray, " example"], groups: np.ndarray) -> float:
    """p of a mean change of zero: the signs of whole groups flipped (Fisher 1935)."""
    return float(sign_flip_p(group_sums(change[:, None], groups))[0])


def mcnemar_p(after: Float[np.ndarray, " example"], before: Float[np.ndarray, " example"]) -> float:
    """Two-sided exact p of "as many became right as became wrong" (McNemar 1947, Psychometrika 12)."""
    gained, lost = int((after > before).sum()), int((after < before).sum())
    return float(scipy.stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _effects(test: ReadSet, level: str, kind: str, which: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for measure in MEASURES:
        known = which & np.isfinite(test.after(measure))
        if known.any() and (measure != "says_yes" or kind != "both"):
            head = {"set": test.name, "level": level, "kind": kind, "measure": measure}
            rows.append(head | _effect(test, measure, known))
    return rows


def _effect(test: ReadSet, measure: str, which: np.ndarray) -> dict[str, Any]:
    values, after, groups = test.values(measure)[which], test.after(measure)[which], test.groups[which]
    before = values[:, 0]
    by_draw = (values[:, test.random] - before[:, None]).mean(0)
    changes = {"change": after - before}
    if len(by_draw):
        changes["more_than_random"] = after - values[:, test.random].mean(1)
    if OFFSET in test.conditions:
        offset = values[:, test.conditions.index(OFFSET)]
        changes |= {"offset_change": offset - before, "more_than_offset": after - offset}
    estimates = paired(np.stack(list(changes.values()), 1), groups, measure != "gold_prob")
    found = dict(zip(changes, estimates, strict=True))
    if len(by_draw):
        low, high = np.percentile(by_draw, [2.5, 97.5])
        found["random_change"] = Estimate(float(by_draw.mean()), float(low), float(high))

    def of(*names: str) -> dict[str, float]:
        return {end: value for name in names for end, value in found.get(name, UNKNOWN).columns(name).items()}

    is_accuracy = measure in ("accuracy", "option_accuracy")
    return {
        "n": len(after),
        "n_groups": len(set(groups)),
        "before": float(before.mean()),
        "after": float(after.mean()),
        **of("change"),
        "p": no_change_p(after - before, groups),
        "p_mcnemar": mcnemar_p(after, before) if is_accuracy else np.nan,
        "n_random": len(by_draw),
        **of("random_change", "more_than_random"),
        "p_random": permutation_p(float((after - before).mean()), by_draw.tolist(), centred=True),
        **of("offset_change", "more_than_offset"),
    }


def verdict_of(row: Mapping[str, Any], target: float) -> str:
    """Of an accuracy's change: "meets the target" (as much at least, with an interval above zero and p at most 0.05),
    "helps, below the target" (shown to be above zero), "hurts" (below zero), "does not help" (neither is shown, and the
    interval ends below the target: so large a gain is excluded), "not shown to help" (more questions could tell), or
    "too few questions" (under 10 pictures or passages)."""
    change = Estimate.from_row(row, "change")
    verdict = Claim("", change, p=row["p"], n=row["n_groups"]).verdict
    if verdict == "above":
        return "meets the target" if change.value >= target else "helps, below the target"
    if verdict == "not shown to differ":
        return "does not help" if change.side_of(target) < 0 else "not shown to help"
    return "hurts" if verdict == "below" else TOO_FEW

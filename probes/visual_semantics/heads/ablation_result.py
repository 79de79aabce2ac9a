"""What ablating sets of heads did, question by question: cases, changes, contrasts over levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from einops import einsum
from jaxtyping import Bool, Float
from scipy.stats import norm

from interp.reports import Result
from interp.reports.kept_tables import made_once
from interp.statistics import (
    CONFIDENCE,
    FEWEST,
    UNKNOWN,
    Estimate,
    bootstrap_interval,
    mean_estimate,
    paired_share_change,
)
from probes.heads import Head, permutation_p
from probes.visual_semantics.heads.scores import NAMES
from probes.visual_semantics.questions import Asked

SetEdit = Literal["zero", "mean_of_others"]
MEASURES = {"accuracy": "accuracy", "gold_prob": "probability of the gold answer"}
SUBSETS = ("all", "correct", "wrong")


@dataclass(frozen=True)
class SetCase:
    """One edit of one set of heads: the first k by ``score`` on questions of level ``source`` ("top"), or a ``draw`` of
    as many heads of the same layers ("random")."""

    score: str
    source: str
    edit: str
    set: str
    draw: int
    heads: tuple[Head, ...]


@dataclass(frozen=True, eq=False, repr=False)
class SetAblation(Result, report="probes.visual_semantics.heads.ablation_report"):
    """What ablating sets of heads does, question by question.

    Args:
        cases: the sets and how they were edited.
        asked: the questions in words.
        gold_prob, gold_prob_edited: the gold answer's probability, unedited and in each case.
        is_correct, is_correct_edited: whether it is the most probable token, unedited and in each case.
        provenance: model, data, settings, versions.
    """

    cases: tuple[SetCase, ...]
    asked: tuple[Asked, ...]
    gold_prob: Float[np.ndarray, " example"]
    is_correct: Bool[np.ndarray, " example"]
    gold_prob_edited: Float[np.ndarray, "example case"]
    is_correct_edited: Float[np.ndarray, "example case"]
    provenance: Mapping[str, Any]

    @cached_property
    def levels(self) -> np.ndarray:
        """Of each question."""
        return np.array([q.level for q in self.asked])

    @cached_property
    def pictures(self) -> np.ndarray:
        """Of each question: what is drawn as one."""
        return np.array([q.image_id or q.id for q in self.asked])

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.score for c in self.cases))

    @property
    def edits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.edit for c in self.cases))

    def sources(self, score: str) -> tuple[str, ...]:
        """Levels whose heads were ablated.

        ``score``: "s_plus", "s_minus" or "signed_drop".

        Returns:
            their names, in the order of the cases.
        """
        return tuple(dict.fromkeys(c.source for c in self.cases if c.score == score))

    def change(self, measure: str) -> Float[np.ndarray, "example case"]:
        """Edited minus unedited; ``measure``: "accuracy" or "gold_prob".

        Returns:
            [example, case], in shares, -1 to 1.
        """
        if measure == "accuracy":
            return self.is_correct_edited.astype(np.float64) - self.is_correct[:, None]
        return self.gold_prob_edited.astype(np.float64) - self.gold_prob[:, None].astype(np.float64)

    def columns(self, score: str, source: str, edit: str, which: str) -> list[int]:
        """Indices of the cases of a ``score``, level of heads (``source``), ``edit``, and ``which`` set: one for "top",
        one for each draw of "random"."""
        wanted = (score, source, edit, which)
        return [i for i, c in enumerate(self.cases) if (c.score, c.source, c.edit, c.set) == wanted]

    def subset(self, name: str) -> Bool[np.ndarray, " example"]:
        """Questions by ``name``: "all", those answered "correct" unedited, or "wrong".

        Returns:
            [example].
        """
        return {"all": np.ones(len(self.asked), bool), "correct": self.is_correct, "wrong": ~self.is_correct}[name]

    @made_once
    def to_frame(self) -> pd.DataFrame:
        """One row for each ``score``, level whose heads are ablated (``source``), level whose questions are asked
        (``target``), ``subset`` of these (all, correct, wrong: unedited) and ``edit``.

        ``accuracy``, ``gold_prob``: unedited. ``delta_*``: edited minus unedited with the top heads, ``_low`` and
        ``_high`` its paired 95 % interval. ``random_*``: mean over the random sets with their 2.5 and 97.5 percentiles.
        ``more_*``: top minus mean of random, paired. ``p_*``: (1 + c) / (1 + n_random), where c random sets lie
        at least as far from the mean of all, either way. Of fewer than 10 questions (``too_few``) there are no
        intervals and no p.
        """
        rows = []
        for score in self.scores:
            for source in self.sources(score):
                for target in dict.fromkeys(self.levels):
                    for subset in SUBSETS:
                        chosen = (self.levels == target) & self.subset(subset)
                        if chosen.any():
                            rows += [self._row(score, source, target, subset, edit, chosen) for edit in self.edits]
        return pd.DataFrame(rows)

    def _row(self, score: str, source: str, target: str, subset: str, edit: str, chosen: np.ndarray) -> dict[str, Any]:
        top = self.columns(score, source, edit, "top")
        random = self.columns(score, source, edit, "random")
        row: dict[str, Any] = {"score": NAMES[score], "source": source or "all", "target": target or "all"}
        n = int(chosen.sum())
        row |= {"subset": subset, "edit": edit, "n": n, "too_few": n < FEWEST, "n_random": len(random)}
        row |= {"accuracy": float(self.is_correct[chosen].mean()), "gold_prob": float(self.gold_prob[chosen].mean())}
        for measure in MEASURES:
            change = self.change(measure)[chosen]
            own, others = change[:, top[0]], change[:, random]
            row |= self._paired(own, chosen, measure).columns(f"delta_{measure}")
            by_set = others.mean(0) if random else np.array([np.nan])
            low, high = np.percentile(by_set, [2.5, 97.5]) if n >= FEWEST else (np.nan, np.nan)
            row |= Estimate(float(by_set.mean()), float(low), float(high)).columns(f"random_{measure}")
            more = own - others.mean(1) if random else np.full(len(own), np.nan)
            row |= self._paired(more, chosen, "gold_prob").columns(f"more_{measure}")
            row[f"p_{measure}"] = permutation_p(
                float(own.mean()), by_set if random and n >= FEWEST else [], centred=True
            )
        return row

    def _paired(self, change: np.ndarray, chosen: np.ndarray, measure: str) -> Estimate:
        if not np.isfinite(change).all():
            return Estimate(np.nan, np.nan, np.nan)
        if len(change) < FEWEST:
            return Estimate(float(change.mean()), np.nan, np.nan)
        found = mean_estimate(change, self.pictures[chosen])
        if measure == "accuracy":
            found = found.no_narrower_than(paired_share_change(change.clip(0), (-change).clip(0)))
        return found

    def asked_in(self, score: str, subset: str = "all") -> Bool[np.ndarray, " example"]:
        """The questions that a contrast is over: of levels whose heads were ablated by ``score``, with 10 of the
        ``subset`` ("all", "correct", "wrong") or more.

        Returns:
            [example].
        """
        chosen, sources = self.subset(subset), self.sources(score)
        enough = [level for level in sources if (chosen & (self.levels == level)).sum() >= FEWEST]
        return chosen & np.isin(self.levels, enough)

    def contrast(self, score: str, edit: str, measure: str, kind: str, subset: str = "all") -> tuple[Estimate, float]:
        """A number over all levels against the random sets.

        Levels count equally; those of fewer than 10 questions are left out (:meth:`asked_in`).

        Args:
            score: whose first heads: "s_plus", "s_minus", "signed_drop".
            edit: "zero" or "mean_of_others".
            measure: "accuracy" or "gold_prob".
            kind: "own" (each level's heads on its own questions, less the random sets' mean), "cross" (each level's
                heads on the other levels' questions, less random), or "own less cross", in which every level is asked
                as often under its own heads as under others', so that fragile levels do not decide.
            subset: "all" questions, or those answered "correct" or "wrong" unedited.

        Returns:
            The number, in shares, with its 95 % interval, and p (NaN where it has none); all NaN where no level is
            left.
        """
        sources, change = self.sources(score), self.change(measure)
        in_targets = self.asked_in(score, subset)
        if not in_targets.any() or (kind != "own" and len(sources) < 2):
            return UNKNOWN, np.nan
        top = np.stack([change[:, self.columns(score, s, edit, "top")[:1]] for s in sources], 1)
        n_draws = min(len(self.columns(score, s, edit, "random")) for s in sources)
        random = np.stack([change[:, self.columns(score, s, edit, "random")[:n_draws]] for s in sources], 1)
        own = np.stack([self.levels == s for s in sources], 1)

        def weighed(values: np.ndarray) -> Float[np.ndarray, "example draw"]:
            of_own, of_others = (
                einsum(which.astype(float), values, "example source, example source draw -> example draw")
                for which in (own, ~own)
            )
            of_others = of_others / max(1, len(sources) - 1)
            return {"own": of_own, "cross": of_others, "own less cross": of_own - of_others}[kind]

        values = weighed(top)[:, 0]
        if kind != "own less cross" and n_draws:
            values = values - weighed(random).mean(1)
        estimate = _mean_over_levels(values[in_targets], self.levels[in_targets], self.pictures[in_targets])
        if measure == "accuracy":
            estimate = estimate.no_narrower_than(_of_shares(values[in_targets], self.levels[in_targets]))
        if not n_draws:
            return estimate, np.nan
        of_top = _level_means(weighed(top)[in_targets], self.levels[in_targets])[0]
        of_random = _level_means(weighed(random)[in_targets], self.levels[in_targets])
        return estimate, permutation_p(of_top, of_random, centred=True)

    def sets(self) -> pd.DataFrame:
        """Which heads each top set holds."""
        rows = [
            {"score": NAMES[c.score], "source": c.source or "all", "heads": ", ".join(f"L{x}H{y}" for x, y in c.heads)}
            for c in self.cases
            if c.set == "top" and c.edit == self.edits[0]
        ]
        return pd.DataFrame(rows)


def _level_means(values: Float[np.ndarray, "example draw"], levels: np.ndarray) -> Float[np.ndarray, " draw"]:
    return np.mean([values[levels == level].mean(0) for level in dict.fromkeys(levels)], axis=0)


def _mean_over_levels(values: Float[np.ndarray, " example"], levels: np.ndarray, pictures: np.ndarray) -> Estimate:
    """Mean over levels of the mean over a level's questions; bootstrap over pictures."""
    member = np.stack([levels == level for level in dict.fromkeys(levels)], 1).astype(np.float64)

    def mean(values: np.ndarray, member: np.ndarray, counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a draw without a level is left out
            return ((counts * values) @ member / (counts @ member)).mean(-1)

    low, high = bootstrap_interval(mean, values, member, groups=pictures.tolist(), weighted=True)
    return Estimate(float(_level_means(values[:, None], levels)[0]), float(low), float(high))


def _of_shares(values: Float[np.ndarray, " example"], levels: np.ndarray) -> Estimate:
    """The interval of Bonett and Price (2012) for a paired change of a share, one pair added to either side in each
    level; of the mean over levels."""
    padded = [np.array([*values[levels == level], 1.0, -1.0]) for level in dict.fromkeys(levels)]
    centre = float(np.mean([p.mean() for p in padded]))
    half = float(norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(sum(p.var() / len(p) for p in padded)) / len(padded))
    return Estimate(centre, max(-1.0, centre - half), min(1.0, centre + half))

"""Are the heads that help (or hurt) shared within a level of question, and do they differ between levels?

V-SEAM (arXiv 2509.14837) says that positive heads are shared within a level (object, attribute, relationship) and
differ between levels, and that negative heads generalise across levels. Here a level is compared with itself across
what a level should not depend on: its yes/no against its open questions, and disjoint halves of its kinds of question.
The same comparison between levels is the yardstick, and two random halves of one group are the ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Bool, Float
from scipy.stats import hypergeom, norm, rankdata

from interp.door import public
from interp.door.brief import brief
from interp.records import hash_json
from interp.reports import Result
from interp.statistics import CONFIDENCE, FEWEST, Estimate, around
from probes.visual_semantics.heads.scores import NAMES, RELU

if TYPE_CHECKING:
    from probes.visual_semantics.heads.result import VisualHeads

Group = tuple[str, str]  # level, kind
Matrix = Float[np.ndarray, "group_a group_b"]

ACROSS = ("yes/no and open", "halves of the forms")
_SPLITS = 20  # random halves of forms that a contrast is the mean of
_SPREAD = 5  # of them, behind intervals and p
_ORDERS = 1999  # random orders of the heads
BY = {"score": "the score itself", "mean_change": "the mean change, which is the score above its floor, doubled"}


class Contrast(NamedTuple):
    """Agreement within levels, between levels, and their difference, each with a 95 % interval.

    ``p``: of a difference as large where levels are shuffled. ``within_p``, ``between_p``: of an agreement as high
    where each group orders the heads at random.
    """

    within: Estimate
    between: Estimate
    difference: Estimate
    p: float
    within_p: float
    between_p: float
    n_levels: int
    n_questions: int


@dataclass(frozen=True, eq=False, repr=False)
class HeadOverlap(Result, report="probes.visual_semantics.heads.overlap_report"):
    """Agreement of one score's rankings between groups of questions.

    Args:
        score, by: what heads are ranked by.
        k: the heads of each list that an overlap counts.
        n_heads: of the model, in all.
        groups: (level, kind) of the groups compared.
        left_out: {group: questions that count} of groups with too few.
        pairs: a row for each pair of groups.
        contrasts: by (across, statistic), where across is one of ``ACROSS`` and statistic "spearman" or "overlap"
            (heads that the first ``k`` of both share).
        provenance: model, data, settings, versions.
    """

    score: str
    by: str
    k: int
    n_heads: int
    groups: tuple[Group, ...]
    left_out: Mapping[str, int]
    pairs: pd.DataFrame
    contrasts: Mapping[tuple[str, str], Contrast]
    provenance: Mapping[str, Any]

    @property
    def expected(self) -> float:
        """Heads that the first k of two random orders share."""
        return self.k**2 / self.n_heads

    @property
    def untold(self) -> str:
        """Why a level can't be compared with itself; empty where it can."""
        if self.contrasts:
            return ""
        return (
            f"Levels can't be compared with themselves by {NAMES[self.score]}: that takes {FEWEST} questions that "
            "count for it of both kinds, or of both halves of the forms, at two levels. Too few: "
            f"{', '.join(f'{name} ({n})' for name, n in self.left_out.items()) or 'none'}."
        )

    def to_frame(self) -> pd.DataFrame:
        """The contrasts, one row each: within, between, difference (each with its interval), p, and chance."""
        rows = []
        for (across, statistic), c in self.contrasts.items():
            row = {"score": NAMES[self.score], "by": self.by, "across": across, "statistic": statistic}
            for name in ("within", "between", "difference"):
                row |= getattr(c, name).columns(name)
            row |= {"chance": self.expected if statistic == "overlap" else 0.0, "difference_p": c.p}
            row |= {"within_p": c.within_p, "between_p": c.between_p, "n_levels": c.n_levels, "n": c.n_questions}
            rows.append(row)
        return pd.DataFrame(rows)


@public
def head_overlap(
    heads: VisualHeads,
    score: str = "s_plus",
    k: int = 10,
    by: str = "score",
    n_halves: int = 200,
    n_permutations: int = 999,
    seed: int = 0,
) -> HeadOverlap:
    """How far the rankings of the groups (level and kind) of questions agree, within and between levels.

    Groups in which fewer than 10 questions count for the score are left out, and named. A contrast pairs every level's
    yes/no questions with every level's open ones (or one half of its forms with the other half of another's), so that
    within and between differ in the level alone.

    Args:
        heads: the ranking.
        score: "s_plus", "s_minus" or "signed_drop".
        k: the first heads of each list, which an overlap counts.
        by: rank heads by the "score" (the paper's) or by "mean_change".
        n_halves: random halves of the pictures, behind the intervals.
        n_permutations: shuffles of the levels, behind the p of a difference.
        seed: of halves and shuffles.

    Raises:
        ValueError: k out of range, an unknown ``by``, and fewer than two groups.

    Intervals: value ± 1.96 standard errors by the delete-half jackknife, whole pictures being left out (Shao and Wu
    1989, Ann. Stat. 17); a bootstrap's duplicates would lower correlations and overlaps. p of a difference: levels are
    shuffled among the questions of one kind; p of an agreement: heads are ordered at random, as if independent (they
    are not, so it is too small). Simulated without any level: a difference's interval excludes 0 above in 3 to 5 % of
    40 runs.

    Cost: seconds; no pass.
    Misleads: forms of words, too, differ between groups: a contrast by kinds or forms keeps them apart.
    Source: V-SEAM, arXiv 2509.14837; the contrasts and intervals are ours.
    """
    total = heads.n_layers * heads.n_heads
    if not 1 <= k <= total:
        raise ValueError(f"k={k}; expected 1 to {total}, the number of heads.")
    if by not in BY:
        raise ValueError(f"by={by!r}; expected {' or '.join(map(repr, BY))}.")
    data = _Scored.of(heads, score, by)
    masks, left_out = _groups(heads, data)
    if len(masks) < 2:
        raise ValueError(
            f"{len(masks)} groups of questions (level and kind) have {FEWEST} questions that count for "
            f"{NAMES[score]}; a comparison needs two. Too few: "
            f"{', '.join(f'{name} ({n})' for name, n in left_out.items()) or 'none'}."
        )
    rng = np.random.default_rng(seed)
    halves = [data.half_of_pictures(rng) for _ in range(n_halves)]
    pairs = _pairs(data, masks, k, total, halves)
    contrasts: dict[tuple[str, str], Contrast] = {}
    for across, layout in _layouts(data, masks, rng).items():
        found = _contrasts(data, layout, k, halves, n_permutations, seed)
        contrasts |= {(across, statistic): contrast for statistic, contrast in found.items()}
    settings = {"score": score, "by": by, "k": k, "n_halves": n_halves, "n_permutations": n_permutations, "seed": seed}
    ranking = heads.provenance.get("run_id")
    provenance = {
        **heads.provenance,
        "run_id": hash_json([ranking, settings])[:12],
        "title": f"Overlap of heads by {NAMES[score]}: {heads.provenance['model']['name']}",
        "settings": settings,
        "ranking": ranking,
    }
    return HeadOverlap(score, by, k, total, tuple(masks), left_out, pairs, contrasts, provenance)


@dataclass(frozen=True, eq=False)
class _Scored:
    """The questions that count for a score: values whose mean ranks heads, and what they are."""

    values: Float[np.ndarray, "example head"]
    levels: np.ndarray
    kinds: np.ndarray
    forms: np.ndarray
    pictures: np.ndarray

    __repr__ = brief

    @staticmethod
    def of(heads: VisualHeads, score: str, by: str) -> _Scored:
        chosen = heads.chosen(score=score)
        change = rearrange(heads.change(score, chosen), "example layer head -> example (layer head)").astype(np.float64)
        values = np.maximum(change, 0) if by == "score" and score in RELU else change
        asked = [q for q, is_in in zip(heads.asked, chosen, strict=True) if is_in]
        fields = (np.array([getattr(q, name) for q in asked]) for name in ("level", "kind", "form"))
        return _Scored(values, *fields, heads.pictures[chosen])

    def means(self, masks: Bool[np.ndarray, "group example"]) -> Float[np.ndarray, "group head"]:
        """Of each group of questions; NaN for none."""
        with np.errstate(invalid="ignore"):
            return (masks.astype(np.float64) @ self.values) / masks.sum(1, keepdims=True)

    def with_levels_shuffled(self, rng: np.random.Generator, levels: Sequence[str]) -> _Scored:
        """The same questions, those of some levels dealt to them anew, within each kind."""
        dealt = self.levels.copy()
        for kind in dict.fromkeys(self.kinds):
            members = np.flatnonzero((self.kinds == kind) & np.isin(self.levels, levels))
            dealt[members] = self.levels[rng.permutation(members)]
        return replace(self, levels=dealt)

    def half_of_pictures(self, rng: np.random.Generator) -> Bool[np.ndarray, " example"]:
        names, number = np.unique(self.pictures, return_inverse=True)
        return rng.permutation(len(names))[number] < len(names) / 2


def _groups(heads: VisualHeads, data: _Scored) -> tuple[dict[Group, np.ndarray], dict[str, int]]:
    there = dict.fromkeys((q.level, q.kind) for q in heads.asked)
    every = [(lv, kind) for lv in heads.levels for kind in dict.fromkeys(k for _, k in there) if (lv, kind) in there]
    masks = {g: (data.levels == g[0]) & (data.kinds == g[1]) for g in every}
    left_out = {name_of_group(g): int(mask.sum()) for g, mask in masks.items() if mask.sum() < FEWEST}
    return {g: mask for g, mask in masks.items() if mask.sum() >= FEWEST}, left_out


def _pairs(data: _Scored, masks: Mapping[Group, np.ndarray], k: int, total: int, halves) -> pd.DataFrame:
    groups, parts = np.stack(list(masks.values())), [np.ones(len(data.values), dtype=bool), *halves]
    orders = [_order(data.means(groups & part), k) for part in parts]
    found = np.stack([_agreements(order, order) for order in orders])  # [part, statistic, group, group]
    reliability = dict(zip(masks, _reliability(data, groups, halves), strict=True))
    rows = []
    for (i, a), (j, b) in combinations(enumerate(masks), 2):
        row = {"a": name_of_group(a), "b": name_of_group(b)}
        row |= {"relation": "within a level" if a[0] == b[0] else "between levels", "same_kind": a[1] == b[1]}
        row |= {"n_a": int(masks[a].sum()), "n_b": int(masks[b].sum())}
        row |= around(float(found[0, 0, i, j]), found[1:, 0, i, j]).columns("spearman")
        row |= _with_error(float(found[0, 1, i, j]), found[1:, 1, i, j], 0.0, float(k)).columns("overlap")
        row |= {"overlap_expected": k * k / total, "overlap_p": float(hypergeom.sf(row["overlap"] - 1, total, k, k))}
        row |= {"reliability_a": reliability[a], "reliability_b": reliability[b]}
        least = min(reliability[a], reliability[b])
        row["ceiling"] = float(np.sqrt(reliability[a] * reliability[b])) if least > 0 else np.nan
        row["spearman_of_ceiling"] = row["spearman"] / row["ceiling"]
        rows.append(row)
    return pd.DataFrame(rows)


def _reliability(data: _Scored, groups: np.ndarray, halves: Sequence[np.ndarray]) -> Float[np.ndarray, " group"]:
    """Split-half over pictures, corrected to the full sample (Spearman and Brown)."""
    found = []
    for half in halves[:50]:
        first, second = (_order(data.means(groups & part), 1) for part in (half, ~half))
        found.append(np.diag(_agreements(first, second)[0]))
    known = np.isfinite(found)
    mean = np.where(known, found, 0.0).sum(0) / np.maximum(1, known.sum(0))
    return np.where(known.any(0) & (mean > -1), 2 * mean / (1 + mean), np.nan)


class _Layout(NamedTuple):
    """Ways to cut the questions of some levels in two; every level's one side is compared with every level's other."""

    levels: tuple[str, ...]
    sides: list[tuple[Bool[np.ndarray, " example"], Bool[np.ndarray, " example"]]]


def _layouts(data: _Scored, masks: Mapping[Group, np.ndarray], rng: np.random.Generator) -> dict[str, _Layout]:
    """The two ways to compare a level with itself, for levels that have enough questions on both sides."""
    found: dict[str, _Layout] = {}
    both = [lv for lv in dict.fromkeys(g[0] for g in masks) if {(lv, "yes_no"), (lv, "open")} <= set(masks)]
    if len(both) > 1:
        inside = np.isin(data.levels, both)
        found[ACROSS[0]] = _Layout(tuple(both), [(inside & (data.kinds == "yes_no"), inside & (data.kinds == "open"))])
    forms = {lv: sorted(set(data.forms[data.levels == lv]) - {""}) for lv in dict.fromkeys(data.levels)}
    splits: dict[tuple[str, ...], list] = {}
    for _ in range(4 * _SPLITS):
        first = {f for of_level in forms.values() for f in rng.permutation(of_level)[: len(of_level) // 2].tolist()}
        sides = np.isin(data.forms, list(first)), (data.forms != "") & ~np.isin(data.forms, list(first))
        levels = tuple(lv for lv in forms if min((side & (data.levels == lv)).sum() for side in sides) >= FEWEST)
        if len(levels) > 1:
            inside = np.isin(data.levels, levels)
            splits.setdefault(levels, []).append(tuple(side & inside for side in sides))
    if splits:
        levels = max(splits, key=lambda some: (len(some), len(splits[some])))
        found[ACROSS[1]] = _Layout(levels, splits[levels][:_SPLITS])
    return found


def _contrasts(
    data: _Scored, layout: _Layout, k: int, halves: Sequence[np.ndarray], n_permutations: int, seed: int
) -> dict[str, Contrast]:
    everything = np.ones(len(data.values), dtype=bool)
    some = layout._replace(sides=layout.sides[:_SPREAD])  # of many splits a few tell the spread
    observed = _within_and_between(data, layout, everything, k)
    draws = np.stack([_within_and_between(data, some, half, k) for half in halves])
    reference = np.subtract(*_within_and_between(data, some, everything, k).T)
    rng = np.random.default_rng(seed)
    by_chance = np.full((n_permutations // len(some.sides), 2), np.nan)
    for row in by_chance:
        row[:] = np.subtract(*_within_and_between(data.with_levels_shuffled(rng, layout.levels), some, everything, k).T)
    by_order = _random_orders(len(layout.levels), data.values.shape[1], k, rng)
    n, found = int(np.any([side for sides in layout.sides for side in sides], axis=0).sum()), {}
    for i, (statistic, most) in enumerate((("spearman", 1.0), ("overlap", float(k)))):
        values = [*observed[i], observed[i, 0] - observed[i, 1]]
        spread = [draws[:, i, 0], draws[:, i, 1], draws[:, i, 0] - draws[:, i, 1]]
        least = (0.0, 0.0, -most) if statistic == "overlap" else (-1.0, -1.0, -2.0)
        ends = zip(values, spread, least, (most, most, 2.0 if most == 1 else most), strict=True)
        estimates = [_with_error(float(v), d, lowest, highest) for v, d, lowest, highest in ends]
        p = (1 + (by_chance[:, i] >= reference[i] - 1e-12).sum()) / (1 + len(by_chance)) if len(by_chance) else np.nan
        of_order = [(1 + (by_order[:, i, j] >= observed[i, j] - 1e-12).sum()) / (1 + _ORDERS) for j in (0, 1)]
        found[statistic] = Contrast(*estimates, float(p), *map(float, of_order), len(layout.levels), n)
    return found


def _random_orders(
    n_levels: int, n_heads: int, k: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw statistic 2"]:
    """What :func:`_within_and_between` gives for random orders of the heads, of one cut in two sides."""
    same, draws = np.eye(n_levels, dtype=bool), []
    centre, length = (n_heads - 1) / 2, np.sqrt(n_heads * (n_heads**2 - 1) / 12)
    for _ in range(_ORDERS):
        ranks = rng.permuted(np.tile(np.arange(n_heads), (2 * n_levels, 1)), axis=1)
        orders = (ranks - centre) / length, (ranks < k).astype(float)
        draws.append([[m[same].mean(), m[~same].mean()] for m in (o[:n_levels] @ o[n_levels:].T for o in orders)])
    return np.array(draws)


def _within_and_between(
    data: _Scored, layout: _Layout, part: Bool[np.ndarray, " example"], k: int
) -> Float[np.ndarray, "statistic 2"]:
    """Mean agreement of a level's two sides, and of two levels' sides: correlations, then overlaps."""
    same = np.eye(len(layout.levels), dtype=bool)
    of_level = np.stack([part & (data.levels == level) for level in layout.levels])
    found = []
    for sides in layout.sides:
        first, second = (_order(data.means(of_level & side), k) for side in sides)
        found.append([[m[same].mean(), m[~same].mean()] for m in _agreements(first, second)])
    return np.mean(found, axis=0)


class _Order(NamedTuple):
    """Of some groups of questions: ranks of all heads, centred and of length 1, and which are the first k."""

    ranks: Float[np.ndarray, "group head"]
    is_top: Float[np.ndarray, "group head"]


def _order(means: Float[np.ndarray, "group head"], k: int) -> _Order:
    ranks = rankdata(means, axis=1) - (means.shape[1] + 1) / 2
    with np.errstate(invalid="ignore"):  # all heads equal: NaN
        ranks /= np.sqrt((ranks**2).sum(1, keepdims=True))
    is_top = np.zeros(means.shape)
    np.put_along_axis(is_top, np.argsort(-means, axis=1, kind="stable")[:, :k], 1.0, axis=1)
    is_top[np.isnan(means).any(1)] = np.nan
    return _Order(ranks, is_top)


def _agreements(a: _Order, b: _Order) -> tuple[Matrix, Matrix]:
    """Spearman's correlation, and how many heads the first k of both share; NaN where one is of no questions."""
    return a.ranks @ b.ranks.T, a.is_top @ b.is_top.T


def _with_error(value: float, draws: np.ndarray, least: float, most: float) -> Estimate:
    """Value ± 1.96 standard errors: the spread of the values of half of the pictures (delete-half jackknife), within
    what a value can be."""
    known = draws[np.isfinite(draws)]
    if not isfinite(value) or 2 * len(known) < len(draws) or len(known) < 2:
        return Estimate(value, np.nan, np.nan)
    reach = float(norm.ppf((1 + CONFIDENCE) / 2) * known.std(ddof=1))
    return Estimate(value, max(least, value - reach), min(most, value + reach))


def name_of_group(group: Group) -> str:
    """A group of questions in words."""
    level, kind = group
    return f"{level or 'all'}, {kind.replace('_', '/')}"

"""Which sets of heads a causal test edits: the top and the bottom of a ranking, and random sets of the same layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp.circuits import Head, random_sets
from interp.rankings import HeadRanking


@dataclass(frozen=True)
class Case:
    """One edit of one set of heads. ``set`` is "top" (highest scores by the measure ``by``), "bottom" (lowest) or
    "random" (a ``draw`` from the layers of the top)."""

    by: str
    edit: str
    positions: str
    k: int
    set: str
    draw: int
    heads: tuple[Head, ...]


def head_order(ranking: HeadRanking, measure: str) -> list[Head]:
    """Heads by their mean of a measure, highest first; equal ones in order of layer and head."""
    means = ranking.measures[measure].astype(np.float64).mean(0)
    flat = np.argsort(-means.ravel(), kind="stable")
    return [divmod(int(i), ranking.n_heads) for i in flat]


def plan_cases(
    ranking: HeadRanking,
    by: Sequence[str],
    edits: Sequence[str],
    grid: Mapping[str, tuple[Sequence[int], int]],
    seed: int,
) -> list[Case]:
    """Every case of a test; ``grid`` gives for each ``positions`` its ks and its number of random sets."""
    cases = []
    for measure in by:
        order = head_order(ranking, measure)
        for positions, (ks, n_random) in grid.items():
            for k in ks:
                top = tuple(sorted(order[:k]))
                sets = [("top", 0, top), ("bottom", 0, tuple(sorted(order[-k:])))]
                sets += [("random", i, s) for i, s in enumerate(random_sets(top, ranking.n_heads, n_random, seed))]
                cases += [Case(measure, edit, positions, k, *one) for edit in edits for one in sets]
    return cases

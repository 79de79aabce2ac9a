"""Which sets of heads a causal test edits: the top and the bottom of a ranking, and random sets of the same layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, prod

import numpy as np

from interp.rankings import HeadRanking

Head = tuple[int, int]  # layer, head


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


def random_sets(top: Sequence[Head], n_heads: int, n: int, seed: int = 0) -> list[tuple[Head, ...]]:
    """Up to n different random sets with as many heads in each layer as ``top``, and none of its heads.

    A layer with too few others gives all of them, and random ones of the top's for the rest. Fewer sets come back
    where fewer exist (8 for one head in a layer of 9); none where only the top itself does.
    """
    rng = np.random.default_rng([seed, len(top)])
    choices: list[tuple[int, list[int], list[int], int]] = []  # layer, heads in every set, heads drawn from, how many
    for layer, count in sorted(Counter(layer for layer, _ in top).items()):
        others = [h for h in range(n_heads) if (layer, h) not in top]
        if len(others) >= count:
            choices.append((layer, [], others, count))
        else:
            choices.append((layer, others, [h for h in range(n_heads) if h not in others], count - len(others)))
    found: dict[tuple[Head, ...], None] = {}  # a set that keeps its order
    while len(found) < min(n, prod(comb(len(pool), count) for _, _, pool, count in choices)):
        heads = []
        for layer, fixed, pool, count in choices:
            drawn = rng.choice(pool, count, replace=False).tolist()
            heads += [(layer, h) for h in sorted([*fixed, *drawn])]
        found[tuple(heads)] = None
    return [heads for heads in found if set(heads) != set(top)]


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

"""Random sets of heads to hold a set against: as many in each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb, prod

import numpy as np

Head = tuple[int, int]
"""Layer, head."""


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

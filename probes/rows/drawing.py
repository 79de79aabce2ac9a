"""Samples of items that come one by one: what belongs together, in seeded order, by strata, a few bytes an item.

A draw looks at all items once and keeps of each only hashes and numbers; what is drawn are places, whose items are
then read again. So a sample of a million rows takes tens of bytes a row beside the sample, and is the one that the same
items in memory give.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int


def grouped(keys: Sequence[array]) -> Int[np.ndarray, " item"]:
    """The number of each item's unit. ``keys``: arrays of 64-bit hashes, one each item, 0 for none; items with one key
    in common are of one unit, and so are those that others join. Units are numbered by their last item's place."""
    n = len(keys[0])
    unit = np.arange(n)
    while True:
        before = unit
        for key in keys:
            hashes = np.frombuffer(key, dtype=np.uint64)
            _, same = np.unique(hashes, return_inverse=True)
            least = np.full(same.max(initial=0) + 1, n)
            np.minimum.at(least, same, unit)
            unit = np.where(hashes == 0, unit, np.minimum(unit, least[same]))
        unit = unit[unit]
        if (unit == before).all():
            break
    last = np.zeros(n, dtype=np.int64)
    np.maximum.at(last, unit, np.arange(n))
    return np.unique(last[unit], return_inverse=True)[1]


def by_first(unit: Int[np.ndarray, " item"]) -> Int[np.ndarray, " item"]:
    """Units numbered by their first item's place."""
    _, first, same = np.unique(unit, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[same]


def first_items(unit: Int[np.ndarray, " item"]) -> Int[np.ndarray, " unit"]:
    """The place of each unit's first item."""
    return np.unique(unit, return_index=True)[1]


def shuffled(n: int, rng: random.Random) -> Int[np.ndarray, " n"]:
    """Numbers below ``n`` in the order in which ``rng`` shuffles a list of as many."""
    order = array("q", range(n))
    rng.shuffle(order)
    return np.frombuffer(order, dtype=np.int64)


def strata_of(
    order: Int[np.ndarray, " unit"], stratum: Int[np.ndarray, " unit"], most: int
) -> Iterator[tuple[int, list[tuple[float, int]]]]:
    """Each stratum (``stratum``: its number, by unit) with its first ``most`` units in the order, each with its rank: 0
    to 1, of all units of the stratum."""
    sorted_by = order[np.argsort(stratum[order], kind="stable")]
    numbers, starts = np.unique(stratum[sorted_by], return_index=True)
    for number, start, end in zip(numbers, starts, [*starts[1:], len(order)], strict=True):
        units = sorted_by[start : min(end, start + most)].tolist()
        yield int(number), [((j + 0.5) / (end - start), unit) for j, unit in enumerate(units)]

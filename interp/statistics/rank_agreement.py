"""Agreement of two orders of the same heads, and what examples and chance alone would make of it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float
from numpy.typing import ArrayLike

from interp.door import as_integer, as_items, as_numbers, as_real
from interp.statistics.estimates import CONFIDENCE, N_BOOTSTRAP, SEED, Estimate, as_cells, as_share

_NEARLY_ONE = 1 - 1e-12  # Fisher's z of a correlation of 1 is infinite


class SplitHalf(NamedTuple):
    """Agreement of the rankings of two random halves of the examples.

    mean: mean Spearman correlation over the splits; low, high: 2.5 and 97.5 percentiles over the splits (the
    spread of splits, not a confidence interval); spearman_brown: `2 mean / (1 + mean)`, the reliability
    expected of the ranking from all examples, for which two halves are too pessimistic.
    """

    mean: float
    low: float
    high: float
    spearman_brown: float


class TopKOverlap(NamedTuple):
    """How many of the first k of two rankings are the same, and what chance would give."""

    count: int
    fraction: float
    expected: float
    p: float


def split_half(scores: ArrayLike, n_splits: int = 50, seed: int = SEED) -> SplitHalf:
    """Is the sample large enough? Spearman correlation of the heads' means in two random halves.

    Near 1: another sample would give much the same ranking. Near 0: the order is noise, although the top few
    heads may still be clear. All NaN for n < 4, for fewer than 2 heads, or if all heads have equal means.

    Misleads: examples that repeat (paraphrases, one template) make halves alike and the value too high. It
    is one sample's value: for pure noise in m heads it scatters around 0 by about `0.7 / sqrt(m - 1)`, 0.2
    for 12 heads, whatever the number of splits.
    Source: Spearman (1910) and Brown (1910), Br. J. Psychol. 3.
    """
    cells, _ = as_cells(scores)
    n_splits, seed = as_integer(n_splits, "n_splits", 1), as_integer(seed, "seed", 0)
    n, n_cells = cells.shape
    if n < 4 or n_cells < 2 or not np.isfinite(cells).all():
        return SplitHalf(np.nan, np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    correlations = []
    for _ in range(n_splits):
        order, half = rng.permutation(n), n // 2  # an odd n leaves one example out
        first, second = cells[order[:half]].mean(axis=0), cells[order[half : 2 * half]].mean(axis=0)
        correlations.append(spearman(first, second)[0])
    if np.isnan(correlations).all():
        return SplitHalf(np.nan, np.nan, np.nan, np.nan)
    mean = float(np.nanmean(correlations))
    low, high = np.nanpercentile(correlations, [2.5, 97.5])
    return SplitHalf(mean, float(low), float(high), 2 * mean / (1 + mean) if mean > -1 else np.nan)


def rank_biased_overlap(a: Sequence[Hashable], b: Sequence[Hashable], p: float = 0.9) -> float:
    """Agreement of two rankings in [0, 1], with most weight at the top: 1 identical, 0 no item in common.

    `RBO_ext = A_k p^k + (1 - p) / p * sum over d = 1..k of A_d p^d`, where `A_d` is the share of items that
    the first d of both have in common. The first 10 places hold 86 % of the weight at p = 0.9.

    Raises:
        ValueError: rankings of unlike lengths, of none, or that name an item twice.

    Misleads: two rankings of the same items never reach 0, since they agree at full depth; compare with a
    control.
    Source: Webber, Moffat and Zobel (2010), ACM TOIS 28(4), Eq. 32, here for two lists of one length without
    ties.
    """
    a, b = _two_orders(a, b)
    if len(a) != len(b) or not len(a):
        raise ValueError(f"The rankings have {len(a)} and {len(b)} items; expected one length, at least 1.")
    if len(set(a)) < len(a) or len(set(b)) < len(b):
        raise ValueError("A ranking names an item twice; expected each item once.")
    p = as_share(p, "p", 0.9, "persistence")
    seen_a, seen_b, common, weighted = set(), set(), 0, 0.0
    for depth, (x, y) in enumerate(zip(a, b, strict=True), start=1):
        seen_a.add(x)
        seen_b.add(y)
        common += int(x in seen_b) + int(y in seen_a and x != y)
        weighted += common / depth * p**depth
    return common / len(a) * p ** len(a) + (1 - p) / p * weighted


def top_k_overlap(a: Sequence[Hashable], b: Sequence[Hashable], k: int, population: int) -> TopKOverlap:
    """Items that the first k of both share, and the chance level for random orders of `population` items.

    `expected = k * k / population`; p is the hypergeometric probability of at least this overlap.

    Raises:
        ValueError: ``k`` below 1 or above the length of a ranking, and a ranking that names an item twice.

    Misleads: p takes orders for random; heads of one model are not independent, so it is too small.
    Source: the hypergeometric distribution.
    """
    a, b = _two_orders(a, b)
    k, population = as_integer(k, "k"), as_integer(population, "population")
    if not 1 <= k <= min(len(a), len(b), population):
        raise ValueError(
            f"k is {k}; expected 1 to {min(len(a), len(b), population)}: the rankings have {len(a)} and "
            f"{len(b)} items, the population {population}."
        )
    if len(set(a[:k])) < k or len(set(b[:k])) < k:
        raise ValueError("A ranking names an item twice; expected each item once.")
    count = len(set(a[:k]) & set(b[:k]))
    p = float(scipy.stats.hypergeom.sf(count - 1, population, k, k))
    return TopKOverlap(count, count / k, k * k / population, p)


def paired_bootstrap_means(
    a: ArrayLike,
    b: ArrayLike,
    ids_a: Sequence[Hashable],
    ids_b: Sequence[Hashable],
    n_resamples: int = N_BOOTSTRAP,
    seed: int = SEED,
) -> tuple[Float[np.ndarray, "draw cell_a"], Float[np.ndarray, "draw cell_b"]]:
    """Means over examples of two arrays in the same bootstrap draws, the cells of an example in one row.

    An example that both arrays have (equal ids) is drawn for both at once, so that paired measurements stay paired;
    the others are drawn on their own, as many as there are. Two arrays without a common example are thus drawn
    independently.

    Cost: `n_resamples` times the examples and cells in float64.
    """
    a, b = as_numbers(a, "a"), as_numbers(b, "b")
    ids_a, ids_b = as_items(ids_a, "ids_a"), as_items(ids_b, "ids_b")
    if [len(a), len(b)] != [len(ids_a), len(ids_b)]:
        raise ValueError(
            f"{len(a)} and {len(b)} examples have {len(ids_a)} and {len(ids_b)} ids; expected one for each."
        )
    n_resamples, rng = as_integer(n_resamples, "n_resamples", 1), np.random.default_rng(as_integer(seed, "seed", 0))
    common = set(ids_a) & set(ids_b)
    groups = [[i for i in dict.fromkeys((*ids_a, *ids_b)) if i in common]]
    groups += [[i for i in dict.fromkeys(ids) if i not in common] for ids in (ids_a, ids_b)]
    drawn: dict[Hashable, np.ndarray] = {}
    for group in groups:
        if group:
            counts = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), size=n_resamples)
            drawn |= dict(zip(group, counts.T, strict=True))
    means = []
    for array, ids in ((a, ids_a), (b, ids_b)):
        weights = np.stack([drawn[i] for i in ids], axis=1).astype(np.float64)  # [draw, example]
        cells = array.reshape(len(array), -1)
        means.append(weights @ cells / weights.sum(axis=1, keepdims=True))
    return means[0], means[1]


def correlation_by_row(a: ArrayLike, b: ArrayLike) -> Float[np.ndarray, "*row"]:
    """Pearson's correlation of rows [..., cell] with rows [..., cell], each with the one in its place; NaN where one is
    constant. One of the two may have a single row."""
    a, b = (x - x.mean(axis=-1, keepdims=True) for x in (as_numbers(a, "a"), as_numbers(b, "b")))
    norm = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    size = max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    known = norm > 1e-14 * size**2
    found = np.where(known, (a * b).sum(-1) / np.where(known, norm, 1.0), np.nan)
    return np.asarray(found.clip(-1, 1))  # of two single rows, too


def spearman(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """Spearman's correlation of two lists of values [cell]; mid-ranks for equal values.

    Returns:
        The correlation, -1 to 1, and its p; NaN for fewer than 2 values, and where one list is constant.

    Misleads: p takes the cells for independent; heads of one model are not.
    Source: Spearman (1904), Am. J. Psychol. 15.
    """
    a, b = as_numbers(a, "a", 1), as_numbers(b, "b", 1)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan, np.nan
    found = scipy.stats.spearmanr(a, b)
    return float(found.statistic), float(found.pvalue)


def ranks(values: ArrayLike) -> Float[np.ndarray, "... cell"]:
    """1 for the highest of values [..., cell]; equal values share their mean rank."""
    low_first = -as_numbers(values, "values")
    order = np.argsort(low_first, axis=-1)
    ordered = np.take_along_axis(low_first, order, axis=-1)
    if not (ordered[..., 1:] > ordered[..., :-1]).all():  # equal values, or NaN: the general way, a third as fast
        return scipy.stats.rankdata(low_first, axis=-1)
    found = np.full(low_first.shape, np.nan)
    np.put_along_axis(found, order, np.broadcast_to(np.arange(1.0, order.shape[-1] + 1), order.shape), axis=-1)
    return found


def around(value: float, draws: ArrayLike) -> Estimate:
    """A correlation with its 95 % interval: `tanh(z(value) +- 1.96 sd(z(draws)))`, z being Fisher's.

    Not the draws' percentiles: a resample carries the noise of the sample and its own, so correlations of resampled
    means lie below the sample's (simulated, 24 to 60 examples of 120 heads: percentiles cover what another sample
    would give 0 to 97 % of the time, this interval 89 to 95 %). NaN ends if most draws are NaN, or the value.
    Misleads: it says what other *examples* would give, not other heads, and not the correlation without noise.
    Source: Fisher (1915), Biometrika 10; Efron and Tibshirani (1993), ch. 13.
    """
    value, draws = float(as_numbers(value, "value", 0)), as_numbers(draws, "draws", 1)
    known = draws[np.isfinite(draws)]
    if not np.isfinite(value) or 2 * len(known) < len(draws) or len(known) < 2:
        return Estimate(value, np.nan, np.nan)
    half = scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * np.arctanh(known.clip(-_NEARLY_ONE, _NEARLY_ONE)).std()
    middle = np.arctanh(np.clip(value, -_NEARLY_ONE, _NEARLY_ONE))
    low, high = np.tanh([middle - half, middle + half])
    return Estimate(value, min(float(low), value), max(float(high), value))


def shift_q(change: ArrayLike, draws: ArrayLike, n: int) -> Float[np.ndarray, " cell"]:
    """Benjamini-Hochberg q that a change is zero: Student's t with the draws' deviation and `n - 1` degrees.

    1 for a cell that changes neither here nor in any draw, NaN for fewer than 2 examples, and never below one in the
    number of draws, on which the deviation rests.
    """
    change, draws, n = as_numbers(change, "change", 1), as_numbers(draws, "draws", 2), as_integer(n, "n", 0)
    if n < 2:
        return np.full(change.shape, np.nan)
    spread = draws.std(axis=0)
    sure = np.where(change == 0, 0.0, np.inf)
    t = np.divide(np.abs(change), spread, out=sure, where=spread > 0)
    return np.maximum(
        scipy.stats.false_discovery_control(2 * scipy.stats.t.sf(t, n - 1), method="bh"), 1 / (len(draws) + 1)
    )


def rank_biased_overlap_by_chance(
    n: int, p: float = 0.9, n_permutations: int = N_BOOTSTRAP, seed: int = SEED
) -> Float[np.ndarray, " permutation"]:
    """`interp.statistics.rank_biased_overlap` of random orders of n items, for as many permutations; read-only.

    Only one order needs to be random. The share of items that the first d of both have is counted at once: an item
    is common from the later of its two places on.
    """
    n, p = as_integer(n, "n", 1), as_real(p, "p")
    return _overlaps_by_chance(n, p, as_integer(n_permutations, "n_permutations", 1), as_integer(seed, "seed", 0))


@lru_cache(maxsize=32)
def _overlaps_by_chance(n: int, p: float, n_permutations: int, seed: int) -> Float[np.ndarray, " permutation"]:
    rng = np.random.default_rng(seed)
    places = np.arange(n)
    weights = p ** np.arange(1, n + 1)
    found = np.full(n_permutations, np.nan)
    for i in range(n_permutations):
        later = np.maximum(places, rng.permutation(n))
        share = np.bincount(later, minlength=n).cumsum() / np.arange(1, n + 1)
        found[i] = share[-1] * weights[-1] + (1 - p) / p * (share @ weights)
    found.setflags(write=False)
    return found


def _two_orders(a: Sequence[Hashable], b: Sequence[Hashable]) -> tuple[list[Hashable], list[Hashable]]:
    """Both orders in Python's own values; heads by number in one and by label in the other would share nothing."""
    a, b = as_items(a, "the first ranking"), as_items(b, "the second ranking")
    kinds = [{"a number" if isinstance(i, int | float) else type(i).__name__ for i in items} for items in (a, b)]
    if a and b and not kinds[0] & kinds[1]:
        raise TypeError(
            f"one ranking has items such as {a[0]!r}, the other such as {b[0]!r}; expected one kind of item."
        )
    return a, b

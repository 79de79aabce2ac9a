"""Statistics of per-example scores: intervals, shares, sign-flip tests, false discovery rate, agreement of rankings.

Every function takes numbers in any array, list or column, with the examples on axis 0, counts in float64, and
treats each remaining cell (a head) on its own. scipy does the resampling; all results are a pure function of the
arguments and `seed`.

How it is fast: a bootstrap mean is a weighted mean whose weights are the counts of the drawn examples, and a
sign-flipped mean is one whose weights are +1 and -1. So scipy resamples a single vector (indices, or signs),
and the statistic is one matrix product with the scores of all heads: [1000 examples, 1024 heads] takes
seconds. The draws are therefore shared by all heads. Each head's own interval and p are unaffected; errors
of two heads are correlated.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from interp.door import as_integer, as_items, as_numbers, as_real

CONFIDENCE, N_BOOTSTRAP, SEED = 0.95, 2000, 0  # what rankings use; recorded in their provenance


_MAX_BYTES = 64 * 2**20  # of the largest single array; scipy holds about three of them at a time


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval, each of shape [...]."""

    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """``name``, ``name_low`` and ``name_high``, for a row of a table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def __format__(self, form: str) -> str:
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


UNKNOWN = Estimate(np.nan, np.nan, np.nan)


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


def mean_interval(
    scores: Float[np.ndarray, "example ..."],
    confidence: float = CONFIDENCE,
    n_resamples: int = N_BOOTSTRAP,
    seed: int = SEED,
) -> Interval:
    """Percentile bootstrap interval of the mean over examples, for each head.

    Draw n examples with replacement, take the mean, repeat `n_resamples` times; the interval is the central
    `confidence` share of those means. NaN where n < 2 or a score is not finite.

    Cost: `n_resamples * n * heads` multiply-adds, under 256 MB beside the scores themselves.
    Misleads: it is too narrow for n below about 20, and it is an interval for one head chosen beforehand:
    the interval of the top head of a ranking does not include that it was picked for being the top (winner's
    curse).
    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 13; `scipy.stats.bootstrap`.

    >>> low, high = mean_interval(np.array([[1.0], [1.0], [1.0]]))
    >>> float(low[0]), float(high[0])
    (1.0, 1.0)
    """
    cells, shape = _as_cells(scores)
    n, n_resamples, seed = len(cells), as_integer(n_resamples, "n_resamples", 1), as_integer(seed, "seed", 0)
    confidence = _share(confidence, "confidence", 0.95)

    def interval(block: np.ndarray) -> np.ndarray:
        def mean_of_draws(draws: np.ndarray, axis: int) -> np.ndarray:  # [batch, n] -> [cell, batch]
            rows = np.atleast_2d(np.moveaxis(draws, axis, -1)).astype(np.int64)
            offsets = n * np.arange(len(rows))[:, None]
            counts = np.bincount((rows + offsets).ravel(), minlength=n * len(rows)).reshape(len(rows), n)
            return (counts / n @ block).T

        result = stats.bootstrap(
            (np.arange(n),),
            mean_of_draws,
            n_resamples=n_resamples,
            batch=max(1, _MAX_BYTES // (8 * n)),
            vectorized=True,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        return np.stack(result.confidence_interval)

    if n < 2:
        return Interval(np.full(shape, np.nan), np.full(shape, np.nan))
    low, high = _in_blocks(interval, cells, width=_MAX_BYTES // (8 * n_resamples), n_outputs=2)
    return Interval(low.reshape(shape), high.reshape(shape))


def bootstrap_interval(
    statistic: Callable[..., np.ndarray | float],
    *arrays: np.ndarray,
    groups: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_BOOTSTRAP,
    seed: int = SEED,
    weighted: bool = False,
) -> Interval:
    """Percentile bootstrap interval of any statistic of examples, a number or an array of them.

    ``arrays`` have the examples on axis 0; an example is drawn with its rows in all of them, so that paired
    measurements stay paired. ``groups`` names each example's group (a pair, a passage): whole groups are then
    drawn, since examples of one group are not independent. ``statistic(*arrays)`` gets the rows drawn. With
    ``weighted=True`` it is called as ``statistic(*arrays, counts)`` and must give its values [draw, ...] for
    counts [draw, example] of how often each example was drawn: far faster where it is a sum. Both ways use the
    same draws, and calls with the same seed, size and groups do too.

    Draws on which a number is NaN (a share of nothing) are left out of its interval; the interval is NaN if
    they are more than half, or with fewer than 2 groups.

    Cost: ``n_resamples`` calls, or a few matrices of up to 64 MB.
    Misleads: too narrow below about 20 groups; of no width where all examples agree (a share of 0 or 1).
    Source: Efron and Tibshirani (1993), ch. 13; whole groups: Davison and Hinkley (1997), Bootstrap Methods, 3.8.

    >>> low, high = bootstrap_interval(lambda x: x.mean(), np.arange(100.0))
    >>> bool(low < 49.5 < high)
    True
    """
    arrays = tuple(_in_full(a, f"array {i}") for i, a in enumerate(arrays))
    n_resamples, seed = as_integer(n_resamples, "n_resamples", 1), as_integer(seed, "seed", 0)
    if not arrays or len({len(a) for a in arrays}) != 1:
        raise ValueError(f"the arrays have lengths {[len(a) for a in arrays]}; expected one or more of one length.")
    confidence = _share(confidence, "confidence", 0.95)
    n = len(arrays[0])
    if n == 0:
        raise ValueError("there are no examples; a bootstrap needs at least one to draw from.")
    groups = None if groups is None else as_items(groups, "groups")
    if groups is not None and len(groups) != n:
        raise ValueError(f"groups names {len(groups)} examples; the arrays have {n}.")
    numbers: dict[Hashable, int] = {}
    group_of = np.array([numbers.setdefault(g, len(numbers)) for g in (range(n) if groups is None else groups)], int)
    values: list[np.ndarray] = []
    for counts in _drawn_counts(group_of, len(numbers), n_resamples, seed):
        if weighted:
            values.append(np.asarray(statistic(*arrays, counts.astype(np.float64)), dtype=np.float64))
        else:
            rows = (np.repeat(np.arange(n), row) for row in counts)
            values.append(np.stack([np.asarray(statistic(*(a[r] for a in arrays)), dtype=np.float64) for r in rows]))
    draws = np.concatenate(values)  # [draw, ...]
    known = np.isfinite(draws)
    usable = (known.sum(axis=0) * 2 >= n_resamples) & (len(numbers) >= 2)
    draws = np.where(known, draws, np.nan)
    draws[:, ~usable] = 0.0  # answered with NaN below; a column of NaN would warn
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    return Interval(np.where(usable, low, np.nan), np.where(usable, high, np.nan))


def _drawn_counts(
    group_of: Int[np.ndarray, " example"], n_groups: int, n_resamples: int, seed: int
) -> Iterator[Int[np.ndarray, "draw example"]]:
    """How often each example is drawn, in blocks of draws; the draws do not depend on the blocks."""
    rng = np.random.default_rng(seed)
    block = max(1, _MAX_BYTES // (8 * max(1, len(group_of))))
    for start in range(0, n_resamples, block):
        n = min(block, n_resamples - start)
        drawn = rng.integers(n_groups, size=(n, n_groups)) + n_groups * np.arange(n)[:, None]
        yield np.bincount(drawn.ravel(), minlength=n * n_groups).reshape(n, n_groups)[:, group_of]


def wilson_share(values: Sequence[float] | Float[np.ndarray, " example"], n: int | None = None) -> Estimate:
    """The mean of values from 0 to 1 (of booleans: the share that is true) with Wilson's 95 % interval.

    ``n``: how many examples stand behind it, by default as many as there are values. A value may be a mean over several
    runs on one example: counting the example once is on the careful side. Unlike a bootstrap, it keeps its width where
    all agree. NaN for no values.
    Source: Wilson (1927), J. Am. Stat. Assoc. 22; ``scipy.stats.binomtest``, which takes whole counts only, gives the
    same for them.

    >>> f"{wilson_share([True] * 8 + [False] * 2):.2f}"
    '0.80 [0.49, 0.94]'
    """
    values = _shares(values, "values")
    n = len(values) if n is None else as_integer(n, "n", 0)
    if not len(values) or not n:
        return UNKNOWN
    rate, z = float(values.mean()), _z()
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = (0.0 if rate == 0 else middle - half), (1.0 if rate == 1 else middle + half)  # else off by rounding
    return Estimate(rate, float(low), float(high))


def paired_share_change(after: Float[np.ndarray, " example"], before: Float[np.ndarray, " example"]) -> Estimate:
    """Mean of ``after - before`` over the same examples, each from 0 to 1, with its 95 % interval.

    NaN for none, or where one is NaN.

    Wald's interval with one pair added to either side, which keeps its width where all pairs agree; the same formula
    where an example has a mean over several runs.
    Source: Bonett and Price (2012), J. Educ. Behav. Stat. 37.
    """
    after, before = _shares(after, "after"), _shares(before, "before")
    if len(after) != len(before):
        raise ValueError(
            f"after has {len(after)} examples and before {len(before)}; expected the same examples in both."
        )
    changes = after - before
    if not np.isfinite(changes).all() or not len(changes):
        return UNKNOWN
    padded = np.array([*changes, 1.0, -1.0])
    half = _z() * padded.std() / np.sqrt(len(padded))
    return Estimate(float(changes.mean()), float(max(-1, padded.mean() - half)), float(min(1, padded.mean() + half)))


def sign_flip_p(
    scores: Float[np.ndarray, "example ..."], n_resamples: int = 9999, seed: int = SEED
) -> Float[np.ndarray, "..."]:
    """Two-sided p of "the mean is zero", for each head, by flipping the signs of whole examples at random.

    Null hypothesis: a head's scores are symmetric about zero. `p = 2 min(share of flips with mean >=
    observed, share <= observed)`, at most 1; all 2^n flips are used when they are no more than
    `n_resamples`, so p is then exact. All-zero scores give p = 1; NaN where a score is not finite.

    Cost: `n_resamples * n * heads` multiply-adds, under 256 MB beside the scores themselves.
    Misleads: p is never below `2 / (n_resamples + 1)`, so after correction for m heads a lone head cannot
    reach q < `2 m / (n_resamples + 1)`: use at least `100 m` resamples. Skewed scores are not symmetric
    under the null.
    Source: Fisher (1935), The Design of Experiments;
    `scipy.stats.permutation_test(permutation_type="samples")`.
    """
    cells, shape = _as_cells(scores)
    n, n_resamples, seed = len(cells), as_integer(n_resamples, "n_resamples", 1), as_integer(seed, "seed", 0)
    if n < 2:  # one example: the two flips are equally extreme
        return np.where(np.isfinite(cells).all(axis=0), 1.0 if n else np.nan, np.nan).reshape(shape)

    def p_value(block: np.ndarray) -> np.ndarray:
        exact = _exactly_summable(block)

        def mean_of_flipped(signs: np.ndarray, axis: int) -> np.ndarray:  # [batch, n] -> [batch, cell]
            return np.moveaxis(signs, axis, -1) @ exact

        result = stats.permutation_test(
            (np.ones(n),),
            mean_of_flipped,
            permutation_type="samples",
            n_resamples=n_resamples,
            batch=int(np.clip(_MAX_BYTES // (64 * n), 1, 1000)),
            vectorized=True,
            rng=np.random.default_rng(seed),
        )
        return result.pvalue[None]

    (p,) = _in_blocks(p_value, cells, width=_MAX_BYTES // (8 * n_resamples), n_outputs=1)
    return p.reshape(shape)


def benjamini_hochberg(p: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """q of each p: the lowest false discovery rate at which it is a discovery. NaN stays NaN, uncounted.

    `q_(i) = min over j >= i of m p_(j) / j` for sorted p; valid for independent or positively dependent
    tests.
    Source: Benjamini and Hochberg (1995), J. R. Stat. Soc. B 57; `scipy.stats.false_discovery_control`.
    """
    p = _shares(p, "p", n_axes=None)
    known = ~np.isnan(p)
    q = np.full(p.shape, np.nan)
    if known.any():
        q[known] = stats.false_discovery_control(p[known], method="bh")
    return q


def split_half(scores: Float[np.ndarray, "example ..."], n_splits: int = 50, seed: int = SEED) -> SplitHalf:
    """Is the sample large enough? Spearman correlation of the heads' means in two random halves.

    Near 1: another sample would give much the same ranking. Near 0: the order is noise, although the top few
    heads may still be clear. All NaN for n < 4, for fewer than 2 heads, or if all heads have equal means.

    Misleads: examples that repeat (paraphrases, one template) make halves alike and the value too high. It
    is one sample's value: for pure noise in m heads it scatters around 0 by about `0.7 / sqrt(m - 1)`, 0.2
    for 12 heads, whatever the number of splits.
    Source: Spearman (1910) and Brown (1910), Br. J. Psychol. 3.
    """
    cells, _ = _as_cells(scores)
    n_splits, seed = as_integer(n_splits, "n_splits", 1), as_integer(seed, "seed", 0)
    n, n_cells = cells.shape
    if n < 4 or n_cells < 2 or not np.isfinite(cells).all():
        return SplitHalf(np.nan, np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    correlations = []
    for _ in range(n_splits):
        order, half = rng.permutation(n), n // 2  # an odd n leaves one example out
        first, second = cells[order[:half]].mean(axis=0), cells[order[half : 2 * half]].mean(axis=0)
        constant = np.ptp(first) == 0 or np.ptp(second) == 0
        correlations.append(np.nan if constant else stats.spearmanr(first, second).statistic)
    if np.isnan(correlations).all():
        return SplitHalf(np.nan, np.nan, np.nan, np.nan)
    mean = float(np.nanmean(correlations))
    low, high = np.nanpercentile(correlations, [2.5, 97.5])
    return SplitHalf(mean, float(low), float(high), 2 * mean / (1 + mean) if mean > -1 else np.nan)


def rank_biased_overlap(a: Sequence[Hashable], b: Sequence[Hashable], p: float = 0.9) -> float:
    """Agreement of two rankings in [0, 1], with most weight at the top: 1 identical, 0 no item in common.

    `RBO_ext = A_k p^k + (1 - p) / p * sum over d = 1..k of A_d p^d`, where `A_d` is the share of items that
    the first d of both have in common. The first 10 places hold 86 % of the weight at p = 0.9.

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
    p = _share(p, "p", 0.9, "persistence")
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
    p = float(stats.hypergeom.sf(count - 1, population, k, k))
    return TopKOverlap(count, count / k, k * k / population, p)


def _z() -> float:
    """Half the width of the 95 % interval of a standard normal."""
    return float(stats.norm.ppf((1 + CONFIDENCE) / 2))


def _as_cells(scores: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """[example, ...] as float64 [example, cell], and the shape `...`."""
    scores = as_numbers(scores, "scores")
    if scores.ndim < 1:
        raise ValueError(f"scores is a single number ({scores}); expected an array with the examples on axis 0.")
    shape = scores.shape[1:]
    return scores.reshape(len(scores), int(np.prod(shape))), shape


def _in_full(values: Any, name: str) -> np.ndarray:
    """An array for a statistic of the caller's: numbers in float64, but masks and labels as they are."""
    array = values if isinstance(values, np.ndarray) and values.dtype.kind in "bOUS" else None
    array = as_numbers(values, name) if array is None else array
    if array.ndim < 1:
        raise ValueError(f"{name} is a single number ({array}); expected an array with the examples on axis 0.")
    return array


def _share(value: float, name: str, example: float, noun: str = "share") -> float:
    value = as_real(value, name)
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; expected a {noun} between 0 and 1, such as {example}.")
    return value


def _shares(values: Any, name: str, n_axes: int | None = 1) -> np.ndarray:
    values = as_numbers(values, name, n_axes)
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"{name} goes from {np.nanmin(values)} to {np.nanmax(values)}; expected values from 0 to 1.")
    return values


def _two_orders(a: Sequence[Hashable], b: Sequence[Hashable]) -> tuple[list[Hashable], list[Hashable]]:
    """Both orders in Python's own values; heads by number in one and by label in the other would share nothing."""
    a, b = as_items(a, "the first ranking"), as_items(b, "the second ranking")
    kinds = [{"a number" if isinstance(i, int | float) else type(i).__name__ for i in items} for items in (a, b)]
    if a and b and not kinds[0] & kinds[1]:
        raise TypeError(
            f"one ranking has items such as {a[0]!r}, the other such as {b[0]!r}; expected one kind of item."
        )
    return a, b


def _in_blocks(function: Callable[[np.ndarray], np.ndarray], cells: np.ndarray, width: int, n_outputs: int):
    """`function` over blocks of finite columns, so that memory is bounded; NaN for the other columns."""
    finite = np.flatnonzero(np.isfinite(cells).all(axis=0))
    result = np.full((n_outputs, cells.shape[1]), np.nan)
    for start in range(0, len(finite), max(1, width)):
        block = finite[start : start + max(1, width)]
        result[:, block] = function(cells[:, block])
    return result


def _exactly_summable(block: Float[np.ndarray, "example cell"]) -> Float[np.ndarray, "example cell"]:
    """Scores on a grid so coarse that signed sums are exact in float64, whatever the order of the additions.

    Without it two flips of equal mean can differ in the last bit, and the test would miss ties, down to p =
    0. The grid is 2^-(52 - log2 n) of the largest score of the column: far finer than float32. The scale
    cancels in the test.
    """
    largest = np.abs(block).max(axis=0)
    bits = 52 - int(np.ceil(np.log2(len(block))))
    return np.rint(block / np.where(largest > 0, largest, 1.0) * 2.0**bits)

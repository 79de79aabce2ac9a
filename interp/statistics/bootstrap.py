"""The bootstrap: an interval of any statistic, also of groups of examples."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float, Int

from interp.door import as_integer, as_numbers
from interp.statistics.estimates import (
    CONFIDENCE,
    MAX_BYTES,
    N_BOOTSTRAP,
    SEED,
    Interval,
    as_group_numbers,
    as_share,
    quantile_of,
)

_SAME, _LEAST_TAIL = 1e-12, 0.01


def bootstrap_interval(
    statistic: Callable[..., np.ndarray | float],
    *arrays: np.ndarray,
    groups: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_BOOTSTRAP,
    seed: int = SEED,
    weighted: bool = False,
) -> Interval:
    """Bootstrap interval (BCa) of any statistic of examples, a number or an array of them.

    ``arrays`` have the examples on axis 0; an example is drawn with its rows in all of them, so that paired
    measurements stay paired. ``groups`` names each example's group (a pair, a passage): whole groups are then
    drawn, since examples of one group are not independent. ``statistic(*arrays)`` gets the rows drawn. With
    ``weighted=True`` it is called as ``statistic(*arrays, counts)`` and must give its values [draw, ...] for
    counts [draw, example] of how often each example was drawn: far faster where it is a sum. Both ways use the
    same draws, and calls with the same seed, size and groups do too.

    Draws on which a number is NaN (a share of nothing) are left out of its interval; the interval is NaN if
    they are more than half, or with fewer than 2 groups.

    For what has no formula. Means, ratios, shares and AUROCs have intervals that cover better: :func:`mean_interval`,
    :func:`ratio_interval`, :func:`wilson_share`, :func:`auroc_interval`.

    Returns:
        Both ends, each of the shape of the statistic and in its unit.

    Raises:
        ValueError: arrays of unlike lengths, or of no examples.

    Cost: ``n_resamples`` calls and one for each group, or a few matrices of up to 64 MB.
    Misleads: too narrow for skewed data below about 60 groups; of no width where all examples agree.
    Source: bias-corrected and accelerated, Efron (1987), J. Am. Stat. Assoc. 82; tails of Student's t in place of the
    normal: Hesterberg (2015), Am. Stat. 69; whole groups: Davison and Hinkley (1997), Bootstrap Methods, 3.8.

    >>> low, high = bootstrap_interval(lambda x: x.mean(), np.arange(100.0))
    >>> bool(low < 49.5 < high)
    True
    """
    arrays = tuple(_in_full(a, f"array {i}") for i, a in enumerate(arrays))
    n_resamples, seed = as_integer(n_resamples, "n_resamples", 1), as_integer(seed, "seed", 0)
    if not arrays or len({len(a) for a in arrays}) != 1:
        raise ValueError(f"the arrays have lengths {[len(a) for a in arrays]}; expected one or more of one length.")
    confidence = as_share(confidence, "confidence", 0.95)
    n = len(arrays[0])
    if n == 0:
        raise ValueError("there are no examples; a bootstrap needs at least one to draw from.")
    group_of = as_group_numbers(groups, n)
    n_groups = int(group_of.max()) + 1

    def of(counts: np.ndarray) -> np.ndarray:  # [draw, example] -> [draw, ...]
        if weighted:
            return np.asarray(statistic(*arrays, counts.astype(np.float64)), dtype=np.float64)
        rows = (np.repeat(np.arange(n), row) for row in counts)
        return np.stack([np.asarray(statistic(*(a[r] for a in arrays)), dtype=np.float64) for r in rows])

    draws = np.concatenate([of(counts) for counts in _drawn_counts(group_of, n_groups, n_resamples, seed)])
    value, shape = of(np.ones((1, n), dtype=int))[0].ravel(), draws.shape[1:]
    if n_groups < 2:
        return Interval(np.full(shape, np.nan), np.full(shape, np.nan))
    left_out = np.concatenate([of(counts) for counts in _one_left_out(group_of, n_groups)]).reshape(n_groups, -1)
    low, high = _corrected(draws.reshape(n_resamples, -1), value, left_out, confidence)
    return Interval(low.reshape(shape), high.reshape(shape))


def _corrected(
    draws: Float[np.ndarray, "draw cell"],
    value: Float[np.ndarray, " cell"],
    left_out: Float[np.ndarray, "group cell"],
    confidence: float,
) -> Float[np.ndarray, "2 cell"]:
    """BCa quantiles of the draws, at Student's tails; NaN where most draws are not known."""
    n_groups = len(left_out)
    draws = np.sort(np.where(np.isfinite(draws), draws, np.nan), axis=0)  # NaN last
    n_known = np.isfinite(draws).sum(axis=0)
    usable = n_known * 2 >= len(draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        near = _SAME * np.maximum(np.abs(value), 1e-300)
        below = ((draws < value - near).sum(0) + (np.abs(draws - value) <= near).sum(0) / 2) / n_known
        bias = scipy.stats.norm.ppf(np.where(np.isfinite(below), below, 0.5).clip(_LEAST_TAIL, 1 - _LEAST_TAIL))
        pulls = left_out.mean(axis=0) - left_out  # NaN where one is: no acceleration then
        squares = (pulls**2).sum(axis=0)
        skewed = np.isfinite(squares) & (squares > 0)
        lean = np.divide((pulls**3).sum(axis=0), 6 * squares**1.5, out=np.zeros_like(squares), where=skewed)
    half = np.sqrt(n_groups / (n_groups - 1)) * quantile_of(confidence, n_groups - 1)
    ends = []
    for z in (-half, half):
        moved = bias + z
        level = scipy.stats.norm.cdf(bias + moved / np.maximum(1 - lean * moved, _LEAST_TAIL))
        place = level * np.maximum(n_known - 1, 0)
        lower = np.floor(place).astype(int)
        upper = np.minimum(lower + 1, np.maximum(n_known - 1, 0))
        cell = np.arange(draws.shape[1])
        end = draws[lower, cell] + (place - lower) * (draws[upper, cell] - draws[lower, cell])
        ends.append(np.where(usable, end, np.nan))
    low, high = ends
    return np.stack([np.where(usable, np.fmin(low, value), np.nan), np.where(usable, np.fmax(high, value), np.nan)])


def _one_left_out(group_of: Int[np.ndarray, " example"], n_groups: int) -> Iterator[Int[np.ndarray, "group example"]]:
    """Every example once but those of one group, for each group, in blocks."""
    block = max(1, MAX_BYTES // (8 * len(group_of)))
    for start in range(0, n_groups, block):
        yield (group_of != np.arange(start, min(start + block, n_groups))[:, None]).astype(int)


def _drawn_counts(
    group_of: Int[np.ndarray, " example"], n_groups: int, n_resamples: int, seed: int
) -> Iterator[Int[np.ndarray, "draw example"]]:
    """How often each example is drawn, in blocks of draws; the draws do not depend on the blocks."""
    rng = np.random.default_rng(seed)
    block = max(1, MAX_BYTES // (8 * max(1, len(group_of))))
    for start in range(0, n_resamples, block):
        n = min(block, n_resamples - start)
        drawn = rng.integers(n_groups, size=(n, n_groups)) + n_groups * np.arange(n)[:, None]
        yield np.bincount(drawn.ravel(), minlength=n * n_groups).reshape(n, n_groups)[:, group_of]


def _in_full(values: Any, name: str) -> np.ndarray:
    """An array for a statistic of the caller's: numbers in float64, but masks and labels as they are."""
    array = values if isinstance(values, np.ndarray) and values.dtype.kind in "bOUS" else None
    array = as_numbers(values, name) if array is None else array
    if array.ndim < 1:
        raise ValueError(f"{name} is a single number ({array}); expected an array with the examples on axis 0.")
    return array

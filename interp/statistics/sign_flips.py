"""Is a mean zero? Signs of whole examples flipped; and the false discovery rate over many such tests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from interp.door import as_integer
from interp.door.brief import brief
from interp.statistics.estimates import MAX_BYTES, SEED, as_cells, as_shares

_NO_SPREAD, _FAR = 1e-12, 1e100
_ENOUGH = 200  # flips as extreme on the rarer side, after which no more are drawn
_HARDLY = 1e-3  # chance that a drawn flip reaches a head that is called far


def sign_flip_p(scores: ArrayLike, n_resamples: int = 9999, seed: int = SEED) -> Float[np.ndarray, "*cell"]:
    """Two-sided p of "the mean is zero", for each head, by flipping the signs of whole examples at random.

    What is compared over flips is Hall's transformation of the studentised mean
    (:mod:`interp.statistics.means`): `p = 2 min(share of flips with as much or more, share with as much or less)`, at
    most 1. Exact for scores that are symmetric about zero, whatever is compared; for skewed ones, whose mean is zero
    while most of them lie on one side, it holds its level where flips of the plain mean are 2 to 3 times too often
    below 0.05 (`tests/benchmarks/coverage.md`). A studentised mean alone would change nothing: flips leave the sum of
    squares as it is, so t rises with the mean. All 2^n flips are used when they are no more than `n_resamples`.

    Args:
        scores: [example, ...]; for groups their sums (:func:`group_sums`), flipped as one.
        n_resamples: flips to draw.
        seed: of the draws, which all heads share.

    Returns:
        Of shape [...]. 1 for all-zero scores; NaN where a score is not finite.

    Flips are drawn for the heads that need them: none for a head so far from zero that the chance that any drawn flip
    reaches it is under one in a thousand (its p is the smallest that there is), and no more once 200 flips were as
    extreme on the rarer side, which tells p within 7 %.

    Cost: `2 n * heads` multiply-adds a flip, under 256 MB beside three times the scores themselves. 2000 x 1024 scores
    take seconds.
    Misleads: p is never below `2 / (n_resamples + 1)`, so after correction for m heads a lone head cannot reach
    q < `2 m / (n_resamples + 1)`: use at least `100 m` resamples.
    Source: Fisher (1935), The Design of Experiments; studentised tests of means: Janssen (1997), Stat. Probab. Lett.
    36; stopping: Besag and Clifford (1991), Biometrika 78; all flips: `scipy.stats.permutation_test`.
    """
    cells, shape = as_cells(scores)
    n, n_resamples, seed = len(cells), as_integer(n_resamples, "n_resamples", 1), as_integer(seed, "seed", 0)
    p = np.full(cells.shape[1], np.nan)
    finite = np.isfinite(cells).all(axis=0)
    if n < 2:  # one example: the two flips are equally extreme
        p[finite] = 1.0 if n else np.nan
    elif finite.any():
        p_of = _of_all_flips if 2**n <= n_resamples else partial(_of_drawn_flips, n_resamples=n_resamples, seed=seed)
        p[finite] = p_of(_Flipped.of(cells[:, finite]))
    return p.reshape(shape)


@dataclass(frozen=True, eq=False)
class _Flipped:
    """Scores whose signs are flipped, each head's at most 1 in size, with their cubes and the mean of their squares."""

    scaled: Float[np.ndarray, "example cell"]
    cubes: Float[np.ndarray, "example cell"]
    squares: Float[np.ndarray, " cell"]

    __repr__ = brief

    @classmethod
    def of(cls, cells: Float[np.ndarray, "example cell"]) -> _Flipped:
        size = np.abs(cells).max(axis=0)
        scaled = _exactly_summable(cells / np.where(size > 0, size, 1.0))
        return cls(scaled, _exactly_summable(scaled**3), (scaled**2).mean(axis=0))

    def under(self, signs: Float[np.ndarray, "flip example"]) -> Float[np.ndarray, "flip cell"]:
        """What is compared over flips."""
        n = len(self.scaled)
        return _transformed(signs @ self.scaled / n, signs @ self.cubes / n, self.squares, n)

    def __getitem__(self, chosen: np.ndarray) -> _Flipped:
        return _Flipped(self.scaled[:, chosen], self.cubes[:, chosen], self.squares[chosen])


def _of_all_flips(flipped: _Flipped) -> Float[np.ndarray, " cell"]:
    n = len(flipped.scaled)

    def statistic(signs: np.ndarray, axis: int) -> np.ndarray:
        found = flipped.under(np.moveaxis(signs, axis, -1).reshape(-1, n))
        return found if signs.ndim > 1 else found[0]

    result = scipy.stats.permutation_test(
        (np.ones(n),),
        statistic,
        permutation_type="samples",
        n_resamples=2**n,
        batch=_at_once(flipped),
        vectorized=True,
    )
    return result.pvalue


def _of_drawn_flips(flipped: _Flipped, n_resamples: int, seed: int) -> Float[np.ndarray, " cell"]:
    """Flips drawn for heads that are neither far from zero nor plainly near it; the same flips for all."""
    observed, rng = flipped.under(np.ones((1, len(flipped.scaled))))[0], np.random.default_rng(seed)
    above, below = np.zeros((2, len(observed)), dtype=np.int64)
    drawn = np.full(len(observed), n_resamples)
    left = np.flatnonzero(~_is_far(flipped, observed, n_resamples))
    n_drawn = 0
    while len(left) and n_drawn < n_resamples:
        these = flipped[left]
        n_more = min(_at_once(these), n_resamples - n_drawn)
        signs = 2.0 * rng.integers(0, 2, (n_more, len(these.scaled)), dtype=np.int8) - 1
        found, near = these.under(signs), 1e-14 * np.abs(observed[left])
        above[left] += (found >= observed[left] - near).sum(axis=0)
        below[left] += (found <= observed[left] + near).sum(axis=0)
        n_drawn += n_more
        drawn[left] = n_drawn
        left = left[np.minimum(above, below)[left] < _ENOUGH]
    return np.minimum(2 * (np.minimum(above, below) + 1) / (drawn + 1), 1.0)


def _at_once(flipped: _Flipped) -> int:
    """Flips that are looked at together."""
    return int(np.clip(MAX_BYTES // (64 * max(flipped.scaled.shape)), 1, 1000))


def _is_far(flipped: _Flipped, observed: Float[np.ndarray, " cell"], n_resamples: int) -> Bool[np.ndarray, " cell"]:
    """Heads whose observed value no drawn flip will reach, by a bound on the chance that any does.

    What is compared grows with the mean m of a flip and with its skewness k. With |m| below some M, k is at most K(M);
    if even M with K(M) stays below what was observed, a flip that reaches it has |m| >= M, and of those there are at
    most a share of 2 exp(-n M^2 / 2 q), with q the mean of the squares (Hoeffding 1963). The largest such M is sought.
    """
    n, q = len(flipped.scaled), np.where(flipped.squares > 0, flipped.squares, 1.0)
    mean, size = np.abs(flipped.scaled.mean(axis=0)), np.abs(flipped.cubes).mean(axis=0)
    aim, far = np.abs(observed), np.zeros(len(q), dtype=bool)
    for part in np.linspace(0.95, 0.3, 14):
        m = part * mean
        variance = q - m * m
        scale = variance**1.5 * np.sqrt(n) / (1 + 6 / n)
        t, k = m * np.sqrt((n - 1) / variance), size / scale
        reached = t * (1 + k * t / 3 + (k * t) ** 2 / 27) + k / 6
        other_side = (size + 3 * m * q) / scale / 6  # of flips with a mean below zero
        chance = 2 * np.exp(-n * m * m / (2 * q))
        far |= (np.maximum(reached, other_side) < aim) & (chance * n_resamples < _HARDLY)
    return far


def benjamini_hochberg(p: ArrayLike) -> Float[np.ndarray, "*cell"]:
    """q of each p: the lowest false discovery rate at which it is a discovery. NaN stays NaN, uncounted.

    `q_(i) = min over j >= i of m p_(j) / j` for sorted p; valid for independent or positively dependent
    tests.

    Returns:
        Of the shape of ``p``, 0 to 1.

    Misleads: it is of all these tests together; heads that were looked at first are no longer all.
    Source: Benjamini and Hochberg (1995), J. R. Stat. Soc. B 57; `scipy.stats.false_discovery_control`.
    """
    p = as_shares(p, "p", n_axes=None)
    known = ~np.isnan(p)
    q = np.full(p.shape, np.nan)
    if known.any():
        q[known] = scipy.stats.false_discovery_control(p[known], method="bh")
    return q


def _transformed(mean: np.ndarray, cube: np.ndarray, square: np.ndarray, n: int) -> np.ndarray:
    """Hall's transformation of the studentised mean, from the means of x, x^3 and x^2."""
    variance = square - mean * mean
    flat = variance <= _NO_SPREAD * square
    error = np.sqrt(np.where(flat, 1.0, variance))
    k = cube - mean * (3 * square - 2 * mean * mean)
    k /= error * error * error * (np.sqrt(n) / (1 + 6 / n))
    t = mean * np.sqrt(n - 1) / error
    lean = k * t
    found = t * (1 + lean / 3 + lean * lean / 27) + k / 6
    return np.where(flat, np.sign(mean) * _FAR, found) if flat.any() else found


def _exactly_summable(block: Float[np.ndarray, "example cell"]) -> Float[np.ndarray, "example cell"]:
    """Numbers of size up to 1 on a grid so coarse that signed sums are exact in float64, whatever their order.

    Without it two flips of equal mean can differ in the last bit, and the test would miss ties, down to p = 0. The grid
    is 2^-(52 - log2 n): far finer than float32.
    """
    grid = 2.0 ** (52 - int(np.ceil(np.log2(len(block)))))
    return np.rint(block * grid) / grid

"""Is a mean zero? Signs of whole examples flipped; and the false discovery rate over many such tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy
from jaxtyping import Float
from numpy.typing import ArrayLike

from interp.door import as_integer
from interp.statistics.estimates import MAX_BYTES, SEED, as_cells, as_shares

_NO_SPREAD, _FAR = 1e-12, 1e100


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

    Cost: `2 n_resamples * n * heads` multiply-adds, under 256 MB beside the scores themselves.
    Misleads: p is never below `2 / (n_resamples + 1)`, so after correction for m heads a lone head cannot reach
    q < `2 m / (n_resamples + 1)`: use at least `100 m` resamples.
    Source: Fisher (1935), The Design of Experiments; studentised tests of means: Janssen (1997), Stat. Probab. Lett.
    36; `scipy.stats.permutation_test(permutation_type="samples")`.
    """
    cells, shape = as_cells(scores)
    n, n_resamples, seed = len(cells), as_integer(n_resamples, "n_resamples", 1), as_integer(seed, "seed", 0)
    if n < 2:  # one example: the two flips are equally extreme
        return np.where(np.isfinite(cells).all(axis=0), 1.0 if n else np.nan, np.nan).reshape(shape)

    def p_value(block: np.ndarray) -> np.ndarray:
        size = np.abs(block).max(axis=0)
        scaled = _exactly_summable(block / np.where(size > 0, size, 1.0))
        cubes, squares = _exactly_summable(scaled**3), (scaled**2).mean(axis=0)

        def statistic(signs: np.ndarray, axis: int) -> np.ndarray:  # [batch, n] -> [batch, cell]
            signs = np.moveaxis(signs, axis, -1)
            return _transformed(signs @ scaled / n, signs @ cubes / n, squares, n)

        result = scipy.stats.permutation_test(
            (np.ones(n),),
            statistic,
            permutation_type="samples",
            n_resamples=n_resamples,
            batch=int(np.clip(MAX_BYTES // (64 * n), 1, 1000)),
            vectorized=True,
            rng=np.random.default_rng(seed),
        )
        return result.pvalue[None]

    (p,) = _in_blocks(p_value, cells, width=MAX_BYTES // (8 * n_resamples), n_outputs=1)
    return p.reshape(shape)


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


def _in_blocks(function: Callable[[np.ndarray], np.ndarray], cells: np.ndarray, width: int, n_outputs: int):
    """`function` over blocks of finite columns, so that memory is bounded; NaN for the other columns."""
    finite = np.flatnonzero(np.isfinite(cells).all(axis=0))
    result = np.full((n_outputs, cells.shape[1]), np.nan)
    for start in range(0, len(finite), max(1, width)):
        block = finite[start : start + max(1, width)]
        result[:, block] = function(cells[:, block])
    return result


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

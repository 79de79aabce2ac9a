"""How well scores tell two classes apart: the AUROC, its interval, and the difference of two on the same examples."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import scipy
from jaxtyping import Float
from numpy.typing import ArrayLike

from interp.statistics.estimates import (
    CONFIDENCE,
    UNKNOWN,
    Estimate,
    Interval,
    as_cells,
    as_group_numbers,
    group_sums,
    quantile_of,
)
from interp.statistics.means import mean_interval

TIE = 1e-6  # of the largest score of a column: what is nearer is a tie (float32 of a normaliser must not part them)
_HALVINGS = 50


def auroc(scores: ArrayLike, positive: ArrayLike) -> Float[np.ndarray, "*cell"]:
    """The chance that a positive example has a higher score than a negative one; a tie counts half.

    0.5: the score says nothing; below: it is the other way round.

    Args:
        scores: [example, ...]; each further cell (a layer) is judged on its own.
        positive: [example], whether each is of the class that scores high.

    Returns:
        Of shape [...]; NaN with one class only, and where a score is not finite.

    By mid-ranks. Scores that differ by less than a millionth of the largest in size are tied.
    Source: Mann and Whitney (1947), Ann. Math. Stat. 18; Hanley and McNeil (1982), Radiology 143.

    Misleads: it says nothing of a threshold, nor of how often either class comes up.

    >>> float(auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True])))
    0.875
    """
    value, _, shape = _placed(scores, positive)
    return value.reshape(shape)


def auroc_interval(
    scores: ArrayLike,
    positive: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Interval of :func:`auroc`, for each cell.

    A score interval: all values q that are no farther from the AUROC than Student's quantile times the standard error
    at q. That error is Hanley and McNeil's (negative and positive exponential scores), times how much these very
    examples scatter more or less than it at the AUROC itself. So it stays within 0 and 1, and keeps its width for
    classes told apart without an error.

    Args:
        scores: [example, ...], as in :func:`auroc`.
        positive: [example], the class of each.
        groups: the group of each example (a pair, several runs on one request), whose examples are not independent.
        confidence: how often it is to cover.

    Returns:
        NaN where the AUROC is, and with fewer than 2 groups in a class. Of no width where all scores are equal.

    Misleads: below 10 examples in a class it covers more than it says; near 1 about 93 % at 100 in each.
    Source: Newcombe (2006), Stat. Med. 25, method 5; the scatter: DeLong et al. (1988), Biometrics 44, of groups
    Obuchowski (1997), Biometrics 53.
    """
    value, residuals, shape = _placed(scores, positive)
    group = as_group_numbers(groups, len(residuals))
    positive = np.asarray(positive, dtype=bool)
    n_above, n_below = (len(set(group[side])) for side in (positive, ~positive))
    if min(n_above, n_below) < 2:
        return Interval(np.full(shape, np.nan), np.full(shape, np.nan))
    sums = group_sums(residuals, None if groups is None else groups)
    n = len(sums)
    variance = (sums**2).sum(axis=0) * n / (n - 1)

    def usual(q: np.ndarray) -> np.ndarray:
        """Hanley and McNeil's variance."""
        larger = (n_above + n_below) / 2 - 1
        return q * (1 - q) * (1 + larger * ((1 - q) / (2 - q) + q / (1 + q))) / (n_above * n_below)

    with np.errstate(divide="ignore", invalid="ignore"):
        more = np.where((value > 0) & (value < 1), variance / usual(value), 1.0).clip(_LEAST_SCATTER, None)
    z = quantile_of(confidence, max(n - 2, 1))
    ends = []
    for outermost in (0.0, 1.0):
        inside, outside = value.copy(), np.full_like(value, outermost)
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            is_in = np.abs(value - middle) <= z * np.sqrt(usual(middle) * more)
            inside, outside = np.where(is_in, middle, inside), np.where(is_in, outside, middle)
        inside = np.where(np.ptp(residuals, axis=0) + np.abs(value - 0.5) == 0, value, inside)  # all are tied
        ends.append(np.where(np.isfinite(value), inside, np.nan).reshape(shape))
    return Interval(*ends)


def auroc_estimate(scores: ArrayLike, positive: ArrayLike, groups: Sequence[Hashable] | None = None) -> Estimate:
    """One score's :func:`auroc`, of scores [example], with its 95 % interval; NaN with one class only.

    Misleads: as :func:`auroc` and :func:`auroc_interval`.
    Source: see :func:`auroc_interval`.
    """
    low, high = auroc_interval(scores, positive, groups)
    return Estimate(float(auroc(scores, positive)), float(low), float(high))


def auroc_difference(
    first: ArrayLike,
    second: ArrayLike,
    positive: ArrayLike,
    groups: Sequence[Hashable] | None = None,
) -> Estimate:
    """AUROC of ``first`` less that of ``second`` on the same examples, with a paired 95 % interval.

    Args:
        first: [example], a score of each.
        second: [example], another, of the same examples.
        positive: [example], the class of each.
        groups: as in :func:`auroc_interval`.

    Returns:
        NaN with one class only. Of no width where both scores place all examples alike.

    Misleads: below 10 examples in a class, as :func:`auroc_interval`.
    Source: DeLong et al. (1988), Biometrics 44.
    """
    (a, of_a, _), (b, of_b, _) = _placed(first, positive), _placed(second, positive)
    if not np.isfinite([a, b]).all():
        return UNKNOWN
    sums = group_sums(of_a - of_b, groups)
    low, high = mean_interval(sums[:, 0] * len(sums))
    value = float(a[0] - b[0])
    return Estimate(value, max(-1.0, value + float(low)), min(1.0, value + float(high)))


_LEAST_SCATTER = 0.3  # of the usual: so few examples that agree so well do so by chance


def _placed(scores: ArrayLike, positive: ArrayLike) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """AUROC of each cell [cell], what each example adds to its error [example, cell], and the shape of the cells."""
    cells, shape = as_cells(scores)
    positive = np.asarray(positive, dtype=bool)
    if len(positive) != len(cells):
        raise ValueError(f"scores has {len(cells)} examples and positive {len(positive)}; expected one for each.")
    n_above, n_below = int(positive.sum()), int((~positive).sum())
    value, residuals = np.full(cells.shape[1], np.nan), np.zeros(cells.shape)
    finite = np.isfinite(cells).all(axis=0)
    if not n_above or not n_below or not finite.any():
        return value, residuals, shape
    size = np.abs(cells[:, finite]).max(axis=0)
    tied = np.rint(cells[:, finite] / np.where(size > 0, size, 1.0) / TIE)
    ranks = scipy.stats.rankdata(tied, axis=0)
    above = (ranks[positive] - scipy.stats.rankdata(tied[positive], axis=0)) / n_below  # share of negatives below each
    below = 1 - (ranks[~positive] - scipy.stats.rankdata(tied[~positive], axis=0)) / n_above  # of positives above each
    value[finite] = above.mean(axis=0)
    own = np.zeros(tied.shape)
    own[positive], own[~positive] = (above - value[finite]) / n_above, (below - value[finite]) / n_below
    residuals[:, finite] = own
    return value, residuals, shape

"""Shares, their differences and their changes, with intervals that keep their width where all examples agree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Int
from numpy.typing import ArrayLike

from interp.door import as_integer
from interp.statistics.estimates import (
    CONFIDENCE,
    UNKNOWN,
    Estimate,
    as_group_numbers,
    as_shares,
    group_sums,
    quantile_of,
)
from interp.statistics.means import mean_interval


def wilson_share(
    values: ArrayLike,
    n: int | None = None,
    groups: Sequence[Hashable] | None = None,
) -> Estimate:
    """The mean of values from 0 to 1 (of booleans: the share that is true) with Wilson's 95 % interval.

    Args:
        values: [example], from 0 to 1. A value may be a mean over several runs on one example: counting the example
            once is on the careful side.
        n: how many examples stand behind it, by default as many as there are values.
        groups: the group of each value (a pair, a passage). The interval is then that of as many independent examples
            as would scatter like these groups, with Student's quantile; of as many as there are groups where all agree.

    Returns:
        NaN for no values; NaN ends for a single group.

    Misleads: examples that hang together without ``groups`` make it too narrow.
    Source: Wilson (1927), J. Am. Stat. Assoc. 22; ``scipy.stats.binomtest``, which takes whole counts only, gives the
    same for them. Groups: Korn and Graubard (1998), Survey Methodology 24 (the effective sample size).

    >>> f"{wilson_share([True] * 8 + [False] * 2):.2f}"
    '0.80 [0.49, 0.94]'
    """
    values = as_shares(values, "values")
    n = len(values) if n is None else as_integer(n, "n", 0)
    if not len(values) or not n:
        return UNKNOWN
    rate = float(values.mean())
    if groups is None:
        return wilson_of(rate, n)
    n_groups = int(as_group_numbers(groups, len(values)).max()) + 1
    if n_groups < 2:
        return Estimate(rate, np.nan, np.nan)
    if n_groups == len(values):
        return wilson_of(rate, n)
    squares = float((group_sums(values[:, None] - rate, groups) ** 2).sum()) / len(values) ** 2
    variance = squares * n_groups / (n_groups - 1)
    effective = min(len(values), rate * (1 - rate) / variance) if variance > 0 else n_groups
    return wilson_of(rate, effective, quantile_of(CONFIDENCE, n_groups - 1))


def wilson_of(rate: float, n: float, z: float | None = None) -> Estimate:
    """Wilson's interval of a share of ``n`` examples, which need not be a whole number; ``z``: its normal quantile."""
    z = quantile_of(CONFIDENCE) if z is None else z
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = (0.0 if rate == 0 else middle - half), (1.0 if rate == 1 else middle + half)  # else off by rounding
    return Estimate(rate, float(low), float(high))


def difference_of(first: Estimate, second: Estimate) -> Estimate:
    """``first - second`` for two estimates of *different* examples, with a 95 % interval made of theirs.

    For two Wilson intervals it is Newcombe's: unlike Wald's it keeps its width at 0 and 1. For other intervals it is
    the method of variance estimates recovered (MOVER), which keeps their lopsidedness. NaN where one is.

    Misleads: for the same examples under two conditions it is too wide, or for examples that hang together in another
    way wrong: use :func:`paired_share_change`, or a difference of means with groups.
    Source: Newcombe (1998), Stat. Med. 17, method 10; Zou and Donner (2008), Stat. Med. 27.

    >>> f"{difference_of(wilson_share([True] * 56 + [False] * 14), wilson_share([True] * 48 + [False] * 32)):.4f}"
    '0.2000 [0.0524, 0.3339]'
    """
    value = first.value - second.value
    low = value - np.hypot(first.value - first.low, second.high - second.value)
    high = value + np.hypot(first.high - first.value, second.value - second.low)
    return Estimate(float(value), float(low), float(high))


def paired_share_change(
    after: ArrayLike,
    before: ArrayLike,
    groups: Sequence[Hashable] | None = None,
) -> Estimate:
    """Mean of ``after - before`` over the same examples, each from 0 to 1, with its 95 % interval.

    Wald's interval with one pair added to either side, which keeps its width where all pairs agree; the same formula
    where an example has a mean over several runs.

    Args:
        after: [example], a share of each, under one condition.
        before: [example], under the other, in the same order.
        groups: the group of each example. The interval is then the wider of this one and that of the mean over groups.

    Returns:
        NaN for none, or where one is NaN.

    Raises:
        ValueError: unlike numbers of examples, and values outside 0 to 1.

    Misleads: the two pairs that are added pull the interval, not the value, a little towards 0.
    Source: Bonett and Price (2012), J. Educ. Behav. Stat. 37.
    """
    after, before = as_shares(after, "after"), as_shares(before, "before")
    if len(after) != len(before):
        raise ValueError(
            f"after has {len(after)} examples and before {len(before)}; expected the same examples in both."
        )
    changes = after - before
    if not np.isfinite(changes).all() or not len(changes):
        return UNKNOWN
    padded = np.array([*changes, 1.0, -1.0])
    half = quantile_of(CONFIDENCE) * padded.std() / np.sqrt(len(padded))
    low, high = max(-1, padded.mean() - half), min(1, padded.mean() + half)
    if groups is not None:
        of_groups = mean_interval(changes, groups)
        low, high = np.fmin(low, of_groups.low), np.fmax(high, of_groups.high)
    return Estimate(float(changes.mean()), float(low), float(high)).within(-1, 1)


class WithinPairs(NamedTuple):
    """The share of pairs in which the positive example has the higher score (a tie counts half), with Wilson's
    interval, the two-sided p of a sign test (ties left out), and how many pairs there were."""

    share: Estimate
    p: float
    n: int

    def columns(self, name: str = "within_pairs") -> dict[str, float]:
        """The share under ``name``, ``name_p`` and ``n_pairs``, for a row of a table."""
        return self.share.columns(name) | {f"{name}_p": self.p, "n_pairs": self.n}


def pairs_of(positive: ArrayLike, groups: Sequence[Hashable]) -> Int[np.ndarray, "pair 2"]:
    """The places of the positive and of the negative example of each group that is one of each; others are left out.

    Args:
        positive: [example], the class of each.
        groups: the pair of each.

    Returns:
        [pair, 2], the positive example first.
    """
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    positive = np.asarray(positive, dtype=bool)
    found = [m if positive[m[0]] else m[::-1] for m in members.values() if len(m) == 2 and positive[m].sum() == 1]
    return np.array(found, dtype=int).reshape(len(found), 2)


def within_pairs(scores: ArrayLike, positive: ArrayLike, groups: Sequence[Hashable]) -> WithinPairs:
    """In how many pairs does the positive example have the higher score?

    Args:
        scores: [example].
        positive: [example], the class of each.
        groups: the pair of each. Groups that are not one positive and one negative example are left out.

    Returns:
        NaN without a pair, and where a score of one is NaN. p is 1 where all pairs are tied.

    Misleads: 0.5 is by chance, and a threshold that parts all pairs need not exist: see the AUROC, or a balanced
    accuracy.
    Source: the sign test; Arbuthnot (1710), Phil. Trans. 27; ``scipy.stats.binomtest``.

    >>> found = within_pairs(np.array([2.0, 1.0, 5.0, 9.0]), np.array([True, False] * 2), ["a", "a", "b", "b"])
    >>> found.share.value, found.p, found.n
    (0.5, 1.0, 2)
    """
    pairs = pairs_of(positive, groups)
    if not len(pairs):
        return WithinPairs(UNKNOWN, np.nan, 0)
    above, below = np.asarray(scores, dtype=float)[pairs].T
    if not np.isfinite([above, below]).all():
        return WithinPairs(UNKNOWN, np.nan, len(pairs))
    wins = (np.sign(above - below) + 1) / 2
    n_won, n_lost = int((wins == 1).sum()), int((wins == 0).sum())
    p = float(scipy.stats.binomtest(n_won, n_won + n_lost).pvalue) if n_won + n_lost else 1.0
    return WithinPairs(wilson_share(wins), p, len(pairs))

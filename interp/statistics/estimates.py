"""A value with its interval, and what all statistics of this room are made of: numbers checked, groups, quantiles."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int

from interp.door import as_items, as_numbers, as_real

CONFIDENCE, N_BOOTSTRAP, SEED = 0.95, 2000, 0  # recorded in the provenance of what uses them
MAX_BYTES = 64 * 2**20  # of the largest single array


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval, each of shape [...]."""

    low: Float[np.ndarray, "*cell"]
    high: Float[np.ndarray, "*cell"]


def bracketed(low: float, high: float, number: Callable[[float], str]) -> str:
    """Both ends in brackets, by what writes one number. Every interval of a text, a table or a figure is written here.

    >>> bracketed(0.49, 0.94, "{:.1f}".format)
    '[0.5, 0.9]'
    """
    return f"[{number(low)}, {number(high)}]"


class Estimate(NamedTuple):
    """A value and its 95 % interval.

    >>> f"{Estimate(0.8, 0.49, 0.94):.2f}", f"{Estimate(0.8, 0.49, 0.94):.0%}", f"{UNKNOWN:.2f}"
    ('0.80 [0.49, 0.94]', '80% [49%, 94%]', 'not known')
    """

    value: float
    low: float
    high: float

    def no_narrower_than(self, other: Estimate) -> Estimate:
        """The same value with the wider of two intervals, end by end: a bootstrap of values that are all alike has no
        width. An end that is not known is left to the ``other``."""
        return Estimate(self.value, float(np.fmin(self.low, other.low)), float(np.fmax(self.high, other.high)))

    def within(self, least: float, most: float) -> Estimate:
        """The same with ends that the quantity can have: an interval of a mean does not know that of a share.

        >>> f"{Estimate(0.94, 0.66, 1.01).within(-1, 1):.2f}"
        '0.94 [0.66, 1.00]'
        """
        return Estimate(self.value, max(self.low, least), min(self.high, most))

    @classmethod
    def from_row(cls, row: Any, name: str, ends: tuple[str, str] | None = None) -> Estimate:
        """From a row of a table: the columns ``name``, ``name_low`` and ``name_high``.

        Args:
            row: anything that gives a number for a name: a dictionary, a row of a frame.
            name: column of the value.
            ends: columns of the interval's ends, where they are not ``name_low`` and ``name_high``.
        """
        low, high = ends or (f"{name}_low", f"{name}_high")
        return cls(float(row[name]), float(row[low]), float(row[high]))

    @property
    def is_known(self) -> bool:
        """Whether value and interval are numbers."""
        return bool(np.isfinite(self).all())

    def times(self, factor: float) -> Estimate:
        """In other units: a share in points, say. ``factor`` is above zero."""
        return Estimate(*(factor * number for number in self))

    def columns(self, name: str) -> dict[str, float]:
        """``name``, ``name_low`` and ``name_high``, for a row of a table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def side_of(self, null: float) -> Literal[-1, 0, 1]:
        """1 where the whole interval lies above ``null``, -1 where below; 0 where it holds it, or is not known.

        >>> Estimate(0.3, 0.1, 0.5).side_of(0), Estimate(0.3, 0.1, 0.5).side_of(0.2), UNKNOWN.side_of(0)
        (1, 0, 0)
        """
        if not self.is_known:
            return 0
        return 1 if self.low > null else -1 if self.high < null else 0

    def written(self, number: Callable[[float], str], unknown: str = "not known") -> str:
        """The value and its interval; the value alone where there is no interval.

        Args:
            number: writes one number, where a format such as ".2f" would not do.
            unknown: what stands for a value that is not known.
        """
        if not np.isfinite(self.value):
            return unknown
        if not self.is_known:
            return number(self.value)
        return f"{number(self.value)} {bracketed(self.low, self.high, number)}"

    def __format__(self, form: str) -> str:
        return self.written(lambda value: f"{value:{form}}")


UNKNOWN = Estimate(np.nan, np.nan, np.nan)


def quantile_of(confidence: float, degrees: float = np.inf) -> float:
    """Half the width of the central ``confidence`` of a standard normal, or of Student's t."""
    return float(scipy.stats.t.ppf((1 + confidence) / 2, degrees))


def as_cells(scores: Any) -> tuple[Float[np.ndarray, "example cell"], tuple[int, ...]]:
    """[example, ...] as float64 [example, cell], and the shape `...`."""
    scores = as_numbers(scores, "scores")
    if scores.ndim < 1:
        raise ValueError(f"scores is a single number ({scores}); expected an array with the examples on axis 0.")
    shape = scores.shape[1:]
    return scores.reshape(len(scores), int(np.prod(shape))), shape


def as_share(value: float, name: str, example: float, noun: str = "share") -> float:
    """A number above 0 and below 1."""
    value = as_real(value, name)
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; expected a {noun} between 0 and 1, such as {example}.")
    return value


def as_shares(values: Any, name: str, n_axes: int | None = 1) -> Float[np.ndarray, "*cell"]:
    """Numbers from 0 to 1; NaN is let through."""
    values = as_numbers(values, name, n_axes)
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"{name} goes from {np.nanmin(values)} to {np.nanmax(values)}; expected values from 0 to 1.")
    return values


def as_group_numbers(groups: Sequence[Hashable] | None, n: int) -> Int[np.ndarray, " example"]:
    """The number of each example's group, from 0 in the order of appearance; without groups each is its own."""
    if groups is None:
        return np.arange(n)
    groups = as_items(groups, "groups")
    if len(groups) != n:
        raise ValueError(f"groups names {len(groups)} examples; the arrays have {n}.")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], int)


def group_sums(
    values: Float[np.ndarray, "example cell"], groups: Sequence[Hashable] | None
) -> Float[np.ndarray, "group cell"]:
    """Sums over the examples of each group: what is drawn, and flipped, as one.

    Returns:
        [group, cell], groups in the order of their first example; the values themselves without groups.
    """
    if groups is None or not len(values):
        return values
    group = as_group_numbers(groups, len(values))
    sums = np.zeros((group.max() + 1, values.shape[1]))
    np.add.at(sums, group, values)
    return sums

"""One axis of a figure that is drawn as SVG: from values to pixels, and its ticks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Axis:
    """One axis: from values to pixels."""

    name: str  # "x", "y2"
    given: Mapping[str, Any]
    categories: list[str] = field(default_factory=list)
    low: float = math.inf
    high: float = -math.inf
    start: float = 0.0  # pixels of the ends of its range
    end: float = 1.0

    @property
    def is_x(self) -> bool:
        return self.name[0] == "x"

    @property
    def is_log(self) -> bool:
        return self.given.get("type") == "log"

    @property
    def domain(self) -> Sequence[float]:
        return self.given.get("domain") or (0.0, 1.0)

    def values(self, given: Any) -> np.ndarray:
        """Numbers of values; categories are counted in the order in which they come."""
        found = np.asarray([] if given is None else given, dtype=object).ravel()
        is_named = self.given.get("type") == "category" or any(isinstance(v, str) for v in found)
        if not is_named:
            numbers = np.array([math.nan if v is None else float(v) for v in found])
            return np.log10(numbers) if self.is_log else numbers
        for name in (*(self.given.get("categoryarray") or ()), *found):
            if str(name) not in self.categories:
                self.categories.append(str(name))
        return np.array([float(self.categories.index(str(v))) for v in found])

    def reach(self, values: Any, pad: float = 0.0) -> None:
        found = np.asarray(values, float)
        if found.size and np.isfinite(found).any():
            self.low, self.high = min(self.low, np.nanmin(found) - pad), max(self.high, np.nanmax(found) + pad)

    def settle(self, padded: bool) -> None:
        """The ends of the range: as given, or the values with a little room."""
        fixed = self.given.get("range")
        if fixed is not None:
            self.low, self.high = (float(end) for end in (fixed if self.is_log else self.values(fixed)))
            return
        if self.categories:
            self.low, self.high = min(self.low, -0.5), max(self.high, len(self.categories) - 0.5)
        elif not math.isfinite(self.low):
            self.low, self.high = 0.0, 1.0
        else:
            room = (self.high - self.low or abs(self.low) or 1.0) * 0.05 * padded
            self.low, self.high = self.low - room * (self.low != 0), self.high + room * (self.high != 0)
            self.high += self.low == self.high
        if self.given.get("autorange") == "reversed":
            self.low, self.high = self.high, self.low

    def at(self, value: Any) -> Any:
        return self.start + (np.asarray(value, float) - self.low) / (self.high - self.low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        slack = 1e-9 + 1e-6 * abs(self.high - self.low)
        return min(self.low, self.high) - slack <= value <= max(self.low, self.high) + slack

    def ticks(self) -> list[tuple[float, str]]:
        low, high = sorted((self.low, self.high))
        if self.given.get("showticklabels") is False or self.given.get("visible") is False:
            return []
        if self.given.get("tickvals") is not None:
            places = self.values(self.given["tickvals"])
            names = self.given.get("ticktext")
            names = [str(v) for v in self.given["tickvals"]] if names is None else list(names)
            found = list(zip(places, names, strict=False))
        elif self.categories:
            found = [(float(i), name) for i, name in enumerate(self.categories)]
        else:
            room = abs(self.end - self.start)
            step = self.given.get("dtick") or _nice((high - low) / max(2.0, room / (70 if self.is_x else 34)))
            digits = max(0, -math.floor(math.log10(step) + 1e-9))
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            found = [(i * step, f"{i * step:.{digits}f}".replace("-", "−")) for i in range(first, last + 1)]
            found = [(value, "0" if float(name.replace("−", "-")) == 0 else name) for value, name in found]
        return [(float(value), name) for value, name in found if self.holds(value)]


def silent_ticks(axis: Axis) -> list[tuple[float, str]]:
    """The ticks of an axis whose labels stand at another panel: for its grid."""
    bare = Axis(
        axis.name,
        {k: v for k, v in axis.given.items() if k != "showticklabels"},
        axis.categories,
        axis.low,
        axis.high,
        axis.start,
        axis.end,
    )
    return bare.ticks()


def spacing(places: np.ndarray) -> float:
    return float(np.diff(np.sort(places)).min()) if len(places) > 1 else 1.0


def name_at(axis: Axis, value: float) -> Any:
    return axis.categories[int(value)] if axis.categories else 10**value if axis.is_log else value


def _nice(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(size * n for n in (1, 2, 5, 10) if size * n >= step * 0.999)

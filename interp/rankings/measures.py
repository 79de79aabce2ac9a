"""What a measure of a head is: its meaning, unit and range, and the value of a head that does nothing.

A study registers each of its scores once, beside the function that computes it:

>>> NAS = register(Measure("nas", "Above 0, the head attends more to {no!r} than to {yes!r}.", "nats"))

and gives them to its rankings, worded: ``HeadRanking(..., descriptions={"nas": NAS.worded(yes="Yes", no="No")})``. What
follows from it is decided here and nowhere else: whether heads are tested against the null value, whether a sign can be
kept or changed, where a colour scale begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from interp.door import public

_WORDED = ("meaning", "unit", "higher", "changes", "leaves")


@public
@dataclass(frozen=True)
class Measure:
    """What a number of a head is.

    Args:
        name: of the measure, as in a ranking's table.
        meaning: a sentence: what is measured, and what high and low mean.
        unit: such as "logits", "nats", "probability".
        range: the least and the most that it can be for one example; None where there is no end.
        null: its value for a head that does nothing; None where there is no one such value.
        null_is: the null value in words; without a null, what to compare with instead.
        higher: what more of it says of the head.
        changes, leaves: of a control, what it changes of the question, and what it leaves alone, in a few words.

    Raises:
        ValueError: an empty range, or a null value outside it.
    """

    name: str
    meaning: str = ""
    unit: str = ""
    range: tuple[float | None, float | None] = (None, None)
    null: float | None = 0.0
    null_is: str = ""
    higher: str = ""
    changes: str = ""
    leaves: str = ""

    def __post_init__(self) -> None:
        low, high = self.range
        if low is not None and high is not None and not low < high:
            raise ValueError(f"the range of {self.name!r} is {self.range}; expected the least value, then the most.")
        if self.null is not None and not ((low is None or low <= self.null) and (high is None or self.null <= high)):
            raise ValueError(f"the null value of {self.name!r} is {self.null}, outside its range {self.range}.")

    @property
    def is_signed(self) -> bool:
        """Whether values lie on both sides of the null value: then heads can be tested against it, and keep a sign.
        The mean of a measure that only goes one way is off its null for noise, too."""
        low, high = self.range
        return self.null is not None and (low is None or low < self.null) and (high is None or high > self.null)

    @property
    def base(self) -> float:
        """Where a scale of colours has its centre, or begins: the null value, else the least, else 0."""
        low = self.range[0]
        return self.null if self.null is not None else low if low is not None else 0.0

    def worded(self, **words: str) -> Measure:
        """The same with the words of a study put into its texts: ``{no!r}`` becomes ``'No'``."""
        return replace(self, **{name: getattr(self, name).format(**words) for name in _WORDED})

    def untested(self) -> str:
        """For a statement: why no head is tested against a null value."""
        if self.null is None:
            instead = f": {self.null_is}" if self.null_is else ""
            return f"{self.name} has no value that a head without effect would have{instead}. So no head is tested."
        side = "below" if self.range[0] == self.null else "above"
        return (
            f"{self.name} can't be {side} {_plain(self.null)}, the value of a head without effect, so its mean is off "
            "it for noise, too. No head is tested."
        )

    def row(self) -> dict[str, str]:
        """For a table of measures: name, meaning, unit, range, null value, what higher means."""
        low, high = ("" if end is None else _plain(end) for end in self.range)
        ends = f"{low or '−∞'} to {high or '∞'}" if low or high else "any"
        null = "none" if self.null is None else _plain(self.null)
        null = f"{null}: {self.null_is}" if self.null_is else null
        row = {"measure": self.name, "meaning": self.meaning, "unit": self.unit, "range": ends}
        return row | {"null_value": null, "higher": self.higher}


_REGISTERED: dict[str, Measure] = {}


@public
def register(measure: Measure) -> Measure:
    """Make a measure known under its name; returns it. A test holds the documentation to all that are registered.

    Raises:
        ValueError: a name that another measure has, or one without a meaning and a unit.
    """
    if not (measure.meaning and measure.unit):
        raise ValueError(f"the measure {measure.name!r} has no meaning or no unit; say both.")
    if _REGISTERED.setdefault(measure.name, measure) != measure:
        raise ValueError(f"a measure {measure.name!r} is registered already; choose another name.")
    return measure


def registered() -> Mapping[str, Measure]:
    """All measures that were registered by what is imported, by name."""
    return MappingProxyType(_REGISTERED)


ATTENTION = register(
    Measure(
        "attention",
        "Attention probability of the head from the position that is read to the tokens that are named.",
        unit="probability",
        range=(0.0, 1.0),
        null=None,
        null_is="uniform attention is 1/S of a prompt of S tokens, and differs by prompt",
        higher="more attention to these tokens",
    )
)


def _plain(value: float) -> str:
    return f"{value:g}".replace("-", "−")

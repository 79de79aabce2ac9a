"""A claim: a sentence that may be true, the estimate that speaks of it, and what the estimate says, by one rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from interp.statistics.estimates import Estimate

ALPHA = 0.05
FEWEST = 10  # examples, below which nothing is said of a number, unless a study states another
FEWEST_DRAWS = 19  # of what means nothing: with fewer, none of which does as much, p = 1 / (1 + n) is above ALPHA
Verdict = Literal["too few", "too few draws", "above", "below", "not shown to differ"]


def too_few(n: int, fewest: int = FEWEST) -> str:
    """What is said in place of a number.

    >>> too_few(4)
    'too few (n = 4; expected 10 or more)'
    """
    return f"too few (n = {n}; expected {fewest} or more)"


def measured(estimate: Estimate, n: int, form: str = ".2f") -> str:
    """A number of ``n`` examples with its interval, for a sentence; of too few only that they are.

    >>> measured(Estimate(0.8, 0.49, 0.94), 10, ".0%"), measured(Estimate(1.0, 0.5, 1.0), 4, ".0%")
    ('80% [49%, 94%]', 'too few (n = 4; expected 10 or more)')
    """
    return f"{estimate:{form}}" if n >= FEWEST else too_few(n)


@dataclass(frozen=True)
class Claim:
    """What a number says of a sentence: whether its interval leaves out the value that would mean nothing.

    text: what the number is, the beginning of the sentence. estimate: the number with its interval. null: the value
    that would mean nothing (0, an AUROC of 0.5). side: on which side the claim says it lies, None where it says
    neither. p: of as much by chance, where a test goes with it; above 0.05 nothing is shown, whatever the interval.
    n: examples (groups, where they hang together) behind the number. fewest: below so many nothing is said. draws: how
    many random sets or directions ``p`` counts, None where it counts none; below 19 there is no verdict. form: how
    numbers are written. against: the null in words, by default as a number.

    >>> Claim("AUROC on other requests", Estimate(0.47, 0.06, 0.83), null=0.5, n=14).sentence()
    'AUROC on other requests: 0.47 [0.06, 0.83], not shown to differ from 0.50 (n = 14).'
    >>> Claim("AUROC on other requests", Estimate(1.0, 0.4, 1.0), null=0.5, n=4).sentence()
    'AUROC on other requests: too few (n = 4; expected 10 or more).'
    """

    text: str
    estimate: Estimate
    null: float = 0.0
    side: Literal["above", "below"] | None = None
    p: float = float("nan")
    n: int = 0
    fewest: int = FEWEST
    form: str = ".2f"
    against: str = ""
    draws: int | None = None

    @property
    def verdict(self) -> Verdict:
        """ "too few" (n below ``fewest``, or no interval), "too few draws" (below 19), "above" or "below" the null, or
        "not shown to differ"."""
        if self.n < self.fewest or not self.estimate.is_known:
            return "too few"
        if self.draws is not None and self.draws < FEWEST_DRAWS:
            return "too few draws"
        if np.isfinite(self.p) and self.p > ALPHA + 1e-9:
            return "not shown to differ"
        return {1: "above", -1: "below", 0: "not shown to differ"}[self.estimate.side_of(self.null)]

    @property
    def is_shown(self) -> bool:
        """Whether the number lies where the claim says; without a side, whether it differs at all."""
        return self.verdict == self.side if self.side else self.verdict in ("above", "below")

    @property
    def is_reversed(self) -> bool:
        """Whether it lies on the other side."""
        return self.side is not None and self.verdict in ("above", "below") and not self.is_shown

    def finding(self) -> str:
        """The number and the verdict, to go on a sentence with: '0.47 [0.06, 0.83], not shown to differ from 0.50'."""
        if self.verdict == "too few":
            return too_few(self.n, self.fewest)
        if self.verdict == "too few draws":
            return f"{self.estimate:{self.form}}, too few draws ({self.draws}; expected {FEWEST_DRAWS} or more)"
        null = self.against or f"{self.null:{self.form.replace('+', '')}}"
        p = f", p {'< 0.001' if self.p < 0.001 else f'= {self.p:.3f}'}" if np.isfinite(self.p) else ""
        said = "not shown to differ from" if self.verdict == "not shown to differ" else self.verdict
        return f"{self.estimate:{self.form}}, {said} {null}{p}"

    def sentence(self) -> str:
        """The text, the number with its interval, the verdict and n. Too few: no number, which would be read as one."""
        if self.verdict == "too few":
            return f"{self.text}: {self.finding()}."
        return f"{self.text}: {self.finding()} (n = {self.n})."

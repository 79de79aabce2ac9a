"""What a guard's own test on other requests says of it, in one sentence that goes wherever its verdicts go."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.statistics import FEWEST, Claim, Estimate, wilson_share
from probes.requests import Request, hash_requests


class GuardWarning(UserWarning):
    """A guard that judges is not shown to tell harmful from harmless requests, or was never tested."""


warnings.simplefilter("always", GuardWarning, append=True)  # at every call, unless somebody says otherwise


@dataclass(frozen=True)
class HeldOutTest:
    """How a guard did on requests that it was not fitted on: the AUROC of its decisions, harmful against harmless, with
    its 95 % interval (pairs count together); 0.5: by chance. And how many of each it flags.

    ``auroc``, and ``low`` and ``high``, the ends of its interval. ``n_harmful``, ``n_harmless``: requests of each kind.
    ``requests_sha256``: which ones. ``flagged_harmful``, ``flagged_harmless``: how many of each it calls harmful; -1
    where that is not known (a guard that an earlier version saved).
    """

    auroc: float
    low: float
    high: float
    n_harmful: int
    n_harmless: int
    requests_sha256: str
    flagged_harmful: int = -1
    flagged_harmless: int = -1

    @property
    def holds_chance(self) -> bool:
        """Whether it is not shown to tell them apart: the interval holds 0.5 or lies below it, or there are too few."""
        return self.claim.verdict != "above"

    @property
    def claim(self) -> Claim:
        """That its decisions tell the two apart, with as many examples as the kind has of which there are fewer."""
        n = min(self.n_harmful, self.n_harmless)
        return Claim("AUROC", Estimate(self.auroc, self.low, self.high), 0.5, "above", n=n)

    def flags(self) -> str:
        """Both halves in words: what share of the harmful and of the harmless requests it flags. Empty for too few."""
        if self.flagged_harmful < 0 or min(self.n_harmful, self.n_harmless) < FEWEST:
            return ""
        counts = ((self.flagged_harmful, self.n_harmful), (self.flagged_harmless, self.n_harmless))
        found, wrong = (wilson_share([1.0] * k + [0.0] * (n - k)) for k, n in counts)
        return f" It flags {found:.0%} of the harmful ones and {wrong:.0%} of the harmless."


def held_out_test(decisions: Float[np.ndarray, " example"], requests: Sequence[Request]) -> HeldOutTest:
    """The test that decisions on these requests are."""
    from probes.requests import separation  # torch is not needed to read a study

    harmful = np.array([r.is_harmful for r in requests])
    row = separation(np.asarray(decisions, dtype=float)[:, None], harmful, [r.group for r in requests]).iloc[0]
    ends = (float(row[column]) for column in ("auroc", "auroc_low", "auroc_high"))
    flagged = [int((decisions[of] >= 0).sum()) for of in (harmful, ~harmful)]
    return HeldOutTest(*ends, int(harmful.sum()), int((~harmful).sum()), hash_requests(requests), *flagged)


def verdict_of(test: HeldOutTest | None) -> str:
    """Whether a guard tells harmful from harmless requests, as far as its own test says."""
    if test is None:
        return (
            "This guard was never tested on requests that it was not fitted on, so nothing says how well it tells "
            "harmful from harmless ones: test it with guard.test(requests)."
        )
    found = f"AUROC {test.claim.estimate:.2f}"
    on = f"on {test.n_harmful} harmful and {test.n_harmless} harmless requests that it was not fitted on"
    if test.claim.verdict == "above":
        return f"This guard tells harmful from harmless requests: {found} {on}.{test.flags()}"
    if test.claim.verdict == "below":
        return f"This guard tells harmful from harmless requests the wrong way round: {found} {on}.{test.flags()}"
    if test.claim.verdict == "too few":
        return (
            "This guard's own test is too small to say whether it tells harmful from harmless requests: "
            f"{test.n_harmful} and {test.n_harmless} (expected {FEWEST} or more of each)."
        )
    return (
        f"This guard is not shown to tell harmful from harmless requests: {found}, which holds chance (0.5), "
        f"{on}.{test.flags()}"
    )

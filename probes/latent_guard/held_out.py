"""What a guard's own test on other requests says of it, in one sentence that goes wherever its verdicts go."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.statistics import Estimate
from probes.requests import Request, hash_requests


class GuardWarning(UserWarning):
    """A guard that judges is not shown to tell harmful from harmless requests, or was never tested."""


warnings.simplefilter("always", GuardWarning, append=True)  # at every call, unless somebody says otherwise


@dataclass(frozen=True)
class HeldOutTest:
    """How a guard did on requests that it was not fitted on: the AUROC of its decisions, harmful against harmless, with
    its 95 % interval (pairs count together). 0.5: by chance.

    ``auroc``, and ``low`` and ``high``, the ends of its interval. ``n_harmful``, ``n_harmless``: requests of each kind.
    ``requests_sha256``: which ones.
    """

    auroc: float
    low: float
    high: float
    n_harmful: int
    n_harmless: int
    requests_sha256: str

    @property
    def holds_chance(self) -> bool:
        """Whether the interval holds 0.5, or lies below it."""
        return not self.low > 0.5


def held_out_test(decisions: Float[np.ndarray, " example"], requests: Sequence[Request]) -> HeldOutTest:
    """The test that decisions on these requests are."""
    from probes.requests import separation  # torch is not needed to read a study

    harmful = np.array([r.is_harmful for r in requests])
    row = separation(np.asarray(decisions, dtype=float)[:, None], harmful, [r.group for r in requests]).iloc[0]
    ends = (float(row[column]) for column in ("auroc", "auroc_low", "auroc_high"))
    return HeldOutTest(*ends, int(harmful.sum()), int((~harmful).sum()), hash_requests(requests))


def verdict_of(test: HeldOutTest | None) -> str:
    """Whether a guard tells harmful from harmless requests, as far as its own test says."""
    if test is None:
        return (
            "This guard was never tested on requests that it was not fitted on, so nothing says how well it tells "
            "harmful from harmless ones: test it with guard.test(requests)."
        )
    found = f"AUROC {Estimate(test.auroc, test.low, test.high):.2f}"
    on = f"on {test.n_harmful} harmful and {test.n_harmless} harmless requests that it was not fitted on"
    if not test.holds_chance:
        return f"This guard tells harmful from harmless requests: {found} {on}."
    if test.high < 0.5:
        return f"This guard tells harmful from harmless requests the wrong way round: {found} {on}."
    return f"This guard is not shown to tell harmful from harmless requests: {found}, which holds chance (0.5), {on}."

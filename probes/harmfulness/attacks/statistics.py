"""What changes of beliefs are parts of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool

from interp.statistics import Claim, Estimate, mean_difference


def gap_claims(gaps: pd.DataFrame, names: Mapping[str, str] | None = None) -> dict[str, Claim]:
    """Of each belief the claim that it tells harmful from harmless requests: a gap above zero.

    ``gaps``: columns belief, gap with its interval, and n, the requests behind it. ``names``: of the beliefs in words.
    """
    return {
        row["belief"]: Claim(
            (names or {}).get(row["belief"], ""), Estimate.from_row(row, "gap"), side="above", n=row["n"], form="+.4f"
        )
        for row in gaps.to_dict("records")
    }


def gaps_of(
    states: pd.DataFrame, columns: Mapping[str, str], harmful: Bool[np.ndarray, " request"], requests: pd.Series
) -> pd.DataFrame:
    """How far apart harmful and harmless requests lie, a row for each belief: the difference of the means with its 95 %
    interval. ``columns``: of each belief in ``states``. ``requests``: the name of each, drawn as one."""
    rows = []
    for belief, column in columns.items():
        found = mean_difference(states[column].to_numpy(), harmful, ~harmful, requests)
        rows.append({"belief": belief, "n": len(states)} | found.columns("gap"))
    return pd.DataFrame(rows)


def usable_gaps(gaps: pd.DataFrame) -> dict[str, float]:
    """Each belief's gap; NaN where it is not shown to be above zero, so that there is nothing to be a part of."""
    claims = gap_claims(gaps)
    return {belief: claim.estimate.value if claim.is_shown else float("nan") for belief, claim in claims.items()}


def blind_sentences(when: str, gaps: pd.DataFrame, names: Mapping[str, str], whom: str) -> list[str]:
    """A sentence for each belief that is not shown to tell requests apart at all."""
    return [
        f"{when} {claim.text} is not shown to tell {whom} harmful from harmless requests (gap {claim.finding()}): its "
        "changes say little."
        for claim in gap_claims(gaps, names).values()
        if not claim.is_shown
    ]

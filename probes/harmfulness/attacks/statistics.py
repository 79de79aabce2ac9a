"""What changes of beliefs are parts of."""

from __future__ import annotations

import pandas as pd


def usable_gaps(gaps: pd.DataFrame) -> dict[str, float]:
    """Each belief's gap; NaN where its interval is not above zero, so that there is nothing to be a part of."""
    return {row.belief: row.gap if row.gap_low > 0 else float("nan") for row in gaps.itertuples()}

"""How far beliefs moved, and whether harmful requests still stand out: means and AUROCs with paired intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.statistics import UNKNOWN, Estimate, bootstrap_interval


def mean_contrast(
    values: Float[np.ndarray, " row"],
    plus: Bool[np.ndarray, " row"],
    minus: Bool[np.ndarray, " row"] | None,
    groups: Sequence[Hashable],
) -> Estimate:
    """Mean over ``plus`` (less that over ``minus``), with its bootstrap interval; NaN for no rows. Whole groups are
    drawn."""
    if not plus.any() or (minus is not None and not minus.any()):
        return UNKNOWN

    def statistic(v: np.ndarray, a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            first = counts @ (v * a) / (counts @ a)
            return first if minus is None else first - counts @ (v * b) / (counts @ b)

    other = plus if minus is None else minus
    low, high = bootstrap_interval(statistic, values, plus, other, groups=list(groups), weighted=True)
    return Estimate(contrast(values, plus, minus), float(low), float(high))


def contrast(values: np.ndarray, plus: np.ndarray, minus: np.ndarray | None) -> float:
    """Mean over ``plus`` (less that over ``minus``); NaN for no rows."""
    if not plus.any() or (minus is not None and not minus.any()):
        return float("nan")
    return float(values[plus].mean() - (0.0 if minus is None else values[minus].mean()))


def auroc_interval(
    scores: Float[np.ndarray, " row"], positive: Bool[np.ndarray, " row"], groups: Sequence[Hashable]
) -> Estimate:
    """AUROC with its bootstrap interval. Whole groups are drawn; differences below 1e-6 are ties."""
    scores = scores.round(6)
    low, high = bootstrap_interval(_auroc, scores, positive, groups=list(groups), weighted=True)
    return Estimate(float(_auroc(scores, positive, np.ones((1, len(scores))))[0]), float(low), float(high))


def _auroc(
    scores: Float[np.ndarray, " row"], positive: Bool[np.ndarray, " row"], counts: Float[np.ndarray, "draw row"]
) -> Float[np.ndarray, " draw"]:
    above, below = scores[positive][:, None], scores[~positive][None]
    wins = (above > below) + 0.5 * (above == below)
    a, b = counts[:, positive], counts[:, ~positive]
    with np.errstate(divide="ignore", invalid="ignore"):
        return ((a @ wins) * b).sum(1) / (a.sum(1) * b.sum(1))


def usable_gaps(gaps: pd.DataFrame) -> dict[str, float]:
    """Each belief's gap; NaN where its interval is not above zero, so that there is nothing to be a part of."""
    return {row.belief: row.gap if row.gap_low > 0 else float("nan") for row in gaps.itertuples()}

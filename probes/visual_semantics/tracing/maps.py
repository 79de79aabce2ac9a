"""Heat maps of traces of many pairs: the mean change by layer and role, and the share of what the edit takes away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interp.figures import tracing_heatmap
from interp.scans.traces import LEAST, Trace

if TYPE_CHECKING:
    import plotly.graph_objects as go


def share_map(trace: Trace, means: pd.DataFrame, measure: str | None = None) -> go.Figure:
    """Mean change over the mean difference that the edit makes, by layer and role. ``means``: of that measure."""
    m = trace.measured[0] if measure is None else trace[measure]
    if means["share"].isna().all():
        raise ValueError(
            f"{m.name} differs by less than {LEAST[m.unit]:g} on average before and after the edit: shares of it "
            "would be noise. Plot share=False."
        )
    rows = means.dropna(subset=["share"]).set_index(["part", "layer", "role"])["share"]
    used = [role for role in trace.regions if role in rows.index.get_level_values("role")]
    axes = (trace.parts, trace.layers, used)
    values = np.array([[[rows.get((p, k, r), np.nan) for r in used] for k in axes[1]] for p in axes[0]])
    return tracing_heatmap(values, *axes, "", f"share of {m.name} recovered")


def change_map(trace: Trace, scaled_with: Sequence[Trace | None], measure: str | None = None) -> go.Figure:
    """Mean change by layer and role, on one scale with others: the traces, then their control."""
    first = scaled_with[0]
    m = first.measured[0] if measure is None else first[measure]
    used = [r for r in range(len(trace.regions)) if trace.n_positions[:, r].any()]

    def mean(of: Trace) -> np.ndarray:
        change = of[m.name].values - m.corrupt[:, None, None, None]
        return np.stack([_mean_known(change[..., r]) for r in used], axis=-1)

    both = [mean(of) for of in scaled_with if of is not None]
    limit = float(np.nanmax(np.abs(both)))
    regions = [trace.regions[r] for r in used]
    return tracing_heatmap(mean(trace), trace.parts, trace.layers, regions, "", f"change of {m.name}", limit)


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the examples that have a value; NaN for none."""
    known = values[np.isfinite(values).all(axis=(1, 2))]
    return known.mean(axis=0) if len(known) else np.full(values.shape[1:], np.nan)

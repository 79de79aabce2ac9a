"""What patching single heads did to edited pairs: the change of the gold answer's probability, head by head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Float

from interp.door.brief import brief
from interp.figures import head_label, heads_by_level
from interp.reports.kept_tables import made_once
from interp.scans.traces import LEAST
from interp.statistics import Estimate, benjamini_hochberg, mean_interval, ratio_interval, sign_flip_p
from probes.visual_semantics.tracing.tables import LEAST_PAIRS

if TYPE_CHECKING:
    import plotly.graph_objects as go

METRIC = "P(gold)"


@dataclass(frozen=True, eq=False)
class HeadTraces:
    """P(gold) after the edit with one head's output from before it, for each head; gold is the answer before the edit.

    ``control``: the same with the output on an unrelated picture (NaN: the pair has none; None: not asked for).
    ``clean``, ``corrupt``: P(gold) before and after the edit, unpatched. ``how``, ``check``: as in
    :class:`interp.scans.scan.ScanResult`; the check is by zeroed heads, at the same positions.
    """

    values: Float[np.ndarray, "example layer head"]
    control: Float[np.ndarray, "example layer head"] | None
    clean: Float[np.ndarray, " example"]
    corrupt: Float[np.ndarray, " example"]
    how: str
    check: str

    __repr__ = brief

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], clean, corrupt, how: str, check: str) -> HeadTraces:
        """From the arrays of :func:`patch_heads`, and P(gold) unpatched."""
        return cls(arrays["values"], arrays.get("control"), clean, corrupt, how, check)

    @property
    def change(self) -> Float[np.ndarray, "example layer head"]:
        """Patched minus unpatched, after the edit: above 0 the head brings the answer before the edit back."""
        return self.values - self.corrupt[:, None, None]

    @property
    def control_change(self) -> Float[np.ndarray, "example layer head"] | None:
        """The same by the unrelated picture, NaN for pairs without one; None where there was no control."""
        return None if self.control is None else self.control.astype(np.float64) - self.corrupt[:, None, None]

    @made_once
    def to_frame(self) -> pd.DataFrame:
        """A row for each head, the largest mean change first, with 95 % intervals over the ``n`` pairs.

        ``share``: the mean change over the mean difference that the edit makes, NaN where that is too small. ``q``: of
        no change, by sign flips over pairs, corrected for the number of heads. ``control``: the mean change by an
        unrelated picture, over the ``n_control`` pairs that have one; ``beyond_control``: what the right one does more.
        """
        change = self.change.astype(np.float64)
        layers, heads = (index.ravel() for index in np.indices(change.shape[1:]))
        n_flips = int(np.clip(100 * change[0].size, 9_999, 50_000))
        columns: dict[str, Any] = {
            "head": [head_label(*pair) for pair in zip(layers.tolist(), heads.tolist(), strict=True)],
            "layer": layers,
            "n": len(change),
            **_columns("change", change),
            **self._shares(change),
            "q": benjamini_hochberg(sign_flip_p(change, n_resamples=n_flips)).ravel(),
        }
        if (at_random := self.control_change) is not None:
            known = np.isfinite(at_random).all(axis=(1, 2))
            columns |= {"n_control": int(known.sum()), **_columns("control", at_random[known])}
            columns |= _columns("beyond_control", (change - at_random)[known])
        frame = pd.DataFrame(columns)
        return frame.sort_values("change", ascending=False, kind="stable", ignore_index=True)

    def plot(self) -> go.Figure:
        """Mean change by layer and head, beside that by unrelated pictures, on one scale."""
        means = {"picture before the edit": self.change.mean(axis=0)}
        if (at_random := self.control_change) is not None:
            known = np.isfinite(at_random).all(axis=(1, 2))
            if known.any():
                means["unrelated picture"] = at_random[known].mean(axis=0)
        return heads_by_level(means, unit=f"change of {METRIC}")

    def statement(self) -> str:
        """The first head, and how many differ from no change; of fewer than 5 pairs none is named."""
        frame, n = self.to_frame(), len(self.values)
        said = f"Of {len(frame)} heads, each patched alone at all text after the picture, "
        if n < LEAST_PAIRS:
            return f"{said}none can be named: {n} pairs are too few ({LEAST_PAIRS} or more are needed)."
        first, clear = frame.iloc[0], frame[frame["q"] < 0.05]
        n_back = int((clear["change"] > 0).sum())
        share = "" if np.isnan(first["share"]) else f", {first['share']:.0%} of what the edit takes away"
        few = " (of so few pairs q can't be lower)" if 2 / 2**n >= 0.05 else ""
        beyond = ""
        if "beyond_control_low" in frame and n_back:
            back = clear[clear["change"] > 0].to_dict("records")
            more = sum(Estimate.from_row(row, "beyond_control").side_of(0) > 0 for row in back)
            beyond = f" (clearly more than with an unrelated picture's: {more})"
        most = f"{first['head']} brings most of the answer back"
        if not n_back:
            most = f"none is shown to bring the answer back; the highest is {first['head']}"
        return (
            f"{said}{most} ({Estimate.from_row(first, 'change'):+.3f}{share}). Over {n} pairs, heads that bring some "
            f"of it back at q < 0.05: {n_back}{beyond}; that take some away: {int((clear['change'] < 0).sum())}{few}."
        )

    def _shares(self, change: Float[np.ndarray, "example layer head"]) -> dict[str, np.ndarray]:
        difference = (self.clean - self.corrupt).astype(np.float64)
        flat = rearrange(change, "pair layer head -> pair (layer head)")
        if abs(difference.mean()) < LEAST["probability"]:
            return {f"share{end}": np.full(flat.shape[1], np.nan) for end in ("", "_low", "_high")}
        low, high = ratio_interval(flat, difference)
        return {"share": flat.mean(axis=0) / difference.mean(), "share_low": low, "share_high": high}


def _columns(name: str, values: Float[np.ndarray, "example layer head"]) -> dict[str, np.ndarray]:
    if not len(values):
        nothing = np.full(values.shape[1:], np.nan).ravel()
        return {name: nothing, f"{name}_low": nothing, f"{name}_high": nothing}
    low, high = mean_interval(values)
    return {name: values.mean(axis=0).ravel(), f"{name}_low": low.ravel(), f"{name}_high": high.ravel()}

"""Single heads of edited pairs: which heads, taken one at a time, carry the answer across the edit of the picture?

Each head's output in the run on the picture before the edit is set into the run on the picture after it, at all text
after the picture, and the change of the gold answer's probability is averaged over pairs: causal tracing
(:mod:`probes.visual_semantics.tracing.tracing`) with a head for its part (Wang et al. 2022, arXiv 2211.00593, patch
heads so between sentences).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Float

from interp.figures import head_label, heads_by_level
from interp.interventions import Branch, HeadEdit, patch_each_head
from interp.scans.scan import scan
from interp.scans.tracing import LEAST
from interp.statistics import Estimate, benjamini_hochberg, mean_interval, ratio_interval, sign_flip_p
from probes.visual_semantics.tracing.prompts import METRICS, Twins
from probes.visual_semantics.tracing.tables import LEAST_PAIRS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models import Model

POSITIONS = "text"  # all positions after the picture, as in `interp.scan`
_METRIC = METRICS[0]
_N_CHECKED = 3


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

    def to_frame(self) -> pd.DataFrame:
        """A row for each head, the largest mean change first, with 95 % intervals over the ``n`` pairs.

        ``share``: the mean change over the mean difference that the edit makes, NaN where that is too small. ``q``: of
        no change, by sign flips over pairs, corrected for the number of heads. ``control``: the mean change by an
        unrelated picture, over the ``n_control`` pairs that have one; ``beyond_control``: what the right one does more.
        """
        return self._frame.copy()

    @cached_property
    def _frame(self) -> pd.DataFrame:
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
        return heads_by_level(means, unit=f"change of {_METRIC}")

    def statement(self) -> str:
        """The first head, and how many differ from no change; of fewer than 5 pairs none is named."""
        frame, n = self._frame, len(self.values)
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
        if abs(difference.mean()) < LEAST[_METRIC.unit]:
            return {f"share{end}": np.full(flat.shape[1], np.nan) for end in ("", "_low", "_high")}
        low, high = ratio_interval(flat, difference)
        return {"share": flat.mean(axis=0) / difference.mean(), "share_low": low, "share_high": high}


def patch_heads(
    model: Model, twins: Sequence[Twins], control: bool, method: str, memory_mib: float
) -> dict[str, np.ndarray]:
    """P(gold) with each head patched, [pair, layer, head], from the picture before the edit ("values") and from an
    unrelated one ("control", NaN for pairs without one), by :func:`interp.scan` with ``patch_each_head``."""
    shape = (len(twins), model.n_layers, model.n_heads)
    found = {"values": _patched(model, twins, [t.before for t in twins], method, memory_mib)}
    if control:
        found["control"] = np.full(shape, np.nan, dtype=np.float32)
        known = [i for i, t in enumerate(twins) if t.unrelated is not None]
        if known:
            some = [twins[i] for i in known]
            found["control"][known] = _patched(model, some, [t.unrelated for t in some], method, memory_mib)
    return found


def check_heads(model: Model, twins: Sequence[Twins], memory_mib: float) -> tuple[str, str]:
    """Fan-out or loop, and what was compared: a few heads, zeroed, at the positions that are patched."""
    total = model.n_layers * model.n_heads
    picks = [divmod(int(i), model.n_heads) for i in np.unique(np.linspace(0, total - 1, _N_CHECKED).round())]
    branches = [Branch((HeadEdit(layer, head, "zero"),)) for layer, head in picks]
    found = scan(
        model,
        [t.after for t in twins],
        branches,
        metric=_METRIC,
        positions=POSITIONS,
        check=_N_CHECKED,
        memory_mib=memory_mib,
    )
    return found.how, found.check


def _patched(model: Model, twins: Sequence[Twins], sources, method: str, memory_mib: float) -> np.ndarray:
    found = scan(
        model,
        [t.after for t in twins],
        patch_each_head(sources),
        metric=_METRIC,
        positions=POSITIONS,
        method=method,
        check=0,  # `check_heads` has
        memory_mib=memory_mib,
    )
    return rearrange(found.values, "pair (layer head) -> pair layer head", layer=model.n_layers)


def _columns(name: str, values: Float[np.ndarray, "example layer head"]) -> dict[str, np.ndarray]:
    if not len(values):
        nothing = np.full(values.shape[1:], np.nan).ravel()
        return {name: nothing, f"{name}_low": nothing, f"{name}_high": nothing}
    low, high = mean_interval(values)
    return {name: values.mean(axis=0).ravel(), f"{name}_low": low.ravel(), f"{name}_high": high.ravel()}


__all__ = ["POSITIONS", "HeadTraces", "check_heads", "patch_heads"]

"""What traces of many pairs say on average: changes and shares with intervals, where they peak, and the paper's claims
on where they should."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.scans.traces import LEAST, Measured, Trace
from interp.statistics import Estimate, bootstrap_interval, mean_interval, ratio_interval
from probes.visual_semantics.tracing.roles import CONCEPT, EDITED, LAST, PICTURE

ALL = "all"
LEAST_PAIRS = 5  # for a peak to be called clear: of 2 to 4 pairs an interval is little more than their values
TOO_FEW = "too few pairs"


@dataclass(frozen=True)
class TraceClaim:
    """V-SEAM (arXiv 2509.14837, its figures as read off its release): blocks between which a part matters most."""

    model: str
    part: str
    role: str
    first: int
    last: int
    n_layers: int = 32

    @property
    def depths(self) -> tuple[float, float]:
        """As parts of the way from the first block (0) to the last (1)."""
        return self.first / (self.n_layers - 1), self.last / (self.n_layers - 1)


CLAIMS = (
    TraceClaim("LLaVA 1.5 7B", "attention", CONCEPT, 7, 12),
    TraceClaim("LLaVA 1.5 7B", "attention", LAST, 13, 16),
    TraceClaim("LLaVA 1.5 7B", "mlp", CONCEPT, 8, 13),
    TraceClaim("LLaVA 1.5 7B", "mlp", LAST, 16, 20),
    TraceClaim("InstructBLIP 7B", "attention", LAST, 13, 16),
    TraceClaim("InstructBLIP 7B", "mlp", LAST, 15, 23),
)


def mean_table(
    trace: Trace, control: Trace | None, chosen: Bool[np.ndarray, " example"], measure: str | None = None
) -> pd.DataFrame:
    """A row for each part, layer and role: the mean change over the ``n`` chosen pairs that have the role, with its
    95 % interval.

    ``share``: the mean change over the mean difference of clean and corrupt runs (not the mean of shares, which the
    smallest differences rule), NaN where that difference is too small (:data:`interp.scans.traces.LEAST`).
    ``control``: the mean change by states of an unrelated picture, over the ``n_control`` pairs that have one;
    ``beyond_control``: what the real ones do more, pair by pair.
    """
    m = trace.measured[0] if measure is None else trace[measure]
    rows = []
    for r, role in enumerate(trace.regions):
        known = chosen & (trace.n_positions[:, r] > 0)
        change = m.change[known, :, :, r]
        found = {"change": _with_interval(change), "share": _share(m, change, known)}
        counts = {"n": int(known.sum())}
        if control is not None:
            other = control.measured[trace.measured.index(m)]
            difference, at_random = change - _control_change(m, other)[known, :, :, r], _control_change(m, other)[known]
            usable = np.isfinite(difference).all(axis=(1, 2))
            counts["n_control"] = int(usable.sum())
            found["control"] = _with_interval(at_random[usable][..., r])
            found["beyond_control"] = _with_interval(difference[usable])
        for p, part in enumerate(trace.parts):
            for k, layer in enumerate(trace.layers):
                row = {"part": part, "layer": layer, "role": role, **counts}
                for name, (value, low, high) in found.items():
                    row |= {name: value[p, k], f"{name}_low": low[p, k], f"{name}_high": high[p, k]}
                rows.append(row)
    return pd.DataFrame(rows).sort_values(
        "part", key=lambda s: s.map(trace.parts.index), kind="stable", ignore_index=True
    )


def peak_table(
    trace: Trace, control: Trace | None, levels: Sequence[str], n_layers: int, roles: Sequence[str] | None = None
) -> pd.DataFrame:
    """Where each part's mean change is largest, for each role, over all pairs and for each level.

    ``depth``: layer / (number of blocks - 1), with the central 95 % of the depths at which the peak falls when pairs
    are drawn again. ``change``, ``beyond_control``: at the peak (a little too high, as it was picked for being the
    highest). ``is_clear``: whether both intervals there are above zero, of :data:`LEAST_PAIRS` pairs or more (in
    ``n_control`` too); if not, there is no peak to speak of.
    """
    roles = roles or [r for r in trace.regions if r in (PICTURE, EDITED, CONCEPT, LAST)]
    rows = []
    for level, chosen in by_level(levels):
        means = mean_table(trace, control, chosen)
        for role in roles:
            r = trace.regions.index(role)
            known = chosen & (trace.n_positions[:, r] > 0)
            for p, part in enumerate(trace.parts):
                here = means[(means["part"] == part) & (means["role"] == role)].reset_index(drop=True)
                if not known.any():
                    continue
                best = here.loc[here["change"].idxmax()]
                low, high = _peak_interval(trace.change[known, p, :, r], np.array(trace.layers) / max(1, n_layers - 1))
                row = {"level": level, "part": part, "role": role, "n": int(known.sum())}
                row |= {"n_control": int(best["n_control"])} if control is not None else {}
                row |= {"layer": int(best["layer"])}
                row |= {"depth": best["layer"] / max(1, n_layers - 1), "depth_low": low, "depth_high": high}
                names = ["change"] + ["beyond_control"] * (control is not None)
                row |= {f"{name}{end}": best[f"{name}{end}"] for name in names for end in ("", "_low", "_high")}
                row |= {
                    "is_clear": not is_too_few(row)
                    and all(Estimate.from_row(best, name).side_of(0) > 0 for name in names)
                }
                rows.append(row)
    return pd.DataFrame(rows)


def claim_table(peaks: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    """The paper's claims beside the peaks over all pairs, as relative depths, since models differ in depth.

    ``verdict``: "agrees" (the peak lies in the claimed range, give or take half a block), "elsewhere" (the interval of
    the peak's depth does not reach the range), "undecided", "no clear peak", or "too few pairs" (under
    :data:`LEAST_PAIRS`, whatever they show).
    """
    rows, half = [], 0.5 / max(1, n_layers - 1)
    found = peaks[peaks["level"] == ALL].set_index(["part", "role"]) if len(peaks) else peaks
    for claim in CLAIMS:
        if (claim.part, claim.role) not in getattr(found, "index", ()):
            continue
        peak, (first, last) = found.loc[(claim.part, claim.role)], claim.depths
        row = {"claim_on": claim.model, "part": claim.part, "role": claim.role}
        row |= {"claimed_layers": f"{claim.first} to {claim.last} of {claim.n_layers}"}
        row |= {"claimed_depth": f"{first:.2f} to {last:.2f}", "layer": peak["layer"]}
        row |= {name: peak[name] for name in ("depth", "depth_low", "depth_high")}
        if is_too_few(peak):
            verdict = TOO_FEW
        elif not peak["is_clear"]:
            verdict = "no clear peak"
        elif first - half <= peak["depth"] <= last + half:
            verdict = "agrees"
        else:
            depth = Estimate.from_row(peak, "depth")
            apart = depth.side_of(last + half) > 0 or depth.side_of(first - half) < 0
            verdict = "elsewhere" if apart else "undecided"
        rows.append(row | {"verdict": verdict})
    return pd.DataFrame(rows)


def is_too_few(row: Mapping[str, Any] | pd.Series) -> bool:
    """Whether a row of :func:`mean_table` or :func:`peak_table` is of fewer than :data:`LEAST_PAIRS` pairs, traced or,
    if there is a control, in it."""
    return bool(min(row[name] for name in ("n", "n_control") if name in row) < LEAST_PAIRS)


def with_enough(peaks: pd.DataFrame) -> pd.DataFrame:
    """The rows of a peak table that enough pairs stand behind: what a page shows."""
    enough = [not is_too_few(row) for row in peaks.to_dict("records")]
    return peaks[enough].reset_index(drop=True)


def by_level(levels: Sequence[str]) -> Iterator[tuple[str, Bool[np.ndarray, " example"]]]:
    """All pairs, then those of each level, if there are several."""
    yield ALL, np.ones(len(levels), dtype=bool)
    names = list(dict.fromkeys(level for level in levels if level))
    for name in names if len(names) > 1 else ():
        yield name, np.array([level == name for level in levels])


Cells = tuple[np.ndarray, np.ndarray, np.ndarray]


def _with_interval(values: Float[np.ndarray, "example part layer"]) -> Cells:
    if not len(values):
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing, nothing
    return values.mean(axis=0), *mean_interval(values)


def _share(m: Measured, change: Float[np.ndarray, "known part layer"], known: Bool[np.ndarray, " example"]) -> Cells:
    difference = (m.clean - m.corrupt)[known].astype(np.float64)
    if not len(change) or abs(difference.mean()) < LEAST[m.unit]:
        nothing = np.full(change.shape[1:], np.nan)
        return nothing, nothing, nothing
    return change.mean(axis=0) / difference.mean(), *ratio_interval(change, difference)


def _control_change(m: Measured, other: Measured) -> Float[np.ndarray, "example part layer region"]:
    return other.values - m.corrupt[:, None, None, None]


def _peak_interval(change: Float[np.ndarray, "example layer"], depths: Float[np.ndarray, " layer"]) -> tuple:
    def depth_of_peak(change: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return depths[(counts @ change).argmax(axis=-1)]

    low, high = bootstrap_interval(depth_of_peak, change.astype(np.float64), weighted=True)
    return float(low), float(high)

"""What causal traces of edited pairs show: tables, sentences, figures, one report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.door import public
from interp.figures import interval_lines, tracing_heatmap
from interp.overlays import pair_figure
from interp.records import keeps_work
from interp.reports import Findings, load_findings
from interp.scans.tracing import LEAST, Measured, Trace
from probes.pairs import PicturePair
from probes.studies import read_study, write_study
from probes.visual_semantics.tracing.heads import HeadTraces
from probes.visual_semantics.tracing.readers import PictureReaders
from probes.visual_semantics.tracing.report import ALL, LEAST_PAIRS, by_level, claim_table, mean_table, peak_table
from probes.visual_semantics.tracing.sentences import NAMES, beside_claims, beside_control, carried, peaks_of_parts

if TYPE_CHECKING:
    import plotly.graph_objects as go

FILE = "visual_tracing.json"
_N_HEADS = 20  # rows of the table of single heads


@dataclass(frozen=True)
class TracedPair:
    """A pair in words. ``gold`` is the answer before the edit, which is measured in every run."""

    id: str
    level: str
    kind: str
    question: str
    concept: str
    gold: str
    answer_after: str


@dataclass(frozen=True, eq=False)
class VisualTraces:
    """Traces of the pairs that the model answers rightly, before and after the edit.

    ``trace``: states of the picture before the edit set into the run on the picture after it, by role
    (:data:`probes.visual_semantics.tracing.roles.ROLES`). ``control``: states of an unrelated picture instead (None:
    not asked for). ``asked``: a row for each pair given, with P(gold) on both pictures, and whether it was traced.
    ``shown``: pairs with their traces token by token, and ``readers``, for each of them, the heads that read most from
    its picture, for the report's figures; not read back. ``heads``: each head patched alone (None: not asked for).
    """

    pairs: tuple[TracedPair, ...]
    trace: Trace
    control: Trace | None
    asked: pd.DataFrame
    n_layers: int
    provenance: Mapping[str, Any]
    shown: tuple[tuple[PicturePair, Trace], ...] = ()
    readers: tuple[PictureReaders, ...] = ()
    heads: HeadTraces | None = None

    @property
    def levels(self) -> list[str]:
        return [pair.level for pair in self.pairs]

    def means(self, level: str = ALL, measure: str | None = None) -> pd.DataFrame:
        """See :func:`probes.visual_semantics.tracing.report.mean_table`; ``level``: of the pairs."""
        if (level, measure) == (ALL, None):
            return self._means.copy()
        groups = dict(by_level(self.levels))
        if level not in groups:
            raise ValueError(f"level={level!r}; expected one of {', '.join(groups)}.")
        return mean_table(self.trace, self.control, groups[level], measure)

    def peaks(self) -> pd.DataFrame:
        """See :func:`probes.visual_semantics.tracing.report.peak_table`."""
        return self._peaks.copy()

    def claims(self) -> pd.DataFrame:
        """See :func:`probes.visual_semantics.tracing.report.claim_table`."""
        return claim_table(self.peaks(), self.n_layers)

    def statement(self) -> list[str]:
        """What the numbers say, the verdict first."""
        means, peaks = self.means(), self.peaks()
        right = self.provenance["settings"]["only_right"]
        first = (
            f"{len(self.pairs)} of {len(self.asked)} pairs were traced"
            f"{', all answered rightly before and after the edit' if right else ''}: the edit takes P(answer before) "
            f"from {self.trace.clean.mean():.2f} to {self.trace.corrupt.mean():.2f}."
        )
        return [
            first,
            *carried(means),
            *peaks_of_parts(peaks, self.trace.parts),
            *([] if self.heads is None else [self.heads.statement(self._heads)]),
            *beside_claims(claim_table(peaks, self.n_layers), self.n_layers),
            beside_control(means),
        ]

    def plot(self, measure: str | None = None, share: bool = False) -> go.Figure:
        """Mean change by layer and role, a panel for each part. share: of the mean difference that the edit makes.

        Raises ``ValueError`` for shares of a measure that the edit changes by next to nothing.
        """
        return self._share_heatmap(measure) if share else self._heatmap(self.trace, measure)

    def plot_lines(self) -> go.Figure:
        """Mean change along the layers with intervals, a panel for each role, a line for each part."""
        frame = self.means().dropna(subset=["change"])
        frame = frame.assign(part=frame["part"].map(NAMES))
        labels = {"change": "change of P(gold)", "layer": "layer"}
        return interval_lines(frame, "layer", "change", "change_low", "change_high", "part", "role", labels=labels)

    def to_findings(self) -> Findings:
        """The report, with the raw numbers as arrays."""
        means = self.means()
        of_logits = self.trace.measured[1].name
        logits = self.means(measure=of_logits)
        names = [f"{name}{end}" for name in ("change", "share") for end in ("", "_low", "_high")]
        means = means.join(logits[names].rename(columns={name: f"logit_{name}" for name in names}))
        means.attrs["note"] = (
            "change: of P(gold), the answer before the edit. share: of the difference that the edit makes, left out "
            f"where that is under {LEAST['probability']} (logits: {LEAST['logits']}). control: the change by an "
            "unrelated picture's states. logit: of the gold answer's logit, which also moves where all logits do. A "
            "role's positions are patched together: more of them, more."
        )
        peaks, claims = self.peaks(), self.claims()
        peaks.attrs["note"] = (
            "depth: 0 is the first block, 1 the last. Not clear: an interval there reaches zero, or fewer than "
            f"{LEAST_PAIRS} pairs stand behind it."
        )
        claims.attrs["note"] = (
            f"Compared by relative depth; this model has {self.n_layers} blocks, so depths come in steps of "
            f"{1 / max(1, self.n_layers - 1):.2f}. The release pads questions on the right and averages token by "
            "token, so that its positions do not line up; here they are lined up by role."
        )
        figures = {"Mean change of the gold probability": self.plot()}
        if self.control is not None:
            figures["Control: states of an unrelated picture"] = self._heatmap(self.control, None)
        if logits["share"].notna().any():
            figures["Share of the gold logit recovered"] = self.plot(of_logits, share=True)
        figures["Along the layers"] = self.plot_lines()
        figures |= self._shown_figures()
        tables = {"Where parts matter most": peaks} | ({"The paper's claims": claims} if len(claims) else {})
        if self.heads is not None:
            figures["Single heads"] = self.heads.plot()
            tables["Single heads"] = self._heads.head(_N_HEADS)
            tables["Single heads"].attrs["note"] = (
                f"The first {_N_HEADS} of {len(self._heads)} heads, by the mean change of P(gold) when the head's "
                "output in the run on the picture before the edit is set, at all text after the picture, into the run "
                "on the picture after it. q: of no change, by sign flips over pairs, over all heads. The first of many "
                "are first in part by chance, so their values are a little too high."
            )
        tables |= {"Means by part, layer and role": means, "Pairs": self.asked}
        arrays = {f"trace.{name}": array for name, array in _arrays(self.trace).items()}
        if self.control is not None:
            arrays |= {f"control.{name}": array for name, array in _arrays(self.control).items()}
        if self.heads is not None:
            arrays |= {f"heads.{name}": array for name, array in self.heads.arrays().items()}
        return Findings(self.provenance["title"], self.statement(), tables, figures, dict(self.provenance), arrays)

    @keeps_work
    def save(self, directory: str | Path, *, include_replies: bool = False, overwrite: bool = False) -> Path:
        """The report, and ``visual_tracing.json``, from which :func:`load_visual_traces` reads all back but the figures
        (there are no replies)."""
        directory = self.to_findings().save(directory, overwrite=overwrite)
        write_study(
            directory / FILE,
            self.pairs,
            trace=_axes(self.trace),
            control=None if self.control is None else _axes(self.control),
            heads=None if self.heads is None else [self.heads.how, self.heads.check],
            n_layers=self.n_layers,
            screened=self.asked.to_dict("list"),
            provenance=dict(self.provenance),
        )
        return directory

    @cached_property
    def _means(self) -> pd.DataFrame:
        return mean_table(self.trace, self.control, np.ones(len(self.pairs), dtype=bool))

    @cached_property
    def _peaks(self) -> pd.DataFrame:
        return peak_table(self.trace, self.control, self.levels, self.n_layers)

    @cached_property
    def _heads(self) -> pd.DataFrame:
        return self.heads.to_frame()

    def _shown_figures(self) -> dict[str, go.Figure]:
        figures = {}
        readers = self.readers or (None,) * len(self.shown)
        for (pair, trace), reader in zip(self.shown, readers, strict=True):
            captions = (f"before: {pair.answer_before}", f"after: {pair.answer_after}")
            figure = figures[f"{pair.name}: {pair.question}"] = pair_figure(
                pair.before, pair.after, pair.mask, captions
            )
            if reader is not None and reader.maps is None:
                figure.update_layout(meta={"note": f"No head is drawn over this picture: {reader.why_not}."})
            elif reader is not None:
                figures[f"{pair.name}, heads over the picture"] = reader.plot(pair)
            figures[f"{pair.name}, token by token"] = trace.plot(0)
        return figures

    def _share_heatmap(self, measure: str | None) -> go.Figure:
        m = self.trace.measured[0] if measure is None else self.trace[measure]
        means = self.means(measure=m.name)
        if means["share"].isna().all():
            raise ValueError(
                f"{m.name} differs by less than {LEAST[m.unit]:g} on average before and after the edit: shares of it "
                "would be noise. Plot share=False."
            )
        rows = means.dropna(subset=["share"]).set_index(["part", "layer", "role"])["share"]
        used = [role for role in self.trace.regions if role in rows.index.get_level_values("role")]
        axes = (self.trace.parts, self.trace.layers, used)
        values = np.array([[[rows.get((p, k, r), np.nan) for r in used] for k in axes[1]] for p in axes[0]])
        return tracing_heatmap(values, *axes, "", f"share of {m.name} recovered")

    def _heatmap(self, trace: Trace, measure: str | None) -> go.Figure:
        m = self.trace.measured[0] if measure is None else self.trace[measure]
        used = [r for r in range(len(trace.regions)) if trace.n_positions[:, r].any()]

        def mean(of: Trace) -> np.ndarray:
            change = of[m.name].values - m.corrupt[:, None, None, None]
            return np.stack([_mean_known(change[..., r]) for r in used], axis=-1)

        both = [mean(of) for of in (self.trace, self.control) if of is not None]
        limit = float(np.nanmax(np.abs(both)))
        regions = [trace.regions[r] for r in used]
        return tracing_heatmap(mean(trace), trace.parts, trace.layers, regions, "", f"change of {m.name}", limit)


@public
def load_visual_traces(directory: str | Path) -> VisualTraces:
    """What :meth:`VisualTraces.save` wrote."""
    directory = Path(directory)

    def build(pairs: tuple[TracedPair, ...], data: dict[str, Any]) -> VisualTraces:
        arrays = load_findings(directory).arrays
        traces = [None if data[name] is None else _trace(data[name], arrays, name) for name in ("trace", "control")]
        asked, heads = pd.DataFrame(data["screened"]), None
        if data.get("heads") is not None:  # a report from before there were any has no such entry
            of_heads = {k.removeprefix("heads."): v for k, v in arrays.items() if k.startswith("heads.")}
            heads = HeadTraces.of(of_heads, traces[0].clean, traces[0].corrupt, *data["heads"])
        return VisualTraces(pairs, *traces, asked, data["n_layers"], data["provenance"], heads=heads)

    return read_study(directory / FILE, build, of=TracedPair)


def _arrays(trace: Trace) -> dict[str, np.ndarray]:
    arrays = {"n_positions": trace.n_positions}
    for i, m in enumerate(trace.measured):
        arrays |= {f"{name}.{i}": getattr(m, name) for name in ("values", "clean", "corrupt")}
    return arrays


def _axes(trace: Trace) -> dict[str, Any]:
    names = ("parts", "layers", "regions", "example_ids", "window", "how", "check", "seconds")
    return {name: getattr(trace, name) for name in names} | {"measures": [[m.name, m.unit] for m in trace.measured]}


def _trace(axes: Mapping[str, Any], arrays: Mapping[str, np.ndarray], name: str) -> Trace:
    measured = tuple(
        Measured(*named, *(arrays[f"{name}.{kind}.{i}"] for kind in ("values", "clean", "corrupt")))
        for i, named in enumerate(axes["measures"])
    )
    rest = {k: tuple(v) if isinstance(v, list) else v for k, v in axes.items() if k != "measures"}
    return Trace(measured, n_positions=arrays[f"{name}.n_positions"], **rest)


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the examples that have a value; NaN for none."""
    known = values[np.isfinite(values).all(axis=(1, 2))]
    return known.mean(axis=0) if len(known) else np.full(values.shape[1:], np.nan)

"""What causal traces of edited pairs show: tables, sentences, figures, one report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.findings import Findings, load_findings
from interp.interval_figures import interval_lines
from interp.picture_overlays import pair_figure
from interp.tracing import Measured, Trace
from interp.tracing_figures import tracing_heatmap
from probes.pair_sheet import PicturePair
from probes.question_roles import CONCEPT, EDITED, LAST, PICTURE
from probes.study_files import read_study, write_study
from probes.tracing_tables import ALL, by_level, claim_table, mean_table, peak_table

if TYPE_CHECKING:
    import plotly.graph_objects as go

FILE = "visual_tracing.json"
_FEW_BLOCKS = 12  # fewer cut the depth more coarsely than the paper's ranges
_VERDICTS = {"agrees": "agree", "elsewhere": "lie elsewhere", "undecided": "can't be decided"}
_VERDICTS |= {"no clear peak": "have no clear peak here to compare with"}
_NAMES = {"attention": "attention output", "mlp": "MLP output", "residual": "residual stream"}


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
    (:data:`probes.question_roles.ROLES`). ``control``: states of an unrelated picture instead (None: not asked for).
    ``asked``: a row for each pair given, with P(gold) on both pictures, and whether it was traced. ``shown``: pairs
    with their traces token by token, for the report's figures; not read back.
    """

    pairs: tuple[TracedPair, ...]
    trace: Trace
    control: Trace | None
    asked: pd.DataFrame
    n_layers: int
    provenance: Mapping[str, Any]
    shown: tuple[tuple[PicturePair, Trace], ...] = ()

    @property
    def levels(self) -> list[str]:
        return [pair.level for pair in self.pairs]

    def means(self, level: str = ALL, measure: str | None = None) -> pd.DataFrame:
        """See :func:`probes.tracing_tables.mean_table`; ``level``: of the pairs."""
        if (level, measure) == (ALL, None):
            return self._means.copy()
        groups = dict(by_level(self.levels))
        if level not in groups:
            raise ValueError(f"level={level!r}; expected one of {', '.join(groups)}.")
        return mean_table(self.trace, self.control, groups[level], measure)

    def peaks(self) -> pd.DataFrame:
        """See :func:`probes.tracing_tables.peak_table`."""
        return self._peaks.copy()

    def claims(self) -> pd.DataFrame:
        """See :func:`probes.tracing_tables.claim_table`."""
        return claim_table(self.peaks(), self.n_layers)

    def statement(self) -> list[str]:
        """What the numbers say, the verdict first."""
        means, peaks = self.means(), self.peaks()
        claims = claim_table(peaks, self.n_layers)
        right = self.provenance["settings"]["only_right"]
        first = (
            f"{len(self.pairs)} of {len(self.asked)} pairs were traced"
            f"{', all answered rightly before and after the edit' if right else ''}: the edit takes P(answer before) "
            f"from {self.trace.clean.mean():.2f} to {self.trace.corrupt.mean():.2f}."
        )
        sentences = [first, *self._carried(means), *self._peak_sentences(peaks)]
        if len(claims):
            counts = claims["verdict"].value_counts()
            said = ", ".join(f"{n} {_VERDICTS[verdict]}" for verdict, n in counts.items())
            coarse = f" With {self.n_layers} blocks that says little." if self.n_layers < _FEW_BLOCKS else ""
            sentences.append(
                f"Of {len(claims)} claims of the paper on where parts matter most (LLaVA 1.5 7B, InstructBLIP 7B; "
                f"compared by relative depth): {said}.{coarse}"
            )
        return [*sentences, *self._control_sentences(means)]

    def plot(self, measure: str | None = None) -> go.Figure:
        """Mean change by layer and role, a panel for each part."""
        return self._heatmap(self.trace, measure)

    def plot_lines(self) -> go.Figure:
        """Mean change along the layers with intervals, a panel for each role, a line for each part."""
        frame = self.means().dropna(subset=["change"])
        frame = frame.assign(part=frame["part"].map(_NAMES))
        labels = {"change": "change of P(gold)", "layer": "layer"}
        return interval_lines(frame, "layer", "change", "change_low", "change_high", "part", "role", labels=labels)

    def to_findings(self) -> Findings:
        """The report, with the raw numbers as arrays."""
        means = self.means()
        logits = self.means(measure=self.trace.measured[1].name)
        names = ["change", "change_low", "change_high"]
        means = means.join(logits[names].rename(columns={name: f"logit_{name}" for name in names}))
        means.attrs["note"] = (
            "change: of P(gold), the answer before the edit. share: of the difference that the edit makes. control: "
            "the change by an unrelated picture's states. A role's positions are patched together: more of them, more."
        )
        peaks, claims = self.peaks(), self.claims()
        peaks.attrs["note"] = "depth: 0 is the first block, 1 the last. Not clear: an interval there reaches zero."
        claims.attrs["note"] = (
            f"Compared by relative depth; this model has {self.n_layers} blocks, so depths come in steps of "
            f"{1 / max(1, self.n_layers - 1):.2f}. The release pads questions on the right and averages token by "
            "token, so that its positions do not line up; here they are lined up by role."
        )
        figures = {"Mean change of the gold probability": self.plot()}
        if self.control is not None:
            figures["Control: states of an unrelated picture"] = self._heatmap(self.control, None)
        figures["Along the layers"] = self.plot_lines()
        for pair, trace in self.shown:
            captions = (f"before: {pair.answer_before}", f"after: {pair.answer_after}")
            figures[f"{pair.name}: {pair.question}"] = pair_figure(pair.before, pair.after, pair.mask, captions)
            figures[f"{pair.name}, token by token"] = trace.plot(0)
        tables = {"Where parts matter most": peaks, "The paper's claims": claims} if len(claims) else {}
        tables |= {"Means by part, layer and role": means, "Pairs": self.asked}
        arrays = {f"trace.{name}": array for name, array in _arrays(self.trace).items()}
        if self.control is not None:
            arrays |= {f"control.{name}": array for name, array in _arrays(self.control).items()}
        return Findings(self.provenance["title"], self.statement(), tables, figures, dict(self.provenance), arrays)

    def save(self, directory: str | Path, *, include_replies: bool = False, overwrite: bool = False) -> Path:
        """The report, and ``visual_tracing.json``, from which :func:`load_visual_traces` reads all back but the figures
        (there are no replies)."""
        directory = self.to_findings().save(directory, overwrite=overwrite)
        write_study(
            directory / FILE,
            self.pairs,
            trace=_axes(self.trace),
            control=None if self.control is None else _axes(self.control),
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

    def _carried(self, means: pd.DataFrame) -> list[str]:
        """Up to where the edited patches, and from where on the last token, hold more than half of the answer."""
        shares = means[(means["part"] == "residual") & means["share"].notna()]
        said = []
        for role in (EDITED, PICTURE, LAST):
            here = shares[shares["role"] == role].sort_values("layer")
            if here.empty or (role == PICTURE and EDITED in set(shares["role"])):
                continue
            over = here["share"] > 0.5
            layers = here["layer"][over].tolist()
            first = here.iloc[0]
            at = f"{first['share']:.0%} at layer {first['layer']}"
            if not layers:
                said.append(f"{role} never half ({at})")
            elif role == LAST:
                said.append(
                    f"{role} over half from layer {layers[0]} on" if over.iloc[-1] else f"{role} never at the end"
                )
            else:
                said.append(f"{role} over half up to layer {layers[-1]} ({at})")
        return [f"In the residual stream, of what the edit takes away: {'; '.join(said)}."] if said else []

    def _peak_sentences(self, peaks: pd.DataFrame) -> list[str]:
        sentences = []
        for part in self.trace.parts:
            if part == "residual":
                continue
            said = []
            for role in (CONCEPT, LAST):
                row = peaks[(peaks["level"] == ALL) & (peaks["part"] == part) & (peaks["role"] == role)]
                if row.empty:
                    continue
                row = row.iloc[0]
                where = f"in layer {row['layer']} ({row['change']:+.3f} [{row['change_low']:+.3f}, "
                where += f"{row['change_high']:+.3f}], depth {row['depth']:.2f})"
                said.append(f"at the {role} {where if row['is_clear'] else 'in no layer clearly'}")
            if said:
                sentences.append(f"The {_NAMES[part]} changes P(gold) most {', '.join(said)}.")
        return sentences

    def _control_sentences(self, means: pd.DataFrame) -> list[str]:
        if self.control is None:
            return ["No control by unrelated pictures was asked for."]
        known = means.dropna(subset=["beyond_control_low"])
        clear = int((known["beyond_control_low"] > 0).sum())
        return [
            f"States of an unrelated picture change P(gold) by {known['control'].mean():+.3f} on average over parts, "
            f"layers and roles (at most {known['control'].max():+.3f}); the right picture's do clearly more in {clear} "
            f"of {len(known)} places, each judged by itself."
        ]


def load_visual_traces(directory: str | Path) -> VisualTraces:
    """What :meth:`VisualTraces.save` wrote."""
    directory = Path(directory)

    def build(pairs: tuple[TracedPair, ...], data: dict[str, Any]) -> VisualTraces:
        arrays = load_findings(directory).arrays
        traces = [None if data[name] is None else _trace(data[name], arrays, name) for name in ("trace", "control")]
        return VisualTraces(pairs, *traces, pd.DataFrame(data["screened"]), data["n_layers"], data["provenance"])

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

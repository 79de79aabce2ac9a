"""The report of causal traces of edited pairs. Where fewer than 5 pairs were traced it has no figure of means and no
order of layers or heads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import plotly.graph_objects as go

from interp.figures import interval_lines
from interp.reports import Figures, Findings
from interp.scans.traces import LEAST
from probes.pairs import PicturePair
from probes.visual_semantics.tracing.maps import change_map, share_map
from probes.visual_semantics.tracing.result import VisualTraces
from probes.visual_semantics.tracing.sentences import NAMES, beside_claims, beside_control, carried, peaks_of_parts
from probes.visual_semantics.tracing.tables import LEAST_PAIRS

_N_HEADS = 20  # rows of the table of single heads


def findings_of(traces: VisualTraces) -> Findings:
    """The report."""
    means = traces.means()
    of_logits, enough = traces.trace.measured[1].name, len(traces.pairs) >= LEAST_PAIRS
    logits = traces.means(measure=of_logits)
    names = [f"{name}{end}" for name in ("change", "share") for end in ("", "_low", "_high")]
    means = means.join(logits[names].rename(columns={name: f"logit_{name}" for name in names}))
    means.attrs["note"] = (
        "change: of P(gold), the answer before the edit. share: of the difference that the edit makes, left out "
        f"where that is under {LEAST['probability']} (logits: {LEAST['logits']}). control: the change by an "
        "unrelated picture's states. logit: of the gold answer's logit, which also moves where all logits do. A "
        "role's positions are patched together: more of them, more."
    )
    peaks, claims = traces.peaks(only_enough=True), traces.claims()
    peaks.attrs["note"] = (
        "depth: 0 is the first block, 1 the last. Not clear: an interval there reaches zero. Levels with fewer than "
        f"{LEAST_PAIRS} pairs, traced or in the control, are left out."
    )
    claims.attrs["note"] = (
        f"Compared by relative depth; this model has {traces.n_layers} blocks, so depths come in steps of "
        f"{1 / max(1, traces.n_layers - 1):.2f}. The release pads questions on the right and averages token by "
        "token, so that its positions do not line up; here they are lined up by role."
    )
    figures, tables = {}, {}
    if enough:
        both = [traces.trace, traces.control]
        figures["Mean change of the gold probability"] = partial(change_map, traces.trace, both)
        if traces.control is not None:
            figures["Control: states of an unrelated picture"] = partial(change_map, traces.control, both)
        if logits["share"].notna().any():
            figures["Share of the gold logit recovered"] = partial(share_map, traces.trace, logits, of_logits)
        figures["Along the layers"] = partial(lines_of, traces)
    figures |= shown_figures(traces)
    tables |= {"Where parts matter most": peaks} if len(peaks) else {}
    tables |= {"The paper's claims": claims} if len(claims) else {}
    if traces.heads is not None and enough:
        figures["Single heads"] = traces.heads.plot
        tables["Single heads"] = traces.heads.to_frame().head(_N_HEADS)
        tables["Single heads"].attrs["note"] = (
            f"The first {_N_HEADS} of {traces.heads.values[0].size} heads, by the mean change of P(gold) when the "
            "head's output in the run on the picture before the edit is set, at all text after the picture, into the "
            "run on the picture after it. q: of no change, by sign flips over pairs, over all heads. The first of many "
            "are first in part by chance, so their values are a little too high."
        )
    tables |= {"Means by part, layer and role": means, "Pairs": traces.asked}
    said = statement_of(traces)
    return Findings(traces.provenance["title"], said, tables, Figures(figures), dict(traces.provenance))


def statement_of(traces: VisualTraces) -> list[str]:
    """What the numbers say, the verdict first."""
    means, peaks, n = traces.means(), traces.peaks(), len(traces.pairs)
    right = traces.provenance["settings"]["only_right"]
    counted = (
        f"{n} of {len(traces.asked)} pairs were traced"
        f"{', all answered rightly before and after the edit' if right else ''}: the edit takes P(answer before) "
        f"from {traces.trace.clean.mean():.2f} to {traces.trace.corrupt.mean():.2f} on average."
    )
    heads = [] if traces.heads is None else [traces.heads.statement()]
    rest = [*beside_claims(traces.claims(), traces.n_layers), beside_control(means)]
    if n < LEAST_PAIRS:
        few = f"Too few pairs to say which states carry the edit: {n} traced, {LEAST_PAIRS} or more are needed."
        return [few, counted, *heads, *rest]
    found = [*carried(means), *peaks_of_parts(peaks, traces.trace.parts)]
    return [*found[:1], counted, *found[1:], *heads, *rest]


def lines_of(traces: VisualTraces) -> go.Figure:
    """Mean change along the layers with intervals, a panel for each role, a line for each part."""
    frame = traces.means().dropna(subset=["change"])
    frame = frame.assign(part=frame["part"].map(NAMES))
    labels = {"change": "change of P(gold)", "layer": "layer"}
    return interval_lines(frame, "layer", "change", color="part", facet="role", labels=labels)


def shown_figures(traces: VisualTraces) -> dict[str, Callable[[], go.Figure]]:
    """What draws some pairs: their pictures, the heads that read most from them, and their traces token by token."""
    figures = {}
    readers = traces.readers or (None,) * len(traces.shown)
    for (pair, trace), reader in zip(traces.shown, readers, strict=True):
        why_not = reader.why_not if reader is not None and reader.maps is None else ""
        figures[f"{pair.name}: {pair.question}"] = partial(_plot_pair, pair, why_not)
        if reader is not None and reader.maps is not None:
            figures[f"{pair.name}, heads over the picture"] = partial(reader.plot, pair)
        figures[f"{pair.name}, token by token"] = partial(trace.plot, 0)
    return figures


def _plot_pair(pair: PicturePair, why_not: str) -> go.Figure:
    from interp.overlays import pair_figure

    captions = (f"before: {pair.answer_before}", f"after: {pair.answer_after}")
    figure = pair_figure(pair.before, pair.after, pair.mask, captions)
    note = {"meta": {"note": f"No head is drawn over this picture: {why_not}."}} if why_not else {}
    return figure.update_layout(**note)

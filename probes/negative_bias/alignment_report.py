"""The report of an alignment: what fitting did, tests on held-out questions, validation look by look."""

from __future__ import annotations

from functools import partial

import pandas as pd
import plotly.graph_objects as go

from interp.figures.style import TEMPLATES
from interp.reports import Figures, Findings, with_mass
from interp.statistics import Estimate
from probes.negative_bias.alignment_result import FITTED, HELD_OUT, NULLS, Alignment


def findings_of(found: Alignment) -> Findings:
    """Sentences, the tests, the methods and every look at validation."""
    return Findings(
        title=found.provenance["title"],
        statement=statement_of(found),
        tables={**found.tests, "Methods": found.methods_table(), "Validation, look by look": found.history},
        figures=Figures({FITTED: partial(plot_of, found)}),
        provenance=dict(found.provenance),
    )


def statement_of(found: Alignment) -> list[str]:
    """What held-out questions say, then what fitting did, in sentences made from the numbers alone."""
    nasa = next(m for m in found.methods if m.name == "NASA")
    state, before = nasa.validation, found.before
    assert state is not None
    sentences = [
        f"NASA kept new rows of {sum(r.kind == 'query' for r in found.edit.rows)} heads ({nasa.note}; "
        f"{nasa.n_parameters:,} numbers). On the validation questions, which chose when to stop, precision - recall "
        f"went from {before['gap']:.2f} to {state.gap:.2f}, accuracy from {before['accuracy']:.2f} to "
        f"{state.accuracy:.2f}, AUROC from {before['auroc']:.2f} to {state.auroc:.2f}.",
    ]
    if HELD_OUT in found.tests:
        sentences = [*target_sentences(found.tests[HELD_OUT]), *sentences]
    return with_mass(sentences, found.provenance)


def target_sentences(table: pd.DataFrame) -> list[str]:
    """On which of the held-out sets each method meets the target of a correction, and what it misses elsewhere."""
    sentences = []
    for method in dict.fromkeys(table["method"]):
        rows = table[table["method"] == method]
        if method in NULLS:
            said = "; ".join(
                f"{row['set']} NB {Estimate.from_row(row, 'negative_bias'):.2f}, "
                f"accuracy {Estimate.from_row(row, 'accuracy'):.2f}"
                for _, row in rows.iterrows()
            )
            sentences.append(f"{method[0].upper()}{method[1:]}: {said}.")
            continue
        met = [row["set"] for _, row in rows.iterrows() if row["target"] == "met"]
        said = "; ".join(
            f"{row['set']} {row['target']} (NB {Estimate.from_row(row, 'negative_bias'):.2f}, accuracy "
            f"{Estimate.from_row(row, 'accuracy_change'):+.2f} to {row['accuracy']:.2f}, AUROC "
            f"{Estimate.from_row(row, 'auroc_change'):+.2f}, n = {row['n']})"
            for _, row in rows.iterrows()
        )
        sentences.append(f"{method} meets the target on {len(met)} of {len(rows)} held-out sets: {said}.")
    return sorted(sentences, key=lambda s: " meets " not in s)


def plot_of(found: Alignment) -> go.Figure:
    """Validation gap and the tuned heads' NAS, look by look, of NASA."""
    nasa = found.history[found.history["method"] == "NASA"]
    looks = nasa[nasa["event"] == "look"].reset_index(drop=True)
    hover = looks["what"] + ", step " + looks["step"].astype(str)
    figure = go.Figure(
        [
            go.Scatter(x=looks.index, y=looks["gap"], name="precision - recall", mode="lines+markers", text=hover),
            go.Scatter(x=looks.index, y=looks["auroc"], name="AUROC", mode="lines+markers", text=hover),
            go.Scatter(x=looks.index, y=looks["loss"], name="loss of the gold answer", mode="lines", text=hover),
        ]
    )
    for start, name in zip(*_starts(looks), strict=True):
        figure.add_vline(x=start - 0.5, line_width=1, line_dash="dot", annotation_text=name)
    figure.update_layout(
        template=TEMPLATES["light"],
        xaxis_title="look at the validation questions",
        yaxis_title="",
        height=420,
        legend={"y": 1.02, "yanchor": "bottom"},  # the axis has a title below
    )
    return figure


def _starts(looks: pd.DataFrame) -> tuple[list[int], list[str]]:
    """Where each head's looks begin."""
    first = looks.drop_duplicates("what")
    return first.index.tolist(), first["what"].tolist()

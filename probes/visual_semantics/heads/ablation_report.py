"""What ablating sets of heads says: verdicts on claims, effects by level with intervals, bars."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import plotly.graph_objects as go

from interp.door import public
from interp.figures.intervals import interval_bars
from interp.reports import Figures, Findings
from probes.studies import said_of_data
from probes.visual_semantics.heads.ablation_result import MEASURES, SetAblation
from probes.visual_semantics.heads.claims import claim_tables, claims_of, sentences_of


def findings_of(ablation: SetAblation) -> Findings:
    """The report of sets ablated."""
    claims = claims_of([], ablation)
    n, right = len(ablation.asked), int(ablation.is_correct.sum())
    asked = f"Heads were ablated on {n} questions, of which {right} are answered correctly unedited."
    return Findings(
        title=ablation.provenance["title"],
        statement=[*sentences_of(claims), asked, *said_of_data(ablation.provenance)],
        tables=claim_tables(claims) | tables_of(ablation),
        figures=Figures(figures_of(ablation)),
        provenance=dict(ablation.provenance),
    )


def tables_of(ablation: SetAblation) -> dict[str, pd.DataFrame]:
    """Which heads the sets hold, and what ablating them does."""
    effects = ablation.to_frame()
    effects.attrs["note"] = "too few: under 10 questions, of which no interval and no p is given, and no bar drawn."
    return {"Sets of heads": ablation.sets(), "Sets ablated on every level": effects}


def figures_of(ablation: SetAblation) -> dict[str, Callable[[], go.Figure]]:
    """What draws the bars of each measure under each edit; none where all levels have too few questions."""
    effects = ablation.to_frame()
    if effects["too_few"][effects["subset"] == "all"].all():
        return {}
    return {
        f"Change of {what}, heads {edit.replace('_', ' ')}": partial(plot_effects, effects, measure, edit)
        for measure, what in MEASURES.items()
        for edit in ablation.edits
    }


@public
def plot_effects(effects: pd.DataFrame, measure: str, edit: str) -> go.Figure:
    """Top sets and random sets of each level on each level's questions, as bars with intervals; levels with fewer than
    10 questions are left out.

    Args:
        effects: as :meth:`SetAblation.to_frame` gives them.
        measure: "accuracy" or "gold_prob", whose change is shown (edited minus unedited, in shares).
        edit: "zero" or "mean_of_others", one that the effects have.
    """
    rows = effects[(effects["subset"] == "all") & (effects["edit"] == edit) & ~effects["too_few"]]
    parts = []
    for kind in ("delta", "random"):
        values = {f"change{end}": rows[f"{kind}_{measure}{end}"] for end in ("", "_low", "_high")}
        which = " heads" if kind == "delta" else " random"
        part = rows[["target", "n"]].assign(panel=rows["score"] + " heads", heads=rows["source"] + which, **values)
        parts.append(part)
    return interval_bars(
        pd.concat(parts, ignore_index=True),
        x="target",
        y="change",
        color="heads",
        facet="panel",
        title=f"Change of {MEASURES[measure]} by the level of the questions, heads {edit.replace('_', ' ')}",
        labels={"target": "questions asked", "heads": "heads ablated"},
    )

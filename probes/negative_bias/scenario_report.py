"""The report of scenarios: verdicts, claims, parts of the bias, every cell, two figures."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from interp.figures.intervals import interval_bars
from interp.reports import LEAST, Figures, Findings, with_mass
from interp.statistics import Claim, Estimate
from probes.negative_bias.scenario_forms import SCENARIOS
from probes.negative_bias.scenario_result import Scenarios

if TYPE_CHECKING:
    import plotly.graph_objects as go

NEGATIVE_BIAS = "Negative bias by scenario and knowledge"
LOG_ODDS = "Log odds of No by scenario and knowledge"
_FIGURES = {
    "negative_bias": (NEGATIVE_BIAS, "Above 0: No where Yes is right more often than the reverse. 95 % intervals."),
    "log_odds_no": (LOG_ODDS, "In nats, over gold Yes and gold No in equal parts. It does not saturate."),
}


def findings_of(found: Scenarios) -> Findings:
    """The report: verdicts, claims, parts, every cell, the figures."""
    claims, cells, parts = found.claims(), found.to_frame(), found.parts()
    claims.attrs["note"] = (
        "The verdict is the rule of the interval: shown, reversed, not shown (it holds 0), or too few questions. It is "
        "of NB, or of the log odds where NB is at its ceiling: a model that always says No keeps its bias with the "
        "word by arithmetic."
    )
    parts.attrs["note"] = "Half sums and half differences; word 1 and meaning 0 is a model that always says No."
    cells.attrs["note"] = "change: the difference from plain, paired. Cells with enough = False are not in the figure."
    forms = pd.DataFrame(
        {
            "scenario": name,
            "description": SCENARIOS[name].description,
            "instruction": SCENARIOS[name].instruction.text,
            "question": SCENARIOS[name].wrapper,
        }
        for name in found.answers
    )
    return Findings(
        title=str(found.provenance["title"]),
        statement=_statement(found, claims),
        tables={
            "Claims": claims,
            "Parts of the bias": parts,
            "Cells": cells,
            "Scenarios": forms,
            "Answers": found.examples(),
        },
        figures=Figures(
            {name: partial(plot_of, found, value) for value, (name, _) in _FIGURES.items() if cells["enough"].any()}
        ),
        provenance=dict(found.provenance),
    )


def plot_of(found: Scenarios, value: Literal["negative_bias", "log_odds_no"]) -> go.Figure:
    """NB, or the log odds of No, by scenario and subset with intervals. Subsets too small for it are left out."""
    frame = found.to_frame().rename(columns={"log_odds_no_low": "low", "log_odds_no_high": "high"})
    shown = frame[frame["enough"]]
    low, high = ("ci_low", "ci_high") if value == "negative_bias" else ("low", "high")
    title, note = _FIGURES[value]
    figure = interval_bars(shown, "scenario", value, low, high, color="subset", title=title)
    return figure.update_layout(meta={"note": note})


def _statement(found: Scenarios, claims: pd.DataFrame) -> list[str]:
    plain = Estimate(*found.numbers.at("bias", 0, found.outcomes.index("plain")))
    n, n_groups, name = len(found.questions), len(set(found.outcomes.groups)), found.provenance["model"]["name"]
    claim = Claim(f"Asked plainly, {name} has a negative bias", plain, n=n_groups, form="+.2f")
    lines = [
        claim.sentence() if claim.verdict == "too few" else f"{claim.text} of {claim.finding()}, on {n} questions."
    ]
    for row in claims.drop_duplicates("claim").to_dict("records") if len(claims) else ():
        by_odds = row["decided_by"] == "log odds"
        number = f"{Estimate.from_row(row, 'log_odds_no' if by_odds else 'negative_bias'):+.2f}"
        unit = "in log odds, NB being at its ceiling" if by_odds else "NB"
        lines.append(f"{row['claim']}: {row['verdict']} ({row['contrast']}: {number} {unit}; n = {row['n']}).")
    if found.reasoning is not None:
        words = np.median([len(text.split()) for text in found.reasoning])
        lines.append(f"In chain_of_thought the model wrote {words:.0f} words before its answer (median).")
    if found.labels is None:
        lines.append("Knowledge was not given, so nothing is said of the subsets; see sort_by_knowledge.")
    low = {name: float(np.exp(a.log_probs).sum(1).mean()) for name, a in found.answers.items()}
    if low := {name: mass for name, mass in low.items() if name != "plain" and mass < LEAST}:
        named = ", ".join(f"{name} ({mass:.1%})" for name, mass in low.items())
        lines.append(
            f"The options hold less than {LEAST:.0%} of the first token's probability in {named}: there the model "
            "answers with something else, and its bias says little."
        )
    return with_mass(lines, found.provenance)

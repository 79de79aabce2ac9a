"""The report of what a model knows: counts by domain, sensitivity to the thresholds, every question."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from interp.figures.intervals import interval_bars
from interp.reports import Figures, Findings
from interp.statistics import FEWEST, wilson_share
from probes.negative_bias.knowledge_result import LABELS, Knowledge

if TYPE_CHECKING:
    import plotly.graph_objects as go


def findings_of(knowledge: Knowledge) -> Findings:
    """The report: verdict, counts by domain, sensitivity to the thresholds, and every question."""
    counts = Counter(knowledge.labels.values())
    n, name = len(knowledge.questions), knowledge.provenance["model"]["name"]
    s = knowledge.settings
    statement = [
        f"Of {n} questions, {name} has correct knowledge of {counts['correct']}, incorrect knowledge of "
        f"{counts['incorrect']} and insufficient knowledge of {counts['insufficient']}.",
        f"Correct: the greedy reply is right, and at least {s['correct_share']:.0%} of {s['n_samples']} replies "
        f"sampled at temperature {s['temperature']:g} are. Incorrect: one wrong answer holds at least "
        f"{s['agreement']:.0%} of all replies. Insufficient: everything else, abstentions and disagreement.",
    ]
    if few := [f"{label} ({counts[label]})" for label in LABELS if counts[label] < 20]:
        statement.append(f"Fewer than 20 questions, too few for much of a comparison: {', '.join(few)}.")
    sensitivity = knowledge.sensitivity()
    sensitivity.attrs["note"] = "Labels under other thresholds and the other reading of a match; same replies."
    return Findings(
        title=str(knowledge.provenance["title"]),
        statement=statement,
        tables={
            "Counts": knowledge.counts(),
            "Sensitivity to the thresholds": sensitivity,
            "Questions": knowledge.to_frame(),
        },
        figures=Figures({"What the model knows": partial(plot_of, knowledge)} if len(with_enough(knowledge)) else {}),
        provenance=dict(knowledge.provenance),
    )


def plot_of(knowledge: Knowledge) -> go.Figure:
    """Share of questions with each label, by domain, with Wilson intervals; domains with few questions are left out."""
    rows = []
    for row in with_enough(knowledge).to_dict("records"):
        for label in LABELS:
            share = wilson_share([True] * row[label] + [False] * (row["n"] - row[label])).columns("share")
            rows.append({"domain": row["domain"] or "(none)", "knowledge": label, "n": row["n"], **share})
    ends = ("share", "share_low", "share_high")
    return interval_bars(pd.DataFrame(rows), "domain", *ends, color="knowledge", title="What the model knows")


def with_enough(knowledge: Knowledge) -> pd.DataFrame:
    """The counts of domains with 10 questions or more."""
    return knowledge.counts()[lambda counts: counts["n"] >= FEWEST]

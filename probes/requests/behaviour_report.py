"""The report of what a model does with requests: how often each kind, source and category is refused."""

from __future__ import annotations

from functools import partial

import pandas as pd
import plotly.graph_objects as go

from interp.figures.intervals import interval_bars
from interp.reports import Figures, Findings
from interp.statistics import FEWEST, Estimate, measured
from probes.requests.behaviour_result import Behaviour


def findings_of(behaviour: Behaviour, include_replies: bool = False) -> Findings:
    """The report; texts of requests and replies stand in it only if asked for."""
    table = behaviour.to_frame()
    if include_replies and behaviour.replies is not None:
        table = table.assign(request=[r.text for r in behaviour.requests], reply=behaviour.replies)
    return Findings(
        title=behaviour.provenance["title"],
        statement=statement_of(behaviour),
        tables={
            "Refusals by kind": behaviour.rates(),
            "Refusals by source": behaviour.rates("source"),
            "Refusals by category": behaviour.rates("category"),
            "Requests": table,
        },
        figures=Figures({"Refusals by category": partial(plot_of, behaviour)} if len(with_enough(behaviour)) else {}),
        provenance=dict(behaviour.provenance),
    )


def statement_of(behaviour: Behaviour) -> list[str]:
    """How often each kind is refused."""
    return [
        f"{row['kind']}: {row['refused']} of {row['n']} refused "
        f"({measured(Estimate.from_row(row, 'refusal_rate'), row['n'], '.0%')}), {row['unclear']} unclear."
        for row in behaviour.rates().to_dict("records")
    ]


def with_enough(behaviour: Behaviour) -> pd.DataFrame:
    """The rates of categories with 10 requests or more."""
    return behaviour.rates("category")[lambda rates: rates["n"] >= FEWEST].reset_index(drop=True)


def plot_of(behaviour: Behaviour) -> go.Figure:
    """The refusal rate of each category that has requests enough, harmful beside harmless, with its interval."""
    rates = with_enough(behaviour).replace({"category": {"": "(none)"}})
    ends = ("refusal_rate", "refusal_rate_low", "refusal_rate_high")
    title = f"Refusals of {behaviour.provenance['model']['name']}"
    return interval_bars(rates, "category", *ends, color="kind", title=title, labels={ends[0]: "refusal rate"})

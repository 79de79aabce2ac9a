"""The report of a causal test of heads: sentences from its tables alone, and changes against k."""

from __future__ import annotations

from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interp.figures.intervals import interval_lines
from interp.rankings.sets import figures_of_sets, said_of_sets, tables_of_sets
from interp.reports import Figures, Findings, mass_of
from interp.statistics import ALPHA, FEWEST_DRAWS, Claim, Estimate, split_half
from probes.negative_bias.causal_result import OUTCOMES, CausalTest

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEASURES = {"nas": "NAS", "nas_order_balanced": "order-balanced NAS"}


def findings_of(test: CausalTest) -> Findings:
    """Verdict, tables and figures."""
    frame, correlations = test.to_frame(), test.correlations()
    frame.attrs["note"] = (
        "Edited minus unedited. Top and bottom: 95 % bootstrap intervals over questions; random: mean and central "
        "95 % of the random sets. p: share of random sets that change it at least as much, either way."
    )
    correlations.attrs["note"] = (
        "Spearman's correlation over heads of the mean score with the mean total effect; 95 % bootstrap intervals "
        "over layers."
    )
    shown = [(o, p) for p in dict.fromkeys(frame["positions"]) for o in OUTCOMES]
    return Findings(
        title=test.provenance["title"],
        statement=statement_of(test),
        tables={
            "Unedited model": test.baseline(),
            "Sets of heads": frame,
            "Score against effect": correlations,
            "Heads of the sets": test.sets(),
            "Heads": test.heads(),
            **tables_of_sets(test.provenance),
        },
        figures=Figures(
            {f"Change of {OUTCOMES[o]}, {where_of(p)}": partial(plot_of, test, o, p) for o, p in shown}
            | figures_of_sets(test.provenance)
        ),
        provenance=dict(test.provenance),
    )


def statement_of(test: CausalTest) -> list[str]:
    """What the numbers say, in sentences; the first ones are the answer. Of the tables alone."""
    reliability = split_half(test.effects).mean
    said = verdict_sentences(
        test.to_frame(), test.correlations(), test.baseline(), test.provenance["settings"]["factor"], reliability
    )
    said += said_of_sets(test.provenance)
    mass = mass_of(test.provenance)
    return said if mass is None else [*said, mass.sentence()]


def plot_of(test: CausalTest, outcome: str, positions: str) -> go.Figure:
    """Change of an outcome ("nb", "accuracy", "margin") against k: top, bottom and random sets, edit by edit."""
    frame = test.to_frame()
    frame = frame[frame["positions"] == positions]
    y = f"delta_{outcome}"
    panel = frame["edit"] + ", by " + frame["by"].map(name_of)
    what = OUTCOMES[outcome]
    return interval_lines(
        frame.dropna(subset=y).assign(panel=panel),
        x="k",
        y=y,
        color="set",
        facet="panel",
        title=f"Change of {what} when k heads are edited together, {where_of(positions)}",
        labels={"k": "heads", y: "change", "set": "heads edited"},
    )


def verdict_sentences(
    frame: pd.DataFrame, correlations: pd.DataFrame, baseline: pd.DataFrame, factor: float, reliability: float = np.nan
) -> list[str]:
    """The verdict from the tables of a :class:`CausalTest`, and from nothing else."""
    top = frame[frame["set"] == "top"]
    n, n_yes, n_groups = baseline[["n", "n_yes", "n_groups"]].iloc[0].astype(int)
    said = [_count(rows, n_groups, *key) for key, rows in top.groupby(["by", "positions"], sort=False)]
    said += _prediction(correlations)
    if isfinite(reliability):
        said.append(f"Between two halves of the questions the effects of heads correlate {reliability:.2f}.")
    for key, rows in frame.groupby(["by", "positions", "edit"], sort=False):
        k = max((k for k in rows["k"] if k <= 10), default=rows["k"].min())
        of_k = rows[rows["k"] == k].set_index("set")
        said += [_comparison(of_k, name, n_groups, *key, k, factor) for name in ("nb", "margin")]
    ends = ("ci_low", "ci_high")
    values = [f"{r['outcome']} {Estimate.from_row(r, 'value', ends):.3f}" for r in baseline.to_dict("records")]
    return [*said, f"Unedited, on {n} questions ({n_yes} gold Yes): {'; '.join(values)}."]


def _count(top: pd.DataFrame, n: int, by: str, positions: str) -> str:
    """In how many tests of one measure the top does more than random heads; p has steps of 1 / (1 + n_random)."""
    able = top[top["n_random"] >= FEWEST_DRAWS]
    said = f"By {name_of(by)}, {where_of(positions)}: "
    if able.empty:
        return said + (
            f"too few random sets for a p of {ALPHA}; {FEWEST_DRAWS} or more could show whether the top "
            "heads do more than random heads of their layers."
        )
    steps = able["n_random"] + 1
    by_chance = (np.floor(ALPHA * steps) / steps).sum()
    more = {name: sum(_claim(row, name, n).is_shown for _, row in able.iterrows()) for name in ("nb", "margin")}
    return said + (
        f"the top heads change the negative bias more than random heads of the same layers in {more['nb']} of "
        f"{len(able)} tests (numbers of heads and edits; p at most {ALPHA}, by chance in about {by_chance:.1f}), and "
        f"the mean margin in {more['margin']}."
    )


def _claim(top: pd.Series, name: str, n: int) -> Claim:
    """That editing the top heads changes an outcome of ``n`` groups of questions, and by more than random heads do."""
    return Claim(OUTCOMES[name], Estimate.from_row(top, f"delta_{name}"), p=top[f"delta_{name}_p_random"], n=n)


def _comparison(
    rows: pd.DataFrame, name: str, n_groups: int, by: str, positions: str, edit: str, k: int, factor: float
) -> str:
    """One edit of the top k against random sets and the bottom k."""

    def change(kind: str) -> str:
        return f"{Estimate.from_row(rows.loc[kind], f'delta_{name}'):+.3f}"

    verb = {"zero": "Zeroing", "mean": "Mean-replacing", "scale": f"Scaling by {factor:g}"}[edit]
    top = rows.loc["top"]
    n, p = int(top["n_random"]), top[f"delta_{name}_p_random"]
    random = "no random set exists"
    if n:
        random = (
            f"{n} random sets of the same layers by {change('random')} (mean and middle 95 % of the sets; p = {p:.3f})"
        )
    claim = _claim(top, name, n_groups)
    if not n:
        verdict = "nothing to compare with"
    elif claim.verdict == "too few":
        verdict = f"too few questions to tell (n = {n_groups}; expected {claim.fewest} or more)"
    elif claim.is_shown:
        verdict = "the top does more than random"
    elif not claim.estimate.side_of(0):
        verdict = "no change that these questions can tell from none"
    elif p == 1 / (1 + n):
        verdict = "more than each random set, but these are too few to tell"
    else:
        verdict = "the top is not shown to do more than random"
    return (
        f"{verb} the top {k} heads by {name_of(by)} {where_of(positions)} changes the {OUTCOMES[name]} by "
        f"{change('top')}; {random}; the bottom {k} by {change('bottom')}: {verdict}."
    )


def _prediction(correlations: pd.DataFrame) -> list[str]:
    """Which measure goes with the effect of single heads, and which better."""
    said = []
    for relation, rows in correlations.groupby("relation", sort=False):
        predicts = {}
        for row in rows.itertuples():
            found = Estimate(row.spearman, row.ci_low, row.ci_high)
            side = Claim("", found, n=row.n_heads).verdict
            if " minus " in row.measure:
                a, b = row.measure.split(" minus ")
                better = {"above": a, "below": b}.get(side)
                if better is None:
                    verdict = "neither is shown to predict better"
                elif predicts[better]:
                    verdict = f"{name_of(better)} predicts better"
                else:
                    verdict = f"{name_of(better)} is higher, but is not shown to predict anything itself"
                said.append(f"The difference, {name_of(a)} less {name_of(b)}, is {found:+.2f}: {verdict}.")
            else:
                predicts[row.measure] = side == "above"
                verdict = {"above": "predicts it", "below": "predicts the opposite"}
                verdict = verdict.get(side, "is not shown to predict it")
                said.append(
                    f"Over {row.n_heads} heads, the rank correlation of {name_of(row.measure)} with what zeroing the "
                    f"head alone takes away ({relation}) is {found:+.2f}: it {verdict}."
                )
    return said


def name_of(measure: str) -> str:
    """A measure as the sentences call it."""
    return MEASURES.get(measure, measure)


def where_of(positions: str) -> str:
    """Positions as the sentences call them."""
    return "at the answer" if positions == "answer" else "at all positions"

"""The report of reply inversion: the verdict under each mask, tables, a figure for each kind of request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import pandas as pd
import plotly.graph_objects as go

from interp.figures.heads import interval_bars
from interp.reports import Figures, Findings
from interp.statistics import Estimate
from probes.harmfulness.steering.inversion_result import EVERY, MASKS, Inversion

LEAST_TURNABLE = 0.2  # share of answers that could be turned, below which a verdict says little


def findings_of(study: Inversion, include_replies: bool = False) -> Findings:
    """The report; texts of requests and replies stand in it only if asked for."""
    table = study.to_frame()
    tables = {"Answers": table, "Questions": pd.DataFrame([asdict(q) for q in study.questions])}
    if include_replies:
        texts = {r.id: r.text for r in study.requests}
        tables["Replies"] = study.outcomes.assign(request=study.outcomes["id"].map(texts))
    figures = {f"Change of Certainly, {k} requests": partial(inversion_figure, table, k) for k in shown_kinds(table)}
    said = inversion_sentences(table)
    return Findings(study.provenance["title"], said, tables, Figures(figures), dict(study.provenance))


def inversion_figure(table: pd.DataFrame, kind: str) -> go.Figure:
    """Change of the rate of Certainly by direction and sign, beside the controls, a panel for each mask."""
    question = EVERY if (table["question"] == EVERY).any() else table["question"].iloc[0]
    shown = table[(table["mask"] != "") & (table["kind"] == kind) & (table["question"] == question)]
    return interval_bars(
        shown.assign(arm=shown["sign"] + shown["direction"]),
        x="arm",
        y="change_certainly",
        low="change_certainly_low",
        high="change_certainly_high",
        color="condition",
        facet="mask",
        title=f"Change in the rate of 'Certainly', {kind} requests",
        labels={"change_certainly": "change (share)", "condition": ""},
    )


def inversion_sentences(table: pd.DataFrame) -> list[str]:
    """Under each mask: does harmfulness turn No into Certainly and refusal not, and more than the controls do?"""
    question = EVERY if (table["question"] == EVERY).any() else table["question"].iloc[0]
    whole = table[table["question"] == question]
    sentences = []
    plain = {row["kind"]: row for row in whole[whole["mask"] == ""].to_dict("records")}
    for kind, row in plain.items():
        sentences.append(
            f"Unsteered, {row['n']} answers to {kind} requests: {row['no']:.0%} No, {row['certainly']:.0%} Certainly, "
            f"{row['other']:.0%} other."
        )
    verdicts = []
    for mask in MASKS:
        part = whole[whole["mask"] == mask]
        for sign, kind, first, then in (("+", "harmless", "No", "Certainly"), ("-", "harmful", "Certainly", "No")):
            if part["kind"].eq(kind).any():
                flips = tuple(_flips(part, name, sign, kind, then) for name in ("harmfulness", "refusal"))
                told = _VERDICT[flips].format(f"{first} into {then}")
                verdicts.append(f"Mask '{mask}', {sign} on {kind} requests: {told}.")
        for sign, kind in (("+", "harmless"), ("-", "harmless"), ("-", "harmful")):
            said = "; ".join(_told(part, sign, name, kind) for name in ("harmfulness", "refusal"))
            sentences.append(f"Mask '{mask}', {kind} requests, change of Certainly: {said}.")
    for kind, word in (("harmless", "no"), ("harmful", "certainly")):
        if kind in plain and plain[kind][word] < LEAST_TURNABLE:
            verdicts.append(
                f"{plain[kind][word]:.0%} of {kind} requests are answered {word.capitalize()} unsteered: there is "
                "little to turn; read the margins."
            )
    return [*verdicts, *sentences]


_VERDICT = {
    (True, False): "harmfulness turns {} and refusal is not shown to, as the paper found",
    (True, True): "both directions turn {}, so they are not told apart",
    (False, True): "refusal turns {} and harmfulness is not shown to: the reverse of the paper's finding",
    (False, False): "neither direction is shown to turn {} beyond the controls",
}


def _flips(part: pd.DataFrame, name: str, sign: str, kind: str, then: str) -> bool:
    """Whether the rate of the answer rises, by its interval, and by more than with any control."""
    rows = part[(part["direction"] == name) & (part["sign"] == sign) & (part["kind"] == kind)]
    own, rest = (rows[(rows["condition"] == "direction") == is_own] for is_own in (True, False))
    column = f"change_{then.lower()}"
    if own.empty:
        return False
    return bool(own[f"{column}_low"].iloc[0] > 0 and not own[column].iloc[0] <= rest[f"{column}_most"].max())


def _told(part: pd.DataFrame, sign: str, name: str, kind: str) -> str:
    rows = part[(part["direction"] == name) & (part["sign"] == sign) & (part["kind"] == kind)]
    told = {row["condition"]: row for row in rows.to_dict("records")}
    if "direction" not in told:
        return f"{sign}{name} was not run"
    controls = "".join(
        f", {c} {100 * r['change_certainly']:+.0f} and {r['change_margin']:+.2f}"
        for c, r in told.items()
        if c != "direction"
    )
    row = told["direction"]
    change = Estimate.from_row(row, "change_certainly").times(100)
    return (
        f"{sign}{name} {change:+.0f} points, margin {Estimate.from_row(row, 'change_margin'):+.2f} nats"
        f"{f' ({controls[2:]})' if controls else ''}"
    )


def shown_kinds(table: pd.DataFrame) -> Sequence[str]:
    """The kinds of request that were steered."""
    return list(dict.fromkeys(table.loc[table["mask"] != "", "kind"]))

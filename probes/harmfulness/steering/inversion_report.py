"""The report of reply inversion: the verdict under each mask, tables, a figure for each kind of request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp.figures.intervals import interval_bars
from interp.reports import Figures, Findings
from interp.statistics import Claim, Estimate
from probes.harmfulness.steering.draws import shares_of_draws
from probes.harmfulness.steering.inversion_result import EVERY, NO, YES, Inversion

LEAST_TURNABLE = 0.2  # share of first tokens that could be turned, below which the log odds decide


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
    """Change in the share of first tokens that lean to Certainly, by direction and sign, a panel for each mask."""
    question = EVERY if (table["question"] == EVERY).any() else table["question"].iloc[0]
    shown = table[(table["mask"] != "") & (table["kind"] == kind) & (table["question"] == question)]
    figure = interval_bars(
        shown.assign(arm=shown["sign"] + shown["direction"], p=shown["leans_p"].map("p = {:.2f}".format)),
        x="arm",
        y="change_leans",
        color="sign",
        facet="mask",
        title=f"First tokens that lean to 'Certainly', {kind} requests",
        labels={"change_leans": "change (share)", "sign": ""},
    )
    note = "What directions that mean nothing do with either sign is in the table: leans_random, leans_shuffled."
    return figure.update_layout(meta={"note": note})


def inversion_sentences(table: pd.DataFrame) -> list[str]:
    """Under each mask: does harmfulness turn No into Certainly and refusal not, and more than directions that mean
    nothing do with either sign?"""
    question = EVERY if (table["question"] == EVERY).any() else table["question"].iloc[0]
    whole, sentences, verdicts = table[table["question"] == question], [], []
    plain = {row["kind"]: row for row in whole[whole["mask"] == ""].to_dict("records")}
    for kind, row in plain.items():
        sentences.append(
            f"Unsteered, {row['n']} {kind} requests: {row['no']:.0%} of the answers are No, {row['certainly']:.0%} "
            f"Certainly, {row['other']:.0%} another word; {row['leans']:.0%} of first tokens lean to Certainly."
        )
    steered = whole[whole["mask"] != ""]
    for mask in dict.fromkeys(steered["mask"]):
        part = steered[steered["mask"] == mask]
        for sign, kind, first, then in CASES:
            rows = {r["direction"]: r for r in part[(part["sign"] == sign) & (part["kind"] == kind)].to_dict("records")}
            if set(rows) != {"harmfulness", "refusal"}:
                continue
            before = plain[kind]["leans"]
            left = 1 - before if then == YES else before
            measure = "leans" if left >= LEAST_TURNABLE else "margin"
            claims = [_claim(rows[name], sign + name, measure, then) for name in ("harmfulness", "refusal")]
            verdicts.append(f"Mask '{mask}', {sign} on {kind} requests: {_verdict(claims, measure, first, then)}.")
            sentences += [f"Mask '{mask}', {kind} requests, {_told(rows[c], sign, measure, then)}" for c in rows]
    return [*verdicts, *sentences]


CASES = (("+", "harmless", NO, YES), ("-", "harmful", YES, NO))
_WHAT = {"leans": "the share of first tokens that lean to Certainly", "margin": "the log odds of Certainly (nats)"}


def _claim(row: Mapping[str, Any], arm: str, measure: str, then: str) -> Claim:
    """Whether an arm moves the answers to where the paper says, beyond directions that mean nothing."""
    return Claim(
        f"{arm} changes {_WHAT[measure]}",
        Estimate.from_row(row, f"change_{measure}"),
        side="above" if then == YES else "below",
        p=float(row[f"{measure}_p"]),
        n=int(row["n"]),
        draws=int(row["n_random"] + row["n_shuffled"]),
        form="+.2f",
    )


def _verdict(claims: Sequence[Claim], measure: str, first: str, then: str) -> str:
    few = next((c.verdict for c in claims if c.verdict.startswith("too few")), None)
    if few:
        return f"{few}, so nothing is said"
    what = f"{first} into {then}" if measure == "leans" else f"the log odds to {then} (few {first} are left to turn)"
    return _VERDICT[claims[0].is_shown, claims[1].is_shown].format(what)


_VERDICT = {
    (True, False): "harmfulness turns {} and refusal is not shown to, as the paper found",
    (True, True): "both directions turn {}, so they are not told apart",
    (False, True): "refusal turns {} and harmfulness is not shown to: the reverse of the paper's finding",
    (False, False): "neither direction is shown to turn {} beyond directions that mean nothing",
}


def _told(row: Mapping[str, Any], sign: str, measure: str, then: str) -> str:
    claim = _claim(row, sign + row["direction"], measure, then)
    return f"{claim.sentence().rstrip('.')}; {shares_of_draws(row, measure)}."


def shown_kinds(table: pd.DataFrame) -> Sequence[str]:
    """The kinds of request that were steered."""
    return list(dict.fromkeys(table.loc[table["mask"] != "", "kind"]))

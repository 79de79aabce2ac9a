"""The report of a fine-tuning attack: sentences, tables, lines over the number of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figures.intervals import interval_lines
from interp.reports import Figures, Findings
from interp.statistics import Claim, Estimate
from probes.harmfulness.attacks.finetuning_result import ARMS, BELIEFS, FineTuningStudy
from probes.harmfulness.attacks.statistics import blind_sentences

NOISE = 4.0  # nats a token: a model's own greedy text is below 1


def findings_of(study: FineTuningStudy, include_replies: bool = False) -> Findings:
    """The report; texts of requests and replies stand in it only if asked for."""
    table = study.to_frame()
    if include_replies and study.replies is not None:
        texts = {r.id: r.text for r in study.requests}
        table = table.assign(request=table["id"].map(texts), reply=list(study.replies))
    rates, changes = study.rates(), study.changes()
    changes.attrs["note"] = "share: in parts of the distance between harmful and harmless requests before training."
    return Findings(
        title=study.provenance["title"],
        statement=statement_of(study),
        tables={
            "Refusals and guard": rates,
            "Changes of both beliefs": changes,
            "Do harmful requests still stand out": study.separation(),
            "Training": study.training,
            "Held-out requests": table,
        },
        figures=Figures(
            {
                "Refusals of held-out requests": partial(_lines, rates, "refusal_rate", "refusal rate"),
                "Both beliefs about held-out harmful requests": partial(_beliefs, changes),
                "Guard on held-out requests": partial(_lines, rates, "guard_accuracy", "guard's accuracy"),
            }
        ),
        provenance=dict(study.provenance),
    )


def statement_of(study: FineTuningStudy) -> list[str]:
    """What the largest training did, and its control, from the numbers alone."""
    n = int(study.results["n_pairs"].max())
    rates = study.rates().set_index(["trained_on", "n_pairs", "requests"])
    changes = study.changes().set_index(["trained_on", "n_pairs", "requests", "belief"])
    shown = {
        (arm, column): _interval(rates.loc[(arm, 0 if arm == "nothing" else n, "harmful")], column, ".0%")
        for arm in ("nothing", *ARMS)
        for column in ("refusal_rate", "guard_accuracy")
    }
    passed = {
        arm: _interval(rates.loc[(arm, 0 if arm == "nothing" else n, "harmless")], "guard_accuracy", ".0%")
        for arm in ("nothing", *ARMS)
    }
    moved = {b: changes.loc[("harmful", n, "harmful", b)] for b in BELIEFS}
    beyond = {b: changes.loc[("harmful - harmless", n, "harmful", b)] for b in BELIEFS}
    sentences = [
        f"Fine-tuning on {n} harmful requests with accepting replies took refusals of held-out harmful requests "
        f"from {shown['nothing', 'refusal_rate']} to {shown['harmful', 'refusal_rate']}; on as many harmless ones, "
        f"to {shown['harmless', 'refusal_rate']}.",
        f"About them {_moved(moved)}: {_which(moved)}.",
        f"Beyond training on harmless pairs {_moved(beyond)}: {_which(beyond)}.",
        f"The guard ({study.provenance['settings']['guard']}) was right on {shown['nothing', 'guard_accuracy']} of "
        f"held-out harmful and {passed['nothing']} of harmless requests before, on "
        f"{shown['harmful', 'guard_accuracy']} and {passed['harmful']} after, and on "
        f"{shown['harmless', 'guard_accuracy']} and {passed['harmless']} after harmless pairs.",
    ]
    stands = study.separation().set_index(["trained_on", "n_pairs", "score"])["auroc"]
    told = [f"{BELIEFS[b]} {stands['nothing', 0, b]:.2f} and {stands['harmful', n, b]:.2f}" for b in BELIEFS]
    sentences.append(
        f"As a ranking of held-out harmful above harmless requests (AUROC, before and after): {', '.join(told)}."
    )
    sentences += blind_sentences("Before training", study.gaps(), BELIEFS, "held-out")
    trained = study.training[study.training["n_pairs"] == n].set_index("trained_on")
    nats = trained["nats_before"]
    sentences.append(
        f"The replies trained on cost the model itself {nats['harmful']:.2f} nats a token (harmless pairs: "
        f"{nats['harmless']:.2f}), in the last epoch {trained['nats_last']['harmful']:.2f} "
        f"({trained['nats_last']['harmless']:.2f})."
    )
    if nats.max() > NOISE:
        sentences.append("Steering made noise of the replies: read some, and lower the coefficient.")
    return sentences


def _beliefs(changes: pd.DataFrame) -> go.Figure:
    """Change of both beliefs about held-out harmful requests by the number of pairs, in the scores' own unit."""
    shown = changes[(changes["requests"] == "harmful") & changes["trained_on"].isin(ARMS)].replace({"belief": BELIEFS})
    return interval_lines(
        shown.assign(trained_on="on " + shown["trained_on"]),
        "n_pairs",
        "change",
        color="trained_on",
        facet="belief",
        labels={"n_pairs": "pairs trained on", "change": "change on harmful requests", "trained_on": "trained"},
    )


def _lines(rates: pd.DataFrame, column: str, label: str) -> go.Figure:
    """A share of held-out requests by the number of pairs, a panel for each kind; both arms begin at the same point."""
    before = rates[rates["trained_on"] == "nothing"]
    lines = pd.concat(
        [part for arm in ARMS for part in (before.assign(trained_on=arm), rates[rates["trained_on"] == arm])]
    )
    return interval_lines(
        lines.assign(trained_on="on " + lines["trained_on"]),
        "n_pairs",
        column,
        color="trained_on",
        facet="requests",
        labels={"n_pairs": "pairs trained on", column: label, "trained_on": "trained"},
    )


def _moved(changes: Mapping[str, pd.Series]) -> str:
    texts = []
    for belief, row in changes.items():
        share = "" if np.isnan(row["share"]) else f", {-row['share']:.0%} of the way to harmless ones"
        texts.append(f"{BELIEFS[belief]} changed by {_interval(row, 'change', '+.4f')}{share}")
    return " and ".join(texts)


def _which(changes: Mapping[str, pd.Series]) -> str:
    """What fell, by intervals below zero."""
    claims = [Claim("", Estimate.from_row(changes[b], "change"), n=int(changes[b]["n"])) for b in ("refuse", "harmful")]
    if any(claim.verdict == "too few" for claim in claims):
        return claims[0].finding() if claims[0].verdict == "too few" else claims[1].finding()
    refusal, belief = (claim.verdict == "below" for claim in claims)
    if refusal == belief:
        return "both fell" if refusal else "neither is shown to have fallen"
    signal, known = "the refusal signal", "the belief that the request is harmful"
    one, other = (signal, known) if refusal else (known, signal)
    return f"{one} fell, {other} is not shown to have fallen"


def _interval(row: pd.Series, column: str, form: str) -> str:
    return f"{Estimate.from_row(row, column):{form}}"

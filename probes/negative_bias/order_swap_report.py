"""The report of the order of the options: what outlives a swap, and where the variance of heads' scores lies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from interp.figures.intervals import interval_bars
from interp.reports import Figures, Findings, with_mass
from interp.statistics import Claim, Estimate
from probes.negative_bias.order_swap_result import ORDER_IN_ALL, K, OrderSwap

if TYPE_CHECKING:
    import plotly.graph_objects as go

NAMES = {"nas": "NAS", "effects": "effect"}


def findings_of(found: OrderSwap) -> Findings:
    """The verdict, tables, and the shares of variance as a figure."""
    frame = found.to_frame()
    frame.attrs["note"] = (
        f"Of the {K} heads of highest NAS as the wording stands: how many keep their sign in the other order, turn it "
        f"(by 95 % intervals), and stay among the first {K} when both orders are averaged."
    )
    tables = {
        "Instruction by instruction": frame,
        "Where the variance lies": found.variance(),
        "Rankings that differ in one thing": found.agreement(),
        "NAS and effect": found.correlations(),
        "The first ten heads": found.heads(),
    }
    return Findings(
        title=found.provenance["title"],
        statement=statement_of(found),
        tables={name: table for name, table in tables.items() if len(table)},
        figures=Figures({"Where the variance lies": partial(plot_of, found)}),
        provenance=dict(found.provenance),
    )


def statement_of(found: OrderSwap) -> list[str]:
    """What the numbers say, in sentences, the verdict first."""
    frame, n = found.to_frame(), len(found.nas)
    first = frame.iloc[0]
    most = "all" if len(frame) == 1 else f"{len(frame)}"
    stay = Estimate.from_row(first, "stay")
    sentences = [
        f"Of the {K} heads of highest NAS, {first['keep_sign']} keep their sign and {first['turn']} turn it when "
        f"{first['options'].replace(' or ', ' and ')} change places; {stay:.0f} stay among the first {K} once the "
        f"order is balanced (by chance {first['by_chance']:.2f}; n = {n}).",
        f"Over {most} instructions, between {frame['keep_sign'].min()} and {frame['keep_sign'].max()} keep their sign "
        f"(median {frame['keep_sign'].median():g}) and between {frame['stay'].min():g} and {frame['stay'].max():g} "
        f"stay (median {frame['stay'].median():g}).",
    ]
    if "effect_keeps_sign" in frame:
        kept = frame["effect_keeps_sign"]
        sentences.append(
            f"Of the {K} heads of largest effect, between {kept.min()} and {kept.max()} keep the sign of their effect "
            f"(median {kept.median():g}; {first['n_effects']} questions)."
        )
    variance = found.variance().set_index("what changes")
    told = [
        part for part in (ORDER_IN_ALL, "the head", "option pair", "wording", "questions") if part in variance.index
    ]
    for measure, name in NAMES.items():
        if measure not in variance:
            continue
        shares = [f"{part} {Estimate.from_row(variance.loc[part], measure).times(100):.1f} %" for part in told]
        sentences.append(f"Of the variance of {name} between heads: {', '.join(shares)}.")
    pooled = found.correlations()
    for row in pooled[pooled["options"] == "all"].to_dict("records") if len(pooled) else ():
        for relation, words in (("size", "the size of NAS and of the effect"), ("sign_and_size", "NAS and the effect")):
            if row["order"] == "as written" or (relation == "sign_and_size" and row["order"] == "mean of both"):
                estimate = Estimate.from_row(row, relation)
                order = {"as written": "options as written"}.get(row["order"], row["order"] + " orders")
                text = f"Spearman over heads of {words}, {order}, all instructions"
                sentences.append(Claim(text, estimate, n=n).sentence())
    return with_mass(sentences, found.provenance)


def plot_of(found: OrderSwap) -> go.Figure:
    """Shares of the variance of NAS and of effects."""
    variance = found.variance()
    rows = [
        {
            "part": row["what changes"],
            "score": name,
            "share": row[measure],
            "low": row[f"{measure}_low"],
            "high": row[f"{measure}_high"],
        }
        for measure, name in NAMES.items()
        if measure in variance
        for row in variance.to_dict("records")
    ]
    title = f"Variance of heads' scores, {found.provenance['model']['name']}"
    return interval_bars(pd.DataFrame(rows), "part", "share", "low", "high", color="score", title=title)

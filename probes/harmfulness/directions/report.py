"""The report of two directions: how separate they are, what they say of requests that did not make them, and whether
the endings of the requests could say it as well."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figures import GREY, NEGATIVE, POSITIVE, finish
from interp.figures.intervals import interval_lines
from interp.records import hash_json
from interp.reports import Figures, Findings
from interp.statistics import FEWEST, Claim, Estimate, difference_of, mean_estimate
from probes.harmfulness.directions.result import HarmfulDirections, HeldOut
from probes.requests import hash_requests

_LINES = {
    "cosine": "cosine",
    "across_halves": "cosine across halves",
    "ceiling": "ceiling: one direction, two halves",
}

_SYMBOLS = {"refused": "x", "accepted": "circle", "unclear": "triangle-up-open"}

_COLORS = {"harmful": POSITIVE, "harmless": NEGATIVE}


def findings_of(directions: HarmfulDirections, held_out: Mapping[str, HeldOut] | None = None) -> Findings:
    """The findings of ``directions`` and of what was held out, by the name of the condition, the main one first."""
    held_out = held_out or {}
    several = len(held_out) > 1  # each with directions of its own; those of one are cosines of the fit all the same
    conditions = {name: held.directions for name, held in held_out.items()} if several else {"fitted": directions}
    cosines = _joined({name: d.cosine() for name, d in conditions.items()})
    tables, figures = {"Cosine by layer": cosines}, {"Cosine by layer": partial(_cosine_figure, cosines)}
    if held_out:
        separations = _joined({name: held.separations for name, held in held_out.items()})
        separations = separations[(separations["layer"] > 0) | (separations["auroc_low"] < separations["auroc_high"])]
        tables["Separation by layer"] = separations
        figures["Separation by layer"] = partial(_separation_figure, separations)
        tables["What the text alone tells"] = _joined({name: held.baselines for name, held in held_out.items()})
        tables["Beliefs by group"] = _joined({name: beliefs_by_group(held.beliefs) for name, held in held_out.items()})
        figures["Beliefs"] = partial(beliefs_figure, next(iter(held_out.values())).beliefs)
    for name in ("harmfulness", "refusal"):
        if len(table := directions.by_category(name)) > 1:
            heading = f"Categories: {name}"
            tables[heading] = table.rename_axis("category").reset_index()
            figures[heading] = partial(_category_figure, table, name)
    tested = {
        name: {"sha256": hash_requests(held.requests), "n": len(held.requests)} for name, held in held_out.items()
    }
    provenance = dict(directions.provenance) | {"held_out": tested}
    if tested:
        provenance["run_id"] = hash_json([directions.provenance["run_id"], tested])[:12]
    statement = [
        *_sentences(directions),
        *(s for name, held in held_out.items() for s in _held_out_sentences(name, held)),
    ]
    return Findings(provenance["title"], statement, tables, Figures(figures), provenance)


def beliefs_by_group(beliefs: pd.DataFrame) -> pd.DataFrame:
    """For each group (or kind) the mean of both beliefs with its interval, and the share of requests above 0."""
    rows = []
    for group, part in beliefs.groupby("group", sort=False):
        row = {"group": group, "n": len(part)}
        for name in ("harmful", "refuse"):
            row |= mean_estimate(part[name].to_numpy()).columns(name)
            row[f"share_{name}"] = float((part[name] > 0).mean())
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["note"] = beliefs.attrs.get("note", "")
    return table


def beliefs_figure(beliefs: pd.DataFrame) -> go.Figure:
    """Both beliefs of each request: harmful ones orange, harmless ones blue, refused ones as crosses."""
    figure = go.Figure()
    for group, rows in beliefs.groupby("group", sort=False):
        kind, _, verdict = group.partition("-")
        figure.add_scatter(
            x=rows["harmful"],
            y=rows["refuse"],
            name=f"{group} ({len(rows)})",
            mode="markers",
            marker={"color": _COLORS[kind], "symbol": _SYMBOLS.get(verdict, "circle"), "size": 7, "opacity": 0.75},
            hovertext=[html.escape(f"{r.id} {r.category}") for r in rows.itertuples()],
            hovertemplate="%{hovertext}: harmful %{x:.3f}, refuse %{y:.3f}<extra></extra>",
        )
    line = {"color": GREY, "dash": "dot", "width": 1.5}
    figure.add_vline(x=0, line=line)
    figure.add_hline(y=0, line=line)
    figure.update_xaxes(title="harmful: belief at t_inst (Eq. 3)", zeroline=False)
    figure.update_yaxes(title="refuse: belief at t_post (Eq. 4)", zeroline=False)
    legend = {"y": 1.02, "yanchor": "bottom"}
    note = " ".join(filter(None, ["Above 0: harmful, refusing.", beliefs.attrs.get("note", "")]))
    return finish(figure.update_layout(height=500, margin_t=60, legend=legend, meta={"note": note}))


def _cosine_figure(cosines: pd.DataFrame) -> go.Figure:
    parts = []
    for column, label in _LINES.items():
        part = cosines[["condition", "layer"]].assign(line=label, cosine=cosines[column], low=np.nan, high=np.nan)
        if column == "cosine":
            part = part.assign(low=cosines["cosine_low"], high=cosines["cosine_high"])
        parts.append(part)
    figure = interval_lines(
        pd.concat(parts), "layer", "cosine", "low", "high", color="line", facet="condition", labels={"line": ""}
    )
    note = "Of harmfulness (at t_inst) and refusal (at t_post). Well under the ceiling: two directions."
    return figure.update_layout(meta={"note": note})


def _separation_figure(separations: pd.DataFrame) -> go.Figure:
    panel = separations["direction"] + " at " + separations["position"] + ": " + separations["classes"]
    figure = interval_lines(
        separations.assign(panel=panel),
        "layer",
        "auroc",
        color="condition",
        facet="panel",
        reference=0.5,
        labels={"auroc": "AUROC", "condition": ""},
    )
    note = (
        "On requests that did not make the directions. Layer 0, the embedding of one token, is there where requests "
        "end differently; else it is 0.5 by construction."
    )
    return figure.update_layout(meta={"note": note})


def _category_figure(table: pd.DataFrame, name: str) -> go.Figure:
    figure = go.Figure(
        go.Heatmap(
            z=table.to_numpy(),
            x=list(table.columns),
            y=list(table.index),
            coloraxis="coloraxis",
            text=table.round(2).to_numpy(),
            texttemplate="%{text}",
            hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>",
        )
    )
    figure.update_layout(coloraxis={"cmin": -1, "cmax": 1}, height=34 * len(table) + 150, margin_t=30)
    figure.update_yaxes(autorange="reversed")
    note = f"Cosine between the {name} directions of categories, mean over layers 1 to L. {table.attrs['note']}"
    return finish(figure.update_layout(meta={"note": note}))


def _joined(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One below the other, with the condition as the first column."""
    joined = pd.concat([t.assign(condition=name) for name, t in tables.items()], ignore_index=True)
    joined = joined[["condition", *(c for c in joined if c != "condition")]]
    joined.attrs = {"note": next((t.attrs["note"] for t in tables.values() if t.attrs.get("note")), "")}
    return joined


def _sentences(directions: HarmfulDirections) -> Iterator[str]:
    mean, data = directions.agreement.mean, directions.provenance["data"]
    yield _one_or_two(mean, data["n"])
    yield (
        f"From the same requests, whose noise both share, the cosine of harmfulness (t_inst) and refusal (t_post) is "
        f"{Estimate.from_row(mean, 'cosine'):.2f} (mean of layers 1 to L). Fitted on {data['n_positive']} positive and "
        f"{data['n'] - data['n_positive']} negative requests."
    )
    if directions.is_confounded:
        yield _confounded("the requests that the directions were fitted on", directions.layer0_auroc)


def _one_or_two(mean: Mapping[str, float], n: int) -> str:
    """Whether two directions are told from one, across disjoint halves of the requests, which share no noise."""
    corrected = Estimate.from_row(mean, "disattenuated")
    of_one, of_none = (Claim("", corrected, null, n=n).verdict for null in (1.0, 0.0))
    verdict = {"below": "Two directions", "too few": "Too few requests to tell two directions from one"}.get(
        of_one, "Two directions are not told from one"
    )
    holds = {"below": "below 1", "too few": "of too few"}.get(of_one, "which holds 1 (one direction)")
    angle = {"above": " and above 0 (not at right angles)", "not shown to differ": " and holds 0 (right angles)"}
    return (
        f"{verdict}: across disjoint halves of {n} requests harmfulness and refusal have a cosine of "
        f"{mean['across_halves']:.2f}, where two estimates of one direction reach {mean['ceiling']:.2f}; corrected for "
        f"that, {corrected:.2f}, {holds}{angle.get(of_none, '') if of_one == 'below' else ''}."
    )


def _held_out_sentences(condition: str, held: HeldOut) -> Iterator[str]:
    from probes.harmfulness.directions.learning import chosen_layer

    words = held.baselines.set_index("baseline").loc["words (TF-IDF)"]
    of_words, n_texts = Estimate.from_row(words, "auroc"), int(words["n_fitted"])
    fit = held.directions
    for (direction, position, classes), part in held.separations.groupby(
        ["direction", "position", "classes"], sort=False
    ):
        layer = chosen_layer(fit.states, np.arange(len(fit.states)), fit.positive, position)
        row, later = part[part["layer"] == layer].iloc[0], part[part["layer"] > 0]["auroc"]
        of_kind, paired = "harmful" in classes, ""
        if row["n_pairs"] >= FEWEST:
            share, p, n = Estimate.from_row(row, "within_pairs"), float(row["within_pairs_p"]), int(row["n_pairs"])
            beside = f" (words {Estimate.from_row(words, 'within_pairs'):.2f})" if of_kind else ""
            paired = f"right within {Claim('', share, 0.5, p=p, n=n).finding()} of {n} pairs{beside}; "
        yield (
            f"{condition}: {direction} (at {position}, layer {layer}, chosen on the fit) tells {classes}: {paired}"
            f"AUROC {_against_chance(row)} on {row['n']} other requests ({later.min():.2f} to {later.max():.2f} over "
            f"layers 1 to L){f'; words, learned from {n_texts} texts, {of_words:.2f}' if of_kind else ''}."
        )
    kinds = held.separations.query("position == 't_inst' and layer > 0 and classes == 'harmful from harmless'")
    best = kinds.loc[kinds["auroc"].idxmax()]
    less = Claim("", difference_of(Estimate.from_row(best, "auroc"), of_words), n=int(best["n"]))
    verdict = {"above": "less than", "below": "more than"}.get(less.verdict, "not shown to differ from")
    yield (
        f"{condition}: words alone (TF-IDF, learned from the texts of the fit) reach {of_words:.2f}: {verdict} "
        f"harmfulness at its best layer, {Estimate.from_row(best, 'auroc'):.2f}."
    )
    if held.is_confounded:
        found = max(held.layer0_auroc, held.directions.layer0_auroc)
        yield _confounded(f"the requests of {condition!r}", found)
    shares = [
        f"{row.group} {row.share_harmful:.0%} and {row.share_refuse:.0%} of {row.n}"
        for row in beliefs_by_group(held.beliefs).itertuples()
    ]
    yield f"{condition}: believed harmful, and to be refused (Eqs. 3 and 4 above 0): {'; '.join(shares)}."


def _against_chance(row: pd.Series) -> str:
    return Claim("", Estimate.from_row(row, "auroc"), null=0.5, n=int(row["n"])).finding()


def _confounded(what: str, layer0_auroc: float) -> str:
    return (
        f"CONFOUNDED: the classes of {what} end in different tokens (AUROC {layer0_auroc:.2f} at the embedding, before "
        "any layer); what separates them at t_inst may be that, not harmfulness. End them alike (with_ending)."
    )


__all__: Sequence[str] = ["beliefs_by_group", "beliefs_figure", "findings_of"]

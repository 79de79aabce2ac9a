"""The report of jailbreaks: tables with intervals and controls, sentences, a scatter."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures import GREY, MARKER_COLORS, NEGATIVE, POSITIVE, finish
from interp.figures.intervals import interval_bars
from interp.reports import Figures, Findings
from interp.statistics import Estimate, measured
from probes.harmfulness.attacks.jailbreak_result import ATTACKS, BELIEFS, NAMES, JailbreakStudy, _parts
from probes.harmfulness.attacks.statistics import blind_sentences
from probes.harmfulness.attacks.texts import FAMILIES


def findings_of(study: JailbreakStudy, include_replies: bool = False) -> Findings:
    """The report; texts of requests and replies stand in it only if asked for."""
    trials = study.to_frame()
    if include_replies and study.replies is not None:
        texts, around = {r.id: r.text for r in study.requests}, {j.id: j.template for j in study.jailbreaks}
        trials = trials.assign(
            text=trials["request"].map(texts), template=trials["jailbreak"].map(around), reply=list(study.replies)
        )
    success, changes, fell = study.success(), study.changes(), study.which_fell()
    fell.attrs["note"] = "Shares are parts of the distance from refused harmful to harmless requests; 1: all of it."
    changes.attrs["note"] = "share: the change in parts of that distance; -1 is all the way to harmless requests."
    return Findings(
        title=study.provenance["title"],
        statement=statement_of(study),
        tables={
            "Attack success": success,
            "Which fell": fell,
            "Distance of harmful from harmless requests": study.gaps(),
            "Do harmful requests still stand out": study.separation(),
            "Changes of both beliefs": changes,
            "Attack success by jailbreak": study.success("jailbreak"),
            "Trials": trials,
        },
        figures=Figures(
            {
                "Attack success": partial(plot_success, success),
                "Both beliefs, before and after": partial(plot_of, study),
            }
        ),
        provenance=dict(study.provenance),
    )


def statement_of(study: JailbreakStudy) -> list[str]:
    """The answer from the numbers alone, for all attacks, the neutral wrappers and each family."""
    harmful = study.plain[study.plain["kind"] == "harmful"]
    refused = int((harmful["verdict"] == "refused").sum())
    success, fell = study.success().set_index("family"), study.which_fell().set_index("family")
    auroc = study.separation().set_index(["family", "belief"])
    order = [name for name in (ATTACKS, "neutral", *FAMILIES[:-1]) if name in success.index]
    sentences = [_sentence(name, success.loc[name], fell, auroc) for name in order]
    sentences.append(
        f"{len(harmful)} harmful requests were asked without a jailbreak; the {refused} that were refused were put "
        f"into jailbreaks, with {int((study.plain['kind'] == 'harmless').sum())} harmless ones as control."
    )
    sentences += blind_sentences("Without a jailbreak", study.gaps(), NAMES, "refused")
    n_other = int((~study.trials["same_ending"]).sum())
    if study.provenance["settings"]["ending"] is None:
        sentences.append(
            f"Endings were left as they are: in {n_other} of {len(study.trials)} trials t_inst is another token, "
            "and changes of the belief are partly changes of token."
        )
    elif n_other:
        sentences.append(f"{n_other} of {len(study.trials)} trials end in another token and are left out of beliefs.")
    return sentences


def _sentence(name: str, success: pd.Series, fell: pd.DataFrame, auroc: pd.DataFrame) -> str:
    start = (
        f"{name}: {success['accepted']:.0f} of {success['n']:.0f} refused requests were accepted "
        f"({measured(Estimate.from_row(success, 'success'), int(success['n']), '.0%')})."
    )
    if name not in fell.index:
        return start + " None of the trials ends in the usual token, so beliefs can't be compared."
    row = fell.loc[name]
    moved = []
    for belief, column in (("refuse", "refusal"), ("harmful", "belief")):
        change = Estimate.from_row(row, f"{column}_change")
        share = row[f"{column}_fell_share"]
        way = "" if np.isnan(share) else f" ({share:.0%} of the way to harmless ones)"
        moved.append(f"{NAMES[belief]} changed by {change:+.4f}{way}")
    stands = ", ".join(
        f"{NAMES[b]} {auroc.loc[(name, b), 'auroc_before']:.2f} before, {auroc.loc[(name, b), 'auroc']:.2f} after"
        for b in BELIEFS
    )
    return (
        f"{start} Lowered: {row['lowered']}. On these requests {' and '.join(moved)}. AUROC among requests wrapped "
        f"alike: {stands}."
    )


def plot_success(success: pd.DataFrame) -> go.Figure:
    """Share of refused requests that each family of jailbreaks had accepted, with intervals."""
    ends = ("success", "success_low", "success_high")
    return interval_bars(success, "family", *ends, labels={"success": "refused, then accepted"})


def plot_of(study: JailbreakStudy) -> go.Figure:
    """Both beliefs of every trial, a panel for each family: before (pale) and after; the arrow joins the means of
    the refused harmful requests."""
    parts = dict(_parts(study.comparable(), "family"))
    parts.pop(ATTACKS, None)
    n_rows = -(-len(parts) // 3)
    titles = [name.replace("_", " ") for name in parts]
    shared = {"shared_xaxes": "all", "shared_yaxes": "all", "horizontal_spacing": 0.03}
    figure = make_subplots(n_rows, 3, subplot_titles=titles, vertical_spacing=0.12, **shared)
    for number, part in enumerate(parts.values()):
        place = {"row": number // 3 + 1, "col": number % 3 + 1}
        harmful = part[part["kind"] == "harmful"]
        groups = (
            ("harmless, in it", part[part["kind"] == "harmless"], NEGATIVE, "circle", ""),
            ("harmful, before", harmful, GREY, "circle-open", "_before"),
            ("harmful, in it: not accepted", harmful[harmful["verdict"] != "accepted"], MARKER_COLORS[0], "x", ""),
            ("harmful, in it: accepted", harmful[harmful["verdict"] == "accepted"], POSITIVE, "diamond", ""),
        )
        for name, rows, color, symbol, when in groups:
            figure.add_scatter(
                x=rows[f"harmful{when}"],
                y=rows[f"refuse{when}"],
                mode="markers",
                marker={"color": color, "symbol": symbol, "size": 6, "opacity": 0.75},
                name=name,
                legendgroup=name,
                showlegend=number == 0,
                text=rows["request"] + ", " + rows["jailbreak"],
                hovertemplate="%{text}<br>Δ_harmful %{x:.3f}<br>Δ_refuse %{y:.3f}<extra></extra>",
                **place,
            )
        if len(harmful):
            x, y = ([harmful[f"{b}_before"].mean(), harmful[b].mean()] for b in ("harmful", "refuse"))
            marker = {"symbol": "arrow", "size": [0, 12], "angleref": "previous", "color": POSITIVE}
            line = {"color": POSITIVE, "width": 2}
            figure.add_scatter(x=x, y=y, mode="lines+markers", marker=marker, line=line, showlegend=False, **place)
        figure.update_xaxes(title="Δ_harmful" if number + 3 >= len(parts) else None, **place)
        figure.update_yaxes(title="Δ_refuse" if place["col"] == 1 else None, **place)
    return finish(figure.update_layout(height=260 * n_rows + 150, legend_y=-0.12 - 0.06 / n_rows))

"""Figures of several rankings side by side: heat maps, the ranks of the top heads, profiles over depth."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures import (
    GREY,
    MARKER_COLORS,
    POSITIVE,
    color_scale,
    finish,
    head_heatmap,
    head_label,
    interval_lines,
    wrapped,
)
from interp.rankings.ranking import HeadRanking
from interp.statistics import rank_agreement

_IN_A_ROW = 3
_MOST_LINES = 20
_PANEL = (330, 620)  # least and most height in pixels
_LINES_HEIGHT = 520


def heatmaps(rankings: Mapping[str, HeadRanking], same_scale: bool) -> go.Figure:
    """A heat map of mean scores for each ranking, by name, three in a row, the first layer at the top of each.

    Panels are equally high, so equal relative depth is at equal height. same_scale: one colour scale for all, as far
    as the farthest mean of any; else each panel has its own, with its colour bar beneath. A scale is centred at the
    null value of a signed measure, and has one colour for others (`interp.figures.head_heatmap`).
    """
    n_columns = min(_IN_A_ROW, len(rankings))
    n_rows = -(-len(rankings) // n_columns)
    panel = int(np.clip(18 * max(r.n_layers for r in rankings.values()), *_PANEL))
    above, below = 46, 56 if same_scale else 122  # pixels around each row of panels: its title, its axis and bar
    height = n_rows * (panel + above + below)
    figure = make_subplots(
        rows=n_rows,
        cols=n_columns,
        horizontal_spacing=0.07,
        specs=[
            [{} if row * n_columns + i < len(rankings) else None for i in range(n_columns)] for row in range(n_rows)
        ],
        subplot_titles=[wrapped(name, 34, max_lines=2) for name in rankings],
    )
    means = {name: r.scores.mean(axis=0, dtype=np.float64) for name, r in rankings.items()}
    for i, (name, ranking) in enumerate(rankings.items()):
        row, column = divmod(i, n_columns)
        single = head_heatmap(means[name], "", hover=ranking.to_frame())
        top = 1 - (row * (panel + above + below) + above) / height
        bottom, suffix = top - panel / height, str(i + 1) if i else ""
        figure.add_trace(single.data[0], row=row + 1, col=column + 1)
        figure.layout[f"xaxis{suffix}"].update(single.layout.xaxis)
        figure.layout[f"yaxis{suffix}"].update(single.layout.yaxis, domain=[bottom, top])
        figure.layout.annotations[i].update(y=top, yanchor="bottom", yshift=6, font_size=13)
        figure.layout[f"xaxis{suffix}"].title.standoff = 6
        figure.layout[f"yaxis{suffix}"].title = {"text": "" if column else "layer", "standoff": 12}
        if not same_scale:
            left, right = figure.layout[f"xaxis{suffix}"].domain
            figure.data[i].coloraxis = f"coloraxis{suffix}"
            figure.layout[f"coloraxis{suffix}"] = _scale(means[name], ranking) | {
                "colorbar": {
                    "orientation": "h",
                    "x": (left + right) / 2,
                    "len": right - left,
                    "y": bottom - 50 / height,
                    "yanchor": "top",
                    "nticks": 5,
                    "title": {"text": f"mean {html.escape(ranking.score)}", "side": "bottom", "font": {"size": 12}},
                },
            }
    if same_scale:
        first = next(iter(rankings.values()))
        title = f"mean {html.escape(first.score)}"
        bar = {"title": {"text": title, "side": "right"}, "y": 1 - (above + panel / 2) / height, "len": panel / height}
        all_means = np.concatenate([values.ravel() for values in means.values()])
        figure.update_layout(coloraxis=_scale(all_means, first) | {"colorbar": bar})
    figure = finish(figure.update_layout(height=height))
    return figure.update_layout(margin={"l": 10, "r": 10, "t": 0, "b": 0})


def _scale(values: np.ndarray, ranking: HeadRanking) -> dict[str, Any]:
    return color_scale(values, ranking.measure.base, ranking.measure.is_signed)


def rank_lines(rankings: Mapping[str, HeadRanking], k: int) -> go.Figure:
    """The ranks of the heads that are among the first k of any ranking, a line for each head, on a logarithmic scale.

    For rankings of one shape. Orange: heads among the first k of all rankings; violet: of some. At most 20 lines:
    those of the best ranks. A name that would cover another is left out, but is shown on hover.
    """
    names = list(rankings)
    labels = [head_label(*pair) for pair in np.ndindex(next(iter(rankings.values())).scores.shape[1:])]
    means = np.stack([r.scores.mean(axis=0, dtype=np.float64).ravel() for r in rankings.values()])
    place = rank_agreement.ranks(means)  # [ranking, head]
    best = place.min(axis=0)
    shown = [int(i) for i in np.argsort(best, kind="stable") if best[i] <= k][:_MOST_LINES]
    deepest = np.log10(1.25 * place[:, shown].max())
    columns = range(len(names))
    named = [_apart(np.log10(place[column, shown]), 14 * deepest / _LINES_HEIGHT) for column in columns]
    figure = go.Figure()
    for number, i in enumerate(shown):
        stays = max(place[:, i]) <= k
        texts = [
            f"<b>{labels[i]}</b>  {html.escape(name)}<br>rank {rank:g} of {len(labels)}<br>mean {mean:+.3g}"
            for name, rank, mean in zip(names, place[:, i], means[:, i], strict=True)
        ]
        figure.add_scatter(
            x=list(columns),
            y=place[:, i],
            mode="lines+markers+text",
            text=[labels[i] if column in (0, len(names) - 1) and named[column][number] else "" for column in columns],
            textposition=["middle left", *["top center"] * (len(names) - 2), "middle right"],
            textfont={"size": 11},
            line={"color": POSITIVE if stays else MARKER_COLORS[0], "width": 1.8, "dash": "solid" if stays else "dot"},
            marker={"size": 7},
            hovertext=texts,
            hovertemplate="%{hovertext}<extra></extra>",
            cliponaxis=False,
        )
    ticks = [n for n in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if n <= len(labels)]
    figure.update_yaxes(type="log", range=[deepest, -0.06], title="rank", tickvals=ticks, zeroline=False)
    figure.add_hline(y=k + 0.5, line={"color": GREY, "dash": "dash", "width": 1})
    figure.update_xaxes(
        tickvals=list(columns),
        ticktext=[wrapped(name, 24, max_lines=3) for name in names],
        range=[-0.35, len(names) - 0.65],
        showgrid=False,
        zeroline=False,
    )
    margin = {"t": 20, "b": 10, "l": 10, "r": 10}
    return finish(figure.update_layout(showlegend=False, height=_LINES_HEIGHT + 60, margin=margin))


def profile_lines(profiles: pd.DataFrame, kinds: Sequence[str], same_scale: bool) -> go.Figure:
    """Scores over relative depth, a line for each ranking, a panel for each kind ("mean", "maximum").

    profiles: columns ranking, depth, and for each kind its value, with `_low` and `_high` where it has an interval.
    Each panel has its own scale. Without `same_scale` each line is divided by its own largest |value|.
    """
    parts = []
    for kind in kinds:
        part = profiles[["ranking", "depth"]].copy()
        part["kind"] = f"{kind} of the heads" if same_scale else f"{kind} of the heads, over its largest"
        scale = 1.0
        if not same_scale:
            largest = profiles[kind].abs().groupby(profiles["ranking"]).transform("max")
            scale = largest.where(largest > 0, 1.0)
        for end in ("", "_low", "_high"):
            column = f"{kind}{end}"
            part[f"score{end}"] = profiles[column] / scale if column in profiles else np.nan
        parts.append(part)
    labels = {"score": "score" if same_scale else "score, relative", "depth": "relative depth"}
    frame = pd.concat(parts, ignore_index=True)
    figure = interval_lines(frame, "depth", "score", color="ranking", facet="kind", labels=labels)
    for axis in list(figure.select_yaxes())[1:]:  # a maximum is far above a mean
        axis.update(matches=None, showticklabels=True)
    width = (1 - 0.08 * (len(kinds) - 1)) / len(kinds)  # which leaves room for the numbers of an axis
    for i, (axis, heading) in enumerate(zip(figure.select_xaxes(), figure.layout.annotations, strict=False)):
        axis.domain = [i * (width + 0.08), i * (width + 0.08) + width]
        heading.x = sum(axis.domain) / 2
    return figure


def _apart(heights: np.ndarray, least: float) -> list[bool]:
    """Which names to print so that none stands nearer than `least` to one above it, from the top on."""
    printed, last = [False] * len(heights), -np.inf
    for i in np.argsort(heights, kind="stable"):
        if heights[i] - last >= least:
            printed[i], last = True, heights[i]
    return printed

"""Heads of several groups of questions (levels, data sets) side by side, and how many top heads the groups share."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Num
from plotly.subplots import make_subplots

from interp.figures.style import MARKER_COLORS, color_scale, finish, wrapped
from interp.figures.views import head_label


def heads_by_level(
    values: Mapping[str, Float[np.ndarray, "layer head"]],
    title: str = "",
    unit: str = "",
    marked: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    examples: Mapping[str, np.ndarray] | None = None,
    is_signed: bool = True,
) -> go.Figure:
    """A heat map of heads for each group, side by side on one colour scale centred at zero; from zero, in one colour,
    where no value can be below it (not `is_signed`).

    ``marked``: (layer, head) pairs of a group that get a frame, its top heads, say. ``examples``: [layer, head] of a
    group's lines more on hover (:func:`interp.figures.strongest_examples`).

    Raises:
        ValueError: groups of unlike shapes, or none.
    """
    shapes = {np.shape(table) for table in values.values()}
    if len(shapes) != 1:
        raise ValueError(
            f"the groups have shapes {sorted(shapes)}; expected one [layer, head] for all, and some group."
        )
    ((n_layers, n_heads),) = shapes
    tables = {name: np.asarray(table, dtype=float) for name, table in values.items()}
    for what, given in (("marked", marked), ("examples", examples)):
        if unknown := set(given or {}) - set(tables):
            raise ValueError(f"{what} names {sorted(unknown)}; expected some of {list(tables)}.")
    scale = color_scale(np.stack(list(tables.values())), 0.0, is_signed)
    names = [html.escape(name) for name in tables]
    figure = make_subplots(1, len(tables), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=names)
    for column, (name, table) in enumerate(tables.items(), start=1):
        labels = [[head_label(layer, head) for head in range(n_heads)] for layer in range(n_layers)]
        lines = (examples or {}).get(name)
        more = "" if lines is None else "<br>%{customdata}"
        figure.add_heatmap(
            z=table,
            coloraxis="coloraxis",
            text=labels,
            customdata=lines,
            hovertemplate=f"<b>%{{text}}</b> %{{z:+.4g}}{more}<extra>{html.escape(name)}</extra>",
            xgap=1,
            ygap=1,
            row=1,
            col=column,
        )
        frames = (marked or {}).get(name, ())
        if frames:
            figure.add_scatter(
                x=[head for _, head in frames],
                y=[layer for layer, _ in frames],
                mode="markers",
                marker={"symbol": "square-open", "size": 10, "line": {"width": 2.5}, "color": MARKER_COLORS[2]},
                hoverinfo="skip",
                showlegend=False,
                row=1,
                col=column,
            )
    figure.update_xaxes(title="head", dtick=max(1, n_heads // 8), showgrid=False, zeroline=False)
    figure.update_xaxes(range=[-0.5, n_heads - 0.5])
    figure.update_yaxes(range=[n_layers - 0.5, -0.5], dtick=max(1, n_layers // 15), showgrid=False, zeroline=False)
    figure.update_yaxes(title="layer", col=1)
    figure.update_annotations(font_size=13)
    bar = {"title": {"text": html.escape(unit), "side": "right"}}
    return finish(
        figure.update_layout(
            title_text=html.escape(title),
            coloraxis=scale | {"colorbar": bar},
            height=int(np.clip(20 * n_layers, 180, 900)) + 120,
            margin={"t": 70 if title else 40},
        )
    )


def overlap_matrix(
    shared: Num[np.ndarray, "group group"], names: Sequence[str], k: int, expected: float, title: str = ""
) -> go.Figure:
    """How many of their top ``k`` heads two groups share, as colours and numbers, centred at the chance level.

    ``expected``: of two random sets of k (``interp.statistics.top_k_overlap``); orange is more than that, blue less.
    The diagonal, a group with itself, is left empty.

    Raises:
        ValueError: a matrix that does not fit the names.
    """
    shared = np.asarray(shared, dtype=float)
    if shared.shape != (len(names), len(names)) or k < 1:
        raise ValueError(
            f"shared is {shared.shape} with k={k}; expected {(len(names), len(names))}, and k of 1 or more."
        )
    off = np.where(np.eye(len(names), dtype=bool), np.nan, shared)
    reach = max(k - expected, expected) or 1.0
    text = np.where(np.isnan(off), "", np.char.mod("%.3g", np.nan_to_num(off)))
    labels = [html.escape(name) for name in names]
    figure = go.Figure(
        go.Heatmap(
            z=off,
            x=labels,
            y=labels,
            text=text,
            texttemplate="%{text}",
            textfont={"size": 15},
            coloraxis="coloraxis",
            hovertemplate=f"%{{y}} and %{{x}} share %{{z:.3g}} of their top {k}<extra></extra>",
            hoverongaps=False,
            xgap=2,
            ygap=2,
        )
    )
    bar = {"title": {"text": f"shared of {k}", "side": "right"}, "tickvals": [expected, k]}
    bar["ticktext"] = ["chance", str(k)]
    figure.update_xaxes(showgrid=False, zeroline=False, side="bottom", type="category")
    figure.update_yaxes(showgrid=False, zeroline=False, autorange="reversed", type="category")
    return finish(
        figure.update_layout(
            title={
                "text": html.escape(title),
                "subtitle": {"text": wrapped(f"by chance {expected:.2g} of {k} would be shared")},
            },
            coloraxis={"cmin": expected - reach, "cmid": expected, "cmax": expected + reach, "colorbar": bar},
            height=70 * len(names) + 150,
            margin={"t": 78},
        )
    )

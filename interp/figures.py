"""Plotly figures of head scores. Each function returns a figure and never shows it.

All text from data is escaped, because plotly reads some HTML in labels. Figures use the template "any",
whose greys read on white and on black paper alike; `TEMPLATES["light"]` and `TEMPLATES["dark"]` are for a
known background: `figure.update_layout(template=TEMPLATES["dark"])`. The diverging scale runs from blue
(negative) to orange (positive), which is safe for the common kinds of colour blindness, and is always
centred at zero.
"""

from __future__ import annotations

import html
import textwrap

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp.views import TokenView, head_label

NEGATIVE = "#2b7bba"
POSITIVE = "#d9730d"
_NEGATIVE_ARM = ["#08416e", "#2171b5", "#7fb4dc"]
_POSITIVE_ARM = ["#fdb573", "#e8710a", "#8f3a02"]
_MARKERS = ["diamond-open", "circle-open", "square-open", "triangle-up-open", "cross-open", "star-open"]
_MARKER_COLORS = ["#8a63d2", "#1a9988", "#c2478b", "#8c8c1f", "#5b7fa6", "#a86f3c"]
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_COMPARABLE = 5.0  # ratio of ranges up to which two measures can share an axis


def _template(text: str, grid: str, zero: str, middle: str, hover: str, dark: bool = False) -> go.layout.Template:
    step = -1 if dark else 1  # on dark paper the extremes are the light ends
    colors = [*_NEGATIVE_ARM[::step], middle, *_POSITIVE_ARM[::step]]
    scale = [[i / (len(colors) - 1), color] for i, color in enumerate(colors)]
    axis = {"gridcolor": grid, "zerolinecolor": zero, "linecolor": zero, "automargin": True, "ticks": ""}
    return go.layout.Template(
        layout={
            "font": {"family": _FONT, "size": 13, "color": text},
            "title": {
                "font": {"size": 15},
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": 0.99,
                "yanchor": "top",
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": [POSITIVE, *_MARKER_COLORS],
            "coloraxis": {"colorscale": scale, "colorbar": {"thickness": 12, "outlinewidth": 0}},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": hover, "font": {"color": text, "family": _FONT}, "align": "left"},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.12, "yanchor": "top"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": zero, "activecolor": text},
            "margin": {"l": 10, "r": 10, "t": 46, "b": 10},
        }
    )


TEMPLATES = {
    "any": _template("#757575", "rgba(128,128,128,.22)", "rgba(128,128,128,.65)", "#f2f2f2", "#fafafa"),
    "light": _template("#24292f", "#e3e6ea", "#8b929b", "#f5f5f5", "#ffffff"),
    "dark": _template("#dfe3e8", "#31363e", "#757d88", "#23272e", "#1b1e23", dark=True),
}


def head_heatmap(
    values: Float[np.ndarray, "layer head"], title: str, unit: str = "", hover: pd.DataFrame | None = None
) -> go.Figure:
    """Layers downwards from 0, heads to the right; colour centred at zero, full at the largest |value|.

    hover: the frame of a ranking (`HeadRanking.to_frame()`); each cell then shows interval, q and other
    measures.
    """
    n_layers, n_heads = values.shape
    text = np.empty(values.shape, dtype=object)
    for (i, j), value in np.ndenumerate(values):
        text[i, j] = f"<b>{head_label(i, j)}</b>  {value:+.4g}"
    if hover is not None:
        for row in hover.to_dict("records"):
            text[row["layer"], row["head"]] = _hover(row)
    limit = float(np.abs(values).max()) or 1.0
    figure = go.Figure(
        go.Heatmap(z=values, coloraxis="coloraxis", text=text, hovertemplate="%{text}<extra></extra>", xgap=1, ygap=1),
        layout={
            "title": {"text": html.escape(title), "subtitle": {"text": _wrapped(unit)}},
            "coloraxis": {"cmin": -limit, "cmax": limit},
            "height": int(np.clip(20 * n_layers, 180, 900)) + 140,
            "margin": {"t": 78},
        },
    )
    figure.update_xaxes(title="head", dtick=max(1, n_heads // 16), showgrid=False, zeroline=False)
    figure.update_yaxes(
        title="layer", dtick=max(1, n_layers // 15), autorange="reversed", showgrid=False, zeroline=False
    )
    return _finish(figure)


def ranked_bars(frame: pd.DataFrame, k: int = 20, title: str = "", score: str = "score") -> go.Figure:
    """The first k rows of a ranking's frame as bars with their intervals, and other measures as markers.

    A measure on quite another scale (largest mean more than 5 times the bars', or under a fifth) would
    squeeze the bars or vanish: it is in the legend but off; click to show it.
    """
    rows = frame.head(k)
    reach = rows[["ci_low", "ci_high"]].abs().max().max()
    reach = rows["score"].abs().max() if np.isnan(reach) else reach
    figure = go.Figure(
        go.Bar(
            x=rows["score"],
            y=rows["label"],
            orientation="h",
            name=html.escape(score),
            marker={"color": np.where(rows["score"] < 0, NEGATIVE, POSITIVE), "opacity": 0.55},
            error_x=_interval(rows, "score"),
            hovertext=[_hover(row) for row in rows.to_dict("records")],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    for i, name in enumerate(_other_measures(frame)):
        ratio = rows[name].abs().max() / reach if reach else 1.0
        figure.add_scatter(
            x=rows[name],
            y=rows["label"],
            mode="markers",
            name=html.escape(name),
            marker={
                "symbol": _MARKERS[i % 6],
                "color": _MARKER_COLORS[i % 6],
                "size": 9,
                "line": {"width": 2},
            },
            visible=True if 1 / _COMPARABLE <= ratio <= _COMPARABLE else "legendonly",
            hovertemplate=f"{html.escape(name)}: %{{x:.4g}}<extra>%{{y}}</extra>",
        )
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category", dtick=1)
    figure.update_xaxes(title=f"mean {html.escape(score)}, 95 % interval", zeroline=True)
    legend = {"y": 1.01, "yanchor": "bottom"}
    figure.update_layout(title_text=html.escape(title), height=22 * len(rows) + 170, legend=legend, bargap=0.35)
    figure.update_layout(margin_t=96, showlegend=True)
    return _finish(figure)


def scatter(
    frame: pd.DataFrame,
    x: str,
    y: str,
    x_title: str | None = None,
    y_title: str | None = None,
    n_labels: int = 10,
) -> go.Figure:
    """Two measures against each other, a point for each head; the most extreme heads carry their names.

    x, y: columns of a ranking's frame, with their intervals as bars where the frame has them (labelled heads
    only). The dotted line is x = y; it is left out where the ranges differ more than 5 times, since the
    units then differ.
    """
    for name in (x, y):
        if name not in frame:
            raise ValueError(f"No column {name!r}; expected one of {['score', *_other_measures(frame)]}.")
    named = _extreme(frame, x, y, n_labels)
    rest = frame.drop(named.index)
    figure = go.Figure()
    for rows, is_named in ((rest, False), (named, True)):
        texts = (
            {"mode": "markers+text", "text": rows["label"], "textposition": _outwards(rows, x, y)} if is_named else {}
        )
        bars = {f"error_{axis}": _interval(rows, name) for axis, name in (("x", x), ("y", y))} if is_named else {}
        figure.add_scatter(
            x=rows[x],
            y=rows[y],
            **({"mode": "markers"} | texts | bars),
            marker={
                "size": 8 if is_named else 6,
                "color": POSITIVE if is_named else "#8a919b",
                "opacity": 0.85,
            },
            hovertext=[_hover(row) for row in rows.to_dict("records")],
            hovertemplate="%{hovertext}<extra></extra>",
            cliponaxis=False,
        )
    spans = [np.abs(frame[name]).max() for name in (x, y)]
    if min(spans) > 0 and max(spans) <= _COMPARABLE * min(spans):
        ends = [max(frame[x].min(), frame[y].min()), min(frame[x].max(), frame[y].max())]
        line = {"color": "rgba(128,128,128,.8)", "dash": "dot", "width": 1.5}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip")
    figure.update_xaxes(title=html.escape(x_title or x), zeroline=True, range=_padded(frame[x]), nticks=8)
    figure.update_yaxes(title=html.escape(y_title or y), zeroline=True, range=_padded(frame[y]), nticks=8)
    figure.update_layout(showlegend=False, height=460, margin_t=30)
    return _finish(figure)


def token_bars(view: TokenView, head: tuple[int, int]) -> go.Figure:
    """Attention and signed contribution of each token of one prompt, for one (layer, head) of the view."""
    if head not in view.heads:
        shown = ", ".join(head_label(*pair) for pair in view.heads)
        raise ValueError(f"The view {view.example_id!r} does not show {head}; expected one of: {shown}.")
    values = view.heads[head]
    kinds = [kind for kind in ("attention", "contribution") if kind in values]
    figure = make_subplots(rows=len(kinds), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    tokens = [html.escape(visible(token)) for token in view.tokens]
    for row, kind in enumerate(kinds, start=1):
        color = np.where(values[kind] < 0, NEGATIVE, POSITIVE) if kind == "contribution" else _MARKER_COLORS[0]
        hover = "%{customdata}: %{y:.4g}<extra></extra>"
        figure.add_bar(y=values[kind], customdata=tokens, marker_color=color, hovertemplate=hover, row=row, col=1)
        figure.update_yaxes(title=kind, row=row, col=1)
    if len(tokens) <= 80:  # more names than that cannot be read
        figure.update_xaxes(tickvals=list(range(len(tokens))), ticktext=tokens, tickangle=-60, row=len(kinds), col=1)
    title = f"{head_label(*head)}: {html.escape(view.title)}"
    figure.update_layout(title_text=title, showlegend=False, height=170 * len(kinds) + 130)
    return _finish(figure)


def visible(token: str) -> str:
    """A token with its line breaks and tabs made visible; "∅" if it has no text."""
    return token.replace("\n", "↵").replace("\t", "⇥") or "∅"


def _finish(figure: go.Figure) -> go.Figure:
    return figure.update_layout(template=TEMPLATES["any"])


def _other_measures(frame: pd.DataFrame) -> list[str]:
    return [column for column in frame if f"{column}_ci_low" in frame]


def _interval(rows: pd.DataFrame, name: str) -> dict | None:
    """Error bars from the interval of a measure; the ranked score's columns are plain ci_low and ci_high."""
    low, high = ("ci_low", "ci_high") if name == "score" else (f"{name}_ci_low", f"{name}_ci_high")
    if low not in rows or rows[low].isna().any():
        return None
    bars = {"array": rows[high] - rows[name], "arrayminus": rows[name] - rows[low], "symmetric": False}
    return {**bars, "type": "data", "color": "rgba(128,128,128,.9)", "thickness": 1.3, "width": 3}


def _hover(row: dict) -> str:
    lines = [f"<b>{row['label']}</b>  rank {row['rank']}"]
    lines.append(f"score {row['score']:+.4g}  [{row['ci_low']:+.3g}, {row['ci_high']:+.3g}]")
    lines.append(f"p {row['p']:.2g}, q {row['q']:.2g}, n {row['n']}")
    for name in (name for name in row if f"{name}_ci_low" in row):
        verdict = row.get(f"{name}_verdict")
        lines.append(f"{html.escape(name)} {row[name]:+.4g}" + (f", {verdict}" if verdict else ""))
    return "<br>".join(lines)


def _extreme(frame: pd.DataFrame, x: str, y: str, count: int) -> pd.DataFrame:
    """The points farthest from the middle, but none so near a chosen one that labels would overlap."""
    points = frame[[x, y]].to_numpy(dtype=float)
    spread = np.ptp(points, axis=0)
    points = (points - np.median(points, axis=0)) / np.where(spread > 0, spread, 1.0)
    chosen: list[int] = []
    for i in np.argsort(-np.abs(points).sum(axis=1), kind="stable"):
        if all(np.abs((points[i] - points[j]) / (0.11, 0.05)).max() > 1 for j in chosen):
            chosen.append(int(i))
        if len(chosen) == count:
            break
    return frame.iloc[sorted(chosen)]


def _padded(values: pd.Series) -> list[float]:
    """The range of the values and a tenth on both sides, for labels and intervals."""
    pad = 0.1 * (values.max() - values.min()) or 1.0
    return [values.min() - pad, values.max() + pad]


def _outwards(rows: pd.DataFrame, x: str, y: str) -> list[str]:
    """Label positions: away from the middle vertically, towards it horizontally, to stay on the paper."""
    right = rows[x] > rows[x].median()
    up = rows[y] > rows[y].median()
    return [f"{'top' if u else 'bottom'} {'left' if r else 'right'}" for u, r in zip(up, right, strict=True)]


def _wrapped(text: str, width: int = 110) -> str:
    """Escaped text on at most two lines."""
    lines = textwrap.wrap(text, width, max_lines=2, placeholder=" …")
    return "<br>".join(html.escape(line) for line in lines)

"""Plotly figures of head scores, and of any values with intervals. Each function returns a figure and never shows it.

All text from data is escaped, because plotly reads some HTML in labels. The diverging scale runs from blue
(negative) to orange (positive) and is always centred at zero. Templates for a known background are in `TEMPLATES`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp.figures.intervals import interval_lines
from interp.figures.names import displayed
from interp.figures.style import GREY, MARKER_COLORS, NEGATIVE, POSITIVE, color_scale, finish, wrapped
from interp.figures.views import TokenView, head_label
from interp.statistics.estimates import Estimate

_MARKERS = ["diamond-open", "circle-open", "square-open", "triangle-up-open", "cross-open", "star-open"]
_COMPARABLE = 5.0  # ratio of ranges up to which two measures can share an axis


def head_heatmap(
    values: Float[np.ndarray, "layer head"],
    title: str,
    unit: str = "",
    hover: pd.DataFrame | None = None,
    examples: np.ndarray | None = None,
    base: float = 0.0,
    is_signed: bool = True,
) -> go.Figure:
    """Layers downwards from 0, heads to the right; colour centred at `base`, full at the farthest value from it. Where
    values lie on one side alone (not `is_signed`: a probability), one colour, from `base` to the highest value.

    hover: the frame of a ranking (`HeadRanking.to_frame()`); each cell then shows interval, q and other
    measures. examples: [layer, head] of a line more for each (`strongest_examples`).
    """
    n_layers, n_heads = values.shape
    text = np.full(values.shape, "", dtype=object)
    for (i, j), value in np.ndenumerate(values):
        text[i, j] = f"<b>{head_label(i, j)}</b>  {value:+.4g}"
    if hover is not None:
        for row in hover.to_dict("records"):
            text[row["layer"], row["head"]] = _hover(row)
    if examples is not None:
        text = text + "<br>" + examples
    figure = go.Figure(
        go.Heatmap(z=values, coloraxis="coloraxis", text=text, hovertemplate="%{text}<extra></extra>", xgap=1, ygap=1),
        layout={
            "title": {"text": html.escape(title), "subtitle": {"text": wrapped(unit)}},
            "coloraxis": color_scale(values, base, is_signed),
            "height": int(np.clip(20 * n_layers, 180, 900)) + 140,
            "margin": {"t": 78},
        },
    )
    figure.update_xaxes(title="head", dtick=max(1, n_heads // 16), showgrid=False, zeroline=False)
    figure.update_yaxes(
        title="layer", dtick=max(1, n_layers // 15), autorange="reversed", showgrid=False, zeroline=False
    )
    return finish(figure)


def ranked_bars(
    frame: pd.DataFrame,
    k: int = 20,
    title: str = "",
    score: str = "score",
    examples: np.ndarray | None = None,
) -> go.Figure:
    """The first k rows of a ranking's frame as bars with their intervals, and other measures as markers.

    A measure on quite another scale (largest mean more than 5 times the bars', or under a fifth) would
    squeeze the bars or vanish: it is in the legend but off; a click shows it, where plotly draws. examples: as in
    `head_heatmap`.
    """
    rows = frame.head(k)
    reach = rows[["ci_low", "ci_high"]].abs().max().max()
    reach = rows["score"].abs().max() if np.isnan(reach) else reach
    figure = go.Figure(
        go.Bar(
            x=rows["score"],
            y=rows["label"],
            orientation="h",
            name=html.escape(displayed(score)),
            marker={"color": np.where(rows["score"] < 0, NEGATIVE, POSITIVE), "opacity": 0.55},
            error_x=_interval(rows, "score"),
            hovertext=[_hover(row, examples) for row in rows.to_dict("records")],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    for i, name in enumerate(_other_measures(frame)):
        ratio = rows[name].abs().max() / reach if reach else 1.0
        figure.add_scatter(
            x=rows[name],
            y=rows["label"],
            mode="markers",
            name=html.escape(displayed(name)),
            marker={
                "symbol": _MARKERS[i % 6],
                "color": MARKER_COLORS[i % 6],
                "size": 9,
                "line": {"width": 2},
            },
            visible=True if 1 / _COMPARABLE <= ratio <= _COMPARABLE else "legendonly",
            hovertemplate=f"{html.escape(displayed(name))}: %{{x:.4g}}<extra>%{{y}}</extra>",
        )
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category", dtick=1)
    figure.update_xaxes(title=f"mean {html.escape(displayed(score))}, 95 % interval", zeroline=True)
    legend = {"y": 1.01, "yanchor": "bottom"}
    figure.update_layout(title_text=html.escape(title), height=22 * len(rows) + 170, legend=legend, bargap=0.35)
    figure.update_layout(margin_t=96, showlegend=True)
    return finish(figure)


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

    Raises:
        ValueError: a column that is not there.
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
        line = {"color": GREY, "dash": "dot", "width": 1.5}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip")
    figure.update_xaxes(title=html.escape(displayed(x_title or x)), zeroline=True, range=_padded(frame[x]), nticks=8)
    figure.update_yaxes(title=html.escape(displayed(y_title or y)), zeroline=True, range=_padded(frame[y]), nticks=8)
    figure.update_layout(showlegend=False, height=460, margin_t=30)
    return finish(figure)


def token_bars(view: TokenView, head: tuple[int, int]) -> go.Figure:
    """Attention and signed contribution of each token of one prompt, for one (layer, head) of the view.

    Raises:
        ValueError: a head that the view does not show.
    """
    if head not in view.heads:
        shown = ", ".join(head_label(*pair) for pair in view.heads)
        raise ValueError(f"The view {view.example_id!r} does not show {head}; expected one of: {shown}.")
    values = view.heads[head]
    kinds = [kind for kind in ("attention", "contribution") if kind in values]
    figure = make_subplots(rows=len(kinds), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    tokens = [html.escape(visible(token)) for token in view.tokens]
    for row, kind in enumerate(kinds, start=1):
        color = np.where(values[kind] < 0, NEGATIVE, POSITIVE) if kind == "contribution" else MARKER_COLORS[0]
        hover = "%{customdata}: %{y:.4g}<extra></extra>"
        figure.add_bar(y=values[kind], customdata=tokens, marker_color=color, hovertemplate=hover, row=row, col=1)
        figure.update_yaxes(title=kind, row=row, col=1)
    if len(tokens) <= 80:  # more names than that cannot be read
        figure.update_xaxes(tickvals=list(range(len(tokens))), ticktext=tokens, tickangle=-60, row=len(kinds), col=1)
    title = f"{head_label(*head)}: {html.escape(view.title)}"
    figure.update_layout(title_text=title, showlegend=False, height=170 * len(kinds) + 130)
    return finish(figure)


def kept_and_removed(frame: pd.DataFrame) -> go.Figure:
    """How much is left with only the first k heads, and without them, over k, with bands of 95 %.

    frame: columns k, kept, kept_low, kept_high, removed, removed_low, removed_high: shares of what the model does.
    """
    said = {"kept": "only the first k kept", "removed": "the first k replaced"}
    several = [
        frame[["k"]].assign(heads=word, share=frame[name], low=frame[f"{name}_low"], high=frame[f"{name}_high"])
        for name, word in said.items()
    ]
    labels = {"k": "heads", "share": "share of what the model does"}
    return interval_lines(pd.concat(several), "k", "share", "low", "high", color="heads", reference=1, labels=labels)


def strongest_examples(scores: Float[np.ndarray, "example layer head"], texts: Sequence[str]) -> np.ndarray:
    """For hover: the example whose score lies farthest to the side of the head's mean. It is the most extreme of all
    examples, not a typical one.

    Returns:
        Lines of HTML, [layer, head].

    Raises:
        ValueError: another number of texts than of examples.
    """
    if len(texts) != len(scores):
        raise ValueError(f"{len(texts)} texts for {len(scores)} examples; expected one for each, in their order.")
    towards = np.where(scores.mean(axis=0) < 0, -scores, scores)
    lines = np.full(scores.shape[1:], "", dtype=object)
    for (layer, head), i in np.ndenumerate(towards.argmax(axis=0)):
        lines[layer, head] = f"most extreme: <i>{wrapped(texts[i], 56, max_lines=3)}</i>  {scores[i, layer, head]:+.3g}"
    return lines


def visible(token: str) -> str:
    """A token with its line breaks and tabs made visible; "∅" if it has no text."""
    return token.replace("\n", "↵").replace("\t", "⇥") or "∅"


def _other_measures(frame: pd.DataFrame) -> list[str]:
    return [column for column in frame if f"{column}_ci_low" in frame]


def _ends(name: str) -> tuple[str, str]:
    return f"{name}_ci_low", f"{name}_ci_high"


def _interval(rows: pd.DataFrame, name: str) -> dict | None:
    """Error bars from the interval of a measure; the ranked score's columns are plain ci_low and ci_high."""
    low, high = ("ci_low", "ci_high") if name == "score" else _ends(name)
    if low not in rows or rows[low].isna().any():
        return None
    bars = {"array": rows[high] - rows[name], "arrayminus": rows[name] - rows[low], "symmetric": False}
    return {**bars, "type": "data", "color": "rgba(128,128,128,.9)", "thickness": 1.3, "width": 3}


def _hover(row: dict, examples: np.ndarray | None = None) -> str:
    lines = [f"<b>{row['label']}</b>  rank {row['rank']}"]
    lines.append(f"score {Estimate.from_row(row, 'score', ('ci_low', 'ci_high')):+.3g}")
    tested = "" if np.isnan(row["p"]) else f"p {row['p']:.2g}, q {row['q']:.2g}, "
    lines.append(f"{tested}n {row['n']}")
    for name in (name for name in row if f"{name}_ci_low" in row):
        verdict = row.get(f"{name}_verdict")
        value = f"{Estimate.from_row(row, name, _ends(name)):+.3g}{f', {verdict}' * bool(verdict)}"
        lines.append(f"{html.escape(displayed(name))} {value}")
    if examples is not None:
        lines.append(examples[row["layer"], row["head"]])
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

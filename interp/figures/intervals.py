"""Figures of any values with intervals: grouped bars over categories, lines over a number, in panels.

Groups have the colours of Okabe and Ito (2008), which stay apart under the common kinds of colour blindness; lines
differ in symbol and dash as well. `interp.figures` offers both functions.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import GREY, finish, wrapped
from interp.statistics.estimates import Estimate

_GROUP_COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"]
_GROUP_SYMBOLS = ["circle", "diamond", "square", "triangle-up", "x", "star", "triangle-down"]
_WIDTH = 760  # pixels of a figure on a page: bars whose names need more lie
_GROUP_DASHES = ["solid", "dash", "dot", "dashdot", "longdash"]


def interval_bars(
    frame: pd.DataFrame,
    x: str,
    y: str,
    low: str | None = None,
    high: str | None = None,
    color: str | None = None,
    facet: str | None = None,
    title: str = "",
    reference: float | None = 0.0,
    labels: Mapping[str, str] | None = None,
) -> go.Figure:
    """Bars with intervals: a group of bars for each x (categories), a colour for each value of `color`.

    All names are columns of the frame; `low` and `high` are the ends of the interval, by default `y` with `_low` and
    `_high` (NaN: none is drawn). Bars start at `reference` (None: at zero), and lie where the names of x can't stand
    side by side. A value that is NaN has no bar but a word or a dash, so that it is not taken for zero. Each value of
    `facet` gets a panel, one below the other, on one scale. Categories, colours and panels come in the order of their
    first rows. labels: what to print for a column; "": nothing. A column "n" is shown on hover.

    Raises:
        ValueError: a column that is not there, or two rows with the same x, colour and facet.
    """
    low, high = low or f"{y}_low", high or f"{y}_high"
    _require_columns(frame, [x, y, low, high, color, facet])
    keys = [name for name in (x, color, facet) if name]
    if (doubled := frame.duplicated(keys)).any():
        raise ValueError(f"Two rows have the same {' and '.join(keys)}: {frame.loc[doubled, keys].iloc[0].tolist()}.")
    panels = _split(frame, facet)
    colors = _split(frame, color)
    categories = list(dict.fromkeys(frame[x].astype(str)))
    names = [wrapped(name.replace("_", " "), 12, max_lines=4) for name in categories]
    flat = _bars_width(names, len(colors)) > _WIDTH  # names that stand side by side would run into each other
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        shared_yaxes="all",
        vertical_spacing=(0.18 if flat else 0.3) / (len(panels) + 1),
        subplot_titles=[wrapped(name, 80) for name in panels] if facet else None,
    )
    base = reference or 0.0
    for row, panel in enumerate(panels.values(), start=1):
        for i, rows, name in _colored(panel, color, colors):
            missing = rows[y].isna()
            places, values = rows[x].astype(str), (rows[y] - base).fillna(0.0)
            ends = _asymmetric(rows, y, low, high) | {"color": _GROUP_COLORS[i % 6], "width": 4}
            figure.add_bar(
                **{"y": places, "x": values, "error_x": ends} if flat else {"x": places, "y": values, "error_y": ends},
                orientation="h" if flat else "v",
                base=base,
                text=np.where(missing, "undefined" if flat else "–", ""),
                textposition="outside",
                marker={"color": _GROUP_COLORS[i % 6], "opacity": 0.6},
                hovertext=_interval_hover(rows, x, y, low, high, color, labels),
                **_legend_entry(figure, i, name),
                row=row,
                col=1,
            )
    named = {"type": "category", "categoryarray": categories, "tickvals": categories, "showgrid": False}
    title_of_x = {"title": _label(x, labels)} if x in (labels or {}) else {}
    if flat:
        lines = [wrapped(name.replace("_", " "), 40, max_lines=2) for name in categories]
        figure.update_yaxes(**named, ticktext=lines, autorange="reversed", **title_of_x)
        figure.update_xaxes(title=_label(y, labels), row=len(panels), col=1)
    else:
        figure.update_xaxes(**named, ticktext=names, tickangle=0, tickfont_size=11)
        figure.update_xaxes(**title_of_x, row=len(panels), col=1)
        figure.update_yaxes(title=_label(y, labels))
    figure.update_layout(barmode="group", bargap=0.25, bargroupgap=0.08)
    height = (40 + len(categories) * (12 + 13 * len(colors))) if flat else 240
    return _finish_intervals(figure, title, reference, height * len(panels), color, labels, is_flat=flat)


def interval_lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    low: str | None = None,
    high: str | None = None,
    color: str | None = None,
    facet: str | None = None,
    title: str = "",
    reference: float | None = 0.0,
    labels: Mapping[str, str] | None = None,
    band: bool = True,
) -> go.Figure:
    """Lines over a numeric x with intervals, as bands or (band=False) as error bars; a line for each `color`.

    Each value of `facet` gets a panel, side by side (three in a row, four in two rows), on one scale of y. A dotted
    line is drawn at `reference` (None: nowhere). The rest is as in `interval_bars`; lines differ in colour, symbol and
    dash.

    Raises:
        ValueError: a column that is not there, and a frame without rows.
    """
    low, high = low or f"{y}_low", high or f"{y}_high"
    _require_columns(frame, [x, y, low, high, color, facet])
    panels = _split(frame, facet)
    colors = _split(frame, color)
    n_columns = 2 if len(panels) == 4 else min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = make_subplots(
        rows=n_rows,
        cols=n_columns,
        shared_yaxes="all",
        horizontal_spacing=0.03,
        vertical_spacing=0.4 / (n_rows + 1),
        subplot_titles=[wrapped(name, 90 // n_columns) for name in panels] if facet else None,
        specs=[[{} if row * n_columns + i < len(panels) else None for i in range(n_columns)] for row in range(n_rows)],
    )
    for number, panel in enumerate(panels.values()):
        place = {"row": number // n_columns + 1, "col": number % n_columns + 1}
        for i, rows, name in _colored(panel, color, colors):
            rows = rows.sort_values(x, kind="stable")
            paint = _GROUP_COLORS[i % 6]
            entry = _legend_entry(figure, i, name)
            ends = rows.dropna(subset=[low, high])
            if band and len(ends) > 1:
                figure.add_scatter(
                    x=[*ends[x], *ends[x][::-1]],
                    y=[*ends[low], *ends[high][::-1]],
                    fill="toself",
                    fillcolor=f"rgba({', '.join(str(int(paint[k : k + 2], 16)) for k in (1, 3, 5))}, 0.16)",
                    line={"width": 0},
                    mode="lines",
                    hoverinfo="skip",
                    **(entry | {"showlegend": False}),
                    **place,
                )
            figure.add_scatter(
                x=rows[x],
                y=rows[y],
                mode="lines+markers",
                line={"color": paint, "dash": _GROUP_DASHES[i % 5], "width": 2},
                marker={"symbol": _GROUP_SYMBOLS[i % 7], "size": 7},
                error_y=None if band and len(ends) > 1 else _asymmetric(rows, y, low, high) | {"width": 3},
                hovertext=_interval_hover(rows, x, y, low, high, color, labels),
                **entry,
                **place,
            )
        if number + n_columns >= len(panels):
            figure.update_xaxes(title=_label(x, labels), **place)
        if place["col"] == 1:
            figure.update_yaxes(title=_label(y, labels), **place)
    figure.update_xaxes(zeroline=False)
    for axis in list(figure.select_yaxes())[1:]:  # also in a last row that is not full, which make_subplots leaves out
        axis.matches = "y"
    return _finish_intervals(figure, title, reference, 300 * n_rows, color, labels)


def min_width(figure: go.Figure) -> int:
    """The width in pixels below which panels, or the names of bars, cannot be read; 0: any will do."""
    n_columns = len({axis.domain for axis in figure.select_xaxes()})
    if n_columns > 1:
        return 60 + 230 * n_columns
    names = next((axis.ticktext for axis in figure.select_xaxes() if axis.type == "category"), None) or ()
    return _bars_width(names, len({trace.offsetgroup for trace in figure.select_traces("bar")})) if names else 0


def _bars_width(names: Sequence[str], n_bars: int) -> int:
    """The width in pixels that groups of bars need whose names, with their line breaks, stand below them."""
    longest = max((len(html.unescape(line)) for name in names for line in name.split("<br>")), default=0)
    return 70 + len(names) * max(62 * longest // 10, 22 * n_bars)


def _finish_intervals(
    figure: go.Figure,
    title: str,
    reference: float | None,
    height: int,
    color: str | None,
    labels: Mapping[str, str] | None,
    is_flat: bool = False,
) -> go.Figure:
    """Reference line, sizes, and the legend above the panels and their headings."""
    if reference is not None:
        draw = figure.add_vline if is_flat else figure.add_hline
        draw(reference, line={"color": GREY, "dash": "dot", "width": 1.5})
    figure.update_traces(hovertemplate="%{hovertext}<extra></extra>", selector=lambda trace: trace.hoverinfo != "skip")
    headed = max((note.text.count("<br>") + 1 for note in figure.layout.annotations), default=0)  # lines
    above = 1 + (12 + 18 * headed) / height
    titled = wrapped(title, 90)
    figure.update_annotations(font_size=13)
    return finish(
        figure.update_layout(
            title_text=titled,
            height=height + 150 + 20 * titled.count("<br>"),
            margin_t=24 + 30 * bool(title) + 20 * titled.count("<br>") + 22 * headed + 30 * bool(color),
            legend={"y": above, "yanchor": "bottom", "title_text": _label(color, labels) if color else None},
        )
    )


def _require_columns(frame: pd.DataFrame, names: list[str | None]) -> None:
    missing = [name for name in names if name is not None and name not in frame]
    if missing:
        raise ValueError(f"No column {', '.join(map(repr, missing))}; expected some of {frame.columns.tolist()}.")
    if frame.empty:
        raise ValueError("The frame has no rows; there is nothing to draw.")


def _split(frame: pd.DataFrame, by: str | None) -> dict[str, pd.DataFrame]:
    """The rows of each value, in order of first appearance; all under "" without a column."""
    if by is None:
        return {"": frame}
    return {str(name): rows for name, rows in frame.groupby(by, sort=False, observed=True, dropna=False)}


def _colored(
    panel: pd.DataFrame, color: str | None, colors: Mapping[str, pd.DataFrame]
) -> Iterator[tuple[int, pd.DataFrame, str]]:
    """The groups of a panel that have rows there: number of the colour, rows, name."""
    groups = _split(panel, color)
    for i, name in enumerate(colors):
        if name in groups:
            yield i, groups[name], name


def _legend_entry(figure: go.Figure, i: int, name: str) -> dict:
    """One legend entry for each group, at its first panel; none for the group of all rows, which has no name."""
    group = {"name": html.escape(name), "legendgroup": str(i), "offsetgroup": str(i)}
    return {**group, "showlegend": name != "" and all(trace.legendgroup != str(i) for trace in figure.data)}


def _asymmetric(rows: pd.DataFrame, y: str, low: str, high: str) -> dict:
    ends = {"array": rows[high] - rows[y], "arrayminus": rows[y] - rows[low]}
    return {**ends, "type": "data", "symmetric": False, "thickness": 1.6}


def _interval_hover(
    rows: pd.DataFrame,
    x: str,
    y: str,
    low: str,
    high: str,
    color: str | None,
    labels: Mapping[str, str] | None,
) -> list[str]:
    texts = []
    for row in rows.to_dict("records"):
        head = [html.escape(str(row[x])) if isinstance(row[x], str) else f"{_label(x, labels)} {row[x]}"]
        head += [html.escape(str(row[color]))] if color else []
        n = f"<br>n {row['n']:g}" if "n" in row and not pd.isna(row["n"]) else ""
        texts.append(f"<b>{', '.join(head)}</b><br>{_label(y, labels)} {Estimate(row[y], row[low], row[high]):.3g}{n}")
    return texts


def _label(name: str, labels: Mapping[str, str] | None) -> str:
    return html.escape((labels or {}).get(name, name.replace("_", " ")))

"""What all figures share: colours, the light and the dark template, wrapped text.

Figures use the template "any", whose greys read on white and on black paper alike; `TEMPLATES["light"]` and
`TEMPLATES["dark"]` are for a known background: `figure.update_layout(template=TEMPLATES["dark"])`. The diverging scale,
blue to orange, is safe for the common kinds of colour blindness.
"""

from __future__ import annotations

import html
import textwrap
from typing import Any

import numpy as np
import plotly.graph_objects as go

NEGATIVE = "#2b7bba"
POSITIVE = "#d9730d"
_NEGATIVE_ARM = ["#08416e", "#2171b5", "#7fb4dc"]
_POSITIVE_ARM = ["#fdb573", "#e8710a", "#8f3a02"]
MARKER_COLORS = ["#8a63d2", "#1a9988", "#c2478b", "#8c8c1f", "#5b7fa6", "#a86f3c"]
GREY = "rgba(128,128,128,.8)"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


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
                "pad": {"t": 6},
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": [POSITIVE, *MARKER_COLORS],
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


def color_scale(values: np.ndarray, base: float = 0.0, is_signed: bool = True) -> dict[str, Any]:
    """The range of a colour axis, as far as the farthest value, and its colours where those of the template are not
    meant: of values on one side of `base` alone (not `is_signed`: a probability), one colour, stronger with distance.
    NaN is left out."""
    limit = float(np.nanmax(np.abs(values - base))) or 1.0
    if is_signed:
        return {"cmin": base - limit, "cmax": base + limit}
    if np.nanmin(values) < base:
        return {"cmin": base - limit, "cmax": base, "colorscale": [[1 - at, c] for at, c in _one_sided(NEGATIVE)][::-1]}
    return {"cmin": base, "cmax": base + limit, "colorscale": _one_sided(POSITIVE)}


def _one_sided(color: str) -> list[list[Any]]:
    """From nothing to a colour: clear on any paper, light or dark."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return [[share, f"rgba({red},{green},{blue},{max(share, 0.04)})"] for share in (0.0, 0.5, 1.0)]


def finish(figure: go.Figure) -> go.Figure:
    return figure.update_layout(template=TEMPLATES["any"])


def wrapped(text: str, width: int = 110, max_lines: int = 2) -> str:
    """Escaped text on a few lines."""
    lines = textwrap.wrap(text, width, max_lines=max_lines, placeholder=" …", break_long_words=False)
    return "<br>".join(html.escape(line) for line in lines)

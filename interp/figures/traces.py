"""The heat map of a causal trace: layers by positions of the prompt, a panel for each part of the model."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp.figures.style import finish, wrapped

_CELL = 22  # pixels of a layer, where there are few
_NAMES = {"attention": "attention output", "mlp": "MLP output", "residual": "residual stream (block output)"}


def tracing_heatmap(
    values: Float[np.ndarray, "part layer region"],
    parts: Sequence[str],
    layers: Sequence[int],
    regions: Sequence[str],
    title: str = "",
    unit: str = "",
    limit: float | None = None,
) -> go.Figure:
    """Regions (tokens, or groups of positions) to the right in the prompt's order, layers downwards from the first, one
    panel below the other for each part. One colour scale for all, centred at zero and full at ``limit`` (default: the
    largest value); NaN is left empty."""
    limit = limit or float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0
    height = int(np.clip(_CELL * len(layers), 110, 420))
    below = _names_height(regions)
    total = len(parts) * (height + 46) + below + 70
    figure = make_subplots(
        rows=len(parts),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=46 / max(1, total - below - 80),
        subplot_titles=[_NAMES.get(part, part) for part in parts],
    )
    names = [html.escape(region) for region in regions]
    for row, (part, table) in enumerate(zip(parts, values, strict=True), start=1):
        text = [[f"<b>layer {layer}, {name}</b>" for name in names] for layer in layers]
        figure.add_heatmap(
            z=table,
            coloraxis="coloraxis",
            text=text,
            hovertemplate=f"%{{text}}<br>{html.escape(part)} %{{z:+.4g}}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
            row=row,
            col=1,
        )
    step = max(1, len(layers) // 8)
    figure.update_xaxes(showgrid=False, zeroline=False, tickvals=list(range(len(names))), tickangle=-45)
    figure.update_xaxes(showticklabels=False)
    figure.update_xaxes(ticktext=names, showticklabels=True, row=len(parts), col=1)
    figure.update_yaxes(
        title="layer",
        tickvals=list(range(0, len(layers), step)),
        ticktext=[str(layer) for layer in layers[::step]],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    figure.update_annotations(x=0, xanchor="left", font_size=13)
    bar = {"title": {"text": html.escape(unit), "side": "right"}, "exponentformat": "power"}
    return finish(
        figure.update_layout(
            title_text=wrapped(title) if title else None,
            coloraxis={"cmin": -limit, "cmax": limit, "colorbar": bar},
            height=total,
            margin={"t": 60 if title else 34, "l": max(10, _slanted(regions[0]))},
        )
    )


def _names_height(regions: Sequence[str]) -> int:
    """Pixels that slanted names need below the panels."""
    return 24 + max(map(_slanted, regions))


def _slanted(name: str) -> int:
    """Pixels that a slanted name reaches downwards and to the left; a first name without room there is not drawn."""
    return 5 * min(40, len(name))

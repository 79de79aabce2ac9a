"""Figures: heads, intervals, levels, traces, in one style."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.figures.heads import (
        head_heatmap as head_heatmap,
        kept_and_removed as kept_and_removed,
        scatter as scatter,
        strongest_examples as strongest_examples,
        token_bars as token_bars,
        visible as visible,
    )
    from interp.figures.intervals import interval_lines as interval_lines, min_width as min_width
    from interp.figures.levels import heads_by_level as heads_by_level, overlap_matrix as overlap_matrix
    from interp.figures.names import displayed as displayed
    from interp.figures.saving import save_figure as save_figure
    from interp.figures.style import (
        GREY as GREY,
        MARKER_COLORS as MARKER_COLORS,
        NEGATIVE as NEGATIVE,
        POSITIVE as POSITIVE,
        TEMPLATES as TEMPLATES,
        color_scale as color_scale,
        finish as finish,
        wrapped as wrapped,
    )
    from interp.figures.traces import tracing_heatmap as tracing_heatmap
    from interp.figures.views import TokenView as TokenView, frozen_array as frozen_array, head_label as head_label

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""The figures of a report, drawn only when somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Figures(Mapping[str, "go.Figure"]):
    """Figures by name. Each is drawn when it is first asked for, and kept; whoever asks gets a copy.

    Args:
        drawn: for each name a figure, or a function without arguments that draws it.
    """

    def __init__(self, drawn: Mapping[str, go.Figure | Callable[[], go.Figure]]) -> None:
        self._drawn = dict(drawn)

    def __getitem__(self, name: str) -> go.Figure:
        import plotly.graph_objects as go

        figure = self._drawn[name]
        if not isinstance(figure, go.Figure):
            figure = self._drawn[name] = figure()
        return go.Figure(figure)

    def __contains__(self, name: object) -> bool:
        return name in self._drawn

    def __iter__(self) -> Iterator[str]:
        return iter(self._drawn)

    def __len__(self) -> int:
        return len(self._drawn)

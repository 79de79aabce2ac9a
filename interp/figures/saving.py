"""A figure as a file for a paper: SVG drawn here, PDF and PNG by kaleido."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from interp.door import public

if TYPE_CHECKING:
    import plotly.graph_objects as go

_BY_KALEIDO = (".pdf", ".png")


@public
def save_figure(figure: go.Figure, path: str | Path, *, width: int = 760) -> Path:
    """Write a figure, on white paper; returns its path.

    Args:
        figure: any of this package's.
        path: its ending says what is written: .svg needs nothing else; .pdf and .png need kaleido and a browser.
        width: in pixels.

    Raises:
        ValueError: another ending.
        RuntimeError: a PDF or PNG without kaleido or a browser; says what to do.

    >>> save_figure(ranking.plot("Top heads"), "heads.pdf")
    """
    import plotly.graph_objects as go

    from interp.figures import svg
    from interp.figures.style import TEMPLATES

    path = Path(path).expanduser()
    if path.suffix not in (".svg", *_BY_KALEIDO):
        raise ValueError(f"{path.name} ends in {path.suffix or 'nothing'}; expected .svg, .pdf or .png.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        path.write_text(svg.alone(figure, width, is_printed=True), encoding="utf-8")
        return path
    shown = go.Figure(figure).update_layout(template=TEMPLATES["light"], paper_bgcolor="white")
    try:
        content = shown.to_image(path.suffix[1:], width=width, height=shown.layout.height or 450)
    except Exception as error:  # kaleido's, choreographer's and plotly's own have no common kind
        raise RuntimeError(
            f"{path.name} needs kaleido and a browser (Chrome or Chromium): pip install kaleido; or save it as "
            f"{path.with_suffix('.svg').name}, which needs neither. ({type(error).__name__})"
        ) from error
    path.write_bytes(content)
    return path

"""A plotly figure as static SVG: no script, no browser, a hundredth of plotly.js; it opens from disk and prints.

What the figures of this package are made of is drawn: heatmaps, bars, lines, bands, points with intervals, pictures,
panels, legends and colour bars. What a pointer shows becomes a number in ``data-tip``, an index into a list that all
figures of a page share. Colours are classes and variables of :func:`stylesheet`, so a figure follows the page into the
dark. :func:`draw` refuses other traces by name.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go

from interp.figures.axes import Axis, silent_ticks
from interp.figures.marks import Marks
from interp.figures.painting import (
    LINE,
    dashes,
    decoded,
    entry,
    lines_of,
    paint,
    plain_text,
    short_text,
    stylesheet as stylesheet,
    text_width,
    title_of,
)

_MOST_BYTES = 1_000_000  # of an image in a notebook


def draw(figure: go.Figure, width: int = 760, said: str = "", tips: dict[str, int] | None = None) -> str:
    """The figure as one ``<svg>`` element.

    Args:
        figure: any of this package's.
        width: in pixels; the height is the figure's own.
        said: what is told to who does not see it.
        tips: texts that a pointer shows -> their numbers, which this call adds to; shared by a page's figures.

    Raises:
        ValueError: a kind of trace that is not drawn.
    """
    return _Drawing(decoded(figure.to_plotly_json()), width, {} if tips is None else tips).svg(said)


def alone(figure: go.Figure, width: int = 760, said: str = "", is_printed: bool = False) -> str:
    """:func:`draw` with its colours, as a file of its own: light or dark as its reader is, or for white paper."""
    light = ":root{--ink:#24292f;--soft:#59636e;--line:#d9dee4}"
    dark = "@media(prefers-color-scheme:dark){:root{--ink:#d0d4da;--soft:#9aa3ad;--line:#444b55}}"
    style = light + stylesheet().partition("@media")[0] if is_printed else light + dark + stylesheet()
    return draw(figure, width, said).replace(">", f"><style>{style}</style>", 1) + "\n"


def image(figure: go.Figure, said: str, width: int = 640) -> str:
    """A line and an ``<img>`` for a notebook, on white paper whatever the notebook's colours: the styles of
    :func:`alone` stay within it. ``said``: as of :func:`draw`. Empty for a figure that is not drawn here, and for one
    above 1 MB."""
    try:
        drawn = quote(alone(figure, width, is_printed=True), safe=" =:;,/()!")
    except ValueError:
        return ""
    if len(drawn) > _MOST_BYTES:
        return ""
    name = html.escape(said)
    shown = f'<img alt="{name}" style="background:#fff;max-width:100%" width="{width}"'
    return f'<p>{name}:</p>{shown} src="data:image/svg+xml,{drawn}">'


class _Drawing(Marks):
    """All of a figure: axes, shapes, notes and colour bars around its marks."""

    def svg(self, said: str) -> str:
        for axis in self.axes.values():
            self._draw_axis(axis)
        for image in self.layout.get("images") or ():
            self._image(image)
        for shape in self.shapes:
            self._shape(shape)
        for number, trace in enumerate(self.traces):
            self.out.append(f'<g data-trace="{number}">')
            self.mark(trace)
            self.out.append("</g>")
        for note in self.notes:
            self._note(note)
        for name in self.coloraxes():
            self._color_bar(name)
        self._legend()
        label = f' role="img" aria-label="{html.escape(said)}"' if said else ' role="img"'
        size = f'viewBox="0 0 {self.width} {self.height:.0f}" width="{self.width}" height="{self.height:.0f}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" {size}{label}>{"".join(self.out)}</svg>'

    def _draw_axis(self, axis: Axis) -> None:
        across = self.axes.get(axis.given.get("anchor") or ("y" if axis.is_x else "x"))
        if across is None or axis.given.get("visible") is False:
            return
        low, high = across.start, across.end  # y: from the foot up
        ticks, names = axis.ticks(), [name for _, name in axis.ticks()]
        if axis.given.get("showgrid") is not False:
            marks = ticks or ([] if axis.given.get("visible") is False else silent_ticks(axis))
            for value, _ in marks:
                is_zero = value == 0 and axis.given.get("zeroline") is not False
                at = float(axis.at(value))
                ends = (at, low, at, high) if axis.is_x else (low, at, high, at)
                self.line(*ends, f'class="{"zero" if is_zero else "grid"}"')
        slanted = axis.is_x and self.slants(axis, names)
        near = 14.0 if slanted or not axis.is_x else max(map(text_width, names), default=0) + 4
        last = None
        for value, name in ticks:
            at = float(axis.at(value))
            if last is not None and abs(at - last) < near:
                continue
            last = at
            if not axis.is_x:
                rows = len(lines_of(name))
                self.text(low - 6, at + 4 - LINE * (rows - 1) / 2, name, "end", css="soft")
            elif slanted:
                turn = f' transform="rotate(-45 {at:.1f} {low + 12:.1f})"'
                self.text(at, low + 12, short_text(name), "end", turn, css="soft")
            else:
                self.text(at, low + 16, name, css="soft")
        if title := title_of(axis.given):
            middle = (axis.start + axis.end) / 2
            room = self.label_room(axis)
            if axis.is_x:
                self.text(middle, low + room - 4 - LINE * (len(lines_of(title)) - 1), title)
            else:
                x = low - room + 10
                self.text(x, middle, title, more=f' transform="rotate(-90 {x:.1f} {middle:.1f})"')

    def _place(self, ref: str | None, value: float, letter: str) -> float:
        """Pixels of a coordinate on an axis ("x2"), of a panel's side ("x domain") or of the paper."""
        ref = ref or "paper"
        if ref == "paper":
            return self.left + self.plot * value if letter == "x" else self.foot - (self.foot - self.top) * value
        axis = self.axes[ref.removesuffix(" domain")]
        if ref.endswith("domain"):
            return axis.start + (axis.end - axis.start) * value
        return float(axis.at(axis.values([value])[0]))

    def _shape(self, shape: Mapping[str, Any]) -> None:
        ends = [self._place(shape.get(f"{c}ref"), shape[f"{c}{i}"], c) for i in (0, 1) for c in "xy"]
        look = shape.get("line") or {}
        stroke = f'stroke="{look.get("color", "currentColor")}" stroke-width="{look.get("width", 2)}"{dashes(look)}'
        if shape.get("type") == "rect":
            x, y = min(ends[0], ends[2]), min(ends[1], ends[3])
            size = f'width="{abs(ends[2] - ends[0]):.1f}" height="{abs(ends[3] - ends[1]):.1f}"'
            self.out.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{shape.get("fillcolor", "none")}" {stroke}/>')
        else:
            self.line(*ends, stroke)

    def _note(self, note: Mapping[str, Any]) -> None:
        x = self._place(note.get("xref"), note.get("x", 0.5), "x") + (note.get("xshift") or 0)
        y = self._place(note.get("yref"), note.get("y", 0.5), "y") - (note.get("yshift") or 0)
        anchor = {"left": "start", "right": "end"}.get(note.get("xanchor"), "middle")
        rows = len(lines_of(note.get("text")))
        drop = {"bottom": -5 - LINE * (rows - 1), "top": 13}.get(note.get("yanchor"), 4 - LINE * (rows - 1) / 2)
        self.text(x, y + drop, note.get("text"), anchor, ' font-weight="600"' * (note.get("yref") == "paper"))

    def _image(self, image: Mapping[str, Any]) -> None:
        x, y = (self.axes[image[f"{c}ref"]] for c in "xy")
        left, top = float(x.at(image["x"])), float(y.at(image["y"]))
        w = abs(float(x.at(image["x"] + image["sizex"])) - left)
        h = abs(float(y.at(image["y"] + image["sizey"])) - top)
        self.out.append(
            f'<image x="{left:.1f}" y="{top:.1f}" width="{w:.1f}" height="{h:.1f}" preserveAspectRatio="none" '
            f'href="{html.escape(image["source"])}"/>'
        )

    def _color_bar(self, name: str) -> None:
        bar, (low, high, scale) = self.bar_of(name), self.scale_of(name)
        flat, long = bar.get("orientation") == "h", bar.get("len") or 1.0
        tall = self.foot - self.top
        if flat:
            x, y = self.left + self.plot * (bar["x"] - long / 2), self.foot - tall * bar["y"]
            size = self.plot * long
        else:
            x, size = self.width - self.right + 8, min(tall * long, tall)
            y = self.foot - tall * (bar.get("y") if bar.get("y") is not None else 0.5)
            y += {"top": 0, "bottom": -size}.get(bar.get("yanchor"), -size / 2)
        step = size / 20
        for i in range(20):
            at = (i + 0.5) / 20
            place = f'x="{x + i * step:.1f}" y="{y:.1f}" width="{step + 0.3:.1f}" height="10"'
            if not flat:
                place = f'x="{x:.1f}" y="{y + (19 - i) * step:.1f}" width="11" height="{step + 0.3:.1f}"'
            self.out.append(f"<rect {place} {paint(at, scale)}/>")
        marks, names = bar.get("tickvals"), bar.get("ticktext")
        marks = [low, (low + high) / 2, high] if marks is None else marks
        for i, mark in enumerate(marks):
            shown = names[i] if names is not None else f"{mark:.3g}".replace("-", "−")
            at = (mark - low) / (high - low)
            if 0 <= at <= 1:
                if flat:
                    self.text(x + size * at, y + 23, shown, ("start", "middle", "end")[round(2 * at)], css="soft")
                else:
                    self.text(x + 16, y + size * (1 - at) + 4, shown, "start", css="soft")
        if title := title_of(bar):
            if flat:
                self.text(x + size / 2, y + 38, title)
            else:
                right, middle = self.width - 10, y + size / 2
                self.text(right, middle, title, more=f' transform="rotate(90 {right:.1f} {middle:.1f})"')

    def _legend(self) -> None:
        above = (self.layout.get("legend") or {}).get("y", -0.1) >= 0.5
        for trace, x, row in self.keys:
            left = self.left + x if not above else 10 + x
            y = 14 + 19 * row if above else self.height - self.bottom_of_keys + 14 + 19 * row
            marker, line = trace.get("marker") or {}, trace.get("line") or {}
            color = (
                entry(marker.get("color"), 0) or line.get("color") or self.turn_of(self.traces[trace["_members"][0]])
            )
            self.out.append(f'<g data-key="{" ".join(map(str, trace["_members"]))}">')
            if trace["type"] == "bar":
                look = f'width="13" height="11" fill="{color}" fill-opacity="{marker.get("opacity", 1)}"'
                self.out.append(f'<rect x="{left:.1f}" y="{y - 10:.1f}" {look}/>')
            else:
                if "lines" in (trace.get("mode") or "lines"):
                    self.line(
                        left - 3,
                        y - 4,
                        left + 16,
                        y - 4,
                        f'stroke="{line.get("color") or color}" stroke-width="2"{dashes(line)}',
                    )
                if "markers" in (trace.get("mode") or "markers"):
                    look, shape = self.symbol(marker, 0, left + 6, y - 4, color)
                    self.out.append(f"<g {look}>{shape}</g>")
            self.text(left + 20, y, plain_text(trace["name"]), "start")
            self.out.append("</g>")

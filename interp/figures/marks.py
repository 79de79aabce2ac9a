"""The marks of a figure that is drawn as SVG: cells, bars, lines, points, intervals, names."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from interp.figures.axes import Axis, name_at, spacing
from interp.figures.layout import Layout
from interp.figures.painting import LINE, cell_of, dashes, entry, formatted, lines_of, paint, text_width
from interp.figures.style import POSITIVE

_PATHS = {  # of a symbol with radius 1
    "square": "M-.85-.85H.85V.85H-.85Z",
    "diamond": "M0-1.2 1.2 0 0 1.2-1.2 0Z",
    "triangle-up": "M0-1.1 1 .8H-1Z",
    "triangle-down": "M0 1.1 1-.8H-1Z",
    "cross": "M-.35-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
    "x": "M-.8-.8 .8 .8M-.8 .8 .8-.8",
    "star": "M0-1.2 .35-.4 1.2-.35 .55.2 .75 1 0 .55-.75 1-.55.2-1.2-.35-.35-.4Z",
    "arrow": "M-1.6-.9 0 0-1.6.9Z",
}


class Marks(Layout):
    """A layout with what has been drawn on it. tips: texts that a pointer shows -> their numbers."""

    def __init__(self, parts: Mapping[str, Any], width: int, tips: dict[str, int]) -> None:
        super().__init__(parts, width)
        self.tips = tips
        self.out: list[str] = []

    def mark(self, trace: Mapping[str, Any]) -> None:
        """Draw a trace."""
        getattr(self, f"_{trace['type']}")(trace)

    def text(self, x: float, y: float, given: Any, anchor: str = "middle", more: str = "", css: str = "") -> None:
        lines = lines_of(given)
        start = f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}{css and f" class={css!r}"}>'
        if len(lines) == 1:
            self.out.append(f"{start}{html.escape(lines[0])}</text>")
            return
        rows = (
            f'<tspan x="{x:.1f}" dy="{LINE if i else 0}">{html.escape(line)}</tspan>' for i, line in enumerate(lines)
        )
        self.out.append(f"{start}{''.join(rows)}</text>")

    def line(self, x1: float, y1: float, x2: float, y2: float, look: str) -> None:
        self.out.append(f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" {look}/>')

    def _heatmap(self, trace: Mapping[str, Any]) -> None:
        x, y = self.axis(trace, "x"), self.axis(trace, "y")
        z = np.asarray(trace["z"], float)
        paint = self._painter(trace, z)
        w = abs(float(x.at(1) - x.at(0))) * spacing(trace["_x"])
        h = abs(float(y.at(1) - y.at(0))) * spacing(trace["_y"])
        gap = min(float(trace.get("xgap") or 0), w / 4)
        written = trace.get("texttemplate")
        for (i, j), value in np.ndenumerate(z):
            if not math.isfinite(value):
                continue
            left, top = float(x.at(trace["_x"][j])) - w / 2, float(y.at(trace["_y"][i])) - h / 2
            tip = self._tip(trace, (i, j), name_at(x, trace["_x"][j]), name_at(y, trace["_y"][i]), value)
            size = f'x="{left + gap / 2:.1f}" y="{top + gap / 2:.1f}" width="{w - gap:.1f}" height="{h - gap:.1f}"'
            self.out.append(f"<rect {size} {paint(value)}{tip}/>")
            if written:
                shown = cell_of(trace.get("text"), (i, j))
                self.text(left + w / 2, top + h / 2 + 4, f"{shown:.2f}" if isinstance(shown, float) else shown)

    def _contour(self, trace: Mapping[str, Any]) -> None:
        """The edge of what lies above the first level."""
        x, y = self.axis(trace, "x"), self.axis(trace, "y")
        above = np.pad(np.asarray(trace["z"], float) > trace["contours"]["start"], 1)
        path = []
        for across, (first, second) in ((True, (x, y)), (False, (y, x))):
            inside = above if across else above.T  # [along the second axis, along the first]
            for i, j in np.argwhere(inside[1:] != inside[:-1]):  # an edge between the rows i and i + 1
                at = float(second.at(trace[f"_{second.name[0]}"][0] + i - 0.5))
                ends = [float(first.at(trace[f"_{first.name[0]}"][0] + j - 1 + end)) for end in (-0.5, 0.5)]
                points = [(end, at) if across else (at, end) for end in ends]
                path.append("M{0[0]:.1f} {0[1]:.1f}L{1[0]:.1f} {1[1]:.1f}".format(*points))
        line = trace.get("line") or {}
        stroke = f'stroke="{line.get("color", "#888")}" stroke-width="{line.get("width", 2)}"'
        self.out.append(f'<path d="{"".join(path)}" fill="none" {stroke}/>')

    def _bar(self, trace: Mapping[str, Any]) -> None:
        x, y = self.axis(trace, "x"), self.axis(trace, "y")
        long, wide = (x, y) if self.along(trace) == "x" else (y, x)
        groups = self.bars[x.name, y.name]
        span = abs(float(wide.at(1) - wide.at(0))) * (1 - (self.layout.get("bargap") or 0.2))
        thick = span / max(1, len(groups))
        shift = (groups.index(trace.get("offsetgroup", "")) - (len(groups) - 1) / 2) * thick
        base, marker, ends = (
            float(trace.get("base") or 0.0),
            trace.get("marker") or {},
            self.ends_of(trace, long.name[0]),
        )
        for i, (at, value) in enumerate(zip(trace[f"_{wide.name[0]}"], trace[f"_{long.name[0]}"], strict=True)):
            middle = float(wide.at(at)) + shift
            here, there = sorted((float(long.at(base)), float(long.at(base + value))))
            color = entry(marker.get("color"), i) or POSITIVE
            sides = (here, middle - thick * 0.46, there - here, thick * 0.92)
            if long is y:
                sides = (sides[1], sides[0], sides[3], sides[2])
            size = 'x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"'.format(*sides)
            tip = self._tip(trace, i, *((value, name_at(wide, at)) if long is x else (name_at(wide, at), value)))
            if math.isfinite(value):
                self.out.append(f'<rect {size} fill="{color}" fill-opacity="{marker.get("opacity", 1)}"{tip}/>')
            if ends:
                self._whisker(long, middle, ends[0][i] + base, ends[1][i] + base, trace[f"error_{long.name[0]}"])
            if shown := entry(trace.get("text"), i):
                edge = float(long.at(base + value)) if math.isfinite(value) else float(long.at(base))
                self.text(
                    *((edge + 4, middle + 4) if long is x else (middle, edge - 4)),
                    shown,
                    "start" if long is x else "middle",
                )

    def _whisker(self, along: Axis, across: float, low: float, high: float, look: Mapping[str, Any]) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):
            return
        low, high = np.clip([low, high], *sorted((along.low, along.high)))
        a, b, cap = float(along.at(low)), float(along.at(high)), float(look.get("width") or 3)
        points = ((a, -cap, a, cap), (a, 0, b, 0), (b, -cap, b, cap))
        path = "".join(
            f"M{p:.1f} {across + q:.1f}L{r:.1f} {across + s:.1f}"
            if along.is_x
            else f"M{across + q:.1f} {p:.1f}L{across + s:.1f} {r:.1f}"
            for p, q, r, s in points
        )
        stroke = f'stroke="{look.get("color") or "#888"}" stroke-width="{look.get("thickness") or 1.5}"'
        self.out.append(f'<path d="{path}" fill="none" {stroke}/>')

    def _scatter(self, trace: Mapping[str, Any]) -> None:
        x, y = self.axis(trace, "x"), self.axis(trace, "y")
        xs, ys = x.at(trace["_x"]), y.at(trace["_y"])
        mode, line, marker = trace.get("mode") or "lines+markers", trace.get("line") or {}, trace.get("marker") or {}
        color = line.get("color") or entry(marker.get("color"), 0) or self.turn_of(trace)
        if "lines" in mode and trace.get("fill") == "toself":
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True) if math.isfinite(a + b))
            self.out.append(f'<polygon points="{points}" fill="{trace.get("fillcolor", color)}"/>')
        elif "lines" in mode:
            path, pen = [], "M"
            for a, b in zip(xs, ys, strict=True):
                path += [f"{pen}{a:.1f} {b:.1f}"] * math.isfinite(a + b)
                pen = "L" if math.isfinite(a + b) else "M"
            stroke = f'stroke="{color}" stroke-width="{line.get("width", 2)}"{dashes(line)}'
            self.out.append(f'<path d="{"".join(path)}" fill="none" {stroke}/>')
        for key, along, places in (("x", x, ys), ("y", y, xs)):
            if ends := self.ends_of(trace, key):
                for low, high, across in zip(*ends, places, strict=True):
                    self._whisker(along, float(across), low, high, {"color": color, **(trace[f"error_{key}"])})
        inside = [x.holds(a) and y.holds(b) for a, b in zip(trace["_x"], trace["_y"], strict=True)]
        if "markers" in mode:
            found = []
            for i, (a, b) in enumerate(zip(xs, ys, strict=True)):
                if inside[i] and math.isfinite(a + b):
                    tip = self._tip(trace, i, name_at(x, trace["_x"][i]), name_at(y, trace["_y"][i]))
                    found.append(self.symbol(marker, i, float(a), float(b), color, tip, (xs, ys)))
            for look, shapes in groupby(found, key=lambda shape: shape[0]):
                self.out.append(f"<g {look}>{''.join(shape for _, shape in shapes)}</g>")
        if "text" in mode:
            self._names(trace, xs, ys, inside)

    def symbol(
        self, marker: Mapping[str, Any], i: int, x: float, y: float, color: str, tip: str = "", line: Any = None
    ) -> tuple[str, str]:
        """How a mark looks, and its shape. line: of the points, for an arrow that points along it."""
        name, size = str(entry(marker.get("symbol"), i) or "circle"), float(entry(marker.get("size"), i) or 6) / 2
        color, is_open = entry(marker.get("color"), i) or color, name.endswith("-open") or name == "x"
        look = f'fill="{color}"'
        if is_open:
            width = (marker.get("line") or {}).get("width", 1.5)
            look = f'fill="none" stroke="{color}" stroke-width="{width}" pointer-events="all"'
        elif marker.get("opacity") is not None:
            look += f' fill-opacity="{marker["opacity"]}"'
        path = _PATHS.get(name.removesuffix("-open"))
        if path is None:
            return look, f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"{tip}/>'
        turn = ""
        if name == "arrow" and i:
            turn = f" rotate({math.degrees(math.atan2(y - float(line[1][i - 1]), x - float(line[0][i - 1]))):.0f})"
        place = f'transform="translate({x:.1f} {y:.1f}){turn} scale({size:g})"'
        return look, f'<path {place} d="{path}" vector-effect="non-scaling-stroke"{tip}/>'

    def _names(self, trace: Mapping[str, Any], xs: np.ndarray, ys: np.ndarray, inside: Sequence[bool]) -> None:
        """Texts beside points, where each finds room; a name that would cover another is left to the pointer."""
        taken: list[tuple[float, float, float, float]] = []
        for i, (a, b) in enumerate(zip(xs, ys, strict=True)):
            shown, wanted = entry(trace.get("text"), i), str(entry(trace.get("textposition"), i) or "middle right")
            if not shown or not inside[i]:
                continue
            wide = text_width(str(shown))
            for place in dict.fromkeys((wanted, "top right", "bottom left", "top left", "bottom right")):
                side = -1 if "left" in place else 1 if "right" in place else 0
                up = -1 if "top" in place else 1 if "bottom" in place else 0
                x, y = float(a) + 7 * side, float(b) + 4 + 11 * up
                left = x - wide * (side < 0) - wide / 2 * (side == 0)
                box = (left, y - 11, left + wide, y + 3)
                free = all(box[2] < t[0] or box[0] > t[2] or box[3] < t[1] or box[1] > t[3] for t in taken)
                if free and left >= 0 and box[2] <= self.width:
                    taken.append(box)
                    self.text(x, y, shown, ("middle", "start", "end")[side])
                    break

    def _tip(self, trace: Mapping[str, Any], i: Any, x: Any, y: Any, z: Any = None) -> str:
        """The attribute that leads to what a pointer shows."""
        if trace.get("hoverinfo") == "skip":
            return ""
        told, template = {"x": x, "y": y, "z": z}, trace.get("hovertemplate")
        for key in ("text", "hovertext", "customdata"):
            told[key] = cell_of(trace.get(key), i)
        name = trace.get("name") or ""
        if template is None:
            template = "<br>".join(filter(None, [name, str(told["text"] or ""), "%{x:.4g}: %{y:.4g}"]))
        main, _, extra = str(entry(template, i)).partition("<extra>")
        shown = _filled(main, told)
        if other := extra.removesuffix("</extra>"):
            shown = f"{_filled(other, told)}<br>{shown}"
        text = "\n".join(lines_of(shown))
        return f' data-tip="{self.tips.setdefault(text, len(self.tips))}"'

    def _painter(self, trace: Mapping[str, Any], z: np.ndarray) -> Any:
        low, high, scale = self.scale_of(trace.get("coloraxis"), z)
        return lambda value: paint((value - low) / (high - low), scale)


def _filled(template: str, told: Mapping[str, Any]) -> str:
    """Plotly's template with its values, such as ``%{z:.3g}`` and ``%{customdata[0]}``."""

    def value(found: re.Match[str]) -> str:
        given = told.get(found[1])
        return formatted(given[int(found[2])] if found[2] and given is not None else given, found[3])

    return re.sub(r"%\{(\w+)(?:\[(\d+)\])?(?::([^}]*))?\}", value, template)

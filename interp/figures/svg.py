"""A plotly figure as static SVG: no script, no browser, a hundredth of plotly.js; it opens from disk and prints.

What the figures of this package are made of is drawn: heatmaps, bars, lines, bands, points with intervals, pictures,
panels, legends and colour bars. What a pointer shows becomes a number in ``data-tip``, an index into a list that all
figures of a page share. Colours are classes and variables of :func:`stylesheet`, so a figure follows the page into the
dark. :func:`draw` refuses other traces by name.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.figures.axes import Axis, name_at, silent_ticks, spacing
from interp.figures.painting import (
    CHAR,
    LINE,
    are_numbers,
    cell_of,
    dashes,
    decoded,
    entry,
    formatted,
    lines_of,
    paint,
    plain_text,
    short_text,
    stylesheet as stylesheet,
    text_width,
    title_of,
)
from interp.figures.style import POSITIVE, TEMPLATES

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


class _Drawing:
    def __init__(self, parts: Mapping[str, Any], width: int, tips: dict[str, int]) -> None:
        self.layout, self.tips, self.width = dict(parts["layout"]), tips, width
        self.height = float(self.layout.get("height") or 450)
        self.traces = [t for t in parts["data"] if t.get("visible", True) is True]
        if unknown := {t["type"] for t in self.traces} - {"heatmap", "bar", "scatter"}:
            raise ValueError(f"traces of kind {sorted(unknown)} are not drawn as SVG; expected heatmap, bar, scatter.")
        names = {letter + re.sub(r"\D", "", t.get(f"{letter}axis") or "") for t in self.traces for letter in "xy"}
        names |= {f"{k[0]}{k[5:]}" for k in self.layout if re.fullmatch(r"[xy]axis\d*", k)} if self.traces else set()
        self.axes = {name: Axis(name, self.layout.get(f"{name[0]}axis{name[1:]}") or {}) for name in sorted(names)}
        self.shapes, self.notes = self.layout.get("shapes") or (), self.layout.get("annotations") or ()
        self.out: list[str] = []
        self._read()
        self._lay_out()

    # ---- axes
    def axis(self, trace: Mapping[str, Any], letter: str) -> Axis:
        return self.axes[letter + re.sub(r"\D", "", trace.get(f"{letter}axis") or "")]

    def _read(self) -> None:
        """Every value as a number on its axis, and the range of each axis."""
        scatters, self.bars = set(), {}
        for trace in self.traces:
            x, y = self.axis(trace, "x"), self.axis(trace, "y")
            if trace["type"] == "heatmap":
                rows, columns = np.shape(trace["z"])
                trace["_x"] = x.values(trace["x"]) if trace.get("x") is not None else np.arange(columns, dtype=float)
                trace["_y"] = y.values(trace["y"]) if trace.get("y") is not None else np.arange(rows, dtype=float)
                for axis, values in ((x, trace["_x"]), (y, trace["_y"])):
                    axis.reach(values, 0.5 * spacing(values))
                continue
            for axis, key in ((x, "x"), (y, "y")):
                other = trace.get("y" if key == "x" else "x")
                given = trace.get(key) if trace.get(key) is not None else np.arange(len(other), dtype=float)
                trace[f"_{key}"] = axis.values(given)
            if trace["type"] == "scatter":
                scatters |= {x.name, y.name} if "markers" in (trace.get("mode") or "markers") else {y.name}
            for axis, key in ((x, "x"), (y, "y")):
                ends, is_length = self._error(trace, key), trace["type"] == "bar" and key == self._along(trace)
                base = float(trace.get("base") or 0.0) if is_length else 0.0
                axis.reach([base] * is_length)
                axis.reach(trace[f"_{key}"] + base, 0.5 * (trace["type"] == "bar" and not is_length))
                for end in ends:
                    axis.reach(end + base)
                scatters |= {axis.name} if is_length else set()
            if trace["type"] == "bar":
                groups = self.bars.setdefault((x.name, y.name), [])
                groups += [trace.get("offsetgroup", "")] * (trace.get("offsetgroup", "") not in groups)
        for axis in self.axes.values():
            root = self._root(axis)
            if root is not axis:
                root.reach([axis.low, axis.high])
                root.categories += [c for c in axis.categories if c not in root.categories]
                scatters |= {root.name} if axis.name in scatters else set()
        for axis in sorted(self.axes.values(), key=lambda a: self._root(a) is not a):
            root = self._root(axis)
            if root is not axis:
                axis.low, axis.high, axis.categories = root.low, root.high, root.categories
            else:
                axis.settle(axis.name in scatters)

    def _root(self, axis: Axis) -> Axis:
        """The axis whose range this one has, maybe itself."""
        seen = {axis.name}
        while (name := axis.given.get("matches")) in self.axes and name not in seen:
            axis = self.axes[name]
            seen.add(axis.name)
        return min((self.axes[name] for name in seen), key=lambda a: (len(a.name), a.name)) if len(seen) > 1 else axis

    @staticmethod
    def _along(trace: Mapping[str, Any]) -> str:
        """The direction in which a bar is long."""
        return "x" if trace.get("orientation") == "h" else "y"

    @staticmethod
    def _error(trace: Mapping[str, Any], key: str) -> list[np.ndarray]:
        """Ends of the intervals along an axis, low and high; none where there are none."""
        bars = trace.get(f"error_{key}") or {}
        if bars.get("array") is None:
            return []
        up = np.asarray(bars["array"], float)
        down = np.asarray(bars["arrayminus"], float) if bars.get("arrayminus") is not None else up
        return [trace[f"_{key}"] - down, trace[f"_{key}"] + up]

    def _lay_out(self) -> None:
        """Margins for what stands around the panels, and the pixels of every axis."""
        keys, self.keys = self._keys(), []
        room, x, row = self.width - 20, 0.0, 0
        for key in keys:
            wide = 36 + 1.1 * CHAR * len(plain_text(key.get("name")))
            if x and x + wide > room:
                x, row = 0.0, row + 1
            self.keys.append((key, x, row))
            x += wide
        tall = (row + 1) * 19 + 4 if keys else 0
        above = (self.layout.get("legend") or {}).get("y", -0.1) >= 0.5
        heads = [len(lines_of(n.get("text"))) for n in self.notes if n.get("yref") == "paper" and n.get("y", 0) > 0.98]
        self.top = 10 + tall * above + LINE * max(heads, default=0)
        self.bottom_of_keys = tall * (not above)
        for _ in range(2):  # which labels there are depends on the room that they leave
            self._fit()

    def _fit(self) -> None:
        """Room for labels, and the pixels of every axis."""
        xs, ys = [[a for a in self.axes.values() if a.is_x == which] for which in (True, False)]
        self.left = max([self._label_room(a) for a in ys if self._first(a)], default=0) + 8
        bars = [self._bar(name) for name in self._coloraxes()]
        self.right = max([62 + 18 * bool(title_of(b)) for b in bars if b.get("orientation") != "h"], default=0) + 14
        plot = self.width - self.left - self.right
        for axis in xs:
            axis.start, axis.end = (self.left + plot * end for end in axis.domain)
        flat = max([54 for b in bars if b.get("orientation") == "h"], default=0)
        low = max([self._label_room(a) for a in xs if self._first(a)], default=0) + 8 + flat + self.bottom_of_keys
        self.foot, self.plot = self.height - low, plot
        if self.foot - self.top < 90:  # labels took the room: the figure grows
            self.height += 90 - (self.foot - self.top)
            self.foot = self.top + 90
        for axis in ys:
            axis.start, axis.end = (self.foot - (self.foot - self.top) * end for end in axis.domain)

    def _first(self, axis: Axis) -> bool:
        """Whether the labels of an axis stand outside all panels: at the left, or at the bottom."""
        across = self.axes.get(axis.given.get("anchor") or ("y" if axis.is_x else "x"))
        return across is None or across.domain[0] < 0.02

    def _label_room(self, axis: Axis) -> float:
        """Pixels that labels and title take beside the panel."""
        names = [name for _, name in axis.ticks()]
        title = 20 + LINE * (len(lines_of(title_of(axis.given))) - 1) if title_of(axis.given) else 0
        longest = max((text_width(name) for name in names), default=0)
        if not axis.is_x:
            return longest + 8 + title
        if self._slant(axis, names):
            return min(150, 0.72 * longest + 10) + title
        return LINE * max((len(lines_of(name)) for name in names), default=0) + 6 + title

    def _slant(self, axis: Axis, names: Sequence[str]) -> bool:
        """Whether labels of an axis would run into each other if they stood upright."""
        if axis.given.get("tickangle") is not None:
            return bool(axis.given["tickangle"])
        apart = abs(axis.end - axis.start) if axis.end > 1 else self.width * (axis.domain[1] - axis.domain[0]) * 0.85
        return len(names) > 1 and max(map(text_width, names)) + 6 > apart / len(names) and not are_numbers(names)

    # ---- drawing
    def svg(self, said: str) -> str:
        for axis in self.axes.values():
            self._draw_axis(axis)
        for image in self.layout.get("images") or ():
            self._image(image)
        for shape in self.shapes:
            self._shape(shape)
        for number, trace in enumerate(self.traces):
            self.out.append(f'<g data-trace="{number}">')
            getattr(self, f"_{trace['type']}")(trace)
            self.out.append("</g>")
        for note in self.notes:
            self._note(note)
        for name in self._coloraxes():
            self._color_bar(name)
        self._legend()
        label = f' role="img" aria-label="{html.escape(said)}"' if said else ' role="img"'
        size = f'viewBox="0 0 {self.width} {self.height:.0f}" width="{self.width}" height="{self.height:.0f}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" {size}{label}>{"".join(self.out)}</svg>'

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
        slanted = axis.is_x and self._slant(axis, names)
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
            room = self._label_room(axis)
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

    def _bar(self, *given: Any) -> Any:
        """A trace of bars; of the name of a colour axis, its colour bar."""
        if isinstance(given[0], str):
            return (self.layout.get(given[0]) or {}).get("colorbar") or {}
        trace = given[0]
        x, y = self.axis(trace, "x"), self.axis(trace, "y")
        long, wide = (x, y) if self._along(trace) == "x" else (y, x)
        groups = self.bars[x.name, y.name]
        span = abs(float(wide.at(1) - wide.at(0))) * (1 - (self.layout.get("bargap") or 0.2))
        thick = span / max(1, len(groups))
        shift = (groups.index(trace.get("offsetgroup", "")) - (len(groups) - 1) / 2) * thick
        base, marker, ends = (
            float(trace.get("base") or 0.0),
            trace.get("marker") or {},
            self._error(trace, long.name[0]),
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
        color = line.get("color") or entry(marker.get("color"), 0) or self._turn(trace)
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
            if ends := self._error(trace, key):
                for low, high, across in zip(*ends, places, strict=True):
                    self._whisker(along, float(across), low, high, {"color": color, **(trace[f"error_{key}"])})
        inside = [x.holds(a) and y.holds(b) for a, b in zip(trace["_x"], trace["_y"], strict=True)]
        if "markers" in mode:
            found = []
            for i, (a, b) in enumerate(zip(xs, ys, strict=True)):
                if inside[i] and math.isfinite(a + b):
                    tip = self._tip(trace, i, name_at(x, trace["_x"][i]), name_at(y, trace["_y"][i]))
                    found.append(self._symbol(marker, i, float(a), float(b), color, tip, (xs, ys)))
            for look, shapes in groupby(found, key=lambda shape: shape[0]):
                self.out.append(f"<g {look}>{''.join(shape for _, shape in shapes)}</g>")
        if "text" in mode:
            self._names(trace, xs, ys, inside)

    def _symbol(
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
        shown = re.sub(r"%\{(\w+)(?::([^}]*))?\}", lambda m: formatted(told.get(m[1]), m[2]), main)
        if other := extra.removesuffix("</extra>"):
            other = re.sub(r"%\{(\w+)(?::([^}]*))?\}", lambda m: formatted(told.get(m[1]), m[2]), other)
            shown = f"{other}<br>{shown}"
        text = "\n".join(lines_of(shown))
        return f' data-tip="{self.tips.setdefault(text, len(self.tips))}"'

    # ---- colours, legend
    def _turn(self, trace: Mapping[str, Any]) -> str:
        ways = TEMPLATES["any"].layout.colorway
        return ways[self.traces.index(trace) % len(ways)]

    def _coloraxes(self) -> list[str]:
        named = [t.get("coloraxis") for t in self.traces if t["type"] == "heatmap" and t.get("coloraxis")]
        return [n for n in dict.fromkeys(named) if (self.layout.get(n) or {}).get("showscale") is not False]

    def _scale(self, name: str | None, z: Any = None) -> tuple[float, float, Any]:
        given = self.layout.get(name or "") or {}
        low, high = given.get("cmin"), given.get("cmax")
        if low is None or high is None:
            everything = [
                np.asarray(t["z"], float).ravel()
                for t in self.traces
                if t["type"] == "heatmap" and t.get("coloraxis") == name
            ]
            values = np.concatenate(everything or [np.asarray(z, float).ravel()])
            low, high = float(np.nanmin(values)), float(np.nanmax(values))
        return float(low), float(high) if high > low else float(low) + 1.0, given.get("colorscale")

    def _painter(self, trace: Mapping[str, Any], z: np.ndarray) -> Any:
        low, high, scale = self._scale(trace.get("coloraxis"), z)
        return lambda value: paint((value - low) / (high - low), scale)

    def _color_bar(self, name: str) -> None:
        bar, (low, high, scale) = self._bar(name), self._scale(name)
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

    def _keys(self) -> list[dict[str, Any]]:
        """The traces that stand in the legend: one of each group."""
        shown, groups = [], set()
        wanted = self.layout.get("showlegend")
        for number, trace in enumerate(self.traces):
            group, is_on = trace.get("legendgroup") or str(number), trace.get("showlegend")
            is_on = (len(self.traces) > 1 if wanted is None else wanted) if is_on is None else is_on
            if (
                is_on
                and wanted is not False
                and trace.get("name")
                and group not in groups
                and trace["type"] != "heatmap"
            ):
                groups.add(group)
                members = [i for i, t in enumerate(self.traces) if (t.get("legendgroup") or str(i)) == group]
                shown.append({**trace, "_members": members})
        return shown

    def _legend(self) -> None:
        above = (self.layout.get("legend") or {}).get("y", -0.1) >= 0.5
        for trace, x, row in self.keys:
            left = self.left + x if not above else 10 + x
            y = 14 + 19 * row if above else self.height - self.bottom_of_keys + 14 + 19 * row
            marker, line = trace.get("marker") or {}, trace.get("line") or {}
            color = entry(marker.get("color"), 0) or line.get("color") or self._turn(self.traces[trace["_members"][0]])
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
                    look, shape = self._symbol(marker, 0, left + 6, y - 4, color)
                    self.out.append(f"<g {look}>{shape}</g>")
            self.text(left + 20, y, plain_text(trace["name"]), "start")
            self.out.append("</g>")

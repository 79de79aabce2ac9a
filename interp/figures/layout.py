"""Where the parts of a figure that is drawn as SVG stand: axes, panels, margins, legend."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.figures.axes import Axis, spacing
from interp.figures.painting import CHAR, LINE, are_numbers, lines_of, plain_text, text_width, title_of
from interp.figures.style import TEMPLATES

KINDS = ("bar", "contour", "heatmap", "scatter")
"""The traces that are drawn; of a contour the line at its first level."""


class Layout:
    """The axes of a figure with their ranges and pixels, and room for what stands around the panels.

    parts: plotly's, decoded. width: in pixels.
    """

    def __init__(self, parts: Mapping[str, Any], width: int) -> None:
        self.layout, self.width = dict(parts["layout"]), width
        self.height = float(self.layout.get("height") or 450)
        self.traces = [t for t in parts["data"] if t.get("visible", True) is True]
        if unknown := {t["type"] for t in self.traces} - set(KINDS):
            raise ValueError(f"traces of kind {sorted(unknown)} are not drawn as SVG; expected {', '.join(KINDS)}.")
        names = {letter + re.sub(r"\D", "", t.get(f"{letter}axis") or "") for t in self.traces for letter in "xy"}
        names |= {f"{k[0]}{k[5:]}" for k in self.layout if re.fullmatch(r"[xy]axis\d*", k)} if self.traces else set()
        self.axes = {name: Axis(name, self.layout.get(f"{name[0]}axis{name[1:]}") or {}) for name in sorted(names)}
        self.shapes, self.notes = self.layout.get("shapes") or (), self.layout.get("annotations") or ()
        self._read()
        self._lay_out()

    def axis(self, trace: Mapping[str, Any], letter: str) -> Axis:
        return self.axes[letter + re.sub(r"\D", "", trace.get(f"{letter}axis") or "")]

    def _read(self) -> None:
        """Every value as a number on its axis, and the range of each axis."""
        scatters, self.bars = set(), {}
        for trace in self.traces:
            x, y = self.axis(trace, "x"), self.axis(trace, "y")
            if trace["type"] in ("heatmap", "contour"):
                rows, columns = np.shape(trace["z"])
                trace["_x"] = x.values(trace["x"]) if trace.get("x") is not None else np.arange(columns, dtype=float)
                trace["_y"] = y.values(trace["y"]) if trace.get("y") is not None else np.arange(rows, dtype=float)
                for key, n in (("x", columns), ("y", rows)):
                    places = trace[f"_{key}"] + (trace.get(f"{key}0") or 0.0)
                    trace[f"_{key}"] = (places[1:] + places[:-1]) / 2 if len(places) == n + 1 else places  # their edges
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
                ends, is_length = self.ends_of(trace, key), trace["type"] == "bar" and key == self.along(trace)
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
    def along(trace: Mapping[str, Any]) -> str:
        """The direction in which a bar is long."""
        return "x" if trace.get("orientation") == "h" else "y"

    @staticmethod
    def ends_of(trace: Mapping[str, Any], key: str) -> list[np.ndarray]:
        """Ends of the intervals along an axis, low and high; none where there are none."""
        bars = trace.get(f"error_{key}") or {}
        if bars.get("array") is None:
            return []
        up = np.asarray(bars["array"], float)
        down = np.asarray(bars["arrayminus"], float) if bars.get("arrayminus") is not None else up
        return [trace[f"_{key}"] - down, trace[f"_{key}"] + up]

    def _lay_out(self) -> None:
        """Margins for what stands around the panels, and the pixels of every axis."""
        keys, self.keys = self.keys_of(), []
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
        self.left = max([self.label_room(a) for a in ys if self.is_outside(a)], default=0) + 8
        bars = [self.bar_of(name) for name in self.coloraxes()]
        self.right = max([62 + 18 * bool(title_of(b)) for b in bars if b.get("orientation") != "h"], default=0) + 14
        plot = self.width - self.left - self.right
        for axis in xs:
            axis.start, axis.end = (self.left + plot * end for end in axis.domain)
        flat = max([54 for b in bars if b.get("orientation") == "h"], default=0)
        low = max([self.label_room(a) for a in xs if self.is_outside(a)], default=0) + 8 + flat + self.bottom_of_keys
        self.foot, self.plot = self.height - low, plot
        if self.foot - self.top < 90:  # labels took the room: the figure grows
            self.height += 90 - (self.foot - self.top)
            self.foot = self.top + 90
        for axis in ys:
            axis.start, axis.end = (self.foot - (self.foot - self.top) * end for end in axis.domain)
            across = self.axes.get(axis.given.get("scaleanchor") or "")
            if across is not None:  # a picture keeps its shape
                pixels = [abs((a.end - a.start) / (a.high - a.low)) for a in (axis, across)]
                for a, now in zip((axis, across), pixels, strict=True):
                    middle, share = (a.start + a.end) / 2, min(pixels) / now
                    a.start, a.end = (middle + (end - middle) * share for end in (a.start, a.end))

    def is_outside(self, axis: Axis) -> bool:
        """Whether the labels of an axis stand outside all panels: at the left, or at the bottom."""
        across = self.axes.get(axis.given.get("anchor") or ("y" if axis.is_x else "x"))
        return across is None or across.domain[0] < 0.02

    def label_room(self, axis: Axis) -> float:
        """Pixels that labels and title take beside the panel."""
        names = [name for _, name in axis.ticks()]
        title = 20 + LINE * (len(lines_of(title_of(axis.given))) - 1) if title_of(axis.given) else 0
        longest = max((text_width(name) for name in names), default=0)
        if not axis.is_x:
            return longest + 8 + title
        if self.slants(axis, names):
            return min(150, 0.72 * longest + 10) + title
        return LINE * max((len(lines_of(name)) for name in names), default=0) + 6 + title

    def slants(self, axis: Axis, names: Sequence[str]) -> bool:
        """Whether labels of an axis would run into each other if they stood upright."""
        if axis.given.get("tickangle") is not None:
            return bool(axis.given["tickangle"])
        apart = abs(axis.end - axis.start) if axis.end > 1 else self.width * (axis.domain[1] - axis.domain[0]) * 0.85
        return len(names) > 1 and max(map(text_width, names)) + 6 > apart / len(names) and not are_numbers(names)

    def turn_of(self, trace: Mapping[str, Any]) -> str:
        ways = TEMPLATES["any"].layout.colorway
        return ways[self.traces.index(trace) % len(ways)]

    def coloraxes(self) -> list[str]:
        named = [t.get("coloraxis") for t in self.traces if t["type"] == "heatmap" and t.get("coloraxis")]
        return [n for n in dict.fromkeys(named) if (self.layout.get(n) or {}).get("showscale") is not False]

    def scale_of(self, name: str | None, z: Any = None) -> tuple[float, float, Any]:
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

    def keys_of(self) -> list[dict[str, Any]]:
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

    def bar_of(self, name: str) -> Mapping[str, Any]:
        """The colour bar of a colour axis."""
        return (self.layout.get(name) or {}).get("colorbar") or {}

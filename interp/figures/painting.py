"""Colours and texts of a figure that is drawn as SVG, read as plotly means them."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from plotly.colors import find_intermediate_color, hex_to_rgb, label_rgb

from interp.figures.style import TEMPLATES

CHAR, LINE = 6.4, 15.0  # pixels of a letter and of a line of 12 pixel text
_STEPS = 40  # shades of a colour scale
_DASHES = {"dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "11 4"}


def stylesheet() -> str:
    """CSS of the figures; the page gives ``--ink``, ``--soft`` and ``--line``, and is dark where its reader's is."""
    shades = {name: _shades(TEMPLATES[name].layout.coloraxis.colorscale) for name in ("light", "dark")}
    light, dark = ("".join(f".q{i}{{fill:{color}}}" for i, color in enumerate(found)) for found in shades.values())
    return (
        ".plot{font:12px var(--sans,system-ui,sans-serif);max-width:100%;height:auto;display:block}"
        ".plot text{fill:var(--ink,#24292f)}.plot .soft{fill:var(--soft,#59636e)}"
        ".plot .grid{stroke:var(--line,#d9dee4);fill:none}.plot .zero{stroke:var(--soft,#8b929b);fill:none}"
        ".plot [data-tip]:hover{filter:brightness(1.15)}.plot [data-key]{cursor:pointer}"
        f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}"
    )


def _shades(scale: Sequence[Any]) -> list[str]:
    stops = [(at, label_rgb(hex_to_rgb(color))) for at, color in scale]
    found = []
    for i in range(_STEPS + 1):
        at = i / _STEPS
        (low, first), (high, second) = next(pair for pair in pairwise(stops) if at <= pair[1][0] + 1e-9)
        mixed = find_intermediate_color(first, second, (at - low) / (high - low), colortype="rgb")
        red, green, blue = (round(float(part)) for part in re.findall(r"[\d.]+", mixed))
        found.append(f"#{red:02x}{green:02x}{blue:02x}")
    return found


def paint(at: float, scale: Any) -> str:
    """A place on a colour scale, from 0 to 1: a class of the stylesheet, or a colour of the scale's own."""
    at = min(1.0, max(0.0, at))
    if not scale:
        return f'class="q{round(at * _STEPS)}"'
    low, high = next(pair for pair in pairwise(scale) if at <= pair[1][0] + 1e-9)
    part = (at - low[0]) / ((high[0] - low[0]) or 1.0)
    first, second = _channels(low[1]), _channels(high[1])
    red, green, blue, alpha = (a + (b - a) * part for a, b in zip(first, second, strict=True))
    return f'fill="rgb({red:.0f},{green:.0f},{blue:.0f})" fill-opacity="{alpha:.2f}"'


def _channels(color: str) -> tuple[float, ...]:
    found = (
        tuple(map(float, hex_to_rgb(color)))
        if color.startswith("#")
        else tuple(map(float, re.findall(r"[\d.]+", color)))
    )
    return found if len(found) == 4 else (*found, 1.0)


def decoded(given: Any) -> Any:
    """Plotly's parts with its packed arrays as numpy's."""
    if isinstance(given, Mapping):
        if {"dtype", "bdata"} <= given.keys():
            found = np.frombuffer(base64.b64decode(given["bdata"]), given["dtype"])
            return found.reshape(tuple(map(int, str(given["shape"]).split(",")))) if "shape" in given else found
        return {key: decoded(value) for key, value in given.items()}
    return [decoded(value) for value in given] if isinstance(given, list | tuple) else given


def cell_of(given: Any, at: Any) -> Any:
    """The entry of a trace's list, or grid, for one mark."""
    if given is None or isinstance(given, str):
        return given
    found = np.asarray(given, dtype=object)
    if isinstance(at, int):
        return found[at] if found.ndim == 1 and at < len(found) else None
    return found[at] if found.ndim >= 2 else None


def entry(given: Any, i: int) -> Any:
    """A value for all, or the i-th of a list."""
    if given is None or isinstance(given, str | int | float):
        return given
    found = np.asarray(given, dtype=object).ravel()
    return found[i] if i < len(found) else None


def formatted(value: Any, how: str | None) -> str:
    if value is None:
        return ""
    if how and isinstance(value, int | float | np.number):
        return format(float(value), how)
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def lines_of(given: Any) -> list[str]:
    """Plotly's text as plain lines: its tags go, its entities are read."""
    text = re.sub(r"</?(?:b|i|em|sub|sup|span|extra)\b[^>]*>", "", str("" if given is None else given))
    return [html.unescape(line) for line in re.split(r"<br ?/?>", text)]


def plain_text(given: Any) -> str:
    return " ".join(lines_of(given))


def short_text(name: str) -> str:
    text = plain_text(name)
    return text if len(text) <= 24 else f"{text[:22]}…"


def text_width(name: str) -> float:
    return CHAR * max(map(len, lines_of(name)))


def are_numbers(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"−?[\d.]+", name) for name in names)


def title_of(given: Mapping[str, Any]) -> str:
    title = given.get("title")
    return str((title.get("text") if isinstance(title, Mapping) else title) or "")


def dashes(line: Mapping[str, Any]) -> str:
    found = _DASHES.get(line.get("dash") or "")
    return f' stroke-dasharray="{found}"' if found else ""

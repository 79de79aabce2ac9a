"""The frame of every report: one self-contained HTML file.

The file holds all data, its figures as static SVG (:mod:`interp.figures.svg`) that a small script lets a pointer ask,
and makes no network request; a content security policy in it forbids any. Without a script figures and tables are still
there. All text from data, models and users is escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LEAST_WIDTH = 480  # pixels of a figure

_OWN_SECTION = ("citation", "caveats")  # provenance keys that the report shows elsewhere than in its table


def render_page(
    template: str,
    title: str,
    provenance: Mapping[str, Any],
    figures_shown: Sequence[Mapping[str, Any]],
    templates: Path | None = None,
    tips: Sequence[str] = (),
    **content: Any,
) -> str:
    """A template of this room, or of a folder `templates`, which extends base.html.j2, as HTML text.

    figures_shown: entries made by `figure_entry`. tips: what a pointer shows, of all of them. content: what the
    template itself asks for. The title, the model's name, the provenance, citations and caveats are filled in from the
    arguments.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folders = [Path(__file__).parent / "templates", *([templates] if templates else [])]
    environment = Environment(loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["number"] = number
    caveats = _texts(provenance.get("caveats"))
    page = {
        "title": title,
        "model": model_name(provenance),
        "figures": figures_shown,
        "tips": _json(list(tips)),
        "plot_style": Markup(import_module("interp.figures.svg").stylesheet()) if figures_shown else "",
        "provenance": _grouped({key: value for key, value in provenance.items() if key not in _OWN_SECTION}),
        "citations": _texts(provenance.get("citation")),
        "caveats": caveats,
        "has_limits": bool(caveats),
    }
    return environment.get_template(template).render(page | content)


def figure_entry(
    index: int, figure: go.Figure, group: str, tips: dict[str, int], title: str = "", width: int = 0, said: str = ""
) -> dict[str, Any]:
    """What the templates' `plots` macro shows: the figures of a group, `width` pixels wide. `tips`: of the page, which
    the figure's are added to. `said`: what is told to who does not see it.
    """
    drawn = import_module("interp.figures.svg").draw(figure, max(width, _LEAST_WIDTH), said or title, tips)
    return {"id": f"figure-{index}", "group": group, "title": title, "svg": Markup(drawn)}


def model_name(provenance: Mapping[str, Any]) -> str:
    model = provenance.get("model")
    if isinstance(model, Mapping):
        model = model.get("name") or model.get("source")
    return str(model) if model else "Model not named"


def number(value: Any) -> str:
    """Three significant digits (from 1000 on, whole numbers), a true minus sign, "–" for what is missing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int):
        return str(value).replace("-", "−")
    if 1000 <= abs(value) < 1e6:
        return f"{value:.0f}".replace("-", "−")
    return f"{value:#.3g}".rstrip(".").replace("-", "−")


def _json(value: Any) -> Markup:
    """JSON that cannot end the script element around it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _flat(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Nested dictionaries as (dotted key, text) pairs; lists of plain values joined."""
    if isinstance(value, Mapping) and value:
        return [pair for name, inner in value.items() for pair in _flat(inner, f"{key}.{name}" if key else name)]
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        return [(key, ", ".join(str(item) for item in value))]
    return [(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))] if key else []


def _grouped(provenance: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The entries of a provenance under headings: those of the run, then each part with entries of its own."""
    plain = {key: value for key, value in provenance.items() if not isinstance(value, Mapping)}
    parts = {key: value for key, value in provenance.items() if isinstance(value, Mapping) and value}
    groups = {"The run": plain} | {key.replace("_", " ").capitalize(): value for key, value in parts.items()}
    return [(heading, _flat(entries)) for heading, entries in groups.items() if entries]


def _texts(value: Any) -> list[str]:
    return [] if not value else [value] if isinstance(value, str) else [str(item) for item in value]

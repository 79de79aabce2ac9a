"""A ranking as one self-contained HTML file: statement, figures, table, prompts, controls, provenance.

The file holds plotly.js and all data and makes no network request; a content security policy in it forbids
any. All text from data, models and users is escaped. The wording of the statement follows from the numbers
only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from interp import figures
from interp.comparison import control_summary
from interp.ranking import HeadRanking
from interp.views import TokenView, head_label

_OWN_SECTION = ("citation", "caveats")  # provenance keys that the report shows elsewhere than in its table


def render(ranking: HeadRanking) -> str:
    """The report as HTML text, about 5 MB (plotly.js) plus 1 kB for each head and token shown.

    Uses these keys of the provenance if they are there: `title`, `model` (a name, or a dictionary with
    "name"), `citation` and `caveats` (a text or a list of texts). Everything else in the provenance is
    listed as it is.
    """
    directory = Path(__file__).parent / "templates"
    environment = Environment(loader=FileSystemLoader(directory), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["number"] = number
    frame = ranking.to_frame()
    controls = control_summary(ranking)
    provenance = ranking.provenance
    return environment.get_template("report.html.j2").render(
        title=str(provenance.get("title") or f"Attention heads ranked by {ranking.score}"),
        model=model_name(ranking),
        ranking=ranking,
        statement=statement(ranking),
        figures=_figures(ranking),
        templates=_json({name: figures.TEMPLATES[name].to_plotly_json() for name in ("light", "dark")}),
        rows=frame.to_dict("records"),
        controls=controls.to_dict("records"),
        views=[_view(view) for view in ranking.views],
        provenance=_flat({key: value for key, value in provenance.items() if key not in _OWN_SECTION}),
        citations=_texts(provenance.get("citation")),
        caveats=_texts(provenance.get("caveats")),
        plotly_js=Markup(get_plotlyjs()),
    )


def statement(ranking: HeadRanking) -> list[str]:
    """What the numbers say, as sentences."""
    frame = ranking.to_frame()
    best = frame.iloc[0]
    n_heads = len(frame)
    interval = f", 95 % interval {number(best.ci_low)} to {number(best.ci_high)}" if ranking.n_examples > 1 else ""
    found = frame[frame["q"] < 0.05]
    above = int((found["score"] > 0).sum())
    sentences = [
        f"{model_name(ranking)}, {ranking.n_examples} examples: of {n_heads} heads, {best.label} has the "
        f"highest mean {ranking.score}, {number(best.score)}{interval}.",
        f"{len(found)} of {n_heads} heads differ from zero at a false discovery rate of 5 % "
        f"({above} above, {len(found) - above} below).",
    ]
    return [*sentences, _reliability_sentence(ranking), *_control_sentences(ranking)]


def _reliability_sentence(ranking: HeadRanking) -> str:
    reliability = ranking.reliability
    if math.isnan(reliability.mean):
        return "There are too few examples, or heads, to say how reliable the order is."
    if reliability.spearman_brown >= 0.8:
        verdict = "the order would be much the same in another sample"
    elif reliability.spearman_brown >= 0.5:
        verdict = "the order is only partly settled, so exact ranks mean little"
    else:
        verdict = "the order of most heads is noise at this sample size"
    return (
        "Two random halves of the examples order the heads with a Spearman correlation of "
        f"{number(reliability.mean)} ({number(reliability.spearman_brown)} corrected to the full sample): "
        f"{verdict}."
    )


def _control_sentences(ranking: HeadRanking) -> list[str]:
    controls = control_summary(ranking)
    if controls.empty:
        return ["No control was measured: the ranking stands on this one score."]
    worst = controls.sort_values("sign_flips", ascending=False, kind="stable").iloc[0]
    if worst.sign_flips == 0:
        names = ", ".join(ranking.others)
        flips = f"None of the top {worst.k} heads changes sign under any other measure ({names})."
    else:
        flips = (
            f"{worst.sign_flips} of the top {worst.k} heads change{'s' if worst.sign_flips == 1 else ''} "
            f"sign when measured by {worst.measure}."
        )
    least = controls.sort_values("overlap", kind="stable").iloc[0]
    overlap = (
        f"The least overlap is with {least.measure}: {least.overlap} of its top {least.k} heads are in "
        f"this top {least.k} too, where chance gives {number(least.overlap_expected)}."
    )
    return [flips, overlap]


def model_name(ranking: HeadRanking) -> str:
    model = ranking.provenance.get("model")
    if isinstance(model, Mapping):
        model = model.get("name") or model.get("source")
    return str(model) if model else "Model not named"


def number(value: Any) -> str:
    """Three significant digits, a true minus sign, "–" for what is missing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int):
        return str(value).replace("-", "−")
    return f"{value:#.3g}".rstrip(".").replace("-", "−")


def _figures(ranking: HeadRanking) -> list[dict[str, Any]]:
    """The figures in reading order; those of the group "scatter" stand side by side."""
    frame = ranking.to_frame()
    heat, bars = ranking.plot(), ranking.plot_top(20)
    heat.update_layout(title=None, margin_t=30)
    bars.update_layout(title=None, margin_t=30)
    entries = [("heat", "", heat), ("bars", "", bars)]
    name = ranking.score
    for other in ranking.others:
        figure = figures.scatter(frame, "score", other, x_title=name)
        entries.append(("scatter", f"{name} against {other}", figure))
    if {"direct_effect", "total_effect"} <= set(ranking.others):
        figure = figures.scatter(frame, "direct_effect", "total_effect")
        entries.append(("scatter", "Direct against total effect", figure))
    return [
        {
            "id": f"figure-{i}",
            "group": group,
            "title": title,
            "height": figure.layout.height,
            "json": _plotly_json(figure),
        }
        for i, (group, title, figure) in enumerate(entries)
    ]


def _plotly_json(figure: go.Figure) -> Markup:
    parts = json.loads(figure.to_json())
    parts["layout"].pop("template", None)  # the page sets the light or the dark one
    return _json(parts)


def _json(value: Any) -> Markup:
    """JSON that cannot end the script element around it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _view(view: TokenView) -> dict[str, Any]:
    """A prompt as spans: text, what the tooltip says, and the strength of the colour from 0 to 1."""
    heads = []
    for (layer, head), values in view.heads.items():
        panels = {}
        for kind, array in values.items():
            largest = float(abs(array).max()) if len(array) else 0.0
            spans = []
            for i, (token, value) in enumerate(zip(view.tokens, array.tolist(), strict=True)):
                share = abs(value) / largest if largest > 0 else 0.0
                share = math.sqrt(share) if kind == "attention" else share
                sign = "negative" if value < 0 else "positive"
                spans.append(
                    {
                        "text": figures.visible(token) + ("\n" if "\n" in token else ""),
                        "tooltip": f"{i}: {figures.visible(token)!r} {kind} {value:.4g}",
                        "share": f"{share:.2f}",
                        "kind": "attention" if kind == "attention" else sign,
                    }
                )
            panels[kind] = {"spans": spans, "largest": largest, "sum": float(array.sum())}
        heads.append({"label": head_label(layer, head), "panels": panels})
    return {"example_id": view.example_id, "title": view.title, "heads": heads}


def _flat(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Nested dictionaries as (dotted key, text) pairs; lists of plain values joined."""
    if isinstance(value, Mapping) and value:
        return [pair for name, inner in value.items() for pair in _flat(inner, f"{key}.{name}" if key else name)]
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        return [(key, ", ".join(str(item) for item in value))]
    return [(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))] if key else []


def _texts(value: Any) -> list[str]:
    return [] if not value else [value] if isinstance(value, str) else [str(item) for item in value]

"""A ranking as one self-contained HTML file: statement, figures, table, prompts, controls, provenance.

The file holds plotly.js and all data and makes no network request; a content security policy in it forbids
any. All text from data, models and users is escaped. The wording of the statement follows from the numbers
only. `render_page` is the frame of every page: `interp.findings` makes its own with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from interp import figures
from interp.answer_mass import with_mass
from interp.comparison import control_summary, sign_keepers
from interp.ranking import HeadRanking
from interp.views import TokenView, head_label

_KEEPERS = 20  # of so many top heads the report lists those that keep their sign under every control
_FIGURE_HEIGHT = 450  # pixels, of a figure that names none
_OWN_SECTION = ("citation", "caveats")  # provenance keys that the report shows elsewhere than in its table


def render(ranking: HeadRanking) -> str:
    """The report as HTML text, about 5 MB (plotly.js) plus 1 kB for each head and token shown.

    Uses these keys of the provenance if they are there: `title`, `model` (a name, or a dictionary with
    "name"), `citation` and `caveats` (a text or a list of texts). Everything else in the provenance is
    listed as it is.
    """
    frame = ranking.to_frame()
    summary = control_summary(ranking)
    return render_page(
        "report.html.j2",
        str(ranking.provenance.get("title") or f"Attention heads ranked by {ranking.score}"),
        ranking.provenance,
        _figures(ranking),
        has_limits=True,
        ranking=ranking,
        statement=statement(ranking),
        rows=frame.to_dict("records"),
        controls=summary[summary["role"] == "control"].to_dict("records"),
        other_measures=summary[summary["role"] != "control"].to_dict("records"),
        keepers=sign_keepers(ranking, _KEEPERS),
        n_keepers_of=min(_KEEPERS, len(frame)),
        floor=_floor_sentence(ranking),
        views=[_view(view) for view in ranking.views],
    )


def render_page(
    template: str,
    title: str,
    provenance: Mapping[str, Any],
    figures_shown: Sequence[Mapping[str, Any]],
    **content: Any,
) -> str:
    """A template of this package, which extends base.html.j2, as HTML text.

    figures_shown: entries made by `figure_entry`. content: what the template itself asks for. The title, the model's
    name, the provenance, citations and caveats are filled in from the arguments; plotly.js (5 MB) only if there is a
    figure.
    """
    directory = Path(__file__).parent / "templates"
    environment = Environment(loader=FileSystemLoader(directory), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["number"] = number
    caveats = _texts(provenance.get("caveats"))
    page = {
        "title": title,
        "model": model_name(provenance),
        "figures": figures_shown,
        "templates": _json({name: figures.TEMPLATES[name].to_plotly_json() for name in ("light", "dark")}),
        "provenance": _flat({key: value for key, value in provenance.items() if key not in _OWN_SECTION}),
        "citations": _texts(provenance.get("citation")),
        "caveats": caveats,
        "has_limits": bool(caveats),
        "plotly_js": Markup(get_plotlyjs()) if figures_shown else "",
    }
    return environment.get_template(template).render(page | content)


def figure_entry(index: int, figure: go.Figure, group: str, title: str = "", min_width: int = 0) -> dict[str, Any]:
    """What the templates' `plots` macro shows: the figures of a group; below `min_width` (pixels) a figure scrolls."""
    return {
        "id": f"figure-{index}",
        "group": group,
        "title": title,
        "height": figure.layout.height or _FIGURE_HEIGHT,
        "min_width": min_width,
        "json": _plotly_json(figure),
    }


def statement(ranking: HeadRanking) -> list[str]:
    """What the numbers say, as sentences."""
    frame = ranking.to_frame()
    best = frame.iloc[0]
    n_heads = len(frame)
    interval = f", 95 % interval {number(best.ci_low)} to {number(best.ci_high)}" if ranking.n_examples > 1 else ""
    found = frame[frame["q"] < 0.05]
    tested = "score" if ranking.tested == ranking.score else ranking.tested
    above = int((found[tested] > 0).sum())
    sentences = [
        f"{model_name(ranking.provenance)}, {ranking.n_examples} examples: of {n_heads} heads, {best.label} has the "
        f"highest mean {ranking.score}, {number(best.score)}{interval}."
    ]
    found_sentence = (
        f"{len(found)} of {n_heads} heads differ from zero at a false discovery rate of 5 % "
        f"({above} above, {len(found) - above} below)."
    )
    if ranking.tested != ranking.score:
        found_sentence = (
            f"By {ranking.tested}, which p and q test because {ranking.score} can't be below zero: {found_sentence}"
        )
    last = frame.iloc[-1]
    if last.ci_high < 0 and n_heads > 1:
        sentences.append(
            f"The most negative is {last.label}, {number(last.score)}, 95 % interval {number(last.ci_low)} to "
            f"{number(last.ci_high)}."
        )
    controls, others = _control_sentences(ranking), _other_measure_sentences(ranking)
    sentences = [*sentences, *controls, *others, found_sentence, _reliability_sentence(ranking)]
    return with_mass(sentences, ranking.provenance)


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
    summary = control_summary(ranking)
    controls = summary[summary["role"] == "control"]
    if controls.empty and ranking.controls:
        return [f"No control was named but {ranking.score}, by which the heads are ranked."]
    if controls.empty:
        return ["No control was named: the ranking stands on this one score."]
    sentences = []
    for row in controls.itertuples():
        unclear = f", {row.unclear} {'is' if row.unclear == 1 else 'are'} unclear" if row.unclear else ""
        sentences.append(
            f"Under {row.measure}, {row.keeps_sign} of the top {row.k} heads keep{'s' if row.keeps_sign == 1 else ''} "
            f"{'its' if row.keeps_sign == 1 else 'their'} sign with both intervals off zero and {row.changes_sign} "
            f"change{'s' if row.changes_sign == 1 else ''} it{unclear}: a head that changes sign is not about what "
            "the control leaves alone, but about what it changes."
        )
    keepers = sign_keepers(ranking, _KEEPERS)
    k = min(_KEEPERS, len(ranking.to_frame()))
    which = "under it" if len(controls) == 1 else "under every control"
    if keepers:
        sentences.append(f"Of the top {k} heads, {len(keepers)} keep their sign {which}: {', '.join(keepers)}.")
    else:
        sentences.append(f"None of the top {k} heads keeps its sign {which}.")
    return sentences


def _other_measure_sentences(ranking: HeadRanking) -> list[str]:
    summary = control_summary(ranking)
    others = summary[summary["role"] != "control"]
    if others.empty:
        return []
    counts = ", ".join(f"{row.sign_flips} by {row.measure}" for row in others.itertuples())
    return [
        f"Other measures are quantities of their own, not controls; of the top {others.iloc[0].k} heads so many have "
        f"the opposite sign there: {counts}."
    ]


def _floor_sentence(ranking: HeadRanking) -> str:
    """The smallest p, and q of a head that stands alone, that the number of sign flips allows."""
    n_heads = ranking.n_layers * ranking.n_heads
    lone = min(1.0, n_heads * ranking.p_floor)
    return (
        f"With {ranking.n_sign_flips:,} sign flips no p can be below {number(ranking.p_floor)}, so no single head's q "
        f"below {number(lone)} (p times {n_heads} heads); of j heads that share the smallest p, q can be j times "
        "smaller."
    )


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
    return [figure_entry(i, figure, group, title) for i, (group, title, figure) in enumerate(entries)]


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

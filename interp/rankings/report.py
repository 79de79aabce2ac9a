"""A ranking's report: statement, figures, table, prompts, controls, provenance.

The wording of the statement follows from the numbers only.
"""

from __future__ import annotations

import math
from typing import Any

from interp.figures import TokenView, head_label, heads as figures
from interp.rankings.controls import control_summary, sign_keepers
from interp.rankings.ranking import HeadRanking
from interp.reports import figure_entry, model_name, number, render_page, with_mass

_KEEPERS = 20  # of so many top heads the report lists those that keep their sign under every control


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

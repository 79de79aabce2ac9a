"""A ranking's report: the statement, the figures, the table, what controls and other measures say.

The wording of the statement follows from the numbers only, and from what the measures are
(:mod:`interp.rankings.measures`): a probability has no sign to keep, and is not tested against zero.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp import statistics
from interp.figures import displayed, head_label, heads as figures
from interp.rankings.controls import control_summary, plain_answer, sign_keepers
from interp.rankings.ranking import HeadRanking
from interp.rankings.sets import figures_of_sets, said_of_sets, tables_of_sets
from interp.rankings.stability import consensus
from interp.reports import Card, Figures, Findings, model_name, number, with_mass

HEADS, TOP, AGAINST, TABLE = "All heads", "Top heads", "Against other measures", "Ranking"
UNORDERED = "Heads, in no order"
CONTROLS, OTHERS, MEASURES, STABILITY = "Controls", "Other measures", "Measures", "Stability"
_MOST_HEADS = 600  # of the table on the page; its CSV has all
_KEEPERS = 20  # of so many top heads the report lists those that keep their sign under every control


def findings_of(ranking: HeadRanking) -> Findings:
    """The report: statement, figures, tables, prompts token by token."""
    return Findings(
        title=str(ranking.provenance.get("title") or f"Attention heads ranked by {ranking.score}"),
        statement=statement(ranking),
        tables=_tables(ranking),
        figures={} if ranking.is_too_few else _figures(ranking),
        provenance=ranking.provenance,
        answer=plain_answer(ranking),
        cards=_cards(ranking),
        views=() if ranking.is_too_few else ranking.views,  # they show the first heads
    )


def _cards(ranking: HeadRanking) -> tuple[Card, ...]:
    """The numbers to see first; none for too few examples."""
    if ranking.n_examples < statistics.FEWEST:
        return ()
    frame, n = ranking.to_frame(), f"n = {ranking.n_examples} examples"
    best = frame.iloc[0]
    found = [Card(f"{best.label} has the highest {displayed(ranking.score)}", best.score, best.ci_low, best.ci_high, n)]
    if any(ranking.keeps_sign(name) for name in ranking.other_controls):
        k = min(_KEEPERS, len(frame))
        found.append(
            Card(
                "keep their sign under every control", f"{len(sign_keepers(ranking, k))} of {k}", note="the first heads"
            )
        )
    if ranking.tested is not None:
        found.append(
            Card(
                "heads differ from the null value", f"{int((frame['q'] < 0.05).sum())} of {len(frame)}", note="q < 0.05"
            )
        )
    if not math.isnan(ranking.reliability.spearman_brown):
        found.append(
            Card(
                "reliability of the order", ranking.reliability.spearman_brown, note="1: another sample gives the same"
            )
        )
    return tuple(found)


def headline(ranking: HeadRanking) -> str:
    """The first sentence: which head is the highest. Quick: the statistics of the others are not computed for it."""
    means, score = ranking.scores.mean(axis=0, dtype=np.float64), displayed(ranking.score)
    if ranking.is_too_few:
        return (
            f"{model_name(ranking.provenance)}: too few examples (n = {ranking.n_examples}; expected "
            f"{statistics.FEWEST} or more) to say which of {means.size} heads has the highest mean {score}."
        )
    layer, head = map(int, np.unravel_index(means.argmax(), means.shape))
    low, high = statistics.mean_interval(ranking.scores[:, layer, head])
    highest = statistics.Estimate(float(means.max()), float(low), float(high))
    return (
        f"{model_name(ranking.provenance)}, {ranking.n_examples} examples: of {means.size} heads, "
        f"{head_label(layer, head)} has the highest mean {score}, {highest.written(number)}."
    )


def statement(ranking: HeadRanking) -> list[str]:
    """What the numbers say, as sentences."""
    beside = ranking.provenance.get("beside", [])  # what the ranking does not see, said by what made it
    sentences = [headline(ranking), *beside]
    if ranking.is_too_few:
        return with_mass([*sentences, *said_of_sets(ranking.provenance)], ranking.provenance)
    last, base = ranking.to_frame().iloc[-1], ranking.measure.base
    lowest = statistics.Estimate.from_row(last, "score", ("ci_low", "ci_high"))
    if ranking.measure.is_signed and lowest.side_of(base) < 0 and ranking.n_layers * ranking.n_heads > 1:
        which = "most negative" if base == 0 else "lowest"
        sentences.append(f"The {which} is {last.label}, {lowest.written(number)}.")
    sentences += [*_control_sentences(ranking), *_other_measure_sentences(ranking)]
    sentences += said_of_sets(ranking.provenance)
    return with_mass([*sentences, _tested_sentence(ranking), _reliability_sentence(ranking)], ranking.provenance)


def _tested_sentence(ranking: HeadRanking) -> str:
    """How many heads differ from the null value; for a measure without one, what it is instead."""
    if ranking.tested is None:
        return ranking.measure.untested()
    frame = ranking.to_frame()
    found = frame[frame["q"] < 0.05]
    tested = "score" if ranking.tested == ranking.score else ranking.tested
    above = int((ranking.side_of_null(found[tested], ranking.tested) > 0).sum())
    null = ranking.descriptions[ranking.tested].null
    sentence = (
        f"{len(found)} of {len(frame)} heads differ from {_value(null)} at a false discovery "
        f"rate of 5 % ({above} above, {len(found) - above} below)."
    )
    if ranking.tested != ranking.score:
        return f"By {ranking.tested}, which p and q test because {ranking.score} can't be below zero: {sentence}"
    return sentence


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
    signed = [ranking.keeps_sign(name) for name in controls["measure"]]
    rows = zip(signed, controls.itertuples(), strict=True)
    sentences = [_sign_sentence(row) if has_sign else _order_sentence(row) for has_sign, row in rows]
    return [*sentences, *([_keepers_sentence(ranking)] if any(signed) else [])]


def _sign_sentence(row) -> str:
    unclear = f", {row.unclear:.0f} {'is' if row.unclear == 1 else 'are'} unclear" if row.unclear else ""
    return (
        f"Under {displayed(row.measure)}, {row.keeps_sign:.0f} of the top {row.k} heads "
        f"keep{'s' if row.keeps_sign == 1 else ''} "
        f"{'its' if row.keeps_sign == 1 else 'their'} sign with both intervals off zero and {row.changes_sign:.0f} "
        f"change{'s' if row.changes_sign == 1 else ''} it{unclear}: a head that changes sign is not about what "
        "the control leaves alone, but about what it changes."
    )


def _order_sentence(row) -> str:
    """Of a control that has no sign: how far the order stays."""
    return (
        f"Under {displayed(row.measure)}, which has no sign to compare, {row.overlap} of the top {row.k} heads are "
        f"among the top {row.k} (by chance {number(row.overlap_expected)}); Spearman over all heads "
        f"{number(row.spearman)}."
    )


def _keepers_sentence(ranking: HeadRanking) -> str:
    keepers = sign_keepers(ranking, _KEEPERS)
    k = min(_KEEPERS, ranking.n_layers * ranking.n_heads)
    which = "under it" if len(ranking.other_controls) == 1 else "under every control"
    if not keepers:
        return f"None of the top {k} heads keeps its sign {which}."
    return f"Of the top {k} heads, {len(keepers)} keep their sign {which}: {', '.join(keepers)}."


def _other_measure_sentences(ranking: HeadRanking) -> list[str]:
    summary = control_summary(ranking)
    others = summary[(summary["role"] != "control") & summary["sign_flips"].notna()]
    if others.empty:
        return []
    counts = ", ".join(f"{row.sign_flips:.0f} by {displayed(row.measure)}" for row in others.itertuples())
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


def _figures(ranking: HeadRanking) -> Figures:
    """The figures in reading order; those against other measures stand side by side."""
    name = ranking.score
    pairs = {f"{displayed(name)} against {displayed(o)}": ("score", o) for o in ranking.others}
    if {"direct_effect", "total_effect"} <= set(ranking.others):
        pairs["Direct against total effect"] = ("direct_effect", "total_effect")
    against = {title: partial(_plot_against, ranking, *measures) for title, measures in pairs.items()}
    sets = figures_of_sets(ranking.provenance)
    return Figures({HEADS: partial(_plot_heads, ranking), TOP: partial(_plot_top, ranking), **sets, **against})


def _plot_heads(ranking: HeadRanking) -> go.Figure:
    base = _value(ranking.measure.base)
    scale = (
        f"orange is above {base}, blue below" if ranking.measure.is_signed else f"the darker, the farther from {base}"
    )
    return _noted(
        ranking.plot(),
        f"Mean {displayed(ranking.score)} over the examples; {scale}. {ranking.measure.meaning} Point at a cell for "
        "its interval and the other measures.",
    )


def _plot_top(ranking: HeadRanking) -> go.Figure:
    markers = " Markers: the same heads by the other measures; one on a much larger or smaller scale is left out."
    return _noted(
        ranking.plot_top(20),
        f"Bars: mean and 95 % interval.{markers if ranking.others else ''} The intervals do not know that these heads "
        "were picked for being the highest, so their values are somewhat too large. Confirm them on new examples.",
    )


def _plot_against(ranking: HeadRanking, x: str, y: str) -> go.Figure:
    return _noted(
        figures.scatter(ranking.to_frame(), x, y, x_title=ranking.score if x == "score" else None),
        "A point is a head; the most extreme are named, with intervals. The dotted line marks equal values (drawn "
        "where the two ranges are comparable).",
        group=AGAINST,
    )


def _tables(ranking: HeadRanking) -> dict[str, pd.DataFrame]:
    frame = ranking.to_frame()
    measures = pd.DataFrame([measure.row() for measure in ranking.descriptions.values()])
    if ranking.is_too_few:
        unordered = frame.sort_values(["layer", "head"]).drop(columns=["rank", "p", "q"])
        unordered.attrs = {"note": "In no order: there are too few examples for one.", "rows": len(frame)}
        return {UNORDERED: unordered.reset_index(drop=True), MEASURES: measures}
    frame.attrs = {"note": _table_note(ranking, len(frame)), "rows": min(len(frame), _MOST_HEADS)}
    tables = {TABLE: frame}
    summary, notes = control_summary(ranking), dict(zip((CONTROLS, OTHERS), _summary_notes(ranking), strict=True))
    for name, is_control in ((CONTROLS, True), (OTHERS, False)):
        part = summary[(summary["role"] == "control") == is_control]
        if not part.empty:
            tables[name] = part.drop(columns="role").reset_index(drop=True)
            tables[name].attrs["note"] = notes[name]
    if ranking.n_examples >= statistics.FEWEST:
        tables[STABILITY] = _stability(ranking)
    return tables | tables_of_sets(ranking.provenance) | {MEASURES: measures}


def _stability(ranking: HeadRanking) -> pd.DataFrame:
    """Which heads would be among the first again."""
    k = min(10, ranking.n_layers * ranking.n_heads)
    frame = consensus(ranking, k).drop(columns=["layer", "head"]).rename(columns={"label": "head"})
    frame.attrs["note"] = (
        f"share: of 500 bootstrap resamples of the examples, those with the head among the first {k}. core: 95 % "
        "or more; noise: below 5 %; contingent: between. Resamples of examples of one template say nothing of others."
    )
    return frame


def _table_note(ranking: HeadRanking, n_heads: int) -> str:
    reliability = ranking.reliability
    said = [
        f"score: the mean {ranking.score} over the examples, with its 95 % interval (the farther end of "
        "Student's and of Hall's, 1992)."
    ]
    if ranking.tested is not None:
        null = _value(ranking.descriptions[ranking.tested].null)
        of = "it" if ranking.tested == ranking.score else f"the mean {ranking.tested}"
        said.append(
            f"p: two-sided sign-flip test that {of} is {null}; q: the same, corrected for testing {n_heads} heads "
            f"(Benjamini–Hochberg). {_floor_sentence(ranking)} A small q says that a head’s mean differs from {null}, "
            "not that the head is among the most important, nor that it causes the behaviour."
        )
    else:
        said.append(ranking.measure.untested())
    if "head_kinds" in ranking.provenance:
        said.append(
            "Kind: what the head does on random tokens, where one of its scores there is 0.3 or more; it says nothing "
            "of these examples."
        )
    if any(ranking.keeps_sign(name) for name in ranking.other_controls):
        said.append(
            "Verdict: whether the head keeps the sign of its score under the control; unclear where either interval "
            "includes zero."
        )
    said.append(
        "Reliability: Spearman correlation between random halves of the examples, mean and middle 95 % of 50 splits: "
        f"{statistics.Estimate(*reliability[:3]).written(number)}. arrays.safetensors has each example's values."
    )
    return " ".join(said)


def _summary_notes(ranking: HeadRanking) -> tuple[str, str]:
    """Of the tables of controls and of other measures."""
    k = min(10, ranking.n_layers * ranking.n_heads)
    columns = (
        f"overlap: how many of the top {k} heads are also in the measure’s own top {k}, with the number expected by "
        "chance; heads of one model are not independent, so chance levels are only a guide. Signs count only where "
        "both measures have one, and for keeps sign and changes sign where both 95 % intervals are off zero."
    )
    controls = (
        "A control is a measure that should leave a real effect alone. A head that changes sign under it is not about "
        f"what the control leaves alone, but about what it changes. {columns}"
    )
    if any(ranking.keeps_sign(name) for name in ranking.other_controls):
        keepers = ", ".join(sign_keepers(ranking, _KEEPERS)) or "none"
        of = min(_KEEPERS, ranking.n_layers * ranking.n_heads)
        controls += (
            f" Heads of the top {of} that keep their sign under every control: {keepers}. If the control swaps the "
            "order of the answers, these are about the word, not the position."
        )
    return (
        controls,
        f"Each is a quantity of its own, not a control: a different sign is no fault, but worth a look. {columns}",
    )


def _value(null: float) -> str:
    return "zero" if null == 0 else number(null)


def _noted(figure: go.Figure, note: str, **more: str) -> go.Figure:
    figure.layout.meta = {"note": note, **more}
    return figure

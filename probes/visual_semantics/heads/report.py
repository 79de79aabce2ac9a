"""What a ranking of visual heads says, as sentences, tables and figures. Where fewer than 10 questions count for a
score, the page has their number and no order of heads: no table, no colours, no frames."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figures import head_label, heads_by_level, strongest_examples
from interp.reports import Figures, Findings
from interp.statistics import FEWEST, Estimate, mean_estimate
from probes.studies import said_of_data
from probes.visual_semantics.heads.result import VisualHeads
from probes.visual_semantics.heads.scores import NAMES, RELU, largest_by_chance
from probes.visual_semantics.questions.asked import NO, YES

_SHOWN = 20  # heads of each level in the tables of the page

_TOP = 10  # heads that the sentences speak of, as in the paper's code


def findings_of(heads: VisualHeads) -> Findings:
    """The report of a ranking."""
    counts, scores = heads.counts(), heads.provenance["settings"]["scores"]
    counts.attrs["note"] = (
        "Correct: the most probable token of the whole vocabulary is the gold answer's first. Reliability: Spearman's "
        "correlation of two halves of the questions, corrected to all of them (Spearman and Brown)."
    )
    tables: dict[str, pd.DataFrame] = {"Questions by level and kind": counts}
    said, figures, k = [_verdict(heads, scores[0])], {}, min(_TOP, heads.n_layers * heads.n_heads)
    for score in scores:
        enough = {level: n for level in heads.levels if (n := _n_counted(heads, score, level)) >= FEWEST}
        if enough:
            title = f"{NAMES[score]} of each head, by level"
            named = {level: f"{level or 'all'} (n = {n})" for level, n in enough.items()}
            figures[title] = partial(_plot_heads, heads, score, k, named, title)
            shown = [heads.table(score, level).head(_SHOWN).assign(level=level or "all") for level in enough]
            table = pd.concat(shown, ignore_index=True)
            tables[first_heads(score)] = table[["level", *table.columns.drop("level")]]
            tables[first_heads(score)].attrs["note"] = _NOTE
        said += [_sentence(heads, score, level) for level in heads.levels]
    apart = [
        gold_table(heads, score, level, k)
        for score in [s for s in scores if s in RELU] or scores
        for level in heads.levels
        if has_both_golds(heads, level) and _n_counted(heads, score, level, "yes_no") >= FEWEST
    ]
    if apart:
        both = pd.concat(apart, ignore_index=True)
        both.attrs["note"] = (
            "The first heads by their score on yes/no questions. p - p_h (of all questions) apart for gold Yes and "
            "gold No: a head that helps with both sees something; one that helps with Yes and hurts with No says Yes."
        )
        tables["Gold Yes and gold No apart"] = both
        said += _yes_sentences(both)
    elif any(q.kind == "yes_no" for q in heads.asked):
        said.append(
            f"No level has enough yes/no questions ({FEWEST} of each gold answer, and {FEWEST} that count for a score):"
            " heads that say Yes can't be told apart."
        )
    tables["Questions"] = questions_table(heads)
    return Findings(
        title=heads.provenance["title"],
        statement=[*said, _counted(heads), *said_of_data(heads.provenance)],
        tables=tables,
        figures=Figures(figures),
        provenance=dict(heads.provenance),
    )


def _plot_heads(heads: VisualHeads, score: str, k: int, named: Mapping[str, str], title: str) -> go.Figure:
    """A map of each level that is named, its first k heads framed."""
    means = {name: heads.mean_score(score, level) for level, name in named.items()}
    framed = {name: heads.top(score, k, level) for level, name in named.items()}
    moved = {name: _most_moved(heads, score, level) for level, name in named.items()}
    figure = heads_by_level(means, title, "probability", framed, moved, score not in RELU)
    return figure.update_layout(meta={"note": f"{_UNITS[score]}; framed: the first {k}."})


def _n_counted(heads: VisualHeads, score: str, level: str, kind: str | None = None) -> int:
    """Questions of a level that count for a score; of a kind, if it has them."""
    of_level = [q.kind for q in heads.asked if q.level == level]
    return int(heads.chosen(level, kind, score=score).sum()) if kind is None or kind in of_level else 0


def _most_moved(heads: VisualHeads, score: str, level: str) -> np.ndarray:
    """[layer, head]: the question whose answer ablating the head changes most, and by how much."""
    chosen = heads.chosen(level, score=score)
    asked = [f"{q.question_text} {q.gold}" for q, is_in in zip(heads.asked, chosen, strict=True) if is_in]
    return strongest_examples(heads.change(score, chosen), asked)


def first_heads(score: str) -> str:
    """The name of the table of a score's first heads."""
    kinds = {"s_plus": "Positive heads, S+", "s_minus": "Negative heads, S−", "signed_drop": "Signed effects, D"}
    return f"{kinds[score]}: the first {_SHOWN}"


def questions_table(heads: VisualHeads) -> pd.DataFrame:
    """One row for each question: what was asked, the gold answer and its probability, and whether it was given."""
    rows = [
        {
            "id": q.id,
            "question": q.question_text,
            "gold": q.gold,
            "level": q.level,
            "kind": q.kind,
            "form": q.form,
            "split": q.split,
            "picture": q.image_id,
            "picture_sha256": q.image_sha256,
            "options": ", ".join(q.options),
        }
        for q in heads.asked
    ]
    frame = pd.DataFrame(rows)
    frame.insert(3, "correct", heads.is_correct)
    frame.insert(4, "gold_prob", heads.gold_prob)
    return frame


def has_both_golds(heads: VisualHeads, level: str | None) -> bool:
    """Whether a level has yes/no questions of both gold answers, 10 of each at least."""
    kinds = {q.kind for q in heads.asked if level is None or q.level == level}
    return "yes_no" in kinds and all(heads.chosen(level, "yes_no", gold).sum() >= FEWEST for gold in (YES, NO))


_NEEDS = {"s_plus": "correctly", "s_minus": "wrongly", "signed_drop": "at all"}

_DO = {"s_plus": "help (S+)", "s_minus": "hurt (S−)", "signed_drop": "help or hurt (D)"}

_FDR = 0.05

_UNITS = {
    "s_plus": "mean of max(0, p - p_h) over correctly answered questions (probability): high, the head helps",
    "s_minus": "mean of max(0, p_h - p) over wrongly answered questions (probability): high, the head hurts",
    "signed_drop": "mean of p - p_h over all questions (probability): orange, the head helps; blue, it hurts",
}

_NOTE = (
    "floor: what the score would be if each picture's changes had a random sign, floor_95 its 95th percentile. p and q "
    "test mean_change, whole pictures being flipped. yes_push: what the head adds to logit(yes) - logit(no)."
)


def _named(level: str) -> str:
    return f"{level} questions" if level else "all questions"


def _counted(heads: VisualHeads) -> str:
    n, right = len(heads.asked), int(heads.is_correct.sum())
    settings = heads.provenance["settings"]
    return (
        f"{n} questions about {len(set(heads.pictures))} pictures, {right} answered correctly and {n - right} wrongly "
        f"(first token, whole vocabulary); every head ablated by {settings['ablation'].replace('_', ' ')}, positions "
        f"{settings['positions']!r}."
    )


def _verdict(heads: VisualHeads, score: str) -> str:
    """How many heads a score's mean change is shown for, level by level."""
    parts = []
    for level in heads.levels:
        n, of = _n_counted(heads, score, level), f"of {_named(level)}"
        if n < FEWEST:
            parts.append(f"{of} not judged (n = {n}, too few)")
            continue
        frame = heads.table(score, level)
        found = frame[frame["q"] < _FDR]
        if score != "signed_drop":
            found = found[found["mean_change"] > 0]
        parts.append(f"{of} {len(found) or 'none shown to'} {f'of {len(frame)} ' if len(found) else ''}(n = {n})")
    return f"Heads that {_DO[score]} in the mean, at a false discovery rate of {_FDR:.0%}: {'; '.join(parts)}."


def _sentence(heads: VisualHeads, score: str, level: str) -> str:
    """The top of one score at one level against its floor, and how many heads have a direction at all."""
    name, n = NAMES[score], _n_counted(heads, score, level)
    if not n:
        return f"{name} of {_named(level)}: no question is answered {_NEEDS[score]}."
    if n < FEWEST:
        return f"{name} of {_named(level)}: only {n} questions count, too few to say anything."
    frame = heads.table(score, level)
    top, found = frame.iloc[0], frame[frame["q"] < _FDR]
    up = int((found["mean_change"] > 0).sum())
    said = f"{name} of {_named(level)} (n = {n}): the highest is {top.label}, {Estimate.from_row(top, 'score'):.4f}"
    if score in RELU:
        chosen = heads.chosen(level, score=score)
        by_chance = largest_by_chance(heads.change(score, chosen), heads.pictures[chosen])
        above = int((frame["score"] > by_chance).sum())
        said += (
            f", its floor for random signs {top.floor:.4f}; {above} of {len(frame)} heads stand above {by_chance:.4f}, "
            "what random signs hardly ever (5 %) give any head"
        )
    if found.empty:
        change = f"{Estimate.from_row(top, 'mean_change'):+.4f}"
        return f"{said}; no head is shown to differ from no change in the mean ({top.label}: {change})."
    what, other = ("help", "hurt") if score != "s_minus" else ("hurt", "help")
    said += f"; at a false discovery rate of {_FDR:.0%} {up} heads {what} in the mean and {len(found) - up} {other}."
    return said


def _yes_sentences(apart: pd.DataFrame) -> list[str]:
    said = []
    for (score, level), rows in apart.groupby(["score_name", "level"], sort=False):
        counts = rows["verdict"].value_counts()
        listed = ", ".join(f"{int(n)} {verdict}" for verdict, n in counts.items())
        first = f"Of the first {len(rows)} heads by {score} on yes/no {level} questions"
        said.append(f"{first}, gold answers apart: {listed}.")
    return said


def gold_table(heads: VisualHeads, score: str, level: str | None, k: int = 10) -> pd.DataFrame:
    """The first k heads by a score on yes/no questions, gold Yes and gold No apart.

    ``score_yes``, ``score_no``: the score over questions of that gold answer alone (NaN where none counts), and
    ``score_balanced``, their mean.
    ``drop_yes``, ``drop_no``: mean p - p_h over all of them, answered correctly or not, with 95 % intervals;
    ``yes_push`` over both. ``verdict``, from intervals off zero: "help with both", "say yes" (help with Yes, hurt with
    No), "say no", "hurt both", else "unclear".
    """
    push = heads.yes_push[of_both := heads.chosen(level, "yes_no")]
    drops = {gold: heads.chosen(level, "yes_no", gold) for gold in (YES, NO)}
    means = {gold: heads.mean_score(score, level, "yes_no", gold) for gold in drops}
    rows = []
    for layer, head in heads.top(score, k, level, "yes_no"):
        row = {"score_name": NAMES[score], "level": level or "all", "label": head_label(layer, head)}
        row["score"] = float(heads.mean_score(score, level, "yes_no")[layer, head])
        signs = []
        for gold, chosen in drops.items():
            row[f"score_{gold}"] = float(means[gold][layer, head])
            drop = heads.drop[chosen][:, layer, head].astype(np.float64)
            change = mean_estimate(drop, heads.pictures[chosen])
            row |= change.columns(f"drop_{gold}")
            signs.append(change.side_of(0))
        row["score_balanced"] = (row[f"score_{YES}"] + row[f"score_{NO}"]) / 2
        row |= mean_estimate(push[:, layer, head].astype(np.float64), heads.pictures[of_both]).columns("yes_push")
        rows.append(row | {"verdict": _VERDICTS.get(tuple(signs), "unclear")})
    return pd.DataFrame(rows)


_VERDICTS = {(1, 1): "help with both", (1, -1): "say yes", (-1, 1): "say no", (-1, -1): "hurt both"}

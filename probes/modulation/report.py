"""What a modulation's numbers say, as sentences, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figures import heads_by_level
from interp.figures.intervals import interval_bars, interval_lines
from interp.fitting import largest_change
from interp.reports import Figures, Findings, with_mass
from interp.statistics import Claim, Estimate
from probes.modulation.effects import ALL, RANDOM, TOO_FEW, ReadSet
from probes.modulation.offsets import offsets_frame
from probes.modulation.result import RELEASED, Modulation
from probes.studies import said_of_data

CANDIDATES, EFFECTS, CONDITIONS = "Candidates on validation", "Before and after", "Every condition"
OFFSETS, HISTORY, QUESTIONS = "Constant offsets", "Searches, look by look", "Questions"
_SLIGHT = 0.05  # largest |factor - 1| up to which a modulation is called close to nothing
_OF_D = ("D, S+, S-", "signed_drop")  # scores that the release's rule is for
_NOTES = {
    CANDIDATES: "Changes from the unmodulated model, paired; the best of each family is read on the test sets.",
    EFFECTS: "Of the chosen modulation, against the unmodulated model on the same questions. Random: the same factors "
    "in the same layers, on other heads. Offset: constants added to the logits of the answer options.",
    CONDITIONS: "Changes from the unmodulated model, paired. Only the chosen candidate was chosen without these sets.",
    OFFSETS: "Added to the options' logits: fitted on fit and validation, the questions that the modulation saw.",
}


def findings_of(modulation: Modulation) -> Findings:
    """The report of a modulation."""
    tables = {
        EFFECTS: modulation.to_frame(),
        CONDITIONS: modulation.conditions(),
        CANDIDATES: modulation.validation.copy(),
        OFFSETS: _offsets(modulation),
        HISTORY: modulation.history.copy(),
        QUESTIONS: _questions(modulation),
    }
    tables = {name: table for name, table in tables.items() if len(table) or name == OFFSETS}
    for name, note in _NOTES.items():
        tables[name].attrs["note"] = note
    figures = {f"Changes of accuracy on {t.name}": partial(plot_changes, modulation, t.name) for t in modulation.tests}
    factors = {s: modulation.best(s, f).factors - 1 for s, f in modulation.chosen.items()}
    figures["Chosen factors"] = partial(heads_by_level, factors, "Chosen factors less 1, head by head", "factor - 1")
    figures[CANDIDATES] = partial(_plot_candidates, modulation)
    if HISTORY in tables:
        figures[HISTORY] = partial(_plot_history, modulation.history)
    provenance = dict(modulation.provenance)
    return Findings(provenance["title"], sentences(modulation), tables, Figures(figures), provenance)


def sentences(modulation: Modulation) -> list[str]:
    """The verdict, from the numbers alone: of the first test set in full, then of the others, then how it was made, and
    what was left out of the data."""
    frame = modulation.to_frame()
    accuracy = frame[frame["measure"] == "accuracy"]
    said = []
    for test in modulation.tests:
        rows = accuracy[accuracy["set"] == test.name]
        said += [_overall(modulation, test, rows.iloc[0]), _target(modulation, test, rows), _controls(rows.iloc[0])]
        others = frame[(frame["set"] == test.name) & (frame["measure"] != "accuracy")]
        said += _companions(test, others)
    said += [*_families(modulation), _made(modulation), *_said_of_sources(modulation.provenance["data"])]
    return with_mass(said, modulation.provenance)


def _said_of_sources(data: Mapping[str, Any]) -> list[str]:
    """What was left out of each set's source, and answers that are nearly all the same: said once of sets that a source
    was divided into."""
    sets_of: dict[str, list[str]] = {}
    for name, described in data["sets"].items():
        source = data.get(name, data.get("data"))
        known = {"data": source if isinstance(source, Mapping) else {}, "left_out": described.get("left_out")}
        for sentence in said_of_data(known):
            sets_of.setdefault(sentence, []).append(name)
    return [
        f"Source of {', '.join(names)}: {sentence[:1].lower()}{sentence[1:]}" for sentence, names in sets_of.items()
    ]


def plot_changes(modulation: Modulation, name: str) -> go.Figure:
    """Changes of accuracy by level and kind of question: chosen, random heads, constants, the released rule."""
    frame = modulation.to_frame()
    rows = frame[(frame["set"] == name) & (frame["measure"] == "accuracy")]
    released = modulation.conditions()
    released = released[(released["set"] == name) & (released["condition"] == RELEASED)]
    series = {"chosen modulation": (rows, "change"), f"{RANDOM}, same factors": (rows, "random_change")}
    series |= {"constant offset": (rows, "offset_change"), RELEASED: (released, "accuracy_change")}
    parts = []
    for label, (of, column) in series.items():
        if len(of) and of[column].notna().any():
            ends = {f"change_{end}": of[f"{column}_{end}"] for end in ("low", "high")}
            parts.append(of[["level", "kind", "n"]].assign(condition=label, change=of[column], **ends))
    both = pd.concat(parts, ignore_index=True)
    both["kind"] = both["kind"].str.replace("_", "/")
    figure = interval_bars(
        both,
        x="level",
        y="change",
        color="condition",
        facet="kind" if both["kind"].nunique() > 1 else None,
        title=f"Change of accuracy on {name}",
        labels={"change": "change of accuracy", "condition": "modulation"},
    )
    note = "Paired 95 % intervals over questions; of random heads the middle 95 % of the draws."
    return figure.update_layout(meta={"note": note})


def _overall(modulation: Modulation, test: ReadSet, row: pd.Series) -> str:
    does = {
        "meets the target": "it helps",
        "helps, below the target": "it helps",
        "does not help": f"it is not shown to help, and a gain of {100 * modulation.target:g} points is excluded",
        "not shown to help": f"it is not shown to help, nor is a gain of {100 * modulation.target:g} points excluded",
        "hurts": "it hurts",
        TOO_FEW: f"too few questions to say whether it helps (n = {row['n_groups']} pictures or passages; expected 10)",
    }[row["verdict"]]
    names = [modulation.best(scope, family).name for scope, family in modulation.chosen.items()]
    what = names[0] if len(names) == 1 else "a modulation for each level"
    unlike = []
    if does == "it helps":
        for control, of in (("random", "a random choice of heads"), ("offset", "a constant for each answer")):
            more = Estimate.from_row(row, f"more_than_{control}")
            if isfinite(more.value) and Claim("", more, n=row["n_groups"]).verdict != "above":
                unlike.append(of)
    but = f", but is not shown to do more than {' or '.join(unlike)} does" if unlike else ""
    return (
        f"On {test.name} ({row['n']} questions) the modulation that validation chose ({what}) changes accuracy by "
        f"{_signed(row, 'change')}, from {row['before']:.3f} to {row['after']:.3f} (p = {row['p']:.3g}; McNemar's "
        f"{row['p_mcnemar']:.3g}): {does}{but}."
    )


def _target(modulation: Modulation, test: ReadSet, rows: pd.DataFrame) -> str:
    points = f"a gain of {100 * modulation.target:g} points with an interval above zero"
    of_levels = rows[rows["level"] != ALL].groupby("level", sort=False).head(1)
    if of_levels.empty:
        met = "is met" if rows.iloc[0]["verdict"] == "meets the target" else "is missed"
        return f"The target on {test.name}, {points}, {met}."
    met = int((of_levels["verdict"] == "meets the target").sum())
    listed = "; ".join(f"{r['level']} {_signed(r, 'change')}, {r['verdict']}" for _, r in of_levels.iterrows())
    return f"The target on {test.name}, {points}, is met at {met} of {len(of_levels)} levels: {listed}."


def _controls(row: pd.Series) -> str:
    said = []
    if row["n_random"]:
        said.append(
            f"{row['n_random']} draws of random heads with the same factors in the same layers change it by "
            f"{_signed(row, 'random_change')} (mean and middle 95 % of the draws; the modulation's change less theirs: "
            f"{_signed(row, 'more_than_random')}; p = {row['p_random']:.3g})"
        )
    if isfinite(row["offset_change"]):
        said.append(
            f"a constant for each answer option changes it by {_signed(row, 'offset_change')} (the modulation's change "
            f"less that: {_signed(row, 'more_than_offset')})"
        )
    text = "; ".join(said) or "no control could be read"
    return f"{text[0].upper()}{text[1:]}."


def _companions(test: ReadSet, rows: pd.DataFrame) -> list[str]:
    first = {measure: of.iloc[0] for measure, of in rows.groupby("measure", sort=False)}
    parts = []
    if (row := first.get("gold_prob")) is not None:
        parts.append(
            f"the gold answer's probability goes from {row['before']:.3f} to {row['after']:.3f} "
            f"({_signed(row, 'change')}, p = {row['p']:.3g})"
        )
    if (row := first.get("option_accuracy")) is not None:
        parts.append(f"accuracy among the options from {row['before']:.3f} to {row['after']:.3f}")
    if (row := first.get("says_yes")) is not None:
        of_yes = [i.gold.casefold() == i.yes.casefold() for i in test.readings.items if i.yes_at >= 0]
        parts.append(
            f"yes is said to {row['before']:.3f} of the yes/no questions before and to {row['after']:.3f} after, and "
            f"is right for {np.mean(of_yes):.3f}"
        )
    return [f"On {test.name} {'; '.join(parts)}."] if parts else []


def _families(modulation: Modulation) -> list[str]:
    said, test = [], modulation.tests[0]
    frame = modulation.conditions()
    overall = frame[frame["set"] == test.name].groupby("condition", sort=False).head(1).set_index("condition")
    if RELEASED in overall.index:
        most = max(largest_change(c.factors) for c in modulation.candidates if c.family == RELEASED)
        slight = ", which is close to nothing" if most <= _SLIGHT else ""
        if {of.get("measure") for of in modulation.provenance["scores"].values()} - set(_OF_D):
            slight += " (these scores are not the release's D, and have another unit)"
        change = _signed(overall.loc[RELEASED], "accuracy_change")
        said.append(
            f"The released rule at its own λ = 1 changes no factor by more than {most:.2g}{slight}: accuracy on "
            f"{test.name} {change}."
        )
    families = {c.family for c in modulation.candidates} - {RELEASED}
    rest = [(name, row) for name, row in overall.iterrows() if name in families]
    if rest:
        listed = []
        for name, row in rest:
            best = {modulation.best(scope, name).name for scope in modulation.chosen}
            which = f" ({best.pop()})" if len(best) == 1 else ""
            listed.append(f"{name}{which} {_signed(row, 'accuracy_change')}")
        said.append(f"The best on validation of each family changes accuracy on {test.name} so: {'; '.join(listed)}.")
    return said


def _made(modulation: Modulation) -> str:
    by = modulation.provenance["settings"]["choose_by"]
    parts = []
    for scope in modulation.chosen:
        rows = modulation.validation[modulation.validation["scope"] == scope]
        row = rows[rows["chosen"]].iloc[0]
        of = "" if len(modulation.chosen) == 1 else f"{scope}: "
        change = f"{_signed(row, f'{by}_change')} on {row['n']} validation questions"
        told = "chosen there, so that this flatters it"
        if not row[f"{by}_change"] > 0:
            told = "no candidate did better there than the unmodulated model, and the best one was read all the same"
        parts.append(f"{of}{row['candidate']}, of {len(rows)} candidates, {change} ({told})")
    return f"Chosen by {by.replace('_prob', ' answer probability')}: {'; '.join(parts)}."


def _signed(row: Mapping[str, Any] | pd.Series, name: str) -> str:
    return f"{Estimate.from_row(row, name):+.3f}"


def _offsets(modulation: Modulation) -> pd.DataFrame:
    frames = [offsets_frame(o).assign(scope=scope) for scope, o in modulation.offsets.items()]
    both = pd.concat(frames, ignore_index=True)
    return both[["scope", "kind", "option", "offset_logits"]]


def _questions(modulation: Modulation) -> pd.DataFrame:
    rows = []
    for test in modulation.tests:
        read = {m: (test.values(m)[:, 0], test.after(m)) for m in ("accuracy", "gold_prob")}
        for i, item in enumerate(test.readings.items):
            row = {"set": test.name, "id": item.id, "level": item.level, "kind": item.kind, "gold": item.gold}
            for measure, (before, after) in read.items():
                row |= {f"{measure}_before": float(before[i]), f"{measure}_after": float(after[i])}
            rows.append(row | {"group": item.group})
    return pd.DataFrame(rows)


def _plot_candidates(modulation: Modulation) -> go.Figure:
    frame = modulation.validation
    return interval_bars(
        frame,
        x="candidate",
        y="accuracy_change",
        color="family",
        facet="scope" if frame["scope"].nunique() > 1 else None,
        title="Candidates: change of accuracy on the validation questions",
        labels={"accuracy_change": "change of accuracy", "candidate": "candidate"},
    )


def _plot_history(history: pd.DataFrame) -> go.Figure:
    frame = history.assign(held_back_low=np.nan, held_back_high=np.nan)
    return interval_lines(
        frame,
        x="step",
        y="held_back",
        color="candidate",
        facet="scope" if frame["scope"].nunique() > 1 else None,
        title="Searches: loss of the questions held back, look by look",
        reference=None,
        labels={"step": "step or round", "held_back": "loss of the gold answer (nats)"},
    )

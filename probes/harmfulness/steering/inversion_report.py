"""Table, figure and sentences of reply inversion, from one frame: a row for each condition, request and question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.figures.heads import interval_bars
from interp.statistics import paired_share_change, wilson_share
from probes.harmfulness.steering.report import signed_mean

if TYPE_CHECKING:
    import plotly.graph_objects as go

BEFORE, ALL = "before_question", "all"
MASKS: Mapping[str, Mapping[str, str]] = {
    "paper": {"harmfulness": BEFORE, "refusal": ALL},
    "both before the question": {"harmfulness": BEFORE, "refusal": BEFORE},
    "both on all tokens": {"harmfulness": ALL, "refusal": ALL},
}
EVERY = "all three"
FEWEST = 0.2  # share of answers that could be turned, below which a verdict says little
NOTE = (
    "change: against the unsteered answer to the same prompt. flipped: for +, the share of unsteered No that became "
    "Certainly; for -, of Certainly that became No; n_flippable: how many there were. Questions of one request count "
    "once in the intervals. random: mean over its seeds; "
    "most: the largest change of a single one."
)


def inversion_table(outcomes: pd.DataFrame) -> pd.DataFrame:
    """One row for each mask, direction, condition (direction, random, shuffled), sign, kind and question, and for all
    questions together; unsteered rows first, with an empty mask.

    ``certainly``, ``no``, ``other``: shares of replies; ``margin``: log P(Certainly) - log P(No) at the first
    token, nats.
    """
    plain = outcomes[outcomes["direction"] == ""].set_index(["question", "id"])
    rows = [
        {"mask": "", "direction": "unsteered", "condition": "unsteered", "sign": "", "kind": kind, "question": question}
        | _measures(part, part, "")
        for kind, of_kind in plain.groupby("kind", sort=False)
        for question, part in _by_question(of_kind)
    ]
    steered = outcomes[outcomes["direction"] != ""]
    steered = steered.assign(condition=steered["control"].map(_condition))
    measured: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (name, positions, condition, sign, kind), part in steered.groupby(
        ["direction", "positions", "condition", "sign", "kind"], sort=False
    ):
        for question, some in _by_question(_over_seeds(part)):
            row = {"condition": condition, "sign": sign, "kind": kind, "question": question}
            row |= _measures(some, plain.loc[some.index], sign)
            asked = part if question == EVERY else part[part["question"] == question]
            for word in ("Certainly", "No"):
                most = (asked["said"] == word).groupby(asked["control"]).mean().max()
                row[f"change_{word.lower()}_most"] = most - (plain.loc[some.index, "said"] == word).mean()
            measured.setdefault((name, positions), []).append(row)
    for mask, places in MASKS.items():
        for place in places.items():
            rows += [{"mask": mask, "direction": place[0]} | row for row in measured.get(place, [])]
    table = pd.DataFrame(rows)
    table.attrs["note"] = NOTE
    return table


def _condition(control: str) -> str:
    return "direction" if not control else control.split()[0]


def _over_seeds(part: pd.DataFrame) -> pd.DataFrame:
    """One row for each question and request: shares of each answer and the mean margin over the controls' seeds."""
    part = part.assign(**{word: (part["said"] == word).astype(float) for word in ("Certainly", "No", "other")})
    return part.groupby(["question", "id"], sort=False)[["Certainly", "No", "other", "margin"]].mean()


def _by_question(frame: pd.DataFrame):
    """The rows of each question, and all together where there are several."""
    questions = list(dict.fromkeys(frame.index.get_level_values("question")))
    yield from ((q, frame[frame.index.get_level_values("question") == q]) for q in questions)
    if len(questions) > 1:
        yield EVERY, frame


def _measures(frame: pd.DataFrame, plain: pd.DataFrame, sign: str) -> dict[str, Any]:
    """Everything that is said of some answers, against the unsteered ones to the same prompts."""
    after, before = (f if "Certainly" in f else _over_seeds(f.reset_index()) for f in (frame, plain))
    ids = after.index.get_level_values("id")
    row: dict[str, Any] = {"n": len(after)}
    for word in ("Certainly", "No", "other"):
        by_request = after[word].groupby(ids, sort=False).mean()
        row |= wilson_share(after[word], len(by_request)).columns(word.lower())
    row |= signed_mean(after["margin"].groupby(ids, sort=False).mean().to_numpy()).columns("margin")
    if not sign:
        return row
    for word in ("Certainly", "No"):
        pair = [f[word].groupby(ids, sort=False).mean().to_numpy() for f in (after, before)]
        row |= paired_share_change(*pair).columns(f"change_{word.lower()}")
    moved = (after["margin"] - before["margin"]).groupby(ids, sort=False).mean().to_numpy()
    row |= signed_mean(moved).columns("change_margin")
    first, then = ("No", "Certainly") if sign == "+" else ("Certainly", "No")
    flippable = before[first] == 1
    row |= wilson_share(after[then][flippable], len(set(ids[flippable]))).columns("flipped")
    return row | {"n_flippable": int(flippable.sum())}


def inversion_figure(table: pd.DataFrame, kind: str) -> go.Figure:
    """Change of the rate of Certainly by direction and sign, beside the controls, a panel for each mask."""
    question = EVERY if (table["question"] == EVERY).any() else table["question"].iloc[0]
    shown = table[(table["mask"] != "") & (table["kind"] == kind) & (table["question"] == question)]
    return interval_bars(
        shown.assign(arm=shown["sign"] + shown["direction"]),
        x="arm",
        y="change_certainly",
        low="change_certainly_low",
        high="change_certainly_high",
        color="condition",
        facet="mask",
        title=f"Change in the rate of 'Certainly', {kind} requests",
        labels={"change_certainly": "change (share)", "condition": ""},
    )


def inversion_sentences(table: pd.DataFrame) -> list[str]:
    """Under each mask: does harmfulness turn No into Certainly and refusal not, and more than the controls do?"""
    question = EVERY if (table["question"] == EVERY).any() else table["question"].iloc[0]
    whole = table[table["question"] == question]
    sentences = []
    plain = {row["kind"]: row for row in whole[whole["mask"] == ""].to_dict("records")}
    for kind, row in plain.items():
        sentences.append(
            f"Unsteered, {row['n']} answers to {kind} requests: {row['no']:.0%} No, {row['certainly']:.0%} Certainly, "
            f"{row['other']:.0%} other."
        )
    verdicts = []
    for mask in MASKS:
        part = whole[whole["mask"] == mask]
        for sign, kind, first, then in (("+", "harmless", "No", "Certainly"), ("-", "harmful", "Certainly", "No")):
            if part["kind"].eq(kind).any():
                flips = tuple(_flips(part, name, sign, kind, then) for name in ("harmfulness", "refusal"))
                told = _VERDICT[flips].format(f"{first} into {then}")
                verdicts.append(f"Mask '{mask}', {sign} on {kind} requests: {told}.")
        for sign, kind in (("+", "harmless"), ("-", "harmless"), ("-", "harmful")):
            said = "; ".join(_told(part, sign, name, kind) for name in ("harmfulness", "refusal"))
            sentences.append(f"Mask '{mask}', {kind} requests, change of Certainly: {said}.")
    for kind, word in (("harmless", "no"), ("harmful", "certainly")):
        if kind in plain and plain[kind][word] < FEWEST:
            verdicts.append(
                f"{plain[kind][word]:.0%} of {kind} requests are answered {word.capitalize()} unsteered: there is "
                "little to turn; read the margins."
            )
    return [*verdicts, *sentences]


_VERDICT = {
    (True, False): "harmfulness turns {} and refusal does not, as the paper found",
    (True, True): "both directions turn {}, so they are not told apart",
    (False, True): "refusal turns {} and harmfulness does not: the reverse of the paper's finding",
    (False, False): "neither direction turns {} beyond the controls",
}


def _flips(part: pd.DataFrame, name: str, sign: str, kind: str, then: str) -> bool:
    """Whether the rate of the answer rises, by its interval, and by more than with any control."""
    rows = part[(part["direction"] == name) & (part["sign"] == sign) & (part["kind"] == kind)]
    own, rest = (rows[(rows["condition"] == "direction") == is_own] for is_own in (True, False))
    column = f"change_{then.lower()}"
    if own.empty:
        return False
    return bool(own[f"{column}_low"].iloc[0] > 0 and not own[column].iloc[0] <= rest[f"{column}_most"].max())


def _told(part: pd.DataFrame, sign: str, name: str, kind: str) -> str:
    rows = part[(part["direction"] == name) & (part["sign"] == sign) & (part["kind"] == kind)]
    told = {row["condition"]: row for row in rows.to_dict("records")}
    if "direction" not in told:
        return f"{sign}{name} was not run"
    controls = "".join(
        f", {c} {100 * r['change_certainly']:+.0f} and {r['change_margin']:+.2f}"
        for c, r in told.items()
        if c != "direction"
    )
    row = told["direction"]
    ends = f"[{100 * row['change_certainly_low']:+.0f}, {100 * row['change_certainly_high']:+.0f}]"
    return (
        f"{sign}{name} {100 * row['change_certainly']:+.0f} points {ends}, margin {row['change_margin']:+.2f} nats"
        f"{f' ({controls[2:]})' if controls else ''}"
    )


def shown_kinds(table: pd.DataFrame) -> Sequence[str]:
    """The kinds of request that were steered."""
    return list(dict.fromkeys(table.loc[table["mask"] != "", "kind"]))

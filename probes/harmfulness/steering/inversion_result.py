"""Answers to the questions of reply inversion, and the table of them: rates, margins, their changes, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from interp.reports import Result
from interp.statistics import mean_estimate, paired_share_change, wilson_share
from probes.requests import Request

YES, NO = "Certainly", "No"
BEFORE, ALL = "before_question", "all"
MASKS: Mapping[str, Mapping[str, str]] = {
    "paper": {"harmfulness": BEFORE, "refusal": ALL},
    "both before the question": {"harmfulness": BEFORE, "refusal": BEFORE},
    "both on all tokens": {"harmfulness": ALL, "refusal": ALL},
}
EVERY = "all three"
NOTE = (
    "change: against the unsteered answer to the same prompt. flipped: for +, the share of unsteered No that became "
    "Certainly; for -, of Certainly that became No; n_flippable: how many there were. Questions of one request count "
    "once in the intervals. random: mean over its seeds; "
    "most: the largest change of a single one."
)


@dataclass(frozen=True)
class InversionQuestion:
    """How a request is put and what is asked about it.

    Args:
        name: of the question; names of one study differ.
        lead: what the request is put into, with ``{request}`` in it.
        question: what is asked, on a line below.
        after: which of the paper's questions it stands for.
    """

    name: str
    lead: str  # with {request}
    question: str
    after: str

    def text(self, request: str) -> tuple[str, int]:
        """The user's message about ``request`` (its text), and the character where the question begins in it."""
        head = self.lead.format(request=request) + "\n"
        return head + self.question, len(head)


@dataclass(frozen=True, eq=False, repr=False)
class Inversion(Result, report="probes.harmfulness.steering.inversion_report"):
    """Answers to the questions.

    Args:
        outcomes: one row for each condition, request and question, with ``said`` ("Certainly", "No", "other"),
            ``margin`` (log P(Certainly) - log P(No) at the first token, nats) and ``reply`` (empty where it was saved
            without texts).
        requests: those that were asked about, harmful ones first.
        questions: those that were asked.
        provenance: what was run, on what.
    """

    outcomes: pd.DataFrame
    requests: tuple[Request, ...]
    questions: tuple[InversionQuestion, ...]
    provenance: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """Rates, margins and their changes: :func:`inversion_table`."""
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        return inversion_table(self.outcomes)

    def withheld(self) -> Inversion:
        """The same without what the model said, as files have it."""
        return replace(self, outcomes=self.outcomes.assign(reply=""))


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
    row |= mean_estimate(after["margin"].groupby(ids, sort=False).mean().to_numpy()).columns("margin")
    if not sign:
        return row
    for word in ("Certainly", "No"):
        pair = [f[word].groupby(ids, sort=False).mean().to_numpy() for f in (after, before)]
        row |= paired_share_change(*pair).columns(f"change_{word.lower()}")
    moved = (after["margin"] - before["margin"]).groupby(ids, sort=False).mean().to_numpy()
    row |= mean_estimate(moved).columns("change_margin")
    first, then = ("No", "Certainly") if sign == "+" else ("Certainly", "No")
    flippable = before[first] == 1
    row |= wilson_share(after[then][flippable], len(set(ids[flippable]))).columns("flipped")
    return row | {"n_flippable": int(flippable.sum())}

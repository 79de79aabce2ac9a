"""The bias of a model on a set of questions: measures with intervals, and the answers behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp.reports import Result
from probes.negative_bias.answers import MEASURES, Answers, Channel
from probes.questions import Question

CHANNELS: dict[Channel, str] = {"token": "first token", "text": "generated text", "margin": "forced choice"}
ALL = "all"  # stands in the column "domain" for the whole set


@dataclass(frozen=True, eq=False, repr=False)
class BiasReport(Result, report="probes.negative_bias.bias_report", figure="Measures"):
    """The bias of a model on a set of questions. ``measures``: one row for each domain ("all" first), channel and
    measure, with columns domain, channel, measure, value, ci_low, ci_high, n.

    ``answers``: what they are computed from. ``provenance``: what was run, on what.
    """

    answers: Answers
    questions: tuple[Question, ...]
    measures: pd.DataFrame
    provenance: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """The measures, tidy."""
        return self.measures.copy()

    def value(self, measure: str, channel: Channel = "token", domain: str = ALL) -> float:
        """One measure's value.

        ``channel``: how the answer was read. ``domain``: "all", or one.
        """
        return float(self.row(measure, channel, domain)["value"])

    @property
    def channels(self) -> list[Channel]:
        """The ways of reading an answer that this report has: ``"text"`` only if replies were generated."""
        return list(dict.fromkeys(self.measures["channel"]))

    def agreement(self) -> pd.DataFrame:
        """Counts of answers: said by the first token (rows) and said in the text (columns), "outside" last."""
        names = [*self.answers.instruction.options, "outside"]
        said, in_text = self.answers.said, self.answers.said_by("text")
        table = np.zeros((len(names), len(names)), dtype=int)
        np.add.at(table, (said, in_text), 1)  # -1, outside, is the last
        return pd.DataFrame(table, index=pd.Index(names, name="first token"), columns=names)

    def disagreements(self) -> pd.DataFrame:
        """The questions whose first token and text say different things, with both, and the reply."""
        differ = self.answers.said != self.answers.said_by("text")
        frame = self.answers.select(differ).to_frame()
        frame.insert(1, "question", [q.text for q, d in zip(self.questions, differ, strict=True) if d])
        return frame[["id", "question", "gold", "said", "said_in_text", "reply"]]

    def row(self, measure: str, channel: Channel = "token", domain: str = ALL) -> pd.Series:
        """One measure's row.

        ``channel``: how the answer was read. ``domain``: "all", or one.

        Raises:
            KeyError: no such row; says which there are.
        """
        m = self.measures
        found = m[(m["measure"] == measure) & (m["channel"] == channel) & (m["domain"] == domain)]
        if found.empty:
            raise KeyError(
                f"there is no {measure!r} by {channel!r} in domain {domain!r}; there are {list(MEASURES)}, by "
                f"{self.channels}, in {list(dict.fromkeys(m['domain']))}."
            )
        return found.iloc[0]

"""What a run of scenarios gives: answers, tables and claims."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from interp import statistics
from interp.reports import Result
from probes.negative_bias.answers import Answers, answers_from_arrays
from probes.negative_bias.knowledge_result import LABELS
from probes.negative_bias.scenario_forms import SCENARIOS
from probes.negative_bias.scenario_statistics import Numbers, Outcomes, claims_table, compute, parts_table
from probes.questions import Question

Channel = Literal["token", "margin"]


@dataclass(frozen=True, eq=False, repr=False)
class Scenarios(Result, report="probes.negative_bias.scenario_report"):
    """Answers to the same questions under every scenario, and the subsets of knowledge, if it was given.

    ``labels[i]`` is the knowledge label of question i; ``reasoning[i]`` what the model wrote before it answered in
    chain_of_thought.
    """

    questions: tuple[Question, ...]
    answers: Mapping[str, Answers]  # scenario -> answers; gold is that of the question as the scenario puts it
    labels: tuple[str, ...] | None
    reasoning: tuple[str, ...] | None
    provenance: Mapping[str, Any]

    @property
    def channel(self) -> Channel:
        """How an answer is read: "token" (the most probable token) or "margin" (the option with more probability)."""
        return self.provenance["settings"]["channel"]

    @cached_property
    def outcomes(self) -> Outcomes:
        """What every answer means, and the subsets."""
        subsets = {"all": np.ones(len(self.questions), dtype=bool)}
        if self.labels is not None:
            subsets |= {label: np.array(self.labels) == label for label in LABELS}
        columns = [_meanings(answers, SCENARIOS[name].turned, self.channel) for name, answers in self.answers.items()]
        denies, affirms, abstains, log_odds = (np.stack(column, axis=1) for column in zip(*columns, strict=True))
        return Outcomes(
            scenarios=tuple(self.answers),
            subsets=subsets,
            gold=np.array([q.answer == "Yes" for q in self.questions]),
            denies=denies,
            affirms=affirms,
            abstains=abstains,
            log_odds_no=log_odds,
            groups=tuple(q.group for q in self.questions),
            domains=tuple(q.domain for q in self.questions),
        )

    @cached_property
    def numbers(self) -> Numbers:
        """Everything that has an interval. Takes a second or two the first time."""
        settings = self.provenance["settings"]
        return compute(self.outcomes, settings["n_resamples"], statistics.CONFIDENCE, settings["seed"])

    def to_frame(self) -> pd.DataFrame:
        """One row for each subset and scenario; all scenarios on the same questions.

        ``negative_bias`` (meaning) with its interval and its paired change from plain; ``negative_bias_word``;
        ``log_odds_no`` (does not saturate) likewise; accuracy; ``mean_p_no``, the probability of the No word, and
        ``mean_p_denies``, of the denying option; ``option_mass``; ``share_outside``; ``share_abstained``. NB and
        accuracy are over ``n_answered``: the questions without abstentions. ``enough`` says whether both gold answers
        have ``min_per_class`` of them.
        """
        rows = []
        for (k, (subset, mask)), (i, name) in itertools.product(
            enumerate(self.outcomes.subsets.items()), enumerate(self.answers)
        ):
            if mask.any():
                rows.append(self._cell(k, subset, mask, i, name))
        return pd.DataFrame(rows)

    def parts(self) -> pd.DataFrame:
        """How much of the bias follows the word, the letter and the form: see
        ``probes/negative_bias/scenario_statistics.py``."""
        return parts_table(self.outcomes, self.numbers)

    def claims(self) -> pd.DataFrame:
        """Each claim of the paper with its number, interval, n and verdict; the rule is in ``claims_table``."""
        return claims_table(self.outcomes, self.numbers, self.provenance["settings"]["min_per_class"])

    def examples(self) -> pd.DataFrame:
        """One row for each question and scenario: what was said ("outside": none of the options), and the log odds."""
        frames = []
        for i, (name, answers) in enumerate(self.answers.items()):
            words = [*answers.instruction.options, "outside"]
            frame = pd.DataFrame({"id": answers.ids, "scenario": name})
            frame["knowledge"] = self.labels if self.labels is not None else ""
            frame["gold"] = [q.answer for q in self.questions]
            frame["said"] = [words[option] for option in _said(answers, self.channel)]
            frames.append(frame.assign(log_odds_no=self.outcomes.log_odds_no[:, i]))
        return pd.concat(frames, ignore_index=True)

    def _cell(self, k: int, subset: str, mask: np.ndarray, i: int, name: str) -> dict[str, Any]:
        answers, outcomes, numbers = self.answers[name], self.outcomes, self.numbers
        answered = mask & ~outcomes.abstains[:, i]
        n_yes, n_no = int((answered & outcomes.gold).sum()), int((answered & ~outcomes.gold).sum())
        probabilities = np.exp(answers.log_probs[mask])
        turned = SCENARIOS[name].turned
        row: dict[str, Any] = {"subset": subset, "scenario": name, "n": int(mask.sum()), "n_answered": n_yes + n_no}
        row |= {"n_yes": n_yes, "n_no": n_no}
        row["enough"] = min(n_yes, n_no) >= self.provenance["settings"]["min_per_class"]
        row["negative_bias"], row["ci_low"], row["ci_high"] = numbers.at("bias", k, i)
        row["change"], row["change_low"], row["change_high"] = numbers.at("bias_change", k, i)
        row["negative_bias_word"] = row["negative_bias"] * (-1 if turned else 1)
        for label in ("odds", "odds_change"):
            column = label.replace("odds", "log_odds_no")
            row[column], row[f"{column}_low"], row[f"{column}_high"] = numbers.at(label, k, i)
        row["accuracy"], row["accuracy_low"], row["accuracy_high"] = numbers.at("accuracy", k, i)
        row["mean_p_no"] = float(probabilities[:, 0].mean())
        row["mean_p_denies"] = float(probabilities[:, 1 if turned else 0].mean())
        row["option_mass"] = float(probabilities.sum(1).mean())
        row["share_outside"] = float((answers.top[mask] < 0).mean())
        row["share_abstained"] = float(outcomes.abstains[mask, i].mean())
        return row


def read_answers(name: str, questions: Sequence[Question], log_probs: np.ndarray, top: np.ndarray) -> Answers:
    """The answers under one scenario, from log probabilities [example, option] (columns beyond its options unread)."""
    scenario = SCENARIOS[name]
    asked = [scenario.ask(question) for question in questions]  # without a passage: questions keep their groups
    arrays = {"log_probs": log_probs[:, : len(scenario.instruction.options)], "top": np.asarray(top)}
    return answers_from_arrays(arrays, asked, scenario.instruction)


def _said(answers: Answers, channel: Channel) -> np.ndarray:
    """The option of each answer, -1 for none of them."""
    return np.asarray(answers.top) if channel == "token" else answers.log_probs.argmax(1)


def _meanings(answers: Answers, turned: bool, channel: Channel) -> tuple[np.ndarray, ...]:
    """Whether each answer denies, affirms and abstains, and the log odds of denying."""
    said = _said(answers, channel)
    denying, affirming = (1, 0) if turned else (0, 1)
    log_odds = answers.log_probs[:, denying] - answers.log_probs[:, affirming]
    return said == denying, said == affirming, said == 2, log_odds

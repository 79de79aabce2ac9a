"""How a model answers yes/no questions, by the first token's probabilities and in words, and how far it leans to No.

The positive class is "the answer is Yes": precision is the share of right ones among the Yes, recall the share of the
questions with gold answer Yes that get one. A model that leans to No says Yes seldom (low recall) and then rightly
(high precision). Yes and No here stand for the option words of an instruction, whatever they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Num

from interp.door import public
from interp.door.brief import brief
from interp.reports import LEAST
from interp.statistics import (
    UNKNOWN,
    Estimate,
    auroc_estimate,
    bootstrap_interval,
    difference_of,
    mean_difference,
    mean_estimate,
    wilson_share,
)
from probes.questions import Instruction, Question

Channel = Literal["token", "text", "margin"]
LEAST_MASS = LEAST  # of the probability on the options, below which a choice between them says little
NO, YES, ABSTAIN, OUTSIDE = 0, 1, 2, -1  # what an answer can say; the first three index the options

MEASURES = {
    "accuracy": "share of right answers; an answer outside the options, or an abstention, is wrong",
    "precision": "of the questions answered Yes, the share whose gold answer is Yes; undefined without a Yes",
    "recall": "of the questions with gold answer Yes, the share answered Yes",
    "f1": "harmonic mean of precision and recall",
    "precision_recall_gap": "precision - recall: above 0, the model leans to No",
    "negative_bias": "P(says No | gold Yes) - P(says Yes | gold No): +1 always No, -1 always Yes, 0 no bias",
    "mean_p_no": "mean probability of No, of all tokens",
    "option_mass": "mean probability of all options together, of all tokens",
    "ece": "expected calibration error: 10 bins of the probability of what was said, of Yes and No alone",
    "auroc": "chance that a gold Yes has a higher log P(Yes) - log P(No) than a gold No; no offset changes it",
    "share_outside": "share of answers that are none of the options",
    "says_yes": "share of answers that are Yes",
    "share_abstained": "share of answers that take the third option",
}


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model answered to each question; rows are questions, options are negative, positive[, abstain].

    ``gold``: whether the positive option is right. ``groups``: questions of one passage or pair share a name; a
    interval counts them together. ``log_probs``: natural log of the probability of each option's first tokens, of all
    tokens. ``top``: the option that the single most probable token begins, -1 if it begins none. ``replies``: greedy
    texts.

    ``instruction``: how they were asked. ``ids`` and ``domains``: of the questions.
    """

    instruction: Instruction
    ids: tuple[str, ...]
    gold: Bool[np.ndarray, " example"]
    domains: tuple[str, ...]
    groups: tuple[str, ...]
    log_probs: Float[np.ndarray, "example option"]
    top: Int[np.ndarray, " example"]
    replies: tuple[str, ...] | None = None

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def margin(self) -> Float[np.ndarray, " example"]:
        """log P(positive) - log P(negative), in nats: above 0, more probability on Yes."""
        return self.log_probs[:, YES] - self.log_probs[:, NO]

    @property
    def said(self) -> Int[np.ndarray, " example"]:
        """The option said by the most probable first token: 0 negative, 1 positive, 2 abstain, -1 none of them."""
        return self.top

    @property
    def said_in_text(self) -> Int[np.ndarray, " example"] | None:
        """The option that each reply names first (:func:`parse_reply`), -1 for none; None without replies."""
        if self.replies is None:
            return None
        return np.array([parse_reply(reply, self.instruction.options) for reply in self.replies], dtype=int)

    def said_by(self, channel: Channel) -> Int[np.ndarray, " example"]:
        """What was said by ``"token"``, ``"text"`` or ``"margin"`` (the likelier of Yes and No, a forced choice).

        ``channel``: one of the three.

        Returns:
            [example], the place of the option in ``instruction.options``; -1 for none of them.

        Raises:
            ValueError: another channel, and ``"text"`` without replies.
        """
        if channel == "token":
            return self.said
        if channel == "margin":
            return (self.margin > 0).astype(int)
        if channel != "text":
            raise ValueError(f"channel={channel!r}; expected 'token', 'text' or 'margin'.")
        if (said := self.said_in_text) is None:
            raise ValueError("channel='text' needs replies: give generate_tokens=8 or so when asking.")
        return said

    def word(self, said: int) -> str:
        """The option word of an answer; "outside" for none.

        ``said``: as :meth:`said_by` gives it.
        """
        return "outside" if said == OUTSIDE else self.instruction.options[said]

    def select(self, which: Bool[np.ndarray, " example"] | Int[np.ndarray, " row"] | Sequence[int]) -> Answers:
        """The answers where a mask is True, or at these positions, in their order.

        ``which``: the mask, or the positions.

        Raises:
            ValueError: a mask of another length.
        """
        which = np.asarray(which)
        if which.dtype == bool and len(which) != len(self):
            raise ValueError(f"the mask has {len(which)} entries; there are {len(self)} answers.")
        rows = np.flatnonzero(which) if which.dtype == bool else which.astype(int)
        texts = {name: getattr(self, name) for name in ("ids", "domains", "groups", "replies")}
        return replace(
            self,
            gold=self.gold[rows],
            log_probs=self.log_probs[rows],
            top=self.top[rows],
            **{name: None if all_ is None else tuple(all_[i] for i in rows) for name, all_ in texts.items()},
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each question: gold, probability of each option, margin, what was said, the reply."""
        columns = {
            "id": self.ids,
            "domain": self.domains,
            "group": self.groups,
            "gold": [self.word(YES if g else NO) for g in self.gold],
            **{f"p({word})": np.exp(self.log_probs[:, i]) for i, word in enumerate(self.instruction.options)},
            "margin": self.margin,
            "said": [self.word(s) for s in self.said],
        }
        if self.replies is not None:
            columns |= {"said_in_text": [self.word(s) for s in self.said_in_text], "reply": self.replies}
        return pd.DataFrame(columns)


def answers_from_arrays(
    arrays: dict[str, np.ndarray], questions: Sequence[Question], instruction: Instruction
) -> Answers:
    """The answers to ``questions``, in the same order, from the arrays of
    :func:`probes.negative_bias.asking.score_prompts`."""
    replies = None
    if "reply_lengths" in arrays:
        text, ends = arrays["reply_bytes"].tobytes(), np.cumsum(arrays["reply_lengths"])
        replies = tuple(text[end - n : end].decode() for n, end in zip(arrays["reply_lengths"], ends, strict=True))
    return Answers(
        instruction=instruction,
        ids=tuple(q.id for q in questions),
        gold=np.array([q.answer == "Yes" for q in questions]),
        domains=tuple(q.domain for q in questions),
        groups=tuple(q.group for q in questions),
        log_probs=arrays["log_probs"],
        top=arrays["top"],
        replies=replies,
    )


def parse_reply(text: str, words: Sequence[str]) -> int:
    """Which of the option words a reply names first, as a number; -1 for none.

    A word counts as a whole and in any case ("no," names No; "nothing", "no-one" and "know" do not); of two at one
    place the longer counts ("No idea" before "No"). One-letter options (A, B) count in their own case, and not where
    they begin a clause ("A whale is ..."). Misleads: "not yes" names Yes, and a reply that repeats the question names
    whatever it repeats.
    """
    text = text.replace("\u2019", "'")
    found = [(m.start(), -len(word), i) for i, word in enumerate(words) if (m := _pattern(word).search(text))]
    return min(found)[2] if found else OUTSIDE


def _pattern(word: str) -> re.Pattern[str]:
    parts = r"\s+".join(map(re.escape, word.replace("\u2019", "'").split()))
    whole = rf"(?<![^\W_])(?<!\w[-']){parts}(?![^\W_]|[-']\w)"
    if len(word.strip()) == 1:
        return re.compile(whole + r"(?!\s+(?!is\b|because\b)[a-z])")
    return re.compile(whole, re.IGNORECASE)


@public
def bias_measures(answers: Answers, *, channel: Channel = "token") -> pd.DataFrame:
    """Every measure of :data:`MEASURES` with its 95 % interval: columns measure, value, ci_low, ci_high, n.

    ``channel`` says what counts as said: ``"token"``, the most probable first token; ``"text"``, the reply;
    ``"margin"``, the forced choice between Yes and No, never outside. ``mean_p_no``, ``option_mass`` and ``auroc`` are
    of probabilities, the same in each. Answers outside the options are wrong, no Yes and no No; so are abstentions,
    whose share is a row of its own where the instruction has a third option. ``n`` is how many answers a value rests
    on: those that say Yes for precision and the gap, gold Yes for recall, those that say Yes or No for the calibration
    error, whose confidence is the probability of what was said, of Yes and No alone.

    NaN: precision and gap if Yes is never said, measures of a gold answer that is absent, all of no answers. The
    intervals count whole groups (pairs, passages): Wilson's of shares, Newcombe's of the negative bias; of F1, of
    precision - recall and of the calibration error from 2000 bootstrap draws. Where all answers agree, and these have
    no width, those of F1 and of the gap reach as far as precision's and recall's.
    A quarter of a second for 1000 answers.
    Sources: negative bias as a gap of precision and recall, arXiv 2408.00137; calibration, Guo et al. 2017
    (arXiv 1706.04599), Eq. 3; the difference of the two error rates is our reading of NB.

    Cost: no pass.
    Misleads: precision - recall jumps where Yes is said five times in a hundred; read the margin's mean beside it.
    """
    said = answers.said_by(channel)
    names = [name for name in MEASURES if name != "share_abstained" or answers.instruction.abstain is not None]
    n, gold = len(answers), answers.gold
    rests_on = dict.fromkeys(names, n) | {
        "precision": int((said == YES).sum()),
        "precision_recall_gap": int((said == YES).sum()),
        "recall": int(gold.sum()),
        "ece": int(np.isin(said, (NO, YES)).sum()),
    }
    found = _estimates(answers, said) if n else dict.fromkeys(names, UNKNOWN)
    rows = [(name, *found[name], rests_on[name]) for name in names]
    return pd.DataFrame(rows, columns=["measure", "value", "ci_low", "ci_high", "n"])


def _estimates(answers: Answers, said: Int[np.ndarray, " example"]) -> dict[str, Estimate]:
    """Every measure with its interval: shares by Wilson, what has no formula by the bootstrap."""
    gold, groups, n = answers.gold, np.array(answers.groups), len(answers)
    no, yes, everything = said == NO, said == YES, np.ones(n, dtype=bool)
    probability = np.exp(answers.log_probs)

    def share(hits: np.ndarray, of: np.ndarray) -> Estimate:
        return wilson_share(hits[of], groups=groups[of].tolist())

    false_no, false_yes = share(no, gold), share(yes, ~gold)
    found = {
        "accuracy": share((yes & gold) | (no & ~gold), everything),
        "precision": share(gold, yes),
        "recall": share(yes, gold),
        "negative_bias": difference_of(false_no, false_yes),
        "mean_p_no": mean_estimate(probability[:, NO], answers.groups).within(0, 1),
        "option_mass": mean_estimate(probability.sum(1), answers.groups).within(0, 1),
        "auroc": auroc_estimate(answers.margin, gold, answers.groups),
        "share_outside": share(said == OUTSIDE, everything),
        "says_yes": share(yes, everything),
        "share_abstained": share(said == ABSTAIN, everything),
    }
    if set(groups[gold]) & set(groups[~gold]):  # twins: what is said of one tells of the other
        errors = np.where(gold, no, yes).astype(float)
        found["negative_bias"] = found["negative_bias"].no_narrower_than(
            mean_difference(errors, gold, ~gold, answers.groups).within(-1, 1)
        )
    arrays = (gold, said, answers.log_probs)
    value = _bootstrapped(*arrays, np.ones((1, n)))[0]
    low, high = bootstrap_interval(_bootstrapped, *arrays, groups=answers.groups, weighted=True)
    rest = ("f1", "precision_recall_gap", "ece")
    for name, ends in zip(rest, zip(value, low, high, strict=True), strict=True):
        found[name] = Estimate(*map(float, ends)) if np.isfinite(ends[0]) else UNKNOWN
    precision, recall = found["precision"], found["recall"]
    if found["f1"].low == found["f1"].high:  # all answers agree, and the bootstrap has no width
        ends = (2 * p * r / (p + r) if p + r > 0 else 0.0 for p, r in zip(precision, recall, strict=True))
        found["f1"] = found["f1"].no_narrower_than(Estimate(*ends))
    if found["precision_recall_gap"].low == found["precision_recall_gap"].high:
        found["precision_recall_gap"] = found["precision_recall_gap"].no_narrower_than(difference_of(precision, recall))
    return found


def _bootstrapped(
    gold: Bool[np.ndarray, " example"],
    said: Num[np.ndarray, " example"],
    log_probs: Float[np.ndarray, "example option"],
    counts: Float[np.ndarray, "draw example"],
) -> Float[np.ndarray, "draw 3"]:
    """F1, precision less recall, and the calibration error, where example i is there ``counts[:, i]`` times."""
    margin = log_probs[:, YES] - log_probs[:, NO]
    no, yes = said == NO, said == YES
    right = (yes & gold) | (no & ~gold)
    confidence = 1 / (1 + np.exp(np.where(yes, -margin, margin)))  # of what was said, of Yes and No alone
    bins = np.minimum((confidence * 10).astype(int), 9)[:, None] == np.arange(10)
    error = np.where(no | yes, right - confidence, 0.0)[:, None] * bins  # [example, bin]
    hits, says_yes, gold_yes = counts @ (yes & gold), counts @ yes, counts @ gold
    columns = (
        _ratio(2 * hits, says_yes + gold_yes),
        _ratio(hits, says_yes) - _ratio(hits, gold_yes),
        _ratio(np.abs(counts @ error).sum(1), counts @ (no | yes)),
    )
    return np.stack(columns, axis=1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is nothing."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def require_options_used(answers: Answers, at_least: float = LEAST_MASS) -> None:
    """Raise ``ValueError`` if the options hold less than ``at_least`` of the probability on average."""
    mass = float(np.exp(answers.log_probs).sum(1).mean())
    if not mass >= at_least:
        options = " and ".join(map(repr, answers.instruction.options))
        raise ValueError(
            f"the options {options} hold {mass:.1%} of the probability of the first token on average; expected at "
            f"least {at_least:.0%}. The model answers with something else: use option words it says, forms='both', or "
            "begin the reply (Instruction(reply=...))."
        )

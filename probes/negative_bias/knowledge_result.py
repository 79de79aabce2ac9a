"""What a model knows of its own accord: replies to open questions, and the labels that they come to."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from interp.door import made_by
from interp.records import hash_text
from interp.reports import Result
from probes.questions import MATCHES, Judged, Match, Question, judge

LABELS = ("correct", "incorrect", "insufficient")


@made_by("sort_by_knowledge(model, questions)")
@dataclass(frozen=True, eq=False, repr=False)
class Knowledge(Result, report="probes.negative_bias.knowledge_report"):
    """Questions with their replies and labels. ``replies[id]`` holds the greedy reply first, then the samples.

    ``settings`` records how the questions were asked and the thresholds behind ``labels``.

    ``provenance``: what was run, on what.
    """

    questions: tuple[Question, ...]
    replies: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, str]  # id -> "correct", "incorrect" or "insufficient"
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def relabel(
        self, correct_share: float | None = None, agreement: float | None = None, match: Match | None = None
    ) -> Knowledge:
        """The same replies sorted by other thresholds; nothing is asked again. None keeps a threshold.

        ``correct_share``, ``agreement``, ``match``: as of :func:`sort_by_knowledge`.

        Raises:
            ValueError: shares outside 0 to 1, and an unknown reading of a match.
        """
        given = {"correct_share": correct_share, "agreement": agreement, "match": match}
        settings = {**self.settings, **{name: value for name, value in given.items() if value is not None}}
        require_thresholds(settings["correct_share"], settings["agreement"], settings["match"])
        provenance = dict(self.provenance)
        if settings != self.settings:  # other labels are another result: it must not pass for the saved one
            provenance |= {"settings": settings, "relabelled_from": self.provenance.get("run_id")}
            text = json.dumps([self.provenance.get("run_id"), settings], sort_keys=True)
            provenance["run_id"] = hash_text(text)[:12]
        labels = sorted_replies(self._judged(settings["match"]), settings["correct_share"], settings["agreement"])
        return replace(self, labels=labels, settings=settings, provenance=provenance)

    def counts(self) -> pd.DataFrame:
        """Questions of each label, in all and by domain; rows as ``domain``, columns as the labels and ``n``."""
        frame = pd.DataFrame({"domain": [q.domain for q in self.questions], "label": list(self.labels.values())})
        table = pd.crosstab(frame["domain"], frame["label"]).reindex(columns=LABELS, fill_value=0)
        table.loc["all"] = table.sum()
        return table.assign(n=table.sum(axis=1)).rename_axis(columns=None).reset_index()

    def to_frame(self) -> pd.DataFrame:
        """One row for each question: label, the greedy reply and what it comes to, and the shares among the replies.

        ``share_right`` is over the samples; ``share_wrong`` (the most frequent wrong answer, ``wrong_answer``),
        ``share_abstained`` and ``share_unclear`` over all replies, the greedy one included.
        """
        judged = self._judged(self.settings["match"])
        rows = []
        for question in self.questions:
            found, replies = judged[question.id], self.replies[question.id]
            answer, share = _most_wrong(found)
            rows.append(
                {
                    "id": question.id,
                    "domain": question.domain,
                    "label": self.labels[question.id],
                    "open_question": question.open_question,
                    "open_answer": question.open_answer,
                    "greedy": replies[0],
                    "greedy_is": found[0].kind,
                    "share_right": _share(found[1:], "right"),
                    "share_wrong": share,
                    "wrong_answer": answer,
                    "share_abstained": _share(found, "abstained"),
                    "share_unclear": _share(found, "unclear"),
                    "samples": " | ".join(reply.replace("\n", " ") for reply in replies[1:]),
                }
            )
        return pd.DataFrame(rows)

    def sensitivity(
        self,
        correct_shares: Sequence[float] = (0.3, 0.5, 0.6, 0.8, 1.0),
        agreements: Sequence[float] = (0.3, 0.5, 0.7),
        matches: Sequence[Match] = MATCHES,
    ) -> pd.DataFrame:
        """How many questions get each label under other thresholds: one row for each combination.

        ``correct_shares``, ``agreements``, ``matches``: the values to combine, as of :func:`sort_by_knowledge`.

        Raises:
            ValueError: shares outside 0 to 1, and an unknown reading of a match.
        """
        rows = []
        for match in matches:
            judged = self._judged(match)
            for share, agreement in itertools.product(correct_shares, agreements):
                require_thresholds(share, agreement, match)
                counts = Counter(sorted_replies(judged, share, agreement).values())
                row = {"match": match, "correct_share": share, "agreement": agreement}
                rows.append(row | {label: counts[label] for label in LABELS})
        return pd.DataFrame(rows)

    def _judged(self, match: Match) -> dict[str, list[Judged]]:
        return {q.id: [judge(reply, q, match) for reply in self.replies[q.id]] for q in self.questions}


def sorted_replies(judged: Mapping[str, Sequence[Judged]], correct_share: float, agreement: float) -> dict[str, str]:
    """The label of each question, from its judged replies."""
    labels = {}
    for key, found in judged.items():
        correct = found[0].kind == "right" and _share(found[1:], "right") >= correct_share - 1e-9
        incorrect = not correct and _most_wrong(found)[1] >= agreement - 1e-9
        labels[key] = "correct" if correct else "incorrect" if incorrect else "insufficient"
    return labels


def _share(found: Sequence[Judged], kind: str) -> float:
    return sum(j.kind == kind for j in found) / len(found)


def _most_wrong(found: Sequence[Judged]) -> tuple[str, float]:
    """The most frequent wrong answer and its share of all replies; ("", 0) if there is none."""
    wrong = Counter(j.answer for j in found if j.kind == "wrong")
    answer, count = max(wrong.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    return answer, count / len(found)


def require_thresholds(correct_share: float, agreement: float, match: str) -> None:
    """Raise ``ValueError`` for shares outside 0..1, and an unknown reading of a match."""
    for name, value in {"correct_share": correct_share, "agreement": agreement}.items():
        if not 0 < value <= 1:
            raise ValueError(f"{name}={value}; expected a share above 0 and at most 1.")
    if match not in MATCHES:
        raise ValueError(f"match={match!r}; expected 'exact' or 'contained'.")

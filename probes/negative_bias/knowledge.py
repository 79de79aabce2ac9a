"""What does the model know of its own accord? Each question's open form, asked several times, sorts it into correct,
incorrect or insufficient knowledge.

The subsets are those of Song et al. 2025 (arXiv 2511.10881); how the paper tells them apart, its prompts and its number
of samples could not be read, so the criteria here are headscope's own, and every threshold is a parameter.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from interp.door import made_by, public
from interp.figures.heads import interval_bars
from interp.models import Model
from interp.prompts import Prompt
from interp.reading import generate
from interp.records import clear_parts, hash_text, keeps_work, run_batches
from interp.reports import Findings
from probes.questions import MATCHES, Judged, Match, Question, describe_questions, judge
from probes.studies import finished, pack_texts, parts_identity, read_study, study_provenance, unpack_texts, write_study

if TYPE_CHECKING:
    import plotly.graph_objects as go

LABELS = ("correct", "incorrect", "insufficient")
ASK = (
    "Answer the question with a word, a name or a number, and nothing else. If you do not know the answer, reply "
    '"I don\'t know".'
)
CITATIONS = [
    "Song, J., Yu, S., Yoon, S. (2025). A Multifaceted Analysis of Negative Bias in Large Language Models through the "
    "Lens of Parametric Knowledge. arXiv:2511.10881. (The three subsets; the criteria are headscope's.)",
]
CAVEATS = [
    "A reply is judged by rules (probes/questions/open_answers.py), which miss right answers in words that no alias "
    "has.",
    "An either-or question is right half the time by chance, greedy reply and samples together, because samples of one "
    "model agree: 'correct' is not proof of knowledge there.",
    "The label is about the open form; that the yes/no form asks for the same knowledge is the data set's promise.",
]
FILE = "knowledge.json"


@made_by("sort_by_knowledge(model, questions)")
@dataclass(frozen=True, eq=False)
class Knowledge:
    """Questions with their replies and labels. ``replies[id]`` holds the greedy reply first, then the samples.

    ``settings`` records how the questions were asked and the thresholds behind ``labels``.
    """

    questions: tuple[Question, ...]
    replies: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, str]  # id -> "correct", "incorrect" or "insufficient"
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def relabel(
        self, correct_share: float | None = None, agreement: float | None = None, match: Match | None = None
    ) -> Knowledge:
        """The same replies sorted by other thresholds; nothing is asked again. None keeps a threshold."""
        given = {"correct_share": correct_share, "agreement": agreement, "match": match}
        settings = {**self.settings, **{name: value for name, value in given.items() if value is not None}}
        _require_thresholds(settings["correct_share"], settings["agreement"], settings["match"])
        provenance = dict(self.provenance)
        if settings != self.settings:  # other labels are another result: it must not pass for the saved one
            provenance |= {"settings": settings, "relabelled_from": self.provenance.get("run_id")}
            text = json.dumps([self.provenance.get("run_id"), settings], sort_keys=True)
            provenance["run_id"] = hash_text(text)[:12]
        labels = _sort(self._judged(settings["match"]), settings["correct_share"], settings["agreement"])
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
        """How many questions get each label under other thresholds: one row for each combination."""
        rows = []
        for match in matches:
            judged = self._judged(match)
            for share, agreement in itertools.product(correct_shares, agreements):
                _require_thresholds(share, agreement, match)
                counts = Counter(_sort(judged, share, agreement).values())
                row = {"match": match, "correct_share": share, "agreement": agreement}
                rows.append(row | {label: counts[label] for label in LABELS})
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Share of questions with each label, by domain, with Wilson intervals: a plotly figure."""
        rows = []
        for row in self.counts().to_dict("records"):
            for label in LABELS:
                interval = stats.binomtest(row[label], row["n"]).proportion_ci(method="wilson")
                share = {"share": row[label] / row["n"], "ci_low": interval.low, "ci_high": interval.high}
                rows.append({"domain": row["domain"] or "(none)", "knowledge": label, "n": row["n"], **share})
        return interval_bars(
            pd.DataFrame(rows), "domain", "share", "ci_low", "ci_high", color="knowledge", title="What the model knows"
        )

    def to_findings(self) -> Findings:
        """The report: verdict, counts by domain, sensitivity to the thresholds, and every question."""
        counts = Counter(self.labels.values())
        n, name = len(self.questions), self.provenance["model"]["name"]
        s = self.settings
        statement = [
            f"Of {n} questions, {name} has correct knowledge of {counts['correct']}, incorrect knowledge of "
            f"{counts['incorrect']} and insufficient knowledge of {counts['insufficient']}.",
            f"Correct: the greedy reply is right, and at least {s['correct_share']:.0%} of {s['n_samples']} replies "
            f"sampled at temperature {s['temperature']:g} are. Incorrect: one wrong answer holds at least "
            f"{s['agreement']:.0%} of all replies. Insufficient: everything else, abstentions and disagreement.",
        ]
        if few := [f"{label} ({counts[label]})" for label in LABELS if counts[label] < 20]:
            statement.append(f"Fewer than 20 questions, too few for much of a comparison: {', '.join(few)}.")
        sensitivity = self.sensitivity()
        sensitivity.attrs["note"] = "Labels under other thresholds and the other reading of a match; same replies."
        return Findings(
            title=str(self.provenance["title"]),
            statement=statement,
            tables={
                "Counts": self.counts(),
                "Sensitivity to the thresholds": sensitivity,
                "Questions": self.to_frame(),
            },
            figures={"What the model knows": self.plot()},
            provenance=dict(self.provenance),
        )

    @keeps_work
    def save(self, out: str | Path, overwrite: bool = False) -> Path:
        """Write the report's files and ``knowledge.json`` (for :func:`load_knowledge`) to a directory.

        Raises ``FileExistsError`` if another run's report is there, unless ``overwrite``.
        """
        directory = Path(self.to_findings().save(out, overwrite=overwrite))
        write_study(
            directory / FILE,
            self.questions,
            replies={key: list(value) for key, value in self.replies.items()},
            labels=dict(self.labels),
            settings=dict(self.settings),
            provenance=dict(self.provenance),
        )
        return directory

    def _judged(self, match: Match) -> dict[str, list[Judged]]:
        return {q.id: [judge(reply, q, match) for reply in self.replies[q.id]] for q in self.questions}


@public
@keeps_work
def sort_by_knowledge(
    model: Model,
    questions: Sequence[Question],
    *,
    n_samples: int = 8,
    temperature: float = 0.7,
    max_new_tokens: int = 24,
    correct_share: float = 0.5,
    agreement: float = 0.5,
    match: Match = "contained",
    ask: str = ASK,
    skip_without_open: bool = False,
    seed: int = 0,
    batch_size: int = 16,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> Knowledge:
    """Ask each question's open form, one greedy reply and ``n_samples`` sampled ones, and sort by what comes back.

    A question is ``correct`` if the greedy reply is right and at least ``correct_share`` of the samples are;
    ``incorrect`` if it is not and the most frequent wrong answer holds at least ``agreement`` of all replies; else
    ``insufficient``. What counts as right is told at the top of ``probes/questions/open_answers.py``; ``match="exact"``
    is the strict reading. Twins that share an open form are asked once.

    ``out`` gets part files as the work goes (``resume=True`` continues them, or loads the finished report), then the
    report. Costs (1 + n_samples) short generations for each open question. Sixteen tokens cut off the sentences that
    small models answer in; a few more cost little, since reading the prompt takes longer.

    Raises ``ValueError`` for questions without an open form (``skip_without_open=True`` leaves them out), for repeated
    ids and for thresholds outside 0..1. Source of the subsets: arXiv 2511.10881; the criteria are ours.
    """
    began = time.perf_counter()
    _require_thresholds(correct_share, agreement, match)
    if n_samples < 1 or temperature <= 0 or max_new_tokens < 1:
        raise ValueError(
            f"n_samples={n_samples}, temperature={temperature}, max_new_tokens={max_new_tokens}; expected at least one "
            "sample and one token, and a temperature above 0: agreement needs samples that can differ."
        )
    kept = _with_open_form(questions, skip_without_open)
    asking = {
        "ask": ask,
        "n_samples": n_samples,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    settings = asking | {"correct_share": correct_share, "agreement": agreement, "match": match}
    data = describe_questions(kept, origin) | {"n_without_open_form": len(questions) - len(kept)}
    title = "Parametric knowledge"
    forms = list({(q.context, q.open_question): q for q in reversed(kept)}.values())[::-1]  # the first of each
    prompts = open_prompts(model, forms, ask)
    provenance = study_provenance(title, model, prompts, data, settings, CITATIONS, CAVEATS, began, out)
    parts = {"title": title, **parts_identity(provenance)} | asking
    if out is not None and finished(out, FILE, provenance["run_id"], parts, batch_size, len(forms), resume, overwrite):
        return load_knowledge(out)
    arrays = run_batches(
        forms,
        lambda batch: _replies(model, batch, asking),
        batch_size=batch_size,
        directory=Path(out) if out is not None else None,
        settings=parts,
        resume=resume,
        title="asking open questions",
    )
    texts = unpack_texts(arrays["text"], arrays["length"])
    said = {(q.context, q.open_question): tuple(row) for q, row in zip(forms, texts, strict=True)}
    replies = {q.id: said[q.context, q.open_question] for q in kept}
    judged = {q.id: [judge(reply, q, match) for reply in replies[q.id]] for q in kept}
    labels = _sort(judged, correct_share, agreement)
    provenance["seconds"] = round(time.perf_counter() - began, 1)
    knowledge = Knowledge(tuple(kept), replies, labels, settings, provenance)
    if out is not None:
        knowledge.save(out, overwrite=overwrite)
        clear_parts(Path(out))
    return knowledge


@public
def load_knowledge(directory: str | Path) -> Knowledge:
    """The knowledge that ``Knowledge.save`` wrote. Raises ``FileNotFoundError`` or ``ValueError`` with the remedy."""

    def build(questions: tuple[Question, ...], data: dict[str, Any]) -> Knowledge:
        replies = {key: tuple(value) for key, value in data["replies"].items()}
        return Knowledge(questions, replies, data["labels"], data["settings"], data["provenance"])

    return read_study(Path(directory) / FILE, build, of=Question)


def answer_open(
    model: Model,
    questions: Sequence[Question],
    *,
    ask: str = ASK,
    max_new_tokens: int = 24,
    match: Match = "contained",
    batch_size: int = 16,
) -> list[Judged]:
    """One greedy reply to each question's open form, judged: what the model can still say, before and after an edit."""
    prompts = open_prompts(model, questions, ask)
    replies = generate(model, prompts, max_new_tokens, batch_size=batch_size)
    return [judge(reply, question, match) for (reply,), question in zip(replies, questions, strict=True)]


def open_prompts(model: Model, questions: Sequence[Question], ask: str = ASK) -> list[Prompt]:
    """The open form of each question, with its passage if it has one."""
    texts = [f"{ask}\n{q.context.strip() + chr(10) if q.context else ''}Question: {q.open_question}" for q in questions]
    return [model.prompt(text, id=q.id) for text, q in zip(texts, questions, strict=True)]


def _replies(model: Model, batch: Sequence[Question], settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    prompts = open_prompts(model, batch, settings["ask"])
    tokens = settings["max_new_tokens"]
    greedy = generate(model, prompts, tokens, batch_size=64)
    sampled = generate(
        model,
        prompts,
        tokens,
        temperature=settings["temperature"],
        n_samples=settings["n_samples"],
        seed=settings["seed"],
        batch_size=64,
    )
    return pack_texts([[*first, *rest] for first, rest in zip(greedy, sampled, strict=True)])


def _sort(judged: Mapping[str, Sequence[Judged]], correct_share: float, agreement: float) -> dict[str, str]:
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


def _with_open_form(questions: Sequence[Question], skip: bool) -> list[Question]:
    if len({q.id for q in questions}) < len(questions):
        twice = [key for key, count in Counter(q.id for q in questions).items() if count > 1]
        raise ValueError(f"ids {twice[:5]} are given more than once; expected each question once.")
    kept = [q for q in questions if q.open_question.strip() and q.open_answer.strip()]
    without = sorted({q.id for q in questions} - {q.id for q in kept})
    if not kept:
        raise ValueError(
            f"none of the {len(questions)} questions has an open_question with an open_answer (StrategyQA has none), "
            "so knowledge can't be asked for. Use the built-in questions or GSM8K pairs, or add the columns."
        )
    if without and not skip:
        shown = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
        raise ValueError(
            f"{len(without)} of {len(questions)} questions have no open_question with an open_answer: {shown}. Add "
            "them, or leave those questions out with skip_without_open=True."
        )
    return kept


def _require_thresholds(correct_share: float, agreement: float, match: str) -> None:
    for name, value in {"correct_share": correct_share, "agreement": agreement}.items():
        if not 0 < value <= 1:
            raise ValueError(f"{name}={value}; expected a share above 0 and at most 1.")
    if match not in MATCHES:
        raise ValueError(f"match={match!r}; expected 'exact' or 'contained'.")

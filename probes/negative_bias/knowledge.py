"""What does the model know of its own accord? Each question's open form, asked several times, sorts it into correct,
incorrect or insufficient knowledge.

The subsets are those of Song et al. 2025 (arXiv 2511.10881); how the paper tells them apart, its prompts and its number
of samples could not be read, so the criteria here are headscope's own, and every threshold is a parameter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.door import public
from interp.models import Model
from interp.prompts import Prompt
from interp.reading import generate
from interp.records import Kept, keeps_work
from probes.negative_bias.knowledge_result import Knowledge, require_thresholds, sorted_replies
from probes.questions import Judged, Match, Question, describe_questions, judge
from probes.studies import Study, pack_texts, unpack_texts

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
    keep: Kept = None,
) -> Knowledge:
    """Ask each question's open form, one greedy reply and ``n_samples`` sampled ones, and sort by what comes back.

    A question is ``correct`` if the greedy reply is right and at least ``correct_share`` of the samples are;
    ``incorrect`` if it is not and the most frequent wrong answer holds at least ``agreement`` of all replies; else
    ``insufficient``. What counts as right is told at the top of ``probes/questions/open_answers.py``; ``match="exact"``
    is the strict reading. Twins that share an open form are asked once.

    Args:
        model: a loaded model.
        questions: questions with an open form and its answer.
        n_samples: sampled replies to each open form, beside the greedy one.
        temperature: at which they are sampled.
        max_new_tokens: of a reply. Sixteen cut off the sentences that small models answer in; a few more cost little,
            since reading the prompt takes longer.
        correct_share, agreement: the thresholds, shares above 0 and at most 1.
        match: "contained" or "exact".
        ask: the instruction before the open question.
        skip_without_open: leave out questions without an open form.
        seed: of the samples.
        batch_size: open questions in a batch and in a part file.
        keep: the folder for the report, and for the work before it, batch by batch (:class:`interp.Keep`); its
            ``origin`` is recorded as where the questions came from.

    Returns:
        Each question's replies and label, which :meth:`Knowledge.relabel` sorts anew.

    Raises:
        ValueError: questions without an open form, repeated ids, thresholds outside 0..1.

    Cost: (1 + n_samples) short generations for each open question, and two passes over it: the samples share one. The
    command line says how long that takes before it begins.
    Misleads: a right answer in words that no alias has counts as wrong, and a lucky guess as known.
    Source: the subsets of arXiv 2511.10881; the criteria are ours.
    """
    require_thresholds(correct_share, agreement, match)
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
    data = describe_questions(kept) | {"n_without_open_form": len(questions) - len(kept)}
    forms = list({(q.context, q.open_question): q for q in reversed(kept)}.values())[::-1]  # the first of each
    study = Study(
        "Parametric knowledge",
        model,
        open_prompts(model, forms, ask),
        data=data,
        settings=asking,
        afterwards={"correct_share": correct_share, "agreement": agreement, "match": match},
        n_items=len(forms),
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return study.found
    arrays = study.run(forms, lambda batch: _replies(model, batch, asking))
    texts = unpack_texts(arrays["text"], arrays["length"])
    said = {(q.context, q.open_question): tuple(row) for q, row in zip(forms, texts, strict=True)}
    replies = {q.id: said[q.context, q.open_question] for q in kept}
    judged = {q.id: [judge(reply, q, match) for reply in replies[q.id]] for q in kept}
    labels = sorted_replies(judged, correct_share, agreement)
    return study.done(Knowledge(tuple(kept), replies, labels, study.settings, study.provenance()))


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

"""Negative bias of the same questions under many forms, by what the model knows: which of the paper's claims hold?

After Song et al. 2025 (arXiv 2511.10881), whose prompts and numbers could not be read: the wordings are headscope's own
(``probes/negative_bias/scenario_forms.py``), and so are the measures (``probes/negative_bias/scenario_statistics.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from interp import statistics
from interp.door import public
from interp.edits import describe_model, require_edits
from interp.models import Model
from interp.prompts import Prompt
from interp.reading import generate
from interp.records import Kept, hash_json, keeps_work
from probes.negative_bias.asking import answers_of_prompts
from probes.negative_bias.knowledge_result import Knowledge
from probes.negative_bias.scenario_forms import (
    ALL,
    SCENARIOS,
    describe_scenarios,
    irrelevant_passages,
    join_reasoning,
    require_scenarios,
)
from probes.negative_bias.scenario_result import Channel, Scenarios, read_answers
from probes.questions import Question, build_prompts, describe_questions
from probes.studies import Study, mass_read, pack_texts, unpack_texts

CITATIONS = [
    "Song, J., Yu, S., Yoon, S. (2025). A Multifaceted Analysis of Negative Bias in Large Language Models through the "
    "Lens of Parametric Knowledge. arXiv:2511.10881. (The scenarios' names and the claims; wordings and measures are "
    "headscope's.)",
]
CAVEATS = [
    "One wording a scenario: another wording of the same scenario can give another number.",
    "An answer is the option that holds the most probable next token; one outside the options is wrong, and neither No "
    "nor Yes. Where share_outside is large, read channel='margin' (the option with more probability) beside it.",
    "The subsets of knowledge hold different questions, so a difference between them is also one of difficulty and "
    "subject; differences between scenarios are paired.",
    "NB at its ceiling can't grow; the log odds can.",
    "The claims are several tests; their intervals are not widened for that.",
]


@public
@keeps_work
def scenarios(
    model: Model,
    questions: Sequence[Question],
    knowledge: Knowledge | None = None,
    *,
    which: Sequence[str] = ALL,
    n_reasoning_tokens: int = 64,
    channel: Channel = "token",
    min_per_class: int = 10,
    forms: str = "in_context",
    n_resamples: int = statistics.N_BOOTSTRAP,
    seed: int = 0,
    batch_size: int = 16,
    keep: Kept = None,
) -> Scenarios:
    """Put every question in every scenario of ``which`` and measure the negative bias of each, in each subset of
    ``knowledge``.

    ``plain`` is what ``probes.negative_bias.answers.answer`` gives. Costs one forward pass for each question and
    scenario, and for chain_of_thought the generation of the reasoning, which takes longer than all the rest.

    Args:
        model: a loaded model.
        questions: yes/no questions of both answers.
        knowledge: of this model, on these questions: the subsets; None: no subsets.
        which: names of scenarios, "plain" among them.
        n_reasoning_tokens: length of a chain of thought, which is greedy.
        channel: what counts as said: "token", the most probable one; "margin", the likelier of Yes and No.
        min_per_class: least questions of each answer for a number to count.
        forms: "in_context", or "both": an answer word with and without a leading space.
        n_resamples: bootstrap draws of an interval.
        seed: of the irrelevant passages and the draws.
        batch_size: questions in a pass and in a part file.
        keep: the folder for the report, and for the work before it, batch by batch (:class:`interp.Keep`); its
            ``origin`` is recorded as where the questions came from.

    Returns:
        The answers under every scenario, and tables of them with intervals.

    Raises:
        ValueError: unknown scenarios, ``which`` without "plain", questions of one gold answer only, repeated ids,
            questions without a fact for the passages, knowledge of other questions or of another model.

    Misleads: a scenario also makes the prompt longer and other words likely; its control is the plain question.
    Source: arXiv 2511.10881.
    """
    which, questions = tuple(which), tuple(questions)
    _require(questions, which, n_reasoning_tokens, channel, min_per_class)
    wordings = describe_scenarios(which)
    asked_with = {
        "which": list(which),
        "n_reasoning_tokens": n_reasoning_tokens,
        "forms": forms,
        "seed": seed,
        "wordings_sha256": hash_json(wordings),
    }
    read_by = {
        "channel": channel,
        "min_per_class": min_per_class,
        "n_resamples": n_resamples,
        "knowledge": knowledge.provenance.get("run_id") if knowledge is not None else None,
    }
    passages = irrelevant_passages(questions, seed) if "irrelevant_passage" in which else [""] * len(questions)
    prompts = [p for name in which for p in _first_prompts(model, name, questions, passages, forms)]
    labels = _labels(knowledge, questions, describe_model(model)) if knowledge is not None else None
    items = [(name, i) for name in which for i in range(len(questions))]
    study = Study(
        "Negative bias by scenario",
        model,
        prompts,
        data=describe_questions(questions),
        settings=asked_with,
        afterwards=read_by,
        n_items=len(items),
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return study.found
    arrays = study.run(items, lambda batch: _score(model, questions, passages, batch, n_reasoning_tokens, forms))
    n = len(questions)
    answers = {
        name: read_answers(
            name, questions, arrays["log_probs"][j * n : (j + 1) * n], arrays["top"][j * n : (j + 1) * n]
        )
        for j, name in enumerate(which)
    }
    reasoning = None
    if "chain_of_thought" in which:
        at = which.index("chain_of_thought") * n
        reasoning = tuple(row[0] for row in unpack_texts(arrays["text"], arrays["length"])[at : at + n])
    plain = build_prompts(model, questions, SCENARIOS["plain"].instruction, forms=forms)
    mass = mass_read(model, plain, batch_size, np.exp(answers["plain"].log_probs).sum(1))
    return study.done(Scenarios(questions, answers, labels, reasoning, study.provenance(wordings=wordings, **mass)))


def _score(
    model: Model,
    questions: Sequence[Question],
    passages: Sequence[str],
    batch: Sequence[tuple[str, int]],
    n_reasoning_tokens: int,
    forms: str,
) -> dict[str, np.ndarray]:
    """Log probabilities [item, 3] (NaN without a third option), the top option, and the reasoning of a batch."""
    log_probs = np.full((len(batch), 3), np.nan)
    top, texts, start = np.zeros(len(batch), dtype=np.int64), [], 0
    for name, items in itertools.groupby(batch, key=lambda item: item[0]):
        scenario = SCENARIOS[name]
        asked = _asked(name, questions, passages, [i for _, i in items])
        instruction = scenario.instruction
        if scenario.opening:
            thinking = build_prompts(model, asked, replace(instruction, reply=scenario.opening))
            replies = generate(model, thinking, n_reasoning_tokens, batch_size=len(asked))
            thoughts = [join_reasoning(scenario.opening, reply[0]) for reply in replies]
            replied = [replace(instruction, reply=f"{text} {instruction.reply}".strip()) for text in thoughts]
            prompts = [
                build_prompts(model, [question], own, forms=forms)[0]
                for question, own in zip(asked, replied, strict=True)
            ]
        else:
            thoughts = [""] * len(asked)
            prompts = build_prompts(model, asked, instruction, forms=forms)
        answers = answers_of_prompts(model, prompts, asked, instruction, batch_size=len(asked))
        stop = start + len(asked)
        log_probs[start:stop, : answers.log_probs.shape[1]] = answers.log_probs
        top[start:stop] = answers.top
        texts += thoughts
        start = stop
    return {"log_probs": log_probs, "top": top, **pack_texts([[text] for text in texts])}


def _asked(name: str, questions: Sequence[Question], passages: Sequence[str], which: Sequence[int]) -> list[Question]:
    """Questions as a scenario puts them, with the passages it gives."""
    scenario = SCENARIOS[name]
    passage = [{"relevant": questions[i].fact, "irrelevant": passages[i], "": ""}[scenario.passage] for i in which]
    return [scenario.ask(questions[i], text) for i, text in zip(which, passage, strict=True)]


def _first_prompts(
    model: Model, name: str, questions: Sequence[Question], passages: Sequence[str], forms: str
) -> list[Prompt]:
    """What a scenario's questions are first: prompts that ask, or that let the model think aloud before."""
    asked, scenario = _asked(name, questions, passages, range(len(questions))), SCENARIOS[name]
    opening = {"reply": scenario.opening} if scenario.opening else {}
    return build_prompts(model, asked, replace(scenario.instruction, **opening), forms=forms)


def _labels(knowledge: Knowledge, questions: Sequence[Question], model: Mapping[str, Any]) -> tuple[str, ...]:
    theirs = knowledge.provenance["model"]
    if theirs["weights_sha256"] != model["weights_sha256"]:
        raise ValueError(
            f"the knowledge is {theirs['name']}'s (weights {theirs['weights_sha256'][:12]}), the model is "
            f"{model['name']} (weights {model['weights_sha256'][:12]}). Sort the questions by this model's knowledge."
        )
    require_edits(model, theirs, "the knowledge")
    asked = {q.id: q.open_question for q in knowledge.questions}
    if missing := [q.id for q in questions if asked.get(q.id) != q.open_question]:
        raise ValueError(
            f"the knowledge says nothing of {len(missing)} of {len(questions)} questions: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}. Give the questions it was asked about (knowledge.questions), or "
            "sort these."
        )
    return tuple(knowledge.labels[q.id] for q in questions)


def _require(
    questions: Sequence[Question], which: Sequence[str], n_reasoning_tokens: int, channel: str, min_per_class: int
) -> None:
    if len({q.answer for q in questions}) < 2:
        raise ValueError(
            f"{len(questions)} questions with the gold answers {sorted({q.answer for q in questions})}; expected both "
            "Yes and No: bias is the difference of the errors on the two."
        )
    if len({q.id for q in questions}) < len(questions):
        raise ValueError("some ids are given more than once; expected each question once.")
    require_scenarios(which, questions)
    if channel not in ("token", "margin"):
        raise ValueError(f"channel={channel!r}; expected 'token' or 'margin'.")
    if n_reasoning_tokens < 1 or min_per_class < 2:
        raise ValueError(
            f"n_reasoning_tokens={n_reasoning_tokens}, min_per_class={min_per_class}; expected at least 1 and 2."
        )

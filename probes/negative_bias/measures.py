"""Measure a model's negative bias on a set of questions: by first token and by text, as a whole and by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from interp.door import public
from interp.models import Model
from interp.records import Kept, keeps_work
from interp.reports import mass_of
from probes.negative_bias.answers import Answers, answers_from_arrays, bias_measures
from probes.negative_bias.asking import by_length, score_prompts
from probes.negative_bias.bias_result import ALL, CHANNELS, BiasReport
from probes.questions import Instruction, Question, build_prompts, describe_questions
from probes.studies import Study, mass_read

CITATIONS = [
    "Yu, S., et al. (2025). Correcting Negative Bias in Large Language Models through Negative Attention Score "
    "Alignment. NAACL 2025. arXiv:2408.00137.",
    "Song, J., Yu, S., Yoon, S. (2025). A Multifaceted Analysis of Negative Bias in Large Language Models through the "
    "Lens of Parametric Knowledge. arXiv:2511.10881.",
    "Guo, C., Pleiss, G., Sun, Y., Weinberger, K. Q. (2017). On Calibration of Modern Neural Networks. ICML. "
    "arXiv:1706.04599.",
]
CAVEATS = [
    "Bias and knowledge are entangled in every measure but AUROC: a model that knows little and leans to No, and one "
    "that knows the No answers only, can look the same.",
    "All of it is of one wording and one order of the options.",
    "Intervals are of these questions, drawn by whole pairs and passages.",
    "Generated text is read by a rule: the first option word it names.",
]


@public
@keeps_work
def measure(
    model: Model,
    questions: Sequence[Question],
    instruction: Instruction | None = None,
    *,
    forms: str = "in_context",
    generate_tokens: int = 8,
    batch_size: int = 16,
    keep: Kept = None,
) -> BiasReport:
    """How far a model leans to No: every measure of ``probes.negative_bias.answers.MEASURES`` with its interval, by the
    first token's probability, by a greedy reply of ``generate_tokens`` tokens (0: none) and by the forced choice, as a
    whole and by domain; and where token and text disagree.

    Costs two passes over each prompt (one without text) and a short pass for each token generated. Warns if the options
    hold less than 10 % of the probability: the model then answers with something else, and the measures say little.

    Args:
        model: a loaded model.
        questions: yes/no questions of both gold answers.
        instruction: how they are put, and the options; by default "Answer the question with Yes or No.".
        forms: "in_context", or "both": an answer word with and without a leading space.
        generate_tokens: length of the reply that is read too; 0: none.
        batch_size: questions in a pass and in a part file.
        keep: the folder for the report, and for the work before it, batch by batch (:class:`interp.Keep`); its
            ``origin`` is recorded as where the questions came from.

    Returns:
        The measures, each with its 95 % interval and n, and the answers behind them.

    Raises:
        ValueError: no questions, or of one gold answer only (bias is a difference between the two).
        FileExistsError: a folder with another run's work.

    Misleads: a model that says neither option is measured by what little it says of them: read ``option_mass``.
    Source: negative bias as a gap of precision and recall, arXiv 2408.00137; the others: :func:`bias_measures`.
    """
    instruction = instruction or Instruction()
    _require_both_answers(questions)
    if generate_tokens < 0:
        raise ValueError(f"generate_tokens={generate_tokens}; expected 0 (no text) or more.")
    prompts = build_prompts(model, questions, instruction, forms=forms)
    study = Study(
        "Negative bias",
        model,
        prompts,
        data=describe_questions(questions),
        settings={"instruction": asdict(instruction), "forms": forms, "generate_tokens": generate_tokens},
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        if (mass := mass_of(study.found.provenance)) is not None:
            mass.warn()
        return study.found
    order = by_length(prompts)
    arrays = study.run(
        [prompts[i] for i in order], lambda batch: score_prompts(model, batch, instruction, generate_tokens)
    )
    answers = answers_from_arrays(arrays, [questions[i] for i in order], instruction).select(np.argsort(order))
    held = np.exp(answers.log_probs).sum(1)
    return study.done(_report(answers, questions, study.provenance(**mass_read(model, prompts, batch_size, held))))


def _report(answers: Answers, questions: Sequence[Question], provenance: Mapping[str, Any]) -> BiasReport:
    channels = [c for c in CHANNELS if c != "text" or answers.replies is not None]
    domains = list(dict.fromkeys(answers.domains))
    parts = [(ALL, answers)] + [(d, answers.select(np.array(answers.domains) == d)) for d in domains if d]
    tables = [
        bias_measures(part, channel=channel).assign(domain=domain, channel=channel)
        for domain, part in parts
        for channel in channels
    ]
    measures = pd.concat(tables, ignore_index=True)
    columns = ["domain", "channel", "measure", "value", "ci_low", "ci_high", "n"]
    return BiasReport(answers, tuple(questions), measures[columns], provenance)


def _require_both_answers(questions: Sequence[Question]) -> None:
    if not questions:
        raise ValueError("no questions were given; give at least one of each gold answer.")
    if len(golds := {q.answer for q in questions}) == 1:
        raise ValueError(
            f"all {len(questions)} questions have the gold answer {golds.pop()!r}; expected both. Bias is the "
            "difference between the two: give a set with Yes and No answers."
        )

"""The commands that rank heads on yes/no questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from probes.cli.declaring import Option, taken
from probes.cli.options import ModelOptions, QuestionData
from probes.cli.study import Report, Study, print_ranking

if TYPE_CHECKING:
    from interp.machine import Work
    from interp.models import Model
    from probes.questions import Instruction, Question

INSTRUCTION = "Answer the question with Yes or No."
Wording = Annotated[str, Option("The instruction; it must name Yes and No.")]
EFFECTS = Option(
    "Also measure each head's effect, by this ablation.",
    flag="--ablation",
    kind=Literal["zero", "mean", "mean_of_others", "none"],
    default="zero",
)


def negative_attention(
    keep: Report,
    model: ModelOptions,
    data: QuestionData,
    options: Annotated[
        dict, taken("probes.negative_bias.nas:rank_heads", "query_span forms sets batch_size", effects=EFFECTS)
    ],
    instruction: Wording = INSTRUCTION,
    as_json: bool = False,
) -> None:
    """Which heads look at "No" more than at "Yes"? Negative Attention Score (arXiv 2408.00137).

    The options in the other order ("No or Yes") are the control.
    """
    from probes import negative_bias
    from probes.negative_bias.costs import ranking_work

    study = Study(keep, model, data)
    asked = negative_bias.Instruction(instruction)
    questions = data.questions()
    options["effects"] = None if options["effects"] == "none" else options["effects"]
    ranking = study.run(
        lambda loaded: negative_bias.rank_heads(loaded, questions, instruction=asked, **options, keep=study.keep()),
        f"{len(questions)} questions from {data.data}",
        cost=lambda loaded: _with_sets(
            loaded,
            ranking_work(len(questions), bool(options["effects"]), tokens_of(loaded, questions, asked)),
            options["sets"],
        ),
    )
    print_ranking(ranking, [study.out], as_json)


def tokens_of(loaded: Model, questions: Sequence[Question], instruction: Instruction) -> float:
    """Tokens of a question's prompt, on average over some fifty."""
    from interp.machine import mean_tokens
    from probes.questions import build_prompts

    return mean_tokens(build_prompts(loaded, questions[:: max(1, len(questions) // 50)], instruction))


def _with_sets(loaded: Model, work: Work, sets: int) -> Work:
    return replace(work, plain_passes=work.plain_passes + passes_of_sets(loaded, work.n_examples, sets))


def passes_of_sets(loaded: Model, n_questions: int, sets: int) -> float:
    """What weighing the first heads as a set costs, in passes of each question; 20 of them are looked at."""
    from interp.circuits import passes_of_first

    n = min(20, n_questions)
    return passes_of_first(loaded, n) * n / n_questions if sets else 0.0


def head_effect(
    keep: Report,
    model: ModelOptions,
    data: QuestionData,
    options: Annotated[
        dict, taken("probes.negative_bias.nas:rank_by_effect", "ablation screen top forms sets batch_size")
    ],
    positions: Annotated[
        Literal["answer", "all"] | int, Option("answer, all, or a number of last positions.", metavar="answer|all|N")
    ] = "answer",
    instruction: Wording = INSTRUCTION,
    as_json: bool = False,
) -> None:
    """What does the answer lose when each head is switched off? Measured exactly, head by head."""
    from probes import negative_bias

    study = Study(keep, model, data)
    asked = negative_bias.Instruction(instruction)
    questions = data.questions()
    options |= {"positions": positions, "instruction": asked}
    ranking = study.run(
        lambda loaded: negative_bias.rank_by_effect(loaded, questions, **options, keep=study.keep()),
        f"{len(questions)} questions from {data.data}",
        cost=lambda loaded: _effect_work(loaded, questions, options),
    )
    print_ranking(ranking, [study.out], as_json)


def _effect_work(loaded: Model, questions: Sequence[Question], options: Mapping[str, Any]) -> Work:
    from interp.scans import last_positions
    from probes.negative_bias.costs import effect_work

    tokens, last = tokens_of(loaded, questions, options["instruction"]), last_positions(options["positions"])
    work = effect_work(len(questions), tokens, last, options["ablation"], options.get("screen"))
    return _with_sets(loaded, work, options["sets"])

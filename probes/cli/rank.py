"""The commands that rank heads on yes/no questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from probes.cli.declaring import Option, taken
from probes.cli.estimate import Cost
from probes.cli.options import ModelOptions, QuestionData
from probes.cli.study import Report, Study, print_ranking

if TYPE_CHECKING:
    from interp.models import Model

NAS_PASSES, EFFECT_PASSES = 4, 3  # both orders, and what is read beside; of SmolLM2, measured (`interp doctor`)
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

    study = Study(keep, model, data)
    asked = negative_bias.Instruction(instruction)
    questions = data.questions()
    options["effects"] = None if options["effects"] == "none" else options["effects"]
    ranking = study.run(
        lambda loaded: negative_bias.rank_heads(loaded, questions, instruction=asked, **options, keep=study.keep()),
        f"{len(questions)} questions from {data.data}",
        cost=lambda loaded: Cost(
            len(questions),
            NAS_PASSES + passes_of_sets(loaded, len(questions), options["sets"]),
            scans=0 if options["effects"] is None else 1,
        ),
    )
    print_ranking(ranking, [study.out], as_json)


def passes_of_sets(loaded: Model, n_questions: int, sets: int) -> float:
    """What weighing the first heads as a set costs, in passes of each question; 20 of them are looked at."""
    from interp.circuits import passes_of_first

    n = min(20, n_questions)
    return passes_of_first(loaded, n) * n / n_questions if sets else 0.0


def head_effect(
    keep: Report,
    model: ModelOptions,
    data: QuestionData,
    options: Annotated[dict, taken("probes.negative_bias.nas:rank_by_effect", "ablation forms sets batch_size")],
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
        cost=lambda loaded: Cost(
            len(questions),
            passes_of_sets(loaded, len(questions), options["sets"])
            # both orders; at all positions half a pass for each head and order
            + (EFFECT_PASSES if positions != "all" else loaded.n_layers * loaded.n_heads),
            scans=2 if positions != "all" else 0,
        ),
    )
    print_ranking(ranking, [study.out], as_json)

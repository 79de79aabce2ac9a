"""The command that finds the heads behind the answers to pairs of prompts."""

from __future__ import annotations

from typing import Annotated, Literal

from probes.cli.declaring import Option
from probes.cli.estimate import Cost
from probes.cli.options import ModelOptions, PairData
from probes.cli.study import Study, WholeReport, print_ranking

METHODS = Literal[
    "auto",
    "zero",
    "mean",
    "mean_of_others",
    "resample",
    "patch",
    "denoise",
    "direct",
    "direct_difference",
    "attribution_patching",
    "integrated_gradients",
    "relevance",
    "attention",
    "gates",
    "greedy",
]


def locate(
    keep: WholeReport,
    model: ModelOptions,
    data: PairData,
    method: Annotated[METHODS, Option("How heads are found (docs/methods/known-answers.md).")] = "auto",
    positions: Annotated[
        Literal["answer", "all"] | int, Option("answer, all, or a number of last positions.", metavar="answer|all|N")
    ] = "all",
    all_pairs: Annotated[bool, Option("Keep pairs of which the model prefers the other prompt's answer.")] = False,
    align: Annotated[bool, Option("Keep pairs of unequal lengths, lined up by what differs.")] = False,
    sets: int = 0,
    as_json: bool = False,
) -> None:
    """Which heads matter to an answer? Clean and corrupt prompts, exact replacements, and what they do not see.

    Pairs are rows of clean, corrupt, answer, corrupt_answer, or of MIB's fields; or those of a task that was written
    for the project. The two prompts of a pair must have as many tokens, unless they are lined up (--align).
    """
    study = Study(keep, model, data)
    pairs = data.pairs()

    def work(loaded):
        from probes.prompt_pairs import locate_heads

        options = {"method": method, "positions": positions, "answered": not all_pairs, "seed": data.seed}
        return locate_heads(loaded, pairs, **options, align=align, sets=sets, keep=study.keep())

    def cost(loaded):
        from interp.circuits import passes_of_first
        from interp.locating import expected_passes
        from probes.prompt_pairs import build_pairs

        prompts = build_pairs(loaded, pairs, answered=False, align=align).pairs.clean
        n_tokens = sum(map(len, prompts)) / len(prompts)
        changed = {"answer": 1.0, "all": n_tokens}.get(str(positions), positions)
        share = float(changed) / n_tokens
        passes = expected_passes(loaded, method, share)
        passes += (0 if all_pairs else 2) + (passes_of_first(loaded, len(prompts), share) if sets else 0)
        return Cost(len(prompts), passes, prompt_tokens=n_tokens)

    ranking = study.run(work, f"{len(pairs)} pairs from {data.data}", cost=cost)
    print_ranking(ranking, [study.out], as_json)

"""Are the heads that a score points at causal? Sets of them are edited together, against random heads of their layers.

A score such as NAS says where a head looks. Here the heads with the highest scores are ablated, scaled down and set to
their mean, k at a time, on questions that did not make the ranking, and compared with random sets of as many heads of
the same layers (how deep a head sits decides much of what removing it does) and with the heads of the lowest scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import Literal

import numpy as np

from interp.door import public
from interp.edits import require_made_on
from interp.interventions import Branch, HeadEdit
from interp.models import Model
from interp.prompts import Prompt
from interp.rankings import HeadRanking
from interp.reading import LogitDifference, mean_head_outputs
from interp.records import Kept, hash_json, keeps_work
from interp.scans.scan import scan
from probes.heads import Case, Head, check_once, plan_cases
from probes.negative_bias.causal_result import CausalTest
from probes.prompt_pairs import pair_prompts, record_of_sets, require_sets
from probes.questions import Instruction, Question, build_prompts, describe_questions
from probes.studies import Study, mass_read

Edit = Literal["zero", "mean", "scale"]
Arrays = dict[str, np.ndarray]

CITATIONS = [
    "NAS: Yu et al. (2025), Correcting Negative Bias in Large Language Models through Negative Attention Score "
    "Alignment. arXiv:2408.00137.",
    "Random sets of the same size and layers as the control of a set ablation: a permutation test after Fisher (1935), "
    "The Design of Experiments.",
]
CAVEATS = [
    "NB and accuracy are those of the forced choice: the option with more probability is the answer, whatever else "
    "the model would rather say. A model that is far on one side can change its margin and not one answer.",
    "Edits at the answer leave alone what a head writes at earlier tokens, and NAS sums over those too; "
    "positions='all' edits every token.",
    "Zeroing removes also what a head writes whatever the question is; its mean over the questions keeps just that. A "
    "bias that does not depend on the question can therefore fall when heads are zeroed and stay when they are set to "
    "their mean.",
    "The sets of k heads are nested and the three edits alike: the tests are not independent of each other.",
    "With 20 random sets the smallest p is 1/21 = 0.048; where a layer has few other heads, fewer sets exist.",
]


@public
@keeps_work
def causal_test(
    model: Model,
    questions: Sequence[Question],
    ranking: HeadRanking,
    *,
    by: str | Sequence[str] = ("nas", "nas_order_balanced"),
    ks: Sequence[int] = (1, 2, 3, 5, 10, 15, 20),
    edits: Edit | Sequence[Edit] = ("zero", "mean", "scale"),
    factor: float = 0.5,
    positions: str | Sequence[str] = "answer",
    n_random: int = 20,
    ks_all: Sequence[int] = (1, 5, 20),
    n_random_all: int = 3,
    instruction: Instruction | None = None,
    forms: str = "in_context",
    sets: int = 0,
    batch_size: int = 8,
    seed: int = 0,
    keep: Kept = None,
) -> CausalTest:
    """Edit the top k heads of a ranking together, and see whether that does more than editing random heads.

    For each measure, each k and each edit: the k heads with the highest scores, the k with the lowest (for NAS: those
    that attend most to "Yes"), and random sets from the layers of the top. Beside them every head alone is zeroed at
    the answer, for the correlation between score and effect.

    Cost: about 5 scans of all single heads. Measured on SmolLM2 (270 heads, prompts of 50 to 70 tokens, one CPU core):
    850 distinct edits and 3.5 s a question, 6 minutes for 100 questions; "all" adds 90 edits and 15 s a question, 25
    minutes for 100. Misleads where no answer changes: read the margin beside the bias.

    Args:
        model: a loaded model.
        questions: yes/no questions of both answers, other ones than the ranking's.
        ranking: of this model's heads.
        by: measures of the ranking that the sets are chosen by.
        ks: numbers of heads in a set, at the answer.
        edits: "zero"; "mean", each head's mean output over these questions; "scale", times ``factor``.
        factor: of the edit "scale".
        positions: where heads are edited: "answer" (the last token), "all" (every token), or both.
        n_random: random sets to compare with, at the answer; 20 or more for a p below 0.05.
        ks_all, n_random_all: the same at "all", which costs as many times more as the prompt has tokens.
        instruction: how they are put, and the two options; by default "Answer the question with Yes or No.".
        forms: "in_context", or "both": an answer word with and without a leading space.
        sets: weigh the first so many heads of the ranking as a set too (:func:`interp.circuits.weigh_first`): are they
            needed for the right answer, and enough? On some of the questions, each beside one with the other answer
            (:func:`probes.prompt_pairs.pair_prompts`), replaced at all positions; 0: not.
        batch_size: questions in a pass and in a part file.
        seed: of the random sets.
        keep: the folder for the report, and for the work before it, batch by batch (:class:`interp.Keep`); its
            ``origin`` is recorded as where the questions came from.

    Returns:
        Margins and effects question by question, in logits, and tables of them.

    Raises:
        ValueError: a ranking of another model or (where it names them) other weights, a measure it does not have, more
            heads than the model has, questions that made the ranking, questions of one answer only.

    Source: the heads of arXiv 2408.00137; the controls are ours.
    """
    by, edits, positions = ((v,) if isinstance(v, str) else tuple(dict.fromkeys(v)) for v in (by, edits, positions))
    ks, ks_all = (tuple(sorted({int(k) for k in some})) for some in (ks, ks_all))
    grid = {p: (ks, n_random) if p == "answer" else (ks_all, n_random_all) for p in positions}
    require_made_on(model, ranking)
    _require(model, questions, ranking, by, edits, grid, factor)
    require_sets(model, sets)
    instruction = instruction or Instruction()
    prompts = build_prompts(model, questions, instruction, forms=forms)
    cases = plan_cases(ranking, by, edits, grid, seed)
    settings = {
        "instruction": asdict(instruction),
        "forms": forms,
        "ranking": ranking.provenance.get("run_id"),
        "by": list(by),
        "edits": list(edits),
        "factor": factor,
        "grid": {p: {"ks": list(k), "n_random": n} for p, (k, n) in grid.items()},
        "seed": seed,
        "cases_sha256": hash_json([asdict(case) for case in cases]),
    }
    study = Study(
        "Causal test of heads",
        model,
        prompts,
        data=describe_questions(questions),
        settings=settings,
        afterwards={"sets": sets} if sets else None,
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return study.found

    built = pair_prompts(model, prompts, [q.group for q in questions]) if sets else None
    mass = mass_read(model, prompts, batch_size=batch_size)
    metric = LogitDifference(instruction.negative, instruction.positive)
    plans = {
        where: _Plan(model, prompts, metric, where, [c for c in cases if c.positions == where], factor)
        for where in dict.fromkeys(("answer", *positions))
    }

    def score(batch: Sequence[Prompt]) -> Arrays:
        scans = {where: plan.scan(batch) for where, plan in plans.items()}
        return {"clean": scans["answer"].clean} | {where: found.values for where, found in scans.items()}

    arrays = study.run(prompts, score)
    n_single = model.n_layers * model.n_heads
    column = {where: {key: i for i, key in enumerate(plan.keys)} for where, plan in plans.items()}
    arrays = {
        "clean": arrays["clean"],
        "margins": np.stack([arrays[c.positions][:, column[c.positions][c.edit, c.heads]] for c in cases], axis=1),
        "single": arrays["answer"][:, :n_single],
    }
    more = {} if built is None else record_of_sets(model, ranking, built, sets, questions=True, seed=seed)
    method = f"Sets of heads edited together ({', '.join(edits)}), exact, against random heads of the same layers"
    provenance = study.provenance(
        method=method,
        **mass,
        **more,
        scan={where: {"how": plan.how, "check": plan.check} for where, plan in plans.items()},
        ranking={key: ranking.provenance.get(key) for key in ("run_id", "title", "data", "settings")},
    )
    return study.done(_result(cases, arrays, questions, model, ranking, provenance))


class _Plan:
    """The distinct edits at some positions as branches of a scan, checked once before the batches.

    ``keys`` are (edit, heads); at the answer the first ones are all single heads, zeroed.
    """

    def __init__(self, model, prompts, metric, positions: str, cases: Sequence[Case], factor: float) -> None:
        single = [("zero", ((lay, h),)) for lay in range(model.n_layers) for h in range(model.n_heads)]
        first = single if positions == "answer" else []
        self.keys = list(dict.fromkeys([*first, *((c.edit, c.heads) for c in cases)]))
        means = None
        if any(c.edit == "mean" for c in cases):
            means = mean_head_outputs(model, prompts, last=1 if positions == "answer" else None)

        def edit(kind: str, head: Head) -> HeadEdit:
            if kind == "mean":
                return HeadEdit(*head, "set", value=means[head])
            return HeadEdit(*head, kind, factor=factor)

        self.branches = [Branch(tuple(edit(kind, h) for h in heads)) for kind, heads in self.keys]
        self._where = (model, metric, positions)
        self.how, self.check = check_once(model, prompts, self.branches, metric, positions, n=4)

    def scan(self, batch: Sequence[Prompt]):
        model, metric, positions = self._where
        return scan(model, batch, self.branches, metric=metric, positions=positions, method=self.how, check=0)


def _result(cases, arrays: Arrays, questions, model: Model, ranking: HeadRanking, provenance) -> CausalTest:
    effects = arrays["clean"][:, None] - arrays["single"]
    return CausalTest(
        cases=tuple(cases),
        margins=arrays["margins"],
        clean=arrays["clean"],
        gold_yes=np.array([q.answer == "Yes" for q in questions]),
        groups=tuple(q.group for q in questions),
        effects=effects.reshape(len(questions), model.n_layers, model.n_heads),
        scores={by: ranking.measures[by].astype(np.float64).mean(0) for by in dict.fromkeys(c.by for c in cases)},
        provenance=provenance,
    )


def _require(model, questions, ranking, by, edits, grid, factor) -> None:
    if missing := [name for name in by if name not in ranking.measures]:
        raise ValueError(f"the ranking has no measure {missing[0]!r}; by= can name {sorted(ranking.measures)}.")
    if unknown := [e for e in edits if e not in ("zero", "mean", "scale")]:
        raise ValueError(f"edit {unknown[0]!r}; expected 'zero', 'mean' or 'scale'.")
    if unknown := [p for p in grid if p not in ("answer", "all")]:
        raise ValueError(f"positions={unknown[0]!r}; expected 'answer', 'all', or both.")
    if not by or not edits or not grid:
        raise ValueError(f"by={by}, edits={edits}, positions={tuple(grid)}; expected at least one of each.")
    if not isfinite(factor) or ("scale" in edits and factor == 1):
        raise ValueError(f"factor={factor}; expected a number that changes something, such as 0.5.")
    for positions, (ks, n_random) in grid.items():
        n_heads = model.n_layers * model.n_heads
        if not ks or min(ks) < 1 or max(ks) > n_heads:
            name = "ks" if positions == "answer" else "ks_all"
            raise ValueError(f"{name}={tuple(ks)}; expected numbers of heads from 1 to the model's {n_heads}.")
        if n_random < 1:
            raise ValueError(f"{n_random} random sets; expected at least 1 (20 for a p below 0.05).")
    n_yes = sum(q.answer == "Yes" for q in questions)
    if n_yes in (0, len(questions)):
        raise ValueError(
            f"{n_yes} of the {len(questions)} questions have the answer Yes; negative bias compares questions of both "
            "answers. Give some of each."
        )
    if shared := sorted({q.id for q in questions} & set(ranking.example_ids)):
        raise ValueError(
            f"{len(shared)} questions made the ranking: {', '.join(shared)}. Heads chosen on a question look better on "
            "it; test on others (probes.questions.split_questions)."
        )

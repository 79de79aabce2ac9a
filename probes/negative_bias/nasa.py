"""NASA: correct a model's negative bias by tuning only its negative heads, beside rivals, and test it on held-out data.

After "Correcting Negative Bias in Large Language Models through Negative Attention Score Alignment" (arXiv
2408.00137). What its sources leave open is in :class:`~probes.negative_bias.corrections.Settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from interp.door import public
from interp.edits import require_made_on
from interp.models import Model, measured_mass
from interp.rankings import HeadRanking
from interp.records import Kept, hash_json, keeps_work
from interp.statistics.rank_agreement import ranks
from probes.negative_bias.alignment_result import HELD_OUT, Alignment
from probes.negative_bias.answers import require_options_used
from probes.negative_bias.corrections import Method, Settings
from probes.negative_bias.fits import Fits
from probes.negative_bias.methods import Bench, tune_heads
from probes.negative_bias.nas import CITATIONS, score_prompts
from probes.negative_bias.rivals import fit_offset, scale_heads, train_lora
from probes.questions import Instruction, Question, hash_questions, overlap, require_probing_set
from probes.studies import Study

N_RANKED = 128  # training prompts that NAS is measured on
RIVALS = ("random heads", "LoRA", "scaled heads", "constant offset")
CAVEATS = [
    "Validation chose the stops, so its own numbers flatter every method: read the held-out table.",
    "A constant offset is the simple rival: where it closes the gap as well, tuning heads added nothing to that.",
    "On questions that the model knows nothing about, accuracy and AUROC stay near a half whatever the correction.",
]


@public
@keeps_work
def align(
    model: Model,
    training: Sequence[Question],
    validation: Sequence[Question],
    *,
    ranking: HeadRanking | None = None,
    instruction: Instruction | None = None,
    settings: Settings | None = None,
    rivals: Sequence[str] = RIVALS,
    tests: Mapping[str, Sequence[Question] | tuple[Sequence[Question], Instruction]] | None = None,
    keep: Kept = None,
) -> Alignment:
    """Fit NASA, and the rivals on the same data, with the same stop.

    Heads are tuned in descending NAS, those above 0 only. The model is left as it was: ``alignment.edit`` is the
    correction. Cost: about 5 minutes a method for SmolLM2 on one core (tests/benchmarks/negative_bias). Misleads where
    only validation is read, which chose the stops: give ``tests``.

    Args:
        model: a loaded model.
        training: questions that heads are tuned on: 20 or more, of both answers.
        validation: others, which say when to stop: 20 or more, of both answers.
        ranking: with NAS, of this model's heads; by default NAS is measured on the training questions.
        instruction: how questions are put; by default "Answer the question with Yes or No.".
        settings: of the tuning.
        rivals: "random heads" (as many, with as many steps each, none of the 2 ``k`` of highest NAS), "LoRA" (all query
            and key projections, at least as many numbers, as many steps), "scaled heads" (factors for NASA's heads, no
            training), "constant offset" (added to the margin of Yes).
        tests: sets of questions, by their names, that every method is tested on: see :meth:`Alignment.test`.
        keep: the folder for what is fitted, head by head, and then for the report (:class:`interp.Keep`). A finished
            run gets further rivals and tests with ``resume=True``.

    Returns:
        NASA and its rivals as edits, with every look at validation, and the tests.

    Raises:
        ValueError: fewer than 20 questions, one class only, overlap of the two sets (by id or text), options that hold
            less than 10 % of the probability, a ranking of other weights, fused or quantised projections.
        ArithmeticError: a loss that is not finite.

    Source: arXiv 2408.00137; the stop, the rivals and ``keep`` are ours.
    """
    instruction, settings = instruction or Instruction(), settings or Settings()
    require_probing_set("training", training)
    require_probing_set("validation", validation)
    require_disjoint(training, validation)
    if unknown := set(rivals) - set(RIVALS):
        raise ValueError(f"rivals {sorted(unknown)}; expected some of {RIVALS}.")
    bench = Bench(model, training, validation, instruction, settings)
    data = {
        "sha256": hash_json([hash_questions(training), hash_questions(validation)]),
        "n_training": len(training),
        "n_validation": len(validation),
        "domains": sorted({q.domain for q in [*training, *validation]}),
    }
    described = {"instruction": asdict(instruction), **asdict(settings)}  # not the rivals: one can be added later
    if ranking is not None:
        require_ranking_of(ranking, model)
        described["ranking"] = ranking.provenance.get("run_id")
    study = Study(
        "Negative Attention Score Alignment",
        model,
        [*bench.training_prompts, *bench.validation_prompts],
        data=data,
        settings=described,
        n_items=len(training) + len(validation),
        batch_size=settings.batch_size,
        keep=keep,
        is_stream=False,
        citation=CITATIONS,
        caveats=CAVEATS,
        need_mib=300,
    )
    fits = Fits(study)
    if not tests and fits.are_all_of(["NASA", *rivals]):
        return study.found
    untouched = bench.untouched
    held = np.exp(untouched.log_probs).sum(1)
    read = measured_mass(model, bench.validation_prompts, held=held)
    try:
        require_options_used(untouched)
    except ValueError as error:
        raise ValueError(f"{error} {read.instead()}" if read is not None else str(error)) from None
    bench.about = {
        "run_id": study.id,
        "data_sha256": data["sha256"],
        "instruction": asdict(instruction),
        "validation_before": asdict(bench.state(untouched)),
    }
    negative = negative_heads(bench, ranking, 2 * settings.k)
    heads = negative[: settings.k]
    others = random_heads(model, negative, settings.seed)
    if "random heads" in rivals and len(others) < len(heads):
        raise ValueError(
            f"{model.name} has {len(others)} heads besides the {len(negative)} of highest NAS; the rival 'random "
            f"heads' needs {len(heads)}. Lower k, or leave that rival out."
        )

    def fitted(name: str, fit: Callable[[], Method]) -> Method:
        if (found := fits.get(name)) is not None:
            bench.history += found[1]
            return found[0]
        method = fit()
        fits.put(method, [h for h in bench.history if h["method"] == name])
        return method

    def tuned(name: str, chosen: Sequence[tuple[int, int]], steps: Sequence[int] | None = None) -> Method:
        return tune_heads(bench, chosen, name, steps=steps, progress=fits.progress(name), key=study.id)

    try:
        nasa = fitted("NASA", lambda: tuned("NASA", heads))
    except BaseException:
        fits.tidy()
        raise
    done = [h for h in bench.history if h["method"] == "NASA" and h["event"].startswith(("kept", "cancelled"))]
    steps = [h["step"] for h in done]
    tuned_in_turn = list(dict.fromkeys(h["what"] for h in done))  # a head comes again in the second round
    stand_ins = [others[tuned_in_turn.index(h["what"])] for h in done] if "random heads" in rivals else []
    fit = {
        "random heads": lambda: tuned("random heads", stand_ins, steps),
        "LoRA": lambda: train_lora(bench, sum(steps) or settings.check_every, nasa.n_parameters),
        "scaled heads": lambda: scale_heads(bench, heads[: len(tuned_in_turn)]),
        "constant offset": lambda: fit_offset(untouched),
    }
    methods = [nasa, *(fitted(name, fit[name]) for name in RIVALS if name in rivals)]
    mass = {} if read is None else {"answer_mass": read.to_dict()}
    found = Alignment(
        instruction=instruction,
        methods=tuple(methods),
        history=pd.DataFrame(bench.history),
        heads=tuple(heads),
        before=asdict(bench.state(untouched)),
        fitted_on=(*training, *validation),
        ranked_on=tuple(ranking.example_ids if ranking is not None else ()),
        provenance=study.provenance(rivals=list(rivals), **mass),
    )
    return study.done(found.with_tests({HELD_OUT: found.test(model, tests)}) if tests else found)


def negative_heads(bench: Bench, ranking: HeadRanking | None, k: int) -> list[tuple[int, int]]:
    """The k heads of highest NAS (of at most ``N_RANKED`` training prompts), those above 0, highest first; with
    ``every_format``, those above 0 in each domain of the training questions, by their mean rank in all of them."""
    if ranking is not None:
        mean = ranking.measures["nas"].mean(0)
        by_format = mean[None]
    else:
        drawn = np.random.default_rng(bench.settings.seed).permutation(len(bench.training_prompts))[:N_RANKED]
        prompts = [bench.training_prompts[i] for i in drawn]
        starts = range(0, len(prompts), 16)
        scores = np.concatenate([score_prompts(bench.model, prompts[s : s + 16]) for s in starts])
        domains = np.array([bench.training[i].domain for i in drawn])
        mean, by_format = scores.mean(0), np.stack([scores[domains == d].mean(0) for d in np.unique(domains)])
    if bench.settings.every_format:
        order = np.argsort(ranks(by_format.reshape(len(by_format), -1)).mean(0), kind="stable")
        in_all = (by_format > 0).all(0).ravel()
        order = order[in_all[order]][:k]
    else:
        order = np.argsort(-mean, axis=None, kind="stable")[:k]
    found = [tuple(map(int, np.unravel_index(i, mean.shape))) for i in order]
    return [(layer, head) for layer, head in found if mean[layer, head] > 0]


def random_heads(model: Model, but: Sequence[tuple[int, int]], seed: int) -> list[tuple[int, int]]:
    """All other heads, shuffled."""
    others = [(la, h) for la in range(model.n_layers) for h in range(model.n_heads) if (la, h) not in set(but)]
    return [others[i] for i in np.random.default_rng((seed, 7)).permutation(len(others))]


def require_disjoint(training: Sequence[Question], validation: Sequence[Question]) -> None:
    """Raise ``ValueError`` listing the ids of questions that stand in both sets: by id, pair, or text and passage."""
    same = overlap(validation, training)
    if same:
        raise ValueError(
            f"{len(same)} validation questions are in the training set too: {', '.join(same[:20])}"
            f"{' ...' if len(same) > 20 else ''}. Split them (probes.questions.split_questions)."
        )


def require_ranking_of(ranking: HeadRanking, model: Model) -> None:
    """Raise ``ValueError`` if the ranking has no NAS or is of other weights."""
    if "nas" not in ranking.measures:
        raise ValueError(f"the ranking has the measures {list(ranking.measures)}; NASA needs 'nas' (rank_heads).")
    require_made_on(model, ranking)

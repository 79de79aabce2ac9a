"""One level's top heads ablated together on every level's questions, beside random heads of the same layers.

The released code of V-SEAM (arXiv 2509.14837) checks its heads so, by zeroing them, against random sets. Here the heads
of each level are also ablated on the *other* levels' questions, which is where "positive heads differ between levels"
and "negative heads generalise across levels" can be seen in what the model does, and not in a list of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np

from interp.door import public
from interp.edits import require_made_on
from interp.interventions import Branch, HeadEdit
from interp.models import Model
from interp.records import Kept, hash_json, keeps_work
from interp.scans import IsMostProbable, Positions, scan_readings
from probes.heads import check_once, random_sets
from probes.studies import Study, mass_read
from probes.visual_semantics.heads.ablation_result import SetAblation, SetCase, SetEdit
from probes.visual_semantics.heads.passes import GOLD, PromptsOf, clean_answers, say_how_long
from probes.visual_semantics.heads.result import VisualHeads
from probes.visual_semantics.heads.scores import NAMES, RELU
from probes.visual_semantics.questions import VisualExample, asked_of, asking_of, describe_asked

CITATIONS = [
    "Heads ablated in sets, against random sets: V-SEAM, arXiv:2509.14837 (released code; zeroing, K = 10).",
    "Intervals: bootstrap over pictures; of accuracies the wider of that and Bonett and Price (2012), J. Educ. Behav. "
    "Stat. 37. p against random sets: a permutation test after Fisher (1935), The Design of Experiments.",
]


@public
@keeps_work
def cross_level_ablation(
    model: Model,
    heads: VisualHeads,
    examples: Sequence[VisualExample],
    *,
    k: int = 10,
    scores: Sequence[str] = RELU,
    by: str = "score",
    edits: Sequence[SetEdit] = ("zero", "mean_of_others"),
    positions: Positions = "all",
    n_random: int = 20,
    seed: int = 0,
    batch_size: int = 4,
    memory_mib: float = 1024.0,
    keep: Kept = None,
    say: Callable[[str], None] | None = None,
) -> SetAblation:
    """Ablate the first k heads of each level together, on questions of every level that did not make the ranking.

    Args:
        model: the one that was ranked.
        heads: the ranking; a level in which no question counts for a score has no set.
        examples: the questions that are asked: others than the ranking's.
        k: heads in a set.
        scores: whose first heads: "s_plus", "s_minus", "signed_drop".
        by: the first by the "score" (the paper's), or by its "mean_change".
        edits: "zero" (the release's check), "mean_of_others".
        positions: where heads are ablated, as in :func:`probes.visual_semantics.heads.heads.rank_visual_heads`.
        n_random: random sets of as many heads of the same layers; fewer than 19 can give no p of 0.05.
        seed: of the random sets.
        batch_size, memory_mib, keep, say: as in :func:`probes.visual_semantics.heads.heads.rank_visual_heads`.

    Returns: of every question the gold answer's probability and whether it is the most probable token, unedited and in
    each case.

    Raises:
        ValueError: questions that made the ranking, a ranking of another model, a level that the ranking does not have,
            and k out of range.

    Cost: every set is run on every question: (levels x scores x edits x (1 + n_random)) passes each, about half of that
    at ``positions="all"`` by the fan-out.
    Misleads: an ablation of many heads breaks a model whatever they do: read the top sets beside the random ones.
    Source: V-SEAM, arXiv 2509.14837; random sets and intervals are ours.
    """
    cases = plan_sets(model, heads, examples, k, scores, tuple(edits), n_random, seed, by)
    study = study_of_sets("Sets of visual heads", model, heads, examples, cases, k, by, positions, batch_size, keep)
    if study.found is not None:
        return study.found
    return study.done(ablate_sets(study, examples, cases, k, positions, memory_mib, say))


def ablate_sets(
    study: Study,
    examples: Sequence[VisualExample],
    cases: Sequence[SetCase],
    k: int,
    positions: Positions,
    memory_mib: float,
    say: Callable[[str], None] | None = None,
) -> SetAblation:
    """Run every case on every question, as a step of a study of sets."""
    model = study.model
    keys = list(dict.fromkeys((c.edit, c.heads) for c in cases))
    branches = [Branch(tuple(HeadEdit(*head, edit) for head in own), f"{edit} {own}") for edit, own in keys]
    metrics = [GOLD, IsMostProbable.of(model)]

    def score_batch(batch: Sequence[VisualExample], how: str) -> dict[str, np.ndarray]:
        gold, correct = scan_readings(
            model,
            [e.prompt for e in batch],
            branches,
            metrics,
            positions=positions,
            method=how,
            check=0,
            memory_mib=memory_mib,
        )
        found = {"gold_prob": gold.clean, "gold_prob_edited": gold.values}
        return found | {"is_correct": correct.clean > 0.5, "is_correct_edited": correct.values}

    if say is not None:

        def trial() -> tuple[Callable[[Sequence[VisualExample]], dict[str, np.ndarray]], str]:
            how, _ = check_once(model, [examples[0].prompt], branches, GOLD, positions)
            return partial(score_batch, how=how), f"{len(branches)} sets of heads by the {how}"

        say_how_long(study, examples, "sets", trial, say)
    clean = clean_answers(examples, study)
    ends = [examples[i].prompt for i in sorted({0, int(clean["length"].argmax()), int(clean["length"].argmin())})]
    how, check = check_once(model, ends, branches, GOLD, positions)
    found = study.run(examples, partial(score_batch, how=how), "sets")
    column = [keys.index((c.edit, c.heads)) for c in cases]
    return SetAblation(
        cases=tuple(cases),
        asked=asked_of(examples),
        gold_prob=found["gold_prob"],
        is_correct=found["is_correct"],
        gold_prob_edited=found["gold_prob_edited"][:, column],
        is_correct_edited=found["is_correct_edited"][:, column],
        provenance=study.provenance(
            method=f"the first {k} heads of each level ablated together at positions {positions!r}, exact",
            **mass_read(model, PromptsOf(examples), study.batch_size),
            scan={"how": how, "check": check},
            left_out=dict(getattr(examples, "left_out", {})),
        ),
    )


def study_of_sets(
    title: str,
    model: Model,
    heads: VisualHeads,
    examples: Sequence[VisualExample],
    cases: Sequence[SetCase],
    k: int,
    by: str,
    positions: Positions,
    batch_size: int,
    keep: Kept,
    caveats: Sequence[str] = (),
) -> Study:
    """A study in which these sets are ablated."""
    settings = {
        "ranking": heads.provenance.get("run_id"),
        "k": k,
        "by": by,
        "scores": list(dict.fromkeys(c.score for c in cases)),
        "edits": list(dict.fromkeys(c.edit for c in cases)),
        "positions": positions,
        "n_random": 1 + max((c.draw for c in cases if c.set == "random"), default=-1),
        "cases_sha256": hash_json([asdict(c) for c in cases]),
        "asking": asking_of(examples),
    }
    asked = asked_of(examples)
    return Study(
        title,
        model,
        (example.prompt for example in examples),
        data=describe_asked(asked),
        settings=settings,
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=caveats,
        need_mib=20 + 24 * len(asked) * len(cases) / 2**20,
    )


def plan_sets(
    model: Model,
    heads: VisualHeads,
    examples: Sequence[VisualExample],
    k: int,
    scores: Sequence[str],
    edits: Sequence[str],
    n_random: int,
    seed: int,
    by: str = "score",
) -> list[SetCase]:
    """Every case: the first k of each score and level, and the random sets, under each edit. Raises ``ValueError`` as
    :func:`cross_level_ablation` does."""
    _require(model, heads, examples, scores, edits, k, n_random)
    cases = []
    for score in scores:
        for level in heads.levels:
            if not heads.chosen(level, score=score).any():
                continue
            top = tuple(sorted(heads.top(score, k, level, by=by)))
            sets = [("top", 0, top)]
            sets += [("random", i, s) for i, s in enumerate(random_sets(top, heads.n_heads, n_random, seed))]
            cases += [SetCase(score, level, edit, *one) for edit in edits for one in sets]
    return cases


def _require(model: Model, heads: VisualHeads, examples, scores, edits, k: int, n_random: int) -> None:
    asked = asked_of(examples)
    if unknown := [e for e in edits if e not in ("zero", "mean_of_others")]:
        raise ValueError(f"edit {unknown[0]!r}; expected 'zero' or 'mean_of_others'.")
    if not scores or not edits or not set(scores) <= set(NAMES):
        raise ValueError(f"scores={scores}, edits={edits}; expected one or more of each, scores of {list(NAMES)}.")
    if not 1 <= k <= model.n_layers * model.n_heads:
        raise ValueError(f"k={k}; expected 1 to {model.n_layers * model.n_heads}, the number of heads.")
    if n_random < 0:
        raise ValueError(f"n_random={n_random}; expected 0 or more sets.")
    if not asked:
        raise ValueError("no questions were given; give at least one.")
    if unknown := sorted({q.level for q in asked} - set(heads.levels)):
        raise ValueError(f"questions of level {unknown[0]!r} were given; the ranking has {list(heads.levels)}.")
    if shared := sorted({q.id for q in asked} & {q.id for q in heads.asked}):
        raise ValueError(
            f"{len(shared)} of {len(asked)} questions made the ranking ({', '.join(shared[:3])} ...). Heads chosen on "
            "a question look better on it: give others (another split or seed)."
        )
    require_made_on(model, heads)

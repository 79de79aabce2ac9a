"""The study of levels: do heads that help or hurt belong to one kind of visual question, or to all?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from interp.door import public
from interp.models import Model
from interp.records import Kept, keeps_work
from interp.scans import Positions
from probes.visual_semantics.heads.ablation import ablate_sets, plan_sets, study_of_sets
from probes.visual_semantics.heads.ablation_result import SetEdit
from probes.visual_semantics.heads.levels_result import LevelStudy
from probes.visual_semantics.heads.overlap import BY, HeadOverlap, head_overlap
from probes.visual_semantics.heads.result import VisualHeads
from probes.visual_semantics.heads.scores import NAMES, RELU
from probes.visual_semantics.questions import VisualExample

CAVEATS = [
    "Overlap with chance: heads of one model are not independent, so hypergeometric p are too small. The interval of "
    "an overlap says what other questions would give, not other heads.",
    "S+ holds the size of a head's changes as well as their direction: rankings agree in it also where heads do much "
    "to any question. By the mean change that part is gone.",
    "Intervals of ablations take the random sets as given; p compares with them.",
    "A head that is not among the first k may be as important as one that is: the order is uncertain (see the "
    "reliabilities), and an overlap of two samples of one order is below k.",
]


@public
@keeps_work
def study_levels(
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
) -> LevelStudy:
    """Compare the heads of levels, in lists and in what ablating them does, with the claims of V-SEAM beside.

    Overlaps are of the ranking's own questions (:func:`probes.visual_semantics.heads.overlap.head_overlap`); ablations
    are on ``examples``, which must be others. Errors are those of
    :func:`probes.visual_semantics.heads.ablation.cross_level_ablation`.

    Args:
        model: the one that was ranked.
        heads: the ranking.
        examples: the questions that are asked: others than the ranking's.
        k: heads in a set, and of each list that are compared.
        scores: whose first heads: "s_plus", "s_minus", "signed_drop".
        by: ablate the first by the "score" (the paper's), or by its "mean_change"; lists are compared by both.
        edits: "zero" (the release's check), "mean_of_others".
        positions: where heads are ablated: "all", "text" (after the picture), "answer" (the last).
        n_random: random sets of as many heads of the same layers; fewer than 19 can give no p of 0.05.
        seed: of the random sets.
        batch_size: questions in a batch.
        memory_mib: that a chunk of edits may take beside the model.
        keep: where the work and the report are kept, if anywhere.
        say: gets one sentence before anything is run: how long it will take.

    Returns: overlaps, the ablation, and what can't be told; a score without two groups of questions to compare is
    named there.

    Cost: the passes of :func:`probes.visual_semantics.heads.ablation.cross_level_ablation`.
    Misleads: levels of unlike difficulty break under any ablation: read the contrast "own less cross".
    Source: V-SEAM, arXiv 2509.14837; what ablating shows is ours.
    """
    cases = plan_sets(model, heads, examples, k, scores, tuple(edits), n_random, seed, by)
    title = "Visual heads across levels"
    study = study_of_sets(title, model, heads, examples, cases, k, by, positions, batch_size, keep, CAVEATS)
    if study.found is not None:
        return study.found
    overlaps, untold = overlaps_of(heads, scores, k)
    ablation = ablate_sets(study, examples, cases, k, positions, memory_mib, say)
    ranking = {key: heads.provenance.get(key) for key in ("run_id", "title", "data", "settings")}
    provenance = {**ablation.provenance, "ranking": ranking}
    return study.done(LevelStudy(tuple(overlaps), ablation, tuple(untold), len(heads.asked), provenance))


def overlaps_of(
    heads: VisualHeads, scores: Sequence[str], k: int, n_halves: int = 200, n_permutations: int = 999
) -> tuple[list[HeadOverlap], list[str]]:
    """The overlaps of each score, by itself and by its mean change; and why some can't be had."""
    overlaps, untold = [], []
    for score in scores:
        try:
            found = [head_overlap(heads, score, k, by, n_halves, n_permutations) for by in BY]
            overlaps += found
            untold += filter(None, [found[0].untold])
        except ValueError as error:
            untold.append(f"Overlaps by {NAMES[score]} are not known: {error}")
    return overlaps, untold

"""The study of levels: do heads that help or hurt belong to one kind of visual question, or to all? One report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp.door import public
from interp.figures.heads import interval_bars
from interp.models import Model
from interp.records import clear_parts, keeps_work
from interp.reports import Findings, load_findings
from interp.scans import Positions
from probes.studies import said_of_data
from probes.visual_semantics.heads.ablation import (
    MEASURES,
    SetAblation,
    SetEdit,
    cross_level_ablation,
    plan_sets,
    run_of_sets,
)
from probes.visual_semantics.heads.claims import claims_frame, claims_of, sentences_of, verdict_counts
from probes.visual_semantics.heads.overlap import BY, HeadOverlap, head_overlap
from probes.visual_semantics.heads.result import VisualHeads
from probes.visual_semantics.heads.scores import FEWEST, NAMES, RELU
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
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> Findings:
    """Compare the heads of levels, in lists and in what ablating them does, with the claims of V-SEAM beside.

    Overlaps are of the ranking's own questions (:func:`probes.visual_semantics.heads.overlap.head_overlap`); ablations
    are on ``examples``, which must be others (:func:`probes.visual_semantics.heads.ablation.cross_level_ablation`,
    whose cost and errors these are). With ``out`` the report is saved there; ``resume`` and ``overwrite`` as in
    :func:`probes.visual_semantics.heads.heads.rank_visual_heads`. Also raises as :func:`head_overlap` where no score
    has two groups.
    """
    if out is not None:
        cases = plan_sets(heads, k, scores, tuple(edits), n_random, seed, by)
        run = run_of_sets(model, heads, examples, cases, k, by, positions, batch_size, out, resume, overwrite, origin)
        if run.is_finished():
            return load_findings(out)
    overlaps, untold = overlaps_of(heads, scores, k)
    ablation = cross_level_ablation(
        model,
        heads,
        examples,
        k=k,
        scores=scores,
        by=by,
        edits=edits,
        positions=positions,
        n_random=n_random,
        seed=seed,
        batch_size=batch_size,
        memory_mib=memory_mib,
        out=out,
        resume=resume,
        overwrite=overwrite,
        origin=origin,
        say=say,
    )
    found = findings_of_levels(heads, overlaps, ablation, untold)
    if out is not None:
        found.save(out, overwrite=overwrite)
        clear_parts(Path(out))
    return found


def overlaps_of(
    heads: VisualHeads, scores: Sequence[str], k: int, n_halves: int = 200, n_permutations: int = 999
) -> tuple[list[HeadOverlap], list[str]]:
    """The overlaps of each score, by itself and by its mean change; and why some can't be had."""
    overlaps, untold = [], []
    for score in scores:
        try:
            found = [head_overlap(heads, score, k, by, n_halves, n_permutations) for by in BY]
            overlaps += found
            if not found[0].contrasts:
                untold.append(
                    f"Levels can't be compared with themselves by {NAMES[score]}: that takes {FEWEST} questions that "
                    f"count for it of both kinds, or of both halves of the forms, at two levels. Too few: "
                    f"{', '.join(f'{name} ({n})' for name, n in found[0].left_out.items()) or 'none'}."
                )
        except ValueError as error:
            untold.append(f"Overlaps by {NAMES[score]} are not known: {error}")
    return overlaps, untold


def findings_of_levels(
    heads: VisualHeads, overlaps: Sequence[HeadOverlap], ablation: SetAblation, untold: Sequence[str] = ()
) -> Findings:
    """The report: a verdict on each claim, the tables behind it, overlap matrices and effects of ablations."""
    claims = claims_of(overlaps, ablation)
    frame = claims_frame(claims)
    frame.attrs["note"] = (
        "shown: the 95 % interval lies on the claimed side of the null, and random sets of heads (or shuffled levels) "
        "hardly ever do as much; reversed: it lies on the other side."
    )
    tables: dict[str, pd.DataFrame] = {"Verdicts": verdict_counts(claims), "Claims": frame}
    figures: dict[str, go.Figure] = {}
    if overlaps:
        tables["Within and between levels"] = pd.concat([o.to_frame() for o in overlaps], ignore_index=True)
        pairs = [o.pairs.assign(score=NAMES[o.score], by=o.by) for o in overlaps]
        pairs = [p[["score", "by", *p.columns.drop(["score", "by"])]] for p in pairs]
        tables["Groups of questions, two by two"] = pd.concat(pairs, ignore_index=True)
        tables["Groups of questions, two by two"].attrs["note"] = (
            "ceiling: the correlation that two samples as noisy would have if the order behind both were one "
            "(root of the product of both split-half reliabilities)."
        )
        figures |= {f"{NAMES[o.score]}, by {o.by.replace('_', ' ')}: shared heads": o.plot() for o in overlaps}
    effects = ablation.to_frame()
    for measure, what in MEASURES.items():
        for edit in ablation.edits:
            figures[f"Change of {what}, heads {edit.replace('_', ' ')}"] = plot_effects(effects, measure, edit)
    tables["Sets of heads"] = ablation.sets()
    tables["Sets ablated on every level"] = effects
    provenance = dict(ablation.provenance)
    provenance["caveats"] = [*CAVEATS, *provenance["caveats"]]
    provenance["ranking"] = {key: heads.provenance.get(key) for key in ("run_id", "title", "data", "settings")}
    n, right = len(ablation.asked), int(ablation.is_correct.sum())
    asked = (
        f"Heads were ranked on {len(heads.asked)} questions and ablated on {n} others, of which {right} are answered "
        "correctly unedited."
    )
    return Findings(
        title=provenance["title"],
        statement=[*sentences_of(claims), *untold, asked, *said_of_data(provenance)],
        tables=tables,
        figures=figures,
        provenance=provenance,
        arrays={
            "gold_prob": ablation.gold_prob,
            "is_correct": ablation.is_correct,
            "gold_prob_edited": ablation.gold_prob_edited,
            "is_correct_edited": ablation.is_correct_edited,
        },
    )


@public
def plot_effects(effects: pd.DataFrame, measure: str, edit: str) -> go.Figure:
    """Top sets and random sets of each level on each level's questions, as bars with intervals."""
    rows = effects[(effects["subset"] == "all") & (effects["edit"] == edit)]
    parts = []
    for kind in ("delta", "random"):
        values = {name: rows[f"{kind}_{measure}{end}"] for name, end in (("y", ""), ("low", "_low"), ("high", "_high"))}
        which = " heads" if kind == "delta" else " random"
        part = rows[["target", "n"]].assign(panel=rows["score"] + " heads", heads=rows["source"] + which, **values)
        parts.append(part)
    return interval_bars(
        pd.concat(parts, ignore_index=True),
        x="target",
        y="y",
        low="low",
        high="high",
        color="heads",
        facet="panel",
        title=f"Change of {MEASURES[measure]} by the level of the questions, heads {edit.replace('_', ' ')}",
        labels={"target": "questions asked", "y": "change", "heads": "heads ablated"},
    )

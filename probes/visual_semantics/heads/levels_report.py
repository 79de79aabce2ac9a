"""The report of levels: a verdict on each claim, the tables behind it, overlap matrices and effects of ablations."""

from __future__ import annotations

from functools import partial

from interp.reports import Figures, Findings
from probes.studies import said_of_data
from probes.visual_semantics.heads.ablation_report import figures_of, tables_of
from probes.visual_semantics.heads.claims import claim_tables, claims_of, sentences_of
from probes.visual_semantics.heads.levels_result import LevelStudy
from probes.visual_semantics.heads.overlap_report import matrix_of, tables_of_overlaps
from probes.visual_semantics.heads.scores import NAMES


def findings_of(study: LevelStudy) -> Findings:
    """The report of a study of levels."""
    overlaps, ablation = study.overlaps, study.ablation
    claims = claims_of(overlaps, ablation)
    figures = {f"{NAMES[o.score]}, by {o.by.replace('_', ' ')}: shared heads": partial(matrix_of, o) for o in overlaps}
    n, right = len(ablation.asked), int(ablation.is_correct.sum())
    asked = (
        f"Heads were ranked on {study.n_ranked} questions and ablated on {n} others, of which {right} are answered "
        "correctly unedited."
    )
    return Findings(
        title=study.provenance["title"],
        statement=[*sentences_of(claims), *study.untold, asked, *said_of_data(study.provenance)],
        tables=claim_tables(claims) | tables_of_overlaps(overlaps) | tables_of(ablation),
        figures=Figures(figures | figures_of(ablation)),
        provenance=dict(study.provenance),
    )

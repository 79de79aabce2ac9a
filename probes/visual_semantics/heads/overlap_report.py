"""What overlaps of heads say: agreement within and between levels, group by group, as tables and a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figures import overlap_matrix
from interp.reports import Figures, Findings
from interp.statistics import FEWEST
from probes.visual_semantics.heads.claims import claim_tables, claims_of, sentences_of
from probes.visual_semantics.heads.overlap import HeadOverlap, name_of_group
from probes.visual_semantics.heads.scores import NAMES


def findings_of(overlap: HeadOverlap) -> Findings:
    """The report of one score's overlaps."""
    claims = claims_of([overlap])
    left_out = ", ".join(f"{name} (n = {n})" for name, n in overlap.left_out.items())
    said = sentences_of(claims) or [overlap.untold]
    if left_out and claims:
        said.append(f"Left out, with fewer than {FEWEST} questions that count for {NAMES[overlap.score]}: {left_out}.")
    return Findings(
        title=overlap.provenance["title"],
        statement=said,
        tables=(claim_tables(claims) if claims else {}) | tables_of_overlaps([overlap]),
        figures=Figures({"Shared heads": partial(matrix_of, overlap)}),
        provenance=dict(overlap.provenance),
    )


def tables_of_overlaps(overlaps: Sequence[HeadOverlap]) -> dict[str, pd.DataFrame]:
    """The contrasts, and the agreements of groups two by two."""
    if not overlaps:
        return {}
    pairs = [o.pairs.assign(score=NAMES[o.score], by=o.by) for o in overlaps]
    two_by_two = pd.concat([p[["score", "by", *p.columns.drop(["score", "by"])]] for p in pairs], ignore_index=True)
    two_by_two.attrs["note"] = (
        "ceiling: the correlation that two samples as noisy would have if the order behind both were one "
        "(root of the product of both split-half reliabilities)."
    )
    contrasts = pd.concat([o.to_frame() for o in overlaps], ignore_index=True)
    tables = {"Within and between levels": contrasts} if len(contrasts) else {}
    return tables | {"Groups of questions, two by two": two_by_two}


def matrix_of(overlap: HeadOverlap) -> go.Figure:
    """How many of their first k heads the groups of questions share, two by two."""
    names = [name_of_group(g) for g in overlap.groups]
    values = np.full((len(names), len(names)), float(overlap.k))
    for row in overlap.pairs.itertuples():
        i, j = names.index(row.a), names.index(row.b)
        values[i, j] = values[j, i] = row.overlap
    title = f"{NAMES[overlap.score]} by {overlap.by.replace('_', ' ')}: shared heads of the first {overlap.k}"
    return overlap_matrix(values, names, overlap.k, overlap.expected, title)

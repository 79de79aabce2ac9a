"""What a study of levels found: overlaps of their heads, and what ablating these does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.reports import Result
from probes.visual_semantics.heads.ablation_result import SetAblation
from probes.visual_semantics.heads.overlap import HeadOverlap


@dataclass(frozen=True, eq=False, repr=False)
class LevelStudy(Result, report="probes.visual_semantics.heads.levels_report"):
    """Heads of levels compared, in lists and in what ablating them does to other questions.

    Args:
        overlaps: of the lists, on the ranking's own questions.
        ablation: of each level's first heads, on the other questions.
        untold: which overlaps can't be had, and why, a sentence each.
        n_ranked: questions that made the ranking.
        provenance: model, data, settings, versions.
    """

    overlaps: tuple[HeadOverlap, ...]
    ablation: SetAblation
    untold: tuple[str, ...]
    n_ranked: int
    provenance: Mapping[str, Any]

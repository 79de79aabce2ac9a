"""Heads that help and hurt, by level, with what chance gives."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.visual_semantics.heads.ablation import cross_level_ablation as cross_level_ablation
    from probes.visual_semantics.heads.ablation_report import plot_effects as plot_effects
    from probes.visual_semantics.heads.ablation_result import SetAblation as SetAblation
    from probes.visual_semantics.heads.claims import LevelClaim as LevelClaim, claims_of as claims_of
    from probes.visual_semantics.heads.heads import rank_visual_heads as rank_visual_heads
    from probes.visual_semantics.heads.levels import study_levels as study_levels
    from probes.visual_semantics.heads.levels_result import LevelStudy as LevelStudy
    from probes.visual_semantics.heads.overlap import HeadOverlap as HeadOverlap, head_overlap as head_overlap
    from probes.visual_semantics.heads.report import first_heads as first_heads
    from probes.visual_semantics.heads.result import VisualHeads as VisualHeads
    from probes.visual_semantics.heads.scores import NAMES as NAMES

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

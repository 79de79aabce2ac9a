"""Sets of heads, what they do to an answer, and the statistics of both."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.circuits import Head as Head, random_sets as random_sets
    from probes.heads.effects import (
        Ablation as Ablation,
        HeadEffects as HeadEffects,
        check_once as check_once,
        token_views as token_views,
        why_no_attribution as why_no_attribution,
    )
    from probes.heads.screened import screened_effects as screened_effects
    from probes.heads.set_statistics import (
        permutation_p as permutation_p,
        spearman_over_heads as spearman_over_heads,
    )
    from probes.heads.sets import Case as Case, plan_cases as plan_cases

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

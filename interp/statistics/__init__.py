"""Estimates with intervals, tests, agreement of orders, and claims: sentences made of them."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.statistics.aurocs import (
        auroc as auroc,
        auroc_difference as auroc_difference,
        auroc_estimate as auroc_estimate,
        auroc_interval as auroc_interval,
    )
    from interp.statistics.bootstrap import bootstrap_interval as bootstrap_interval
    from interp.statistics.claims import (
        ALPHA as ALPHA,
        FEWEST as FEWEST,
        FEWEST_DRAWS as FEWEST_DRAWS,
        Claim as Claim,
        measured as measured,
        too_few as too_few,
    )
    from interp.statistics.estimates import (
        CONFIDENCE as CONFIDENCE,
        N_BOOTSTRAP as N_BOOTSTRAP,
        SEED as SEED,
        UNKNOWN as UNKNOWN,
        Estimate as Estimate,
        Interval as Interval,
        bracketed as bracketed,
        group_sums as group_sums,
    )
    from interp.statistics.kappa import cohen_kappa as cohen_kappa
    from interp.statistics.means import (
        mean_difference as mean_difference,
        mean_estimate as mean_estimate,
        mean_interval as mean_interval,
        ratio_estimate as ratio_estimate,
        ratio_interval as ratio_interval,
    )
    from interp.statistics.rank_agreement import (
        SplitHalf as SplitHalf,
        TopKOverlap as TopKOverlap,
        around as around,
        rank_biased_overlap as rank_biased_overlap,
        spearman as spearman,
        split_half as split_half,
        top_k_overlap as top_k_overlap,
    )
    from interp.statistics.shares import (
        difference_of as difference_of,
        paired_share_change as paired_share_change,
        pairs_of as pairs_of,
        wilson_share as wilson_share,
        within_pairs as within_pairs,
    )
    from interp.statistics.sign_flips import benjamini_hochberg as benjamini_hochberg, sign_flip_p as sign_flip_p

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

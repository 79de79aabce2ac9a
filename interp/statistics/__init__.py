"""Estimates with intervals, tests, and agreement of orders."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.statistics.estimates import (
        UNKNOWN as UNKNOWN,
        Estimate as Estimate,
        Interval as Interval,
        benjamini_hochberg as benjamini_hochberg,
        bootstrap_interval as bootstrap_interval,
        mean_interval as mean_interval,
        paired_share_change as paired_share_change,
        rank_biased_overlap as rank_biased_overlap,
        sign_flip_p as sign_flip_p,
        split_half as split_half,
        top_k_overlap as top_k_overlap,
        wilson_share as wilson_share,
    )
    from interp.statistics.rank_agreement import around as around

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

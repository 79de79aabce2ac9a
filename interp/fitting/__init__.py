"""Rows tuned and factors searched."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.fitting.factor_gradient import gradient_search as gradient_search
    from interp.fitting.factor_search import (
        VALUES as VALUES,
        FactorSearch as FactorSearch,
        coordinate_search as coordinate_search,
    )
    from interp.fitting.factors import (
        Factors as Factors,
        changed_heads as changed_heads,
        factors_by_rule as factors_by_rule,
        factors_top_k as factors_top_k,
        largest_change as largest_change,
        random_factors as random_factors,
        strength_for as strength_for,
    )
    from interp.fitting.modulation import require_shape as require_shape
    from interp.fitting.tuning import (
        HeadTuner as HeadTuner,
        KeptAnswers as KeptAnswers,
        LoraTuner as LoraTuner,
        ReplyTuner as ReplyTuner,
        frozen as frozen,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""Latent Guard: requests told harmful by the state, beside guards that read the text."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.latent_guard.classifier import LatentGuard as LatentGuard, load_guard as load_guard
    from probes.latent_guard.comparison import (
        compare_guards as compare_guards,
        cross_compare_guards as cross_compare_guards,
    )
    from probes.latent_guard.conditional import (
        ConditionWarning as ConditionWarning,
        conditional_steering as conditional_steering,
    )
    from probes.latent_guard.held_out import GuardWarning as GuardWarning, HeldOutTest as HeldOutTest
    from probes.latent_guard.result import (
        GuardStudy as GuardStudy,
        Latency as Latency,
        sounds_dangerous as sounds_dangerous,
    )
    from probes.latent_guard.timing import latency as latency
    from probes.latent_guard.transfer import threshold_transfer as threshold_transfer

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

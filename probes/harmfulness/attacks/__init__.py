"""Jailbreaks, suffixes and fine-tuning, and what they leave of both beliefs."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.harmfulness.attacks.finetuning import Recipe as Recipe, attack_by_finetuning as attack_by_finetuning
    from probes.harmfulness.attacks.jailbreaks import attack as attack
    from probes.harmfulness.attacks.suffixes import find_suffixes as find_suffixes

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""Jailbreaks, suffixes and fine-tuning, and what they leave of both beliefs."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.harmfulness.attacks.finetuning import Recipe as Recipe, attack_by_finetuning as attack_by_finetuning
    from probes.harmfulness.attacks.finetuning_result import FineTuningStudy as FineTuningStudy
    from probes.harmfulness.attacks.jailbreak_result import JailbreakStudy as JailbreakStudy
    from probes.harmfulness.attacks.jailbreaks import attack as attack
    from probes.harmfulness.attacks.suffixes import find_suffixes as find_suffixes
    from probes.harmfulness.attacks.texts import Jailbreak as Jailbreak, load_jailbreaks as load_jailbreaks

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

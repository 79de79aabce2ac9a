"""Factors on heads' outputs, chosen on validation and read once on test."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.modulation.candidates import (
        HeadScores as HeadScores,
        ModulationSettings as ModulationSettings,
        scores_of_ranking as scores_of_ranking,
    )
    from probes.modulation.effects import ALL as ALL
    from probes.modulation.readings import Item as Item, ItemSet as ItemSet
    from probes.modulation.result import Modulation as Modulation
    from probes.modulation.study import modulate_items as modulate_items, question_items as question_items

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

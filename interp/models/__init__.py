"""A model, loaded and checked, with its verbs."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.models.answer_mass import MOST_PROMPTS as MOST_PROMPTS, measured_mass as measured_mass
    from interp.models.loading import load as load
    from interp.models.model import Model as Model
    from interp.models.precision import twin_in as twin_in

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

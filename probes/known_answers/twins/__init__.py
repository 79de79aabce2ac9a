"""Small transformers trained so that only the heads given to a task's variables may carry them."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.known_answers.twins.weights import build_twin as build_twin, twin_names as twin_names

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

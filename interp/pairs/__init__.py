"""Clean and corrupt prompts with their answers."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.pairs.alignment import DIFFERING as DIFFERING, Places as Places, aligned_places as aligned_places
    from interp.pairs.prompt_pairs import PromptPairs as PromptPairs

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""Text against picture: which heads follow the words."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.visual_semantics.conflict.conflict import rank_conflict_heads as rank_conflict_heads
    from probes.visual_semantics.conflict.result import ConflictHeads as ConflictHeads

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

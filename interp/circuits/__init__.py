"""From heads to circuits: sets of heads, paths between them, what kind of head each is."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.circuits.drawn_sets import Head as Head, random_sets as random_sets
    from interp.circuits.faithful import (
        Faithfulness as Faithfulness,
        SetTest as SetTest,
        faithfulness as faithfulness,
        minimal_set as minimal_set,
        only_together as only_together,
        weigh_set as weigh_set,
    )
    from interp.circuits.first_heads import (
        FirstHeads as FirstHeads,
        passes_of_first as passes_of_first,
        weigh_first as weigh_first,
    )
    from interp.circuits.graph import CircuitGraph as CircuitGraph, load_graph as load_graph
    from interp.circuits.paths import Paths as Paths, patch_paths as patch_paths
    from interp.circuits.routes import Routes as Routes, head_routes as head_routes
    from interp.reading.kinds import KINDS as KINDS, head_kinds as head_kinds

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

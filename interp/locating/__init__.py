"""Which heads matter: many ways to find them, one interface."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.locating.beside import (
        Looked as Looked,
        provenance_beside as provenance_beside,
        said_beside as said_beside,
    )
    from interp.locating.rewriting import heads_rewritten as heads_rewritten
    from interp.locating.screening import (
        SCREENS as SCREENS,
        Screened as Screened,
        confirmed as confirmed,
        estimate_removal as estimate_removal,
        reaching as reaching,
        require_screen as require_screen,
    )
    from interp.locating.sets import Gates as Gates, learn_gates as learn_gates, patched_sets as patched_sets
    from interp.locating.ways import WAYS as WAYS, Way as Way, expected_passes as expected_passes, locate as locate

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""The harmfulness and the refusal direction."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.harmfulness.directions.controls import (
        DIRECTIONS as DIRECTIONS,
        controls_of as controls_of,
    )
    from probes.harmfulness.directions.directions import (
        compare_protocols as compare_protocols,
        fit_directions as fit_directions,
    )
    from probes.harmfulness.directions.first_tokens import Openings as Openings
    from probes.harmfulness.directions.learning import (
        held_out_scores as held_out_scores,
        learning_curve as learning_curve,
    )
    from probes.harmfulness.directions.openings import (
        find_openings as find_openings,
        openings_of as openings_of,
    )
    from probes.harmfulness.directions.result import HarmfulDirections as HarmfulDirections, HeldOut as HeldOut
    from probes.harmfulness.directions.writers import (
        rank_writers as rank_writers,
        strongest_layer as strongest_layer,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""What adding a direction does to replies and to beliefs."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.harmfulness.steering.dimensions import try_dimensions as try_dimensions
    from probes.harmfulness.steering.dimensions_result import Dimensions as Dimensions
    from probes.harmfulness.steering.front import steering_front as steering_front
    from probes.harmfulness.steering.front_result import SteeringFront as SteeringFront
    from probes.harmfulness.steering.inversion import invert as invert
    from probes.harmfulness.steering.inversion_result import (
        Inversion as Inversion,
        InversionQuestion as InversionQuestion,
        load_inversion_questions as load_inversion_questions,
    )
    from probes.harmfulness.steering.result import SteeringStudy as SteeringStudy
    from probes.harmfulness.steering.rivals import SteeringArm as SteeringArm, standard_arms as standard_arms
    from probes.harmfulness.steering.sweep import test as test

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

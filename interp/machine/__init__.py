"""What this machine can do, and how long a study takes on it."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.machine.costs import (
        ModelShape as ModelShape,
        Work as Work,
        check_passes as check_passes,
        mean_tokens as mean_tokens,
    )
    from interp.machine.doctor import Diagnosis as Diagnosis, examine as examine
    from interp.machine.speed import Speed as Speed, measure_speed as measure_speed
    from interp.machine.worker_needs import Workers as Workers, needs_gb as needs_gb, plan_workers as plan_workers

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

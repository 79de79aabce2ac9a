"""What runs a study in several processes at once, on one machine or on many."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.engines.driver import Driver as Driver, WorkerError as WorkerError
    from interp.engines.on_ray import require_ray as require_ray, run_on_ray as run_on_ray

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

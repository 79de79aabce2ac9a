"""What a head reads, the picture or the words: its effect by where its attention goes."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.visual_semantics.routes.result import VisualRoutes as VisualRoutes
    from probes.visual_semantics.routes.routes import pair_routes as pair_routes, visual_routes as visual_routes

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

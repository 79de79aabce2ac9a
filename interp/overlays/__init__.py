"""Numbers of image positions, drawn on the picture."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.overlays.overlays import (
        HeadMaps as HeadMaps,
        pair_figure as pair_figure,
        read_head_maps as read_head_maps,
        read_strongest_maps as read_strongest_maps,
    )
    from interp.overlays.patches import patch_positions as patch_positions, require_grid as require_grid

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""Pictures, and the parts of a model that read them."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.vision.adapters import (
        register_adapter_for as register_adapter_for,
        torchvision_not_asked_for as torchvision_not_asked_for,
    )
    from interp.vision.encoder import Features as Features, ImageEncoder as ImageEncoder, image_encoder as image_encoder
    from interp.vision.grids import patch_grid as patch_grid
    from interp.vision.images import ImageLike as ImageLike, image_sha256 as image_sha256, read_image as read_image
    from interp.vision.picture import TOKEN_INPUTS as TOKEN_INPUTS, Encoded as Encoded, PromptImage as PromptImage
    from interp.vision.processors import load_processor as load_processor

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

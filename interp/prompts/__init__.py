"""From text and pictures to tokens, and from characters to positions."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.prompts.batch import Batch as Batch, pad_left as pad_left
    from interp.prompts.building import build_prompt as build_prompt
    from interp.prompts.chat_templates import (
        System as System,
        picture_template as picture_template,
        template_used as template_used,
        template_variables as template_variables,
        told as told,
        writes_date as writes_date,
    )
    from interp.prompts.fits import require_fits as require_fits
    from interp.prompts.pictures import image_token as image_token
    from interp.prompts.prompt import Prompt as Prompt, SpanLike as SpanLike

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""The processor of both scene testbeds: Pillow's image processor, pixels from -1 to 1, and a chat template."""

from __future__ import annotations

from typing import Any

from transformers import CLIPImageProcessorPil, LlavaProcessor


def make_processor(tokenizer: Any, pixels: int, patch: int, chat_template: str) -> LlavaProcessor:
    """Pictures of any size are scaled to ``pixels`` x ``pixels``."""
    side = {"height": pixels, "width": pixels}
    images = CLIPImageProcessorPil(
        size=side, crop_size=side, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )

"""Where a prompt's image positions lie on the picture."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

_PATCHES = ("llava", "paligemma")
_QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")


def patch_grid(config: Any, inputs: Mapping[str, Tensor], n_positions: int) -> tuple[int, int] | None:
    """(rows, columns) of the patches that the image positions are, in order; None where they are not.

    LLaVA 1.5, PaliGemma: patches of the (resized, cropped) picture; Gemma 3: averages of patches; Qwen-VL: merged
    patches of a picture that keeps its shape. Q-Former queries are no patches, and tilings (LLaVA-NeXT, Idefics3,
    SmolVLM, Gemma 3's pan and scan) show the picture twice, whole and in parts.
    """
    kind, vision = config.model_type, config.vision_config
    if kind in _QWEN and "image_grid_thw" in inputs:
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        grid = (rows // vision.spatial_merge_size, columns // vision.spatial_merge_size)
    elif kind in _PATCHES and "pixel_values" in inputs:
        height, width = inputs["pixel_values"].shape[-2:]
        grid = (height // vision.patch_size, width // vision.patch_size)
    elif kind == "gemma3":
        grid = (isqrt(config.mm_tokens_per_image),) * 2
    else:
        return None
    return grid if grid[0] * grid[1] == n_positions else None

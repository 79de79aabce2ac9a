"""Which part of a picture each of a prompt's image positions stands for, and which positions stand for a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


class Box(NamedTuple):
    """The part of a picture that its patches cover, in pixels from its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


def covered(model: Model, prompt: Prompt) -> Box:
    """What the patches show: all of the picture, or, where the processor cuts out its middle (CLIP's, in LLaVA 1.5: the
    shorter side is scaled, a square is cut), that.

    Raises ``ValueError`` for a prompt without picture, or whose image positions are no patches of it.
    """
    require_grid(prompt)
    width, height = prompt.image.size
    processor = getattr(model.processor, "image_processor", None)
    resized_w, resized_h = float(width), float(height)
    if getattr(processor, "do_resize", True):
        size = getattr(processor, "size", None)
        if shortest := _number(size, "shortest_edge"):
            scale = shortest / min(width, height)
            resized_w, resized_h = width * scale, height * scale
        elif _number(size, "height"):
            resized_w, resized_h = float(_number(size, "width")), float(_number(size, "height"))
    if not getattr(processor, "do_center_crop", False):
        return Box(0.0, 0.0, float(width), float(height))
    crop = getattr(processor, "crop_size", None)
    cut_w, cut_h = (
        min(1.0, _number(crop, name) / full) for name, full in (("width", resized_w), ("height", resized_h))
    )
    left, top = width * (1 - cut_w) / 2, height * (1 - cut_h) / 2
    return Box(left, top, width - left, height - top)


def mask_share(model: Model, prompt: Prompt, mask: Bool[np.ndarray, "height width"]) -> Float[np.ndarray, "row column"]:
    """The share of each patch's area that a mask over the picture covers, exactly (patches need not be whole pixels).

    Raises ``ValueError`` as :func:`covered`, and for a mask of another size than the picture, or not of truth values.
    """
    box = covered(model, prompt)
    width, height = prompt.image.size
    if mask.dtype != bool or mask.shape != (height, width):
        raise ValueError(
            f"prompt {prompt.id!r}: the mask is {mask.dtype} {mask.shape}; expected bool {(height, width)}, the "
            "picture's height and width."
        )
    rows, columns = prompt.image.grid
    down = _overlaps(np.linspace(box.top, box.bottom, rows + 1), height)
    across = _overlaps(np.linspace(box.left, box.right, columns + 1), width)
    area = (box.bottom - box.top) / rows * (box.right - box.left) / columns
    return down @ mask.astype(np.float64) @ across.T / area


def patch_positions(
    model: Model, prompt: Prompt, mask: Bool[np.ndarray, "height width"], least: float = 0.0
) -> tuple[int, ...]:
    """Positions in the prompt of the patches of which the mask covers more than ``least`` (a share; 0: any part).

    A vision tower lets patches see each other, so a position also holds something of the others.
    """
    chosen = mask_share(model, prompt, mask).ravel() > max(least, 1e-9)
    return tuple(p for p, is_in in zip(prompt.span("image"), chosen, strict=True) if is_in)


def require_grid(prompt: Prompt) -> None:
    """Raise ``ValueError`` unless the prompt's image positions are patches of its picture, row by row."""
    if prompt.image is None:
        raise ValueError(f"prompt {prompt.id or prompt.text[:40]!r} has no picture; build it with image=...")
    if prompt.image.grid is None:
        raise ValueError(
            f"prompt {prompt.id or prompt.text[:40]!r}: its {len(prompt.span('image'))} image positions are no "
            "patches of its picture (they are a Q-Former's queries, or show it whole and in tiles): nothing can be "
            "placed on it. Take a model whose Prompt.image.grid is not None (LLaVA 1.5, Gemma 3, PaliGemma, Qwen-VL)."
        )


def _overlaps(edges: Float[np.ndarray, " edge"], n_pixels: int) -> Float[np.ndarray, "patch pixel"]:
    """How much of each pixel lies between two neighbouring edges."""
    pixel = np.arange(n_pixels)
    low, high = edges[:-1, None], edges[1:, None]
    return np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)


def _number(size: Any, name: str) -> int:
    value = size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
    return value if isinstance(value, int) else 0

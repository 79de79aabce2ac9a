"""The picture of a prompt as a value: what a processor made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from interp.door.brief import brief

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class PromptImage:
    """The picture of one prompt, as the model's processor prepared it.

    ``inputs``: what the processor made besides token ids and mask (``pixel_values``, ``image_grid_thw``,
    ``qformer_input_ids``, ...), for this prompt alone. ``size``: (width, height) of the picture in pixels, before the
    processor resized it. ``sha256``: of its RGB pixels, so one picture has one hash in every file format. ``grid``:
    (rows, columns) where the prompt's image positions are, in order, patches of the picture row by row; None where
    they are not (Q-Former queries, tilings).
    """

    inputs: Mapping[str, Tensor]
    size: tuple[int, int]
    sha256: str
    grid: tuple[int, int] | None = None

    __repr__ = brief

    @cached_property
    def pixels_key(self) -> str:
        """A hash of what the vision tower reads: pixels, tile sizes, patch masks; not the question."""
        return self._hash(lambda name: "qformer" not in name)

    @cached_property
    def key(self) -> str:
        """A hash of all that decides the image features (InstructBLIP's depend on the question too)."""
        return self._hash(lambda name: True)

    def _hash(self, chosen: Callable[[str], bool]) -> str:
        import torch

        digest = hashlib.sha256()
        for name in sorted(name for name in self.inputs if chosen(name) and name not in TOKEN_INPUTS):
            tensor = self.inputs[name].detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode())
        return digest.hexdigest()


TOKEN_INPUTS = ("token_type_ids", "mm_token_type_ids")  # one number for each token, not about the picture


@dataclass(frozen=True)
class Encoded:
    """A text, with its picture if it has one, tokenised. ``text`` is the one that the offsets are of, with every image
    token; ``moved`` takes a character of the text that was given to its place in it."""

    token_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    text: str
    image_positions: tuple[int, ...] = ()
    image: PromptImage | None = None
    moved: Callable[[int], int] = lambda character: character

    __repr__ = brief

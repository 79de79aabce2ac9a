"""Prompts side by side in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp.door.brief import brief
from interp.prompts.prompt import Prompt


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the left. ``offsets[i]`` is what to add to a position of prompt i."""

    inputs: dict[str, Int[Tensor, "example pos"]]
    offsets: tuple[int, ...]

    __repr__ = brief


def pad_left(prompts: Sequence[Prompt], device: torch.device) -> Batch:
    """Token ids, mask and position ids of a batch. The mask is left out when nothing is padded, so that a batch of
    equal lengths takes the fast causal kernel."""
    longest = max(map(len, prompts))
    offsets = tuple(longest - len(p) for p in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, offset) in enumerate(zip(prompts, offsets, strict=True)):
        ids[row, offset:] = torch.tensor(prompt.token_ids)
        mask[row, offset:] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    inputs = {"input_ids": ids.to(device)}
    if any(offsets):
        inputs |= {"attention_mask": mask.to(device), "position_ids": positions.to(device)}
    return Batch(inputs, offsets)

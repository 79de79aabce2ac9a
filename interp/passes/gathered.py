"""What hooks read, left where it was made until a pass is over, and then brought to the host in one copy."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

MOST_BYTES = 256 * 2**20
"""Held on the device at a time; beyond it there is a copy in between."""


class Gathered:
    """Tensors by key. A copy to the host waits until the device has done all that was asked of it, so that one a layer
    makes a GPU stand still once a layer. Here there is one a device and type, whatever the number of layers, heads and
    prompts.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._bytes = most_bytes, 0
        self._there: dict[tuple[torch.device, torch.dtype], list[tuple[Hashable, Tensor]]] = {}
        self._here: dict[Hashable, Tensor] = {}

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Keep a tensor. Of a view the part alone is kept, not what it is a view of."""
        tensor = tensor.detach()
        if tensor.untyped_storage().nbytes() > tensor.nbytes:
            tensor = tensor.clone()
        self._there.setdefault((tensor.device, tensor.dtype), []).append((key, tensor))
        self._bytes += tensor.nbytes
        if self._bytes > self._most:
            self._bring()

    def fetch(self) -> dict[Hashable, Tensor]:
        """All of them, on the CPU, by key."""
        self._bring()
        return self._here

    def _bring(self) -> None:
        for held in self._there.values():
            together = torch.cat([tensor.reshape(-1) for _, tensor in held]).cpu()
            parts = together.split([tensor.numel() for _, tensor in held])
            self._here |= {key: part.view(tensor.shape) for (key, tensor), part in zip(held, parts, strict=True)}
        self._there.clear()
        self._bytes = 0


class Indices:
    """Positions as index tensors, made once a device."""

    def __init__(self) -> None:
        self._made: dict[tuple[torch.device, Hashable], Tensor] = {}

    def on(self, device: torch.device, key: Hashable, positions: Sequence[int]) -> Tensor:
        """The positions that ``key`` stands for, on a device."""
        if (device, key) not in self._made:
            self._made[device, key] = torch.tensor(list(positions), dtype=torch.long, device=device)
        return self._made[device, key]

"""The weights of single heads in a transformers model, read and set whatever its architecture calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.door.brief import brief

PARTS = ("query", "key", "value")


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """z = attention(query, key) x (value @ x + value bias); the head adds ``out`` @ z to the stream."""

    read: Float[Tensor, "part d_head d_model"]
    bias: Float[Tensor, "part d_head"]
    out: Float[Tensor, "d_model d_head"]

    __repr__ = brief


class AllHeads:
    """Every head of a GPT-2, Llama or Qwen2 with as many key heads as query heads, in memory; biases that are not there
    are made when they are set."""

    def __init__(self, hf: nn.Module) -> None:
        self.hf, config = hf, hf.config
        self.n_heads = config.num_attention_heads
        self.d_head = getattr(config, "head_dim", None) or config.hidden_size // self.n_heads
        self.is_gpt2 = config.model_type == "gpt2"
        self.blocks: Any = hf.base_model.h if self.is_gpt2 else hf.base_model.layers
        if not self.is_gpt2 and config.num_key_value_heads != self.n_heads:
            raise ValueError(f"{type(hf).__name__} shares keys between heads; expected a key head for each query head.")

    def _rows(self, head: int) -> slice:
        return slice(head * self.d_head, (head + 1) * self.d_head)

    def _projection(self, layer: int, part: str) -> tuple[nn.Module, slice | None]:
        attention = self.blocks[layer].attn if self.is_gpt2 else self.blocks[layer].self_attn
        if part == "out":
            return (attention.c_proj, None) if self.is_gpt2 else (attention.o_proj, None)
        if not self.is_gpt2:
            return getattr(attention, f"{part[0]}_proj"), None
        width, place = self.n_heads * self.d_head, PARTS.index(part)
        return attention.c_attn, slice(place * width, (place + 1) * width)

    def _weight(self, layer: int, part: str) -> Float[Tensor, "d_out d_in"]:
        """A view into the weight, output features first."""
        module, rows = self._projection(layer, part)
        weight = module.weight.data.T if isinstance(module, Conv1D) else module.weight.data
        return weight if rows is None else weight[rows]

    def bias(self, layer: int, part: str) -> Float[Tensor, " d_out"]:
        """A view into the bias, made of zeros where there is none."""
        module, rows = self._projection(layer, part)
        if module.bias is None:
            n = self._weight(layer, part).shape[0]
            module.bias = nn.Parameter(torch.zeros(n, dtype=module.weight.dtype))
        return module.bias.data if rows is None else module.bias.data[rows]

    def get(self, layer: int, head: int) -> HeadWeights:
        """Copies of one head's weights."""
        rows = self._rows(head)
        return HeadWeights(
            torch.stack([self._weight(layer, part)[rows] for part in PARTS]).clone(),
            torch.stack([self.bias(layer, part)[rows] for part in PARTS]).clone(),
            self._weight(layer, "out")[:, rows].clone(),
        )

    def set(self, layer: int, head: int, weights: HeadWeights) -> None:
        """Put weights in the place of one head's."""
        rows = self._rows(head)
        for i, part in enumerate(PARTS):
            self._weight(layer, part)[rows] = weights.read[i]
            self.bias(layer, part)[rows] = weights.bias[i]
        self._weight(layer, "out")[:, rows] = weights.out

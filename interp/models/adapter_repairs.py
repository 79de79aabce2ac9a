"""Adapters of TransformerLens that are wrong for some models of their class, mended.

Each is TransformerLens's own with one thing put right, registered in its factory in the place of the other. Where an
adapter still can't wrap a model, the loader says which one, and why.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformer_lens.factories.architecture_adapter_factory import (
    SUPPORTED_ARCHITECTURES,
    ArchitectureAdapterFactory,
)

_FALCON = SUPPORTED_ARCHITECTURES["FalconForCausalLM"]


class FalconNewDecoder(_FALCON):
    """Falcon with ``new_decoder_architecture`` (11B, 40B, 180B) too.

    There ``multi_query`` means nothing, queries, keys and values lie group by group in one projection, and a block with
    one norm (11B) calls it as the old ones do.
    """

    def __init__(self, cfg: Any) -> None:
        n_kv_heads = cfg.n_key_value_heads or cfg.n_heads
        is_new = getattr(cfg, "new_decoder_architecture", False)
        if is_new:
            cfg.multi_query = False
        super().__init__(cfg)
        if is_new:
            self.cfg.n_key_value_heads = n_kv_heads
        if is_new and getattr(cfg, "num_ln_in_parallel_attn", None) == 1:
            self.component_mapping["blocks"].submodules["ln1"].name = "input_layernorm"

    def _split_falcon_qkv(self, original_attention_component: Any) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        if not self._is_new_arch:
            return super()._split_falcon_qkv(original_attention_component)
        fused = original_attention_component.query_key_value
        size = self.cfg.d_model // self.cfg.n_heads
        groups = self.cfg.n_key_value_heads
        weight = fused.weight.detach().view(groups, -1, size, self.cfg.d_model)  # [group, queries + key + value, ...]
        bias = None if fused.bias is None else fused.bias.detach().view(groups, -1, size)
        parts = (slice(None, -2), slice(-2, -1), slice(-1, None))
        return tuple(_linear(weight[:, part], None if bias is None else bias[:, part]) for part in parts)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    rows = weight.flatten(0, 2)
    linear = nn.Linear(rows.shape[1], rows.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(rows.clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.flatten().clone(), requires_grad=False)
    return linear


def register_repairs() -> None:
    """Put the mended adapters in the place of TransformerLens's."""
    SUPPORTED_ARCHITECTURES["FalconForCausalLM"] = FalconNewDecoder
    ArchitectureAdapterFactory.register_adapter("FalconForCausalLM", FalconNewDecoder)

"""Where the parts of a transformer live, whatever its architecture calls them.

TransformerLens keeps, for some 140 architectures, an adapter that says which module is a block, which the attention,
which the output projection. This file reads that map for a plain transformers model, so that no module name is
written down anywhere in this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from interp.door.brief import brief


@dataclass(frozen=True, eq=False)
class Block:
    """One transformer block of the plain model: the modules that scans and captures attach to.

    ``attention_post_norm`` is the norm between the attention and the residual stream where there is one (Gemma 2
    and 3, OLMo 2); ``mlp_write`` is the module whose output the MLP adds to the stream: itself, or such a norm (None
    where the block computes its MLP without a module of its own: OPT). ``mlp_projection`` is the MLP's output
    projection (None for a mixture of experts, which has several). ``query_projection`` and ``key_projection`` are
    None where one module makes queries, keys and values together (GPT-2, GPT-NeoX, Phi-3).
    """

    module: nn.Module
    attention: nn.Module
    out_projection: nn.Module
    query_projection: nn.Module | None
    key_projection: nn.Module | None
    attention_post_norm: nn.Module | None
    mlp_write: nn.Module | None
    mlp_projection: nn.Module | None = None

    __repr__ = brief


@dataclass(frozen=True, eq=False)
class Components:
    """The modules of a plain transformers model by role, and the head geometry read from its config."""

    blocks: tuple[Block, ...]
    embedding: nn.Module
    final_norm: nn.Module | None  # None where what leaves the last block is unembedded without one (GPT-1, OPT-350m)
    unembedding: nn.Module
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    position_embedding: nn.Module | None = None  # absolute positions, added to the embedding (GPT-2)

    __repr__ = brief

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    def attention_configs(self) -> list[Any]:
        """The distinct config objects that the attention modules read their implementation from."""
        configs = {id(c): c for b in self.blocks if (c := getattr(b.attention, "config", None)) is not None}
        return list(configs.values())


def find_components(hf_model: nn.Module, bridge: Any) -> Components:
    """Look up every block's modules in ``hf_model`` by the names in the bridge's adapter.

    Raises ``ValueError`` when a block has no attention with an output projection (state-space or hybrid layers), or
    when the head geometry of the config does not fit the projection's weights.
    """
    mapping = bridge.adapter.component_mapping
    missing = [name for name in ("embed", "blocks", "unembed") if _sub(hf_model, mapping, name) is None]
    if missing:
        raise ValueError(
            f"{type(hf_model).__name__}: TransformerLens's adapter {type(bridge.adapter).__name__} names no "
            f"{', '.join(missing)} (or modules that are not there); head scans need a decoder with an embedding, one "
            "list of blocks that each run once, and an unembedding. Load another architecture."
        )
    blocks_map = mapping["blocks"]
    found = hf_model.get_submodule(blocks_map.name)
    blocks = tuple(_block(layer, module, blocks_map.submodules) for layer, module in enumerate(found))
    n_heads, d_head = int(bridge.cfg.n_heads), _head_size(hf_model, bridge)
    n_kv_heads = int(getattr(bridge.cfg, "n_key_value_heads", None) or n_heads)
    components = Components(
        blocks=blocks,
        embedding=hf_model.get_submodule(mapping["embed"].name),
        final_norm=_sub(hf_model, mapping, "ln_final"),
        unembedding=hf_model.get_submodule(mapping["unembed"].name),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        d_model=int(bridge.cfg.d_model),
        position_embedding=_sub(hf_model, mapping, "pos_embed"),
    )
    for layer, block in enumerate(blocks):
        width = projection_width(block.out_projection)
        if width is not None and width != n_heads * d_head:
            raise ValueError(
                f"layer {layer} of {type(hf_model).__name__}: the output projection reads {width} features, but the "
                f"config says {n_heads} heads of size {d_head} = {n_heads * d_head}. Layers with a number or a size of "
                "heads of their own are not supported: load a model whose layers are alike."
            )
    if n_heads % n_kv_heads:
        raise ValueError(f"{n_heads} query heads can't be grouped over {n_kv_heads} key/value heads.")
    return components


def _head_size(hf_model: nn.Module, bridge: Any) -> int:
    """Features of a head's z, which the output projection reads: with latent attention (DeepSeek) those of its values,
    fewer or more than those of its queries and keys."""
    of_values = getattr(hf_model.config.get_text_config(), "v_head_dim", None)
    return int(of_values or bridge.cfg.d_head)


def _block(layer: int, module: nn.Module, names: Any) -> Block:
    attention = _sub(module, names, "attn")
    out = _sub(attention, names["attn"].submodules, "o") if attention is not None else None
    if attention is None or out is None:
        raise ValueError(
            f"layer {layer} has no attention with an output projection of its own ({type(module).__name__}: a "
            "state-space, convolution or fused layer, recurrent or feed-forward alone, or one with its projection in "
            "parts): its heads can't be scanned. Use a model whose every layer is an attention layer."
        )
    mlp = _sub(module, names, "mlp")
    return Block(
        module=module,
        attention=attention,
        out_projection=out,
        query_projection=_sub(attention, names["attn"].submodules, "q"),
        key_projection=_sub(attention, names["attn"].submodules, "k"),
        attention_post_norm=_sub(module, names, "ln1_post"),
        mlp_write=_sub(module, names, "ln2_post") or mlp,
        mlp_projection=_sub(mlp, names["mlp"].submodules, "out") if mlp is not None else None,
    )


def _sub(parent: nn.Module, children: Any, key: str) -> nn.Module | None:
    if key not in children or children[key].name is None:
        return None
    try:
        return parent.get_submodule(children[key].name)
    except AttributeError:  # optional parts that this layer does not have
        return None


def projection_width(projection: nn.Module) -> int | None:
    """Input features of a linear layer: ``nn.Linear``-like, or GPT-2's ``Conv1D`` (weight [in, out])."""
    width = getattr(projection, "in_features", None)
    if isinstance(width, int):
        return width
    weight = getattr(projection, "weight", None)
    if hasattr(projection, "nf") and isinstance(weight, torch.Tensor):
        return int(weight.shape[0])
    return None


def input_device(module: nn.Module) -> torch.device:
    """The device that a module computes on; for weights offloaded by accelerate, where it will bring them."""
    device = next(module.parameters()).device
    if device.type != "meta":
        return device
    return torch.device(getattr(getattr(module, "_hf_hook", None), "execution_device", None) or "cpu")


@contextmanager
def weights_brought(module: nn.Module) -> Iterator[None]:
    """While active, a module's own weights can be read, also where accelerate keeps them elsewhere between its passes
    (offloading)."""
    if not hasattr(module, "_hf_hook"):
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield

"""Every causal language model class of transformers that TransformerLens has an adapter for, tiny and random.

The classes are not written down here: they are transformers' own mapping of causal language models crossed with
TransformerLens's table of adapters, so that an update of either brings its new ones. One set of sizes serves all, by
the many names that configs have for them; what a class needs besides stands in ``NEEDS``. ``VARIANTS`` are second
models of a class whose config takes another path through its code.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY, CONTEXT, WINDOW, LAYERS, HEADS = 97, 128, 12, 3, 4
_SUFFIXES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")

# One size, by every name that a config may have for it; a config takes the names that it knows.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 24),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), CONTEXT),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size", "attention_chunk_size"), WINDOW),
    "vocab_size": VOCABULARY,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "rotary_dim": 4,
    # latent attention: queries and keys of 12 + 4 features, values of 6
    **dict(kv_lora_rank=16, q_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=4, v_head_dim=6),
    **dict(n_group=1, topk_group=1, first_k_dense_replace=1, n_shared_experts=1),
    **dict(pad_token_id=0, bos_token_id=1, eos_token_id=2),
}
_MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_LINEAR = dict(linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4)
_HYBRID = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_MAMBA = dict(mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1, mamba_expand=2, mamba_chunk_size=8)
_MAMBA_2 = dict(mamba_num_heads=4, mamba_head_dim=16, n_groups=2)
_LATENT = dict(num_key_value_heads=HEADS)  # a key of its own for each head, made from the latent
_TOWER = dict(
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=16,
    patch_size=4,
    mm_embed_dim=24,
    mm_posemb_size=16,
    output_proj_dims=24,
)
_PICTURES = dict(mm_tokens_per_image=4, image_token_index=96, boi_token_index=95, eoi_token_index=94)

NEEDS: dict[str, dict[str, Any]] = {
    "Afmoe": _MIXED | dict(num_dense_layers=1, num_shared_experts=1),
    "Bamba": _MAMBA | dict(attn_layer_indices=[1]),
    "Bert": dict(is_decoder=True),
    "Cohere2": _MIXED,
    **dict.fromkeys(("DeepseekV2", "DeepseekV3", "Glm4MoeLite", "GlmMoeDsa", "Youtu"), _LATENT),
    "Exaone4": _MIXED,
    "Ernie4_5_Moe": dict(moe_num_shared_experts=1, moe_intermediate_size=24, moe_layer_start_index=1),
    "Falcon": dict(alibi=False, parallel_attn=True, multi_query=True, new_decoder_architecture=False, bias=True),
    "FalconH1": _MAMBA | dict(mamba_d_ssm=64),
    "Gemma2": _MIXED,
    "Gemma3": _MIXED,
    "Gemma4": _MIXED | dict(vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=8, global_head_dim=16),
    "GPTNeo": dict(attention_types=[[["global", "local", "global"], 1]]),
    "GptOss": _MIXED,
    "GraniteMoeHybrid": _MAMBA | dict(layer_types=["mamba", "attention", "mamba"]),
    "Jamba": dict(attn_layer_period=3, attn_layer_offset=1, mamba_d_state=8, mamba_dt_rank=4, use_mamba_kernels=False),
    "JetMoe": dict(kv_channels=16),
    "Laguna": _MIXED | dict(num_attention_heads_per_layer=None),
    "Lfm2": dict(layer_types=["conv", "full_attention", "conv"], block_auto_adjust_ff_dim=False),
    "Lfm2Moe": dict(layer_types=["conv", "full_attention", "conv"], num_dense_layers=1),
    "Llama4": dict(layer_types=["chunked_attention", "full_attention", "chunked_attention"], moe_layers=[1]),
    "Mamba2": dict(num_heads=8, head_dim=8, state_size=8, n_groups=1, chunk_size=8, expand=2),
    "ModernBertDecoder": _MIXED | dict(local_attention=WINDOW, cls_token_id=1, sep_token_id=2),
    "NemotronH": dict(
        layers_block_type=["mamba", "attention", "mlp"], mamba_num_heads=4, mamba_head_dim=16, n_groups=2
    ),
    "Olmo3": _MIXED,
    "OlmoHybrid": _HYBRID | _LINEAR,
    "OPT": dict(word_embed_proj_dim=32),
    "Phi3": dict(original_max_position_embeddings=CONTEXT),
    "Qwen2Moe": dict(decoder_sparse_step=1),
    "Qwen3_5": _HYBRID | _LINEAR,
    "Qwen3_5Moe": _HYBRID | _LINEAR,
    "Qwen3Next": _HYBRID | _LINEAR,
    "RecurrentGemma": dict(block_types=["recurrent", "attention", "recurrent"], lru_width=32),
    "Rwkv": dict(attention_hidden_size=32),
    "SmolLM3": dict(no_rope_layers=[1, 0, 1]),
    "VaultGemma": _MIXED,
    "Zamba2": dict(layers_block_type=["linear_attention", "hybrid", "linear_attention"], n_mamba_heads=4),
}


@dataclass(frozen=True)
class Tiny:
    """One model of the sweep: a class, a config, and what is changed in it."""

    name: str
    kind: str
    config: type
    changes: dict[str, Any] = field(default_factory=dict)

    def make(self) -> nn.Module:
        """The model, the same each time: weights so large that attention is not flat and every head matters."""
        torch.manual_seed(0)
        model = getattr(transformers, self.kind)(self.settings())
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim > 1:
                    parameter.copy_(noise * 0.25)
                else:
                    parameter.add_(noise * 0.05)
        return model.eval()

    def settings(self) -> Any:
        chosen = _SIZES | NEEDS.get(_short(self.kind), {}) | self.changes
        if "text_config" not in _fields(self.config):
            return _filled(self.config, chosen)
        parts = {"text_config": _filled(self.config.sub_configs["text_config"], chosen)}
        return self.config(**parts, vision_config=_TOWER, **_PICTURES)


def _filled(config: type, chosen: dict[str, Any]) -> Any:
    known = _fields(config) | set(config.attribute_map)
    return config(**{config.attribute_map.get(name, name): v for name, v in chosen.items() if name in known})


def _fields(config: type) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "Bloom-post-norm": ("Bloom", dict(apply_residual_connection_post_layernorm=True)),
    "Falcon-new": ("Falcon", dict(new_decoder_architecture=True, num_kv_heads=2, bias=False)),
    "Falcon-new-alone": (
        "Falcon",
        dict(new_decoder_architecture=True, num_kv_heads=4, num_ln_in_parallel_attn=1, bias=True),
    ),
    "Falcon-alibi": ("Falcon", dict(alibi=True, multi_query=False, parallel_attn=False)),
    "Falcon-multihead": ("Falcon", dict(multi_query=False)),
    "DeepseekV2-lite": ("DeepseekV2", dict(q_lora_rank=None)),
    "DeepseekV3-equal": ("DeepseekV3", dict(v_head_dim=12)),
    "GPT2-scaled": ("GPT2", dict(scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True)),
    "GPTBigCode-multihead": ("GPTBigCode", dict(multi_query=False)),
    "GPTNeoX-serial": ("GPTNeoX", dict(use_parallel_residual=False)),
    "Gemma3-both-ways": ("Gemma3", dict(use_bidirectional_attention=True)),
    "Granite-scaled": (
        "Granite",
        dict(residual_multiplier=0.4, embedding_multiplier=3.0, logits_scaling=2.0, attention_multiplier=0.1),
    ),
    "Lfm2-attention": ("Lfm2", dict(layer_types=["full_attention"] * LAYERS, block_auto_adjust_ff_dim=False)),
    "Llama-longrope": (
        "Llama",
        dict(
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=10000.0,
                factor=4.0,
                original_max_position_embeddings=24,
                short_factor=[1.0] * 8,
                long_factor=[1.5] * 8,
            )
        ),
    ),
    "Llama-one-kv": ("Llama", dict(num_key_value_heads=1, head_dim=8)),
    "Llama-tied": ("Llama", dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True)),
    "Mpt-no-alibi": ("Mpt", dict(attn_config=dict(alibi=False, clip_qkv=3.0, softmax_scale=0.2))),
    "OPT-post-norm": ("OPT", dict(do_layer_norm_before=False, word_embed_proj_dim=16)),
    "OPT-no-final-norm": ("OPT", dict(_remove_final_layer_norm=True)),
    "Phi3-longrope": (
        "Phi3",
        dict(
            original_max_position_embeddings=24,
            rope_parameters=dict(
                rope_type="longrope", rope_theta=10000.0, short_factor=[1.0] * 4, long_factor=[1.5, 2.0, 3.0, 4.0]
            ),
        ),
    ),
    "Qwen2-windows": ("Qwen2", dict(use_sliding_window=True, max_window_layers=1)),
    "Qwen3Next-attention": ("Qwen3Next", dict(layer_types=["full_attention"] * LAYERS)),
    "StableLm-parallel": ("StableLm", dict(use_parallel_residual=True, qk_layernorm=True)),
}


@lru_cache
def models() -> dict[str, Tiny]:
    """All of them by name: the class's name without "ForCausalLM", and variants as "Class-what"."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    found: dict[str, Tiny] = {}
    for model_type, kinds in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        for kind in (kinds,) if isinstance(kinds, str) else kinds:
            if kind not in SUPPORTED_ARCHITECTURES:
                continue
            config, name = CONFIG_MAPPING[model_type], _short(kind)
            if "text_config" in _fields(config):
                if not kind.endswith("ForConditionalGeneration"):
                    continue  # its text config stands beside it in the mapping
                name += "-vision"
            if config.__name__ not in (f"{_short(kind)}Config", f"{_short(kind)}TextConfig"):
                name += f"-{config.__name__}"  # Llama's class with another config
            found[name] = Tiny(name, kind, config)
    for name, (of, changes) in VARIANTS.items():
        found[name] = dataclasses.replace(found[of], name=name, changes=changes)
    return dict(sorted(found.items(), key=_key))


def _key(item: tuple[str, Tiny]) -> str:
    return item[0].lower()


def _short(name: str) -> str:
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name

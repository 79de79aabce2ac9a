"""The numbers of a GGUF file's header, held against the config that transformers made of them.

transformers maps some keys of some architectures and takes its own defaults for the rest, without a word: the rotary
base, the share of a head that is rotated, windows, scales, epsilons. Here every key that is not about names and
versions is compared with the config: it is set, or the file is refused, or the key is named in a warning. After
loading, what can be read off the modules themselves (rotary frequencies, attention scale, epsilons) is compared again.

What a missing key means is what llama.cpp takes for it, since its files are written for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ROTARY_BASE = 10000.0  # llama.cpp's, where a file names none

# key -> names that transformers' configs give the same number; the first that a config has is compared and set
_SAME: Mapping[str, tuple[str, ...]] = {
    "vocab_size": ("vocab_size",),
    "context_length": ("max_position_embeddings", "n_positions", "n_ctx"),
    "embedding_length": ("hidden_size", "n_embd", "d_model"),
    "feed_forward_length": ("intermediate_size", "n_inner", "d_ff"),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_count": ("num_experts", "num_local_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok", "num_experts_per_token"),
    "expert_weights_norm": ("norm_topk_prob",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "attention.head_count": ("num_attention_heads", "n_head", "num_heads"),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "norm_epsilon", "layer_norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps"),
    "attention.max_alibi_bias": ("alibi_bias_max",),
    "attention.clamp_kqv": ("clip_qkv",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale",),
    "residual_scale": ("residual_multiplier",),
    "embedding_scale": ("embedding_multiplier",),
    "use_parallel_residual": ("use_parallel_residual", "parallel_attn"),
}
# what a key must say for a model whose config has no such number
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "expert_count": (0, 1),
    "expert_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_weights_scale": (0, 1),
    "expert_weights_norm": (False,),
    "expert_gating_func": (0, 1),  # 1: softmax
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "moe_every_n_layers": (0, 1),
    "attention.max_alibi_bias": (0,),
    "attention.clamp_kqv": (0,),
    "attention.causal": (True,),
    "attention.temperature_scale": (0,),
    "attention.output_scale": (0, 1),
    "attention.shared_kv_layers": (0,),
    "attn_logit_softcapping": (0,),
    "router_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "use_parallel_residual": (False,),
    "swin_norm": (False,),
    "rescale_every_n_layers": (0,),
}
# keys that another part of the reading answers for, or that change no number
_ELSEWHERE = {
    "block_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.dimension_count",
    "attention.key_length",
    "attention.value_length",
    "attention.scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "tensor_data_layout",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
}
_SIZES = ("block_count", "embedding_length", "attention.head_count")
# model types whose attention in transformers follows `config.sliding_window`; the second set by `layer_types`
_WINDOW = {"phi3", "starcoder2", "mistral"}
_WINDOW_BY_LAYER = {"gemma2", "gemma3_text", "gemma4_text", "gpt_oss"}
# number of blocks -> whether the attention scale is 1 / sqrt(d_model / heads) rather than 1 / sqrt(head size):
# llama.cpp tells the sizes of Gemma apart so, and no key of the file does
_GEMMA_SCALE = {
    "gemma2": {26: False, 42: False, 46: True},
    "gemma3": {18: False, 26: False, 34: False, 48: False, 62: True},
}


def require_sizes(architecture: str, metadata: Mapping[str, Any]) -> None:
    """Raise `ValueError` for an adapter, a projector, or a header that names no sizes: transformers would take those
    of some other model, and the memory for it."""
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ValueError(
            f"the file holds {kind!r}, not a model (general.type). Merge an adapter into its base model first, and "
            "name the file of the language model itself."
        )
    if architecture == "mamba":  # refused later: it has no attention
        return
    missing = [f"{architecture}.{name}" for name in _SIZES if not metadata.get(f"{architecture}.{name}")]
    if missing:
        raise ValueError(
            f"the header doesn't say {', '.join(missing)}; transformers would take the sizes of another model. "
            "Use the original checkpoint, or convert it anew with llama.cpp's converter."
        )
    header = _Header(architecture, metadata)
    for key, value in header.items():
        if key in _SAME and isinstance(value, list) and len(set(value)) > 1 and architecture != "lfm2":
            raise header.refuse(key, "transformers takes one number for all layers")


def hold_to_header(config: Any, architecture: str, metadata: Mapping[str, Any]) -> list[str]:
    """Set in `config` what the header says; give the keys that could not be compared, as `key = value`.

    Raises:
        ValueError: transformers' model of this architecture can't compute with what a key says.
    """
    header = _Header(architecture, metadata)
    _set_same(config, header)
    head_size = _set_head_size(config, header)
    _set_rotary(config, header, head_size)
    _set_window(config, header)
    _set_scale(config, header, head_size)
    n_tokens = config.get_text_config().vocab_size
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):  # a default of another vocabulary
        if isinstance(token := getattr(config, name, None), int) and token >= n_tokens:
            setattr(config, name, None)
    known = {*_SAME, *_NEUTRAL, *_ELSEWHERE}
    scaled = "rope.scaling."  # refused where it matters, when the file is checked
    return [f"{key} = {value}" for key, value in header.items() if key not in known and not key.startswith(scaled)]


def check_modules(model: Any, architecture: str, metadata: Mapping[str, Any]) -> None:
    """Compare the loaded model's own rotary frequencies, attention scale and epsilons with the header.

    Raises:
        ValueError: a module computes with another number.
    """
    header = _Header(architecture, metadata)
    if model.config.model_type.startswith("gemma4"):  # two head sizes, its own kind of rotation, no scale
        return
    head_size = _head_size(header)
    epsilons = [header.get(f"attention.{key}") for key in ("layer_norm_epsilon", "layer_norm_rms_epsilon")]
    stated = [value for value in epsilons if value is not None]
    scale = header.get("attention.scale") or _stated_scale(model.config, header, head_size)
    rotary = header.get("rope.dimension_count") or head_size
    base = header.get("rope.freq_base", ROTARY_BASE)
    n_rotary = n_right = 0
    for name, module in model.named_modules():
        found = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if stated and isinstance(found, float) and not any(_equal(found, value) for value in stated):
            raise _differs(f"{name}'s epsilon", found, stated[0])
        found = getattr(module, "scaling", None)
        if isinstance(found, float) and hasattr(module, "layer_idx") and not _equal(found, scale):
            raise _differs(f"{name}'s attention scale", found, scale)
        frequencies = getattr(module, "inv_freq", None)
        if frequencies is not None and getattr(module, "rope_type", "default") == "default":
            n_rotary += 1
            n_right += _rotates(frequencies, base, rotary)
    if n_rotary and not n_right:
        raise ValueError(
            f"the model's rotary frequencies aren't those of the header (base {base:g}, {rotary} of {head_size} "
            "dimensions). Use the original checkpoint (a hub id or a local directory)."
        )


class _Header:
    """The keys of one architecture, without its name before them."""

    def __init__(self, architecture: str, metadata: Mapping[str, Any]) -> None:
        self.architecture = architecture
        prefix = f"{architecture}."
        self._values = {key.removeprefix(prefix): v for key, v in metadata.items() if key.startswith(prefix)}

    def get(self, key: str, default: Any = None) -> Any:
        value = self._values.get(key)
        return default if value is None else value

    def items(self) -> list[tuple[str, Any]]:
        return list(self._values.items())

    def refuse(self, key: str, why: str) -> ValueError:
        return ValueError(
            f"the header says {self.architecture}.{key} = {self.get(key)}, and {why}: every result would be of "
            "another model. Use the original checkpoint (a hub id or a local directory)."
        )


def _set_same(config: Any, header: _Header) -> None:
    own = config.to_dict()  # what the config class really has, not what somebody set on it
    for key, names in _SAME.items():
        value = header.get(key)
        if value is None:
            continue
        if isinstance(value, list):
            value = max(value)
        name = next((n for n in names if n in own), None)
        if name is None:
            continue
        found = getattr(config, name)
        if not _equal(found, value):
            setattr(config, name, bool(value) if isinstance(found, bool) else value)
    for key, allowed in _NEUTRAL.items():
        value = header.get(key)
        has_one = any(name in own for name in _SAME.get(key, ()))
        if value is None or has_one or (key == "expert_gating_func" and config.model_type == "minimax_m2"):
            continue
        if not any(_equal(value, neutral) for neutral in allowed):
            raise header.refuse(key, f"transformers' {type(config).__name__} has no such number")


def _set_head_size(config: Any, header: _Header) -> int:
    size = _head_size(header)
    values = header.get("attention.value_length", size)
    if values != size and not _equal(getattr(config, "v_head_dim", None), values):
        raise header.refuse("attention.value_length", f"keys have {size} dimensions; transformers takes one size here")
    if config.model_type.startswith("gemma4"):
        return size
    if "head_dim" in config.to_dict():
        config.head_dim = size
    elif size * header.get("attention.head_count", 0) != header.get("embedding_length") and config.model_type != "t5":
        raise header.refuse("attention.key_length", "transformers takes the width divided by the number of heads")
    return size


def _head_size(header: _Header) -> int:
    heads = header.get("attention.head_count", 1)
    heads = max(heads) if isinstance(heads, list) else heads
    return int(header.get("attention.key_length") or header.get("embedding_length") // max(1, heads))


def _set_rotary(config: Any, header: _Header, head_size: int) -> None:
    rotary = getattr(config, "rope_parameters", None)
    if not rotary or config.model_type.startswith("gemma4"):
        return
    by_layer = "full_attention" in rotary
    whole = dict(rotary["full_attention"] if by_layer else rotary)
    whole["rope_theta"] = float(header.get("rope.freq_base", ROTARY_BASE))
    if header.architecture == "gpt-oss":
        whole |= _yarn(header)
    n_rotated = header.get("rope.dimension_count", head_size)
    if n_rotated != head_size or "partial_rotary_factor" in whole:
        whole["partial_rotary_factor"] = n_rotated / head_size
    if hasattr(config, "partial_rotary_factor"):
        config.partial_rotary_factor = n_rotated / head_size
    if not by_layer:
        config.rope_parameters = whole
        return
    local = dict(rotary.get("sliding_attention") or {})
    if local:
        local["rope_theta"] = float(header.get("rope.freq_base_swa", ROTARY_BASE))
    config.rope_parameters = {**rotary, "full_attention": whole, "sliding_attention": local or whole}


def _yarn(header: _Header) -> dict[str, Any]:
    """gpt-oss's scaling; transformers reads it from the wrong bytes of the file."""
    names = {
        "rope.scaling.factor": "factor",
        "rope.scaling.original_context_length": "original_max_position_embeddings",
        "rope.scaling.yarn_beta_fast": "beta_fast",
        "rope.scaling.yarn_beta_slow": "beta_slow",
    }
    kind = header.get("rope.scaling.type", "none")
    if kind != "yarn":
        raise header.refuse("rope.scaling.type", "gpt-oss is scaled by YaRN")
    return {"rope_type": kind} | {name: v for key, name in names.items() if (v := header.get(key)) is not None}


def _set_window(config: Any, header: _Header) -> None:
    window = header.get("attention.sliding_window")
    pattern = header.get("attention.sliding_window_pattern")
    kind, layers = config.model_type, getattr(config, "layer_types", None)
    if kind in _WINDOW:
        config.sliding_window = window or None
    elif kind in _WINDOW_BY_LAYER:
        config.sliding_window = window or config.sliding_window
    elif window and window < header.get("context_length", math.inf):
        raise header.refuse("attention.sliding_window", f"transformers' {type(config).__name__} has no window")
    if pattern is None or not layers:
        return
    sliding = pattern if isinstance(pattern, list) else [(i + 1) % pattern != 0 for i in range(len(layers))]
    if len(sliding) != len(layers):
        raise header.refuse("attention.sliding_window_pattern", f"there are {len(layers)} layers")
    config.layer_types = ["sliding_attention" if here else "full_attention" for here in sliding]


def _set_scale(config: Any, header: _Header, head_size: int) -> None:
    scale = header.get("attention.scale")
    if hasattr(config, "query_pre_attn_scalar"):
        if not scale:
            scale = _stated_scale(config, header, head_size)
        scalar = scale**-2
        config.query_pre_attn_scalar = round(scalar) if _equal(scalar, round(scalar)) else scalar
    elif scale and hasattr(config, "attention_multiplier"):
        config.attention_multiplier = scale


def _stated_scale(config: Any, header: _Header, head_size: int) -> float:
    """The factor of queries times keys, which no key of the file gives: one over the root of the head's size, but for
    the largest Gemmas."""
    sizes = _GEMMA_SCALE.get(header.architecture)
    if sizes is None or not hasattr(config, "query_pre_attn_scalar"):
        return head_size**-0.5
    wide = sizes.get(header.get("block_count"))
    if wide is None:
        if _equal(config.query_pre_attn_scalar, head_size):
            return head_size**-0.5
        raise ValueError(
            f"the file doesn't say the attention scale, and {header.architecture} with {header.get('block_count')} "
            f"blocks is no size that is known: llama.cpp takes 1/sqrt({head_size}), transformers "
            f"1/sqrt({config.query_pre_attn_scalar}). Use the original checkpoint (a hub id or a local directory)."
        )
    return (header.get("embedding_length") / header.get("attention.head_count") if wide else head_size) ** -0.5


def _rotates(frequencies: Any, base: float, n_dims: int) -> bool:
    if 2 * len(frequencies) != n_dims:
        return False
    wanted = [base ** (-2 * i / n_dims) for i in range(len(frequencies))]
    return all(math.isclose(f, w, rel_tol=1e-4) for f, w in zip(frequencies.tolist(), wanted, strict=True))


def _equal(found: Any, value: Any) -> bool:
    """Equal as numbers, up to float32's rounding."""
    if not isinstance(found, int | float) or not isinstance(value, int | float):
        return found == value
    return math.isclose(found, value, rel_tol=1e-5, abs_tol=1e-30)


def _differs(what: str, found: float, stated: float) -> ValueError:
    return ValueError(
        f"{what} is {found:g} in the loaded model, and the header says {stated:g}. Use the original checkpoint (a hub "
        "id or a local directory)."
    )

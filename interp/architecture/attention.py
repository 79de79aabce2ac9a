"""Two attention functions for transformers' attention interface: one that looks, one that fans out.

transformers calls a registered function with the rotated queries, the keys and values and the layer's own mask, the
same way in every architecture. Looking in at that place costs no S x S tensor, and gets sliding windows, padding and
soft caps from the model itself instead of guessing them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.architecture.hooks import AttentionCalls, HookNotCalled, attached, run_pass
from interp.door.brief import brief

if TYPE_CHECKING:
    from interp.architecture.hooks import Hooked

NAME = "headscope"

# Arguments that change nothing in what is computed here, or that the mask already carries.
_HARMLESS = frozenset(
    [
        "dropout",
        "scaling",
        "is_causal",
        "sliding_window",
        "softcap",
        "s_aux",
        "position_ids",
        "cache_position",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "use_cache",
        "return_dict",
        "position_embeddings",
        "attention_mask",
        "past_key_values",
        "num_items_in_batch",
        "layer_head_mask",
        "head_mask",
        "deterministic",
        "target_dtype",
        "logits_to_keep",
    ]
)


class UnsupportedAttention(RuntimeError):
    """The model's attention uses a feature that these functions do not compute (the loop still can)."""


@dataclass(frozen=True)
class AttentionCall:
    """One layer's attention as transformers calls it; ``query`` and ``key`` are after the rotary embedding."""

    layer: int
    query: Float[Tensor, "batch head pos d_head"]
    key: Float[Tensor, "batch kv_head key_pos d_head"]
    value: Float[Tensor, "batch kv_head key_pos d_head"]
    mask: Bool[Tensor, "#batch 1 #pos masked_pos"] | None  # None: plainly causal
    scaling: float
    softcap: float | None
    sinks: Float[Tensor, " head"] | None

    __repr__ = brief

    def scores(self, example: int, rows: Int[Tensor, " row"]) -> Float[Tensor, "head row key_pos"]:
        """Masked pre-softmax scores, float32, of the given query rows of one example. Masked keys are -inf."""
        n_kv = self.key.shape[1]
        q = self.query[example][:, rows].float()  # [head, row, d_head]
        grouped = rearrange(q, "(kv group) row d_head -> kv (group row) d_head", kv=n_kv)
        scores = grouped @ self.key[example].float().mT
        scores = rearrange(scores, "kv (group row) key -> (kv group) row key", row=q.shape[1]) * self.scaling
        return self.mask_scores(_cap(scores, self.softcap), example, rows)

    def mask_scores(self, scores: Tensor, example: int, rows: Tensor) -> Tensor:
        n_keys = self.key.shape[2]
        if self.mask is None:
            offset = n_keys - self.query.shape[2]
            allowed = torch.arange(n_keys, device=rows.device)[None] <= (rows + offset)[:, None]
        else:
            allowed = self.mask[min(example, self.mask.shape[0] - 1), 0, rows]
        return scores.masked_fill(~allowed, -torch.inf)

    def log_normaliser(self, scores: Float[Tensor, "head row key_pos"]) -> Float[Tensor, "head row"]:
        """Log of the softmax denominator, with the attention sink's share where the model has one."""
        if self.sinks is not None:
            sink = self.sinks.float()[:, None, None].expand(*scores.shape[:2], 1)
            scores = torch.cat([scores, sink], dim=-1)
        return scores.logsumexp(-1)


Handler = Callable[[AttentionCall], Tensor | None]
"""Gets a layer's call; returns the output [batch, pos, head, d_head], or None for the ordinary attention."""

_handling: ContextVar[tuple[Handler | None, AttentionCalls] | None] = ContextVar("headscope_attention", default=None)
"""Of this thread: what runs in another one is attention as always."""


def ordinary_attention(call: AttentionCall) -> Float[Tensor, "batch pos head d_head"]:
    """The model's own attention: PyTorch's fused kernel, or spelled out where a soft cap or a sink forbids it."""
    q, k, v = call.query, call.key, call.value
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (repeat(t, "batch kv key d_head -> batch (kv group) key d_head", group=groups) for t in (k, v))
    if call.softcap is None and call.sinks is None:
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=call.mask, is_causal=call.mask is None and q.shape[2] > 1, scale=call.scaling
        )
        return rearrange(out, "batch head pos d_head -> batch pos head d_head")
    scores = _cap(q @ k.mT * call.scaling, call.softcap).float()
    mask = call.mask
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        mask = mask.tril(k.shape[2] - q.shape[2])
    weights = softmax_with_sinks(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), call.sinks)
    return rearrange(weights.to(v.dtype) @ v, "batch head pos d_head -> batch pos head d_head")


def softmax_with_sinks(
    scores: Float[Tensor, "batch head row key"], sinks: Float[Tensor, " head"] | None
) -> Float[Tensor, "batch head row key"]:
    if sinks is None:
        return scores.softmax(-1)
    sink = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]


def _cap(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    unknown = [name for name, given in extra.items() if given is not None and name not in _HARMLESS]
    if unknown:
        raise UnsupportedAttention(
            f"{type(module).__name__} passes {', '.join(sorted(unknown))} to its attention, which headscope's "
            "attention does not compute"
        )
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        raise UnsupportedAttention(f"{type(module).__name__} has an additive attention mask (a position bias)")
    is_causal = extra.get("is_causal")  # transformers passes the config's word, which stands above the module's
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is None and not is_causal:
        attention_mask = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    if attention_mask is not None and 1 < len(attention_mask) < len(query):  # rows grew out of those that it is of
        attention_mask = attention_mask.repeat(len(query) // len(attention_mask), 1, 1, 1)
    call = AttentionCall(
        layer=module.layer_idx,
        query=query,
        key=key,
        value=value,
        mask=attention_mask,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap,
        sinks=s_aux,
    )
    handler, calls = _handling.get() or (None, None)
    if calls is not None:
        calls.note(call.layer)
    out = handler(call) if handler is not None else None
    return (ordinary_attention(call) if out is None else out), None


@cache
def _registered() -> str:
    """The name under which transformers finds these functions. (It is told late: this import of it takes a second.)"""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


@contextmanager
def attention_handler(model: Hooked, handler: Handler | None) -> Iterator[None]:
    """While active, every attention of the model, in this thread, calls ``handler``; the model's own setting is
    restored after. A pass in which a layer does not come here raises
    :class:`interp.architecture.hooks.HookNotCalled`."""
    calls = AttentionCalls(model.n_layers)
    configs = {id(c): c for c in [model.hf.config, *model.components.attention_configs()]}.values()
    with attached(model, [calls]):
        before = [(config, config._attn_implementation_internal) for config in configs]
        token = _handling.set((handler, calls))
        try:
            for config, _ in before:
                config._attn_implementation_internal = _registered()
            yield
        finally:
            for config, implementation in before:
                config._attn_implementation_internal = implementation
            _handling.reset(token)


def why_not_supported(model: Hooked, inputs: Mapping[str, Any]) -> str:
    """Empty if every layer's attention comes through the handler (tried on ``inputs``, a few tokens); or the reason."""
    called: list[int] = []

    def note(call: AttentionCall) -> None:
        called.append(call.layer)

    try:
        with torch.no_grad(), attention_handler(model, note):
            run_pass(model, {**inputs, "use_cache": False})
    except UnsupportedAttention as error:
        return str(error)
    except HookNotCalled:
        pass  # said below, as what it is
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # MPT, for one, expects a mask where the interface gives none
        with torch.no_grad():
            run_pass(model, {**inputs, "use_cache": False})  # a model that can't run at all says so itself
        return (
            f"{type(model.hf).__name__} computes attention in its own way and fails under transformers' attention "
            f"interface ({type(error).__name__}: {error})"
        )
    if called == list(range(model.n_layers)):
        return ""
    return (
        f"{type(model.hf).__name__} computes attention in its own way in "
        f"{model.n_layers - len(set(called))} of {model.n_layers} layers, not through transformers' attention interface"
    )

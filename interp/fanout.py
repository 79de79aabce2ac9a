"""The fan-out: exact counterfactual logits of any number of edits, in about the time of two or three passes.

An edit confined to the last m positions leaves everything before them as it was. So the prefix is run once, and the
last m tokens are run once for each *branch*, as rows of one batch which all read the same cached prefix. A branch
joins the batch at the first layer that it edits: below that it equals the unedited row, which always is row 0.
Cost in token-forwards, for N single-head branches over L layers: S + m (1 + N (L + 1) / 2L), against N S for
a loop. With m = S it is the scan of edits at all positions, at half of the loop's cost.

Masks come from transformers itself (one for each kind of layer), so sliding windows are right; the cached prefix is
kept whole also for layers with a sliding window, whose own cache would drop a part of it.

A picture belongs to the prefix, which the whole vision-language model reads; what follows it is text. Where the last m
positions begin before the picture's end, or every position sees those after it (PaliGemma), no prefix is kept: rows are
whole prompts, edited at their last m positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from interp.attention import AttentionCall, attention_handler, softmax_with_sinks
from interp.components import forward_replaced
from interp.edits import Branch, Edit, HeadEdit, Place, ResidualEdit, apply_edits, apply_residual_edits
from interp.vision_features import growing_rows, prefix_inputs, rest_inputs, text_from

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompts import Prompt


class _Prefix(DynamicCache):
    """Keys and values of the prefix, whole for every layer. When frozen, an update hands back the new ones alone."""

    frozen = False

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any):
        if self.frozen:
            return key_states, value_states
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def fan_out_logits(
    model: Model,
    prompt: Prompt,
    branches: Sequence[Branch],
    m: int,
    tokens: Sequence[int] | None,
    memory_mib: float = 1024.0,
) -> Float[Tensor, "branch token"]:
    """Logits at the answer for each branch, row 0 being the unedited run, float32.

    Args:
        m: the edits act on the last m positions.
        tokens: the token ids to unembed, None for the whole vocabulary.
        memory_mib: how much a chunk of branches may take, about.
    """
    n_prefix = text_from(model, prompt, m)
    prefix = _run_prefix(model, prompt, n_prefix) if n_prefix else None
    order = sorted(range(len(branches)), key=lambda i: branches[i].first_layer)
    size = max(1, int(memory_mib * 2**20 / row_bytes(model, len(prompt) - n_prefix, len(prompt), tokens)))
    out: Tensor | None = None
    for start in range(0, max(1, len(order)), size):
        chunk = order[start : start + size]
        logits = _run_chunk(model, prompt, prefix, [branches[i] for i in chunk], m, tokens)
        if out is None:
            out = logits.new_empty(len(branches) + 1, logits.shape[1])
            out[0] = logits[0]
        out[[i + 1 for i in chunk]] = logits[1:]
    assert out is not None
    return out


def row_bytes(model: Model, m: int, n_tokens: int, tokens: Sequence[int] | None) -> int:
    """About the peak memory that one branch takes: activations of one layer, its scores, and the logits."""
    config = model.hf.config.get_text_config()
    d_ff = getattr(config, "intermediate_size", None) or 4 * model.d_model
    d_ff *= getattr(config, "num_experts_per_tok", None) or 1
    activations = m * (6 * model.d_model + 4 * model.n_heads * model.d_head + 3 * d_ff)
    capped = (
        getattr(config, "attn_logit_softcapping", None)
        or getattr(model.components.blocks[0].attention, "sinks", None) is not None
    )
    fused = m == n_tokens and not capped  # PyTorch's kernel keeps no scores
    scores = 3 * m * model.n_heads * (64 if fused else n_tokens)
    logits = 3 * config.vocab_size if tokens is None else 0
    return 4 * (activations + scores + logits)


def _run_prefix(model: Model, prompt: Prompt, n_prefix: int) -> _Prefix:
    """From a pass over the whole prompt, cut, so that what goes by the length of a pass (LongRoPE) is the prompt's."""
    cache, base = _Prefix(), model.hf.base_model
    inputs = prefix_inputs(model, prompt, len(prompt))
    if base is model.hf:
        inputs |= model.last_logits_only()
    with torch.no_grad(), attention_handler(model.hf, model.components, None):
        base(**inputs, past_key_values=cache, use_cache=True)
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, :n_prefix], layer.values[:, :, :n_prefix]
    cache.frozen = True
    return cache


def _run_chunk(
    model: Model,
    prompt: Prompt,
    prefix: _Prefix | None,
    branches: Sequence[Branch],
    m: int,
    tokens: Sequence[int] | None,
) -> Float[Tensor, "row token"]:
    """One pass over what the prefix leaves: row 0 unedited, then the branches, sorted by their first edited layer."""
    inputs: dict[str, Any] = {"use_cache": prefix is not None, **model.last_logits_only()}
    if prefix is None:
        inputs |= model.inputs([prompt]).inputs
    else:
        start = prefix.get_seq_length()
        inputs |= rest_inputs(model, prompt, start, len(prompt) - start)
        inputs["input_ids"] = torch.tensor([prompt.token_ids[start:]], device=model.device)
        inputs["past_key_values"] = prefix
    joining = defaultdict(int)
    edits: list[tuple[int, Edit]] = []
    for row, branch in enumerate(branches, start=1):
        joining[branch.first_layer] += 1
        edits += [(row, edit) for edit in branch.edits]

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        handler = None if prefix is None else _shared_prefix_attention(prefix)
        stack.enter_context(attention_handler(model.hf, model.components, handler))
        for layer, n_new in joining.items():
            stack.enter_context(stream_rewritten(model, layer, partial(_grow, n_new)))
        stack.enter_context(growing_rows(model))
        stack.enter_context(edited(model, edits, last=m))
        stack.enter_context(unembed_only(model, tokens))
        return model.hf(**inputs).logits[:, -1].float()


def _grow(n_new: int, hidden: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "more_rows pos d_model"]:
    """The batch with copies of row 0 appended."""
    return torch.cat([hidden, hidden[:1].expand(n_new, -1, -1)])


def _shared_prefix_attention(prefix: _Prefix):
    """Attention of rows that share one prefix: scores against it in one product for all rows, then each row's own."""

    def handler(call: AttentionCall) -> Float[Tensor, "row pos head d_head"]:
        k0, v0 = (
            prefix.layers[call.layer].keys[0],
            prefix.layers[call.layer].values[0],
        )  # [kv, prefix, d_head]
        rows, n_heads, m, d_head = call.query.shape
        n_kv, n_prefix = k0.shape[0], k0.shape[1]
        group = n_heads // n_kv
        q = call.query.unflatten(1, (n_kv, group)) * call.scaling  # [row, kv, group, pos, d_head]
        flat = q.permute(1, 0, 2, 3, 4).reshape(n_kv, rows * group * m, d_head)
        to_prefix = (flat @ k0.mT).view(n_kv, rows, group, m, n_prefix).permute(1, 0, 2, 3, 4)
        own = q @ call.key[:, :, None].mT  # [row, kv, group, pos, pos]
        scores = torch.cat([to_prefix, own], dim=-1)
        if call.softcap is not None:
            scores = call.softcap * torch.tanh(scores / call.softcap)
        scores = scores.float()
        if call.mask is not None:
            scores = scores.masked_fill(~call.mask[:, :, None], torch.finfo(scores.dtype).min)
        elif m > 1:
            causal = torch.ones(m, m, dtype=torch.bool, device=q.device).tril()
            scores[..., n_prefix:] = scores[..., n_prefix:].masked_fill(~causal, torch.finfo(scores.dtype).min)
        weights = softmax_with_sinks(scores.flatten(1, 2), call.sinks).unflatten(1, (n_kv, group))
        weights = weights.to(v0.dtype)
        on_prefix, on_own = weights[..., :n_prefix], weights[..., n_prefix:]
        flat = on_prefix.permute(1, 0, 2, 3, 4).reshape(n_kv, rows * group * m, n_prefix)
        out = (flat @ v0).view(n_kv, rows, group, m, -1).permute(1, 0, 2, 3, 4)
        out = out + on_own @ call.value[:, :, None]
        return out.flatten(1, 2).transpose(1, 2)

    return handler


@contextmanager
def edited(model: Model, edits: Sequence[tuple[int, Edit]], last: int | None = None) -> Iterator[None]:
    """While active, rows of the batch are edited, at the last ``last`` positions (None: all that the pass computes).

    ``edits`` pairs a row with an edit, of a head or of the stream."""
    heads: dict[int, list[tuple[int, HeadEdit]]] = defaultdict(list)
    stream: dict[tuple[int, Place], list[tuple[int, ResidualEdit]]] = defaultdict(list)
    for row, edit in edits:
        if isinstance(edit, HeadEdit):
            heads[edit.layer].append((row, edit))
        else:
            stream[edit.layer, edit.at].append((row, edit))
    with ExitStack() as stack:
        for layer, here in heads.items():
            stack.enter_context(edit_heads(model, layer, here, last))
        for (layer, at), here in stream.items():
            stack.enter_context(edit_residual(model, layer, here, at, last))
        yield


def edit_residual(
    model: Model,
    layer: int,
    edits: Sequence[tuple[int, ResidualEdit]],
    at: Place = "input",
    last: int | None = None,
) -> AbstractContextManager[None]:
    """As :func:`edit_heads`, for the residual stream at one place."""

    def rewrite(hidden: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        if last is None or last >= hidden.shape[1]:
            return apply_residual_edits(hidden, edits)
        return torch.cat([hidden[:, :-last], apply_residual_edits(hidden[:, -last:], edits)], dim=1)

    return stream_rewritten(model, layer, rewrite, at, counts=True)


@contextmanager
def edit_heads(
    model: Model, layer: int, edits: Sequence[tuple[int, HeadEdit]], last: int | None = None
) -> Iterator[None]:
    """While active, the layer's z is edited where its output projection reads it: row by row, at the last ``last``
    positions (None: all that the pass computes). Removed again on any exception.

    Rows and positions are those of one plain pass over the batch: ``Model.final_logits`` then shares no prefix."""

    def hook(module: Any, args: tuple) -> tuple:
        z = args[0]
        if last is None or last >= z.shape[1]:
            return (apply_edits(z, edits, model.n_heads), *args[1:])
        z = torch.cat([z[:, :-last], apply_edits(z[:, -last:], edits, model.n_heads)], dim=1)
        return (z, *args[1:])

    hook.counts_rows_and_positions = True  # type: ignore[attr-defined]
    handle = model.components.blocks[layer].out_projection.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def stream_rewritten(
    model: Model,
    layer: int,
    rewrite: Callable[[Tensor], Tensor],
    at: Place = "input",
    counts: bool = False,
) -> Iterator[None]:
    """While active, the residual stream that enters block ``layer`` (``n_layers``: the final norm) goes through
    ``rewrite``, [row, pos, d_model] to the same; ``at="attention"``: what the block's attention adds to the stream.

    Later calls act on what earlier ones give. ``counts``: whether ``rewrite`` counts rows or positions, so that
    ``Model.final_logits`` shares no prefix. Removed again on any exception."""

    def entering(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if args:
            return (rewrite(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": rewrite(kwargs["hidden_states"])}

    def added(module: Any, args: tuple, output: Tensor) -> Tensor:
        return rewrite(output)

    components = model.components
    if counts:
        for hook in (entering, added):
            hook.counts_rows_and_positions = True  # type: ignore[attr-defined]
    if at == "attention":
        block = components.blocks[layer]
        norm = block.attention_post_norm
        handle = (block.out_projection if norm is None else norm).register_forward_hook(added)
    else:
        module = components.final_norm if layer == model.n_layers else components.blocks[layer].module
        handle = module.register_forward_pre_hook(entering, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def unembed_only(model: Model, tokens: Sequence[int] | None) -> Iterator[None]:
    """While active, the model's logits are those of the last position and of ``tokens`` alone, in that order.

    Caps and scales that the model applies to its logits still act, being elementwise. Chosen tokens are unembedded in
    float32: logits in bfloat16 come in steps as large as many effects. Layers without a plain weight
    (quantised, adapted) give all logits, of which the tokens are picked.
    """
    head = model.components.unembedding
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    plain = type(head) is torch.nn.Linear and not hasattr(head, "_hf_hook")
    original = head.forward

    def forward(hidden: Tensor) -> Tensor:
        hidden = hidden[:, -1:]
        if tokens is None:
            return original(hidden)
        index = torch.tensor(list(tokens), device=hidden.device)
        if not plain:
            return original(hidden)[..., index]
        rows = weight[index].float()  # the answer is read in float32 also from a bfloat16 model
        return F.linear(hidden.float(), rows, None if bias is None else bias[index].float())

    with forward_replaced(head, forward):
        yield

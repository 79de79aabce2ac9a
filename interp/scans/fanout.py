"""The fan-out: exact counterfactual logits of any number of edits, in the work of a few plain passes.

An edit confined to the last m positions leaves everything before them as it was. So the prefix is run once, and the
last m tokens are run once for each *branch*, as rows of one batch which all read the same cached prefix. A branch
joins the batch at the first layer that it edits: below that it equals the unedited row, which always is row 0.
Cost in token-forwards, for N single-head branches over L layers: S + m (1 + N (L + 1) / 2L), against N S for
a loop. With m = S it is the scan of edits at all positions, at half of the loop's cost.

Prompts of one length can take a fan-out together (:mod:`interp.scans.together`): row b P + p is branch b of prompt p
of P. Nothing is padded, so positions, rotary tables and masks are those of one prompt, and hold for every row.

Masks come from transformers itself (one for each kind of layer), so sliding windows are right; the cached prefix is
kept whole also for layers with a sliding window, whose own cache would drop a part of it.

A picture belongs to the prefix, which the whole vision-language model reads; what follows it is text. Where the last m
positions begin before the picture's end, or every position sees those after it (PaliGemma), no prefix is kept: rows are
whole prompts, edited at their last m positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from interp.architecture import (
    AttentionCall,
    Hook,
    UnsupportedAttention,
    alone,
    attached,
    attention_handler,
    one_at_a_time,
    run_pass,
    softmax_with_sinks,
)
from interp.interventions import Branch, HeadEdit, ResidualEdit, edited, stream_hook, unembed_only
from interp.passes import growing_rows, prefix_inputs, rest_inputs, text_from

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


class Prefix(DynamicCache):
    """Keys and values of the prefix, whole for every layer. When frozen, an update hands back the new ones alone."""

    frozen = False

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any):
        if self.frozen:
            return key_states, value_states
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def frozen_at(self, n_prefix: int) -> Prefix:
        """Itself, cut to the first positions."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[:, :, :n_prefix], layer.values[:, :, :n_prefix]
        self.frozen = True
        return self

    def for_rows(self, n: int) -> Prefix:
        """Another that goes on from this one's single row in each of ``n`` rows; this one stays as it is."""
        more = Prefix()
        for number, layer in enumerate(self.layers):
            more.update(layer.keys.expand(n, -1, -1, -1), layer.values.expand(n, -1, -1, -1), number)
        return more


@one_at_a_time
def fan_out_logits(
    model: Model,
    prompt: Prompt,
    branches: Sequence[Branch],
    m: int,
    tokens: Sequence[int] | None,
    memory_mib: float = 1024.0,
    advance: Callable[[int], None] | None = None,
    kept: Prefix | None = None,
) -> Float[Tensor, "branch token"]:
    """Logits at the answer for each branch, row 0 being the unedited run, float32.

    Args:
        m: the edits act on the last m positions.
        tokens: the token ids to unembed, None for the whole vocabulary.
        memory_mib: how much a chunk of branches may take, about.
        advance: told how many branches are done, chunk by chunk.
        kept: keys and values of all but the last m positions, where they were run before.
    """
    n_prefix = text_from(model, prompt, m)
    prefix = kept
    if kept is None and n_prefix:
        prefix = run_prefix(model, prompt, n_prefix)
    order = sorted(range(len(branches)), key=lambda i: branches[i].first_layer)
    size = max(1, int(memory_mib * 2**20 / row_bytes(model, len(prompt) - n_prefix, len(prompt), tokens)))
    rows: dict[int, Tensor] = {}
    for start in range(0, max(1, len(order)), size):
        chunk = order[start : start + size]
        logits = run_rows(model, [prompt], prefix, [[branches[i] for i in chunk]], m, tokens)
        rows.setdefault(0, logits[0])
        rows |= zip([i + 1 for i in chunk], logits[1:], strict=True)
        if advance is not None:
            advance(len(chunk))
    return torch.stack([rows[i] for i in range(len(branches) + 1)])


def require_fan_out(model: Model) -> None:
    """Raise ``UnsupportedAttention`` for a model, or an edit that is active on it, that no fan-out is right for."""
    model.require_attention()
    if model.counts_rows_and_positions():
        raise UnsupportedAttention("an active edit counts rows or positions, which a fan-out lays out in its own way")


def require_edits_act(model: Model, prompt: Prompt) -> None:
    """Show, once for a model, that edits which must move the logits do: all heads zeroed, and a large vector added.

    That two ways of computing agree says nothing if neither acts. Costs a fan-out of two branches. Raises
    ``RuntimeError``."""
    with alone(model.hf) as turn:
        if turn.edits_act:
            return
        heads = tuple(HeadEdit(layer, h) for layer in range(model.n_layers) for h in range(model.n_heads))
        vector = 30 * torch.randn(model.d_model, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
        added = ResidualEdit(model.n_layers - 1, vector)
        branches = [Branch(heads, "all heads zeroed"), Branch((added,), "a large vector added")]
        clean, *rows = fan_out_logits(model, prompt, branches, 1, None)
        for branch, row in zip(branches, rows, strict=True):
            if torch.equal(row, clean):
                raise RuntimeError(f"{branch.label} at the answer, no logit of {model.name} moves: edits do not act")
        turn.edits_act = True


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


def run_prefix(model: Model, prompt: Prompt, n_prefix: int) -> Prefix:
    """From a pass over the whole prompt, cut, so that what goes by the length of a pass (LongRoPE) is the prompt's."""
    cache = Prefix()
    fill(model, cache, prefix_inputs(model, prompt, len(prompt)))
    return cache.frozen_at(n_prefix)


def fill(model: Model, cache: Prefix, inputs: dict[str, Any]) -> None:
    """One pass whose keys and values go on from those that the cache holds."""
    base = model.hf.base_model
    if base is model.hf:
        inputs = inputs | model.last_logits_only()
    with torch.no_grad(), attention_handler(model, None):
        run_pass(model, {**inputs, "past_key_values": cache, "use_cache": True}, base)


def run_rows(
    model: Model,
    prompts: Sequence[Prompt],
    prefix: Prefix | None,
    branches: Sequence[Sequence[Branch]],
    m: int,
    tokens: Sequence[int] | None,
) -> Float[Tensor, "row token"]:
    """One pass over what the prefix leaves: the unedited row of each prompt, then the first branch of each, the second
    and so on, in the order of their first edited layer, which is the same for each prompt.

    Several prompts have one length, and a prefix."""
    inputs = inputs_after(model, prompts, prefix)
    joining: dict[int, int] = defaultdict(int)
    for branch in branches[0]:
        joining[branch.first_layer] += 1
    n = len(prompts)
    edits = [
        (n * (number + 1) + place, edit)
        for place, of_prompt in enumerate(branches)
        for number, branch in enumerate(of_prompt)
        for edit in branch.edits
    ]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        handler = None if prefix is None else through_prefix(prefix)
        stack.enter_context(attention_handler(model, handler))
        growing = [stream_hook(model, layer, partial(_grow, n, n_new)) for layer, n_new in joining.items()]
        stack.enter_context(attached(model, growing))
        stack.enter_context(growing_rows(model))
        stack.enter_context(edited(model, edits, last=m))
        stack.enter_context(unembed_only(model, tokens))
        return run_pass(model, inputs).logits[:, -1].float()


def inputs_after(model: Model, prompts: Sequence[Prompt], prefix: Prefix | None) -> dict[str, Any]:
    """Of a pass over what the prefix leaves of prompts of one length."""
    inputs: dict[str, Any] = {"use_cache": prefix is not None, **model.last_logits_only()}
    if prefix is None:
        return inputs | model.inputs(prompts).inputs
    start = prefix.get_seq_length()
    inputs |= rest_inputs(model, prompts[0], start, len(prompts[0]) - start, len(prompts))
    inputs["input_ids"] = torch.tensor([p.token_ids[start:] for p in prompts], device=model.device)
    return inputs | {"past_key_values": prefix}


@one_at_a_time
def look_at_rows(
    model: Model, prompt: Prompt, n_prefix: int, hooks: Sequence[Hook], look: Callable[[AttentionCall], None]
) -> None:
    """One pass in which ``hooks`` let rows join and leave, over what the first ``n_prefix`` positions leave of a prompt
    (as many as :func:`interp.passes.text_from` allows): ``look`` sees every layer's call, its keys and values whole.

    Costs a pass for the prefix, if there is one, and the rows."""
    prefix = run_prefix(model, prompt, n_prefix) if n_prefix else None
    through = None if prefix is None else through_prefix(prefix)

    def handler(call: AttentionCall) -> Tensor | None:
        look(call if prefix is None else _with_prefix(call, prefix))
        return None if through is None else through(call)

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(attention_handler(model, handler))
        stack.enter_context(attached(model, hooks))
        stack.enter_context(growing_rows(model))
        run_pass(model, inputs_after(model, [prompt], prefix))


def _with_prefix(call: AttentionCall, prefix: Prefix) -> AttentionCall:
    """The call with the prefix's keys and values before its own, in every row."""
    layer, rows = prefix.layers[call.layer], len(call.query)
    key, value = (
        torch.cat([kept.expand(rows, -1, -1, -1), own], dim=2)
        for kept, own in ((layer.keys, call.key), (layer.values, call.value))
    )
    mask = call.mask
    if mask is None:
        m, n = call.query.shape[2], key.shape[2]
        mask = torch.ones(1, 1, m, n, dtype=torch.bool, device=key.device).tril(n - m)
    return replace(call, key=key, value=value, mask=mask)


def _grow(n: int, n_new: int, hidden: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "more_rows pos d_model"]:
    """The batch with ``n_new`` copies of its first ``n`` rows appended."""
    return torch.cat([hidden, hidden[:n].repeat(n_new, 1, 1)])


def through_prefix(prefix: Prefix) -> Callable[[AttentionCall], Tensor]:
    """Attention of rows that share the prefixes of P prompts, row b P + p that of prompt p: scores against each prefix
    in one product for all its rows, then each row's own."""

    def handler(call: AttentionCall) -> Float[Tensor, "row pos head d_head"]:
        k0, v0 = prefix.layers[call.layer].keys, prefix.layers[call.layer].values  # [prompt, kv, prefix, d_head]
        rows, n_heads, m, _ = call.query.shape
        (n, n_kv, n_prefix, _), branches = k0.shape, rows // len(k0)
        group = n_heads // n_kv
        sizes = {"n": n, "branch": branches, "kv": n_kv, "group": group}
        q = rearrange(call.query, "row (kv group) pos d_head -> row kv group pos d_head", kv=n_kv) * call.scaling
        flat = rearrange(q, "(branch n) kv group pos d_head -> n kv (branch group pos) d_head", n=n)
        to_prefix = rearrange(flat @ k0.mT, "n kv (branch group pos) prefix -> (branch n) kv group pos prefix", **sizes)
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
        weights = softmax_with_sinks(rearrange(scores, "row kv group pos key -> row (kv group) pos key"), call.sinks)
        weights = rearrange(weights, "row (kv group) pos key -> row kv group pos key", kv=n_kv).to(v0.dtype)
        on_prefix, on_own = weights[..., :n_prefix], weights[..., n_prefix:]
        flat = rearrange(on_prefix, "(branch n) kv group pos key -> n kv (branch group pos) key", n=n)
        out = rearrange(flat @ v0, "n kv (branch group pos) d_head -> (branch n) kv group pos d_head", **sizes)
        out = out + on_own @ call.value[:, :, None]
        return rearrange(out, "row kv group pos d_head -> row pos (kv group) d_head")

    return handler

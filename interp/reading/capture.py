"""What is there, before anything is changed: attention between chosen positions, and what heads put out.

Nothing here keeps an S x S tensor, or a view into one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp.architecture import (
    AttentionCall,
    attached,
    attention_handler,
    input_of,
    one_at_a_time,
    require_in_place,
    run_pass,
)
from interp.door import public
from interp.passes import Gathered, Indices, passes

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@public
@one_at_a_time
def attention_log_probs(
    model: Model,
    prompts: Sequence[Prompt],
    queries: Sequence[Sequence[int]],
    keys: Sequence[Sequence[Sequence[int]]],
    max_rows: int = 256,
) -> list[Float[Tensor, "layer head _query _key_group"]]:
    """Log attention probability that chosen query positions give to chosen groups of key positions, for one batch.

    ``queries[i]`` are positions of prompt i; ``keys[i]`` is a list of groups of positions, whose probabilities are
    summed within a group. The softmax's normaliser cancels exactly in the difference of two groups of one position
    each.

    Returns:
        For prompt i float32 [layer, head, len(queries[i]), len(keys[i])], natural logs, -inf where the model masks a
        whole group (later positions, or outside a sliding window).

    Cost: one forward pass, or as many as are needed for each prompt's own numbers. Memory beyond it: the result, and
    scores of at most ``max_rows`` queries of one layer against all keys. Scores are computed in float32 from the
    model's own queries and keys, also for bfloat16 models.

    Raises:
        UnsupportedAttention: models whose attention transformers' interface does not describe.
        ValueError: positions that a prompt does not have.

    Misleads: attention says where a head looks, not what it reads there nor whether that is used.
    Source: ours: from the queries and keys that transformers' attention interface hands over.
    """
    _require_positions(prompts, queries, keys)
    model.require_fits(prompts)
    require_in_place(model)
    model.require_attention()
    results: dict[int, Tensor] = {}
    for places in passes(model, prompts):
        part = [[given[i] for i in places] for given in (prompts, queries, keys)]
        results |= zip(places, _log_probs_of_pass(model, *part, max_rows), strict=True)
    return [results[i] for i in range(len(prompts))]


def _log_probs_of_pass(model: Model, prompts, queries, keys, max_rows: int) -> list[Tensor]:
    batch = model.inputs(prompts)
    shapes = [(model.n_layers, model.n_heads, len(q), len(k)) for q, k in zip(queries, keys, strict=True)]
    found, indices = Gathered(), Indices()
    rows = [[position + offset for position in own] for own, offset in zip(queries, batch.offsets, strict=True)]
    columns = [
        [[position + offset for position in group] for group in own]
        for own, offset in zip(keys, batch.offsets, strict=True)
    ]

    def look(call: AttentionCall) -> None:
        device = call.query.device
        for i, own in enumerate(rows):
            positions = indices.on(device, i, own)
            groups = [indices.on(device, (i, g), group) for g, group in enumerate(columns[i])]
            for start in range(0, len(positions), max_rows):
                scores = call.scores(i, positions[start : start + max_rows])
                log_z = call.log_normaliser(scores)
                of_groups = [scores[..., group].logsumexp(-1) - log_z for group in groups]
                if of_groups:
                    found.put((i, call.layer, start), torch.stack(of_groups, dim=-1))

    with torch.no_grad(), attention_handler(model, look):
        logits = run_pass(model, {**batch.inputs, "use_cache": False, **model.last_logits_only()}).logits[:, -1]
    model.require_finite(logits, list(prompts))  # NaN anywhere before would look like a masked key
    results = [torch.full(shape, torch.nan, dtype=torch.float32) for shape in shapes]
    for (i, layer, start), log_probs in found.fetch().items():
        results[i][layer, :, start : start + max_rows] = log_probs
    return results


@public
@one_at_a_time
def attention_sources(
    model: Model, prompt: Prompt, k: int = 4, max_rows: int = 256
) -> tuple[Int[Tensor, "layer head pos k"], Float[Tensor, "layer head pos k"]]:
    """Where every head looks from every position: the k positions of highest attention, and their probabilities.

    Args:
        model: runs once.
        prompt: whose positions.
        k: positions that are kept of each; fewer in a prompt with fewer tokens.
        max_rows: queries of one layer that are held at a time, against all keys.

    Returns:
        Positions (int64) and probabilities (float32, highest first), both [layer, head, pos, k]. A position that sees
        fewer than k others has probability 0 behind these.

    Raises:
        UnsupportedAttention: models whose attention can't be read.

    Cost: one forward pass.
    Misleads: the k strongest of a head that looks everywhere hold little of its attention; their sum says how much.
    """
    model.require_fits([prompt])
    require_in_place(model)
    model.require_attention()
    n, k = len(prompt), min(k, len(prompt))
    read = Gathered()

    def look(call: AttentionCall) -> None:
        for start in range(0, n, max_rows):
            rows = torch.arange(start, min(n, start + max_rows), device=call.query.device)
            scores = call.scores(0, rows)
            highest = (scores - call.log_normaliser(scores)[..., None]).exp().topk(k, dim=-1)
            read.put(("found", call.layer, start), highest.indices)
            read.put(("weights", call.layer, start), highest.values.float())

    inputs = model.inputs([prompt]).inputs
    with torch.no_grad(), attention_handler(model, look):
        logits = run_pass(model, {**inputs, "use_cache": False, **model.last_logits_only()}).logits[:, -1]
    model.require_finite(logits, [prompt])
    found = torch.zeros((model.n_layers, model.n_heads, n, k), dtype=torch.long)
    weights = torch.zeros(found.shape, dtype=torch.float32)
    for (what, layer, start), values in read.fetch().items():
        (found if what == "found" else weights)[layer, :, start : start + max_rows] = values
    return found, weights


@public
@one_at_a_time
def head_outputs(
    model: Model, prompts: Sequence[Prompt], last: int | Sequence[int] | None = 1, batch_size: int = 8
) -> list[Float[Tensor, "layer _pos head d_head"]]:
    """z of every head (the output projection's input) at the last ``last`` positions of each prompt (None: all; or a
    number for each prompt).

    Returns:
        For each prompt [layer, pos, head, d_head], in the model's dtype, on the CPU.

    Raises:
        ValueError: prompts that don't fit the model, and an adapter put around its modules after it was loaded.

    Cost: one forward pass for each batch; memory [layer, pos, head, d_head].
    """
    model.require_fits(prompts)
    require_in_place(model)
    found: dict[int, Tensor] = {}
    for places in passes(model, prompts, batch_size):
        chunk = [prompts[i] for i in places]
        batch = model.inputs(chunk)
        lengths = [
            len(p) if last is None else min(last if isinstance(last, int) else last[i], len(p))
            for i, p in zip(places, chunk, strict=True)
        ]
        shapes = [(model.n_layers, n, model.n_heads, model.d_head) for n in lengths]
        read = Gathered()

        def keep(layer: int, z: Tensor, lengths=lengths, read=read) -> None:
            for i, n in enumerate(lengths):
                read.put((i, layer), rearrange(z[i, -n:], "pos (head d_head) -> pos head d_head", head=model.n_heads))

        blocks = model.components.blocks
        hooks = [input_of(block.out_projection, partial(keep, layer)) for layer, block in enumerate(blocks)]
        with torch.no_grad(), attached(model, hooks):
            run_pass(model, {**batch.inputs, "use_cache": False, **model.last_logits_only()})
        out = [torch.full(shape, torch.nan, dtype=model.dtype) for shape in shapes]
        for (i, layer), of_heads in read.fetch().items():
            out[i][layer] = of_heads
        found |= zip(places, out, strict=True)
    return [found[i] for i in range(len(prompts))]


@public
@one_at_a_time
def mean_head_outputs(
    model: Model, prompts: Sequence[Prompt], last: int | Sequence[int] | None = 1, batch_size: int = 8
) -> Float[Tensor, "layer head d_head"]:
    """Mean z over prompts and over their last ``last`` positions (None: all; or a number for each prompt).

    Returns:
        [layer, head, d_head], summed in float64, as float32.

    Raises:
        ValueError: no prompts, and as :func:`head_outputs`.

    Cost: one forward pass for each batch.
    """
    if not prompts:
        raise ValueError("a mean over no prompts was asked for; give at least one reference prompt.")
    total = torch.zeros(model.n_layers, model.n_heads, model.d_head, dtype=torch.float64)
    count = 0
    for start in range(0, len(prompts), batch_size):
        own = last if last is None or isinstance(last, int) else last[start : start + batch_size]
        for z in head_outputs(model, prompts[start : start + batch_size], own, batch_size):
            total += z.double().sum(1)
            count += z.shape[1]
    return (total / count).float()


def _require_positions(prompts, queries, keys) -> None:
    if not len(prompts) == len(queries) == len(keys):
        raise ValueError(
            f"{len(prompts)} prompts, {len(queries)} lists of queries and {len(keys)} lists of key groups were given; "
            "expected one of each for every prompt."
        )
    for i, (prompt, rows, groups) in enumerate(zip(prompts, queries, keys, strict=True)):
        for position in [*rows, *(p for group in groups for p in group)]:
            if not 0 <= position < len(prompt):
                raise ValueError(
                    f"position {position} was asked of prompt {prompt.id or i!r}, which has {len(prompt)} tokens; "
                    "expected positions from 0 (a negative one would count the padding)."
                )

"""What a head reads where: its effect when its edges to one group of positions are cut, or show another run.

A head's output at a position is a sum over the positions that it reads, each weighed by attention (Elhage et al. 2021,
"A Mathematical Framework for Transformer Circuits"). So the part that comes from a group of positions can be taken out,
or changed for what another run has there, with every other edge as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from interp.architecture import (
    AttentionCall,
    UnsupportedAttention,
    attached,
    attention_handler,
    input_of,
    one_at_a_time,
    require_in_place,
    run_pass,
)
from interp.circuits.drawn_sets import Head
from interp.circuits.paths import require_heads
from interp.door import public
from interp.door.brief import brief
from interp.interventions import Branch, HeadEdit
from interp.passes import Gathered, Indices, to_check
from interp.reading import Metric, default_metric
from interp.scans import Method, Positions, span_length
from interp.scans.scan import scan

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

ITSELF, ELSEWHERE = "itself", "elsewhere"
Groups = Mapping[str, Sequence[Sequence[int]]]
"""Name of a group -> its positions in each prompt."""


@dataclass(frozen=True, eq=False)
class Routes:
    """What is lost of the metric when a head reads nothing from a group of positions, or what another run has there.

    ``lost`` [example, route, head]: by one group's edges; NaN where a prompt has no such position before the edited
    ones. ``whole`` [example, head]: by all edges at once: with nothing in their place the zero ablation, with another
    run's the patch. ``attention`` [example, route, head]: the share of the attention that the group has, mean over the
    edited positions. ``heads``: (layer, head). ``unit``: of the metric. ``replaced``: whether another run stood in the
    place of what was cut.

    The parts of a head add up, their effects need not: :meth:`together`.
    """

    heads: tuple[Head, ...]
    routes: tuple[str, ...]
    lost: Float[np.ndarray, "example route head"]
    whole: Float[np.ndarray, "example head"]
    attention: Float[np.ndarray, "example route head"]
    unit: str
    positions: str
    replaced: bool
    check: str

    __repr__ = brief

    def together(self) -> Float[np.ndarray, "example head"]:
        """What is lost by all routes at once beyond the sum of each: [example, head]. Later parts of the model, which
        are not linear, make it."""
        return self.whole - np.nansum(self.lost, axis=1)


@public
@one_at_a_time
def head_routes(
    model: Model,
    prompts: Sequence[Prompt],
    groups: Groups,
    *,
    heads: Sequence[Head] | None = None,
    sources: Sequence[Prompt] | None = None,
    metric: Metric | None = None,
    positions: Positions = "answer",
    method: Method = "auto",
    check: int = 3,
    memory_mib: float = 1024.0,
) -> Routes:
    """Split each head's effect on the answer by where it reads: in groups of positions, at its own, elsewhere.

    For head h at the edited positions z = sum_j a_j v_j. A route's edit takes its part of that sum out, or, with
    ``sources``, sets what the other run's weights and values give there; attention to the rest is not renormalised, so
    one edge's change moves no other. Then the model goes on, exactly, by the fan-out.

    Args:
        model: whose heads.
        prompts: what it reads.
        groups: name -> positions of each prompt, such as a picture's patches; no position in two groups. A position's
            own is ``itself`` and in no group; what no group names is ``elsewhere``.
        heads: (layer, head); by default all.
        sources: another run for each prompt, position by position the same roles and as many of them, such as the
            question on an edited picture; None: edges are cut.
        metric: default: the logit difference between the prompts' first and second answer.
        positions: where the heads are edited: "answer", "text", "all" or the last m.
        method, check, memory_mib: as in :func:`interp.scan`, which checks prompts of all lengths that matter.

    Returns:
        Losses of each route and of all together, in the metric's unit, and the attention of each.

    Raises:
        ValueError: a group of another number of prompts, a position that there is not or in two groups, a group named
            as one of ours, sources of other lengths, and heads that are not there or named twice.
        UnsupportedAttention: attention that can't be read, or whose parts do not sum to what the head gives (gates
            after it).

    Cost for each prompt: one pass (with sources two), and for each route and head a branch of a scan at ``positions``.
    Misleads: what a head reads from a text position may have come there from the picture, by an earlier head.
    Source: edges after causal route gating (arXiv 2605.24024) and path patching (Goldowsky-Dill et al. 2023,
    arXiv 2304.05969); there gates are learned, here each edge's effect is measured.

    >>> found = head_routes(model, prompts, {"picture": [p.span("image") for p in prompts]}, positions="text")
    >>> found.lost.mean(0)  # [route, head]
    """
    prompts = list(prompts)
    every = product(range(model.n_layers), range(model.n_heads))
    heads = require_heads(model, every if heads is None else heads)
    _require(model, prompts, groups, sources)
    metric = metric or default_metric(prompts)
    routes = (*groups, ITSELF, ELSEWHERE)
    lost = np.full((len(prompts), len(routes), len(heads)), np.nan)
    attention = np.full(lost.shape, np.nan)
    whole = np.full((len(prompts), len(heads)), np.nan)
    note, checked = "", to_check(model, prompts)
    for i, prompt in enumerate(prompts):
        m = span_length(prompt, positions)
        masks = _masks(len(prompt), m, [own[i] for own in groups.values()])
        own = _parts(model, prompt, masks, heads)
        new = torch.zeros_like(own.z) if sources is None else _parts(model, sources[i], masks, heads).z
        total = own.z.sum(1)
        there = [r for r in range(len(routes)) if masks[r].any()]
        values = [total - own.z[:, r] + new[:, r] for r in there] + [new.sum(1)]
        branches = [
            Branch((HeadEdit(*head, "set", value=z[h].to(model.dtype)),))
            for z in values
            for h, head in enumerate(heads)
        ]
        found = scan(
            model,
            [prompt],
            branches,
            metric=metric,
            positions=m,
            method=method,
            check=check if i in checked else 0,
            memory_mib=memory_mib,
            read_mass=False,
        )
        note = note or found.check
        drop = rearrange(found.drop[0], "(route head) -> route head", head=len(heads))
        lost[i, there], whole[i] = drop[:-1], drop[-1]
        attention[i, there] = own.attention[:, there].T
    return Routes(heads, routes, lost, whole, attention, metric.unit, str(positions), sources is not None, note)


@dataclass(frozen=True, eq=False)
class _Parts:
    z: Float[Tensor, "head route pos d_head"]
    attention: Float[np.ndarray, "head route"]

    __repr__ = brief


def _masks(n: int, m: int, groups: Sequence[Sequence[int]]) -> Bool[Tensor, "route pos key"]:
    """Which keys are a route's, for each of the last m of n positions: the groups, itself, and all others."""
    keys = torch.zeros(len(groups), n, dtype=torch.bool)
    for row, positions in zip(keys, groups, strict=True):
        row[list(positions)] = True
    itself = torch.eye(n, dtype=torch.bool)[-m:]
    named = repeat(keys, "group key -> group pos key", pos=m) & ~itself
    return torch.cat([named, itself[None], (~named.any(0) & ~itself)[None]])


def _parts(model: Model, prompt: Prompt, masks: Bool[Tensor, "route pos key"], heads: Sequence[Head]) -> _Parts:
    """What each head gives at the last positions, by route, and its attention to each."""
    m, read, whole, indices = masks.shape[1], Gathered(), Gathered(), Indices()
    wanted: dict[int, list[int]] = {}
    for layer, head in heads:
        wanted.setdefault(layer, []).append(head)

    def look(call: AttentionCall) -> None:
        if call.layer not in wanted:
            return
        device, n = call.query.device, call.key.shape[2]
        chosen = indices.on(device, call.layer, wanted[call.layer])
        scores = call.scores(0, indices.on(device, "last", range(n - m, n)))
        weights = (scores - call.log_normaliser(scores)[..., None]).exp()[chosen]
        values = call.value[0, chosen // (call.query.shape[1] // call.value.shape[1])].float()
        by_route = weights[:, None] * masks.to(device)  # [head, route, pos, key]
        read.put(("z", call.layer), by_route @ values[:, None])
        read.put(("attention", call.layer), by_route.sum(-1).mean(-1))

    def keep(layer: int, z: Tensor) -> None:
        of_heads = rearrange(z[0, -m:], "pos (head d_head) -> head pos d_head", head=model.n_heads)
        whole.put(layer, of_heads[indices.on(z.device, layer, wanted[layer])].float())

    hooks = [input_of(model.components.blocks[layer].out_projection, partial(keep, layer)) for layer in wanted]
    inputs = model.inputs([prompt]).inputs
    with torch.no_grad(), attention_handler(model, look), attached(model, hooks):
        logits = run_pass(model, {**inputs, "use_cache": False, **model.last_logits_only()}).logits[:, -1]
    model.require_finite(logits, [prompt])
    found, given = read.fetch(), whole.fetch()
    least = 1e-4 if model.dtype == torch.float32 else 3e-2
    for layer, z in given.items():
        parts = found["z", layer].sum(1)
        if not (parts - z).abs().max() <= least * max(1.0, float(z.abs().max())):
            raise UnsupportedAttention(
                f"{model.name}, layer {layer}: what its heads read does not sum to what they give (off by "
                f"{float((parts - z).abs().max()):.2g}); something changes it after the attention."
            )
    at = [(layer, wanted[layer].index(head)) for layer, head in heads]
    return _Parts(
        torch.stack([found["z", layer][h] for layer, h in at]),
        torch.stack([found["attention", layer][h] for layer, h in at]).numpy(),
    )


def _require(model: Model, prompts: Sequence[Prompt], groups: Groups, sources: Sequence[Prompt] | None) -> None:
    if not prompts:
        raise ValueError("no prompts were given; routes need at least one.")
    model.require_fits(prompts)
    require_in_place(model)
    model.require_attention()
    if not groups or {ITSELF, ELSEWHERE} & set(groups):
        raise ValueError(
            f"groups are {', '.join(map(repr, groups)) or 'empty'}; expected names of your own, and at least one: "
            f"{ITSELF!r} and {ELSEWHERE!r} are what is left."
        )
    for name, places in groups.items():
        if len(places) != len(prompts):
            raise ValueError(f"group {name!r} has {len(places)} lists of positions for {len(prompts)} prompts.")
    for i, prompt in enumerate(prompts):
        named = [p for places in groups.values() for p in places[i]]
        if bad := [p for p in named if not 0 <= p < len(prompt)]:
            raise ValueError(f"position {bad[0]} was asked of prompt {prompt.id!r}, which has {len(prompt)} tokens.")
        if len(set(named)) < len(named):
            twice = next(p for p in named if named.count(p) > 1)
            raise ValueError(f"position {twice} of prompt {prompt.id!r} is in two groups; expected it in one.")
    if sources is None:
        return
    if len(sources) != len(prompts):
        raise ValueError(f"{len(sources)} sources for {len(prompts)} prompts; expected one for each.")
    model.require_fits(sources)
    for prompt, source in zip(prompts, sources, strict=True):
        if len(prompt) != len(source):
            raise ValueError(
                f"prompt {prompt.id!r} has {len(prompt)} tokens and its source {len(source)}; expected as many, in the "
                "same roles."
            )

"""Exact path patching: what a head tells another one, by its queries, keys or values, and what it tells the logits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.architecture import AttentionCall, one_at_a_time, ordinary_attention
from interp.circuits.drawn_sets import Head
from interp.door import public
from interp.door.brief import brief
from interp.figures import head_label
from interp.interventions import Branch, HeadEdit, ResidualEdit, stream_hook
from interp.passes import text_from, to_check
from interp.reading import LogitDifference, default_metric, head_outputs
from interp.scans.fanout import look_at_rows
from interp.scans.scan import scan

if TYPE_CHECKING:
    from interp.models import Model
    from interp.pairs import Places, PromptPairs
    from interp.prompts import Prompt

Part = Literal["q", "k", "v"]
PARTS: tuple[Part, ...] = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class Paths:
    """What is lost of the metric when a path carries what it would on the corrupt prompt.

    ``effects`` [pair, sender, receiver, part]: by the receiver's queries, keys and values; NaN where the sender is not
    in an earlier layer. ``to_logits`` [pair, sender]: past all other heads and MLPs. ``unit``: of the metric.
    ``shape``: layers and heads of the model. ``model``: its name.
    """

    senders: tuple[Head, ...]
    receivers: tuple[Head, ...]
    effects: Float[np.ndarray, "pair sender receiver part"]
    to_logits: Float[np.ndarray, "pair sender"]
    unit: str
    shape: tuple[int, int]
    model: str

    __repr__ = brief

    def to_frame(self) -> pd.DataFrame:
        """One row for each path: sender, receiver ("logits" last), part, and the mean effect, largest sizes first."""
        rows = []
        for s, sender in enumerate(self.senders):
            for r, receiver in enumerate(self.receivers):
                for p, part in enumerate(PARTS):
                    if sender[0] < receiver[0]:
                        effect = float(self.effects[:, s, r, p].mean())
                        rows.append((head_label(*sender), head_label(*receiver), part, effect))
            rows.append((head_label(*sender), "logits", "", float(self.to_logits[:, s].mean())))
        frame = pd.DataFrame(rows, columns=["sender", "receiver", "part", "effect"])
        return frame.sort_values("effect", key=np.abs, ascending=False, ignore_index=True)


@public
@one_at_a_time
def patch_paths(
    model: Model,
    pairs: PromptPairs,
    senders: Sequence[Head],
    receivers: Sequence[Head] | None = None,
    *,
    metric: LogitDifference | None = None,
    check: int = 0,
) -> Paths:
    """Patch every path from a sender to a receiver, exactly (Wang et al. 2022, arXiv 2211.00593; Goldowsky-Dill et al.
    2023, arXiv 2304.05969).

    The sender gives what it gives on the corrupt prompt; every other head and every MLP in between stays as it is on
    the clean one; so the stream that the receiver reads is moved by what the sender writes, and by nothing else. One
    part of the receiver (its queries, keys or values) is computed from there, and everything after the receiver goes on
    from what it then gives. A path to the logits ends in the final norm.

    Args:
        model, pairs: whose heads, and what they answer.
        senders: heads (layer, head).
        receivers: heads; by default the senders. Paths go from earlier to later layers.
        metric: by default the difference of the logits of the clean and the corrupt answer.
        check: as in :func:`interp.scan`.

    Keys and values that heads share (grouped queries) change for the receiver alone.

    Returns:
        Effects [pair, sender, receiver, part] and [pair, sender], in the metric's unit.

    Raises:
        ValueError: heads that are not there or named twice; models with a norm after the attention, where what single
            heads write does not add up.
        UnsupportedAttention: attention that can't be read.

    Cost for each pair: four passes, a layer of a pass for each sender and layer of receivers, and for each path a
    branch from the receiver's layer on; all from the first position on at which the two prompts differ, since before
    it nothing moves. The classical way takes two whole runs with hooks for each path. So of long lists of paths it
    takes 2 / (a b) times the passes, a being the share of the layers above a receiver and b that of the positions: 14
    times where both are about 0.38. No exact way is below that branch: what the receiver gives goes on through every
    layer and position behind it. Seconds are fewer by more, since branches are rows of one pass
    (tests/benchmarks/path_patching.md).
    Misleads: MLPs between the two are part of other paths; a path that goes through one shows nothing here.
    """
    senders = require_heads(model, senders, "senders")
    receivers = require_heads(model, receivers or senders, "receivers")
    if any(block.attention_post_norm is not None for block in model.components.blocks):
        raise ValueError(f"{model.name} has a norm after its attention, where what heads write does not add up.")
    model.require_attention()
    metric = metric or default_metric(pairs.clean)
    effects = np.full((len(pairs), len(senders), len(receivers), len(PARTS)), np.nan)
    to_logits = np.full((len(pairs), len(senders)), np.nan)
    paths = [
        (s, r) for s, sender in enumerate(senders) for r, receiver in enumerate(receivers) if sender[0] < receiver[0]
    ]
    checked = to_check(model, pairs.clean)
    for i, (clean, corrupt) in enumerate(zip(pairs.clean, pairs.corrupt, strict=True)):
        places = pairs.places(i)
        together = zip(clean.token_ids, places, strict=True)
        same = next(at for at, (a, place) in enumerate(together) if place != at or a != corrupt.token_ids[place])
        m = len(clean) - text_from(model, clean, len(clean) - same)
        moved = _moved(model, clean, corrupt, senders, places[-m:])
        given = _given(model, clean, moved, senders, receivers) if paths else {}
        branches = [
            Branch((HeadEdit(*receivers[r], "set", value=given[receivers[r]][p, s]),))
            for s, r in paths
            for p in range(len(PARTS))
        ]
        branches += [Branch((ResidualEdit(model.n_layers, vector[-1]),)) for vector in moved]
        options = {"metric": metric, "positions": m, "check": check if i in checked else 0, "read_mass": False}
        lost = scan(model, [clean], branches, **options).drop[0]
        for at, (s, r) in enumerate(paths):
            effects[i, s, r] = lost[len(PARTS) * at : len(PARTS) * (at + 1)]
        to_logits[i] = lost[len(PARTS) * len(paths) :]
    return Paths(senders, receivers, effects, to_logits, metric.unit, (model.n_layers, model.n_heads), model.name)


def require_heads(model: Model, heads: Iterable[Head], what: str = "heads") -> tuple[Head, ...]:
    """The heads as pairs of integers. Raises ``ValueError`` for none, one named twice, and one that is not there."""
    found = tuple((int(layer), int(head)) for layer, head in heads)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{len(found)} {what}, {len(set(found))} different, were given; expected some, each once.")
    for layer, head in found:
        HeadEdit(layer, head).check(model)
    return found


@torch.no_grad()
def _moved(
    model: Model, clean: Prompt, corrupt: Prompt, senders: Sequence[Head], places: Places
) -> Float[Tensor, "sender pos d_model"]:
    """How each sender moves the stream at the last positions when it gives what it gives at ``places`` of the corrupt
    prompt."""
    own, other = (z.to(model.device) for z in head_outputs(model, [clean, corrupt], None))
    own, other = own[:, -len(places) :], other[:, list(places)]
    rows = []
    for layer, head in senders:
        changed = own[layer].clone()
        changed[:, head] = other[layer][:, head]
        project = model.components.blocks[layer].out_projection
        rows.append(project(changed.flatten(-2)[None])[0] - project(own[layer].flatten(-2)[None])[0])
    return torch.stack(rows)


def _given(
    model: Model,
    prompt: Prompt,
    moved: Float[Tensor, "sender pos d_model"],
    senders: Sequence[Head],
    receivers: Sequence[Head],
) -> dict[Head, Float[Tensor, "part sender pos d_head"]]:
    """What each receiver gives when one of its parts reads the stream moved by a sender: of one pass, in which rows
    with the streams moved by senders of earlier layers join at a layer of receivers and leave behind it. Senders that
    are not earlier have NaN."""
    layers = sorted({layer for layer, _ in receivers})
    earlier = {layer: [s for s, (at, _) in enumerate(senders) if at < layer] for layer in layers}
    given: dict[Head, Tensor] = {}

    def look(call: AttentionCall) -> None:
        for layer, head in receivers if earlier.get(call.layer) else ():
            if layer == call.layer:
                parts = torch.stack([_by_part(call, head, part, slice(1, None)) for part in PARTS])
                whole = parts.new_full((len(PARTS), len(senders), *parts.shape[2:]), torch.nan)
                whole[:, earlier[layer]] = parts
                given[layer, head] = whole

    hooks = [
        stream_hook(model, layer, partial(_joined, moved[earlier.get(layer, [])]))
        for layer in sorted({*layers, *(layer + 1 for layer in layers)})
    ]
    look_at_rows(model, prompt, len(prompt) - moved.shape[1], hooks, look)
    return given


def _joined(moved: Tensor, hidden: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "new_rows pos d_model"]:
    """Row 0, and rows of it that are moved, in place of those that were there."""
    return torch.cat([hidden[:1], hidden[:1] + moved.to(hidden)])


def _by_part(call: AttentionCall, head: int, part: Part, rows: slice) -> Float[Tensor, "sender pos d_head"]:
    """One head's z whose queries, keys or values are those of other rows, all else row 0's."""
    shared = head // (call.query.shape[1] // call.key.shape[1])
    n = len(call.query[rows])
    own = {
        "q": call.query[:, head : head + 1],
        "k": call.key[:, shared : shared + 1],
        "v": call.value[:, shared : shared + 1],
    }
    used = {name: tensor[rows] if name == part else tensor[:1].expand(n, -1, -1, -1) for name, tensor in own.items()}
    one = replace(
        call,
        query=used["q"],
        key=used["k"],
        value=used["v"],
        mask=None if call.mask is None else call.mask[:1],
        sinks=None if call.sinks is None else call.sinks[head : head + 1],
    )
    return ordinary_attention(one)[:, :, 0]

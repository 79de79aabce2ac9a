"""What parts of a model write in one run, set into another: the patches of causal tracing, and two ways to run them.

A patched run equals the unpatched one below the first layer that it changes, and before the first position. So all
patches of a prompt are rows of one growing batch, as in :mod:`interp.scans.fanout`: a row joins at its patch's layer,
and reads the keys and values of what stands before the first patched position from a cache that all rows share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.architecture import Hook, attached, one_at_a_time, output_of, run_pass
from interp.door.brief import brief
from interp.interventions import stream_hook, unembed_only
from interp.passes import text_from
from interp.scans.fanout import fan_out_logits, row_bytes

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

Part = Literal["attention", "mlp", "residual"]
PARTS: tuple[Part, ...] = ("attention", "mlp", "residual")
_ALL_ROWS = 2.0**40  # MiB: rows are cut into chunks here, not in the fan-out


@dataclass(frozen=True)
class StatePatch:
    """``part`` of each of ``layers`` (ascending), at ``positions``, as it is in another run.

    ``attention``, ``mlp``: what the block's attention or MLP adds to the stream. ``residual``: the block's output (what
    enters the next block, or the final norm).
    """

    part: Part
    layers: tuple[int, ...]
    positions: tuple[int, ...]

    edits = ()  # to the fan-out it is a branch whose row joins at this layer; its states are set by a hook of this file

    @property
    def first_layer(self) -> int:
        return self.layers[0]

    @property
    def label(self) -> str:
        layers = f"L{self.layers[0]}" + (f"-{self.layers[-1]}" if len(self.layers) > 1 else "")
        at = f"position {self.positions[0]}" if len(self.positions) == 1 else f"{len(self.positions)} positions"
        return f"{layers} {self.part} at {at}"


@dataclass(frozen=True, eq=False)
class States:
    """What parts wrote at some positions in one run, in the model's dtype, and the logits at the answer."""

    values: Mapping[Part, Float[Tensor, "layer pos d_model"]]
    column: Mapping[int, int]  # of a position
    logits: Float[Tensor, " vocabulary"]

    __repr__ = brief

    def at(self, part: Part, layer: int, positions: Sequence[int]) -> Float[Tensor, "pos d_model"]:
        return self.values[part][layer, [self.column[p] for p in positions]]


@one_at_a_time
def read_states(model: Model, prompt: Prompt, parts: Sequence[Part], positions: Sequence[int]) -> States:
    """The states of one plain pass. Memory: [part, layer, pos, d_model] on the model's device."""
    columns = sorted(set(positions))
    from_end = torch.tensor([p - len(prompt) for p in columns])
    values: dict[Part, dict[int, Tensor]] = {part: {} for part in parts}

    def keep(part: Part, layer: int, written: Float[Tensor, "row pos d_model"]) -> None:
        values[part][layer] = written[0, from_end.to(written.device)].detach().clone()

    inputs = model.inputs([prompt]).inputs
    layers = range(model.n_layers)
    hooks = [written_hook(model, layer, part, partial(keep, part, layer)) for part in parts for layer in layers]
    with torch.no_grad(), attached(model, hooks):
        logits = run_pass(model, {**inputs, "use_cache": False, **model.last_logits_only()}).logits[0, -1].float()
    model.require_finite(logits[None], [prompt])
    stacked = {part: torch.stack([of[layer].to(model.device) for layer in layers]) for part, of in values.items()}
    return States(stacked, {p: i for i, p in enumerate(columns)}, logits)


@one_at_a_time
def patched_logits(
    model: Model,
    prompt: Prompt,
    patches: Sequence[StatePatch],
    states: States,
    tokens: Sequence[int] | None,
    memory_mib: float,
) -> Float[Tensor, "patch token"]:
    """Logits at the answer for each patch, row 0 being the unpatched run, float32, by the fan-out."""
    last = len(prompt) - min(min(patch.positions) for patch in patches)
    n_rest = len(prompt) - text_from(model, prompt, last)
    size = max(1, int(memory_mib * 2**20 / row_bytes(model, n_rest, len(prompt), tokens)))
    order = sorted(range(len(patches)), key=lambda i: patches[i].first_layer)
    rows: dict[int, Tensor] = {}
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        chunk = [patches[i] for i in chosen]
        with _set_in_rows(model, prompt, list(enumerate(chunk, start=1)), states):
            logits = fan_out_logits(model, prompt, chunk, last, tokens, _ALL_ROWS)
        rows[0] = logits[0]
        for i, row in zip(chosen, logits[1:], strict=True):
            rows[i + 1] = row
    return torch.stack([rows[i] for i in range(len(patches) + 1)])


@one_at_a_time
def looped_logits(
    model: Model, prompt: Prompt, patches: Sequence[StatePatch], states: States, tokens: Sequence[int] | None
) -> Float[Tensor, "patch token"]:
    """The same, one plain forward pass for each: slow, obvious, and right for every architecture."""
    inputs = model.inputs([prompt]).inputs
    rows = []
    for patch in [None, *patches]:
        here = [] if patch is None else [(0, patch)]
        with torch.no_grad(), _set_in_rows(model, prompt, here, states, of_one=True), unembed_only(model, tokens):
            output = run_pass(model, {**inputs, "use_cache": False, **model.last_logits_only()})
            rows.append(output.logits[0, -1].float())
    return torch.stack(rows)


def written_hook(model: Model, layer: int, part: Part, rewrite: Callable[[Tensor], Tensor | None]) -> Hook:
    """What the part of a layer writes goes through ``rewrite``, [row, pos, d_model] to the same (None: as it is).

    Raises ``ValueError`` for the MLP of a block that has no module for it."""
    if part != "mlp":
        place = {"layer": layer, "at": "attention"} if part == "attention" else {"layer": layer + 1}
        return stream_hook(model, rewrite=rewrite, counts=True, **place)
    module = model.components.blocks[layer].mlp_write
    if module is None:
        raise ValueError(
            f"{type(model.hf).__name__}: layer {layer} computes its MLP without a module of its own, so what it writes "
            "can't be read or set. Leave 'mlp' out of parts."
        )
    return output_of(module, rewrite, counts=True)  # of a mixture of experts, not its router's logits


def _set_in_rows(
    model: Model, prompt: Prompt, patches: Sequence[tuple[int, StatePatch]], states: States, of_one: bool = False
) -> AbstractContextManager[None]:
    """While active, each patch's states are set in its row. A pass of one row (of the shared prefix) is left as it is,
    unless the patch is ``of_one``."""
    here: dict[tuple[int, Part], list[tuple[int, StatePatch]]] = defaultdict(list)
    for row, patch in patches:
        for layer in patch.layers:
            here[layer, patch.part].append((row, patch))
    hooks = []
    for (layer, part), chosen in here.items():
        rows = torch.tensor([row for row, patch in chosen for _ in patch.positions])
        from_end = torch.tensor([p - len(prompt) for _, patch in chosen for p in patch.positions])
        new = torch.cat([states.at(part, layer, patch.positions) for _, patch in chosen])

        def put(
            hidden: Float[Tensor, "row pos d_model"], rows=rows, from_end=from_end, new=new
        ) -> Float[Tensor, "row pos d_model"] | None:
            if hidden.shape[0] == 1 and not of_one:
                return None
            after = hidden.clone()
            after[rows.to(hidden.device), from_end.to(hidden.device)] = new.to(hidden)
            return after

        hooks.append(written_hook(model, layer, part, put))
    return attached(model, hooks)

"""States of the residual stream at chosen positions: kept, or summed by label as they stream by.

Layer index l is the input of block l (0: the embedding); the last, L, is the output of the last block, before the
final norm: L + 1 rows. In TransformerLens's words: ``blocks.{l}.hook_resid_pre``, and the last ``hook_resid_post``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.architecture import attached, one_at_a_time, run_pass
from interp.door import public
from interp.door.brief import brief
from interp.interventions import stream_hook
from interp.passes import Gathered, Indices, passes

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@public
@one_at_a_time
def residual_states(
    model: Model, prompts: Sequence[Prompt], positions: Sequence[Sequence[int]], batch_size: int = 16
) -> Float[Tensor, "example layer pos d_model"]:
    """The stream at ``positions[i]`` of prompt i, float32, on the CPU, under whatever edits are active.

    One forward pass for each batch; prompts of like length share one. Memory: the result, (L + 1) x positions x
    d_model x 4 bytes a prompt.

    Raises ``ValueError`` for prompts with other numbers of positions, or positions that a prompt does not have;
    ``FloatingPointError`` naming prompt and layer for states that are not finite.
    """
    n_positions = _require_positions(prompts, positions)
    shape = (len(prompts), model.n_layers + 1, n_positions, model.d_model)
    states = torch.full(shape, torch.nan, dtype=torch.float32)
    for indices, batch in _stream(model, prompts, positions, batch_size):
        states[indices] = batch
    return states


@dataclass(frozen=True, eq=False)
class ResidualSum:
    """States of ``n`` prompts, added up in float64."""

    total: Float[Tensor, "layer pos d_model"]
    n: int

    __repr__ = brief

    @property
    def mean(self) -> Float[Tensor, "layer pos d_model"]:
        """float32."""
        return (self.total / self.n).float()


@public
@one_at_a_time
def residual_sums(
    model: Model,
    prompts: Sequence[Prompt],
    positions: Sequence[Sequence[int]],
    labels: Sequence[Hashable],
    batch_size: int = 16,
) -> dict[Any, ResidualSum]:
    """For each label, in order of appearance, the sum of the states of the prompts that carry it.

    As :func:`residual_states`, without keeping single prompts: memory [layer, pos, d_model] a label, and a batch.
    Sums are in float64 also for bfloat16 models.
    """
    if len(labels) != len(prompts):
        raise ValueError(f"{len(labels)} labels were given for {len(prompts)} prompts; expected one for each.")
    shape = (model.n_layers + 1, _require_positions(prompts, positions), model.d_model)
    totals = {label: torch.zeros(shape, dtype=torch.float64) for label in labels}
    for indices, batch in _stream(model, prompts, positions, batch_size):
        for i, states in zip(indices, batch, strict=True):
            totals[labels[i]] += states
    return {label: ResidualSum(total, list(labels).count(label)) for label, total in totals.items()}


def _stream(
    model: Model, prompts: Sequence[Prompt], positions: Sequence[Sequence[int]], batch_size: int
) -> Iterator[tuple[list[int], Float[Tensor, "example layer pos d_model"]]]:
    """Batches of prompts of like length: their numbers and their states."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected 1 or more.")
    model.require_fits(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for places in passes(model, [prompts[i] for i in order], batch_size):
        indices = [order[place] for place in places]
        states = _read(model, [prompts[i] for i in indices], [positions[i] for i in indices])
        bad = (~torch.isfinite(states)).flatten(2).any(2).nonzero()
        if len(bad):
            row, layer = bad[0].tolist()
            prompt = prompts[indices[row]]
            raise FloatingPointError(
                f"{model.name}: the residual stream of prompt {prompt.id or prompt.text[:60]!r} is not finite at layer "
                f"{layer} (the {'embedding' if layer == 0 else f'output of block {layer - 1}'}). Check the weights, or "
                "load with dtype=torch.float32 if they overflow in half precision."
            )
        yield indices, states


def _read(
    model: Model, prompts: Sequence[Prompt], positions: Sequence[Sequence[int]]
) -> Float[Tensor, "example layer pos d_model"]:
    batch = model.inputs(prompts)
    columns = [p + offset for own, offset in zip(positions, batch.offsets, strict=True) for p in own]
    rows = [row for row, own in enumerate(positions) for _ in own]
    read, indices = Gathered(), Indices()

    def keep(layer: int, hidden: Float[Tensor, "example pos d_model"]) -> None:
        where = (indices.on(hidden.device, "row", rows), indices.on(hidden.device, "column", columns))
        read.put(layer, hidden[where].float())

    hooks = [stream_hook(model, layer, partial(keep, layer)) for layer in range(model.n_layers + 1)]
    with torch.no_grad(), attached(model, hooks):
        run_pass(model, {**batch.inputs, "use_cache": False, **model.last_logits_only()})
    shape = (len(prompts), model.n_layers + 1, len(columns) // len(prompts), model.d_model)
    states = torch.full(shape, torch.nan, dtype=torch.float32)
    for layer, found in read.fetch().items():
        states[:, layer] = found.view(shape[0], shape[2], shape[3])
    return states


def _require_positions(prompts: Sequence[Prompt], positions: Sequence[Sequence[int]]) -> int:
    """How many positions each prompt has; raises unless it is one number for all."""
    if not prompts:
        raise ValueError("no prompts were given; give at least one.")
    if len(positions) != len(prompts):
        raise ValueError(
            f"{len(positions)} lists of positions were given for {len(prompts)} prompts; expected one each."
        )
    counts = sorted({len(own) for own in positions})
    if len(counts) > 1 or counts == [0]:
        raise ValueError(
            f"prompts have {', '.join(map(str, counts))} positions; expected the same number for all, at least one."
        )
    for i, (prompt, own) in enumerate(zip(prompts, positions, strict=True)):
        for position in own:
            if not 0 <= position < len(prompt):
                raise ValueError(
                    f"position {position} was asked of prompt {prompt.id or i!r}, which has {len(prompt)} tokens; "
                    "expected positions from 0 (a negative one would count the padding)."
                )
    return counts[0]

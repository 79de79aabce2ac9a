"""Heads changed together: sets patched from the corrupt prompts, greedy removal, gates learned for all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.door.brief import brief
from interp.fitting import frozen
from interp.interventions import patch_each_head
from interp.locating.asked import Asked
from interp.locating.rewriting import Rewrite, heads_rewritten
from interp.prompts import Prompt
from interp.scans.scan import scan

Sets = Bool[np.ndarray, "set layer head"]


def patched_sets(
    asked: Asked, sets: Sets, sources: Sequence[Prompt] | None = None, chosen: Sequence[int] | None = None
) -> Float[np.ndarray, "example set"]:
    """The metric of each clean prompt with every head of a set giving what it gives on that prompt's source.

    Args:
        asked: model, pairs and metric.
        sets: of heads, each [layer, head] of True and False.
        sources: a prompt for each pair; by default its corrupt twin.
        chosen: numbers of some of the pairs; None: all.

    Returns:
        [example, set], in the metric's unit.

    Cost: a pass of each source, and a branch of the fan-out for each prompt and set, which joins at the set's first
    layer.
    """
    pairs, some = asked.pairs, list(range(len(asked.pairs)) if chosen is None else chosen)
    named = [[(int(layer), int(head)) for layer, head in np.argwhere(heads)] for heads in sets]
    places = [pairs.places(i) for i in some] if sources is None else None
    edits = patch_each_head([(pairs.corrupt if sources is None else sources)[i] for i in some], named, places)
    prompts = [pairs.clean[i] for i in some]
    options = {"metric": asked.metric, "positions": asked.positions, "check": asked.check, "read_mass": False}
    return scan(asked.model, prompts, edits, **options).values


def single_sets(shape: tuple[int, int]) -> Sets:
    """One set for each head, layer by layer."""
    return np.eye(shape[0] * shape[1], dtype=bool).reshape(-1, *shape)


def greedy(asked: Asked) -> Float[np.ndarray, "layer head"]:
    """Heads are patched from the corrupt prompts one after the other and stay so; each time the one whose patch loses
    least. A head's score is what was lost when it went, or before it."""
    shape = asked.shape
    gone, scores = np.zeros(shape, bool), np.zeros(shape)
    (before,) = patched_sets(asked, gone[None]).T.astype(np.float64)
    lost = 0.0
    while not gone.all():
        left = np.argwhere(~gone)
        tried = np.repeat(gone[None], len(left), axis=0)
        tried[np.arange(len(left)), left[:, 0], left[:, 1]] = True
        losses = np.abs(before[:, None] - patched_sets(asked, tried)).mean(0)
        best = int(losses.argmin())
        lost = max(lost, float(losses[best]))
        gone[tuple(left[best])] = True
        scores[tuple(left[best])] = lost + 1e-6 * gone.sum()  # of equal losses, the later one
    return scores


@dataclass(frozen=True, eq=False)
class Gates:
    """``kept`` [layer, head]: how open a gate stays when it is pressed to close: near 1 for a head that facilitates the
    answer. ``suppressed``: how far it closes when it is pressed to open: near 1 for one that interferes. Both near 0:
    the head is irrelevant. ``losses``: of each step. ``undecided``: the share of gates between 0.1 and 0.9 at the
    end."""

    kept: Float[np.ndarray, "layer head"]
    suppressed: Float[np.ndarray, "layer head"]
    losses: tuple[float, ...]
    undecided: float

    __repr__ = brief


def learn_gates(
    asked: Asked,
    steps: int = 80,
    weight: float = 0.3,
    rate: float = 0.2,
    batch: int = 16,
    fits: Sequence[int] = (1, -1),
) -> Gates:
    """A gate for every head, all learned together (after causal head gating, Nam et al. 2025, arXiv 2505.13737): open,
    the head gives its own output; closed, what it gives on the corrupt prompt.

    The loss is the share of the metric that is lost, plus (in the second fit: minus) ``weight`` times the mean gate.
    Gates are sigmoids, stretched a little so that they can be fully open and shut; without noise, since under noise of
    its own in each gate two heads that cancel can't close together. Cost: a pass with its gradient for each batch and
    step. ``fits``: 1 presses gates to close, -1 to open.

    Misleads: too few steps leave gates half open (``undecided``); a variable that no pair varies is not seen.
    """
    kept, ends = {}, []
    losses: list[float] = []
    for press in fits:
        openness, end, curve = _fit(asked, steps, press * weight, rate, batch)
        kept[press], ends, losses = openness, [*ends, end], [*losses, *curve]
    undecided = float(np.mean([(end > 0.1) & (end < 0.9) for end in ends]))
    closed = 1 - kept[-1] if -1 in kept else np.zeros(asked.shape)
    return Gates(kept.get(1, np.zeros(asked.shape)), closed, tuple(losses), undecided)


def _fit(
    asked: Asked, steps: int, weight: float, rate: float, batch: int
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    logits = torch.full(asked.shape, 2.0, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=rate)
    path = torch.zeros(asked.shape)
    losses: list[Tensor] = []
    batches = list(_with_sources(asked, batch))
    gap = float(np.mean([abs(float(b.clean_metric.mean() - b.corrupt_metric.mean())) for b in batches])) or 1.0
    for step in range(steps):
        now = batches[step % len(batches)]
        gates = (torch.sigmoid(logits) * 1.2 - 0.1).clamp(0, 1)
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(frozen(asked.model))
            rewrite = _gated(gates.to(asked.model.device), now.sources, now.first)
            value = asked.measured(now.clean, heads_rewritten(asked.model, rewrite))
            lost = (now.clean_metric.to(value) - value) / gap
            if weight > 0:
                lost = lost.relu()  # more than whole is not asked for
            loss = lost.mean() + weight * torch.sigmoid(logits).mean()
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
        losses.append(loss.detach())
        path += torch.sigmoid(logits.detach())
    return (path / steps).numpy(), torch.sigmoid(logits.detach()).numpy(), torch.stack(losses).tolist()


def _gated(gates: Tensor, sources: Tensor, first: int) -> Rewrite:
    def mix(layer: int, z: Tensor) -> Tensor:
        gate = gates[layer].to(z.dtype)[None, None, :, None]
        mixed = gate * z + (1 - gate) * sources[:, layer].to(z.dtype)
        return torch.cat([z[:, :first], mixed[:, first:]], dim=1)

    return mix


@dataclass(frozen=True, eq=False)
class _Batch:
    clean: list[Prompt]
    sources: Float[Tensor, "row layer pos head d_head"]
    clean_metric: Float[Tensor, " row"]
    corrupt_metric: Float[Tensor, " row"]
    first: int

    __repr__ = brief


@torch.no_grad()
def _with_sources(asked: Asked, size: int) -> Iterator[_Batch]:
    for places in asked.batches(size):
        clean, corrupt = ([side[i] for i in places] for side in (asked.pairs.clean, asked.pairs.corrupt))
        sources = torch.stack(asked.corrupt_outputs(places)).to(asked.model.device)
        values = asked.measured(clean), asked.measured(corrupt)
        yield _Batch(clean, sources, *values, asked.first_position(clean[0]))

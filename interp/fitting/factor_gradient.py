"""Factors of all heads' outputs at once, by gradient: one backward pass a step, stopped early.

What is promised of a search is in :mod:`interp.fitting.factor_search`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.architecture import attached, input_of
from interp.edits import heads_scaled
from interp.fitting.factor_search import FactorSearch, kept, look, save_state, start_of, strikes
from interp.fitting.factors import HIGH, LOW, Factors, changed_heads, require_limits
from interp.fitting.modulation import require_heads
from interp.fitting.tuning import LossNotFinite, frozen, gold_loss
from interp.passes import by_picture, in_order, logits_by_batch

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


def gradient_search(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    held_back: Sequence[Prompt] = (),
    heads: Sequence[tuple[int, int]] | None = None,
    start: Factors | None = None,
    low: float = LOW,
    high: float = HIGH,
    pull: float = 0.003,
    learning_rate: float = 0.03,
    steps: int = 60,
    batch_size: int = 16,
    check_every: int = 5,
    patience: int = 3,
    seed: int = 0,
    keep: Path | None = None,
    key: str = "",
) -> FactorSearch:
    """All factors at once, by Adam on the loss of the gold answers, through one backward pass a step.

    ``pull`` x sum of (factor - 1)^2 is added to the loss, so that a head without effect stays at 1; factors are clipped
    to [``low``, ``high``] after every step. ``heads``: only these (None: all). Every ``check_every`` steps the loss of
    the prompts ``held_back`` is looked at (of all ``prompts``, without any); the factors of the best look are handed
    back, and ``patience`` looks without a better one end the search. ``keep`` and ``key`` as in
    :func:`interp.fitting.factor_search.coordinate_search`: each look is kept, and gone on from.

    Cost: about three passes of ``batch_size`` prompts a step, and one pass of the prompts looked at for each look; the
    memory of a backward pass over a batch. Raises ``ValueError`` for no prompts and for heads out of range, and
    ``LossNotFinite``.
    """
    began = time.perf_counter()
    first = start_of(model, start)
    require_limits(low, high)
    if not len(prompts) or min(steps, batch_size, check_every, patience) < 1:
        raise ValueError(
            f"{len(prompts)} prompts, steps={steps}, batch_size={batch_size}, check_every={check_every}, "
            f"patience={patience}; expected 1 or more of each."
        )
    free = np.full(first.shape, heads is None)
    for place in require_heads(model, heads or ()):
        free[place] = True

    def held(factors: Factors) -> float:
        return mean_gold_loss(model, held_back, factors, batch_size) if len(held_back) else np.nan

    adam = _Adam(first, free, learning_rate, model.device)
    if (found := kept(keep, key)) is not None:
        history, looks = found[0]["history"], list(found[1]["looks"])
        adam.load(found[1], history[-1]["step"])
    else:
        looks = [first]
        history = [look(0, first, mean_gold_loss(model, prompts, first, batch_size), held(first))]
    stopped, running = "steps used up", []
    for step, chosen in enumerate(_batches(prompts, batch_size, steps, seed), start=1):
        if step <= history[-1]["step"]:  # done before it was killed
            continue
        if strikes(history) >= patience:
            stopped = f"the prompts {'held back' if len(held_back) else 'searched on'} no longer gain"
            break
        batch = [prompts[i] for i in chosen]
        with torch.enable_grad(), frozen(model), factors_applied(model, adam.factors):
            loss = gold_loss(in_order([*logits_by_batch(model, batch, len(batch))]), batch)
            total = loss + pull * (adam.factors - 1).pow(2).sum()
            if not torch.isfinite(total):
                raise LossNotFinite(
                    f"the loss of the searched factors is {total.item()} at step {step}. Lower the learning rate, or "
                    "load with dtype=torch.float32."
                )
            total.backward()
        adam.step(low, high)
        running.append(loss.item())
        if step % check_every and step < steps:
            continue
        now = adam.numbers()
        seen = float(np.mean(running)) if len(held_back) else mean_gold_loss(model, prompts, now, batch_size)
        history.append(look(step, now, seen, held(now)))
        looks, running = [*looks, now], []
        save_state(keep, key, history, {"looks": np.stack(looks), **adam.save()})
    before = history[0]["loss"]
    for number in np.argsort([row["held_back" if len(held_back) else "loss"] for row in history], kind="stable"):
        after = mean_gold_loss(model, prompts, looks[number], batch_size) if number else before
        if after <= before:  # at the latest for the start
            break
    ends = (before, after, history[0]["held_back"], history[number]["held_back"])
    return FactorSearch(looks[number], *ends, tuple(history), stopped, time.perf_counter() - began)


def mean_gold_loss(model: Model, prompts: Sequence[Prompt], factors: Factors, batch_size: int = 16) -> float:
    """Mean cross-entropy of the gold answers' first tokens, in nats, with the factors acting at every position: what
    the edit does. One pass for each batch."""
    total = 0.0
    with heads_scaled(model, changed_heads(factors)):
        for start in range(0, len(prompts), batch_size):
            batch = [prompts[i] for i in range(start, min(start + batch_size, len(prompts)))]
            total += float(gold_loss(model.final_logits(batch, batch_size), batch)) * len(batch)
    return total / len(prompts)


def factors_applied(model: Model, factors: Float[Tensor, "layer head"]) -> AbstractContextManager[None]:
    """While active, every head's output z is multiplied by its factor at every position, and gradients reach these."""

    def scale(of_layer: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda z: z * of_layer.to(z).repeat_interleave(z.shape[-1] // model.n_heads)

    by_block = zip(model.components.blocks, factors, strict=True)
    return attached(model, [input_of(block.out_projection, scale(of_layer)) for block, of_layer in by_block])


class _Adam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) on the free factors, in float32; its state can be written down."""

    def __init__(self, start: Factors, free: np.ndarray, learning_rate: float, device: torch.device) -> None:
        self.factors = torch.tensor(start, dtype=torch.float32, device=device, requires_grad=True)
        self.free, self.rate = torch.tensor(free, device=device), learning_rate
        self.mean, self.square, self.n = torch.zeros_like(self.factors), torch.zeros_like(self.factors), 0

    @torch.no_grad()
    def step(self, low: float, high: float) -> None:
        assert self.factors.grad is not None, "step() comes after backward()"
        gradient, self.n = self.factors.grad * self.free, self.n + 1
        self.factors.grad = None
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        size = (self.square / (1 - 0.999**self.n)).sqrt() + 1e-8
        moved = self.factors - self.rate * self.mean / (1 - 0.9**self.n) / size
        self.factors.copy_(torch.where(self.free, moved.clamp(low, high), self.factors))

    def numbers(self) -> Factors:
        return self.factors.detach().cpu().double().numpy()

    def save(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name).detach().cpu().numpy() for name in ("factors", "mean", "square")}

    @torch.no_grad()
    def load(self, saved: Mapping[str, np.ndarray], n: int) -> None:
        for name in ("factors", "mean", "square"):
            getattr(self, name).copy_(torch.tensor(saved[name]))
        self.n = n


def _batches(prompts: Sequence[Prompt], size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Positions of prompts, in a new order each time all were drawn; those about one picture follow each other, so that
    most of their pass is shared."""
    groups, rng, queue = by_picture(prompts), np.random.default_rng(seed), []
    for _ in range(steps):
        while len(queue) < min(size, len(prompts)):
            queue += [i for group in rng.permutation(len(groups)) for i in groups[group]]
        yield queue[:size]
        queue = queue[size:]

"""How long a command will take: said before it starts, from passes timed on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.records import in_time
from probes.cli.options import say

if TYPE_CHECKING:
    from interp.machine import Work
    from interp.models import Model

NEW_TOKEN = 2.0  # what a generated token costs, in tokens of a prompt: the weights are read for each step of a batch


@dataclass(frozen=True)
class Cost:
    """What a command does with each of ``n`` prompts, and once.

    Args:
        n: prompts (questions, requests, pairs).
        passes: plain forward passes of each.
        scans: scans that ablate every head at the answer, of each.
        new_tokens: tokens generated for each.
        once: passes beside that: fingerprints, checks.
        prompt_tokens: length of a prompt, on average.
    """

    n: int
    passes: float = 1.0
    scans: float = 0.0
    new_tokens: float = 0.0
    once: float = 24.0
    prompt_tokens: float = 60.0

    @property
    def plain_passes(self) -> float:
        """Passes and generated tokens together, in passes."""
        return self.passes + NEW_TOKEN * self.new_tokens / self.prompt_tokens


def say_how_long(model: Model, cost: Cost | Work) -> None:
    """On stderr: about how long the work takes, from a few timed passes of this model, and how many plain passes of a
    prompt it is. What is kept already is not taken off."""
    from interp.machine import ModelShape, Work, measure_speed

    with model.alone():
        speed = measure_speed(model.hf, model.name, seconds=1.0)
    shape = ModelShape(model.name, model.n_layers, model.n_heads, speed.block_parameters)
    work = cost
    if isinstance(cost, Cost):
        work = Work("", cost.n, cost.plain_passes, cost.scans, cost.once, cost.prompt_tokens)
    seconds = speed.estimate_seconds(work, shape)
    say(
        f"about {in_time(seconds)}: {work.passes(shape):.1f} plain passes of each of {work.n_examples} prompts "
        f"({speed.tokens_per_second:.0f} tokens a second were measured; within a factor of 2)"
    )

"""What a computation costs, in passes: counted, not estimated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.architecture import attached, output_of

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@dataclass
class Cost:
    """``tokens``: those that went through a layer; ``with_gradients``: those of passes whose gradients are taken."""

    tokens: int = 0
    with_gradients: int = 0

    def passes(self, model: Model, prompts: Sequence[Prompt]) -> float:
        """In passes over the prompts: one is each prompt alone through every layer; a backward pass counts as two."""
        return (self.tokens + 2 * self.with_gradients) / (model.n_layers * sum(map(len, prompts)))


@contextmanager
def counted(model: Model) -> Iterator[Cost]:
    """While active, tokens that go through the model's layers are counted."""
    cost = Cost()

    def count(hidden: Tensor) -> None:
        n = hidden.shape[:-1].numel()
        cost.tokens += n
        if torch.is_grad_enabled():
            cost.with_gradients += n

    with attached(model, [output_of(block.module, count) for block in model.components.blocks]):
        yield cost

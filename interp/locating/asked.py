"""What every way of finding heads is asked, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.architecture import run_pass
from interp.door.brief import brief
from interp.pairs import PromptPairs
from interp.passes import passes, text_from
from interp.reading import LogitDifference, head_outputs, mean_head_outputs
from interp.scans.branches import last_positions

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

Positions = str | int


@dataclass(frozen=True, eq=False)
class Asked:
    """``effects``: [example, layer, head], positive where a head supports the clean answer, in the metric's unit.

    ``pool``: prompts that other outputs and means are read from, in place of the pairs' own.
    """

    model: Model
    pairs: PromptPairs
    metric: LogitDifference
    positions: Positions
    check: int
    seed: int
    pool: tuple[Prompt, ...] = ()

    __repr__ = brief

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads."""
        return self.model.n_layers, self.model.n_heads

    def first_position(self, prompt: Prompt) -> int:
        """The first position that is looked at; all later ones are too."""
        last = {"answer": 1, "all": len(prompt)}.get(str(self.positions))
        return len(prompt) - (int(self.positions) if last is None else last)

    def measured(
        self, prompts: Sequence[Prompt], changed: AbstractContextManager | None = None
    ) -> Float[Tensor, " row"]:
        """:func:`measured` of the model asked."""
        return measured(self.model, self.metric, prompts, changed)

    def corrupt_outputs(self, chosen: Sequence[int]) -> list[Float[Tensor, "layer _pos head d_head"]]:
        """z of the corrupt prompts of some pairs, each at the positions that go with the clean prompt's."""
        outputs = head_outputs(self.model, [self.pairs.corrupt[i] for i in chosen], None, len(chosen))
        return [z[:, list(self.pairs.places(i))] for i, z in zip(chosen, outputs, strict=True)]

    def means(self) -> Float[Tensor, "layer head d_head"]:
        """Mean z over the prompts of the pairs, or of the pool, and over the positions that are looked at."""
        prompts = self.pool or [*self.pairs.clean, *self.pairs.corrupt]
        return mean_head_outputs(self.model, prompts, last_positions(self.positions))

    @property
    def share(self) -> float:
        """Of the positions of the first clean prompt that are looked at."""
        prompt = self.pairs.clean[0]
        return (len(prompt) - self.first_position(prompt)) / len(prompt)

    def batches(self, size: int = 16) -> list[list[int]]:
        """Indices of pairs that may share a pass: of equal length."""
        found: list[list[int]] = []
        by_length: dict[tuple[int, int], list[int]] = {}
        for i, both in enumerate(zip(self.pairs.clean, self.pairs.corrupt, strict=True)):
            by_length.setdefault((len(both[0]), len(both[1])), []).append(i)
        for same in by_length.values():
            for start in range(0, len(same), size):
                chunk = same[start : start + size]
                parts = passes(self.model, [self.pairs.clean[i] for i in chunk], size)
                found += [[chunk[i] for i in part] for part in parts]
        return found


def varying_positions(model: Model, prompts: Sequence[Prompt]) -> Positions:
    """The last positions, from the first on at which any two of the prompts differ (of prompts of several lengths, as
    many as the longest has there); "all" where these are all of the shortest. Before it every head of a model that
    looks back alone gives the same in each prompt, so another prompt's output is its own, and a mean would take away
    what no prompt varies (where heads rest, as at the first token)."""
    by_length = {len(p): p for p in prompts}
    together = zip(*(p.token_ids for p in prompts), strict=False)
    shared = next((i for i, tokens in enumerate(together) if len(set(tokens)) > 1), min(by_length))
    m = max(n - text_from(model, p, n - shared) for n, p in by_length.items())
    return m if 0 < m < min(by_length) else "all"


def measured(
    model: Model, metric: LogitDifference, prompts: Sequence[Prompt], changed: AbstractContextManager | None = None
) -> Float[Tensor, " row"]:
    """The metric of prompts of equal length in one pass, with gradients where those are on."""
    inputs = model.inputs(list(prompts)).inputs
    with changed or nullcontext():
        logits = run_pass(model, {**inputs, "use_cache": False, **model.last_logits_only()}).logits[:, -1].float()
    rows = []
    for row, prompt in zip(logits, prompts, strict=True):
        groups = tuple(row[list(ids)][None] for ids in metric.tokens(prompt))
        rows.append(metric(groups, row.logsumexp(-1)[None] if metric.needs_vocabulary else None))
    return torch.cat(rows)

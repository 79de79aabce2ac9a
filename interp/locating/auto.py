"""`auto`: every head replaced in two exact ways, and what heads that undo each other have between them taken back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.interventions import Branch, HeadEdit
from interp.locating.asked import Asked
from interp.locating.counting import Cost, counted
from interp.locating.exact import drawn_from
from interp.machine import ModelShape
from interp.reading import head_outputs
from interp.scans.scan import scan

if TYPE_CHECKING:
    from interp.prompts import Prompt

BUDGET = 3.0
"""The most that it costs, in exact scans of all heads at all positions."""
MORE = 1.2
"""Of scans of the positions that are looked at, where these are few, it may cost so many times the budget."""
FLOOR = 0.01
"""Heads whose score is a smaller share of the largest are not tried in pairs: there is nothing to take back."""
CLEARED = 0.3
"""Two heads do not undo each other where both together keep this share of the larger effect, once."""

Cell = tuple[int, int]
"""(pair of prompts, 0: resampled or 1: its mean)."""


def auto(asked: Asked) -> Float[np.ndarray, "example layer head"]:
    """The mean of what is lost when each head gives what it gives on another prompt of the pairs, clean or corrupt,
    with another answer, and when it gives its mean over them all.

    Resampling alone is blind to a head whose variable is silent in the few prompts drawn; a mean is between all values.
    Then two heads that have effects are replaced together, as often as three scans allow, first where one of them has
    an effect and the other none: two heads that carry something show it there, and two that undo each other do not.
    What a head loses is then what it loses together with the head that leaves least.
    """
    with counted(asked.model) as cost:
        replaced = _Replaced(asked)
        alone = np.stack(
            [replaced.lost(i, _singles(asked.shape)) for i in range(len(asked.pairs))]
        )  # [pair, way, head]
        kept = _kept(asked, replaced, np.abs(alone), cost)
    sizes, signs = np.abs(alone).mean(1) * kept, np.sign(alone.sum(1))
    return (sizes * signs).reshape(-1, *asked.shape)


@dataclass(eq=False)
class _Replaced:
    """Heads of a clean prompt that give what they give elsewhere."""

    asked: Asked

    def __post_init__(self) -> None:
        asked = self.asked
        self.means = asked.means()
        self.sources = sources(asked)

    def lost(
        self, i: int, sets: Sequence[tuple[int, ...]], ways: Sequence[int] = (0, 1)
    ) -> Float[np.ndarray, "way set"]:
        """Of one pair, for each set of heads (numbers, layer by layer)."""
        asked, prompt = self.asked, self.asked.pairs.clean[i]
        values: dict[int, Tensor] = {1: self.means[:, None]}
        if 0 in ways:
            values[0] = self._outputs(i)[:, asked.first_position(prompt) :]
        branches = [
            Branch(tuple(self._edit(head, values[way]) for head in heads), f"{way} {heads}")
            for way in ways
            for heads in sets
        ]
        check = asked.check if i == 0 and len(sets) == asked.shape[0] * asked.shape[1] else 0
        done = scan(
            asked.model,
            [prompt],
            branches,
            metric=asked.metric,
            positions=asked.positions,
            check=check,
            read_mass=check > 0,
        )
        return done.drop.reshape(len(ways), len(sets))

    def _outputs(self, i: int) -> Float[Tensor, "layer pos head d_head"]:
        """On the source of prompt i, at the positions that go with its own."""
        if self.sources[i] is self.asked.pairs.corrupt[i]:
            return self.asked.corrupt_outputs([i])[0]
        return head_outputs(self.asked.model, [self.sources[i]], last=None)[0]

    def _edit(self, head: int, values: Float[Tensor, "layer pos head d_head"]) -> HeadEdit:
        layer, place = divmod(head, self.asked.shape[1])
        own = values[layer, :, place]
        return HeadEdit(layer, place, "set", value=own[0] if len(own) == 1 else own)


def sources(asked: Asked) -> list[Prompt]:
    """For each clean prompt another of the pairs' prompts, clean or corrupt, of equal length, at random: of those with
    another answer where there are any; the corrupt twin where there is none. Of the pool, where one is given."""
    if asked.pool:
        return drawn_from(asked)
    right, wrong = asked.pairs.clean[0].answers
    rng, chosen = np.random.default_rng(asked.seed), []
    pool = [(i, p, p.answer_tokens(right)) for i, p in enumerate(asked.pairs.clean)]
    pool += [(i, p, p.answer_tokens(wrong)) for i, p in enumerate(asked.pairs.corrupt)]
    for i, prompt in enumerate(asked.pairs.clean):
        equal = [(p, answer) for j, p, answer in pool if j != i and len(p) == len(prompt)]
        others = [p for p, answer in equal if answer != prompt.answer_tokens(right)] or [p for p, _ in equal]
        chosen.append(others[rng.integers(len(others))] if others else asked.pairs.corrupt[i])
    return chosen


def _singles(shape: tuple[int, int]) -> list[tuple[int, ...]]:
    return [(head,) for head in range(shape[0] * shape[1])]


def _kept(
    asked: Asked, replaced: _Replaced, alone: Float[np.ndarray, "pair way head"], cost: Cost
) -> Float[np.ndarray, " head"]:
    """The share of each head's score that stays when the head that undoes most of it is replaced too: 1 for most."""
    share = min(1.0, MORE * asked.share)
    scan_cost = ModelShape.of(asked.model).scan_passes(1, share)
    left = len(alone) * (BUDGET * scan_cost - cost.passes(asked.model, asked.pairs.clean)) / asked.share
    # what a scan costs beside its branches, in passes over the positions that are looked at: its source, the unedited
    # row, and the prompt before those positions
    plain = (2 + (asked.share < 1)) / asked.share
    suspected, spent = _suspected(alone, asked.shape, 0.75 * left, plain)
    ratios: dict[tuple[int, int], float] = defaultdict(float)
    for (i, way), pairs in suspected.items():
        joint = np.abs(replaced.lost(i, pairs, [way])[0])
        for pair, value in zip(pairs, joint, strict=True):
            ratios[pair] = max(ratios[pair], float(value / alone[i, way, list(pair)].max()))
    undoing = sorted((pair for pair, ratio in ratios.items() if ratio < CLEARED), key=lambda pair: ratios[pair])
    kept = np.ones(alone.shape[-1])
    dear = plain + np.cumsum([_share(pair, asked.shape) for pair in undoing])  # of the first so many, on a prompt
    undoing = undoing[: int((2 * dear <= left - spent).sum())]  # on two prompts at least, one for each way
    if not undoing:
        return kept
    cells = [(i, i % 2) for i in range(len(alone))][: int((left - spent) / dear[len(undoing) - 1])]
    together = np.stack([np.abs(replaced.lost(i, undoing, [way])[0]) for i, way in cells]).mean(0)
    before = np.stack([alone[cell] for cell in cells]).mean(0)
    for pair, value in zip(undoing, together, strict=True):
        for head in pair:
            kept[head] = min(kept[head], value / max(before[head], 1e-30))
    return kept


def _suspected(
    alone: Float[np.ndarray, "pair way head"], shape: tuple[int, int], left: float, plain: float
) -> tuple[dict[Cell, list[tuple[int, int]]], float]:
    """Which pairs of heads to replace together, and on which prompts: where one of them has an effect and
    the other has none, either way round; and what it costs, in passes of a prompt."""
    scores = alone.mean((0, 1))
    able = [int(head) for head in np.argsort(-scores, kind="stable") if scores[head] > FLOOR * scores.max()]
    places = list(np.ndindex(alone.shape[:2]))
    flat = alone.reshape(len(places), -1)
    found: dict[Cell, list[tuple[int, int]]] = defaultdict(list)
    spent = 0.0
    for a, b in _alike_first(flat, able):
        gap = flat[:, a] - flat[:, b]
        cells = {places[int(gap.argmax())], places[int(gap.argmin())]}
        price = len(cells) * _share((a, b), shape) + plain * sum(cell not in found for cell in cells)
        if spent + price > left:
            break
        spent += price
        for cell in cells:
            found[cell].append((a, b))
    return found, spent


def _alike_first(sizes: Float[np.ndarray, "cell head"], heads: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of heads, the likeliest to undo each other first: large effects in the same cells, of like sizes there."""
    sizes = sizes[:, heads]
    norms = np.linalg.norm(sizes, axis=0)
    likeness = (sizes.T @ sizes / np.outer(norms, norms)).clip(max=1)
    worth = np.minimum.outer(sizes.mean(0), sizes.mean(0)) / (1.02 - likeness**2)
    rows, columns = np.triu_indices(len(heads), 1)
    for at in np.argsort(-worth[rows, columns], kind="stable"):
        yield heads[rows[at]], heads[columns[at]]


def _share(pair: tuple[int, int], shape: tuple[int, int]) -> float:
    """Of a pass, that two heads replaced together cost."""
    return (shape[0] - min(pair) // shape[1]) / shape[0]

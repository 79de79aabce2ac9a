"""Is a set of heads the circuit? Keep only it, remove only it, and hold it against random sets of the same layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.architecture import one_at_a_time
from interp.circuits.drawn_sets import Head, random_sets
from interp.door import public
from interp.door.brief import brief
from interp.figures import head_label, kept_and_removed
from interp.locating import patched_sets
from interp.locating.asked import Asked, Positions, varying_positions
from interp.rankings import HeadRanking
from interp.reading import LogitDifference, default_metric
from interp.statistics import Claim, Estimate, mean_interval, ratio_estimate

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models import Model
    from interp.pairs import PromptPairs


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How much of what a model does is left, by the number of heads.

    ``sizes`` [k]: numbers of heads. ``kept`` and ``removed`` [pair, k]: the metric with only the first so many heads
    left (all others give what they give on the corrupt prompt), and with only them replaced. ``whole`` and ``none``
    [pair]: with no head replaced, and with all. ``n_heads``: of the model.
    """

    order: tuple[Head, ...]
    sizes: tuple[int, ...]
    kept: Float[np.ndarray, "pair k"]
    removed: Float[np.ndarray, "pair k"]
    whole: Float[np.ndarray, " pair"]
    none: Float[np.ndarray, " pair"]
    n_heads: int

    __repr__ = brief

    def share(self, values: Float[np.ndarray, "pair k"]) -> Float[np.ndarray, " k"]:
        """Of the difference between whole and none, what is there: 1 for the whole model, 0 with all heads replaced."""
        return (values - self.none[:, None]).mean(0) / (self.whole - self.none).mean()

    @property
    def cpr(self) -> float:
        """Circuit performance ratio: the area under the curve of what is kept, over the share of heads (MIB, Mueller et
        al. 2025, arXiv 2504.13151). Higher is better; above 1 where heads that interfere are left out early."""
        return float(np.trapezoid(self.share(self.kept), self._fractions))

    @property
    def cmd(self) -> float:
        """Circuit-model distance: the area between that curve and the whole model's 1. Lower is better, 0 the best."""
        return float(np.trapezoid(np.abs(1 - self.share(self.kept)), self._fractions))

    @property
    def _fractions(self) -> np.ndarray:
        return np.array(self.sizes) / self.n_heads

    def plot(self) -> go.Figure:
        """Both curves over the number of heads, with bands of 95 %."""
        return kept_and_removed(self.to_frame())

    def to_frame(self) -> pd.DataFrame:
        """One row for each number of heads: k, kept, removed, with 95 % intervals over pairs."""
        rows = []
        for column, k in enumerate(self.sizes):
            row: dict[str, float] = {"k": k}
            for name in ("kept", "removed"):
                share = ratio_estimate(getattr(self, name)[:, column] - self.none, self.whole - self.none)
                row |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
            rows.append(row)
        return pd.DataFrame(rows)


@public
@one_at_a_time
def faithfulness(
    model: Model,
    pairs: PromptPairs,
    order: HeadRanking | Sequence[Head],
    sizes: Sequence[int] | None = None,
    *,
    metric: LogitDifference | None = None,
    positions: Positions = "all",
    check: int = 0,
) -> Faithfulness:
    """The curves of keeping only the first k heads, and of removing only them.

    Args:
        model, pairs: whose heads, and what they answer.
        order: a ranking, or heads (layer, head), those that matter most first. Heads that it leaves out stay replaced
            in what is kept.
        sizes: numbers of heads k; by default 0, all, and up to 20 between, denser at few.
        metric: by default the difference of the logits of the clean and the corrupt answer.
        positions: where heads are replaced: "all", "answer", or the last m.
        check: as in :func:`interp.scan`.

    Returns:
        The curves [pair, k] in the metric's unit, with their areas.

    Raises:
        ValueError: pairs on which replacing all heads changes nothing, heads that are not there or named twice.

    Cost: about one pass for each pair, curve and k, sets joining at their first layer.
    Misleads: below 0 and above 1 are possible, as some heads interfere; the area weighs all sizes alike.
    Source: MIB (Mueller et al. 2025, arXiv 2504.13151), there over edges.
    """
    asked, heads = _asked(model, pairs, metric, positions, check), _order(order)
    n_heads = model.n_layers * model.n_heads
    sizes = _sizes(n_heads) if sizes is None else sorted({0, n_heads, *sizes})
    first = [_mask(model, heads[:k]) if k < n_heads else np.ones(asked.shape, bool) for k in sizes]
    values = patched_sets(asked, np.stack([*(~mask for mask in first), *first]))
    kept, removed = np.split(values.astype(np.float64), 2, axis=1)
    _require_effect(kept[:, -1], kept[:, 0])
    return Faithfulness(tuple(heads), tuple(sizes), kept, removed, kept[:, -1], kept[:, 0], n_heads)


@dataclass(frozen=True, eq=False)
class SetTest:
    """What a set of heads does, as shares of what all heads do together. ``necessity``: what is lost when it is
    replaced; ``sufficiency``: what is left when all others are. ``random``: both of random sets of the same layers;
    ``p``: the share of random sets that do as much, of both."""

    heads: tuple[Head, ...]
    necessity: Estimate
    sufficiency: Estimate
    random: pd.DataFrame
    p: dict[str, float]
    n: int

    __repr__ = brief

    def statement(self) -> list[str]:
        """Sentences, each with the mean of the random sets beside it."""
        named = ", ".join(head_label(*head) for head in self.heads[:8]) + (" ..." if len(self.heads) > 8 else "")
        said = [f"{len(self.heads)} heads: {named}."]
        for name, does in (("necessity", "What is lost without them"), ("sufficiency", "What is left with them alone")):
            share, p = getattr(self, name), self.p[name]
            if self.random.empty:
                said.append(f"{does}: {share:.0%} (no random sets of the same layers exist).")
                continue
            mean = round(float(self.random[name].mean()), 3) + 0.0  # no minus before a zero
            claim = Claim(does, share, null=mean, side="above", p=p, n=self.n, fewest=2, form=".0%")
            said.append(f"{claim.sentence()[:-1]}; {len(self.random)} random sets of the same layers: {mean:.0%}.")
        return said


@public
@one_at_a_time
def weigh_set(
    model: Model,
    pairs: PromptPairs,
    heads: Sequence[Head],
    *,
    n_random: int = 20,
    metric: LogitDifference | None = None,
    positions: Positions = "all",
    check: int = 0,
    seed: int = 0,
) -> SetTest:
    """Whether a set is necessary and sufficient, beside random sets with as many heads in each layer.

    Args:
        model, pairs, metric, positions, check: as in :func:`faithfulness`.
        heads: (layer, head), each once; neither none nor all of the model's.
        n_random: random sets.
        seed: of the random sets.

    Returns:
        Necessity and sufficiency as shares with 95 % intervals over pairs, and those of the random sets.

    Raises:
        ValueError: no heads, all heads, and pairs on which replacing all heads changes nothing.

    Cost: 2 (1 + n_random) branches for each pair, each a pass at most.
    Misleads: the p of few random sets can't be small.
    Source: ours.
    """
    asked, heads = _asked(model, pairs, metric, positions, check), sorted(set(map(tuple, heads)))
    n_heads = model.n_layers * model.n_heads
    if not heads or len(heads) == n_heads:
        raise ValueError(
            f"a set of {len(heads)} of {n_heads} heads was given; expected some heads, and not all of them."
        )
    others = random_sets(heads, model.n_heads, n_random, seed)
    masks = [_mask(model, one) for one in (heads, *others)]
    everything = np.ones(asked.shape, bool)
    sets = [~everything, everything, *masks, *(~mask for mask in masks)]
    whole, none, *values = patched_sets(asked, np.stack(sets)).astype(np.float64).T
    _require_effect(whole, none)
    lost, left = [whole - v for v in values[: len(masks)]], [v - none for v in values[len(masks) :]]
    shares = {
        name: [ratio_estimate(part, whole - none) for part in parts]
        for name, parts in (("necessity", lost), ("sufficiency", left))
    }
    random = pd.DataFrame({name: [share.value for share in of[1:]] for name, of in shares.items()})
    p = {
        name: (1 + int((random[name] >= of[0].value).sum())) / (1 + len(others)) if others else float("nan")
        for name, of in shares.items()
    }
    return SetTest(tuple(heads), shares["necessity"][0], shares["sufficiency"][0], random, p, len(pairs))


@public
@one_at_a_time
def minimal_set(
    model: Model,
    pairs: PromptPairs,
    order: HeadRanking | Sequence[Head],
    share: float = 0.95,
    *,
    metric: LogitDifference | None = None,
    positions: Positions = "all",
    one_by_one: int | None = None,
) -> tuple[tuple[Head, ...], float]:
    """The smallest set found that keeps a share of what the model does, and the share that it keeps.

    The first heads of ``order`` until the share is kept. Then, as long as one can go: each is left out alone, and those
    that cost least go together, as many as leave the share.

    Args:
        model, pairs, order, metric, positions: as in :func:`faithfulness`.
        share: of the difference between the whole model and all heads replaced.
        one_by_one: the most heads of which each is left out alone: a larger set stays as it is; None: any number.

    Returns:
        The heads (layer, head), and the share that they keep.

    Raises:
        ValueError: a share that is not between 0 and 1, or that all of ``order`` together do not keep.

    Cost for each pair: some 30 branches, then in each round (a few) one for each head that is left and some 20 more.
    Misleads: a set of the same size may exist with other heads; no smaller one is ruled out.
    Source: ours.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}; expected more than 0, and 1 at most.")
    asked, heads = _asked(model, pairs, metric, positions, 0), _order(order)
    kept = _kept_shares(asked)
    (most,) = kept([heads])
    if most < share:
        raise ValueError(f"the {len(heads)} heads given keep {most:.0%} together; {share:.0%} was asked for.")
    chosen = heads[: _least(lambda sizes: [s >= share for s in kept([heads[:k] for k in sizes])], len(heads))]
    while 1 < len(chosen) <= (len(heads) if one_by_one is None else one_by_one):
        alone = kept([[h for h in chosen if h != one] for one in chosen])
        cheapest = sorted(range(len(chosen)), key=lambda i: (-alone[i], -i))
        if alone[cheapest[0]] < share:
            break

        def without(n: int, chosen: Sequence[Head] = chosen, cheapest: Sequence[int] = cheapest) -> list[Head]:
            return [h for i, h in enumerate(chosen) if i not in cheapest[:n]]

        def too_many(sizes: Sequence[int], without: Callable[[int], list[Head]] = without) -> list[bool]:
            return [s < share for s in kept([without(n) for n in sizes])]

        chosen = without(max(1, _least(too_many, len(chosen)) - 1))
    return tuple(chosen), kept([chosen])[0]


def _least(holds: Callable[[Sequence[int]], Sequence[bool]], most: int, at_once: int = 16) -> int:
    """The least number from 1 to ``most`` that holds, where those above it do too; ``most`` if no smaller one was found
    to. Numbers are asked about several at a time."""
    fails, least = 0, most  # the largest that is known not to hold, the least that is known to
    while fails + 1 < least:
        between = np.linspace(fails + 1, least - 1, min(at_once, least - fails - 1))
        sizes = np.unique(between.round().astype(int)).tolist()
        found = dict(zip(sizes, holds(sizes), strict=True))
        least = min((k for k, held in found.items() if held), default=least)
        fails = max((k for k in sizes if k < least), default=fails)
    return least


def _kept_shares(asked: Asked) -> Callable[[Sequence[Sequence[Head]]], list[float]]:
    """Of sets of heads, the share that each keeps with all others replaced."""
    everything = np.ones(asked.shape, bool)
    whole, none = patched_sets(asked, np.stack([~everything, everything])).astype(np.float64).T
    _require_effect(whole, none)

    def kept(sets: Sequence[Sequence[Head]]) -> list[float]:
        values = patched_sets(asked, np.stack([~_mask(asked.model, heads) for heads in sets])).astype(np.float64)
        return ((values - none[:, None]).mean(0) / (whole - none).mean()).tolist()

    return kept


@public
@one_at_a_time
def only_together(
    model: Model,
    pairs: PromptPairs,
    heads: Sequence[Head],
    *,
    metric: LogitDifference | None = None,
    positions: Positions = "all",
) -> pd.DataFrame:
    """Redundancy: two heads replaced together, beside what each loses alone.

    One row for each two of ``heads``: first, second, alone (of the larger), together, and beyond, what both lose more
    than the sum of each alone, in the metric's unit, with its 95 % interval over pairs, the largest first (below 0: one
    needs the other). Costs K (K + 1) / 2 branches for each pair. Misleads: three heads that stand in for each other
    show in no two of them.
    """
    asked, heads = _asked(model, pairs, metric, positions, 0), sorted(set(map(tuple, heads)))
    two = list(combinations(range(len(heads)), 2))
    sets = [(), *((head,) for head in heads), *((heads[a], heads[b]) for a, b in two)]
    whole, *values = patched_sets(asked, np.stack([_mask(model, one) for one in sets])).astype(np.float64).T
    lost = whole - np.array(values)  # [set, pair]
    rows = []
    for (a, b), together in zip(two, lost[len(heads) :], strict=True):
        beyond = together - lost[a] - lost[b]
        low, high = mean_interval(beyond)
        row = {"first": head_label(*heads[a]), "second": head_label(*heads[b])}
        row |= {"alone": max(lost[a].mean(), lost[b].mean(), key=abs), "together": together.mean()}
        rows.append(row | Estimate(float(beyond.mean()), float(low), float(high)).columns("beyond"))
    columns = ["first", "second", "alone", "together", "beyond", "beyond_low", "beyond_high"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values("beyond", ascending=False, ignore_index=True)


def _asked(model: Model, pairs: PromptPairs, metric: LogitDifference | None, positions: Positions, check: int) -> Asked:
    used = varying_positions(model, [*pairs.clean, *pairs.corrupt]) if positions == "all" else positions
    return Asked(model, pairs, metric or default_metric(pairs.clean), used, check, 0)


def _order(order: HeadRanking | Sequence[Head]) -> list[Head]:
    if isinstance(order, HeadRanking):
        return order.select()
    heads = [(int(layer), int(head)) for layer, head in order]
    if not heads or len(set(heads)) < len(heads):
        raise ValueError(f"{len(heads)} heads, {len(set(heads))} different, were given; expected some, each once.")
    return heads


def _mask(model: Model, heads: Sequence[Head]) -> np.ndarray:
    mask = np.zeros((model.n_layers, model.n_heads), bool)
    for layer, head in heads:
        if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
            raise ValueError(
                f"{head_label(layer, head)} is out of range: {model.name} has layers 0..{model.n_layers - 1} and heads "
                f"0..{model.n_heads - 1}."
            )
        mask[layer, head] = True
    return mask


def _sizes(n_heads: int, most: int = 20) -> list[int]:
    """0, all, and numbers between them, denser at few."""
    return sorted({0, n_heads, *np.unique(np.geomspace(1, n_heads, most).round().astype(int)).tolist()})


def _require_effect(whole: np.ndarray, none: np.ndarray) -> None:
    if abs(float((whole - none).mean())) < 1e-6:
        raise ValueError(
            "with all heads replaced the answers stay as they are: there is nothing to share out. Vary them."
        )

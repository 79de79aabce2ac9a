"""The first heads of a ranking as a set: needed, enough, how few would do, and which of them matter only together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.circuits.drawn_sets import Head
from interp.circuits.faithful import (
    Faithfulness,
    SetTest,
    faithfulness,
    minimal_set,
    only_together,
    weigh_set,
)
from interp.door import public
from interp.door.brief import brief
from interp.figures import head_label
from interp.locating.asked import Positions
from interp.rankings import HeadRanking
from interp.statistics import UNKNOWN, Claim, Estimate

if TYPE_CHECKING:
    from interp.models import Model
    from interp.pairs import PromptPairs

SHARE = 0.95
"""Of what the model does, that the smallest set is to keep."""
SEARCHED = 5
"""Pairs on which the smallest set is looked for: it costs many branches."""
ONE_BY_ONE = 64
"""The most heads of it that are left out alone to make it smaller."""
TOGETHER = 6
"""First heads of which each two are replaced together."""


@dataclass(frozen=True, eq=False)
class FirstHeads:
    """``weighed``: the first heads beside random sets. ``curve``: of the whole order. ``smallest``: heads that keep
    ``SHARE`` on the ``searched`` first pairs, and ``kept``: what they keep on all. ``together``: of each two of the
    first few heads what both lose beyond each alone. ``on``: the pairs, in words."""

    weighed: SetTest
    curve: Faithfulness
    smallest: tuple[Head, ...]
    kept: Estimate
    searched: int
    together: pd.DataFrame
    on: str

    __repr__ = brief

    def statement(self) -> list[str]:
        """Sentences: the set beside random ones, the smallest set found, heads that matter only together."""
        first, *others = self.weighed.statement()
        return [f"As a set, on {self.on}: {first}", *others, self._of_smallest(), *self._of_two()]

    def _of_smallest(self) -> str:
        if len(self.smallest) == self.curve.n_heads:
            return f"No smaller set than all {self.curve.n_heads} heads was found that keeps {SHARE:.0%}."
        named = ", ".join(head_label(*head) for head in self.smallest[:8]) + (" ..." if len(self.smallest) > 8 else "")
        found = f"{len(self.smallest)} head{'s' * (len(self.smallest) != 1)} ({named})"
        of = f"The smallest set found that keeps {SHARE:.0%} on {self.searched} of the pairs has {found}"
        if self.searched == self.weighed.n:
            return f"{of}, and keeps {self.kept:.0%}."
        return f"{of}; on all {self.weighed.n} it keeps {self.kept:.0%}."

    def _of_two(self) -> list[str]:
        """The two that lose most beyond the sum of each alone, where that is shown."""
        if self.together.empty:
            return []
        row = self.together.iloc[0]
        beyond = Claim("", Estimate.from_row(row, "beyond"), side="above", n=self.weighed.n)
        if not beyond.is_shown:
            return []
        return [
            f"{row['first']} and {row['second']} stand in for each other: replaced together they lose "
            f"{beyond.estimate:.2g} more than the sum of each alone."
        ]

    def record(self) -> dict[str, Any]:
        """For a provenance: ``said``, ``curve`` and ``together`` in rows, ``smallest`` by label, ``on``."""
        rows = {"curve": self.curve.to_frame(), "together": self.together}
        found = {name: json.loads(frame.to_json(orient="records")) for name, frame in rows.items()}
        found |= {"cpr": self.curve.cpr, "cmd": self.curve.cmd, "k": len(self.weighed.heads)}
        named = [head_label(*head) for head in self.smallest]
        return {"said": self.statement(), "on": self.on, "smallest": named, **found}


@public
def weigh_first(
    model: Model,
    pairs: PromptPairs,
    ranking: HeadRanking,
    k: int,
    *,
    positions: Positions = "all",
    on: str = "",
    seed: int = 0,
) -> FirstHeads:
    """The first k heads of a ranking as a set, on pairs: what is lost without them and left with them alone beside
    random sets of the same layers, the curve of all heads in their order, the smallest set, redundancy.

    Args:
        model, pairs: whose heads, and what they answer.
        ranking: of this model's heads.
        k: how many are the set; fewer than all.
        positions: where heads are replaced by what they give on the corrupt prompt: "all", "answer", or the last m.
        on: the pairs, in words; by default how many.
        seed: of the random sets.

    Returns:
        All of it, with sentences and a record for a report.

    Raises:
        ValueError: no heads or all, and pairs on which replacing all heads changes nothing.

    Cost: for each pair some 110 branches, each a pass at most; the smallest set, on five pairs, some 50, and 200 more
    where it begins with 64 heads at most (:func:`passes_of_first`).
    Misleads: on the pairs that made the ranking its first heads look better than they are.
    Source: ours; the curve after MIB (arXiv 2504.13151).
    """
    weighed = weigh_set(model, pairs, ranking.select(top=k), positions=positions, seed=seed)
    curve = faithfulness(model, pairs, ranking, positions=positions)
    few = pairs[:SEARCHED]
    smallest, _ = minimal_set(model, few, ranking, SHARE, positions=positions, one_by_one=ONE_BY_ONE)
    whole = len(smallest) == model.n_layers * model.n_heads
    kept = UNKNOWN if whole else weigh_set(model, pairs, smallest, n_random=0, positions=positions).sufficiency
    together = only_together(model, pairs, ranking.select(top=min(k, TOGETHER)), positions=positions)
    return FirstHeads(weighed, curve, smallest, kept, len(few), together, on or f"{len(pairs)} pairs")


def passes_of_first(model: Model, n_pairs: int, share: float = 1.0) -> float:
    """About what :func:`weigh_first` costs, in passes over each pair's clean prompt.

    Args:
        model: whose heads.
        n_pairs: how many pairs.
        share: of the positions at which heads are replaced.

    Returns:
        Passes for each pair, on average.
    """
    searched = min(1.0, SEARCHED / n_pairs) * (50 + 3 * min(ONE_BY_ONE, model.n_layers * model.n_heads))
    return 10 + share * (110 + searched) / 2

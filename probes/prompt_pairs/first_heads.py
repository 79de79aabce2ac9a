"""The first heads of a ranking as a set, for the reports of studies: weighed on pairs, or a sentence why not."""

from __future__ import annotations

from typing import Any

from interp.circuits import weigh_first
from interp.models import Model
from interp.rankings import HeadRanking
from interp.statistics import too_few
from probes.prompt_pairs.building import BuiltPairs


def require_sets(model: Model, sets: int) -> None:
    """Raise ``ValueError`` unless ``sets`` is 0 or a number of heads below all."""
    if not 0 <= sets < model.n_layers * model.n_heads:
        raise ValueError(f"sets={sets}; expected a number of heads below all {model.n_layers * model.n_heads}, or 0.")


def record_of_sets(
    model: Model,
    ranking: HeadRanking,
    built: BuiltPairs,
    k: int,
    *,
    positions: str | int = "all",
    questions: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """The provenance of a report in which the first k heads of a ranking were weighed as a set.

    Args:
        model, ranking: whose heads.
        built: the pairs, with what was left out.
        k: how many heads; 0: none, and nothing is weighed.
        positions: where heads are replaced.
        questions: whether the pairs are questions, each beside one with another answer.
        seed: of the random sets.

    Returns:
        ``sets``: :meth:`interp.circuits.FirstHeads.record`; of a ranking that has no order, ``said`` alone. Empty
        where k is 0.
    """
    if not k:
        return {}
    if ranking.is_too_few:
        return {"sets": {"said": [f"The first heads are not weighed as a set: {too_few(ranking.n_examples)}."]}}
    ids = {p.id for p in built.pairs.clean}
    ranked = " that made the ranking" if ids <= set(ranking.example_ids) else ""
    on = f"{len(built.pairs)} pairs{ranked}"
    if questions:
        left_out = sum(map(len, built.left_out.values()))
        beside = f"; {left_out} more are not told apart" if left_out else ""
        on = f"{len(built.pairs)} questions{ranked} (each beside one of the other answer{beside})"
    return {"sets": weigh_first(model, built.pairs, ranking, k, positions=positions, on=on, seed=seed).record()}

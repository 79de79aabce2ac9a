"""Statistics of sets of heads: permutations of a measured change, and rank correlations over heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.statistics import CONFIDENCE, N_BOOTSTRAP, SEED
from interp.statistics.rank_agreement import correlation_by_row, ranks


def permutation_p(change: float, random: Sequence[float], centred: bool = False) -> float:
    """(1 + c) / (1 + n): c of the n random changes are at least as large in size. NaN without any.

    ``centred``: at least as far from the mean of all n + 1, which asks whether this change is unlike random ones where
    these are not around zero (zeroing any heads does harm, say)."""
    if not len(random):
        return np.nan
    middle = np.mean([change, *random]) if centred else 0.0
    at_least = np.abs(np.asarray(random) - middle) >= abs(change - middle) - 1e-9  # equal counts of answers are a tie
    return float((1 + at_least.sum()) / (1 + len(random)))


def spearman_over_heads(
    scores: Mapping[str, Float[np.ndarray, "layer head"]], effect: Float[np.ndarray, "layer head"]
) -> list[dict[str, Any]]:
    """Spearman's correlation of each measure with the effect, then the differences of each two, with intervals from
    whole layers drawn with replacement."""
    n_layers = len(effect)
    draws = np.random.default_rng(SEED).integers(0, n_layers, (N_BOOTSTRAP, n_layers))
    draws = np.concatenate([np.arange(n_layers)[None], draws])  # the first is the observation

    def ranked(values: np.ndarray) -> np.ndarray:  # [draw, head]
        return ranks(values[draws].reshape(len(draws), -1))

    of_effect = ranked(effect)
    found = {by: correlation_by_row(ranked(score), of_effect) for by, score in scores.items()}
    found |= {f"{a} minus {b}": found[a] - found[b] for a, b in combinations(scores, 2)}
    tail = (1 - CONFIDENCE) / 2
    rows = []
    for measure, values in found.items():
        low, high = np.nanquantile(values[1:], [tail, 1 - tail]) if np.isfinite(values).any() else (np.nan, np.nan)
        rows.append({"measure": measure, "spearman": float(values[0]), "ci_low": low, "ci_high": high})
    return rows

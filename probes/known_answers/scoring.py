"""How well a ranking finds the heads that are there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

FLOOR = 0.01
"""Scores below this share of the largest count as ties: rounding is no order."""


def auroc(scores: Float[np.ndarray, " head"], truth: Bool[np.ndarray, " head"], floor: float = FLOOR) -> float:
    """The chance that a head that matters is ranked before one that does not; a tie counts half. NaN without both."""
    scores = above_floor(scores, floor)
    yes, no = scores[truth], scores[~truth]
    if not len(yes) or not len(no):
        return float("nan")
    return float((yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2)


def precision(
    scores: Float[np.ndarray, " head"], truth: Bool[np.ndarray, " head"], k: int | None = None, floor: float = FLOOR
) -> float:
    """The share of heads that matter among the first k (by default as many as there are); of tied heads at the border,
    what a random order of them gives on average."""
    scores, k = above_floor(scores, floor), int(truth.sum()) if k is None else k
    border = np.sort(scores)[::-1][k - 1]
    sure, tied = scores > border, scores == border
    left = k - int(sure.sum())
    return float((truth[sure].sum() + left * truth[tied].mean()) / k)


def above_floor(scores: Float[np.ndarray, " head"], floor: float) -> Float[np.ndarray, " head"]:
    """Scores below the floor set to 0."""
    scores = np.asarray(scores, np.float64)
    return np.where(scores < floor * scores.max(), 0.0, scores)


def mean_interval(by_model: Sequence[Sequence[float]], n: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """The mean over models of each model's mean over sets of pairs, with a 95 % interval: models are drawn again, and
    within each its sets of pairs."""
    rng, groups = np.random.default_rng(seed), [np.asarray(values, float) for values in by_model]
    means = np.full(n, np.nan)
    for i in range(n):
        drawn = rng.integers(len(groups), size=len(groups))
        means[i] = np.mean([groups[g][rng.integers(len(groups[g]), size=len(groups[g]))].mean() for g in drawn])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean([group.mean() for group in groups])), float(low), float(high)

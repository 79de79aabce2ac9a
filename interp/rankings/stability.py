"""How much of a ranking would be there again: heads by consensus over resamples, and what moves their ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy

from interp.door import public
from interp.rankings.ranking import HeadRanking
from interp.statistics import SEED

CORE, NOISE = 0.95, 0.05
"""Shares of resamples: a head is core from the first on, noise below the second, contingent between."""


@public
def consensus(ranking: HeadRanking, k: int = 10, n_resamples: int = 500, seed: int = SEED) -> pd.DataFrame:
    """In how many bootstrap resamples of the examples a head is among the first k: core (95 % or more), contingent, or
    noise (below 5 %), after the consensus over resamples of circuits (arXiv 2603.00523).

    Args:
        ranking: scores of single examples.
        k: how many are the first.
        n_resamples: draws of the examples.
        seed: of the draws.

    Returns:
        One row for each head that was among the first k once, best first: layer, head, label, share, kind.

    Raises:
        ValueError: fewer than four examples, or a k that the ranking does not have.

    Cost: [500, 100, 300] numbers take a second.
    Misleads: resamples of prompts of one template differ in the template's blanks alone.
    """
    scores = ranking.scores.reshape(ranking.n_examples, -1).astype(np.float64)
    n_heads = scores.shape[1]
    if ranking.n_examples < 4:
        raise ValueError(f"the ranking has {ranking.n_examples} examples; resampling them needs four at least.")
    if not 1 <= k <= n_heads:
        raise ValueError(f"k={k}; expected 1 to {n_heads}.")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(ranking.n_examples, np.full(ranking.n_examples, 1 / ranking.n_examples), size=n_resamples)
    means = drawn @ scores  # [resample, head]
    first = np.argsort(-means, axis=1, kind="stable")[:, :k]
    shares = np.bincount(first.ravel(), minlength=n_heads) / n_resamples
    frame = ranking.to_frame()[["layer", "head", "label"]]
    frame["share"] = shares[frame["layer"] * ranking.n_heads + frame["head"]]
    frame["kind"] = np.select([frame["share"] >= CORE, frame["share"] < NOISE], ["core", "noise"], "contingent")
    return frame[frame["share"] > 0].sort_values("share", ascending=False, kind="stable", ignore_index=True)


@public
def sources_of_variance(rankings: Sequence[tuple[Mapping[str, str], HeadRanking]]) -> pd.DataFrame:
    """How much of the variance of the heads' ranks goes with each factor in which rankings of one model differ: inputs,
    wording, ablation, seed (after arXiv 2510.00845).

    Args:
        rankings: (levels of the factors by name, ranking), every factor named in each.

    Returns:
        One row for each factor: share of the variance within heads that lies between its levels; then "rest", what no
        factor explains alone.

    Raises:
        ValueError: fewer than two rankings, rankings of other shapes, and factors that are not named in all.

    Misleads: where factors do not vary independently, their shares overlap.
    """
    levels, ranked = [dict(of) for of, _ in rankings], [ranking for _, ranking in rankings]
    shapes = {ranking.scores.shape[1:] for ranking in ranked}
    names = {tuple(sorted(of)) for of in levels}
    if len(ranked) < 2 or len(shapes) != 1 or len(names) != 1:
        raise ValueError(
            f"{len(ranked)} rankings of {len(shapes)} shapes, with {len(names)} lists of factors, were given; expected "
            "two at least, of one shape, with the same factors."
        )
    ranks = np.stack([scipy.stats.rankdata(-ranking.scores.mean(0).ravel()) for ranking in ranked])
    apart = ranks - ranks.mean(0)
    total = float((apart**2).sum())
    rows, explained = [], 0.0
    for factor in next(iter(names)):
        of = np.array([level[factor] for level in levels])
        between = sum(float((apart[of == one].mean(0) ** 2).sum()) * int((of == one).sum()) for one in np.unique(of))
        share = between / total if total else 0.0
        explained += share
        rows.append({"factor": factor, "levels": len(np.unique(of)), "share": share})
    rows.append({"factor": "rest", "levels": len(ranked), "share": max(0.0, 1 - explained) if total else 0.0})
    return pd.DataFrame(rows)

"""Consensus over resamples, and what moves ranks."""

from __future__ import annotations

import numpy as np
import pytest

from interp.rankings import HeadRanking, consensus, sources_of_variance


def ranking(scores):
    return HeadRanking(
        "effect", {"effect": np.asarray(scores, np.float32)}, tuple(map(str, range(len(scores)))), {}, {}
    )


def test_heads_are_core_contingent_or_noise():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 0.1, size=(40, 2, 5))
    scores[:, 0, 0] += 5
    scores[:, 1, 1] += 3
    found = consensus(ranking(scores), k=3).set_index("label")
    assert list(found.kind[:2]) == ["core", "core"] and {"L0H0", "L1H1"} == set(found.index[:2])
    assert set(found.kind[2:]) <= {"contingent", "noise"} and found.share.sum() == pytest.approx(3)


def test_variance_goes_to_the_factor_that_moves_ranks():
    rng = np.random.default_rng(1)
    base = {"zero": rng.normal(size=(1, 4, 5)), "mean": rng.normal(size=(1, 4, 5))}
    rankings = [
        ({"ablation": ablation, "seed": str(seed)}, ranking(scores + rng.normal(0, 0.01, size=(5, 4, 5))))
        for ablation, scores in base.items()
        for seed in range(3)
    ]
    shares = sources_of_variance(rankings).set_index("factor").share
    assert shares["ablation"] > 0.95 and shares["seed"] < 0.05 and shares.sum() == pytest.approx(1)


def test_what_says_nothing_is_refused():
    with pytest.raises(ValueError, match="needs four"):
        consensus(ranking(np.ones((2, 2, 2))), k=1)
    with pytest.raises(ValueError, match="k=9"):
        consensus(ranking(np.ones((5, 2, 2))), k=9)
    with pytest.raises(ValueError, match="two at least"):
        sources_of_variance([({"seed": "0"}, ranking(np.ones((5, 2, 2))))])

"""Two rankings of the same heads: by hand, against slow twins, planted agreement and disagreement, and calibrated."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from interp import statistics
from interp.rankings.comparison import compare, moved_heads
from interp.rankings.ranking import HeadRanking
from interp.rankings.resampled import Resampled
from interp.statistics import rank_agreement

SHAPE = (6, 5)


def make(
    scores: np.ndarray, ids: tuple[str, ...] | None = None, name: str = "m", score: str = "effect", **provenance
) -> HeadRanking:
    ids = tuple(f"e{i}" for i in range(len(scores))) if ids is None else ids
    return HeadRanking(score, {score: scores}, ids, {}, {"model": {"name": name}, **provenance})


def sample(seed: int, base: np.ndarray | float = 0.0, n: int = 30, noise: float = 1.0) -> np.ndarray:
    return base + noise * np.random.default_rng(seed).normal(size=(n, *SHAPE))


def base(seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE)


# --- statistics of two orders


def test_ranks_and_correlation_by_hand():
    np.testing.assert_array_equal(rank_agreement.ranks(np.array([0.1, 3.0, -2.0])), [2, 1, 3])
    np.testing.assert_array_equal(rank_agreement.ranks(np.array([[1.0, 1.0, 5.0]])), [[2.5, 2.5, 1]])
    rows = rank_agreement.correlation_by_row(np.array([[1.0, 2, 3], [1, 2, 3], [4, 4, 4]]), np.array([[2.0, 4, 6]]))
    np.testing.assert_allclose(rows, [1, 1, np.nan])
    a, b = np.random.default_rng(0).normal(size=(2, 4, 7))
    wanted = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_agreement.correlation_by_row(a, b), wanted)


def test_chance_of_rank_biased_overlap_is_that_of_shuffled_lists_and_its_formula():
    n, rng = 8, np.random.default_rng(statistics.SEED)
    found = rank_agreement.rank_biased_overlap_by_chance(n, n_permutations=200)
    slow = [statistics.rank_biased_overlap(range(n), np.argsort(rng.permutation(n)).tolist()) for _ in range(200)]
    np.testing.assert_allclose(found, slow)
    p, depth = 0.9, np.arange(1, 31)  # share of the first d: d / n on average
    expected = p**30 + (1 - p) / p * (p**depth * depth / 30).sum()
    by_chance = rank_agreement.rank_biased_overlap_by_chance(30)
    assert by_chance.mean() == pytest.approx(expected, abs=4 * by_chance.std() / np.sqrt(len(by_chance)))
    with pytest.raises(ValueError, match="read-only"):
        by_chance[0] = 1


def test_examples_of_both_are_drawn_together_and_others_apart():
    x = np.random.default_rng(0).normal(size=(12, 3))
    ids = [f"e{i}" for i in range(12)]
    order = np.random.default_rng(1).permutation(12)
    a, b = rank_agreement.paired_bootstrap_means(x, x[order], ids, [ids[i] for i in order], n_resamples=50)
    np.testing.assert_allclose(a, b)  # matched by id, whatever their order
    a, b = rank_agreement.paired_bootstrap_means(x, x, ids, [f"other {i}" for i in ids], n_resamples=500)
    assert abs(np.corrcoef(a[:, 0], b[:, 0])[0, 1]) < 0.15
    assert a[:, 0].std() == pytest.approx(x[:, 0].std() / np.sqrt(12), rel=0.12)
    half = [*ids[:6], *[f"other {i}" for i in range(6)]]
    a, b = rank_agreement.paired_bootstrap_means(x, x, ids, half, n_resamples=500)
    assert 0.2 < np.corrcoef(a[:, 0], b[:, 0])[0, 1] < 0.9
    repeated = rank_agreement.paired_bootstrap_means(x[[0, 0]], x[[0, 1]], ["a", "a"], ["a", "b"], n_resamples=9)
    np.testing.assert_allclose(repeated[0], np.tile(x[0], (9, 1)))  # rows of one example are one


def test_interval_is_fishers_around_the_value():
    draws = np.tanh(np.array([-1.0, 1.0] * 100))  # deviation 1 in Fisher's z
    found = rank_agreement.around(0.5, draws)
    half = stats.norm.ppf(0.975)
    assert found == pytest.approx((0.5, np.tanh(np.arctanh(0.5) - half), np.tanh(np.arctanh(0.5) + half)))
    assert rank_agreement.around(1.0, np.ones(10)) == pytest.approx((1, 1, 1), abs=1e-9)
    assert np.isnan(rank_agreement.around(0.5, np.full(10, np.nan))[1:]).all()
    assert np.isnan(rank_agreement.around(np.nan, draws)).all()


# --- compare


def test_planted_agreement_is_found_and_held_against_its_ceiling():
    a, b = make(sample(0, base(), noise=0.3)), make(sample(1, base(), noise=0.3), ids=tuple(map(str, range(30))))
    found = compare(a, b, k=5)
    assert found.spearman_low <= found.spearman <= found.spearman_high and found.spearman > 0.97
    assert found.ceiling == pytest.approx(np.sqrt(a.reliability.spearman_brown * b.reliability.spearman_brown))
    assert found.spearman == pytest.approx(found.ceiling, abs=0.03)
    assert found.overlap.count >= 4 and found.rbo_p < 0.01 and found.n_shared == 0
    strangers = compare(a, make(sample(2, base(7), noise=0.3)), k=5)
    assert strangers.spearman < 0.5 and strangers.rbo_p > 0.05 and strangers.n_shared == 30
    assert strangers.rbo_expected == pytest.approx(found.rbo_expected)
    row = found.to_frame().iloc[0]
    assert row["spearman_low"] == found.spearman_low and row["ceiling"] == found.ceiling and row["n"] == 30


def test_noise_has_no_ceiling_and_one_example_no_interval():
    assert np.isnan(replace(compare(make(sample(0)), make(sample(1))), reliability_a=-0.1).ceiling)
    single = compare(make(sample(0, n=1)), make(sample(1, n=1)))
    assert np.isnan([single.spearman_low, single.spearman_high, single.ceiling]).all()
    flat = compare(make(np.zeros((5, *SHAPE))), make(sample(1)))
    assert np.isnan([flat.spearman, flat.spearman_low]).all()


@pytest.mark.parametrize(("noise", "rho"), [(1.0, 0.8), (2.0, 0.8)])
def test_interval_covers_what_other_examples_give(noise, rho):
    rng = np.random.default_rng(0)
    first, n, n_heads = rng.normal(size=60), 24, 60
    second = rho * first + np.sqrt(1 - rho**2) * rng.normal(size=60)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        return tuple(x + noise * rng.normal(size=(n, n_heads)) for x in (first, second))

    def spearman(a: np.ndarray, b: np.ndarray) -> float:
        return float(stats.spearmanr(a.mean(axis=0), b.mean(axis=0)).statistic)

    usual = np.mean([spearman(*draw()) for _ in range(300)])
    ids = [[f"{side}{i}" for i in range(n)] for side in "ab"]
    covered = 0
    for _ in range(60):
        a, b = draw()
        means = rank_agreement.paired_bootstrap_means(a, b, *ids, n_resamples=200)
        draws = rank_agreement.correlation_by_row(*map(rank_agreement.ranks, means))
        _, low, high = rank_agreement.around(spearman(a, b), draws)
        covered += low <= usual <= high
    assert covered >= 49  # of 60; 57 expected, and 49 or fewer have p below 1e-3 at 95 %


# --- moved heads


def test_moved_heads_by_hand():
    a = make(np.tile([[3.0, 2.0], [1.0, 0.0]], (4, 1, 1)))
    b = make(np.tile([[3.0, 0.5], [1.0, 2.0]], (4, 1, 1)))
    frame = moved_heads(a, b)
    assert frame["label"].tolist() == ["L0H1", "L1H1", "L0H0", "L1H0"]
    assert frame["rank_a"].tolist() == [2, 4, 1, 3] and frame["rank_b"].tolist() == [4, 2, 1, 3]
    assert frame["change"].tolist() == [2, -2, 0, 0]
    assert frame["moved"].tolist() == ["down", "up", "unclear", "unclear"]
    assert (frame["change_low"] == frame["change"]).all() and frame["score_b"].tolist() == [0.5, 2.0, 3.0, 1.0]
    assert frame["q"].tolist() == pytest.approx([1 / 2001, 1 / 2001, 1, 1])


def test_a_planted_move_is_found_first():
    moved = base().copy()
    best = np.unravel_index(moved.argmax(), SHAPE)
    moved[best] = -4.0
    frame = moved_heads(make(sample(0, base(), noise=0.3)), make(sample(1, moved, noise=0.3)))
    top = frame.iloc[0]
    assert top["label"] == f"L{best[0]}H{best[1]}"
    assert (top["rank_a"], top["rank_b"], top["moved"]) == (1, 30, "down") and top["q"] < 0.001
    assert top["change_low"] > 20


def test_two_samples_of_one_order_have_few_moved_heads():
    wrong = 0
    for seed in range(20):
        a, b = (make(sample(2 * seed + i, base(seed), n=24)) for i in (0, 1))
        wrong += (moved_heads(a, b)["moved"] != "unclear").any()
    assert wrong <= 5  # of 20; 1 is expected at a false discovery rate of 5 %


def test_moved_heads_refuses_other_shapes_and_says_what_does_it():
    with pytest.raises(
        ValueError, match=r"b 2 layers of 5 heads; expected .* `interp.compare_rankings` compares others"
    ):
        moved_heads(make(sample(0)), make(sample(0)[:, :2]))


@pytest.mark.parametrize("ids", ["the same", "other order", "others", "a name twice"])
def test_draws_that_are_kept_are_those_of_each_pair(ids):
    """Whichever two rankings are compared, and in whatever order: what the pair alone would be given."""
    rng = np.random.default_rng(3)
    names = {"the same": "abcdef", "other order": "fedcba", "others": "uvwxyz", "a name twice": "abcdee"}[ids]
    rankings = [
        HeadRanking("s", {"s": rng.normal(size=(6, 2, 3)).round(1)}, tuple(of), {}, {})
        for of in ("abcdef", names, names)
    ]
    resampled = Resampled()
    for a, b in itertools.permutations(rankings, 2):
        alone = rank_agreement.paired_bootstrap_means(a.scores, b.scores, a.example_ids, b.example_ids)
        for kept, want in zip(resampled.means(a, b), alone, strict=True):
            np.testing.assert_allclose(kept, want, rtol=0, atol=1e-12)
        for kept, want in zip(resampled.ranks(a, b), resampled.means(a, b), strict=True):
            np.testing.assert_array_equal(kept, stats.rankdata(-want, axis=-1))


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [1.0, 1.0, 2.0], [np.nan, 1.0, 2.0], [], [5.0]])
def test_ranks_are_those_of_scipy(values):
    for shaped in (np.array(values), np.array([values, values[::-1]])):
        np.testing.assert_array_equal(rank_agreement.ranks(shaped), stats.rankdata(-shaped, axis=-1))

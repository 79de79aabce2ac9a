"""Statistics of per-example scores: laws, slow twins, hand-computed arrays."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from interp.statistics.estimates import (
    benjamini_hochberg,
    bootstrap_interval,
    mean_interval,
    paired_share_change,
    rank_biased_overlap,
    sign_flip_p,
    split_half,
    top_k_overlap,
    wilson_share,
)


@pytest.fixture(scope="module")
def null_scores() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 20, 15)).astype(np.float32)


def test_interval_agrees_with_a_plain_loop():
    scores = np.random.default_rng(1).exponential(size=(30, 2, 3))
    low, high = mean_interval(scores, n_resamples=40_000)
    rng = np.random.default_rng(99)
    means = np.array([scores[rng.integers(0, 30, 30)].mean(axis=0) for _ in range(40_000)])
    slow_low, slow_high = np.percentile(means, [2.5, 97.5], axis=0)
    # Monte-Carlo error of a 2.5 % quantile: sqrt(0.025 * 0.975 / 40000) / normal density at 1.96 = 0.0134 sd
    tolerance = 4 * np.sqrt(2) * 0.0134 * means.std(axis=0).max()
    np.testing.assert_allclose(low, slow_low, atol=tolerance)
    np.testing.assert_allclose(high, slow_high, atol=tolerance)


def test_interval_covers_the_true_mean_about_as_often_as_it_says(null_scores):
    low, high = mean_interval(null_scores, confidence=0.9)
    assert 0.83 < ((low < 0) & (high > 0)).mean() < 0.94


def test_interval_laws():
    scores = np.random.default_rng(2).normal(size=(25, 4))
    low, high = mean_interval(scores)
    assert (low < scores.mean(axis=0)).all() and (scores.mean(axis=0) < high).all()
    mirrored_low, mirrored_high = mean_interval(-scores)
    np.testing.assert_allclose(mirrored_low, -high, atol=1e-12)
    np.testing.assert_allclose(mirrored_high, -low, atol=1e-12)
    np.testing.assert_allclose(mean_interval(scores + 5.0).low, low + 5.0)
    wide = mean_interval(scores, confidence=0.99)
    assert (wide.low < low).all() and (wide.high > high).all()


def test_interval_of_too_little_or_broken_data_is_nan():
    assert np.isnan(mean_interval(np.ones((1, 2))).low).all()
    scores = np.ones((5, 2))
    scores[3, 1] = np.nan
    low, high = mean_interval(scores)
    assert low[0] == high[0] == 1.0 and np.isnan(low[1])
    with pytest.raises(ValueError, match=r"confidence is 95; expected a share between 0 and 1"):
        mean_interval(scores, confidence=95)


@pytest.mark.parametrize("n", [2, 3, 7, 10])
def test_sign_flip_p_is_exact_when_all_flips_fit(n):
    scores = np.random.default_rng(n).normal(0.4, 1.0, size=(n, 5)).astype(np.float32).astype(np.float64)
    flipped = np.array([np.array(signs) @ scores for signs in product([1, -1], repeat=n)])  # [2^n, head]
    observed, slack = scores.sum(axis=0), 1e-9
    tails = np.minimum((flipped >= observed - slack).mean(axis=0), (flipped <= observed + slack).mean(axis=0))
    np.testing.assert_allclose(sign_flip_p(scores), np.minimum(2 * tails, 1.0))


def test_sign_flip_p_by_hand():
    # 1 of the 8 flips of (1, 2, 3) is as large as the observed sum: p = 2 / 8
    assert sign_flip_p(np.array([[1.0], [2.0], [3.0]])) == pytest.approx([0.25])


def test_sign_flip_p_is_uniform_under_the_null_and_small_for_a_planted_head(null_scores):
    scores = null_scores.copy()
    scores[:, 7, 3] += 1.0
    p = sign_flip_p(scores)
    null = np.delete(p.ravel(), 7 * 15 + 3)
    assert p[7, 3] == pytest.approx(2 / 10000)
    for level in (0.05, 0.25, 0.5, 0.75):
        assert abs((null <= level).mean() - level) < 3.5 * np.sqrt(level * (1 - level) / null.size)


def test_sign_flip_p_laws(null_scores):
    p = sign_flip_p(null_scores[:, :2])
    np.testing.assert_array_equal(p, sign_flip_p(1000 * null_scores[:, :2]))
    np.testing.assert_array_equal(p, sign_flip_p(null_scores[:, :2]))
    np.testing.assert_allclose(p, sign_flip_p(-null_scores[:, :2]))
    assert not np.array_equal(p, sign_flip_p(null_scores[:, :2], seed=1))
    assert (sign_flip_p(np.zeros((12, 3))) == 1).all() and (sign_flip_p(np.zeros((40, 3))) == 1).all()
    assert sign_flip_p(np.ones((1, 2))).tolist() == [1.0, 1.0]
    assert np.isnan(sign_flip_p(np.full((5, 1), np.nan))).all()


def test_equal_scores_make_exact_ties_whatever_their_rounding():
    # sums of 0.1, 0.2, 0.3 depend on the order of addition in floating point; p must not
    scores = np.array([[0.1, 0.3], [0.2, 0.2], [0.3, 0.1], [0.1, 0.1], [0.1, 0.1]])
    p = sign_flip_p(scores)
    assert p[0] == p[1] == 2 / 32


def test_benjamini_hochberg_by_hand():
    # m = 4, sorted p j-th: 4*0.01/1 = 0.04, 4*0.02/2 = 0.04, 4*0.03/3 = 0.04, 4*0.5/4 = 0.5
    q = benjamini_hochberg(np.array([[0.5, 0.01], [0.03, 0.02]]))
    np.testing.assert_allclose(q, [[0.5, 0.04], [0.04, 0.04]])
    q = benjamini_hochberg(np.array([np.nan, 0.01, 0.04]))
    assert np.isnan(q[0])
    np.testing.assert_allclose(q[1:], [0.02, 0.04])  # NaN does not count as a test
    assert np.isnan(benjamini_hochberg(np.array([np.nan]))).all()


def test_split_half_of_a_clear_order_and_of_noise(null_scores):
    clear = split_half(null_scores + 10 * np.arange(300).reshape(20, 15))
    assert clear.mean > 0.999 and clear.low <= clear.mean <= clear.high
    assert clear.spearman_brown == pytest.approx(2 * clear.mean / (1 + clear.mean))
    noise = split_half(null_scores)
    assert abs(noise.mean) < 0.15
    assert noise == split_half(null_scores)
    assert noise != split_half(null_scores, seed=1)
    assert all(np.isnan(split_half(null_scores[:3])))
    assert all(np.isnan(split_half(np.ones((10, 4)))))


def test_rank_biased_overlap_by_hand():
    # shares in common at depth 1, 2, 3: 0, 1, 1; (0.1 / 0.9) (0.81 + 0.729) + 0.729 = 0.9
    assert rank_biased_overlap("abc", "bac") == pytest.approx(0.9)
    # the example of Webber et al. (2010): shares in common at depth 1..7
    shares = [0, 0, 2 / 3, 2 / 4, 2 / 5, 2 / 6, 2 / 7]
    expected = 2 / 7 * 0.9**7 + 0.1 / 0.9 * sum(share * 0.9**d for d, share in enumerate(shares, start=1))
    assert rank_biased_overlap("abcdefg", "zcavwxy") == pytest.approx(expected)


def test_rank_biased_overlap_laws():
    items = list(range(50))
    shuffled = np.random.default_rng(0).permutation(50).tolist()
    assert rank_biased_overlap(items, items) == pytest.approx(1.0)
    assert rank_biased_overlap("ab", "cd") == 0.0
    assert rank_biased_overlap(items, shuffled) == pytest.approx(rank_biased_overlap(shuffled, items))
    top_swapped, end_swapped = [1, 0, *items[2:]], [*items[:-2], 49, 48]
    assert rank_biased_overlap(items, top_swapped) < rank_biased_overlap(items, end_swapped) < 1
    with pytest.raises(ValueError, match="names an item twice"):
        rank_biased_overlap("aab", "abc")
    with pytest.raises(ValueError, match="have 2 and 3 items; expected one length"):
        rank_biased_overlap("ab", "abc")
    with pytest.raises(ValueError, match="expected a persistence between 0 and 1"):
        rank_biased_overlap("ab", "ab", p=1.0)


def test_top_k_overlap_by_hand():
    # 2 of 4 items each: P(both the same 2) = 1 / 6, P(at least 1) = 5 / 6
    overlap = top_k_overlap("abcd", "bacd", k=2, population=4)
    assert overlap == (2, 1.0, 1.0, pytest.approx(1 / 6))
    assert top_k_overlap("abcd", "acbd", k=2, population=4).p == pytest.approx(5 / 6)
    with pytest.raises(ValueError, match="k is 5; expected 1 to 4"):
        top_k_overlap("abcd", "bacd", k=5, population=4)


def test_a_single_number_is_refused():
    with pytest.raises(ValueError, match="expected an array with the examples on axis 0"):
        mean_interval(np.array(1.0))


def test_bootstrap_of_a_mean_is_the_interval_of_the_mean():
    scores = np.random.default_rng(4).exponential(size=(50, 3))
    low, high = bootstrap_interval(lambda x: x.mean(axis=0), scores, n_resamples=4000)
    one_low, one_high = mean_interval(scores, n_resamples=4000)
    spread = scores.std(axis=0).max() / np.sqrt(50)
    np.testing.assert_allclose(low, one_low, atol=0.2 * spread)
    np.testing.assert_allclose(high, one_high, atol=0.2 * spread)


@pytest.mark.parametrize("groups", [None, [f"g{i % 13}" for i in range(40)]])
def test_counts_are_a_short_cut_for_the_rows_drawn(groups):
    x, y = np.random.default_rng(2).normal(size=(2, 40))
    plain = bootstrap_interval(lambda x, y: np.array([(x * y).mean(), y.sum()]), x, y, groups=groups, n_resamples=300)

    def weighted(x, y, counts):
        return np.stack([counts @ (x * y) / counts.sum(1), counts @ y], axis=1)

    fast = bootstrap_interval(weighted, x, y, groups=groups, n_resamples=300, weighted=True)
    np.testing.assert_allclose(plain, fast, atol=1e-12)


def test_arrays_are_drawn_together():
    x = np.random.default_rng(3).normal(size=30)
    low, high = bootstrap_interval(lambda a, b: (a - b).mean(), x + 1, x)
    assert low == pytest.approx(1) and high == pytest.approx(1)


def test_groups_are_drawn_as_wholes():
    """Copies of an example add nothing: 10 groups of 8 equal values are as uncertain as 10 values."""
    x = np.random.default_rng(5).normal(size=10)
    copies, names = np.repeat(x, 8), [("pair", i) for i in range(10) for _ in range(8)]
    single = bootstrap_interval(np.mean, x)
    np.testing.assert_allclose(bootstrap_interval(np.mean, copies, groups=names), single, atol=1e-12)
    naive = bootstrap_interval(np.mean, copies)
    assert naive.high - naive.low < 0.5 * (single.high - single.low)


def test_bootstrap_covers_about_as_often_as_it_says():
    rng = np.random.default_rng(6)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(
            lambda x, counts: counts @ x / len(x), rng.normal(size=40), confidence=0.9, n_resamples=500, weighted=True
        )
        hits += low < 0 < high
    assert 0.8 < hits / 200 < 0.96


def test_bootstrap_laws(monkeypatch):
    x = np.random.default_rng(8).normal(size=(25, 2))
    first = bootstrap_interval(np.mean, x[:, 0], seed=1)
    assert first == bootstrap_interval(np.mean, x[:, 0], seed=1) != bootstrap_interval(np.mean, x[:, 0], seed=2)
    np.testing.assert_array_equal(bootstrap_interval(np.median, np.full(9, 2.5)), 2.5)
    monkeypatch.setattr("interp.statistics.estimates._MAX_BYTES", 8 * 25 * 7)  # blocks of seven draws
    assert bootstrap_interval(np.mean, x[:, 0], seed=1) == first


def test_bootstrap_of_what_is_sometimes_undefined():
    rare = np.arange(30) < 2  # a share among these: undefined on about one draw in seven

    def share(marked, value):
        return value[marked].mean() if marked.any() else np.nan

    low, high = bootstrap_interval(share, rare, np.arange(30.0))
    assert low == 0 and high == 1
    assert np.isnan(bootstrap_interval(share, np.zeros(30, bool), np.arange(30.0))).all()
    assert np.isnan(bootstrap_interval(np.mean, np.arange(4.0), groups="aaaa")).all()


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ([np.ones(3), np.ones(4)], {}, r"lengths \[3, 4\]; expected one or more of one length"),
        ([], {}, r"lengths \[\]"),
        ([np.ones(0)], {}, "there are no examples"),
        ([np.ones(3)], {"groups": "ab"}, "groups names 2 examples; the arrays have 3"),
        ([np.ones(3)], {"confidence": 95}, "confidence is 95"),
    ],
)
def test_bad_bootstraps_are_refused(arrays, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(lambda *x: 0.0, *arrays, **options)


# --- shares ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 5), (5, 5), (3, 20), (70, 100)])
def test_a_share_has_the_interval_that_scipy_gives(k, n):
    low, high = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert wilson_share([True] * k + [False] * (n - k)) == pytest.approx((k / n, low, high))


def test_a_share_of_means_counts_each_example_once():
    means = np.array([0.5, 0.0, 1.0, 0.5])  # of two runs each: 4 of 8
    assert wilson_share(means) == wilson_share([True, True, False, False])
    assert wilson_share(np.repeat(means, 2), n=4) == wilson_share(means)
    assert np.isnan(wilson_share([])).all() and np.isnan(wilson_share([0.5], n=0)).all()


def test_a_paired_change_is_bonett_and_prices():
    before, after = np.array([0, 0, 0, 1, 1, 0]), np.array([1, 1, 0, 1, 0, 0])
    b, c, n = 2, 1, 6  # one pair more on either side
    p, q = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = 1.959964 * np.sqrt((p + q - (p - q) ** 2) / (n + 2))
    found = paired_share_change(after, before)
    assert found == pytest.approx((1 / 6, p - q - half, p - q + half), abs=1e-6)
    assert found.columns("change") == dict(zip(("change", "change_low", "change_high"), found, strict=True))
    assert f"{paired_share_change([1.0], [0.0]):.1f}" == "1.0 [-0.7, 1.0]"  # no certainty from one pair
    assert np.isnan(paired_share_change(np.array([]), np.array([]))).all()

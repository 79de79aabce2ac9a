"""Statistics of per-example scores: laws, slow twins, hand-computed arrays."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from interp.statistics import (
    auroc,
    auroc_difference,
    auroc_estimate,
    auroc_interval,
    benjamini_hochberg,
    bootstrap_interval,
    difference_of,
    mean_difference,
    mean_estimate,
    mean_interval,
    paired_share_change,
    rank_biased_overlap,
    ratio_estimate,
    ratio_interval,
    sign_flip_p,
    sign_flips,
    spearman,
    split_half,
    top_k_overlap,
    wilson_share,
    within_pairs,
)


@pytest.fixture(scope="module")
def null_scores() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 20, 15)).astype(np.float32)


def test_interval_is_the_wider_of_students_and_of_halls():
    scores = np.random.default_rng(1).exponential(size=(30, 2, 3))
    low, high = mean_interval(scores)
    for layer, head in product(range(2), range(3)):
        x = scores[:, layer, head]
        error, t = x.std(ddof=1) / np.sqrt(30), stats.t.ppf(0.975, 29)
        k = stats.skew(x) / np.sqrt(30) * (1 + 6 / 30)
        u = np.linspace(-40, 40, 800_001)
        transformed = u + k * u**2 / 3 + k**2 * u**3 / 27 + k / 6  # rises with u
        ends = [x.mean() - error * u[np.searchsorted(transformed, side)] for side in (t, -t)]
        assert low[layer, head] == pytest.approx(min(ends[0], x.mean() - t * error), abs=1e-4)
        assert high[layer, head] == pytest.approx(max(ends[1], x.mean() + t * error), abs=1e-4)


def test_interval_covers_the_true_mean_about_as_often_as_it_says(null_scores):
    low, high = mean_interval(null_scores, confidence=0.9)
    assert 0.84 < ((low < 0) & (high > 0)).mean() < 0.95


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


def halls_t(x: np.ndarray) -> np.ndarray:
    n, t = len(x), x.mean(0) / x.std(0, ddof=1) * np.sqrt(len(x))
    k = stats.skew(x) / np.sqrt(n) * (1 + 6 / n)
    return t + k * t**2 / 3 + k**2 * t**3 / 27 + k / 6


@pytest.mark.parametrize("n", [2, 3, 7, 10])
def test_sign_flip_p_is_exact_when_all_flips_fit(n):
    scores = np.random.default_rng(n).normal(0.4, 1.0, size=(n, 5)).astype(np.float32).astype(np.float64)
    flipped = np.array([halls_t(np.array(signs)[:, None] * scores) for signs in product([1, -1], repeat=n)])
    observed, slack = halls_t(scores), 1e-9
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


def flipped_slowly(scores, n_resamples):
    """Every head, every flip, by scipy: the same statistic, other draws."""
    n = len(scores)

    def statistic(signs, axis):
        x = np.moveaxis(signs, axis, -1)[..., None, :] * scores.T
        mean, square, cube = (np.mean(x**k, axis=-1) for k in (1, 2, 3))
        return sign_flips._transformed(mean, cube, square, n)

    ones = (np.ones(n),)
    how = dict(permutation_type="samples", n_resamples=n_resamples, batch=100, vectorized=True)
    return stats.permutation_test(ones, statistic, rng=np.random.default_rng(9), **how).pvalue


@pytest.mark.parametrize("skewed", [False, True])
def test_flips_that_are_not_drawn_would_have_changed_nothing(skewed, monkeypatch):
    """Heads far from zero have the floor, as they would; the others have p within the draws' error."""
    rng = np.random.default_rng(3)
    noise = rng.standard_exponential((300, 40)) - 1 if skewed else rng.normal(size=(300, 40))
    scores = noise + np.linspace(-1.5, 1.5, 40)
    drawn = []
    under = sign_flips._Flipped.under
    monkeypatch.setattr(
        sign_flips._Flipped,
        "under",
        lambda self, signs: drawn.append(len(signs) * len(self.squares)) or under(self, signs),
    )
    p, slow = sign_flip_p(scores, n_resamples=4999), flipped_slowly(scores, 4999)
    assert sum(drawn) < 0.5 * 4999 * 40
    floor = 2 / 5000
    is_far = sign_flips._is_far(flipped := sign_flips._Flipped.of(scores), under(flipped, np.ones((1, 300)))[0], 4999)
    assert is_far.sum() >= 5 and (p[is_far] == floor).all() and (slow[is_far] == floor).all()
    error = np.sqrt(slow * (1 - slow / 2) * 2 * (1 / 4999 + slow / 400))  # of 4999 draws, and of stopping after 200
    assert (np.abs(p - slow) <= 4 * error + floor).all()


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
    scores = np.random.default_rng(4).normal(size=(50, 3))
    low, high = bootstrap_interval(lambda x: x.mean(axis=0), scores, n_resamples=4000)
    one_low, one_high = mean_interval(scores)
    spread = scores.std(axis=0).max() / np.sqrt(50)
    np.testing.assert_allclose(low, one_low, atol=0.2 * spread)
    np.testing.assert_allclose(high, one_high, atol=0.2 * spread)


def test_bootstrap_is_scipys_bca_with_students_tails():
    x = np.random.default_rng(3).exponential(size=40)
    confidence = 1 - 2 * stats.norm.cdf(-np.sqrt(40 / 39) * stats.t.ppf(0.975, 39))
    theirs = stats.bootstrap((x,), np.median, n_resamples=20_000, confidence_level=confidence, rng=1)
    ours = bootstrap_interval(np.median, x, n_resamples=20_000)
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.05)


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
    np.testing.assert_allclose(mean_interval(copies, names), mean_interval(x), atol=1e-12)
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
    monkeypatch.setattr("interp.statistics.bootstrap.MAX_BYTES", 8 * 25 * 7)  # blocks of seven draws
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


def test_within_pairs_by_hand():
    """Two pairs won, one lost, one tied; a single example and a pair of one class are left out."""
    scores = np.array([2.0, 1.0, 0.0, 3.0, 1.0, 2.0, 5.0, 5.0, 9.0, 9.0, 8.0])
    positive = np.array([1, 0, 0, 1, 1, 0, 1, 0, 1, 1, 1], dtype=bool)
    found = within_pairs(scores, positive, ["a", "a", "b", "b", "c", "c", "d", "d", "single", "same", "same"])
    assert found.n == 4 and found.share.value == pytest.approx(2.5 / 4) and found.p == pytest.approx(1.0)
    assert found.columns("won")["n_pairs"] == 4 and found.share == wilson_share([1, 1, 0, 0.5])
    ten = within_pairs(np.tile([1.0, 0.0], 10), np.tile([True, False], 10), np.repeat(np.arange(10), 2))
    assert ten.p == pytest.approx(2 * 0.5**10) and ten.share.value == 1 and 0.6 < ten.share.low < 1
    none = within_pairs(scores[:1], positive[:1], ["a"])
    assert none.n == 0 and np.isnan(none.p) and np.isnan(none.share).all()


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


# --- means, ratios, differences ---------------------------------------------------------------------------------------


def test_a_ratio_of_ones_is_a_mean_and_a_difference_without_a_side_too():
    x = np.random.default_rng(0).exponential(size=40)
    low, high = (float(end) for end in mean_interval(x))
    np.testing.assert_allclose(ratio_interval(x, np.ones(40)), (low, high))
    assert mean_estimate(x) == pytest.approx((x.mean(), low, high))
    assert mean_difference(x, np.ones(40, bool)) == pytest.approx((x.mean(), low, high))
    assert ratio_estimate(3 * x, np.full(40, 2.0)) == pytest.approx((1.5 * x.mean(), 1.5 * low, 1.5 * high))


def test_a_ratio_of_equal_parts_is_certain():
    whole = np.random.default_rng(1).uniform(1, 5, 30)
    assert ratio_estimate(0.25 * whole, whole) == pytest.approx((0.25, 0.25, 0.25))
    assert np.isnan(ratio_estimate(whole, whole * 0)).all() and np.isnan(ratio_estimate([], [])).all()


def test_differences_of_means():
    rng = np.random.default_rng(2)
    x, side = rng.normal(size=60), np.arange(60) < 30
    value, low, high = mean_difference(x, side, ~side)
    assert value == pytest.approx(x[:30].mean() - x[30:].mean())
    welch = stats.ttest_ind(x[:30], x[30:], equal_var=False).confidence_interval()
    assert (low, high) == pytest.approx(tuple(welch), abs=0.03)
    assert mean_difference(-x, side, ~side) == pytest.approx((-value, -high, -low))
    assert mean_difference(x, ~side, side) == pytest.approx((-value, -high, -low))
    pairs = np.tile(np.arange(30), 2)
    x = np.tile(rng.normal(size=30), 2) + 0.1 * rng.normal(size=60)  # what a pair has in common cancels
    paired = mean_difference(x, side, ~side, pairs)
    assert paired.high - paired.low < 0.2 * (mean_difference(x, side, ~side).high - paired.low)
    assert np.isnan(mean_difference(x, side & False, side)).all()
    assert np.isnan(mean_difference(x, np.arange(60) < 1, ~side)[1:]).all()


def test_sign_flips_hold_their_level_for_skewed_scores():
    x = np.random.default_rng(3).exponential(size=(40, 1500)) - 1
    assert 0.03 < (sign_flip_p(x, n_resamples=499) <= 0.05).mean() < 0.065  # flips of the plain mean: 0.07


# --- differences of shares --------------------------------------------------------------------------------------------


def test_a_difference_of_shares_is_newcombes():
    """Newcombe (1998), Stat. Med. 17, Table II, method 10."""
    for (a, m, b, n), ends in {(56, 70, 48, 80): (0.0524, 0.3339), (9, 10, 3, 10): (0.1705, 0.8090)}.items():
        one, two = (wilson_share([True] * k + [False] * (size - k)) for k, size in ((a, m), (b, n)))
        assert difference_of(one, two) == pytest.approx((a / m - b / n, *ends), abs=1e-4)
        assert difference_of(two, one) == pytest.approx((b / n - a / m, -ends[1], -ends[0]), abs=1e-4)
    none, all_of_them = wilson_share([False] * 10), wilson_share([True] * 10)
    assert difference_of(all_of_them, none).low < 0.8 and difference_of(none, none).high > 0.2
    assert np.isnan(difference_of(none, wilson_share([]))).all()


def test_groups_that_agree_widen_a_share():
    values = np.repeat(np.random.default_rng(0).random(20) < 0.5, 4)
    names = np.repeat(np.arange(20), 4)
    grouped = wilson_share(values, groups=names)
    alone = wilson_share(values[::4])
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert wilson_share(values, groups=np.arange(80)) == wilson_share(values)
    certain = wilson_share(np.ones(80), groups=names)
    assert certain.high == 1 and certain.low == pytest.approx(wilson_share(np.ones(20)).low, abs=0.05)
    assert np.isnan(wilson_share(values, groups=["one"] * 80)[1:]).all()


# --- AUROC ------------------------------------------------------------------------------------------------------------


def test_auroc_is_scikit_learns_with_ties():
    rng = np.random.default_rng(0)
    positive = rng.random(70) < 0.4
    scores = np.round(rng.normal(size=(70, 5)) + positive[:, None], 1)
    found = auroc(scores, positive)
    np.testing.assert_allclose(found, [roc_auc_score(positive, column) for column in scores.T])
    np.testing.assert_allclose(auroc(-scores, positive), 1 - found)
    np.testing.assert_allclose(auroc(scores, ~positive), 1 - found)
    np.testing.assert_allclose(auroc(1000 * scores, positive), found)
    np.testing.assert_allclose(auroc(np.exp(scores / 9), positive), found)
    assert np.isnan(auroc(scores, positive | True)).all()


def test_rounding_of_float32_parts_no_tie():
    margins = np.array([3.25, 3.25 + 1e-7, -1.0, 2.0])
    assert auroc(margins, [True, False, False, True]) == pytest.approx(0.625)


def test_auroc_interval_laws():
    rng = np.random.default_rng(1)
    positive = np.arange(60) < 25
    scores = rng.normal(size=(60, 3)) + 0.8 * positive[:, None]
    low, high = auroc_interval(scores, positive)
    value = auroc(scores, positive)
    assert ((low < value) & (value < high) & (low > 0) & (high < 1)).all()
    mirrored = auroc_interval(-scores, positive)
    np.testing.assert_allclose(mirrored.low, 1 - high, atol=1e-9)
    names = np.arange(60)
    np.testing.assert_allclose(auroc_interval(scores, positive, names).low, low)
    copies = auroc_interval(np.repeat(scores, 4, axis=0), np.repeat(positive, 4), np.repeat(names, 4))
    np.testing.assert_allclose(copies, (low, high), atol=1e-9)  # copies of an example add nothing
    wide = auroc_interval(scores, positive, confidence=0.99)
    assert (wide.low < low).all() and (wide.high > high).all()


def test_classes_told_apart_without_an_error_are_not_certain():
    low, high = auroc_interval(np.arange(20.0), np.arange(20) >= 10)
    assert 0.7 < low < 0.9 and high == 1
    estimate = auroc_estimate(np.arange(20.0), np.arange(20) < 10)
    assert estimate.value == 0 and 0.1 < estimate.high < 0.3
    assert np.isnan(auroc_interval(np.arange(5.0), np.arange(5) < 1)).all()


def test_a_difference_of_aurocs_is_paired():
    rng = np.random.default_rng(2)
    positive = np.arange(80) < 40
    signal = rng.normal(size=80) + positive
    first, second = signal + 0.05 * rng.normal(size=80), signal + 0.05 * rng.normal(size=80)
    found = auroc_difference(first, second, positive)
    assert found.value == pytest.approx(float(auroc(first, positive) - auroc(second, positive)))
    assert found.low < 0 < found.high and found.high - found.low < 0.1
    assert auroc_difference(second, first, positive) == pytest.approx((-found.value, -found.high, -found.low))
    assert auroc_difference(first, first, positive) == pytest.approx((0, 0, 0))
    assert auroc_difference(first, rng.normal(size=80), positive).low > 0


def test_spearman_is_scipys():
    a, b = np.random.default_rng(0).integers(0, 9, (2, 30))
    assert spearman(a, b) == pytest.approx(tuple(stats.spearmanr(a, b)))
    assert np.isnan(spearman(a, np.ones(30))).all() and np.isnan(spearman([1.0], [2.0])).all()

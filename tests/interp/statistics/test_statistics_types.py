"""Statistics of the same numbers are the same, in whatever type they come; what is no number is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from interp import statistics
from interp.statistics import rank_agreement

RNG = np.random.default_rng(5)
SHARES = (RNG.integers(0, 2, 24)).astype(float)  # 0 and 1: exact in every type
SCORES = RNG.integers(0, 9, (24, 3)).astype(float)  # whole and small: exact in every type, and not negative
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
FLOATS = [np.float16, np.float32, np.float64, np.longdouble]
TORCH = (torch.float16, torch.bfloat16, torch.float32, torch.int8, torch.uint8)
AS = {
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(x.tolist()),
    "list of numpy's rows": lambda x: list(x.astype(np.uint8)),
    "generator": lambda x: iter(x.tolist()),
    "object": lambda x: x.astype(object),
    "frame or series": lambda x: pd.Series(x) if x.ndim == 1 else pd.DataFrame(x),
    "nullable": lambda x: pd.Series(x).astype("Int64") if x.ndim == 1 else pd.DataFrame(x).astype("UInt8"),
    "masked, nothing masked": np.ma.asarray,
    "read-only": lambda x: np.broadcast_to(x[None], (2, *x.shape))[0],
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "tensor with gradient": lambda x: torch.tensor(x, requires_grad=True),
    **{np.dtype(t).name: (lambda x, t=t: x.astype(t)) for t in (*INTEGERS, *FLOATS)},
    **{
        str(t): (lambda x, t=t: torch.tensor(x).to(t))
        for t in (torch.float16, torch.bfloat16, torch.float32, torch.int8, torch.uint8)
    },
}
OF_SCORES = {
    "mean_interval": lambda x: statistics.mean_interval(x),
    "bootstrap_interval": lambda x: statistics.bootstrap_interval(lambda s: s.mean(0) - 9, x, n_resamples=50),
    "ratio_interval": lambda x: statistics.ratio_interval(x, np.arange(24) + 1),
    "auroc": lambda x: statistics.auroc(x, SHARES),
    "auroc_interval": lambda x: statistics.auroc_interval(x, SHARES),
    "sign_flip_p": lambda x: statistics.sign_flip_p(x, n_resamples=99),
    "split_half": lambda x: statistics.split_half(x, n_splits=5),
    "ranks": rank_agreement.ranks,
    "correlation_by_row": lambda x: rank_agreement.correlation_by_row(x, SCORES[:, ::-1]),
    "paired_bootstrap_means": lambda x: rank_agreement.paired_bootstrap_means(x, SCORES, range(24), range(24), 20)[0],
    "shift_q": lambda x: rank_agreement.shift_q(SCORES[0], x, 5),
}
OF_SHARES = {
    "wilson_share": statistics.wilson_share,
    "paired_share_change": lambda x: statistics.paired_share_change(x, SHARES[::-1]),
    "benjamini_hochberg": statistics.benjamini_hochberg,
    "around": lambda x: rank_agreement.around(0.5, x),
    "mean_interval": lambda x: statistics.mean_interval(x),
}


@pytest.mark.parametrize("name", OF_SCORES)
@pytest.mark.parametrize("kind", AS)
def test_scores_of_every_type_give_the_same(name, kind):
    np.testing.assert_array_equal(OF_SCORES[name](AS[kind](SCORES)), OF_SCORES[name](SCORES))


@pytest.mark.parametrize("name", OF_SHARES)
@pytest.mark.parametrize("kind", [*AS, "bool", "list of bool", "torch.bool", "boolean"])
def test_shares_of_every_type_give_the_same(name, kind):
    more = {"bool": lambda x: x.astype(bool), "list of bool": lambda x: x.astype(bool).tolist()}
    more |= {"torch.bool": lambda x: torch.tensor(x).bool(), "boolean": lambda x: pd.Series(x).astype("boolean")}
    np.testing.assert_array_equal(OF_SHARES[name]((AS | more)[kind](SHARES)), OF_SHARES[name](SHARES))


@pytest.mark.parametrize(
    "bad",
    [
        "0.5",
        ["0.5", "0.7"],
        {"a": 1.0},
        {0.5},
        [[1.0], [1.0, 2.0]],
        [1j],
        [b"1"],
        pd.to_datetime(["2020-01-01"]),
        object(),
    ],
)
@pytest.mark.parametrize("name", [*OF_SCORES, *OF_SHARES])
def test_what_is_no_number_is_refused(name, bad):
    with pytest.raises(TypeError, match="expected numbers"):
        (OF_SCORES | OF_SHARES)[name](bad)


ORDER = RNG.permutation(30)
OTHER = np.concatenate([ORDER[1::-1], ORDER[5:1:-1], ORDER[6:]])
ORDERS = {
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(x.tolist()),
    "list of numpy's": list,
    "list of tensors": lambda x: list(torch.tensor(x)),
    "tensor": torch.tensor,
    "series": pd.Series,
    "index": pd.Index,
    "series sorted by its values": lambda x: pd.Series(x, index=np.arange(30)[::-1]),
    "generator": lambda x: iter(x),
    **{np.dtype(t).name: (lambda x, t=t: x.astype(t)) for t in (*INTEGERS, *FLOATS)},
}


def slow_overlap(a: list, b: list, p: float) -> float:
    """Eq. 32 of Webber et al., the obvious way."""
    share = [len(set(a[:d]) & set(b[:d])) / d for d in range(1, len(a) + 1)]
    return share[-1] * p ** len(a) + (1 - p) / p * sum(s * p**d for d, s in enumerate(share, 1))


@pytest.mark.parametrize("first", ORDERS)
@pytest.mark.parametrize("second", ["list", "int32", "tensor"])
def test_orders_of_every_type_overlap_the_same(first, second):
    a, b = ORDER.tolist(), OTHER.tolist()

    def given():
        return ORDERS[first](ORDER), ORDERS[second](OTHER)

    assert statistics.rank_biased_overlap(*given(), np.float64(0.9)) == pytest.approx(
        slow_overlap(a, b, 0.9), abs=1e-12
    )
    assert statistics.top_k_overlap(*given(), np.uint8(20), np.uint8(30)) == statistics.top_k_overlap(a, b, 20, 30)
    assert statistics.top_k_overlap(*given(), np.uint8(20), np.uint8(30)).expected == pytest.approx(400 / 30)


def test_heads_as_rows_or_tuples_are_the_same_items():
    heads = [(int(i) // 6, int(i) % 6) for i in ORDER]
    moved = [heads[1], heads[0], *heads[2:]]
    want = slow_overlap(heads, moved, 0.9)
    for rows in (np.array(heads), torch.tensor(heads), list(map(list, heads)), [tuple(map(np.int8, h)) for h in heads]):
        assert statistics.rank_biased_overlap(rows, moved) == pytest.approx(want, abs=1e-12)


def test_orders_without_meaning_are_refused():
    overlap = statistics.rank_biased_overlap
    with pytest.raises(TypeError, match="one kind of item"):
        overlap(["L0H1", "L2H0"], [(0, 1), (2, 0)])
    with pytest.raises(ValueError, match="NaN"):
        overlap([1.0, np.nan], [1.0, 2.0])
    for bad in ({1, 2}, {1: 2}, 3, None, pd.DataFrame({"a": [1, 2]})):
        with pytest.raises(TypeError, match="list of items"):
            overlap(bad, [1, 2])
    with pytest.raises(ValueError, match="twice"):
        statistics.top_k_overlap([1, 1, 2], [1, 2, 3], 2, 5)
    for k in (True, 2.0, "2", np.array([1, 2])):
        with pytest.raises(TypeError, match=r"k is .* whole number"):
            statistics.top_k_overlap([1, 2, 3], [1, 2, 3], k, 5)


def test_missing_numbers_are_nan_and_small_samples_are_unknown():
    holes = [1.0, None, 3.0]
    for values in (
        holes,
        pd.Series([1, None, 3], dtype="Int64"),
        np.ma.masked_equal([1.0, 7.0, 3.0], 7.0),
        [1.0, np.nan, 3.0],
    ):
        assert np.isnan(statistics.mean_interval(values).low)
    for estimate in (
        statistics.wilson_share([]),
        statistics.paired_share_change([], []),
        statistics.paired_share_change([0, np.nan], [1, 1]),
    ):
        assert np.isnan(estimate).all()
    assert np.isnan(statistics.mean_interval([[1.0, 2.0]]).low).all() and statistics.sign_flip_p([[1.0]]) == 1
    assert np.isnan(statistics.split_half(np.ones((3, 4)))).all()
    assert statistics.wilson_share(np.ones(12, np.int8), np.int8(12)) == statistics.wilson_share([1.0] * 12)


def test_numbers_that_have_no_meaning_are_refused():
    with pytest.raises(ValueError, match="from 0 to 1"):
        statistics.wilson_share([1, 2])
    with pytest.raises(ValueError, match="from 0 to 1"):
        statistics.benjamini_hochberg([0.1, -0.2])
    with pytest.raises(ValueError, match="the same examples"):  # numpy would repeat the one
        statistics.paired_share_change([1, 0, 1], [1])
    with pytest.raises(ValueError, match="ids; expected one for each"):
        rank_agreement.paired_bootstrap_means(SCORES, SCORES, range(24), range(23))
    for given in ({"seed": -1}, {"n_resamples": 0}):
        with pytest.raises(ValueError, match=r"expected [01] or more"):
            statistics.sign_flip_p(SCORES, **given)
    assert (rank_agreement.rank_biased_overlap_by_chance(np.int8(120), n_permutations=np.int64(3)) > 0).all()


def test_an_unsigned_difference_does_not_wrap_in_a_statistic_of_the_callers():
    a, b = np.array([3, 1, 2], np.uint8), np.array([4, 4, 4], np.uint8)
    low, high = statistics.bootstrap_interval(lambda x, y: (x - y).mean(), a, b, n_resamples=50)
    assert -3 <= low <= high < 0

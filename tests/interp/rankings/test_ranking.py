"""HeadRanking: planted heads, order, selection, agreement, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from interp.figures.views import TokenView, head_label
from interp.rankings.comparison import compare
from interp.rankings.controls import control_summary, sign_keepers
from interp.rankings.ranking import HeadRanking, sign_verdict

PLANTED = {(3, 1): 1.2, (1, 2): 0.9, (4, 0): -1.0}


def make_ranking(seed: int = 0, **changes) -> HeadRanking:
    """40 examples, 5 layers of 3 heads; "swapped" undoes the sign of L1H2, "same" repeats the score."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 0.5, size=(40, 5, 3))
    for (layer, head), effect in PLANTED.items():
        scores[:, layer, head] += effect
    swapped = scores + rng.normal(0, 0.1, size=scores.shape)
    swapped[:, 1, 2] -= 2.0
    arguments = {
        "score": "effect",
        "measures": {"effect": scores, "swapped": swapped, "same": scores},
        "example_ids": tuple(f"e{i}" for i in range(40)),
        "descriptions": {"effect": "High: towards No, in logits.", "swapped": "Options swapped."},
        "provenance": {"run_id": "r1", "model": {"name": "tiny"}},
    }
    return HeadRanking(**(arguments | changes))


@pytest.fixture(scope="module")
def ranking() -> HeadRanking:
    return make_ranking()


def test_planted_heads_are_found_with_their_sign(ranking):
    frame = ranking.to_frame()
    assert frame["label"].tolist()[:2] == ["L3H1", "L1H2"] and frame["label"].tolist()[-1] == "L4H0"
    assert set(ranking.select(q_below=0.01)) == set(PLANTED)
    assert ranking.select(q_below=0.01, sign="-") == [(4, 0)]
    for (layer, head), effect in PLANTED.items():
        row = frame[(frame["layer"] == layer) & (frame["head"] == head)].iloc[0]
        assert row.ci_low - 0.1 < effect < row.ci_high + 0.1


def test_frame_is_tidy_and_agrees_with_numpy(ranking):
    frame = ranking.to_frame()
    assert " ".join(frame.columns) == (
        "rank layer head label score se ci_low ci_high p q n "
        "swapped swapped_ci_low swapped_ci_high same same_ci_low same_ci_high"
    )
    assert frame["rank"].tolist() == list(range(1, 16)) and (frame["n"] == 40).all()
    assert frame["score"].is_monotonic_decreasing
    row = frame.iloc[4]
    values = ranking.scores[:, row.layer, row["head"]].astype(np.float64)
    assert row.score == pytest.approx(values.mean()) and row.se == pytest.approx(values.std(ddof=1) / np.sqrt(40))
    assert row.swapped == pytest.approx(ranking.measures["swapped"][:, row.layer, row["head"]].mean(), rel=1e-5)
    np.testing.assert_allclose(frame["same_ci_low"], frame["ci_low"])
    frame.loc[:, "score"] = 0.0  # a copy: the ranking keeps its numbers
    assert ranking.to_frame()["score"].iloc[0] > 1


def test_negated_scores_reverse_the_order(ranking):
    negated = make_ranking(measures={"effect": -ranking.scores}, descriptions={})
    assert negated.select() == ranking.select()[::-1]
    np.testing.assert_allclose(negated.to_frame()["ci_high"], -ranking.to_frame()["ci_low"][::-1], atol=1e-6)


def test_equal_scores_keep_the_order_of_layer_and_head():
    constant = make_ranking(measures={"effect": np.ones((40, 5, 3))}, descriptions={})
    assert constant.select()[:4] == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_select_filters_first_then_takes_the_top(ranking):
    assert len(ranking.select()) == 15
    assert ranking.select(top=1) == [(3, 1)]
    assert ranking.select(top=1, sign="-") == [(4, 0)]
    assert all(ranking.scores.mean(axis=0)[pair] < 0 for pair in ranking.select(sign="-"))
    assert ranking.select(q_below=0.0) == []
    assert ranking.top(3)["label"].tolist() == [head_label(*pair) for pair in ranking.select(top=3)]
    with pytest.raises(ValueError, match="sign is 'up'; expected"):
        ranking.select(sign="up")
    with pytest.raises(ValueError, match="top is 0; expected at least 1"):
        ranking.select(top=0)


def test_by_ranks_the_same_data_by_another_measure(ranking):
    by_swapped = ranking.by("swapped")
    assert by_swapped.score == "swapped" and by_swapped.others == ("effect", "same")
    assert by_swapped.by("effect").select() == ranking.select()
    assert by_swapped.select()[-1] in {(1, 2), (4, 0)}
    with pytest.raises(
        ValueError, match=r"score is 'nas'; expected one of the measures: \['effect', 'same', 'swapped'\]"
    ):
        ranking.by("nas")


def test_one_example_has_no_interval():
    one = make_ranking(measures={"effect": np.ones((1, 2, 2))}, example_ids=("e0",), descriptions={})
    frame = one.to_frame()
    assert frame[["se", "ci_low", "ci_high"]].isna().all(axis=None) and (frame["p"] == 1).all()
    assert np.isnan(one.reliability.mean)


def test_measures_cannot_be_changed_under_the_cached_statistics(ranking):
    with pytest.raises(ValueError, match="read-only"):
        ranking.scores[0, 0, 0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        ranking.score = "swapped"
    scores = np.zeros((40, 5, 3), dtype=np.float32)
    made = make_ranking(measures={"effect": scores}, descriptions={})
    scores += 1
    assert (made.scores == 0).all()


def test_compare_with_itself_with_its_negative_and_with_a_new_sample(ranking):
    itself = compare(ranking, ranking, k=5)
    assert (itself.spearman, itself.rbo, itself.n_heads) == (pytest.approx(1), pytest.approx(1), 15)
    assert itself.overlap == (5, 1.0, pytest.approx(25 / 15), pytest.approx(1 / 3003))  # 15 choose 5
    negative = make_ranking(measures={"effect": -ranking.scores}, descriptions={})
    assert compare(ranking, negative, k=5).spearman == pytest.approx(-1)
    assert compare(ranking, negative, k=5).overlap.count == 0
    sample = compare(ranking, make_ranking(seed=1), k=2)
    assert sample.overlap.count == 2
    row = sample.to_frame().iloc[0]
    assert (row.k, row.overlap, row.overlap_expected) == (2, 2, pytest.approx(4 / 15))


def test_compare_refuses_other_architectures(ranking):
    other = make_ranking(measures={"effect": np.zeros((40, 4, 3))}, descriptions={})
    with pytest.raises(
        ValueError, match="a ranks 5 layers of 3 heads, b 4 layers of 3 heads; expected rankings of one"
    ):
        compare(ranking, other)


def test_control_summary_counts_sign_flips(ranking):
    summary = control_summary(ranking, k=2).set_index("measure")
    assert summary.loc["same", ["sign_flips", "overlap"]].tolist() == [0, 2]
    assert summary.loc["same", "spearman"] == pytest.approx(1)
    assert summary.loc["swapped", ["sign_flips", "overlap"]].tolist() == [1, 1]
    assert summary.loc["swapped", "overlap_expected"] == pytest.approx(4 / 15)
    assert (control_summary(ranking, k=99)["k"] == 15).all()
    assert control_summary(make_ranking(measures={"effect": ranking.scores}, descriptions={})).empty


def test_controls_give_a_verdict_for_each_head(ranking):
    controlled = make_ranking(controls=("swapped",))
    frame = controlled.to_frame().set_index("label")
    assert frame.loc[["L3H1", "L1H2", "L4H0"], "swapped_verdict"].tolist() == [
        "keeps sign", "changes sign", "keeps sign",
    ]  # fmt: skip
    weak = frame[(frame["ci_low"] < 0) & (frame["ci_high"] > 0)]
    assert len(weak) and (weak["swapped_verdict"] == "unclear").all()
    assert list(frame.columns).index("swapped_verdict") == list(frame.columns).index("swapped_ci_high") + 1
    assert "same_verdict" not in frame and "swapped_verdict" not in ranking.to_frame()
    assert "L3H1" in sign_keepers(controlled) and "L1H2" not in sign_keepers(controlled)
    assert "L4H0" not in sign_keepers(controlled, k=14) and sign_keepers(ranking) == []
    summary = control_summary(controlled, k=2).set_index("measure")
    assert summary["role"].to_dict() == {"swapped": "control", "same": "other measure"}
    assert summary.loc["swapped", ["keeps_sign", "changes_sign", "unclear"]].tolist() == [1, 1, 0]
    reordered = control_summary(make_ranking(controls=("same",)))
    assert reordered["measure"].tolist() == ["same", "swapped"]  # controls first


def test_verdict_by_hand():
    nan = float("nan")
    columns = {
        "ci_low": [1, 1, -2, -2, -1, 1, nan, 0],
        "ci_high": [2, 2, -1, -1, 1, 2, nan, 1],
        "x_ci_low": [3, -4, -4, 3, 3, -1, 1, 1],
        "x_ci_high": [4, -3, -3, 4, 4, 1, 2, 2],
    }
    keeps, changes, unclear = "keeps sign", "changes sign", "unclear"
    assert sign_verdict(columns, "x") == [keeps, changes, keeps, changes, unclear, unclear, unclear, unclear]


def test_a_control_may_be_the_ranked_score():
    by_control = make_ranking(controls=("swapped",)).by("swapped")
    assert by_control.controls == ("swapped",) and by_control.other_controls == ()
    assert not [column for column in by_control.to_frame() if column.endswith("_verdict")]
    assert sign_keepers(by_control) == [] and (control_summary(by_control)["role"] == "other measure").all()


def test_p_reaches_its_floor_and_no_lower():
    for n, n_flips in ((5, 32), (40, 9_999)):
        rng = np.random.default_rng(0)
        scores = np.abs(rng.normal(1, 0.01, size=(n, 2, 3)))
        ids = tuple(map(str, range(n)))
        sure = make_ranking(measures={"effect": scores}, example_ids=ids, descriptions={})
        assert sure.n_sign_flips == n_flips
        np.testing.assert_allclose(sure.to_frame()["p"], sure.p_floor)


def test_reliability_is_higher_with_more_examples():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 0.3, size=(10, 12)) + rng.normal(0, 1, size=(80, 10, 12))

    def reliability(n: int) -> float:
        ids = tuple(map(str, range(n)))
        return make_ranking(measures={"effect": scores[:n]}, example_ids=ids, descriptions={}).reliability.mean

    assert reliability(8) < reliability(24) < reliability(80) < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "nas"}, r"score is 'nas'; expected one of the measures: \['effect', 'same', 'swapped'\]"),
        (
            {"measures": {"effect": np.zeros((40, 15))}},
            r"'effect' has shape \(40, 15\); expected \[example, layer, head\]",
        ),
        ({"example_ids": ("a",)}, "1 example_ids for 40 examples; expected one for each"),
        (
            {"controls": ("nas",)},
            r"controls name \['nas'\]; expected names of measures: \['effect', 'same', 'swapped'\]",
        ),
        ({"controls": ("same", "same")}, "controls are .*; expected each name once"),
        ({"descriptions": {"nas": "?"}}, r"descriptions name \['nas'\]; expected names of measures"),
    ],
)
def test_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        make_ranking(**changes)


def test_refuses_measures_of_another_shape_not_finite_or_named_like_a_column():
    good = np.zeros((40, 5, 3))
    with pytest.raises(
        ValueError, match=r"'other' has shape \(40, 5, 2\); expected \(40, 5, 3\), the shape of 'effect'"
    ):
        make_ranking(measures={"effect": good, "other": good[..., :2]})
    bad = good.copy()
    bad[7, 3, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 values that are not finite, the first \(nan\) at example 7, L3H1"):
        make_ranking(measures={"effect": bad})
    with pytest.raises(ValueError, match="measure is named 'layer', a column of the table"):
        make_ranking(measures={"effect": good, "layer": good}, descriptions={})
    with pytest.raises(ValueError, match="measure is named 'x_verdict', a column of the table"):
        make_ranking(measures={"effect": good, "x_verdict": good}, descriptions={})


@pytest.mark.parametrize("value", [np.float32(1), {1, 2}, float("nan")])
def test_refuses_provenance_that_json_cannot_hold(value):
    with pytest.raises(TypeError, match="provenance cannot be written as JSON"):
        make_ranking(provenance={"value": value})


def test_views_must_fit_their_tokens_and_the_model():
    def view(**changes):
        arguments = {
            "example_id": "e0",
            "title": "?",
            "tokens": ("a", "b"),
            "heads": {(0, 0): {"attention": np.array([0.5, 0.5])}},
        }
        return TokenView(**(arguments | changes))

    assert view().heads[0, 0]["attention"].dtype == np.float32
    with pytest.raises(
        ValueError, match=r"L0H0: attention has shape \(2,\); expected \(3,\), one value for each token"
    ):
        view(tokens=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"has \['logit'\]; expected 'attention', 'contribution' or both"):
        view(heads={(0, 0): {"logit": [1.0, 2.0]}})
    with pytest.raises(ValueError, match="attention is not finite at token 1"):
        view(heads={(0, 0): {"attention": [0.1, np.inf]}})
    with pytest.raises(ValueError, match="View 'e0' shows L9H0; the scores have 5 layers of 3 heads"):
        make_ranking(views=(view(heads={(9, 0): {"attention": np.array([0.5, 0.5])}}),))


def test_html_of_a_notebook_escapes_names(ranking):
    named = make_ranking(score="<b>", measures={"<b>": ranking.scores}, descriptions={})
    assert "mean &lt;b&gt;, " in named._repr_html_() and "L3H1" in named._repr_html_()

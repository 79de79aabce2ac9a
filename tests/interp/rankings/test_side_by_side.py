"""Rankings side by side: what is refused, planted agreement by heads and by depth, the page, the tables, the words."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

import interp
from interp import load_findings
from interp.rankings import comparison, figures as comparison_figures
from interp.rankings.depth_profiles import compare_profiles, depth_profile
from interp.rankings.ranking import HeadRanking
from interp.rankings.side_by_side import compare_rankings

EVIL = "<script>alert(1)</script>"


def make(
    base: np.ndarray,
    name: str = "m",
    seed: int = 0,
    n: int = 12,
    noise: float = 0.3,
    score: str = "nas",
    description: str = "NAS, in nats.",
    **provenance,
) -> HeadRanking:
    scores = base + noise * np.random.default_rng(seed).normal(size=(n, *base.shape))
    measures = {score: scores, "twice": 2 * scores}
    ids = tuple(f"e{i}" for i in range(n))
    about = {"model": {"name": name}, "run_id": f"{name}-{seed}"} | provenance
    return HeadRanking(score, measures, ids, {score: description, "twice": "Twice that."}, about)


def late(n_layers: int, n_heads: int, at: float, seed: int = 0) -> np.ndarray:
    """Heads that act at one relative depth."""
    depth = (np.arange(n_layers) + 0.5) / n_layers
    shape = np.exp(-(((depth - at) / 0.1) ** 2))[:, None]
    return shape + 0.05 * np.random.default_rng(seed).normal(size=(n_layers, n_heads))


# --- by depth


def test_depth_profile_by_hand():
    scores = np.arange(10.0).reshape(1, 5, 2)  # layers of means 0.5, 2.5, 4.5, 6.5, 8.5
    ranking = HeadRanking("s", {"s": scores}, ("e",), {}, {})
    profile = depth_profile(ranking, n_bins=2)  # middles 0.1, 0.3 | 0.5, 0.7, 0.9
    assert profile["layers"].tolist() == ["0-1", "2-4"] and profile["n_heads"].tolist() == [4, 6]
    assert profile["mean"].tolist() == [1.5, 6.5] and profile["maximum"].tolist() == [3.0, 9.0]
    assert profile["maximum_head"].tolist() == ["L1H1", "L4H1"] and profile["depth"].tolist() == [0.25, 0.75]
    assert profile["mean_low"].isna().all()
    assert depth_profile(ranking, n_bins=5)["layers"].tolist() == list("01234")
    for n_bins in (1, 6):
        with pytest.raises(ValueError, match=rf"n_bins is {n_bins}; expected 2 to 5"):
            depth_profile(ranking, n_bins)


def test_every_bin_has_layers_whatever_the_shape():
    for n_layers in (4, 10, 24, 30, 33):
        for n_bins in range(2, min(n_layers, 12) + 1):
            profile = depth_profile(make(np.zeros((n_layers, 2)), n=2), n_bins)
            assert profile["n_heads"].sum() == 2 * n_layers and (profile["n_heads"] > 0).all()


def test_planted_depths_agree_across_shapes_and_others_do_not():
    a, b = make(late(30, 9, 0.6)), make(late(24, 14, 0.6, seed=1), seed=1)
    for kind in ("mean", "maximum"):
        found = compare_profiles(a, b, kind)
        assert found.correlation.value > 0.95 and found.p <= 0.05 and found.kind == kind
        assert found.correlation.low <= found.correlation.value <= found.correlation.high
        assert found.chance_low < 0 < found.chance_high < found.correlation.value
    assert compare_profiles(a, make(late(24, 14, 0.1, seed=1))).p > 0.05
    itself = compare_profiles(a, a)
    assert itself.correlation.value == pytest.approx(1) and itself.p == pytest.approx(1 / 60)  # one of 2 x 30 turns
    flat = compare_profiles(a, make(np.zeros((24, 14)), noise=0.0))
    assert np.isnan([flat.correlation.value, flat.p, flat.chance_low]).all()
    with pytest.raises(ValueError, match="kind is 'median'; expected 'mean' or 'maximum'"):
        compare_profiles(a, b, "median")


# --- several rankings


def test_one_shape_is_compared_by_heads_and_by_depth():
    base = np.random.default_rng(3).normal(size=(8, 4))
    found = compare_rankings([make(base), make(base, seed=1, name="n"), make(-base, seed=2, name="o")], k=4)
    assert list(found.rankings) == ["m", "n", "o"]  # named by model
    frame = found.to_frame().set_index(["a", "b"])
    assert frame.loc[("m", "n"), "spearman"] > 0.9 and frame.loc[("m", "o"), "spearman"] < -0.9
    assert frame.loc[("m", "n"), "overlap"] >= 3 and frame.loc[("m", "o"), "overlap"] == 0
    by_hand = interp.compare(found.rankings["m"], found.rankings["n"], k=4)  # one way to do it
    assert frame.loc[("m", "n"), "rbo"] == by_hand.rbo and frame.loc[("m", "n"), "spearman_low"] == by_hand.spearman_low
    assert len(found.by_depth()) == 6 and found.n_bins == 8
    moved = found.moved()
    assert set(moved["a"] + moved["b"]) == {"mn", "mo", "no"} and len(moved) == 3 * 32
    said = found.statement()
    assert said[0].startswith("m and n (they differ in: model) order the heads")
    assert "the other way round: Spearman −0.9" in said[1]
    assert any("that means something only if one was made from the other" in s for s in said)


def test_other_shapes_are_compared_by_depth_alone_and_that_is_said():
    found = compare_rankings([make(late(30, 9, 0.6), "smol"), make(late(24, 14, 0.6), "qwen")])
    assert found.pairs == () and found.to_frame().empty and found.moved().empty and found.n_bins == 10
    said = found.statement()
    assert "(10 bins) the mean scores of smol and qwen rise and fall together" in said[0]
    assert "Head by head nothing can be said across shapes (smol 30 layers of 9, qwen 24 layers of 14)" in said[1]
    mixed = compare_rankings([make(late(30, 9, 0.6), "a"), make(late(24, 14, 0.6), "b"), make(late(30, 9, 0.5), "c")])
    assert [(pair.a, pair.b) for pair in mixed.pairs] == [("a", "c")] and len(mixed.depth) == 3


def test_few_layers_give_few_bins_and_one_layer_none():
    found = compare_rankings([make(late(30, 9, 0.6), "a"), make(late(4, 3, 0.6), "b")])
    assert found.n_bins == 4
    single = compare_rankings([make(np.arange(5.0)[None], "a"), make(np.arange(5.0)[None], "b", seed=1)], k=2)
    assert single.depth == {} and len(single.pairs) == 1
    assert "By relative depth" not in single.to_findings().tables


def test_units_that_differ_are_said_and_have_their_own_scale():
    base = late(6, 3, 0.5)
    same = compare_rankings([make(base, "a"), make(base, "b", seed=1)], k=3)
    other = compare_rankings([make(base, "a"), make(base, "b", seed=1).by("twice")], k=3)
    assert same.same_scale and not other.same_scale
    assert "The scores are different quantities (nas of a, twice of b)" in other.statement()[-1]
    one, own = (comparison_figures.heatmaps(c.rankings, c.same_scale) for c in (same, other))
    assert {trace.coloraxis for trace in one.data} == {"coloraxis"}
    assert [trace.coloraxis for trace in own.data] == ["coloraxis", "coloraxis2"]
    assert own.layout.coloraxis2.cmax > 1.5 * own.layout.coloraxis.cmax
    assert one.layout.coloraxis.cmin == -one.layout.coloraxis.cmax
    assert one.layout.yaxis.domain == one.layout.yaxis2.domain and one.layout.yaxis2.autorange == "reversed"
    assert "own colour scale" in other.to_findings().figures["Mean score of every head"].layout.meta["note"]


def test_too_few_examples_are_said():
    single = compare_rankings([make(late(6, 3, 0.5), n=1), make(late(6, 3, 0.4), "o", n=1)], k=3)
    assert any(s.startswith("m and o: too few examples") for s in single.statement())
    single.to_findings()


def test_differences_are_read_from_provenance():
    a = make(late(6, 3, 0.5), settings={"effects": "zero", "batch_size": 4})
    b = make(late(6, 3, 0.5), n=6, settings={"effects": "mean", "batch_size": 8}).by("twice")
    assert comparison.differences(a, b) == ["score", "examples", "effects"]
    other = make(late(6, 3, 0.5), name="n")
    assert comparison.differences(make(late(6, 3, 0.5)), other) == ["model"]
    weights = [make(late(6, 3, 0.5), model={"name": "m", "weights_sha256": x}) for x in "ab"]
    assert comparison.differences(*weights) == ["weights"]


# --- names, folders, refusals


def test_folders_measures_and_names(tmp_path):
    make(late(6, 3, 0.5)).save(tmp_path / "first")
    make(late(6, 3, 0.5), seed=1).save(tmp_path / "second")
    found = compare_rankings([tmp_path / "first", str(tmp_path / "second")], k=3)
    assert list(found.rankings) == ["first", "second"]
    by_measure = compare_rankings([str(tmp_path / "first"), f"{tmp_path / 'first'}:twice"], k=3)
    assert list(by_measure.rankings) == ["nas", "twice"] and by_measure.to_frame()["spearman"][0] == pytest.approx(1)
    mixed = compare_rankings([tmp_path / "first", f"{tmp_path / 'second'}:twice", make(late(6, 3, 0.1), "o")], k=3)
    assert list(mixed.rankings) == ["m, nas", "m, twice", "o, nas"]
    memory = compare_rankings([make(late(6, 3, 0.5)), make(late(6, 3, 0.5), seed=1)], k=3)
    assert list(memory.rankings) == ["1: m, nas", "2: m, nas"]
    named = compare_rankings([tmp_path / "first", tmp_path / "second"], names=["x", "y"], k=3)
    assert list(named.rankings) == ["x", "y"]


def test_refusals(tmp_path):
    a, b = make(late(6, 3, 0.5)), make(late(6, 3, 0.5), "b", seed=1)
    a.save(tmp_path / "a")
    interp.Findings("t", ["s"], {}, {}, {}).save(tmp_path / "study")
    folder = str(tmp_path / "a")
    for given, message in (
        ([], "rankings has 0 of them; expected a list of two or more"),
        ([a], "rankings has 1 of them"),
        (folder, "rankings is a str"),
        ([a, a], "rankings 1 and 2 are the same"),
        ([folder, b, f"{tmp_path}/./a"], r"rankings 1 and 3 are the same \(nas of .*FOLDER:measure"),
        ([folder, f"{folder}:nas"], "rankings 1 and 2 are the same"),
        ([folder, f"{folder}:nass"], r"a has no measure 'nass'; expected one of: nas, twice"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            compare_rankings(given)
    for given, message in (
        ([folder, str(tmp_path / "no")], r"No directory .*no; expected the folder of a saved result"),
        ([folder, str(tmp_path)], r"has no findings.json, so it is not a finished, saved result"),
        ([folder, f"{tmp_path}/no:nas"], "No directory"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            compare_rankings(given)
    with pytest.raises(ValueError, match="study holds a Findings, not a ranking"):
        compare_rankings([folder, str(tmp_path / "study")])
    for arguments, message in (
        ({"k": 19}, r"k is 19; expected 1 to 18, the heads of the smallest model \(m\)"),
        ({"k": 0}, "k is 0"),
        ({"n_bins": 1}, "n_bins is 1; expected at least 2"),
        ({"names": ["x"]}, r"names are \['x'\]; expected 2 distinct names"),
        ({"names": ["x", "x"]}, "expected 2 distinct names"),
        ({"names": ["x", " "]}, "expected 2 distinct names"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_rankings([a, b], **{"k": 3} | arguments)


# --- the page


def test_page_and_tables_are_saved_escaped_and_read_back(tmp_path):
    base = late(6, 3, 0.5)
    found = compare_rankings([make(base, EVIL), make(base, "b", seed=1), make(late(4, 2, 0.5), "c")], k=3)
    found.save(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert EVIL not in page and "&lt;script&gt;alert(1)" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    read = load_findings(tmp_path)
    assert list(read.tables) == [
        "Head by head", "Heads that moved", "By relative depth", "What is compared", "Profiles over depth",
    ]  # fmt: skip
    assert read.tables["Heads that moved"]["label"].nunique() == 18
    again = interp.load_result(tmp_path)
    np.testing.assert_array_equal(again.rankings["c"].scores, found.rankings["c"].scores)
    assert again.statement() == found.statement() and again.depth == found.depth and again.pairs == found.pairs
    assert read.provenance["settings"] == {"k": 3, "n_bins": 4} and set(read.provenance["rankings"]) == {EVIL, "b", "c"}
    assert str(tmp_path) not in (tmp_path / "findings.json").read_text()
    before = (tmp_path / "report.html").read_bytes()
    other = compare_rankings([make(base, "x"), make(base, "y", seed=1)], k=3)
    with pytest.raises(FileExistsError, match="already holds the report"):
        other.save(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    found.save(tmp_path)  # the same comparison may be written again
    other.save(tmp_path, overwrite=True)
    assert list(interp.load_result(tmp_path).rankings) == ["x", "y"]


def test_all_numbers_are_json_and_a_frame_is_a_copy():
    found = compare_rankings([make(late(6, 3, 0.5)), make(late(6, 3, 0.5), "b", seed=1)], k=3)
    for frame in (found.to_frame(), found.by_depth(), found.moved(), found.given(), found.profiles()):
        assert json.loads(frame.to_json(orient="records"))
    frame = found.moved()
    frame.loc[:, "change"] = 99.0
    assert (found.moved()["change"] != 99).all()
    assert found.statement()[0] in repr(found) and found.statement()[0] in found._repr_html_()


def test_lines_of_the_top_heads():
    scores = np.arange(6.0)[::-1].reshape(3, 2)
    turned = scores[::-1]
    rankings = {"a": make(scores, noise=0.0), "b": make(turned, "b", noise=0.0)}
    figure = comparison_figures.rank_lines(rankings, k=2)
    lines = {trace.text[0] or trace.text[1]: list(trace.y) for trace in figure.data}
    assert lines == {"L0H0": [1, 5], "L0H1": [2, 6], "L2H0": [5, 1], "L2H1": [6, 2]}
    assert comparison_figures._apart(np.array([0.0, 0.01, 0.5]), 0.1) == [True, False, True]


def test_profiles_are_drawn_to_one_scale_only_if_that_means_something():
    frame = pd.DataFrame(
        {
            "ranking": ["a", "a", "b", "b"],
            "depth": [0.25, 0.75] * 2,
            "mean": [1.0, 2, 10, 40],
            "maximum": [2.0, 4, 8, 16],
        }
    ).assign(mean_low=0.0, mean_high=50.0)
    one = comparison_figures.profile_lines(frame, ("mean", "maximum"), same_scale=True)
    own = comparison_figures.profile_lines(frame, ("mean", "maximum"), same_scale=False)

    def lines(figure):
        return [list(trace.y) for trace in figure.data if trace.mode == "lines+markers"]

    assert lines(one) == [[1, 2], [10, 40], [2, 4], [8, 16]]
    assert lines(own) == [[0.5, 1], [0.25, 1], [0.5, 1], [0.5, 1]]

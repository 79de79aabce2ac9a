"""Which road a head takes: planted reads are told, unlevel numbers refused, and a saved study is the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import interp
from interp import Branch, HeadEdit, Keep, load_result
from interp.circuits import head_routes
from interp.statistics import FEWEST
from probes.scenes import edited_pairs, scene_split
from probes.visual_semantics import rank_visual_heads, scene_examples
from probes.visual_semantics.questions import Asked
from probes.visual_semantics.routes import pair_routes, visual_routes
from probes.visual_semantics.routes.result import BOTH, PICTURE, UNTOLD, WORDS, VisualRoutes
from probes.visual_semantics.routes.routes import OBJECT, REST
from tests.interp.tiny_vision import NAMES, picture, tiny_vision


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load("scenes-llava-tiny")


@pytest.fixture(scope="module")
def examples(model):
    return scene_examples(model, scene_split("test", 4, difficulty=0.2))[:6]


@pytest.fixture(scope="module")
def found(model, examples):
    return visual_routes(model, examples, [(1, 0), (2, 3), (3, 1)], positions="all")


def test_all_edges_cut_is_the_ranking_by_zero_ablation(model, examples, found):
    ranked = rank_visual_heads(model, examples, ablation="zero", scores=("signed_drop",))
    for h, at in enumerate(found.heads):
        np.testing.assert_allclose(found.whole[:, h], ranked.drop[:, *at], atol=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if "blip" not in name])
def test_on_every_architecture_the_parts_are_the_head(name):
    """Parts that do not sum to what the head gives would be refused; all of them out is the zero ablation."""
    made = tiny_vision(name)
    model = interp.load(made.hf, processor=made.processor)
    prompt = model.prompt("Is the cat red?", image=picture(1), answers=("yes", "no"), chat=made.chat)
    groups = {PICTURE: [prompt.span("image")], WORDS: [prompt.span("after_image")]}
    ends = [(0, 0), (model.n_layers - 1, 1)]
    found = head_routes(model, [prompt], groups, positions="text", heads=ends, check=0)
    zero = [Branch((HeadEdit(*at),)) for at in ends]
    options = {"positions": "text", "check": 0, "method": "loop", "read_mass": False}
    np.testing.assert_allclose(found.whole, interp.scan(model, [prompt], zero, **options).drop, atol=1e-4)


def test_pairs_with_the_same_picture_on_both_sides_have_no_routes(model):
    pairs = list(edited_pairs("test", 2, difficulty=0.2))
    found = pair_routes(model, pairs, [(2, 0), (3, 1)])
    assert found.of_picture == (OBJECT, REST) and np.abs(found.lost[:, :2]).max() > 0
    np.testing.assert_allclose(found.by_picture, found.lost[:, :2].sum(1), atol=1e-6)
    same = [replace(pair, after=pair.before) for pair in pairs]
    assert np.abs(np.nan_to_num(pair_routes(model, same, [(2, 0)]).lost)).max() < 1e-5


def test_a_study_is_kept_and_goes_on(model, examples, tmp_path):
    keep = Keep(tmp_path / "routes", resume=True)
    first = visual_routes(model, examples, [(2, 3)], keep=keep)
    again = load_result(tmp_path / "routes")
    np.testing.assert_array_equal(first.lost, again.lost)
    assert again.to_findings().statement == first.to_findings().statement
    assert visual_routes(model, examples, [(2, 3)], keep=keep).provenance["run_id"] == first.provenance["run_id"]


def planted(n: int = 40, reads=((0.3, 0.0), (0.0, 0.3), (0.2, 0.2), (0.0, 0.0), (-0.3, 0.0))) -> VisualRoutes:
    """Heads of known (picture, words), with noise."""
    rng = np.random.default_rng(0)
    asked = tuple(
        Asked(f"q{i}", "Is it?", "yes", ("yes", "no"), ("object", "attribute")[i % 2], "yes_no", f"p{i}")
        for i in range(n)
    )
    means = np.array(reads).T  # [route, head]
    lost = rng.normal(0, 0.05, (n, 4, len(reads)))
    lost[:, :2] += means
    lost[:, 2:] = 0
    about = {
        "title": "Routes",
        "settings": {"replaced": False},
        "model": {"name": "m"},
        "data": {"n": n},
        "caveats": [],
    }
    heads = tuple((0, h) for h in range(len(reads)))
    routes = (PICTURE, WORDS, "itself", "elsewhere")
    return VisualRoutes(asked, heads, routes, (PICTURE,), lost, lost.sum(1), np.abs(lost), about)


def test_heads_are_told_by_what_they_read():
    table = planted().table().set_index("head")
    assert list(table["reads"].sort_index()) == [PICTURE, WORDS, BOTH, UNTOLD, PICTURE]
    assert table.loc[4, "whole"] < 0 < table.loc[4, "picture_less_words"]  # a head that hurts, by the picture


def test_nothing_is_told_of_few_questions():
    assert set(planted(FEWEST - 2).table()["reads"]) == {UNTOLD}
    said = planted(FEWEST - 2).to_findings().statement
    assert "too few" in said[0]


def test_noise_alone_is_rarely_told():
    quiet = planted(60, reads=((0.0, 0.0),) * 40).table()
    assert (quiet["reads"] != UNTOLD).sum() <= 2


def test_the_report_has_every_level(found):
    report = found.to_findings()
    assert set(report.tables["Counts"]["level"]) >= {"all", *found.levels}
    assert all(figure.data for figure in report.figures.values())


@pytest.mark.parametrize(
    ("heads", "said"), [([], "expected some"), ([(0, 0), (0, 0)], "each once"), ([(99, 0)], "out of range")]
)
def test_heads_that_are_not_there(model, examples, heads, said):
    with pytest.raises(ValueError, match=said):
        visual_routes(model, examples, heads)


def test_no_questions_and_unknown_levels(model, found):
    with pytest.raises(ValueError, match="no questions"):
        visual_routes(model, [], [(0, 0)])
    with pytest.raises(ValueError, match="level='colour'"):
        found.table("colour")

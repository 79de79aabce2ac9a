"""What is said beside a ranking: nothing where nothing is wrong, the failure where there is one, at a small cost."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from interp.locating import locate
from interp.locating.beside import Looked, heads_not_seen, said_beside
from interp.pairs import PromptPairs
from interp.reading import default_metric
from probes.known_answers import ALTERATIONS, load_known
from tests.interp.locating.test_locate import PAIRS
from tests.tiny import tiny


@pytest.fixture(scope="module")
def hops():
    return load_known("three_hops")


def said(known, method="auto", positions="all", **chosen):
    ranking = locate(known.model, known.pairs(20, **chosen), method, positions=positions, check=0)
    assert ranking.provenance["beside_numbers"]["passes"] <= 0.2 * ranking.provenance["passes"]
    return " ".join(ranking.provenance["beside"])


@pytest.mark.parametrize("method", ["auto", "zero", "mean", "patch"])
def test_nothing_is_said_where_pairs_exercise_all_heads_and_all_positions_are_seen(hops, method):
    assert said(hops, method) == ""


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_heads_at_earlier_positions_are_counted(hops, method):
    assert "1 head acts at earlier positions that this ranking does not see (L0H3)" in said(hops, method, "answer")


@pytest.mark.parametrize("method", ["auto", "patch"])
def test_pairs_that_hold_a_variable_constant(hops, method):
    assert "Your pairs do not vary what L1H1 computes" in said(hops, method, constant="hop_1")


@pytest.mark.parametrize("method", ["auto", "patch"])
def test_pairs_that_do_not_exercise_a_head(hops, method):
    assert "Your pairs do not exercise L0H3" in said(hops, method, silent="previous")


def test_a_constant_moved_makes_zero_and_mean_disagree(hops):
    assert "Zero and own mean disagree" in said(ALTERATIONS["constant moved"](hops), "zero")
    assert said(ALTERATIONS["constant moved"](hops), "auto") == ""


def test_a_backup_that_wakes_is_found_by_removing_two(hops):
    assert "Removing L3H2 alone changes next to nothing, removing it with L4H3" in said(
        ALTERATIONS["backup head"](hops), "zero"
    )


@pytest.mark.parametrize("name", ["comparison-gpt2-1", "not_smallest", "lookup-llama-0"])
def test_nothing_is_said_of_other_models_that_pairs_exercise(name):
    assert said(load_known(name)) == ""


@pytest.mark.parametrize(
    "name, head", [("flagged_copy-llama-0", "L0H2"), ("next_to_flag", "L0H2"), ("two_hops", "L0H0")]
)
def test_heads_at_earlier_positions_of_other_models_at_a_fifth_of_the_cost(name, head):
    """Of the layers, those are looked at that act where the ranking does not look, not those that matter most."""
    assert f"1 head acts at earlier positions that this ranking does not see ({head})" in said(
        load_known(name), "zero", "answer"
    )


def test_nothing_is_looked_at_without_warn(hops):
    assert "beside" not in locate(hops.model, hops.pairs(4), "zero", check=0, warn=False).provenance


def test_the_report_says_it_after_the_first_sentence(hops):
    ranking = locate(hops.model, hops.pairs(20), "zero", positions="answer", check=0)
    assert "does not see" in ranking.to_findings().statement[1]


@pytest.mark.parametrize("passes", [3.0, 2.3, 0.1])
def test_what_is_too_dear_is_looked_at_more_cheaply(llama, passes):
    """Every head of a prompt, or the layers that lose most first, or by a gradient: what is found has its effect."""
    metric, nothing = default_metric(PAIRS.clean), np.zeros((len(PAIRS), llama.n_layers, llama.n_heads), np.float32)
    looked = Looked(llama, list(PAIRS.clean) * 10, metric, "answer", np.tile(nothing, (10, 1, 1)), passes=passes)
    found = heads_not_seen(looked)
    assert bool(found) == (passes > 1)
    exact = np.abs(interp.scan(llama, PAIRS.clean[:1], interp.ablate_each_head("zero"), positions="all", check=0).drop)
    assert all(exact[0, layer * llama.n_heads + head] > 0.05 * exact.max() for layer, head in found)


def test_a_gradient_finds_the_head_at_earlier_positions():
    twin = load_known("other_name-gpt2-1")
    pairs = twin.pairs(20)
    effects = locate(twin.model, pairs, "zero", positions="answer", check=0, warn=False).measures["effect"]
    looked = Looked(twin.model, pairs.clean, default_metric(pairs.clean), "answer", effects, passes=1.5)
    assert heads_not_seen(looked) == [(0, 1)]


def test_saturated_answers_are_said(llama):
    metric = default_metric(PAIRS.clean)
    nothing = np.full((len(PAIRS), llama.n_layers, llama.n_heads), 1e-4, np.float32)
    sentences, numbers = said_beside(Looked(llama, PAIRS.clean, metric, "all", nothing, passes=100.0))
    assert any("answers are saturated, or heads stand in for each other" in s for s in sentences)
    assert numbers["heads_not_seen"] == 0


def test_a_model_of_one_layer_has_no_earlier_heads():
    model = interp.load(tiny("llama", num_hidden_layers=1))
    assert said_beside(Looked(model, PAIRS.clean, default_metric(PAIRS.clean), "answer", np.ones((4, 1, 4))))[1]


def test_positions_that_all_prompts_share_are_no_earlier_ones():
    """A mean over positions would take away what a head gives at the first token of every prompt: no variable."""
    model = interp.load(tiny("llama"))
    pairs = PromptPairs.from_token_ids([(1, 2, 8, 5), (1, 2, 9, 5)], [(1, 2, 7, 5), (1, 2, 6, 5)], [(20, 21)] * 2)
    metric, nothing = default_metric(pairs.clean), np.zeros((2, model.n_layers, model.n_heads), np.float32)
    looked = {
        name: Looked(model, pairs.clean, metric, 2, nothing, 1e3, name, twins=pairs.corrupt) for name in ("", "zero")
    }
    assert looked[""].everywhere == 2 and heads_not_seen(looked[""]) == []
    assert looked["zero"].everywhere == "all" and heads_not_seen(looked["zero"])

"""The order of the options: scores as a ranking gives them, variance that falls into its parts, planted sides found."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from probes.negative_bias.nas import rank_by_effect, rank_heads
from probes.negative_bias.order_swap_result import ORDER_IN_ALL, OrderSwap
from probes.negative_bias.order_swap_study import WORDINGS, instruction_of, order_swap
from probes.questions.questions import Question
from tests.tiny import tiny, tiny_tokenizer

QUESTIONS = [
    Question("t1", "Is the sky blue on a clear day?", "Yes"),
    Question("t2", "Is it so?", "No"),
    Question("t3", "Can the kettle do so without any heat?", "No"),
]
PAIRS = (("Yes", "No"), ("A", "B"))
WORDS = {"wordings": WORDINGS[:2], "pairs": PAIRS}


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def result(model) -> OrderSwap:
    return order_swap(model, QUESTIONS, **WORDS, n_effects=2, batch_size=2)


def made_up(nas: np.ndarray, effects: np.ndarray | None = None) -> OrderSwap:
    """A result of these scores [example, wording, pair, order, layer, head]."""
    n, n_wordings, n_pairs = nas.shape[:3]
    pairs = tuple((f"yes{i}", f"no{i}") for i in range(n_pairs))
    effects = nas if effects is None else effects
    return OrderSwap(
        wordings=tuple(f"wording {i}" for i in range(n_wordings)),
        pairs=pairs,
        ids=tuple(map(str, range(n))),
        groups=tuple(map(str, range(n))),
        gold_yes=np.arange(n) % 2 == 0,
        nas=nas,
        effects=effects,
        log_probs=np.log(np.full((len(effects), n_wordings, n_pairs, 2, 2), 0.4)),
        n_tokens=np.ones((n_pairs, 2), dtype=int),
        provenance={"title": "t", "model": {"name": "m"}},
    )


def test_scores_are_those_of_the_rankings(model, result):
    for p, pair in enumerate(PAIRS):
        instruction = instruction_of(WORDINGS[1], pair)
        ranking = rank_heads(model, QUESTIONS, instruction=instruction, n_views=0)
        for order, name in enumerate(("nas", "nas_swapped_order")):
            assert np.allclose(result.nas[:, 1, p, order], ranking.measures[name], atol=1e-5)
        effect = rank_by_effect(model, QUESTIONS[:2], instruction=instruction, n_views=0)
        for order, name in enumerate(("total_effect", "total_effect_swapped_order")):
            assert np.allclose(result.effects[:, 1, p, order], effect.measures[name], atol=1e-4)


def test_letters_keep_what_they_stand_for_when_the_order_changes():
    plain, swapped = (instruction_of(WORDINGS[0], ("A", "B"), order) for order in (False, True))
    assert plain.text == "Answer the question with A or B." and swapped.text == "Answer the question with B or A."
    assert plain.layout == swapped.layout and "A stands for Yes, B for No." in plain.layout


def test_shares_of_variance_add_up_and_find_what_was_planted():
    rng = np.random.default_rng(0)
    side = rng.normal(size=(3, 12))  # what the order alone makes of a head
    word = rng.normal(size=(3, 12))
    sign = np.array([1.0, -1.0])[None, None, None, :, None, None]
    planted = 3 * sign * side + 1 * word + 0.1 * rng.normal(size=(20, 3, 2, 2, 3, 12))
    table = made_up(planted).variance().set_index("what changes")
    assert table.drop(ORDER_IN_ALL)["nas"].sum() == pytest.approx(1)
    assert table.loc[ORDER_IN_ALL, "nas"] == pytest.approx(table[table.index.str.contains("order")]["nas"][:-1].sum())
    of_order, of_head = 9 * side.var(), word.var()
    assert table.loc["order", "nas"] == pytest.approx(of_order / (of_order + of_head + 0.01), abs=0.01)
    assert table.loc["the head", "nas"] == pytest.approx(of_head / (of_order + of_head + 0.01), abs=0.01)
    assert table.loc["order", "nas_low"] < table.loc["order", "nas"] < table.loc["order", "nas_high"]
    assert (table.drop(["order", "the head", "the rest", ORDER_IN_ALL])["nas"] < 0.01).all()


def test_shares_are_those_of_a_slow_decomposition():
    nas = np.random.default_rng(1).normal(size=(5, 3, 2, 2, 2, 3))
    table = made_up(nas).variance().set_index("what changes")["nas"]
    cells = nas - nas.mean((-1, -2), keepdims=True)
    grand = cells.mean((0, 1, 2, 3))
    whole = (cells**2).sum()
    order = cells.mean((0, 1, 2)) - grand
    assert table["order"] == pytest.approx((order**2).sum() * 5 * 3 * 2 / whole)
    questions = cells.mean((1, 2, 3)) - grand
    assert table["questions"] == pytest.approx((questions**2).sum() * 12 / whole)


def test_a_ranking_by_place_turns_and_one_by_word_stays():
    rng = np.random.default_rng(2)
    base = rng.normal(size=(4, 10)) + np.linspace(0, 4, 40).reshape(4, 10)
    sign = np.array([1.0, -1.0])[None, None, None, :, None, None]
    noise = 0.05 * rng.normal(size=(12, 1, 1, 2, 4, 10))
    place, word = made_up(sign * base + noise, base + noise), made_up(0 * sign + base + noise, sign * base + noise)
    turned, kept = place.to_frame().iloc[0], word.to_frame().iloc[0]
    assert (turned["turn"], turned["keep_sign"], turned["effect_keeps_sign"]) == (10, 0, 10)
    assert (kept["turn"], kept["keep_sign"], kept["stay"], kept["effect_keeps_sign"]) == (0, 10, 10, 0)
    assert kept["spearman_swapped"] > 0.95 and turned["spearman_swapped"] < -0.95
    assert "0 keep their sign and 10 turn it" in place.statement()[0]
    order = place.agreement().query("score == 'nas' and `rankings differ in` == 'order'").iloc[0]
    assert order["spearman"] < -0.95


def test_report_is_saved_read_back_and_resumed(model, result, tmp_path):
    first = order_swap(model, QUESTIONS, **WORDS, n_effects=2, batch_size=2, keep=tmp_path / "a")
    read = interp.load_result(tmp_path / "a")
    assert np.array_equal(read.nas, first.nas) and read.pairs == PAIRS
    assert read.statement() == first.statement()
    again = order_swap(model, QUESTIONS, **WORDS, n_effects=2, keep={"out": tmp_path / "a", "resume": True})
    assert np.array_equal(again.effects, first.effects)
    assert len(first.heads()) == 10 and set(first.correlations()["options"]) == {"all", "Yes or No", "A or B"}


def test_effects_can_be_left_out(model, result, tmp_path):
    found = order_swap(model, QUESTIONS, **WORDS, n_effects=0, keep=tmp_path)
    assert np.allclose(found.nas, result.nas, atol=1e-5) and len(found.effects) == len(found.log_probs) == 0
    assert found.correlations().empty and "effects" not in found.variance() and found.heads()["effect"].isna().all()
    assert not any("effect" in sentence for sentence in interp.load_result(tmp_path).statement())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"wordings": ["Say {negative} or {positive}."]}, "must hold"),
        ({"wordings": []}, "one or more of each"),
        ({"n_effects": 1}, "2 or more of each"),
        ({"pairs": [("Yes", "No"), ("Yes", "No")]}, "each once"),
    ],
)
def test_refuses(model, changes, match):
    with pytest.raises(ValueError, match=match):
        order_swap(model, QUESTIONS, **{**WORDS, **changes})

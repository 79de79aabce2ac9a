"""Factors from scores, and factors that are searched: laws, slow twins, a planted harmful head."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import interp
from interp.edits.head_scales import heads_scaled
from interp.fitting.factor_gradient import factors_applied, gradient_search, mean_gold_loss
from interp.fitting.factor_search import coordinate_search
from interp.fitting.factors import (
    changed_heads,
    factors_by_rule,
    factors_top_k,
    largest_change,
    random_factors,
    strength_for,
)
from interp.fitting.modulation import as_edit, branch_of
from interp.fitting.tuning import frozen
from tests.interp.tiny_vision import picture, tiny_vision
from tests.tiny import VOCABULARY, YES, prompt, tiny

HARMFUL = (2, 1)


def gold(p: interp.Prompt, word: str) -> interp.Prompt:
    return interp.Prompt.from_token_ids(p.token_ids, answers=p.answers, gold=word, id=p.id)


def prompts(n: int, length: int = 12, seed: int = 0) -> list[interp.Prompt]:
    return [gold(prompt(length + i % 3, seed=1000 * seed + i), ("Yes", "No")[i % 2]) for i in range(n)]


@pytest.fixture(scope="module")
def harmed() -> tuple[interp.Model, list[interp.Prompt]]:
    """A model in which one head drowns what all others say, and prompts whose gold answer is what they say."""
    model = interp.load(tiny("llama"))
    made = [prompt(10, seed=i) for i in range(300)]
    with heads_scaled(model, {HARMFUL: 0.0}):
        said = model.final_logits(made, batch_size=32).argmax(-1).tolist()
    made = [
        interp.Prompt.from_token_ids(p.token_ids, answers={"it": [token]}, gold="it", id=p.id)
        for p, token in zip(made, said, strict=True)
    ]
    projection = model.components.blocks[HARMFUL[0]].out_projection
    columns = slice(HARMFUL[1] * model.d_head, (HARMFUL[1] + 1) * model.d_head)
    with torch.no_grad():
        projection.weight[:, columns] *= 4
    return model, made


def accuracy(model: interp.Model, given, factors) -> float:
    """Over the whole vocabulary."""
    with heads_scaled(model, changed_heads(factors)):
        said = model.final_logits(given, batch_size=32).argmax(-1).tolist()
    return float(np.mean([token in p.answer_tokens("gold") for token, p in zip(said, given, strict=True)]))


def test_the_released_rule_by_hand():
    scores = np.array([[0.5, -0.25, 3.0], [-3.0, 0.0, 0.01]])
    np.testing.assert_allclose(factors_by_rule(scores), [[1.5, 0.75, 2.0], [0.0, 1.0, 1.01]])
    np.testing.assert_allclose(factors_by_rule(scores, 2, low=0.5, high=1.5), [[1.5, 0.5, 1.5], [0.5, 1.0, 1.02]])
    assert largest_change(factors_by_rule(scores)) == 1 and largest_change(factors_by_rule(scores, 0)) == 0
    assert changed_heads(factors_by_rule(scores, 0)) == {}
    strength = strength_for(scores, 0.3)
    assert largest_change(factors_by_rule(scores, strength)) == pytest.approx(0.3)
    assert strength_for(np.zeros((2, 2)), 0.3) == 0


@pytest.mark.parametrize("strength", [-50, -1, 0.3, 1, 1e6])
def test_factors_stay_within_limits(strength):
    scores = np.random.default_rng(0).normal(size=(5, 6))
    factors = factors_by_rule(scores, strength)
    assert factors.min() >= 0 and factors.max() <= 2


def test_top_k_by_hand():
    positive = np.array([[0.9, 0.1, 0.0], [0.5, -1.0, -2.0]])
    np.testing.assert_array_equal(factors_top_k(positive, None, 2, 1.5, 0.5), [[1.5, 1, 1], [1.5, 0.5, 0.5]])
    np.testing.assert_array_equal(factors_top_k(positive, None, 5, 1.5, 0.5), [[1.5, 1.5, 1], [1.5, 0.5, 0.5]])
    negative = np.array([[0.8, 0.0, 0.7], [0.0, 0.0, 0.0]])  # L0H0 is among both: left alone
    np.testing.assert_array_equal(factors_top_k(positive, negative, 2, 2, 0), [[1, 1, 0], [2, 1, 1]])
    np.testing.assert_array_equal(factors_top_k(np.zeros((2, 3)), None, 2), np.ones((2, 3)))


def test_random_factors_keep_layers_and_factors_but_not_heads():
    factors = np.ones((4, 6))
    factors[1, 2], factors[3, [0, 5]] = 0.5, (0.0, 2.0)
    drawn = random_factors(factors, 10)
    assert len({d.tobytes() for d in drawn}) == 10
    for table in drawn:
        for layer in range(4):
            np.testing.assert_array_equal(np.sort(table[layer]), np.sort(factors[layer]))
        assert not set(changed_heads(table)) & set(changed_heads(factors))
    dense = factors_by_rule(np.random.default_rng(0).normal(size=(3, 4)))
    for table in random_factors(dense, 5):
        np.testing.assert_array_equal(np.sort(table, 1), np.sort(dense, 1))
        assert (table != dense).any()
    assert random_factors(np.ones((2, 3)), 4) == []
    assert len(random_factors(np.array([[0.5, 1, 1]]), 9)) == 2
    assert [t.tolist() for t in random_factors(factors, 3)] == [t.tolist() for t in drawn[:3]]


def test_bad_scores_are_refused(llama):
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2\).*mean over examples"):
        factors_by_rule(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="1 values that are not finite"):
        factors_by_rule(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match="low <= 1 <= high"):
        factors_by_rule(np.zeros((2, 2)), low=1.2)
    with pytest.raises(ValueError, match="strength=nan"):
        factors_by_rule(np.zeros((2, 2)), float("nan"))
    with pytest.raises(ValueError, match="expected 1 to 4, the number of heads"):
        factors_top_k(np.zeros((2, 2)), None, 5)
    with pytest.raises(ValueError, match="expected one shape"):
        factors_top_k(np.zeros((2, 2)), np.zeros((2, 3)), 1)
    with pytest.raises(ValueError, match=r"shape \(2, 2\).*4 layers of 4 heads"):
        as_edit(llama, np.ones((2, 2)))


def test_the_edit_is_scaled_heads_and_a_strength_of_zero_changes_nothing(llama):
    given = prompts(4)
    scores = np.random.default_rng(0).normal(size=(4, 4))
    edit = as_edit(llama, factors_by_rule(scores, 0.5), {"from": "a test"})
    assert isinstance(edit, interp.ScaledHeads) and edit.about == {"from": "a test"} and len(edit.factors) == 16
    plain = llama.final_logits(given)
    with as_edit(llama, factors_by_rule(scores, 0.0)).apply(llama):
        assert torch.equal(llama.final_logits(given), plain)
    with edit.apply(llama):
        edited = llama.final_logits(given)
    assert (edited - plain).abs().max() > 0.1
    branch = branch_of(factors_by_rule(scores, 0.5))
    found = interp.scan(llama, given, [branch], metric=interp.Probability("Yes"), positions="all")
    np.testing.assert_allclose(found.values[:, 0], edited.softmax(-1)[:, YES], atol=1e-5)


@pytest.mark.parametrize("positions", ["all", "answer"])
def test_coordinate_search_by_fan_out_is_the_slow_loop(llama, positions):
    given, held = prompts(5), prompts(4, seed=1)
    heads = [(0, 1), (2, 3), (3, 0)]
    found = [
        coordinate_search(llama, given, heads, held_back=held, positions=positions, method=method, rounds=2)
        for method in ("fan-out", "loop")
    ]
    np.testing.assert_array_equal(found[0].factors, found[1].factors)
    np.testing.assert_allclose(found[0].to_frame(), found[1].to_frame(), atol=1e-5)
    assert set(changed_heads(found[0].factors)) <= set(heads)


def test_one_round_by_hand(llama):
    """The best of every single change, or of the best ones joined, by plain passes under the edit itself."""
    given, heads, values = prompts(6), [(1, 0), (1, 2), (3, 3)], (0.0, 2.0)

    def loss(changes):
        with heads_scaled(llama, changes):
            log_probs = llama.final_logits(given).log_softmax(-1)
        rows = zip(log_probs, given, strict=True)
        return -float(np.mean([row[p.answer_tokens("gold")[0]].item() for row, p in rows]))

    best = {h: min((loss({h: v}), v) for v in values) for h in heads}
    order = sorted((h for h in heads if best[h][0] < loss({})), key=lambda h: best[h][0])
    assert order
    sets = [{h: best[h][1] for h in order[:n]} for n in range(1, len(order) + 1)]
    expected = min(sets, key=loss)
    found = coordinate_search(llama, given, heads, values=values, rounds=1)
    assert changed_heads(found.factors) == expected
    assert found.loss_before == pytest.approx(loss({}), abs=1e-5)
    assert found.loss == pytest.approx(loss(expected), abs=1e-5)
    assert np.isnan(found.held_back)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("how", ["coordinate", "gradient"])
@pytest.mark.filterwarnings("ignore:in bfloat16 rounding")
def test_a_search_never_does_worse_on_what_it_was_searched_on(how, dtype):
    model, given, held = interp.load(tiny("qwen3", dtype)), prompts(8), prompts(6, seed=1)
    everything = [(a, b) for a in range(4) for b in range(4)]
    rng = np.random.default_rng(1)
    for held_back, start in ((), None), (held, None), (held, rng.uniform(0.5, 1.5, (4, 4))):
        if how == "coordinate":
            found = coordinate_search(model, given, everything[::3], held_back=held_back, start=start, rounds=2)
        else:
            found = gradient_search(
                model, given, held_back=held_back, start=start, steps=6, check_every=2, learning_rate=0.2
            )
        before = mean_gold_loss(model, given, np.ones((4, 4)) if start is None else start)
        slack = 1e-4 if dtype == torch.float32 else 0.02  # a scan and a batch round differently
        assert mean_gold_loss(model, given, found.factors) <= before + slack
        assert found.loss <= found.loss_before
        assert found.factors.min() >= 0 and found.factors.max() <= 2
        if len(held_back):
            assert found.held_back <= found.held_back_before + slack


@pytest.mark.parametrize("how", ["coordinate", "gradient"])
def test_a_planted_harmful_head_is_turned_down_and_held_out_accuracy_rises(harmed, how):
    model, made = harmed
    given, held, test = made[:60], made[60:100], made[100:]
    if how == "coordinate":
        heads = [(a, b) for a in range(4) for b in range(4)]
        found = coordinate_search(model, given[:30], heads, held_back=held, values=(0.0, 2.0), rounds=1)
    else:
        found = gradient_search(model, given, held_back=held, steps=60, learning_rate=0.1)
    assert found.factors[HARMFUL] < 0.3
    before, after = accuracy(model, test, np.ones((4, 4))), accuracy(model, test, found.factors)
    assert after > before + 0.1, (before, after)
    drawn = [accuracy(model, test, table) for table in random_factors(found.factors, 5)]
    assert after > max(drawn)


def test_the_gradient_is_the_slope_of_the_loss(llama):
    given, step = prompts(3), 1e-2
    at = np.random.default_rng(0).uniform(0.6, 1.4, (4, 4))
    factors = torch.tensor(at, dtype=torch.float32, requires_grad=True)
    with torch.enable_grad(), frozen(llama), factors_applied(llama, factors):
        logits = llama.hf(**llama.inputs(given).inputs, use_cache=False).logits[:, -1]
        loss = -torch.stack(
            [row[p.answer_tokens("gold")[0]] for row, p in zip(logits.log_softmax(-1), given, strict=True)]
        ).mean()
        loss.backward()
    for place in ((0, 0), (1, 3), (3, 2)):
        low, high = at.copy(), at.copy()
        low[place] -= step
        high[place] += step
        slope = (mean_gold_loss(llama, given, high) - mean_gold_loss(llama, given, low)) / (2 * step)
        assert factors.grad[place].item() == pytest.approx(slope, abs=1e-2)
    assert all(p.grad is None for p in llama.hf.parameters())


def test_a_pull_holds_heads_at_one_and_only_free_heads_move(llama):
    given = prompts(6)
    loose = gradient_search(llama, given, steps=8, pull=0.0, check_every=4)
    tight = gradient_search(llama, given, steps=8, pull=100.0, check_every=1)
    assert largest_change(tight.factors) < largest_change(loose.factors)
    few = gradient_search(llama, given, heads=[(1, 1), (2, 0)], steps=8, check_every=4)
    assert set(changed_heads(few.factors)) == {(1, 1), (2, 0)}


@pytest.mark.parametrize("how", ["coordinate", "gradient"])
def test_a_killed_search_goes_on_where_it_was(llama, how, tmp_path, monkeypatch):
    given, held = prompts(6), prompts(4, seed=1)
    heads = [(0, 1), (1, 1), (2, 3), (3, 0)]

    def search(keep=None, key="a"):
        if how == "coordinate":
            return coordinate_search(
                llama, given, heads, held_back=held, rounds=3, patience=9, least_gain=0, keep=keep, key=key
            )
        return gradient_search(
            llama, given, held_back=held, steps=9, check_every=3, patience=9, batch_size=4, keep=keep, key=key
        )

    whole = search()
    module = interp.fitting.factor_search if how == "coordinate" else interp.fitting.factor_gradient
    saved = module.save_state

    def killed(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "kept")
    monkeypatch.undo()
    before = (tmp_path / "kept" / "search.json").read_text()
    tensors = (tmp_path / "kept" / "search.safetensors").read_bytes()
    resumed = search(tmp_path / "kept")
    np.testing.assert_allclose(resumed.factors, whole.factors, atol=1e-6)
    np.testing.assert_allclose(resumed.to_frame(), whole.to_frame(), atol=1e-5)
    (tmp_path / "kept" / "search.json").write_text(before)  # of other tensors: a kill between the two files
    are_others = (tmp_path / "kept" / "search.safetensors").read_bytes() != tensors
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        np.testing.assert_allclose(search(tmp_path / "kept").factors, whole.factors, atol=1e-6)
    assert any("what was searched before is not used" in str(w.message) for w in told) == are_others
    assert len(search(tmp_path / "kept", "another").history) == len(whole.history)


def test_pictures(tmp_path):
    """A vision-language model: both searches run its pictures, and the edit is what was searched."""
    made = tiny_vision("llava")
    model = interp.load(made.hf, processor=made.processor)
    given = [
        model.prompt(f"Is it {i}?", image=picture(i // 2), answers=("Yes", "No"), gold=("Yes", "No")[i % 2], id=str(i))
        for i in range(4)
    ]
    for positions in ("all", "text"):
        found = coordinate_search(model, given, [(0, 0), (3, 1)], positions=positions, rounds=1)
        assert found.loss < found.loss_before
    found = gradient_search(model, given, steps=4, check_every=2, learning_rate=0.2)
    assert found.loss < found.loss_before
    with as_edit(model, found.factors).apply(model):
        log_probs = model.final_logits(given).log_softmax(-1)
    rows = zip(log_probs, given, strict=True)
    loss = -float(np.mean([row[list(p.answer_tokens("gold"))].logsumexp(0).item() for row, p in rows]))
    assert loss == pytest.approx(found.loss, abs=1e-4)


def test_bad_searches_are_refused(llama):
    with pytest.raises(ValueError, match="0 prompts"):
        coordinate_search(llama, [], [(0, 0)])
    with pytest.raises(ValueError, match="0 heads"):
        coordinate_search(llama, prompts(2), [])
    for search in (coordinate_search, gradient_search):
        with pytest.raises(ValueError, match=r"L4H0 is out of range.*layers 0..3 and heads 0..3"):
            search(llama, prompts(2), heads=[(0, 0), (4, 0)])
    with pytest.raises(ValueError, match="steps=0"):
        gradient_search(llama, prompts(2), steps=0)
    with pytest.raises(ValueError, match="4 layers of 4 heads"):
        gradient_search(llama, prompts(2), start=np.ones((2, 2)))
    without = [interp.Prompt.from_token_ids(range(3, VOCABULARY), answers={"Yes": [YES]}, id="none")]
    with pytest.raises(KeyError, match="gold"):
        gradient_search(llama, without)
    assert not any(m._forward_pre_hooks for m in llama.hf.modules())

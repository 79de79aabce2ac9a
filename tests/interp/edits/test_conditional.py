"""Steering on a condition: what fires is steered as by the steering alone, what does not is untouched, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import interp
from interp.edits.composed import Edits, load_edit
from interp.edits.conditional import ConditionalSteering
from interp.edits.conditions import Condition, places_of
from interp.edits.diff import compare_edits
from interp.edits.identity import describe_model
from interp.edits.steering import add_direction, clamp_direction
from interp.interventions.values import ResidualEdit
from interp.reading.generation import generate
from interp.reading.residual import residual_states
from tests.interp.edits.test_steering import direction_of, load
from tests.tiny import tiny

TEXTS = ["Is the sky blue?", "Can it?", "Yes or No: is the kettle heated on a clear day without any heat?", "So it is."]


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return load()


@pytest.fixture(scope="module")
def prompts(model) -> list[interp.Prompt]:
    return [model.prompt(text, id=text) for text in TEXTS]


def read_by_hand(model, prompts, vectors, normed) -> torch.Tensor:
    """The sum over layers of each state along its vector, at the request's own last token."""
    states = residual_states(model, prompts, [[p.instruction_end] for p in prompts])[:, :, 0]
    if normed:
        states = states / states.norm(dim=-1, keepdim=True)
    return sum(states[:, layer] @ vector for layer, vector in vectors.items())


def condition_of(model, prompts, normed=False, n_holding=2) -> Condition:
    """One that holds for the ``n_holding`` prompts of the largest readings."""
    vectors = {layer: direction_of(model, seed=9).vectors[layer] for layer in (1, 2)}
    tail = prompts[0].token_ids[prompts[0].instruction_end + 1 :]
    found = read_by_hand(model, prompts, vectors, normed).sort(descending=True).values
    threshold = float(found[n_holding - 1] + found[n_holding]) / 2
    return Condition(vectors, threshold, tail, len(tail), normed, describe_model(model), {"held": "2 of 4"})


def steering_of(model, **how):
    return add_direction(direction_of(model), 1.5, [2, 3], **how)


def logits(model, prompts) -> torch.Tensor:
    return model.final_logits(prompts, 4)


@pytest.mark.parametrize("normed", [False, True])
def test_what_is_read_is_what_a_plain_capture_gives(model, prompts, normed):
    condition = condition_of(model, prompts, normed)
    by_hand = read_by_hand(model, prompts, condition.vectors, normed) - condition.threshold
    torch.testing.assert_close(torch.tensor(condition.readings(model, prompts)).float(), by_hand, atol=1e-4, rtol=0)
    assert condition.holds(model, prompts).sum() == 2


@pytest.mark.parametrize("how", [{"while_generating": True}, {}, {"positions": "text"}])
def test_each_row_is_as_steered_or_as_untouched(model, prompts, how):
    steering = steering_of(model, **how)
    edit = ConditionalSteering(condition_of(model, prompts), steering)
    holds = edit.condition.holds(model, prompts)
    alone = generate(model, prompts, 4)
    with steering.apply(model, prompts):
        steered, said = logits(model, prompts), generate(model, prompts, 4)
    with edit.apply(model, prompts):
        found, replies = logits(model, prompts), generate(model, prompts, 4)
    plain = torch.stack([model.hf(torch.tensor([p.token_ids])).logits[0, -1] for p in prompts]).detach()
    for row, held in enumerate(holds):
        torch.testing.assert_close(found[row], (steered if held else plain)[row], atol=1e-4, rtol=0)
        assert replies[row] == (said if held else alone)[row]
    assert (found - plain)[holds].abs().amax(1).min() > 0.1


def test_samples_of_a_request_share_its_decision_in_every_batch(model, prompts):
    edit = ConditionalSteering(condition_of(model, prompts), steering_of(model, while_generating=True))
    how = {"temperature": 1.0, "n_samples": 2}
    with edit.apply(model):
        assert generate(model, prompts[:2], 3, **how) == generate(model, prompts[:2], 3, **how, batch_size=1)


def test_a_bare_model_decides_at_the_prompt_and_keeps_it(model, prompts):
    """generate with its cache, a reply in one pass with its prompt, right padding, and a loop without a cache agree."""
    edit = ConditionalSteering(condition_of(model, prompts), steering_of(model, while_generating=True))
    for p, held in list(zip(prompts, edit.condition.holds(model, prompts), strict=True))[:2]:
        ids = torch.tensor([p.token_ids])
        with edit.apply(model.hf), torch.no_grad():
            made = model.hf.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False)
            whole = model.hf(made[:, :-1]).logits[0]
            assert whole[ids.shape[1] - 1 :].argmax(-1).tolist() == made[0, ids.shape[1] :].tolist()
            mask = torch.ones_like(made)
            padded = torch.cat([made, torch.zeros(1, 3, dtype=made.dtype)], 1)
            mask = torch.cat([mask, torch.zeros(1, 3, dtype=mask.dtype)], 1)
            right = model.hf(padded, attention_mask=mask).logits[0, : made.shape[1]]
            torch.testing.assert_close(right[: len(whole)], whole, atol=1e-4, rtol=0)
        with torch.no_grad():
            assert torch.equal(model.hf(made[:, :-1]).logits[0], whole) != held


def test_a_cache_from_outside_and_other_rows_are_refused(model, prompts):
    edit = ConditionalSteering(condition_of(model, prompts), steering_of(model, while_generating=True))
    ids = torch.tensor([prompts[0].token_ids])
    with torch.no_grad():
        outside = model.hf(ids, use_cache=True).past_key_values
        with edit.apply(model):
            with pytest.raises(ValueError, match="was not read under this edit"):
                model.hf(ids[:, :1], past_key_values=outside)
            inside = model.hf(ids, use_cache=True).past_key_values
            model.hf(ids[:, :1], past_key_values=inside)
            inside.batch_repeat_interleave(2)
            with pytest.raises(ValueError, match="2 rows goes on from a cache of 1 requests"):
                model.hf(ids[:, :1].repeat(2, 1), past_key_values=inside)


def test_text_that_is_no_request_is_left_alone(model, prompts):
    edit = ConditionalSteering(condition_of(model, prompts), steering_of(model, while_generating=True))
    plain = [model.prompt("The sky is blue and the kettle boils.", chat=False)]
    assert edit.condition.readings(model, plain).tolist() == [-float("inf")]
    before = logits(model, plain)
    with edit.apply(model):
        assert torch.equal(logits(model, plain), before)


def test_the_last_tail_of_a_row_counts():
    ids = torch.tensor([[5, 8, 9, 4, 8, 9, 7], [8, 9, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 8]])
    assert places_of(ids, (8, 9), 0).tolist() == [5, 1, -1]
    assert places_of(ids, (8, 9), 2).tolist() == [3, -1, -1]
    assert places_of(ids[:, :1], (8, 9), 0).tolist() == [-1, -1, -1]


def test_saved_loaded_composed_and_in_a_bridge(model, prompts, tmp_path):
    edit = ConditionalSteering(condition_of(model, prompts, True), steering_of(model, while_generating=True), {"a": 1})
    again = load_edit(edit.save(tmp_path / "edit"))
    assert again.summary() == edit.summary() and "(on validation: 2 of 4)" in edit.summary()
    assert (compare_edits(edit, again)["verdict"] == "same").all()
    nothing = add_direction(direction_of(model), 0.0, 1, while_generating=True)
    composed = load_edit(Edits((nothing, edit)).save(tmp_path / "both"))
    with edit.apply(model):
        expected = logits(model, prompts)
    for other in (again, composed):
        with other.apply(model):
            assert torch.equal(logits(model, prompts), expected)
    hooks = edit.bridge_hooks(model.bridge)
    with torch.no_grad():
        bridged = [model.bridge.run_with_hooks(torch.tensor([p.token_ids]), fwd_hooks=hooks)[0, -1] for p in prompts]
    torch.testing.assert_close(torch.stack(bridged), expected, atol=1e-4, rtol=0)


def test_it_cannot_be_folded_or_exported_and_says_why(model, prompts, tmp_path):
    edit = ConditionalSteering(condition_of(model, prompts), steering_of(model, while_generating=True))
    for act in (lambda: edit.fold(model), lambda: edit.export(model, tmp_path / "out")):
        with pytest.raises(ValueError, match="can't be written into weights: it acts on some requests only"):
            act()


def test_guards_of_other_models_and_late_readings_are_refused(model, prompts):
    condition, steering = condition_of(model, prompts), steering_of(model, while_generating=True)
    with pytest.raises(ValueError, match=r"the condition is of 'another' \(weights 000000000000, 4 layers\)"):
        ConditionalSteering(
            replace(condition, model={**condition.model, "name": "another", "weights_sha256": "0" * 64}), steering
        )
    deeper = interp.load(tiny("llama", vocab_size=400, num_hidden_layers=6))
    with pytest.raises(ValueError, match=r"reads layers \[1, 2\] of a model of 4 layers; .* has 6"):
        ConditionalSteering(condition, steering).apply(deeper).__enter__()
    with pytest.raises(ValueError, match="begins at layer 1, and the condition is read up to layer 2"):
        ConditionalSteering(condition, add_direction(direction_of(model), 1.0, 1))
    with pytest.raises(ValueError, match="tail has 0 tokens"):
        replace(condition, tail=())
    with pytest.raises(ValueError, match="vector at layer 1 has 3 numbers"):
        replace(condition, vectors={1: torch.ones(3)}).check(model)


def test_a_turn_keeps_lengths_and_stops_at_the_direction():
    h, v = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)), torch.eye(16)[3] * 2
    for angle in (0.0, 0.3, 1.2, 3.0, -0.4, -3.0):
        turned = ResidualEdit(0, v, "turn", angle).on(h)
        torch.testing.assert_close(turned.norm(dim=-1), h.norm(dim=-1))
        before, after = (torch.acos((x[:, 3] / x.norm(dim=-1)).clamp(-1, 1)) for x in (h, turned))
        torch.testing.assert_close(after, (before - angle).clamp(0, torch.pi), atol=2e-3, rtol=0)
    assert torch.equal(ResidualEdit(0, v, "turn", 0.0).on(h), h)
    torch.testing.assert_close(ResidualEdit(0, v, "turn", 0.5).on(v[None] * 3), v[None] * 3)
    with pytest.raises(ValueError, match="from -pi to pi"):
        ResidualEdit(0, v, "turn", 4.0)


def test_what_a_clamp_does_on_a_condition(model, prompts):
    condition = condition_of(model, prompts)
    edit = ConditionalSteering(condition, clamp_direction(direction_of(model), 2.0, [3]))
    with edit.apply(model):
        states = residual_states(model, prompts, [[len(p) - 1] for p in prompts])[:, 3, 0]
    row = direction_of(model).vectors[3]
    along = states @ (row / row.norm())
    assert torch.equal(
        torch.isclose(along, torch.tensor(2.0), atol=1e-4), torch.tensor(condition.holds(model, prompts))
    )

"""Passes that share a prompt's beginning, or resume at a layer, equal one prompt at a time."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.edits.directions import Direction
from interp.edits.steering import add_direction
from interp.interventions.acting import edit_heads
from interp.passes.shared_prefix import UpperLayers, answer_logits, common_prefix
from tests.tiny import CONFIGS, prompt, tiny


def prompts_that_begin_alike(shared: int = 20, rests: tuple[int, ...] = (3, 9, 17, 1)) -> list[interp.Prompt]:
    start = prompt(shared).token_ids
    return [interp.Prompt.from_token_ids([*start, *prompt(n, seed=n + 50).token_ids]) for n in rests]


def one_by_one(model, prompts):
    with torch.no_grad():
        return torch.stack([model.hf(torch.tensor([p.token_ids])).logits[0, -1] for p in prompts])


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_one_prompt_at_a_time(name):
    """Longer than the sliding window of 12 tokens, on every architecture."""
    model = interp.load(tiny(name))
    prompts = prompts_that_begin_alike()
    assert common_prefix(prompts) == 20
    with torch.no_grad():
        found = answer_logits(model, prompts)
    torch.testing.assert_close(found, one_by_one(model, prompts), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_upper_layers_equal_the_whole_model(name, layer):
    model = interp.load(tiny(name))
    prompts = prompts_that_begin_alike()
    upper = UpperLayers(model, prompts, layer)
    torch.testing.assert_close(upper.all_logits(batch_size=3), one_by_one(model, prompts), atol=1e-4, rtol=0)
    again = one_by_one(model, prompts)  # nothing is left behind
    torch.testing.assert_close(upper.logits([2, 0]), again[[2, 0]], atol=1e-4, rtol=0)


def test_prompts_with_nothing_in_common(llama):
    prompts = [prompt(5, seed=1), prompt(9, seed=2)]
    assert common_prefix(prompts) == 0
    torch.testing.assert_close(answer_logits(llama, prompts), one_by_one(llama, prompts), atol=1e-4, rtol=0)
    upper = UpperLayers(llama, prompts, 1)
    torch.testing.assert_close(upper.all_logits(), one_by_one(llama, prompts), atol=1e-4, rtol=0)


def test_a_prompt_that_is_the_beginning_of_another(llama):
    whole = prompt(15)
    prompts = [whole, interp.Prompt.from_token_ids(whole.token_ids[:10]), whole]
    assert common_prefix(prompts) == 9
    torch.testing.assert_close(answer_logits(llama, prompts), one_by_one(llama, prompts), atol=1e-4, rtol=0)


def test_gradients_flow_as_in_a_plain_pass(llama):
    prompts = prompts_that_begin_alike()
    weight = llama.hf.model.layers[2].self_attn.q_proj.weight
    was = weight.requires_grad
    weight.requires_grad_(True)

    def gradient(logits):
        return torch.autograd.grad(logits.log_softmax(-1)[:, 7].sum(), weight)[0]

    slow = gradient(torch.stack([llama.hf(torch.tensor([p.token_ids])).logits[0, -1] for p in prompts]))
    fast = gradient(UpperLayers(llama, prompts, 1).logits(range(4)))
    weight.requires_grad_(was)
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


def test_edits_of_the_last_positions_still_act_there_alone(llama):
    """An edit that counts positions from the end would otherwise act at the end of the shared beginning too."""
    prompts = prompts_that_begin_alike(rests=(5, 5))
    edits = [(0, interp.HeadEdit(1, 2)), (1, interp.HeadEdit(1, 3))]
    with edit_heads(llama, 1, edits, last=1):
        found = llama.final_logits(prompts)
        with torch.no_grad():
            plain = llama.hf(torch.tensor([p.token_ids for p in prompts])).logits[:, -1]
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=0)
    assert (found - llama.final_logits(prompts)).abs().max() > 0.01


def test_edits_that_count_positions_are_refused():
    """A rest of one token would look like a token that was generated, and be left unsteered without a word."""
    model, prompts = interp.load(tiny("llama")), prompts_that_begin_alike()
    direction = Direction.from_tensors({1: torch.ones(32)}, model)
    upper = UpperLayers(model, prompts, 0)
    for edit in (add_direction(direction), add_direction(direction, positions="answer", while_generating=True)):
        with edit.apply(model, prompts):
            with pytest.raises(ValueError, match=r"an edit that counts rows or positions is active"):
                upper.logits([0, 3])
            with pytest.raises(ValueError, match=r"while_generating=True, or leave the edit's block"):
                answer_logits(model, prompts)
            torch.testing.assert_close(model.final_logits(prompts), one_by_one(model, prompts), atol=1e-4, rtol=0)
    everywhere = add_direction(direction, while_generating=True)
    with everywhere.apply(model), torch.no_grad():
        torch.testing.assert_close(upper.logits([0, 3]), one_by_one(model, prompts)[[0, 3]], atol=1e-4, rtol=0)

"""Tuning one head's rows: equal to a slow loop that masks gradients; nothing else moves, also under weight decay."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.edits.head_rows import TunedHeads
from interp.edits.identity import describe_model
from interp.fitting.tuning import HeadTuner, KeptAnswers, LoraTuner, LossNotFinite, ReplyTuner, gold_loss
from interp.reading.residual import residual_states
from tests.tiny import prompt, tiny

PROMPTS = [prompt(length, seed=length) for length in (6, 9, 12, 15)]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}


def slow_twin(name: str, weight_decay: float, steps: int) -> tuple[torch.Tensor, list[float]]:
    """All of W_Q in the optimiser, gradients outside the head's rows zeroed, frozen rows put back after each step."""
    model = interp.load(tiny(name))
    module = model.components.blocks[2].query_projection
    parameters = [module.weight] + ([module.bias] if module.bias is not None else [])
    kept = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=weight_decay)
    rows = slice(model.d_head, 2 * model.d_head)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        logits = torch.stack([model.hf(torch.tensor([p.token_ids])).logits[0, -1] for p in PROMPTS])
        loss = gold_loss(logits, PROMPTS)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for parameter, before in zip(parameters, kept, strict=True):
                now = parameter[rows].clone()
                parameter.copy_(before)
                parameter[rows] = now
    return module.weight[rows].detach(), losses


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "qwen3"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equals_the_slow_twin_and_moves_nothing_else(name, weight_decay):
    expected, losses = slow_twin(name, weight_decay, steps=4)
    model = interp.load(tiny(name))
    before = weights(model)
    tuner = HeadTuner(model, 2, 1, PROMPTS, learning_rate=0.01, weight_decay=weight_decay)
    found = [tuner.step(range(4)) for _ in range(4)]
    assert found == pytest.approx(losses, abs=1e-4)
    torch.testing.assert_close(tuner.rows[0].weight, expected, atol=2e-4, rtol=0)
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights(model).items())
    assert all(p.requires_grad for p in model.hf.parameters())  # as it was given to us

    TunedHeads(describe_model(model), {}, tuner.rows).fold(model)
    rows = slice(model.d_head, 2 * model.d_head)
    for key, tensor in weights(model).items():
        if "layers.2.self_attn.q_proj" in key:
            assert not torch.equal(tensor[rows], before[key][rows])
            tensor[rows] = before[key][rows]
        assert torch.equal(tensor, before[key]), key


def test_what_is_kept_stays_closer_to_what_it_was():
    """KL of the kept prompts' next token: 0 before the first step, and smaller for being in the loss."""
    model = interp.load(tiny("llama"))
    same = KeptAnswers.of(model, [prompt(length, seed=50 + length) for length in (7, 8, 10)], weight=20.0)
    assert same.loss(model.final_logits(list(same.prompts)), range(3)).item() == pytest.approx(0, abs=1e-5)
    drift = []
    for kept in (None, same):
        tuner = HeadTuner(model, 2, 1, PROMPTS, learning_rate=0.01, kept=kept)
        for _ in range(8):
            tuner.step(range(4), range(3) if kept else ())
        with tuner.applied():
            drift.append(same.loss(model.final_logits(list(same.prompts)), range(3)).item())
    assert 0 < drift[1] < 0.8 * drift[0]


def test_the_key_group_names_its_siblings():
    model = interp.load(tiny("llama"))  # four query heads on two key heads
    tuner = HeadTuner(model, 1, 2, PROMPTS, learning_rate=0.01, key_group=True)
    tuner.step([0, 1])
    assert tuner.siblings == (3,)
    assert [r.label for r in tuner.rows] == ["L1H2", "L1K1"]
    before = weights(model)
    TunedHeads(describe_model(model), {}, tuner.rows).fold(model)
    changed = {k for k, t in weights(model).items() if not torch.equal(t, before[k])}
    assert changed == {f"model.layers.1.self_attn.{p}_proj.weight" for p in "qk"}


def test_applied_rows_act_as_folded_ones():
    model = interp.load(tiny("llama"))
    tuner = HeadTuner(model, 1, 0, PROMPTS, learning_rate=0.05)
    tuner.step(range(4))
    with tuner.applied():
        hooked = model.final_logits(PROMPTS)
    TunedHeads(describe_model(model), {}, tuner.rows).fold(model)
    torch.testing.assert_close(hooked, model.final_logits(PROMPTS), atol=1e-4, rtol=0)


def test_bfloat16_rows_are_trained_in_float32():
    model = interp.load(tiny("llama", dtype=torch.bfloat16))
    tuner = HeadTuner(model, 1, 0, PROMPTS, learning_rate=0.01)
    losses = [tuner.step(range(4)) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert tuner.rows[0].weight.dtype == torch.bfloat16


def test_a_loss_that_is_not_finite_names_the_step(monkeypatch):
    model = interp.load(tiny("llama"))
    before = weights(model)
    tuner = HeadTuner(model, 1, 0, PROMPTS, learning_rate=0.01)
    tuner.step(range(4))
    monkeypatch.setattr(
        "interp.fitting.tuning.gold_loss", lambda *given: torch.tensor(float("nan"), requires_grad=True)
    )
    with pytest.raises(LossNotFinite, match="L1H0 is nan at step 2"):
        tuner.step(range(4))
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights(model).items())


def test_prompts_without_gold_are_refused(llama):
    with pytest.raises(ValueError, match="1 prompts have no gold"):
        HeadTuner(llama, 0, 0, [interp.Prompt.from_token_ids([1, 2, 3])], learning_rate=0.1)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_lora_learns_merges_and_leaves_nothing_behind(name):
    model = interp.load(tiny(name))
    before, clean = weights(model), model.final_logits(PROMPTS)
    with LoraTuner(model, PROMPTS, rank=2, learning_rate=0.01) as tuner:
        losses = [tuner.step(range(4)) for _ in range(5)]
        adapted = model.final_logits(PROMPTS)
        rows = tuner.rows
    assert losses[-1] < losses[0] and tuner.n_parameters > 0
    after = weights(model)
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)
    assert torch.equal(model.final_logits(PROMPTS), clean)
    with TunedHeads(describe_model(model), {}, rows).apply(model):
        torch.testing.assert_close(model.final_logits(PROMPTS), adapted, atol=1e-4, rtol=0)


def replies(model) -> list[interp.Prompt]:
    """Prompts of several lengths whose last tokens are the reply."""
    return [
        interp.Prompt.from_token_ids(
            prompt(length, seed=length).token_ids, spans={"reply": tuple(range(start, length))}
        )
        for length, start in ((9, 5), (14, 11), (7, 3), (12, 4))
    ]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "mistral"])
def test_the_loss_is_over_reply_tokens_only(name):
    model = interp.load(tiny(name))
    pairs = replies(model)
    expected = []
    for p in pairs:  # one at a time, nothing padded
        logits = model.hf(torch.tensor([p.token_ids])).logits[0].log_softmax(-1)
        expected += [-logits[i - 1, p.token_ids[i]].item() for i in p.span("reply")]
    with ReplyTuner(model, pairs, rank=2, learning_rate=0.01) as tuner:
        assert tuner.loss(batch_size=3) == pytest.approx(sum(expected) / len(expected), abs=1e-4)
        assert tuner.step(range(4)) == pytest.approx(sum(expected) / len(expected), abs=1e-4)
        assert tuner.loss() < sum(expected) / len(expected)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2"])
def test_reply_tuning_acts_everywhere_and_leaves_nothing_behind(name):
    model = interp.load(tiny(name))
    pairs, before = replies(model), weights(model)
    attributes = set(vars(model.hf))
    clean, states = model.final_logits(PROMPTS), residual_states(model, PROMPTS, [[5]] * 4)
    with ReplyTuner(model, pairs, rank=2, learning_rate=0.01) as tuner:
        losses = [tuner.step(range(4)) for _ in range(6)]
        assert not torch.equal(residual_states(model, PROMPTS, [[5]] * 4), states)
        assert not torch.equal(model.final_logits(PROMPTS), clean)
    assert losses[-1] < losses[0] and tuner.n_steps == 6
    after = weights(model)
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)
    assert torch.equal(model.final_logits(PROMPTS), clean)
    assert all(p.requires_grad for p in model.hf.parameters()) and set(vars(model.hf)) <= attributes | {"peft_config"}


def test_reply_tuning_of_a_seed_repeats_itself_and_leaves_torch_s_generator():
    model = interp.load(tiny("llama"))
    state = torch.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        with ReplyTuner(model, replies(model), rank=2, learning_rate=0.01, seed=seed) as tuner:
            found.append([tuner.step(range(4)) for _ in range(3)])
    assert found[0] == found[1] != found[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_reply_tuning_leaves_the_place_of_head_edits_alone():
    model = interp.load(tiny("llama"))
    with ReplyTuner(model, replies(model), rank=2, learning_rate=0.01):
        tuned = {name.split(".")[-4] for name, _ in model.hf.named_parameters() if "lora_A" in name}
    assert tuned == {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"}


def test_reply_tuning_stops_at_a_loss_that_is_not_finite():
    model = interp.load(tiny("llama"))
    before = weights(model)
    tuner = ReplyTuner(model, replies(model), rank=2, learning_rate=1e30)
    with pytest.raises(LossNotFinite, match="the replies is nan at step"), tuner:
        for _ in range(5):
            tuner.step(range(4))
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights(model).items())


def test_prompts_without_a_reply_are_refused(llama):
    with pytest.raises(ValueError, match="1 prompts have no reply"):
        ReplyTuner(llama, [*replies(llama), interp.Prompt.from_token_ids([1, 2, 3])], learning_rate=0.1)

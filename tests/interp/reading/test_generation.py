"""Replies: held to a plain token-by-token loop; the same for every batch size; edits act on every token."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.interventions.acting import edit_heads
from interp.interventions.values import HeadEdit
from interp.passes import end_tokens
from interp.reading import generation
from interp.reading.generation import generate
from tests.tiny import tiny, tiny_tokenizer

TEXTS = ["Is the sky blue?", "Can it do so?", "Yes or No: is the kettle heated on a clear day without any heat?"]


def load(architecture: str = "llama", dtype=torch.float32) -> interp.Model:
    return interp.load(tiny(architecture, dtype, vocab_size=400), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return load()


def prompts(model) -> list[interp.Prompt]:
    return [model.prompt(text, id=text) for text in TEXTS]


def by_hand(model, prompt, n: int) -> str:
    """One plain forward pass over everything, without a cache, for each token."""
    ids, new = list(prompt.token_ids), []
    for _ in range(n):
        with torch.no_grad():
            token = int(model.hf(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in end_tokens(model):
            break
        ids.append(token)
        new.append(token)
    return model.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_greedy_is_a_loop_of_plain_passes(architecture):
    model = load(architecture)
    replies = generate(model, prompts(model), 12, batch_size=3)
    assert replies == [[by_hand(model, p, 12)] for p in prompts(model)]
    assert any(reply.strip() for (reply,) in replies)


def test_the_batch_size_changes_nothing(model):
    for settings in ({}, {"temperature": 0.9, "n_samples": 3}):
        wide = generate(model, prompts(model), 8, batch_size=16, **settings)
        assert wide == generate(model, prompts(model), 8, batch_size=1, **settings)
        assert wide[::-1] == generate(model, prompts(model)[::-1], 8, batch_size=2, **settings)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_samples_share_the_pass_over_their_prompt(architecture, monkeypatch):
    model, settings = load(architecture), {"temperature": 0.9, "n_samples": 3, "batch_size": 5}
    shared, calls = generate(model, prompts(model), 8, **settings), []
    real = generation.run_pass
    monkeypatch.setattr(generation, "run_pass", lambda *given: calls.append(given) or real(*given))
    assert generate(model, prompts(model), 8, **settings) == shared and calls
    monkeypatch.setattr(generation, "_read_once", lambda *given: {})
    assert generate(model, prompts(model), 8, **settings) == shared


def test_samples_repeat_with_the_seed_and_leave_torch_alone(model):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = generate(model, prompts(model), 8, temperature=1.0, n_samples=4, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    assert generate(model, prompts(model), 8, temperature=1.0, n_samples=4, seed=1) == first
    assert generate(model, prompts(model), 8, temperature=1.0, n_samples=4, seed=2) != first
    assert all(len(samples) == 4 and len(set(samples)) > 1 for samples in first)


def test_samples_follow_the_softmax(model):
    """4000 first tokens at temperature 2 against their probabilities: within four standard errors each."""
    (prompt, *_) = prompts(model)
    probabilities = (model.final_logits([prompt])[0] / 2).softmax(-1)
    drawn = generate(model, [prompt], 1, temperature=2.0, n_samples=4000, batch_size=1000)[0]
    for token in probabilities.topk(4).indices.tolist():
        text = model.tokenizer.decode([token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        same = [t for t in range(400) if model.tokenizer.decode([t], skip_special_tokens=True) == text]
        p = float(probabilities[same].sum())
        assert abs(drawn.count(text) / 4000 - p) < 4 * (p * (1 - p) / 4000) ** 0.5


def test_a_cold_sample_is_the_greedy_reply(model):
    cold = generate(model, prompts(model), 8, temperature=1e-4, n_samples=2)
    assert cold == [[reply, reply] for (reply,) in generate(model, prompts(model), 8)]


def test_edits_act_on_every_token_and_are_gone_afterwards(model):
    plain = generate(model, prompts(model), 8)
    first, second = ([(0, HeadEdit(layer, head)) for head in range(4)] for layer in (1, 2))
    with edit_heads(model, 1, first), edit_heads(model, 2, second):
        edited = generate(model, prompts(model), 8, batch_size=1)
        assert edited == [[by_hand(model, p, 8)] for p in prompts(model)]
    assert edited != plain == generate(model, prompts(model), 8)


def test_the_models_own_sampling_settings_are_not_used_and_not_lost(model):
    plain = generate(model, prompts(model), 12)
    own = model.hf.generation_config
    own.repetition_penalty, own.do_sample, own.top_k = 5.0, True, 2
    try:
        assert generate(model, prompts(model), 12) == plain
        assert model.hf.generation_config is own and own.repetition_penalty == 5.0
    finally:
        own.repetition_penalty, own.do_sample, own.top_k = 1.0, False, 50


def test_an_end_token_ends_the_reply_and_may_be_forbidden(model):
    (prompt, *_) = prompts(model)
    first = int(model.final_logits([prompt])[0].argmax())
    own = model.hf.generation_config.eos_token_id
    model.hf.generation_config.eos_token_id = [own, first]
    try:
        assert end_tokens(model) == [own, first] or first in end_tokens(model)
        short = generate(model, [prompt], 6)
        longer = generate(model, [prompt], 6, min_new_tokens=4)
    finally:
        model.hf.generation_config.eos_token_id = own
    assert len(short[0][0]) < len(longer[0][0])


def test_it_goes_on_from_a_given_reply(model):
    begun = model.prompt(TEXTS[0], reply="Yes, the")
    (reply,) = generate(model, [begun], 6)
    assert reply == [by_hand(model, begun, 6)]


def test_half_precision():
    model = load(dtype=torch.bfloat16)
    greedy = generate(model, prompts(model), 8)
    assert greedy == generate(model, prompts(model), 8) and any(reply for (reply,) in greedy)
    assert len(generate(model, prompts(model), 4, temperature=0.7, n_samples=2)[0]) == 2


def test_nan_is_named():
    model = load()
    with torch.no_grad():
        model.hf.model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(interp.NonFiniteLogitsError, match="the output of layer 2"):
        generate(model, prompts(model), 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_samples": 3}, "n_samples=3 at temperature 0 would all be the same reply"),
        ({"temperature": -1.0}, r"temperature=-1.0; expected 0 \(greedy\)"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"min_new_tokens": 9, "max_new_tokens": 4}, r"min_new_tokens=9; expected 0 to max_new_tokens \(4\)"),
        ({"max_new_tokens": 120}, "120 are to come; .* reads at most 128. Shorten"),
    ],
)
def test_bad_settings_are_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        generate(model, prompts(model), **settings)


def test_no_prompts_no_tokenizer(model):
    with pytest.raises(ValueError, match="no prompts were given"):
        generate(model, [])
    bare = interp.load(tiny("llama"))
    with pytest.raises(ValueError, match="without a tokenizer"):
        generate(bare, [interp.Prompt.from_token_ids([3, 4])])

"""What is captured must be what TransformerLens's own hooks show, without keeping anything larger."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.architecture.attention import UnsupportedAttention
from interp.reading.capture import attention_log_probs, head_outputs, mean_head_outputs
from tests.tiny import CONFIGS, VOCABULARY, WINDOW, prompt, tiny

LENGTHS = (WINDOW - 3, 3 * WINDOW, WINDOW + 5)


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request) -> interp.Model:
    return interp.load(tiny(request.param))


@torch.no_grad()
def bridge_cache(model: interp.Model, p: interp.Prompt, hook: str) -> torch.Tensor:
    """The slow twin: one prompt, no padding, every layer's hook from TransformerLens's run_with_cache."""
    _, cache = model.bridge.run_with_cache(torch.tensor([p.token_ids]))
    return torch.stack([cache[f"blocks.{layer}.attn.{hook}"][0] for layer in range(model.n_layers)])


def every(n: int) -> list[list[int]]:
    return [[i] for i in range(n)]


def test_log_probs_are_the_log_of_transformerlens_pattern(model):
    """Prompts shorter and longer than the window, in one batch padded on the left, every query and every key."""
    prompts = [prompt(n, seed=n) for n in LENGTHS]
    found = attention_log_probs(model, prompts, [range(n) for n in LENGTHS], [every(n) for n in LENGTHS])
    for p, log_probs in zip(prompts, found, strict=True):
        pattern = bridge_cache(model, p, "hook_pattern")
        assert log_probs.shape == pattern.shape and log_probs.dtype == torch.float32
        assert (log_probs.exp() - pattern).abs().max() < 1e-4
        assert torch.equal(log_probs == -torch.inf, pattern == 0)  # what the model masks, and nothing else
        seen = pattern > 1e-5
        assert (log_probs[seen] - pattern[seen].log()).abs().max() < 1e-3
        assert (log_probs.exp().sum(-1) - 1).abs().max() < 1e-5


def test_the_window_hides_early_tokens_from_some_layers_only():
    for name, hidden in (("mistral", [True] * 4), ("gemma2", [True, False] * 2), ("llama", [False] * 4)):
        model = interp.load(tiny(name))
        (log_probs,) = attention_log_probs(model, [prompt(30)], [[29]], [[[0]]])
        assert torch.isinf(log_probs[:, :, 0, 0]).all(1).tolist() == hidden


def test_groups_are_sums_of_probabilities(model):
    p = prompt(20)
    groups = [[0, 3, 19], [5], [1, 2, 4], list(range(20)), []]
    (log_probs,) = attention_log_probs(model, [p], [[6, 19]], [groups])
    pattern = bridge_cache(model, p, "hook_pattern")[:, :, [6, 19]]
    for g, group in enumerate(groups):
        assert (log_probs[..., g].exp() - pattern[..., group].sum(-1)).abs().max() < 1e-5
    assert torch.isinf(log_probs[..., 4]).all()


def test_the_normaliser_cancels_in_a_difference_of_two_keys(model):
    p = prompt(20)
    (log_probs,) = attention_log_probs(model, [p], [[19]], [[[15], [17]]])
    scores = bridge_cache(model, p, "hook_attn_scores")[:, :, 19]
    expected = scores[..., 15] - scores[..., 17]
    assert (log_probs[:, :, 0, 0] - log_probs[:, :, 0, 1] - expected).abs().max() < 1e-4


def test_chunks_of_queries_change_nothing(llama):
    p = prompt(20)
    whole, by_three, by_one = (
        attention_log_probs(llama, [p], [range(20)], [every(20)], max_rows=n)[0] for n in (256, 3, 1)
    )
    torch.testing.assert_close(whole, by_three, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole, by_one, atol=1e-5, rtol=0)


def test_bfloat16_is_close_to_float32():
    exact = interp.load(tiny("llama"))
    half = interp.load(tiny("llama", torch.bfloat16))
    a, b = (attention_log_probs(m, [prompt(20)], [[10, 19]], [every(11)])[0] for m in (exact, half))
    assert b.dtype == torch.float32
    assert (a.exp() - b.exp()).abs().max() < 0.1
    assert (a.exp() - b.exp()).abs().mean() < 0.01


def test_attention_of_its_own_is_refused():
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    bloom = interp.load(BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)))
    with pytest.raises(UnsupportedAttention, match="computes attention in its own way in 2 of 2 layers"):
        attention_log_probs(bloom, [prompt(9)], [[8]], [[[0]]])
    expected = bridge_cache(bloom, prompt(9), "hook_z")
    assert (head_outputs(bloom, [prompt(9)], None)[0] - expected).abs().max() < 1e-5  # z needs no interface


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_mixtures_of_experts(name):
    """Their attention is told of the router's logits, which changes nothing in it; GPT-OSS has attention sinks."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    experts = dict(num_local_experts=2, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16)
    settings = CONFIGS["mistral"][1] | experts | dict(head_dim=8)
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**settings))
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model = interp.load(hf)
    p = prompt(30)
    (log_probs,) = attention_log_probs(model, [p], [range(30)], [every(30)])
    pattern = bridge_cache(model, p, "hook_pattern")[..., :30]
    assert (log_probs.exp() - pattern).abs().max() < 1e-4
    total = log_probs.exp().sum(-1)
    if name == "gpt_oss":
        assert (total < 1).all() and (total[:, :, 0] < 0.9).any()
    fast, slow = (interp.scan(model, [p], interp.ablate_each_head("zero"), method=m) for m in ("fan-out", "loop"))
    np.testing.assert_allclose(fast.values, slow.values, atol=1e-4)
    assert np.abs(slow.change).mean() > 1e-3


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [
        ([[20], [4]], [[[0]], [[0]]], "position 20 was asked of prompt 'random-20-1', which has 20 tokens"),
        ([[-1], [4]], [[[0]], [[0]]], r"position -1 was asked .*a negative one would count the padding"),
        ([[4], [4]], [[[0]], [[0, 5]]], "position 5 was asked of prompt 'random-5-2'"),
        ([[4]], [[[0]], [[0]]], "2 prompts, 1 lists of queries and 2 lists of key groups"),
        ([[4]] * 3, [[[0]]] * 3, "2 prompts, 3 lists of queries"),
    ],
)
def test_positions_that_a_prompt_does_not_have_are_refused(llama, queries, keys, message):
    with pytest.raises(ValueError, match=message):
        attention_log_probs(llama, [prompt(20, seed=1), prompt(5, seed=2)], queries, keys)


def test_the_model_is_as_before_also_after_an_exception(llama, monkeypatch):
    implementation = llama.hf.config._attn_implementation
    monkeypatch.setattr("interp.architecture.attention.AttentionCall.scores", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attention_log_probs(llama, [prompt(9)], [[8]], [[[0]]])
    assert llama.hf.config._attn_implementation == implementation
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in llama.hf.modules())


def test_head_outputs_are_transformerlens_z(model):
    prompts = [prompt(n, seed=n) for n in LENGTHS]
    for last in (1, 3, None):
        for batch_size in (1, 3):
            found = head_outputs(model, prompts, last, batch_size)
            for p, z in zip(prompts, found, strict=True):
                expected = bridge_cache(model, p, "hook_z")
                n = len(p) if last is None else last
                assert z.shape == (model.n_layers, n, model.n_heads, model.d_head)
                assert (z - expected[:, -n:]).abs().max() < 1e-4
    assert len(head_outputs(model, [prompt(2)], 5)[0][0]) == 2  # fewer positions than asked for


def test_means_are_those_of_a_plain_loop(model):
    prompts = [prompt(n, seed=n) for n in LENGTHS]
    caches = [bridge_cache(model, p, "hook_z") for p in prompts]
    for last in (1, None):
        rows = torch.cat([z if last is None else z[:, -last:] for z in caches], dim=1)
        found = mean_head_outputs(model, prompts, last, batch_size=2)
        assert found.dtype == torch.float32
        assert (found - rows.mean(1)).abs().max() < 1e-5
    with pytest.raises(ValueError, match="mean over no prompts"):
        mean_head_outputs(model, [])


def test_results_keep_nothing_larger_than_themselves(llama):
    """A slice kept from a cache would pin the whole tensor."""
    p = prompt(40)
    kept = [
        *attention_log_probs(llama, [p], [[30, 39]], [[[0], [1]]]),
        *head_outputs(llama, [p], last=1),
        mean_head_outputs(llama, [p]),
    ]
    for tensor in kept:
        assert tensor.untyped_storage().nbytes() == tensor.numel() * 4


def test_no_square_of_scores_is_made(llama, monkeypatch):
    """Scores are computed for the asked queries alone, at most max_rows at a time."""
    from interp.architecture.attention import AttentionCall

    sizes, scores = [], AttentionCall.scores

    def watched(self, example, rows):
        found = scores(self, example, rows)
        sizes.append(found.shape[1])
        return found

    monkeypatch.setattr(AttentionCall, "scores", watched)
    attention_log_probs(llama, [prompt(40)], [range(30, 40)], [[[0], [1]]], max_rows=4)
    assert sizes == [4, 4, 2] * llama.n_layers


@torch.no_grad()
def test_smollm2_agrees_with_transformerlens(smollm2):
    text = "Answer the question with Yes or No.\nQuestion: Can a kettle boil water without any heat?"
    p = smollm2.prompt(text, spans={"yes": (25, 28), "no": (32, 34)})
    keys = [p.span("yes"), p.span("no")]
    (log_probs,) = attention_log_probs(smollm2, [p], [[len(p) - 1]], [keys])
    pattern = bridge_cache(smollm2, p, "hook_pattern")[:, :, -1]
    expected = torch.stack([pattern[..., list(k)].sum(-1) for k in keys], dim=-1)
    assert (log_probs[:, :, 0].exp() - expected).abs().max() < 1e-4

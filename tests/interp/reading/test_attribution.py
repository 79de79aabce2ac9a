"""Direct attribution: the parts sum to the whole, agree with a slow twin, and find what was planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import interp
from interp.reading.attribution import attribute, attribute_heads
from tests.tiny import CONFIGS, NO, VOCABULARY, WINDOW, YES, prompt, tiny

METRIC = interp.LogitDifference("No", "Yes")


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request) -> interp.Model:
    return interp.load(tiny(request.param))


def frozen(norm: nn.Module, x: torch.Tensor, gain_offset: float):
    """The norm as a linear map, its scale held at what it is for x (the bias left out)."""
    gain = norm.weight + gain_offset
    if isinstance(norm, nn.LayerNorm):
        return lambda v: gain * (v - v.mean(-1, keepdim=True)) / (x.var(unbiased=False) + norm.eps).sqrt()
    eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    return lambda v: gain * v / (x.pow(2).mean() + eps).sqrt()


@torch.no_grad()
def slow_heads(model: interp.Model, p: interp.Prompt) -> np.ndarray:
    """z times W_O from TransformerLens's cache, head by head, sent through each norm one by one."""
    _, cache = model.bridge.run_with_cache(torch.tensor([p.token_ids]))
    c = model.components
    offset = 1.0 if "Gemma" in type(model.hf).__name__ else 0.0
    final = frozen(c.final_norm, cache["blocks.3.hook_resid_post"][0, -1], offset)
    effects = np.empty((model.n_layers, model.n_heads))
    for layer, block in enumerate(c.blocks):
        weight = block.out_projection.weight
        weight = weight if isinstance(block.out_projection, Conv1D) else weight.T  # [features, d_model]
        z = cache[f"blocks.{layer}.attn.hook_z"][0, -1]  # [head, d_head]
        bias = getattr(block.out_projection, "bias", None)
        attention_out = z.flatten() @ weight + (0 if bias is None else bias)
        for head in range(model.n_heads):
            write = z[head] @ weight[head * model.d_head : (head + 1) * model.d_head]
            if block.attention_post_norm is not None:
                write = frozen(block.attention_post_norm, attention_out, offset)(write)
            logits = c.unembedding.weight @ final(write)
            effects[layer, head] = logits[NO] - logits[YES]
    return effects


@pytest.mark.parametrize("length", [WINDOW - 4, 3 * WINDOW])
def test_parts_sum_to_the_logit_difference(model, length):
    p = prompt(length)
    split = attribute(model, p, METRIC)
    logits = model.final_logits([p])[0].double()
    cap = getattr(model.hf.config, "final_logit_softcapping", None)
    if cap is not None:  # Gemma 2 caps its logits; the parts are parts of what is capped
        logits = cap * torch.atanh(logits / cap)
    total = float(logits[NO] - logits[YES])
    parts = split.heads.sum() + split.mlps.sum() + split.attention_biases.sum() + split.embedding + split.constant
    assert abs(total - split.total) < 1e-4
    assert abs(parts - total) < 1e-4
    assert abs(split.residual()) < 1e-4
    assert np.abs(split.heads).max() > 1e-2
    assert split.metric == "logit(No) - logit(Yes)"


def test_heads_agree_with_the_slow_twin(model):
    for length in (WINDOW - 4, 3 * WINDOW):
        split = attribute(model, prompt(length), METRIC)
        np.testing.assert_allclose(split.heads, slow_heads(model, prompt(length)), atol=1e-4)


def test_tokens_sum_to_heads_and_attention_is_transformerlens_pattern(model):
    p = prompt(2 * WINDOW)
    split = attribute(model, p, METRIC)
    assert split.by_token.shape == split.attention.shape == (4, model.n_heads, len(p))
    np.testing.assert_allclose(split.by_token.sum(-1), split.heads, atol=1e-4)
    np.testing.assert_allclose(split.attention.sum(-1), 1, atol=1e-5)
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(torch.tensor([p.token_ids]))
    pattern = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"][0, :, -1] for layer in range(4)])
    np.testing.assert_allclose(split.attention, pattern, atol=1e-4)
    assert split.tokens == p.tokens


def test_swapping_the_answers_negates_everything(model):
    p = prompt(20)
    one, other = attribute(model, p, METRIC), attribute(model, p, interp.LogitDifference("Yes", "No"))
    for part in ("heads", "mlps", "attention_biases", "by_token", "total", "embedding", "constant"):
        np.testing.assert_allclose(getattr(one, part), -np.asarray(getattr(other, part)), atol=1e-5)
    np.testing.assert_array_equal(one.attention, other.attention)


def test_every_prompt_has_its_own_numbers(llama):
    prompts = [prompt(n, seed=n) for n in (9, 20)]
    together = attribute_heads(llama, prompts, METRIC)
    assert together.shape == (2, 4, 4) and together.dtype == np.float32
    for p, row in zip(prompts, together, strict=True):
        np.testing.assert_allclose(row, attribute(llama, p, METRIC).heads, atol=1e-6)


@torch.no_grad()
def test_a_planted_copying_head_is_found_and_so_is_what_it_copies():
    """L1H2 attends evenly, recognises the token No and writes the direction of No: induction's copying half."""
    hf = tiny("llama")
    attention = hf.model.layers[1].self_attn
    head, kv, d = 2, 1, 8
    attention.q_proj.weight[head * d : (head + 1) * d] = 0  # all scores 0: even attention
    ids = [i if i != NO else NO + 1 for i in prompt(20).token_ids]
    ids[11] = NO
    p = interp.Prompt.from_token_ids(ids, answers={"No": [NO], "Yes": [YES]})
    seen = {}
    handle = hf.model.layers[1].input_layernorm.register_forward_hook(lambda m, a, out: seen.update(x=out[0]))
    hf(torch.tensor([ids]))
    handle.remove()
    there, elsewhere = seen["x"][11], seen["x"][[i for i in range(20) if i != 11]]
    finder = torch.linalg.lstsq(torch.cat([there[None], elsewhere]), torch.eye(20)[:, :1]).solution[:, 0]
    attention.v_proj.weight[kv * d] = finder  # 1 at the token No, 0 at the others
    toward = hf.lm_head.weight[NO] - hf.lm_head.weight[YES]
    attention.o_proj.weight[:, head * d : (head + 1) * d] = 0
    attention.o_proj.weight[:, head * d] = 400 * toward / toward.norm()
    split = attribute(interp.load(hf), p, METRIC)
    assert np.unravel_index(split.heads.argmax(), split.heads.shape) == (1, 2)
    assert split.heads[1, 2] > 3 * np.abs(np.delete(split.heads.ravel(), 6)).max()
    assert split.by_token[1, 2].argmax() == 11
    assert split.by_token[1, 2, 11] > 0.99 * split.heads[1, 2]
    np.testing.assert_allclose(split.attention[1, 2], 1 / 20, atol=1e-6)


@torch.no_grad()
def test_direct_is_total_for_last_layer_heads_where_nothing_comes_after():
    """The last MLP writes nothing and the final norm's scale is all epsilon (a constant): the model is linear there."""
    hf = tiny("llama")
    hf.model.layers[3].mlp.down_proj.weight.zero_()
    hf.model.norm.variance_epsilon = 1e10
    hf.model.norm.weight.mul_(1e5)
    model = interp.load(hf)
    for length in (9, 30):
        p = prompt(length)
        direct = attribute(model, p, METRIC).heads
        total = -interp.scan(model, [p], interp.ablate_each_head("zero")).change.reshape(4, 4)
        np.testing.assert_allclose(direct[3], total[3], atol=1e-4)
        assert np.abs(direct[3]).max() > 1e-2
        assert np.abs(direct[:3] - total[:3]).max() > 1e-2  # earlier heads act through later layers too


def test_bfloat16_is_close():
    exact, half = (
        attribute(interp.load(tiny("llama", t)), prompt(20), METRIC) for t in (torch.float32, torch.bfloat16)
    )
    assert np.corrcoef(exact.heads.ravel(), half.heads.ravel())[0, 1] > 0.99


def test_several_forms_are_refused(llama):
    p = interp.Prompt.from_token_ids(prompt(9).token_ids, answers={"No": [5, 6], "Yes": [7]})
    with pytest.raises(ValueError, match=r"several surface forms of a word \(\[2, 1\]\).*forms='in_context'"):
        attribute(llama, p, METRIC)


GRANITE = dict(CONFIGS["llama"][1], residual_multiplier=1.0, logits_scaling=1.0, embedding_multiplier=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residual_multiplier": 0.5}, r"GraniteForCausalLM: the parts leave .* logits unexplained"),
        ({"logits_scaling": 8.0}, r"GraniteForCausalLM: the logits differ from the unembedding's output"),
        ({"embedding_multiplier": 8.0, "attention_multiplier": 0.2}, None),  # inside the parts: nothing is left
    ],
)
def test_scaled_residuals_and_logits_are_refused(changes, message):
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    hf = GraniteForCausalLM(GraniteConfig(**GRANITE | changes)).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.25)
    model = interp.load(hf)
    if message is None:
        logits = model.final_logits([prompt(20)])[0]
        assert abs(attribute(model, prompt(20), METRIC).total - float(logits[NO] - logits[YES])) < 1e-4
        return
    with pytest.raises(ValueError, match=message):
        attribute(model, prompt(20), METRIC)


class LargestNorm(torch.nn.Module):
    def forward(self, x):
        return x / x.abs().amax(-1, keepdim=True)


def test_norms_of_another_kind_are_refused():
    hf = tiny("llama")
    hf.model.norm = LargestNorm()
    with pytest.raises(ValueError, match="LargestNorm is neither an RMS norm nor a LayerNorm"):
        attribute(interp.load(hf), prompt(20), METRIC)


@pytest.mark.parametrize("kind", ["Cohere", "Olmo"])
def test_layer_norms_by_another_name_are_read_by_what_they_compute(kind):
    """Classes of their own that compute a LayerNorm: one without a bias, one without a weight."""
    import transformers

    settings = CONFIGS["llama"][1] | ({"logit_scale": 1.0} if kind == "Cohere" else {})
    torch.manual_seed(0)
    hf = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**settings))
    found = attribute(interp.load(hf), prompt(20), METRIC)
    assert abs(found.residual()) < 1e-4


def test_attention_of_its_own_is_refused():
    from transformers import BloomConfig, BloomForCausalLM

    hf = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(RuntimeError, match="computes attention in its own way"):
        attribute(interp.load(hf), prompt(9), METRIC)


def test_nothing_is_left_behind_after_an_exception(llama, monkeypatch):
    monkeypatch.setattr("interp.architecture.attention.AttentionCall.scores", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attribute(llama, prompt(9), METRIC)
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in llama.hf.modules())


def test_smollm2_sums(smollm2):
    p = smollm2.prompt("Answer with Yes or No. Is the sky green?", answers=("No", "Yes"))
    split = attribute(smollm2, p, METRIC)
    logits = smollm2.final_logits([p])[0]
    difference = logits[p.answers["No"][0]] - logits[p.answers["Yes"][0]]
    assert abs(split.total - difference) < 1e-3 and abs(split.residual()) < 1e-3

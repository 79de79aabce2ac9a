"""Loading: from memory, wrapped, quantised, offloaded or by path; what is refused, and what is left unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import interp
from interp.reading.attribution import attribute
from tests.tiny import CONFIGS, VOCABULARY, WINDOW, prompt, tiny, tiny_tokenizer

LONG = 2 * WINDOW + 6


@pytest.fixture(scope="module", params=list(CONFIGS))
def before_and_after(request):
    """A model's logits and attention setting, taken before anything wraps it, and the loaded model."""
    hf = tiny(request.param)
    with torch.no_grad():
        logits = hf(torch.tensor([prompt(LONG).token_ids])).logits
    implementation = hf.config._attn_implementation
    return request.param, logits, implementation, interp.load(hf)


def test_geometry_is_the_configs(before_and_after):
    name, _, _, model = before_and_after
    settings = CONFIGS[name][1]
    heads = settings.get("num_attention_heads", 4)
    assert (model.n_layers, model.n_heads, model.d_model) == (4, heads, 32)
    assert model.d_head == settings.get("head_dim", 32 // heads)
    assert model.n_kv_heads == settings.get("num_key_value_heads", heads)
    assert model.context_length == 128
    assert (model.dtype, model.device) == (torch.float32, torch.device("cpu"))
    assert not model.is_quantized


@torch.no_grad()
def test_loading_leaves_the_model_as_it_was(before_and_after):
    _, logits, implementation, model = before_and_after
    assert torch.equal(model.hf(torch.tensor([prompt(LONG).token_ids])).logits, logits)
    assert model.hf.config._attn_implementation == implementation
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in model.hf.modules())


@torch.no_grad()
def test_bridge_agrees_with_transformers(before_and_after):
    _, logits, _, model = before_and_after
    bridged = model.bridge(torch.tensor([prompt(LONG).token_ids]))
    assert (bridged - logits).abs().max() < 1e-4


@torch.no_grad()
def test_batches_padded_on_the_left_agree_with_one_prompt_at_a_time(before_and_after):
    _, _, _, model = before_and_after
    prompts = [prompt(n, seed=n) for n in (5, LONG, WINDOW, 2 * WINDOW, 1)]
    expected = torch.stack([model.hf(torch.tensor([p.token_ids])).logits[0, -1] for p in prompts])
    for batch_size in (1, 2, 8):
        assert (model.final_logits(prompts, batch_size) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_weights_are_shared_with_the_bridge(name):
    model = interp.load(tiny(name))
    ids = torch.tensor([prompt(9).token_ids])
    before, was = model.bridge(ids), model.provenance()["weights_sha256"]
    model.components.blocks[1].out_projection.weight.mul_(1.5)
    assert (model.bridge(ids) - before).abs().max() > 1e-2
    assert (model.bridge(ids) - model.hf(ids).logits).abs().max() < 1e-4
    assert model.provenance()["weights_sha256"] != was
    bridged, plain = list(model.bridge.parameters()), list(model.hf.parameters())
    assert {p.data_ptr() for p in plain} <= {p.data_ptr() for p in bridged}  # no second copy in memory


def test_the_weights_hash_is_of_the_weights_alone():
    first, same, other = (interp.load(tiny("llama", seed=s)).provenance() for s in (0, 0, 1))
    assert first["weights_sha256"] == same["weights_sha256"] != other["weights_sha256"]
    assert first["architecture"] == "LlamaForCausalLM"
    assert first["template_sha256"] is None


def test_an_offloaded_model_agrees_with_the_one_in_memory(tmp_path, llama):
    accelerate = pytest.importorskip("accelerate", reason="offloading is accelerate's")
    hf = accelerate.disk_offload(tiny("llama"), tmp_path, execution_device=torch.device("cpu"))
    model = interp.load(hf)
    assert model.device.type == "cpu"
    expected = interp.scan(llama, [prompt(20)], interp.ablate_each_head("zero"))
    result = interp.scan(model, [prompt(20)], interp.ablate_each_head("zero"), method="fan-out")
    np.testing.assert_allclose(result.values, expected.values, atol=1e-5)
    metric = interp.LogitDifference("No", "Yes")
    split, whole = (attribute(m, prompt(20), metric).heads for m in (model, llama))
    np.testing.assert_allclose(split, whole, atol=1e-4)
    assert model.provenance()["weights_sha256"] == llama.provenance()["weights_sha256"]


def lora(hf, seed=3):
    peft = pytest.importorskip("peft", reason="LoRA adapters are peft's")
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    torch.manual_seed(seed)
    return peft.get_peft_model(hf, config).eval()


def test_lora_adapters_are_active_in_scan_and_attribution(llama):
    wrapped = lora(tiny("llama"))
    merged = interp.load(lora(tiny("llama")).merge_and_unload())
    model = interp.load(wrapped)
    p, metric = prompt(20), interp.LogitDifference("No", "Yes")
    with torch.no_grad():
        logits = wrapped(torch.tensor([p.token_ids])).logits[0, -1]
    assert (model.final_logits([p])[0] - logits).abs().max() < 1e-5
    assert (llama.final_logits([p])[0] - logits).abs().max() > 1e-2  # the adapter does something
    result = interp.scan(model, [p], interp.ablate_each_head("zero"), method="fan-out")
    expected = interp.scan(merged, [p], interp.ablate_each_head("zero"), method="loop")
    np.testing.assert_allclose(result.values, expected.values, atol=1e-4)
    np.testing.assert_allclose(attribute(model, p, metric).heads, attribute(merged, p, metric).heads, atol=1e-4)


def test_prompt_tuning_is_refused():
    peft = pytest.importorskip("peft", reason="prompt tuning is peft's")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(ValueError, match="learns prompt tokens"):
        interp.load(peft.get_peft_model(tiny("llama"), config))


def quantised(tmp_path, **bits):
    pytest.importorskip("bitsandbytes", reason="4-bit and 8-bit layers are bitsandbytes'")
    from transformers import BitsAndBytesConfig

    tiny("llama", hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    return AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**bits), device_map="cpu", dtype=torch.float32
    )


def test_fan_out_of_a_4_bit_model_agrees_with_the_loop(tmp_path):
    model = interp.load(quantised(tmp_path, load_in_4bit=True))
    assert model.is_quantized
    fast, slow = (
        interp.scan(model, [prompt(20)], interp.ablate_each_head("zero"), method=m) for m in ("fan-out", "loop")
    )
    np.testing.assert_allclose(fast.values, slow.values, atol=1e-4)
    assert np.abs(slow.change).mean() > 1e-2
    split = attribute(model, prompt(20), interp.LogitDifference("No", "Yes"))
    assert abs(split.residual()) < 1e-3


def test_an_8_bit_model_loads_and_its_scan_falls_back_to_the_loop(tmp_path):
    hf = quantised(tmp_path, load_in_8bit=True)
    ids = torch.tensor([prompt(20).token_ids])
    with torch.no_grad():
        before = hf(ids).logits
    model = interp.load(hf)  # would warn, and so fail, if the bridge's logits were far off
    with torch.no_grad():
        assert torch.equal(hf(ids).logits, before)
        assert (model.bridge(ids) - before).abs().max() < 0.1
    with pytest.warns(UserWarning, match="falls back to one pass for each edit"):
        result = interp.scan(model, [prompt(20)], interp.ablate_each_head("zero"))
    assert result.how == "loop"
    assert "fan-out refused" in result.check


@torch.no_grad()
def test_bfloat16_stays_bfloat16():
    model = interp.load(tiny("llama", torch.bfloat16))
    assert model.dtype == torch.bfloat16
    assert model.provenance()["dtype"] == "bfloat16"
    logits = model.final_logits([prompt(20)])
    assert logits.dtype == torch.float32
    exact = model.hf(torch.tensor([prompt(20).token_ids])).logits[0, -1].float()
    assert torch.equal(logits[0], exact)


class LlamaForCausalLMM(LlamaForCausalLM):
    """An architecture that TransformerLens does not know."""


def test_an_unknown_architecture_is_refused_with_close_matches():
    with pytest.raises(
        ValueError, match=r"no TransformerLens adapter for .*LlamaForCausalLMM.*close: LlamaForCausalLM"
    ):
        interp.load(LlamaForCausalLMM(tiny("llama").config))
    with pytest.raises(ValueError, match=r"architecture 'Linear'\. Supported: .*Gemma2ForCausalLM, .*LlamaForCausalLM"):
        interp.load(torch.nn.Linear(2, 2))


def test_layers_without_attention_are_refused():
    from transformers import MambaConfig, MambaForCausalLM, Qwen3NextConfig, Qwen3NextForCausalLM

    pure = MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(ValueError, match="layer 0 has no attention with an output projection"):
        interp.load(MambaForCausalLM(pure))
    small = dict(linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8)
    experts = dict(num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16, shared_expert_intermediate_size=16)
    hybrid = Qwen3NextConfig(**CONFIGS["qwen3"][1], **small, **experts)
    with pytest.raises(ValueError, match="state-space, convolution or fused layer"):
        interp.load(Qwen3NextForCausalLM(hybrid))


def test_encoder_decoders_are_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)
    with pytest.raises(ValueError, match=r"names no blocks.*need a decoder"):
        interp.load(T5ForConditionalGeneration(config))


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("model.embed_tokens", "the output of the embedding"),
        ("model.layers.1.self_attn.v_proj", "the attention of layer 1"),
        ("model.layers.3.mlp.up_proj", "the output of layer 3"),
        ("model.norm", "the final norm"),
        ("lm_head", "the logits"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_found_and_placed(where, place, value):
    hf = tiny("llama")
    with torch.no_grad():
        hf.get_submodule(where).weight[:] = value
    with pytest.raises(interp.NonFiniteLogitsError, match=f"first non-finite activation is {place}"):
        interp.load(hf)
    assert all(not m._forward_hooks for m in hf.modules())


def test_a_non_finite_prompt_is_named():
    hf = tiny("llama")
    model = interp.load(hf)
    with torch.no_grad():
        hf.model.embed_tokens.weight[90] = float("nan")  # a token that the check at load does not use
    good, bad = prompt(5), interp.Prompt.from_token_ids([3, 90, 4], id="the bad one")
    clean = interp.Prompt.from_token_ids([3, 8, 4], id="the good one")
    with pytest.raises(interp.NonFiniteLogitsError, match=r"on prompt 'the bad one'.*output of the embedding"):
        model.final_logits([clean, bad] if 90 in good.token_ids else [good, clean, bad])


def test_a_saved_directory_loads_by_path(tmp_path):
    hf = tiny("llama", vocab_size=400)
    hf.save_pretrained(tmp_path)
    in_memory = interp.load(hf)
    with pytest.raises(ValueError, match=r"has no tokenizer that can be read.*give tokenizer="):
        interp.load(tmp_path, device="cpu")
    tiny_tokenizer().save_pretrained(tmp_path)
    for source in (tmp_path, str(tmp_path)):
        model = interp.load(source, device="cpu")
        assert (model.final_logits([prompt(20)]) - in_memory.final_logits([prompt(20)])).abs().max() < 1e-5
        assert model.provenance()["weights_sha256"] == in_memory.provenance()["weights_sha256"]
        assert model.prompt("Is the sky blue?").tokens[0] == "<|im_start|>"
    assert interp.load(tmp_path, dtype="bfloat16", device="cpu").dtype == torch.bfloat16
    assert interp.load(tmp_path, dtype="auto", device="cpu").dtype == torch.float32


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("smollm2-135n", {}, "unknown model 'smollm2-135n'.*mean 'smollm2-135m'"),
        ("smollm2-135m", {"dtype": "float23"}, "dtype='float23'; expected 'float32', 'bfloat16'"),
        ("smollm2-135m", {"dtype": torch.int64}, "dtype='int64'; expected"),
        ("smollm2-135m", {"device": "gpu"}, "device='gpu' can't be used here"),
    ],
)
def test_bad_names_and_options_are_refused(source, options, message):
    with pytest.raises(ValueError, match=message):
        interp.load(source, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device='cuda' can't be used here"):
        interp.load("smollm2-135m", device="cuda")


def test_a_tokenizer_that_only_lives_in_memory_will_do(tmp_path):
    from transformers import AutoTokenizer

    gone = tmp_path / "gone"
    tiny_tokenizer().save_pretrained(gone)
    loaded_before = AutoTokenizer.from_pretrained(gone)
    (gone / "tokenizer.json").unlink()
    for tokenizer in (tiny_tokenizer(), tiny_tokenizer(adds_bos=True), loaded_before):
        model = interp.load(tiny("llama", vocab_size=400), tokenizer=tokenizer)
        assert model.tokenizer is tokenizer
        assert model.bridge.to_tokens("Is it so?", prepend_bos=False)[0].tolist() == list(
            tokenizer("Is it so?", add_special_tokens=False).input_ids
        )
        assert model.bridge.to_tokens("Is it so?", prepend_bos=True)[0].tolist().count(1) == 1


def test_logits_of_no_prompts_are_refused(llama):
    with pytest.raises(ValueError, match="no prompts were given"):
        llama.final_logits([])


def test_no_tokenizer_no_text_prompts(llama):
    with pytest.raises(ValueError, match=r"loaded without a tokenizer.*from_token_ids"):
        llama.prompt("hello")


def test_the_default_model(smollm2):
    assert (smollm2.n_layers, smollm2.n_heads, smollm2.n_kv_heads, smollm2.d_head) == (30, 9, 3, 64)
    assert smollm2.context_length == 8192
    assert smollm2.chat_template


def test_prompts_that_do_not_fit_are_refused_everywhere():
    model = interp.load(tiny("llama"))
    too_long = interp.Prompt.from_token_ids([5] * 129, answers={"No": [5], "Yes": [7]}, id="long")
    strange = interp.Prompt.from_token_ids([5, 97], answers={"No": [5], "Yes": [7]}, id="strange")
    other_answer = interp.Prompt.from_token_ids([5, 6], answers={"No": [5], "Yes": [97]}, id="other")
    metric = interp.LogitDifference("No", "Yes")
    with pytest.raises(ValueError, match=r"'other': the answer 'Yes' has token 97; .* has ids 0\.\.96"):
        interp.scan(model, [other_answer], interp.ablate_each_head("zero"))
    uses = [
        lambda p: model.final_logits([p]),
        lambda p: interp.scan(model, [p], interp.ablate_each_head("zero")),
        lambda p: interp.attribute(model, p, metric),
        lambda p: interp.capture.head_outputs(model, [p]),
        lambda p: interp.capture.attention_log_probs(model, [p], [[0]], [[[0]]]),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=r"'long' has 129 tokens; .* reads at most 128"):
            use(too_long)
        with pytest.raises(ValueError, match=r"'strange' has token ids from 5 to 97; .* has ids 0\.\.96"):
            use(strange)


def test_offline_forbids_asking_a_hub(monkeypatch):
    import socket

    monkeypatch.setenv("HEADSCOPE_OFFLINE", "1")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("a host was looked up"))
    with pytest.raises(OSError, match=r"'nobody/nothing' could not be had.*HEADSCOPE_OFFLINE=1.*smollm2-135m"):
        interp.load("nobody/nothing")

"""What can't be loaded is refused by what it is; what is only unusual loads, and gives its true numbers."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from torch import nn

import interp
from interp.edits.fold_check import check_prompts
from interp.reading.attribution import attribute
from tests.tiny import NO, VOCABULARY, YES, prompt, tiny, tiny_tokenizer

SMALL = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)


def reference(hf, p: interp.Prompt, layer: int, head: int, out: str) -> float:
    """The difference of two logits with a head's slice of its projection's input zeroed by a plain hook."""
    module = next(m for name, m in hf.named_modules() if name.endswith(f".{layer}.{out}"))

    def hook(module, args):
        z = args[0].clone()
        size = z.shape[-1] // 4
        z[:, -1, head * size : (head + 1) * size] = 0
        return (z, *args[1:])

    handle = module.register_forward_pre_hook(hook)
    with torch.no_grad():
        logits = hf(torch.tensor([p.token_ids])).logits[0, -1]
    handle.remove()
    return float(logits[NO] - logits[YES])


def scanned(hf, p: interp.Prompt, out: str = "self_attn.o_proj") -> interp.Model:
    """Load and scan it, every head held to the reference."""
    model = interp.load(hf)
    values = interp.scan(model, [p], interp.ablate_each_head("zero")).values[0]
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(4)]
    expected = [reference(hf, p, *pair, out) for pair in heads]
    assert torch.allclose(torch.tensor(values), torch.tensor(expected), atol=1e-4)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tf.LlamaForSequenceClassification(tf.LlamaConfig(**SMALL)), "is a classifier of texts.*AutoModelForC"),
        (lambda: tf.Qwen2ForTokenClassification(tf.Qwen2Config(**SMALL)), "is a classifier of tokens"),
        (lambda: tf.GPT2ForQuestionAnswering(tiny("gpt2").config), "marks spans"),
        (lambda: tf.BertForMaskedLM(tf.BertConfig(**SMALL)), "masked language model: it reads both ways"),
        (lambda: tf.LlamaModel(tf.LlamaConfig(**SMALL)), "has no output embeddings.*AutoModelForCausalLM"),
        (
            lambda: tf.BartForConditionalGeneration(
                tf.BartConfig(vocab_size=VOCABULARY, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32)
            ),
            "BartForConditionalGeneration is an encoder-decoder",
        ),
    ],
)
def test_what_is_no_causal_language_model_is_refused_by_what_it_is(make, message):
    with pytest.raises(ValueError, match=message):
        interp.load(make())


def test_weights_without_numbers_are_refused():
    with torch.device("meta"):
        hf = tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL))
    with pytest.raises(ValueError, match=r"model\.embed_tokens\.weight is on the meta device"):
        interp.load(hf)


def test_a_bridge_is_refused_and_told_what_to_load():
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    sizes = TransformerBridgeConfig(d_model=32, d_head=8, n_layers=2, n_ctx=64, n_heads=4, d_vocab=97, act_fn="gelu")
    native = TransformerBridge.boot_native(sizes)
    for given in (native, native.original_model, interp.load(tiny("llama")).bridge):
        with pytest.raises(TypeError, match=r"of TransformerLens was given.*interp\.load\(AutoModelForCausalLM"):
            interp.load(given)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "gemma2"])
def test_a_directory_without_tokenizer_files_is_refused(name, tmp_path):
    tiny(name).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer files.*all of them special.*give tokenizer="):
        interp.load(tmp_path)
    assert interp.load(tmp_path, tokenizer=tiny_tokenizer()).tokenizer is not None


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_context_shorter_than_our_probes(name, n):
    out = "attn.c_proj" if name == "gpt2" else "self_attn.o_proj"
    settings = {"n_positions": n} if name == "gpt2" else {"max_position_embeddings": n}
    scanned(tiny(name, **settings), prompt(n), out)


def test_norms_that_do_nothing():
    hf = tiny("llama")
    hf.model.norm = hf.model.layers[1].input_layernorm = nn.Identity()
    model = scanned(hf, prompt(9))
    assert abs(attribute(model, prompt(9), interp.LogitDifference("No", "Yes")).residual()) < 1e-3
    hf = tiny("gpt2")
    hf.transformer.ln_f = nn.Identity()
    with pytest.warns(UserWarning, match=r"bridge of it can't be run .*work on model\.bridge is"):
        scanned(hf, prompt(9), "attn.c_proj")


def test_the_vocabulary_is_the_embeddings_whatever_the_config_says():
    hf = tiny("llama")
    hf.resize_token_embeddings(120)
    hf.config.vocab_size = 97
    model = interp.load(hf)
    above = interp.Prompt.from_token_ids([110, 5, 119], answers={"a": [118], "b": [7]})
    with torch.no_grad():
        expected = hf(torch.tensor([above.token_ids])).logits[0, -1]
    found = model.final_logits([above])[0]
    assert torch.allclose(found, expected, atol=1e-4)
    assert max(max(p.token_ids) for p in check_prompts(model)) >= 97
    hf = tiny("llama")
    hf.config.vocab_size = 300
    with pytest.raises(ValueError, match=r"ids 0\.\.96"):
        interp.load(hf).final_logits([above])


def test_settings_of_training_and_caching_change_nothing():
    hf = tiny("llama")
    hf.config.use_cache = False
    hf.gradient_checkpointing_enable()
    hf.train()
    scanned(hf, prompt(9))
    assert not hf.training


def test_named_chat_templates_are_the_default_one():
    one = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    tokenizer, plain = tiny_tokenizer(), tiny_tokenizer(template=one)
    tokenizer.chat_template = {"default": one, "rag": "{{ messages[0].content }}"}
    hf = tiny("llama", vocab_size=len(plain))
    named, own = interp.load(hf, tokenizer=tokenizer), interp.load(hf, tokenizer=plain)
    assert named.chat_template == one
    assert named.prompt("Is it cold?").text == own.prompt("Is it cold?").text
    assert named.provenance()["template_sha256"] == own.provenance()["template_sha256"]


@pytest.mark.parametrize(
    "settings", [dict(do_sample=False, temperature=0.6, top_p=0.9), dict(num_beams=1, early_stopping=True)]
)
def test_a_generation_config_that_transformers_would_not_write_is_exported_as_it_is(settings, tmp_path):
    hf = tiny("llama")
    for name, value in settings.items():
        setattr(hf.generation_config, name, value)
    before = hf.generation_config
    interp.ScaledHeads({}, factors={(0, 1): 0.0}).export(interp.load(hf), tmp_path / "out")
    read = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config
    assert hf.generation_config is before
    assert {name: getattr(read, name) for name in settings} == settings


@pytest.mark.parametrize("make", ["scaled", "added", "removed"])
def test_the_fold_of_an_offloaded_model_is_refused(make):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    hf = tiny("llama")
    accelerate.cpu_offload(hf, execution_device=torch.device("cpu"))
    model = interp.load(hf)
    direction = interp.Direction.from_tensors(torch.randn(5, 32, generator=torch.Generator().manual_seed(0)), model)
    edit = {
        "scaled": interp.ScaledHeads({}, factors={(1, 2): 0.0}),
        "added": interp.add_direction(direction, layers=2, while_generating=True),
        "removed": interp.remove_direction(direction, from_layer=1),
    }[make]
    with pytest.raises(ValueError, match=r"offload|without plain rows in memory"):
        edit.fold(model)


def test_falcons_own_linear_layer_is_folded_into_and_one_that_computes_otherwise_is_not():
    from tests.benchmarks.sweep_models import models

    hf = models()["Falcon"].make()
    model, edit = interp.load(hf), interp.ScaledHeads({}, factors={(1, 2): 0.0})
    with edit.apply(model):
        expected = model.final_logits([prompt(9)])
    undo = edit.fold(model)
    assert (model.final_logits([prompt(9)]) - expected).abs().max() < 1e-4
    undo.fold(model)

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    hf = tiny("llama")
    own = hf.model.layers[1].self_attn.o_proj
    hf.model.layers[1].self_attn.o_proj = other = Doubled(32, 32, bias=False)
    other.weight = own.weight
    with pytest.raises(ValueError, match=r"is a Doubled .*not weight times input plus bias"):
        edit.fold(interp.load(hf))

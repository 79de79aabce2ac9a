"""Each prompt's numbers are those of the prompt alone, whatever shares its batch and however it is cut.

References are plain transformers: one prompt, one pass, no padding, no cache, on a copy that nothing else has run on (a
dynamic rotary embedding remembers the longest pass that it saw)."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import interp
from interp import Prompt
from interp.interventions.acting import edit_heads
from interp.interventions.values import HeadEdit
from interp.passes.independence import passes
from interp.passes.lengths import around_borders, pass_lengths
from interp.passes.looks_ahead import looks_ahead
from interp.passes.shared_prefix import UpperLayers, answer_logits
from interp.reading.capture import attention_log_probs, head_outputs
from interp.reading.generation import generate
from interp.reading.perplexity import reply_nll
from interp.reading.residual import residual_states
from interp.scans.head_writing import write_along
from tests.tiny import CONFIGS, prompt, tiny, tiny_tokenizer

BORDER = 24
LENGTHS = (9, BORDER + 1, BORDER - 1, 40, BORDER, 31, BORDER, 13)
_LONG = dict(rope_type="longrope", short_factor=[1.0, 1.2, 1.4, 2.0], long_factor=[1.5, 3.0, 6.0, 12.0])
_SIZES = CONFIGS["llama"][1]
_NARROW = {k: v for k, v in _SIZES.items() if k not in ("num_key_value_heads", "max_position_embeddings")}

OTHERS: dict[str, tuple[str, dict]] = {
    "phi3 longrope": (
        "phi3",
        _SIZES | dict(original_max_position_embeddings=BORDER, rope_parameters=_LONG | dict(rope_theta=1e4)),
    ),
    "llama longrope": (
        "llama",
        _SIZES | dict(rope_parameters=_LONG | dict(rope_theta=1e4, original_max_position_embeddings=BORDER)),
    ),
    "llama dynamic": (
        "llama",
        _SIZES
        | dict(max_position_embeddings=BORDER, rope_parameters=dict(rope_type="dynamic", factor=4.0, rope_theta=1e4)),
    ),
    "gemma3 longrope in one kind of layer": (
        "gemma3_text",
        CONFIGS["gemma3"][1]
        | dict(
            head_dim=8,
            layer_types=["sliding_attention", "full_attention"] * 2,
            rope_parameters={
                "sliding_attention": dict(rope_type="default", rope_theta=1e4),
                "full_attention": _LONG | dict(rope_theta=1e4, original_max_position_embeddings=BORDER),
            },
        ),
    ),
    "llama4 temperature": (
        "llama4_text",
        _SIZES
        | dict(
            head_dim=8,
            intermediate_size_mlp=48,
            num_local_experts=2,
            interleave_moe_layer_step=2,
            attention_chunk_size=16,
            no_rope_layers=[1, 0, 1, 0],
            floor_scale=8,
            attn_scale=2.0,
        ),
    ),
    "bloom": ("bloom", dict(vocab_size=97, hidden_size=32, n_layer=4, n_head=4)),
    "mixtral": ("mixtral", _SIZES | dict(num_local_experts=4, sliding_window=12)),
    "gpt_neo": (
        "gpt_neo",
        dict(
            vocab_size=97,
            hidden_size=32,
            num_layers=4,
            num_heads=4,
            attention_types=[[["global", "local"], 2]],
            window_size=12,
            max_position_embeddings=128,
        ),
    ),
    "falcon alibi": ("falcon", _NARROW | dict(alibi=True, new_decoder_architecture=False, multi_query=True)),
    "not causal": ("llama", _SIZES | dict(is_causal=False)),
    "gemma both ways": (
        "gemma3_text",
        CONFIGS["gemma3"][1] | dict(use_bidirectional_attention=True),
    ),
}
NAMES = ("llama", "gpt2", "mistral", "gemma2", "phi3", *OTHERS)
MIXED = ("phi3 longrope", "llama longrope", "llama dynamic", "gemma3 longrope in one kind of layer")


def made(name: str, **changes):
    """A random model whose heads matter, as those of ``tiny``."""
    if name in CONFIGS:
        return tiny(name, **changes)
    kind, settings = OTHERS[name]
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**settings | changes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in hf.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise * 0.25) if p.ndim > 1 else p.add_(noise * 0.05)
    return hf.eval()


def load(hf, **options) -> interp.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a bridge that is causal where its model is not
        return interp.load(hf, **options)


@torch.no_grad()
def alone(hf, p: Prompt) -> torch.Tensor:
    return copy.deepcopy(hf)(input_ids=torch.tensor([p.token_ids]), use_cache=False).logits[0, -1]


def shuffled(lengths=LENGTHS, start: tuple[int, ...] = ()) -> list[Prompt]:
    ids = [[*start, *prompt(n, seed=i).token_ids[len(start) :]] for i, n in enumerate(lengths)]
    return [Prompt.from_token_ids(t, answers={"No": [5], "Yes": [7]}, id=str(i)) for i, t in enumerate(ids)]


def close(found, wanted, atol=1e-4):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted), atol=atol, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_each_prompt_has_its_own_numbers(name):
    hf = made(name)
    twin = copy.deepcopy(hf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(hf)
        _hold_to_single_prompts(model, twin)


def _hold_to_single_prompts(model, twin):
    prompts = shuffled()
    own = torch.stack([alone(twin, p) for p in prompts])
    for order in (range(8), (3, 0, 7, 5, 1, 2, 6, 4)):
        for size in (3, 8):
            close(model.final_logits([prompts[i] for i in order], size), own[list(order)])
    alike = shuffled(start=prompt(8, seed=99).token_ids)
    close(model.final_logits(alike), torch.stack([alone(twin, p) for p in alike]))
    positions = [[0, len(p) - 1] for p in prompts]
    states = residual_states(model, prompts, positions)
    close(states, torch.cat([residual_states(model, [p], [at]) for p, at in zip(prompts, positions, strict=True)]))
    for z, p in zip(head_outputs(model, prompts, last=3), prompts, strict=True):
        close(z, head_outputs(model, [p], last=3)[0])
    if not model.attention_refusal:
        queries, keys = [[len(p) - 1, 8] for p in prompts], [[[0], [3, 5]]] * len(prompts)
        for found, p, q in zip(attention_log_probs(model, prompts, queries, keys), prompts, queries, strict=True):
            close(found, attention_log_probs(model, [p], [q], keys[:1])[0], atol=1e-3)
    scanned = interp.scan(model, prompts, [interp.Branch((HeadEdit(1, 2, "zero"),), "one")])
    close(scanned.clean, own[:, 5] - own[:, 7])
    if not looks_ahead(model):
        replies = [[4, 9], [11], [3, 3, 8]] * 3
        nll = reply_nll(model, prompts, replies[:8])
        close(nll, [reply_nll(model, [p], [r])[0] for p, r in zip(prompts, replies, strict=False)], atol=1e-3)


@pytest.mark.parametrize("name", MIXED)
def test_training_passes_have_their_own_numbers(name):
    hf = made(name)
    twin = copy.deepcopy(hf)
    model = load(hf)
    for start in ((), prompt(8, seed=99).token_ids):
        prompts = shuffled(start=start)
        own = torch.stack([alone(twin, p) for p in prompts])
        close(answer_logits(model, prompts).detach(), own)
        upper = UpperLayers(model, prompts, 2)
        close(upper.all_logits(3), own)
        close(upper.logits([3, 0, 1]).detach(), own[[3, 0, 1]])


@pytest.mark.parametrize("name", [*MIXED, "llama4 temperature"])
@pytest.mark.parametrize("positions", ["answer", 3])
def test_fan_out_reads_a_beginning_as_the_whole_prompt_has_it(name, positions):
    """The answer's prefix of a prompt of 25 tokens has 24: on the other side of the border."""
    model = load(made(name))
    prompts = shuffled()
    edits = interp.ablate_each_head("zero")
    found = interp.scan(model, prompts, edits, positions=positions, method="fan-out")
    slow = interp.scan(model, prompts, edits, positions=positions, method="loop")
    close(found.values, slow.values)
    close(found.clean, slow.clean)


@pytest.mark.parametrize(
    "name", ["phi3 longrope", "llama longrope", "llama dynamic", "not causal", "llama4 temperature"]
)
def test_replies_are_those_of_whole_passes(name):
    """Also where the reply grows across a border, and keys that were kept would be of the other side."""
    hf = made(name, vocab_size=len(tiny_tokenizer()), eos_token_id=None)
    twin = copy.deepcopy(hf)
    model = load(hf, tokenizer=tiny_tokenizer())
    prompts = shuffled((BORDER - 2, 9, BORDER + 3, BORDER - 6))
    found = generate(model, prompts, max_new_tokens=5, min_new_tokens=5)
    for p, (reply,) in zip(prompts, found, strict=True):
        ids = list(p.token_ids)
        for _ in range(5):
            logits = alone(twin, Prompt.from_token_ids(ids))
            logits[2] = -torch.inf  # the end token is forbidden
            ids.append(int(logits.argmax()))
        assert reply == model.tokenizer.decode(ids[len(p) :], skip_special_tokens=True)


def test_sides_of_borders():
    longrope = pass_lengths(made("phi3 longrope").config)
    assert (longrope.borders, longrope.named) == ((BORDER,), (BORDER,))
    assert longrope.side(24) != longrope.side(25) == longrope.side(90)
    dynamic = pass_lengths(made("llama dynamic").config)
    assert dynamic.side(9) == dynamic.side(24) != dynamic.side(25) != dynamic.side(26)
    assert pass_lengths(made("llama4 temperature").config).columns_above == 7
    assert pass_lengths(made("gemma3 longrope in one kind of layer").config).borders == (BORDER,)
    assert pass_lengths(tiny("mistral").config).borders == ()
    assert pass_lengths(tiny("mistral").config).named == (12,)


def test_an_unknown_rotary_rule_lets_no_lengths_mix():
    config = tiny("llama").config
    config.rope_parameters = {"rope_type": "of_next_year", "rope_theta": 1e4}
    assert len({pass_lengths(config).side(n) for n in range(2, 30)}) == 28
    config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    assert len({pass_lengths(config).side(n) for n in range(2, 30)}) == 1


def test_a_check_looks_on_both_sides_of_every_border():
    assert around_borders([30, 9, 24, 25, 40, 12], (24,)) == [0, 1, 2, 3, 4]
    assert around_borders([7, 5, 6, 9], ()) == [0, 1, 3]
    assert around_borders([8], (3, 9)) == [0]


def test_dynamic_frequencies_of_a_longer_prompt_are_forgotten():
    hf = made("llama dynamic")
    twin = copy.deepcopy(hf)
    model = load(hf)
    long, middle = prompt(80), prompt(30)
    close(model.final_logits([long]), alone(twin, long)[None])
    close(model.final_logits([middle]), alone(twin, middle)[None])


class _Ruled(torch.nn.Linear):
    """Adds what other rows, or the length of the pass, say: a rule that no config names."""

    def forward(self, x):
        return (out := super().forward(x)) + self.rule(out)


def ruled(rule):
    hf = made("llama")
    hf.model.layers[1].mlp.down_proj.__class__ = _Ruled
    hf.model.layers[1].mlp.down_proj.rule = rule
    return hf


@pytest.mark.parametrize(
    "rule",
    [
        lambda x: x.mean(0, keepdim=True).expand_as(x) * 0.3,
        lambda x: x * (0.5 if x.shape[1] > 27 else 0.0),
        lambda x: x.roll(1, 0) * 0.01,
    ],
    ids=["the mean over rows", "a border that no config names", "the row before"],
)
def test_what_no_config_says_is_measured(rule):
    hf = ruled(rule)
    twin = copy.deepcopy(hf)
    prompts, alike = shuffled(), shuffled(start=prompt(10, seed=99).token_ids)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = interp.load(hf)
        for batch in (prompts, alike, prompts):
            close(model.final_logits(batch), torch.stack([alone(twin, p) for p in batch]))
        z = head_outputs(model, prompts)
    close(torch.stack(z), torch.stack([head_outputs(model, [p])[0] for p in prompts]))
    said = [str(w.message) for w in caught if "differ from those of one prompt at a time" in str(w.message)]
    assert 1 <= len(said) <= 3  # one for each kind of pass
    assert "made one prompt at a time from here on" in said[0]


def test_a_border_within_what_was_measured_is_found_by_the_batch_that_crosses_it():
    hf = ruled(lambda x: x * (0.5 if x.shape[1] > 27 else 0.0))
    twin = copy.deepcopy(hf)
    model = load(hf)
    for lengths in ((20, 21), (22, 24), (29, 31), (26, 30)):
        batch = shuffled(lengths)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            close(model.final_logits(batch), torch.stack([alone(twin, p) for p in batch]))


def test_a_model_is_measured_once():
    model = load(made("llama"))
    counted = []
    forward = model.hf.model.forward  # not a hook: hooks of others are part of what is measured
    model.hf.model.forward = lambda *a, **k: (counted.append(1), forward(*a, **k))[1]
    again = load(model.hf)
    for m, most in ((model, 3), (model, 1), (again, 1)):
        counted.clear()
        m.final_logits(shuffled((9, 12, 14)))
        assert len(counted) <= most


def test_an_edit_of_rows_keeps_its_batch_or_is_refused():
    model = load(made("phi3 longrope"))
    edits = [(0, HeadEdit(1, 2, "zero")), (1, HeadEdit(1, 3, "zero"))]
    short = shuffled((9, 9))
    with edit_heads(model, 1, edits):
        found = model.final_logits(short)
        with torch.no_grad():
            plain = model.hf(torch.tensor([p.token_ids for p in short])).logits[:, -1]
        with pytest.raises(ValueError, match="can't share a pass"):
            model.final_logits(shuffled((9, BORDER + 2)))
    close(found, plain)
    assert passes(model, short) == [[0, 1]]


@pytest.mark.parametrize("name", NAMES)
def test_looking_ahead_is_measured(name):
    assert looks_ahead(load(made(name))) == (name in ("not causal", "gemma both ways"))


def test_attention_modules_that_are_not_causal_are_noticed():
    """transformers then masks a padded batch causally and a single prompt not at all."""
    hf = made("llama")
    for layer in hf.model.layers:
        layer.self_attn.is_causal = False
    twin = copy.deepcopy(hf)
    with pytest.warns(UserWarning, match="TransformerLens's logits differ"):
        model = interp.load(hf)
    prompts = shuffled((9, 14, 20))
    assert looks_ahead(model)
    with pytest.warns(UserWarning, match="padded on the left"):
        found = model.final_logits(prompts)
    close(found, torch.stack([alone(twin, p) for p in prompts]))


def test_a_config_that_changes_after_loading_is_measured_again():
    model = load(made("llama"))
    assert not looks_ahead(model)
    model.hf.config.is_causal = False
    assert looks_ahead(model)
    with pytest.raises(ValueError, match="reads prompts both ways"):
        UpperLayers(model, shuffled((9, 14)), 1)


def test_eager_masks_that_ours_would_not_keep_are_refused():
    hf = made("llama")
    hf.set_attn_implementation("eager")
    for layer in hf.model.layers:
        layer.self_attn.is_causal = False  # eager attention does not read it; a fused one does
    twin = copy.deepcopy(hf)
    model = load(hf)
    prompts = shuffled((9, 14))
    close(model.final_logits(prompts), torch.stack([alone(twin, p) for p in prompts]))
    with pytest.raises(interp.architecture.attention.UnsupportedAttention, match="it masks in a way of its own"):
        attention_log_probs(model, prompts, [[3], [3]], [[[0]], [[0]]])


def test_writing_along_a_direction_keeps_the_order_of_prompts():
    model = load(made("phi3 longrope"))
    prompts, vectors = shuffled(), torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    found = write_along(model, prompts, vectors)
    for i, p in enumerate(prompts):
        close(found.heads[i], write_along(model, [p], vectors).heads[0])

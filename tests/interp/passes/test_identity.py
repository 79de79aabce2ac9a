"""What computes is known: adapters, edits, hooks, config, weights written past torch's count, what the logits say."""

from __future__ import annotations

from types import MethodType

import numpy as np
import peft
import pytest
import torch
from torch import nn

import interp
from interp.architecture import weight_hash
from interp.architecture.active_edits import active_edits
from interp.architecture.weight_hash import change_token, weights_sha256
from interp.passes.identity import (
    describe_computation,
    fingerprint,
    hash_prompts,
    identity_of,
    key_of,
    same_fingerprint,
)
from interp.records.provenance import hash_weights
from tests.tiny import prompt, tiny


def adapted(config=None, second: bool = True):
    """A tiny model with adapters a (active) and b, inside PEFT's wrapper."""
    torch.manual_seed(3)
    config = config or peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(tiny("llama"), config, adapter_name="a")
    if second:
        wrapped.add_adapter("b", config)
        wrapped.set_adapter("a")
    return wrapped.eval()


def run_identity(model: interp.Model) -> dict:
    return identity_of(model.provenance(), "no prompts")


@pytest.fixture
def model() -> interp.Model:
    return interp.load(tiny("llama"))


# ---- weights ----


def written(name: str):
    def add(hf):
        with torch.no_grad():
            hf.lm_head.weight.add_(0.01)

    def data_element(hf):
        hf.lm_head.weight.data[3, 5] += 1.0

    def data_row(hf):
        hf.model.layers[1].mlp.up_proj.weight.data[7] = 0.0

    def data_column(hf):
        hf.model.layers[1].self_attn.o_proj.weight.data[:, 9] *= 2.0

    def through_numpy(hf):
        hf.model.norm.weight.detach().numpy()[2] = 4.0

    def another_parameter(hf):
        hf.lm_head.weight = nn.Parameter(hf.lm_head.weight.detach().clone().mul_(1.5))

    def swapped_rows(hf):
        weight = hf.model.embed_tokens.weight
        weight.data = weight.data[torch.randperm(len(weight))]

    def cast(hf):
        hf.to(torch.bfloat16)

    return locals()[name]


WRITES = [
    "add",
    "data_element",
    "data_row",
    "data_column",
    "through_numpy",
    "another_parameter",
    "swapped_rows",
    "cast",
]


@pytest.mark.parametrize("how", WRITES)
def test_a_weight_that_was_written_is_hashed_again(how):
    hf = tiny("llama")
    before = weights_sha256(hf)
    written(how)(hf)
    assert weights_sha256(hf) != before
    assert weights_sha256(hf) == hash_weights(hf)  # the slow way


@pytest.mark.parametrize("how", [w for w in WRITES if w != "data_element"])
def test_rows_and_columns_are_seen_where_only_a_part_is_read(monkeypatch, how):
    monkeypatch.setattr(weight_hash, "WHOLE_BYTES", 0)
    monkeypatch.setattr(weight_hash, "_SMALL", 40)
    hf = tiny("llama")
    before = change_token(hf)
    assert change_token(hf) == before
    written(how)(hf)
    assert change_token(hf) != before


def test_weights_are_not_read_again_where_nothing_changed(monkeypatch, model):
    calls = []
    monkeypatch.setattr(weight_hash, "hash_weights", lambda hf, without: calls.append(1) or hash_weights(hf, without))
    direction = interp.Direction.from_tensors(torch.randn(5, 32), model)
    edit = interp.add_direction(direction, layers=1)
    for _ in range(3):
        direction.require_fits(model)
        with edit.apply(model):
            model.final_logits([prompt(6)])
    assert len(calls) == 1


def test_an_edit_that_is_folded_and_taken_back_gives_the_same_hash(model):
    before = weights_sha256(model.hf)
    edit = interp.ScaledHeads(interp.describe_model(model), factors={(1, 2): 0.5})
    undo = edit.fold(model)
    assert weights_sha256(model.hf) == hash_weights(model.hf) != before
    undo.fold(model)
    assert weights_sha256(model.hf) == before


# ---- adapters ----


def test_an_adapter_that_does_not_compute_is_no_part_of_the_weights():
    wrapped = adapted(second=False)
    model = interp.load(wrapped)
    before, direction = weights_sha256(model.hf), interp.Direction.from_tensors(torch.randn(5, 32), model)
    wrapped.add_adapter("c", peft.LoraConfig(r=3, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    assert weights_sha256(model.hf) == before
    direction.require_fits(model)
    wrapped.set_adapter("c")
    with pytest.raises(ValueError, match="adapter 'a' then, adapter 'c' now"):
        direction.require_fits(model)


def switches():
    def switch(wrapped):
        wrapped.set_adapter("b")

    def both(wrapped):
        wrapped.base_model.set_adapter(["a", "b"])

    def disable(wrapped):
        wrapped.base_model.disable_adapter_layers()

    def merge(wrapped):
        wrapped.merge_adapter()

    def scale(wrapped):
        for module in wrapped.modules():
            if hasattr(module, "set_scale"):
                module.set_scale("a", 0.5)

    def one_layer(wrapped):
        wrapped.get_base_model().model.layers[2].self_attn.q_proj.scaling["a"] *= 3

    def train(wrapped):
        with torch.no_grad():
            wrapped.get_base_model().model.layers[0].self_attn.q_proj.lora_B["a"].weight.add_(0.3)

    return locals()


@pytest.mark.parametrize("how", switches())
def test_switched_adapters_are_another_computation_and_the_bridge_follows(how):
    wrapped = adapted()
    model = interp.load(wrapped)
    before, direction = run_identity(model), interp.Direction.from_tensors(torch.randn(5, 32), model)
    ids = torch.tensor([prompt(9).token_ids])
    held = model.bridge  # taken before the switch
    switches()[how](wrapped)
    after = run_identity(model)
    assert {key for key in before if before[key] != after[key]} & {"weights_sha256", "adapters"}
    with torch.no_grad():
        torch.testing.assert_close(held(ids), model.hf(ids).logits, atol=1e-4, rtol=0)
        cached, _ = held.run_with_cache(ids)
        torch.testing.assert_close(cached, model.hf(ids).logits, atol=1e-4, rtol=0)
        hooked = held.run_with_hooks(ids, fwd_hooks=[])
        torch.testing.assert_close(hooked, model.hf(ids).logits, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="this direction is of"):
        direction.require_fits(model)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, use_dora=True),
        peft.IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[], init_ia3_weights=False),
        peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, modules_to_save=["lm_head"]),
    ],
    ids=["dora", "ia3", "modules_to_save"],
)
def test_other_kinds_of_adapters(config):
    wrapped = adapted(config, second=False)
    model = interp.load(wrapped)
    on = run_identity(model)
    ids = torch.tensor([prompt(9).token_ids])
    with wrapped.disable_adapter(), torch.no_grad():
        off = run_identity(model)
        torch.testing.assert_close(model.bridge(ids), model.hf(ids).logits, atol=1e-4, rtol=0)
    assert on["adapters"] and not off["adapters"] and on["weights_sha256"] != off["weights_sha256"]
    assert run_identity(model) == on


def test_adapters_are_named_in_the_provenance():
    wrapped = adapted()
    model = interp.load(wrapped)
    (named,) = model.provenance()["adapters"]
    assert (named["name"], named["kind"], named["layers"], named["scaling"]) == ("a", "lora", 8, [4.0])
    assert model.provenance()["adapters_off"] == ["b"]


def test_modules_that_were_exchanged_are_refused():
    wrapped = adapted(second=False)
    model = interp.load(wrapped)
    wrapped.merge_and_unload()
    with pytest.raises(ValueError, match="Load it again"):
        model.bridge(torch.tensor([[1, 2, 3]]))
    plain = interp.load(tiny("llama"))
    peft.get_peft_model(plain.hf, peft.LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False))
    for use in (plain.provenance, lambda: interp.scan(plain, [prompt(6)], interp.ablate_each_head("zero"))):
        with pytest.raises(ValueError, match="no longer a part of"):
            use()
    with pytest.raises(ValueError, match="Load it again"):
        plain.bridge(torch.tensor([[1, 2, 3]]))


def test_the_bridge_reads_a_weight_that_was_put_in_the_place_of_another(model):
    model.hf.lm_head.weight = nn.Parameter(torch.randn_like(model.hf.lm_head.weight))
    ids = torch.tensor([prompt(5).token_ids])
    with torch.no_grad():
        torch.testing.assert_close(model.bridge(ids), model.hf(ids).logits, atol=1e-4, rtol=0)


# ---- what is put on a model ----


def doubled(module, args, output):
    return output * 2


def additions():
    def hook(hf):
        hf.model.layers[2].mlp.register_forward_hook(doubled)

    def forward(hf):
        layer, own = hf.model.layers[1].mlp, hf.model.layers[1].mlp.forward
        layer.forward = MethodType(lambda self, x: own(x) * 0.5, layer)

    def attention_of_a_library(hf):
        hf.config._attn_implementation = "eager"

    def rope(hf):
        hf.config.rope_parameters = dict(hf.config.rope_parameters) | {"rope_theta": 7.0}

    def inverse_frequencies(hf):
        hf.model.rotary_emb.inv_freq.mul_(0.5)

    def epsilon(hf):
        for layer in hf.model.layers:
            layer.input_layernorm.variance_epsilon = 0.5

    def end_token(hf):
        hf.generation_config.eos_token_id = 11

    return locals()


@pytest.mark.parametrize("how", additions())
def test_what_is_put_on_a_model_is_another_computation(model, how):
    before = run_identity(model)
    assert run_identity(model) == before
    additions()[how](model.hf)
    assert run_identity(model) != before


def test_hooks_and_replaced_methods_are_named(model):
    model.hf.model.layers[2].mlp.register_forward_hook(doubled)
    found = model.provenance()["hooks"]
    assert len(found) == 1 and "doubled on model.layers.2.mlp" in found[0]


def test_numbers_that_only_a_closure_holds_move_the_fingerprint(model):
    def scaled(vector):
        return lambda module, args, output: output * vector

    found = []
    for size in (1.0, 1.1):
        handle = model.hf.model.layers[2].mlp.register_forward_hook(scaled(torch.full((32,), size)))
        found.append(model.provenance()["fingerprint"])
        handle.remove()
    assert found[0]["key"] != found[1]["key"] and not same_fingerprint(*found, within=1e-4)


def test_dropout_and_hooks_with_a_state_are_refused(model):
    hf = tiny("gpt2", resid_pdrop=0.1)
    loaded = interp.load(hf)
    loaded.provenance()
    hf.train()
    with pytest.raises(ValueError, match="training mode"):
        loaded.provenance()
    model.hf.train()  # it has no dropout
    model.provenance()
    noise = torch.Generator().manual_seed(0)
    model.hf.model.layers[0].register_forward_hook(lambda m, a, o: o + torch.randn(o.shape, generator=noise))
    with pytest.raises(ValueError, match="other logits when the same prompt is run again"):
        model.provenance()


def test_a_fingerprint_is_the_same_for_another_number_of_threads_and_for_rounding(model):
    values = fingerprint(model)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = fingerprint(model)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(values, again, atol=1e-5)
    rounded = [v + 3e-5 for v in values]
    assert same_fingerprint({"values": values}, {"values": rounded}, 1e-4)
    assert not same_fingerprint({"values": values}, {"values": [*values[:-1], values[-1] + 1e-3]}, 1e-4)
    assert key_of([0.0, 1.0], 1e-4) == key_of([1e-4, 1.0004], 1e-4) != key_of([0.01, 1.0], 1e-4)


# ---- edits ----


def test_applied_edits_are_named_in_order_and_gone_after(model):
    direction = interp.Direction.from_tensors(torch.randn(5, 32), model)
    first = interp.add_direction(direction, 2.0, layers=1)
    second = interp.ScaledHeads(interp.describe_model(model), factors={(0, 1): 0.0})
    plain = run_identity(model)
    with first.apply(model), second.apply(model):
        both = run_identity(model)
        assert [edit["kind"] for edit in model.provenance()["edits"]] == ["Steering", "ScaledHeads"]
    with second.apply(model), first.apply(model):
        turned = run_identity(model)
    with pytest.raises(RuntimeError), first.apply(model):
        raise RuntimeError
    assert active_edits(model.hf) == [] and run_identity(model) == plain
    assert both["edits"] == turned["edits"][::-1] and both != turned
    with interp.add_direction(direction, 2.5, layers=1).apply(model):
        assert run_identity(model)["edits"] != both["edits"][:1]


def test_an_edit_of_named_prompts_does_not_meet_the_check_prompts(model):
    direction = interp.Direction.from_tensors(torch.randn(5, 32), model)
    steering = interp.add_direction(direction, 2.0, layers=1, positions="answer")
    with steering.apply(model, [prompt(6)]):
        found = model.provenance()
        inside = model.final_logits([prompt(6)])
    assert found["edits"] and found["fingerprint"] == model.provenance()["fingerprint"]
    with steering.apply(model, [prompt(6)]):
        torch.testing.assert_close(model.final_logits([prompt(6)]), inside)  # the hooks were put back
    assert not torch.allclose(model.final_logits([prompt(6)]), inside)


def test_what_was_made_under_an_edit_needs_it(model):
    edit = interp.ScaledHeads(interp.describe_model(model), factors={(0, 1): 0.0})
    before = interp.Direction.from_tensors(torch.randn(5, 32), model)
    with edit.apply(model):
        before.require_fits(model)  # edits nest
        made = interp.Direction.from_tensors(torch.randn(5, 32), model)
        made.require_fits(model)
    with pytest.raises(ValueError, match="made while an edit was applied"):
        made.require_fits(model)


# ---- prompts ----


def test_prompts_are_hashed_by_what_is_read():
    one, other = prompt(6), prompt(6, seed=1)
    answers = interp.Prompt.from_token_ids(list(one.token_ids), answers={"No": [5], "Yes": [9]}, gold="Yes")
    named = interp.Prompt.from_token_ids(list(one.token_ids), answers=dict(one.answers), gold="Yes", id="another name")
    assert hash_prompts([one, other]) != hash_prompts([other, one]) != hash_prompts([one])
    assert hash_prompts([one]) == hash_prompts(iter([named])) != hash_prompts([answers])


def test_what_is_described_is_json(model):
    import json

    assert json.loads(json.dumps(describe_computation(model))) == describe_computation(model)

"""Edits in the weights: hooked, folded and exported agree; other rows stay bit for bit; other weights are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

import interp
from interp.edits.composed import load_edit
from interp.edits.head_rows import HeadRows, TunedHeads, current_rows
from interp.edits.head_scales import ScaledHeads
from interp.edits.identity import describe_model
from tests.tiny import prompt, tiny

PROMPTS = [prompt(9, seed=1), prompt(16, seed=2)]


def edit_of(model, heads=((1, 2), (3, 0)), kind="query", seed=3) -> TunedHeads:
    generator = torch.Generator().manual_seed(seed)

    def moved(tensor):
        return None if tensor is None else (tensor + 0.3 * torch.randn(tensor.shape, generator=generator).to(tensor))

    rows = [current_rows(model, layer, head, kind) for layer, head in heads]
    new = tuple(replace(r, weight=moved(r.weight), bias=moved(r.bias)) for r in rows)
    return TunedHeads(describe_model(model), {"method": "random, for a test"}, new)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "olmo2"])
@pytest.mark.parametrize("kind", ["query", "key"])
def test_hooked_folded_and_exported_agree(name, kind, tmp_path):
    """Grouped heads, biases (qwen2), norms of queries (qwen3, gemma3, olmo2), tied embeddings (gemma)."""
    model = interp.load(tiny(name))
    heads = ((1, 2), (3, 0)) if kind == "query" or model.n_kv_heads == 4 else ((1, 1), (3, 0))
    edit = edit_of(model, heads, kind)
    clean = model.final_logits(PROMPTS)
    with edit.apply(model):
        hooked = model.final_logits(PROMPTS)
    assert (hooked - clean).abs().max() > 0.01
    assert torch.equal(model.final_logits(PROMPTS), clean)

    edit.export(model, tmp_path / "folded")
    assert torch.equal(model.final_logits(PROMPTS), clean)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "folded", dtype=torch.float32).eval()
    with torch.no_grad():
        exported = torch.stack([plain(torch.tensor([p.token_ids])).logits[0, -1] for p in PROMPTS])
    torch.testing.assert_close(exported, hooked, atol=1e-4, rtol=0)

    edit.fold(model)
    torch.testing.assert_close(model.final_logits(PROMPTS), hooked, atol=1e-4, rtol=0)


def test_a_fold_changes_its_rows_alone_and_is_taken_back_bit_for_bit():
    model = interp.load(tiny("llama"))
    before = weights(model)
    edit = edit_of(model, ((1, 2),))
    undo = edit.fold(model)
    name, rows = "model.layers.1.self_attn.q_proj.weight", slice(16, 24)
    for key, tensor in weights(model).items():
        if key == name:
            assert torch.equal(tensor[rows], edit.rows[0].weight)
            tensor[rows] = before[key][rows]
        assert torch.equal(tensor, before[key]), key
    undo.fold(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights(model).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_bit_for_bit(tmp_path, dtype):
    model = interp.load(tiny("qwen2", dtype=dtype))
    edit = edit_of(model)
    edit.save(tmp_path)
    again = load_edit(tmp_path)
    assert [r.label for r in again.rows] == ["L1H2", "L3H0"] and again.about == edit.about
    for a, b in zip(edit.rows, again.rows, strict=True):
        assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias) and a.weight.dtype == dtype
    with again.apply(model):
        found = model.final_logits(PROMPTS)
    with edit.apply(model):
        assert torch.equal(found, model.final_logits(PROMPTS))


def test_other_weights_are_refused(llama):
    other = interp.load(tiny("llama", seed=1))
    edit = edit_of(llama)
    with pytest.raises(ValueError, match=r"this edit is of .* with weights"), edit.apply(other):
        pass
    with pytest.raises(ValueError, match=r"this edit is of .* with weights"):
        edit.fold(other)


def test_folded_twice_is_refused():
    model = interp.load(tiny("llama"))
    edit = edit_of(model)
    edit.fold(model)
    with pytest.raises(ValueError, match="folded already"):
        edit.fold(model)


@pytest.mark.parametrize("what", ["fold", "export"])
def test_an_interrupted_fold_leaves_the_weights_as_they_were(what, tmp_path, monkeypatch):
    model = interp.load(tiny("llama"))
    edit, before = edit_of(model), weights(model)

    def interrupted(*given, **more):
        raise KeyboardInterrupt

    if what == "fold":
        monkeypatch.setattr("interp.edits.family.describe_model", interrupted)
    else:
        monkeypatch.setattr(model.hf, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        edit.fold(model) if what == "fold" else edit.export(model, tmp_path / "out")
    assert all(torch.equal(t, before[k]) for k, t in weights(model).items())
    assert not list(tmp_path.iterdir())


def test_a_fold_reaches_the_bridge_too():
    model = interp.load(tiny("llama"))
    ids = torch.tensor([PROMPTS[0].token_ids])
    clean = model.bridge(ids)
    edit_of(model).fold(model)
    with torch.no_grad():
        torch.testing.assert_close(model.bridge(ids), model.hf(ids).logits, atol=1e-4, rtol=0)
    assert (model.bridge(ids) - clean).abs().max() > 0.01


def test_gone_after_an_exception(llama):
    edit = edit_of(llama)
    clean = llama.final_logits(PROMPTS)
    with pytest.raises(KeyboardInterrupt), edit.apply(llama):
        raise KeyboardInterrupt
    assert torch.equal(llama.final_logits(PROMPTS), clean)


@pytest.mark.parametrize("name", ["gpt2", "phi3", "gpt_neox"])
def test_fused_projections_are_refused_with_the_reason(name):
    model = interp.load(tiny(name))
    with pytest.raises(ValueError, match="fused with others"):
        current_rows(model, 0, 0)


def test_heads_out_of_range_are_refused(llama):
    with pytest.raises(ValueError, match=r"query head 4 of layer 0 is out of range.*0\.\.3"):
        current_rows(llama, 0, 4)
    with pytest.raises(ValueError, match=r"key head 2 .*0\.\.1"):
        current_rows(llama, 0, 2, "key")


def test_export_leaves_a_full_directory_alone(llama, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not an empty directory"):
        edit_of(llama).export(llama, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_damaged_edits_are_refused(llama, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no edit\.json"):
        load_edit(tmp_path)
    edit_of(llama).save(tmp_path)
    content = (tmp_path / "edit.safetensors").read_bytes()
    (tmp_path / "edit.safetensors").write_bytes(content[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match="not the file"):
        load_edit(tmp_path)
    (tmp_path / "edit.safetensors").write_bytes(content)
    record = json.loads((tmp_path / "edit.json").read_text())
    (tmp_path / "edit.json").write_text(json.dumps(record | {"format_version": 99}))
    with pytest.raises(ValueError, match="format_version 99"):
        load_edit(tmp_path)


def test_scaled_heads(llama, tmp_path):
    """A factor of 0 at all positions is the scan's zero ablation at all positions."""
    edit = ScaledHeads(describe_model(llama), {}, {(1, 2): 0.0, (2, 1): 1.5})
    branch = interp.Branch((interp.HeadEdit(1, 2), interp.HeadEdit(2, 1, "scale", 1.5)))
    expected = interp.scan(llama, PROMPTS, [branch], positions="all").values[:, 0]
    edit.save(tmp_path)
    with load_edit(tmp_path).apply(llama):
        logits = llama.final_logits(PROMPTS)
    found = [row[p.answers["No"][0]] - row[p.answers["Yes"][0]] for row, p in zip(logits, PROMPTS, strict=True)]
    torch.testing.assert_close(torch.stack(found), torch.tensor(expected), atol=1e-4, rtol=0)


def test_rows_say_what_they_are():
    rows = HeadRows(3, 1, "key", torch.zeros(8, 32), torch.zeros(8))
    assert rows.label == "L3K1" and rows.n_parameters == 8 * 33

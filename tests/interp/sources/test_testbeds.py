"""Testbeds: what ships is what was pinned, is small, loads with plain transformers, and answers questions on scenes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from interp.sources import resolve as sources, testbeds
from interp.sources.conversions import FORMAT_VERSION, PROVENANCE_FILE, read_provenance, sha256_of
from interp.sources.testbeds import TESTBEDS, assemble, check_weights, insert_trained
from probes.scenes.renderer import render
from probes.scenes.splits import scene_split
from probes.scenes.training.alignment import NOTHING, disguise, label_patches
from probes.scenes.training.packing import Template, pack, pixel_values, target_logits
from probes.scenes.training.training import draw

TINY, SMOLLM2 = "scenes-llava-tiny", "scenes-smollm2"
MOST_MB = 15


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(sources.local_directory(TINY), local_files_only=True)


@pytest.fixture(scope="module")
def model():
    return load(torch.float32)


def load(dtype):
    place = sources.local_directory(TINY)
    return LlavaForConditionalGeneration.from_pretrained(place, dtype=dtype, local_files_only=True).eval()


@torch.no_grad()
def ask(model, processor, image, question):
    """The logits behind one prompt, made as anybody would make it."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=image, return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return model(**inputs).logits[0, -1].float()


def share_right(model, processor, n=60, difficulty="easy"):
    asked = [(scene, q) for scene, questions in scene_split("test", 7, 11, difficulty) for q in questions][:n]
    right = 0
    for scene, question in asked:
        said = ask(model, processor, render(scene).image, question.text).argmax().item()
        right += said == processor.tokenizer(question.answer, add_special_tokens=False)["input_ids"][0]
    assert len(asked) == n
    return right / n


@pytest.mark.parametrize("name", TESTBEDS)
def test_what_ships_is_what_was_pinned(name):
    testbed = TESTBEDS[name]
    check_weights(testbed)
    weights = load_file(testbed.shipped / testbed.weights)
    assert {t.dtype for t in weights.values()} == {torch.float16}
    assert all(t.isfinite().all() for t in weights.values())
    card = (testbed.shipped / "README.md").read_text(encoding="utf-8")
    assert testbed.sha256 in card and "license: apache-2.0" in card


def test_what_ships_is_small():
    megabytes = sum(f.stat().st_size for t in TESTBEDS.values() for f in t.shipped.iterdir()) / 1e6
    assert megabytes < MOST_MB


def test_tiny_answers_held_out_questions(model, processor):
    assert isinstance(processor.image_processor, CLIPImageProcessorPil)
    assert share_right(model, processor) > 0.9


def test_smollm2_answers_held_out_questions_often_and_not_always():
    place = sources.local_directory(SMOLLM2)
    seeing = LlavaForConditionalGeneration.from_pretrained(place, dtype=torch.float32, local_files_only=True).eval()
    processor = AutoProcessor.from_pretrained(place, local_files_only=True)
    assert 0.6 < share_right(seeing, processor, n=30, difficulty=0.24) < 0.98


def test_tiny_answers_in_bfloat16(processor):
    assert share_right(load(torch.bfloat16), processor) > 0.85


def test_tiny_says_its_answer_and_stops(model, processor):
    scene, questions = scene_split("test", 1, 11, "easy")[0]
    content = [{"type": "image"}, {"type": "text", "text": questions[0].text}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=render(scene).image, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert out[-1].item() == processor.tokenizer.eos_token_id and len(out) == 2


def test_packed_questions_are_questions_asked_alone(model, processor):
    scenes = scene_split("train", 3, 11, "easy")
    template = Template(processor, n_image=36, end="<end>")
    pool = draw(scenes, template, pixels=48, grid=6)
    packed = pack(template, pool.asked)
    with torch.no_grad():
        together = target_logits(model, pixel_values(pool.images), packed, first_only=True)
    alone = [ask(model, processor, render(s).image, q.text) for s, questions in scenes for q in questions]
    assert torch.allclose(together, torch.stack(alone), atol=1e-4)


def test_both_are_built_in_models():
    resolved = sources.resolve(TINY)
    assert (resolved.kind, resolved.name) == ("builtin", TINY)
    assert resolved.source["weights_sha256"] == TESTBEDS[TINY].sha256
    assert sources.closest("scenes-llava")[0] == TINY
    with pytest.raises(ValueError, match="is pinned to SHA-256"):
        sources.resolve(TINY, sha256="0" * 64)
    rows = {row.name: row for row in sources.describe_sources()}
    assert rows[TINY].cached and rows[TINY].path == TESTBEDS[TINY].shipped


def test_damaged_and_missing_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(testbeds, "DATA", tmp_path)
    (tmp_path / TINY).mkdir()
    with pytest.raises(ValueError, match="missing from the installed package; install headscope again"):
        check_weights(TESTBEDS[TINY])
    save_file({"a": torch.zeros(1)}, tmp_path / TINY / "model.safetensors")
    with pytest.raises(ValueError, match=r"expected SHA-256 .* found .* is damaged or was changed"):
        check_weights(TESTBEDS[TINY])


@pytest.fixture
def around(tmp_path, monkeypatch):
    """A testbed around a random two-layer language model, its low-rank changes on one weight."""
    torch.manual_seed(0)
    base, data = tmp_path / "base", tmp_path / "data"
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    language_model = LlamaForCausalLM(config)
    language_model.save_pretrained(base)
    words = {f"w{i}": i for i in range(32)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0"))).save_pretrained(base)
    record = {"format_version": FORMAT_VERSION, "name": "base", "files": {}}
    (base / PROVENANCE_FILE).write_text(json.dumps(record), encoding="utf-8")
    shipped = data / "seeing"
    shipped.mkdir(parents=True)
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    vision |= dict(image_size=16, patch_size=8, projection_dim=16, model_type="clip_vision_model")
    settings = {"vision_config": vision, "vision_feature_layer": -1, "image_seq_length": 4}
    (shipped / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    for name in ("processor_config.json", "chat_template.jinja"):
        (shipped / name).write_bytes((TESTBEDS[TINY].shipped / name).read_bytes())
    whole = testbeds.around_language_model(base, settings)
    parts = ("vision_tower.", "multi_modal_projector.")
    trained = {n: p.half() for n, p in whole.model.named_parameters() if n.startswith(parts)}
    trained |= {"lora.1.k_proj.a": torch.randn(2, 24).half(), "lora.1.k_proj.b": torch.randn(12, 2).half()}
    save_file(trained, shipped / "adapter.safetensors")
    monkeypatch.setattr(testbeds, "DATA", data)
    found = sha256_of(shipped / "adapter.safetensors")
    testbed = replace(TESTBEDS[SMOLLM2], name="seeing", sha256=found)
    return testbed, base, language_model, trained


def test_a_testbed_is_its_language_model_and_what_was_trained(around, tmp_path):
    testbed, base, language_model, trained = around
    target = tmp_path / "target"
    assemble(testbed, base, target)
    model = LlavaForConditionalGeneration.from_pretrained(target, dtype=torch.float32).eval()
    before, after = language_model.model.layers, model.model.language_model.layers
    change = trained["lora.1.k_proj.b"].float() @ trained["lora.1.k_proj.a"].float()
    assert torch.allclose(after[1].self_attn.k_proj.weight, before[1].self_attn.k_proj.weight + change)
    assert torch.equal(after[0].self_attn.k_proj.weight, before[0].self_attn.k_proj.weight)
    embedding = model.model.language_model.embed_tokens.weight
    assert torch.equal(embedding[:-1], language_model.model.embed_tokens.weight)
    assert torch.allclose(embedding[-1], embedding[:-1].mean(dim=0)) and model.lm_head.weight is embedding
    processor = AutoProcessor.from_pretrained(target)
    assert processor.image_token_id == model.config.image_token_id == 32
    record = read_provenance(target)
    assert record["language_model"]["name"] == "base" and record["weights_sha256"] == testbed.sha256


def test_a_weight_without_a_place_is_refused(around):
    testbed, base, _, trained = around
    settings = json.loads((testbed.shipped / "config.json").read_text(encoding="utf-8"))
    model = testbeds.around_language_model(base, settings)
    with pytest.raises(ValueError, match=r"1 of the trained weights have no place in the model: lora\.9"):
        insert_trained(model, {**trained, "lora.9.q_proj.a": torch.zeros(2, 24)})


def test_patches_belong_to_what_covers_them():
    masks = np.zeros((2, 4, 4), dtype=bool)
    masks[0, :2, :2] = True
    masks[1, 2:, 1:] = True
    found = label_patches(masks, grid=2)
    assert found.owner.tolist() == [0, NOTHING, 1, 1]
    assert np.allclose(found.centre[0], -2 / 3) and np.allclose(found.centre[1], 0)
    assert np.allclose(found.centre[3], [1 / 3, 2 / 3])


def test_a_disguise_hides_what_it_must():
    rng = np.random.default_rng(0)
    pixels = torch.rand(8, 3, 16, 16) * 2 - 1
    labels = torch.zeros(8, 4, 4, dtype=torch.long)
    shown, marked = disguise(pixels, labels, ["shape", "colour", "size", "material"], 8, rng)
    hidden = (marked == NOTHING).all(dim=1)
    assert hidden[:3].tolist() == [[False, True, False, True]] * 3
    assert hidden[3:5].tolist() == [[True, True, False, False]] * 2
    assert hidden[5:7].tolist() == [[True, False, True, True]] * 2
    assert hidden[7:].tolist() == [[True, False, False, True]]
    assert (labels == 0).all() and torch.equal(shown[7:], pixels[7:])
    cells = shown[5:7, :, :8, :8].flatten(2).sort(dim=-1).values
    assert torch.equal(cells, pixels[5:7, :, :8, :8].flatten(2).sort(dim=-1).values)
    grey = pixels.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    still_grey, _ = disguise(grey, labels, ["shape", "colour", "size", "material"], 8, rng)
    assert still_grey[:5].std(dim=1).max() < 1e-6
    assert torch.allclose(still_grey[3:5], grey[3:5], atol=1e-6)

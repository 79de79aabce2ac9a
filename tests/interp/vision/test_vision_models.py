"""Vision-language models: what transformers computes, heads of the language model only, each picture encoded once."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

import interp
from interp.fitting.factor_gradient import factors_applied
from interp.fitting.tuning import frozen
from interp.passes.independence import may_share
from interp.passes.looks_ahead import looks_ahead
from interp.passes.shared_prefix import (
    WORTH_SHARING,
    UpperLayers,
    answer_logits,
    batches_alike,
    common_prefix,
    in_order,
    logits_by_batch,
)
from interp.prompts.prompt import Prompt
from interp.reading import capture, generation, perplexity, residual
from interp.vision import encoder as vision_encoder
from interp.vision.images import image_sha256
from interp.vision.processors import load_processor
from tests.interp.tiny_vision import HEADS, IMAGE, LAYERS, NAMES, TEMPLATE, Tiny, loaded, picture, tiny_vision
from tests.tiny import tiny, tiny_tokenizer

QUESTIONS = ("Is it?", "Is the sky blue on a clear day?", "Can it do so?")
PICTURES = (picture(0, (30, 20)), picture(1, (30, 20)), picture(2, (20, 33)))
TOWERS = ("model.vision_tower", "model.vision_model", "model.visual", "vision_model")
OUT_PROJECTIONS = ("model.language_model", "model.text_model", "language_model.model.decoder", "language_model.model")

each = pytest.mark.parametrize("name", NAMES)


def ask(name: str, pictures=PICTURES, **changes) -> list[Prompt]:
    model, made = loaded(name)
    return [
        model.prompt(q, image=p, chat=made.chat, answers=("No", "Yes"), gold="Yes", id=str(i), **changes)
        for i, (q, p) in enumerate(zip(QUESTIONS, pictures, strict=True))
    ]


def plain_inputs(made: Tiny, question: str, image) -> dict[str, torch.Tensor]:
    """What a user of transformers gives the model: by its processor alone."""
    text = question
    if made.chat:
        parts = [{"type": "image"}, {"type": "text", "text": question}]
        text = made.processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    elif type(made.processor).__name__ == "PaliGemmaProcessor":
        text = IMAGE + question
    out = made.processor(text=[text], images=[image], return_tensors="pt")
    known = inspect.signature(type(made.hf).forward).parameters
    return {key: value for key, value in out.items() if key in known and key != "labels"}


@torch.no_grad()
def plain_logits(made: Tiny, question: str, image) -> torch.Tensor:
    return made.hf(**plain_inputs(made, question, image)).logits[0, -1]


def tower(model: interp.Model) -> torch.nn.Module:
    """The part of the vision tower that reads pixels."""
    modules = dict(model.hf.named_modules())
    whole = next(modules[name] for name in TOWERS if name in modules)
    return next(m for m in whole.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Conv3d)))


def language_model(hf: torch.nn.Module) -> torch.nn.Module:
    modules = dict(hf.named_modules())
    return next(modules[name] for name in OUT_PROJECTIONS if name in modules)


@pytest.fixture
def calls():
    """Counts the calls of modules, and leaves nothing behind."""
    handles = []

    def count(module: torch.nn.Module) -> list[int]:
        found: list[int] = []
        handles.append(module.register_forward_hook(lambda *args: found.append(1)))
        return found

    yield count
    for handle in handles:
        handle.remove()


@each
def test_logits_are_those_of_plain_transformers(name):
    model, made = loaded(name)
    asked = ask(name)
    together = model.final_logits(asked)
    for prompt, row, question, image in zip(asked, together, QUESTIONS, PICTURES, strict=True):
        assert prompt.token_ids == tuple(plain_inputs(made, question, image)["input_ids"][0].tolist())
        reference = plain_logits(made, question, image)
        assert (row - reference).abs().max() < 1e-4
        assert (model.final_logits([prompt])[0] - reference).abs().max() < 1e-4
    assert (together[0] - together[1]).abs().max() > 0.1  # another picture and question are another answer


@each
def test_the_picture_matters_and_missing_it_is_refused(name):
    model, made = loaded(name)
    same_question = [model.prompt("Is it?", image=p, chat=made.chat) for p in PICTURES[:2]]
    first, second = model.final_logits(same_question)
    assert (first - second).abs().max() > 0.05
    bare = Prompt.from_token_ids([3, 4, 5])
    for run in (
        lambda: model.final_logits([bare]),
        lambda: interp.scan(model, [bare], interp.ablate_each_head("zero"), metric=interp.Probability("Yes")),
        lambda: capture.head_outputs(model, [bare]),
        lambda: residual.residual_states(model, [bare], [[0]]),
        lambda: generation.generate(model, [bare]),
    ):
        with pytest.raises(ValueError, match=r"has no image, and .* reads pictures: it would run text-only"):
            run()
    with pytest.raises(ValueError, match="reads pictures, and none was given"):
        model.prompt("Is it?", chat=made.chat)
    text = model.prompt("Is it?", chat=made.chat, text_only=True)
    assert text.image is None and "image" not in text.spans
    assert torch.isfinite(model.final_logits([text])).all()


@each
def test_heads_are_those_of_the_language_model(name):
    """Zeroing a head by a branch is zeroing it by a hook put there by hand, on a model that nothing else touched."""
    model, made = loaded(name)
    assert (model.n_layers, model.n_heads, model.has_vision) == (LAYERS, HEADS, True)
    decoder = language_model(model.hf)
    assert all(model.components.blocks[i].module is decoder.layers[i] for i in range(LAYERS))
    hooks = [h for h in model.bridge.hook_dict if h.startswith("blocks.") and h.endswith("attn.hook_z")]
    assert sorted(hooks) == [f"blocks.{i}.attn.hook_z" for i in range(LAYERS)]

    layer, head = 2, 3
    attention = language_model(made.hf).layers[layer].self_attn
    projection = getattr(attention, "o_proj", None) or attention.out_proj

    def zero(module, args):
        z = args[0].clone()
        z[..., head * model.d_head : (head + 1) * model.d_head] = 0
        return (z,)

    handle = projection.register_forward_pre_hook(zero)
    try:
        by_hand = plain_logits(made, QUESTIONS[1], PICTURES[1])
    finally:
        handle.remove()
    branch = interp.Branch((interp.HeadEdit(layer, head, "zero"),))
    metric = interp.LogitDifference("No", "Yes")
    prompt = ask(name)[1]
    for method in ("fan-out", "loop"):
        found = interp.scan(model, [prompt], [branch], metric=metric, positions="all", method=method, check=0)
        no, yes = (prompt.answer_tokens(word)[0] for word in ("No", "Yes"))
        assert found.values[0, 0] == pytest.approx((by_hand[no] - by_hand[yes]).item(), abs=1e-4)
        assert abs(found.change).max() > 1e-3


@each
def test_a_picture_is_encoded_once_for_a_call(name, calls):
    model, _ = loaded(name)
    model.forget_images()
    count = calls(tower(model))
    pictures = (PICTURES[0], PICTURES[1], PICTURES[0])  # two questions on one
    asked = ask(name, pictures)
    assert count == []
    interp.scan(model, asked, interp.ablate_each_head("mean"), positions="text")
    assert len(count) == 2
    model.final_logits(asked)
    generation.generate(model, asked, max_new_tokens=2)
    capture.head_outputs(model, asked)
    assert len(count) == 2
    model.forget_images()
    interp.scan(model, asked[:1], interp.ablate_each_head("zero"), method="loop")
    assert len(count) == 3


def test_the_first_picture_of_a_fresh_model_is_encoded_once(calls):
    made = tiny_vision("llava")
    model = interp.load(made.hf, processor=made.processor)
    count = calls(tower(model))
    prompt = model.prompt("Is it?", image=PICTURES[0])
    for _ in range(2):
        model.final_logits([prompt])
    assert len(count) == 1


def test_changed_weights_and_new_hooks_are_seen_by_the_memory():
    made = tiny_vision("llava")
    model = interp.load(made.hf, processor=made.processor)
    prompt = model.prompt("Is it?", image=PICTURES[0])
    before = model.final_logits([prompt])
    with torch.no_grad():
        model.hf.model.multi_modal_projector.linear_1.weight.mul_(2)
    after = model.final_logits([prompt])
    assert (after - before).abs().max() > 1e-3
    handle = model.hf.model.multi_modal_projector.register_forward_hook(lambda module, args, out: 0 * out)
    assert (model.final_logits([prompt]) - after).abs().max() > 1e-3
    handle.remove()
    assert torch.equal(model.final_logits([prompt]), after)


def test_the_memory_is_bounded(calls):
    model, _ = loaded("llava")
    model.forget_images()
    encoder = model.encoder
    one = ask("llava")[0]
    size = 4 * encoder.features(one.image).n_positions * model.d_model
    before, encoder._most_bytes = encoder._most_bytes, 2 * size
    try:
        count = calls(tower(model))
        many = [model.prompt("Is it?", image=picture(seed)) for seed in range(4)]
        for prompt in many:
            model.final_logits([prompt])
        assert len(encoder._kept) == 2 and len(count) == 4
        model.final_logits(many[-2:])
        assert len(count) == 4
        model.final_logits(many[:1])
        assert len(count) == 5
    finally:
        encoder._most_bytes = before
        model.forget_images()


@each
def test_spans_say_where_the_picture_and_the_text_are(name):
    model, made = loaded(name)
    text = "Is the sky blue on a clear day?"
    word = text.index("blue")
    prompt = model.prompt(text, image=PICTURES[0], chat=made.chat, spans={"word": (word, word + 4)})
    image, after = prompt.span("image"), prompt.span("after_image")
    assert {prompt.token_ids[i] for i in image} == {model.image_token_id}
    assert model.image_token_id not in [prompt.token_ids[i] for i in after]
    assert after == tuple(range(image[-1] + 1, len(prompt)))
    assert "".join(prompt.tokens[i] for i in prompt.span("text")) == text
    assert "blue" in "".join(prompt.tokens[i] for i in prompt.span("word"))
    assert set(prompt.span("text")) <= set(after)
    assert prompt.span("prefix") + prompt.span("text") + prompt.span("suffix") == tuple(range(len(prompt)))
    assert prompt.image.size == (30, 20) and prompt.image.sha256 == image_sha256(PICTURES[0])
    if "pixel_values" in prompt.image.inputs:
        assert "input_ids" not in prompt.image.inputs and "attention_mask" not in prompt.image.inputs


@pytest.mark.parametrize(
    ("name", "wide", "tall"),
    [
        ("llava", (4, 4), (4, 4)),
        ("paligemma", (4, 4), (4, 4)),
        ("gemma3", (2, 2), (2, 2)),
        ("qwen2_vl", (2, 4), (4, 2)),
        ("qwen2_5_vl", (2, 4), (4, 2)),
        ("qwen3_vl", (2, 4), (4, 2)),
        ("llava_next", None, None),
        ("llava_onevision", None, None),
        ("idefics3", None, None),
        ("smolvlm", None, None),
        ("instructblip", None, None),
        ("blip2", None, None),
    ],
)
def test_the_grid_is_that_of_the_patches(name, wide, tall):
    assert [prompt.image.grid for prompt in ask(name)] == [wide, wide, tall]


@pytest.mark.parametrize("name", ["llava", "paligemma", "qwen2_vl", "qwen3_vl"])
def test_image_positions_are_patches_row_by_row(name):
    """A picture that is bright in one place changes most what stands at that patch's position."""
    model, made = loaded(name)
    dark = np.zeros((32, 32, 3), dtype=np.uint8)
    bright = dark.copy()
    bright[0:8, 24:32] = 255  # the upper right corner
    pair = [model.prompt("Is it?", image=_image(p), chat=made.chat) for p in (dark, bright)]
    rows, columns = pair[0].image.grid
    assert rows > 1 and columns > 1
    features = [model.encoder.features(p.image).pooler_output for p in pair]
    flat = [torch.cat([*f]).reshape(-1, model.d_model) for f in features]
    moved = (flat[0] - flat[1]).norm(dim=-1).reshape(rows, columns)
    assert moved.argmax() == columns - 1


def _image(pixels: np.ndarray):
    from PIL import Image

    return Image.fromarray(pixels)


@each
def test_every_capture_takes_pictures(name):
    """Padded batches give what single prompts give; the bridge gives the same; attention sums to one."""
    model, _ = loaded(name)
    asked = ask(name)
    together = capture.head_outputs(model, asked, last=None)
    for prompt, z in zip(asked, together, strict=True):
        assert torch.allclose(z, capture.head_outputs(model, [prompt], last=None)[0], atol=1e-4)
    last = [[p.answer_position] for p in asked]
    states = residual.residual_states(model, asked, last)
    assert torch.allclose(states[2], residual.residual_states(model, asked[2:], last[2:])[0], atol=1e-4)
    attention = capture.attention_log_probs(
        model, asked, last, [[p.span("image"), p.span("after_image")] for p in asked]
    )
    assert all((a.exp().sum(-1) <= 1 + 1e-5).all() and (a[..., 0] > -20).any() for a in attention)

    inputs = model.inputs(asked[1:2]).inputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits, cache = model.bridge.run_with_cache(inputs.pop("input_ids"), **inputs)
    assert torch.allclose(logits[0, -1], model.final_logits(asked[1:2])[0], atol=1e-4)
    bridged = torch.stack([cache[f"blocks.{i}.attn.hook_z"][0].reshape(together[1][i].shape) for i in range(LAYERS)])
    assert torch.allclose(bridged, together[1], atol=1e-4)


@each
def test_attribution_splits_the_answer_over_the_picture_too(name):
    model, _ = loaded(name)
    prompt = ask(name)[0]
    metric = interp.LogitDifference("No", "Yes")
    if name == "blip2":  # OPT's MLP is no module
        with pytest.raises(ValueError, match="has no MLP module"):
            interp.attribute(model, prompt, metric)
        return
    found = interp.attribute(model, prompt, metric)
    logits = model.final_logits([prompt])[0]
    no, yes = (prompt.answer_tokens(word)[0] for word in ("No", "Yes"))
    if "paligemma2" not in name:  # its cap comes after the sum
        assert found.total == pytest.approx((logits[no] - logits[yes]).item(), abs=1e-4)
    assert abs(found.residual()) < 1e-4
    assert abs(found.by_token[:, :, list(prompt.span("image"))]).max() > 1e-4


@each
def test_replies_are_those_of_plain_generate(name):
    model, made = loaded(name)
    replies = generation.generate(model, ask(name), max_new_tokens=4)
    for question, image, (reply,) in zip(QUESTIONS, PICTURES, replies, strict=True):
        inputs = plain_inputs(made, question, image)
        out = made.hf.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=2)
        new = out[0, inputs["input_ids"].shape[1] :]
        expected = made.processor.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert reply == expected


@each
def test_questions_on_one_picture_share_it(name):
    model, _ = loaded(name)
    one = ask(name, (PICTURES[0],) * 3)
    shared = common_prefix(one)
    assert (shared > one[0].span("image")[-1]) == (name != "instructblip")  # whose features depend on the question
    assert common_prefix(ask(name)) == 0
    for asked in (one, ask(name)):
        single = torch.cat([model.final_logits([p]) for p in asked])
        assert (model.final_logits(asked) - single).abs().max() < 1e-4
        with torch.no_grad():
            assert (answer_logits(model, asked) - single).abs().max() < 1e-4


@each
def test_questions_on_pictures_in_any_order(name):
    """Those on one picture run together, and every number, and slope, is that of one question at a time."""
    model, _ = loaded(name)
    mixed = [ask(name, (PICTURES[i],) * 3)[j] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1), (0, 2))]
    together = batches_alike(model, mixed, 2)
    assert sorted(i for batch in together for i in batch) == list(range(5))
    if model.may_share_prefix() and common_prefix(mixed[::2]) >= WORTH_SHARING:
        assert together == [[0, 2], [4], [1, 3]]
    single = torch.cat([model.final_logits([p]) for p in mixed])
    assert (model.final_logits(mixed, batch_size=2) - single).abs().max() < 1e-4

    def slope(batches):
        factors = torch.ones(model.n_layers, model.n_heads, requires_grad=True)
        with torch.enable_grad(), frozen(model), factors_applied(model, factors):
            logits = torch.cat([in_order([*logits_by_batch(model, batch, len(batch))]) for batch in batches])
            return torch.autograd.grad(logits.log_softmax(-1)[:, 7].sum(), factors)[0]

    slow = slope([[p] for p in mixed])
    assert slow.abs().max() > 1e-2
    torch.testing.assert_close(slope([mixed]), slow, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_vl", "instructblip", "paligemma", "paligemma2"])
def test_looking_ahead_is_measured_with_pictures_and_without(name):
    """Gemma 3's patches see each other, and nothing after the picture."""
    model, _ = loaded(name)
    asked = ask(name)[0]
    assert looks_ahead(model) == looks_ahead(model, asked) == name.startswith("paligemma")
    assert may_share(model, [asked, asked], len(asked) - 1) != name.startswith("paligemma")


def test_layers_are_tuned_on_text_alone():
    model, _ = loaded("llava")
    with pytest.raises(ValueError, match="tuned and resumed on prompts of text alone"):
        UpperLayers(model, ask("llava"), 1)
    with pytest.raises(ValueError, match="a model that reads prompts both ways"):
        UpperLayers(loaded("paligemma")[0], [Prompt.from_token_ids([3, 4], text_only=True)], 1)
    for name in ("llava", "qwen2_vl", "instructblip"):
        model, made = loaded(name)
        texts = [model.prompt(q, chat=made.chat, text_only=True) for q in QUESTIONS]
        upper = UpperLayers(model, texts, 2)
        assert torch.allclose(upper.all_logits(), model.final_logits(texts), atol=1e-4)


@each
def test_nll_of_replies(name):
    model, _ = loaded(name)
    asked, replies = ask(name), [[5, 7, 9], [7], [9, 9]]
    together = perplexity.reply_nll(model, asked, replies)
    first = perplexity.reply_nll(model, asked[1:2], replies[1:2])
    chosen = -model.final_logits(asked[1:2])[0].log_softmax(-1)[7]
    assert together[1] == pytest.approx(first[0], abs=1e-4) and first[0] == pytest.approx(chosen.item(), abs=1e-4)


@pytest.mark.parametrize("name", ["llava", "instructblip", "gemma3", "qwen3_vl", "idefics3"])
def test_bfloat16_pixels_follow_the_tower(name):
    made = tiny_vision(name, torch.bfloat16)
    model = interp.load(made.hf, processor=made.processor)
    assert model.dtype == torch.bfloat16
    prompt = model.prompt(QUESTIONS[0], image=PICTURES[0], chat=made.chat, answers=("No", "Yes"))
    assert prompt.image.inputs["pixel_values"].dtype == torch.float32
    exact = loaded(name)[0].final_logits([prompt])
    assert (model.final_logits([prompt]) - exact).abs().max() < 0.05 * exact.abs().max()
    found = interp.scan(model, [prompt], interp.ablate_each_head("zero"))
    assert found.how == "fan-out"


@pytest.mark.parametrize(
    "name", ["llava", "llava_onevision", "gemma3", "qwen3_vl", "instructblip", "smolvlm", "paligemma"]
)
def test_a_directory_is_loaded_whole_and_nothing_is_installed(name, tmp_path, monkeypatch):
    """TransformerLens would run `pip install torchvision` where a processor fails to load."""
    made = tiny_vision(name)
    made.hf.save_pretrained(tmp_path)
    made.processor.save_pretrained(tmp_path)

    def never(*args, **kwargs):
        raise AssertionError(f"a process was started: {args}")

    for where, what in [(subprocess, "Popen"), (subprocess, "run"), (subprocess, "check_call"), (os, "system")]:
        monkeypatch.setattr(where, what, never)
    for how in ("posix_spawn", "execv", "fork"):
        monkeypatch.setattr(os, how, never)
    model = interp.load(tmp_path)
    assert type(model.hf) is type(made.hf)
    assert type(model.processor.image_processor).__name__.endswith("Pil")
    prompt = model.prompt(QUESTIONS[0], image=PICTURES[0], chat=made.chat)
    assert prompt.token_ids == ask(name)[0].token_ids
    assert torch.allclose(model.final_logits([prompt]), loaded(name)[0].final_logits([prompt]), atol=1e-4)
    record = model.provenance()
    assert len(record["image_processor_sha256"]) == 64 and record["n_layers"] == LAYERS


def test_a_directory_of_the_old_layout_and_a_given_processor(tmp_path):
    """preprocessor_config.json beside the tokenizer, as older repositories have it."""
    made = tiny_vision("qwen2_vl")
    made.hf.save_pretrained(tmp_path)
    made.processor.image_processor.save_pretrained(tmp_path)
    made.processor.tokenizer.chat_template = made.processor.chat_template
    made.processor.tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / "processor_config.json").exists()
    model = interp.load(tmp_path)
    prompt = model.prompt(QUESTIONS[0], image=PICTURES[0])
    assert prompt.token_ids == ask("qwen2_vl")[0].token_ids
    assert interp.load(tmp_path, processor=made.processor).processor is made.processor


def test_a_directory_without_a_processor(tmp_path):
    tiny_vision("llava").hf.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no processor that can be read .*processor\.save_pretrained"):
        interp.load(tmp_path)
    with pytest.raises(ValueError, match="has no processor that can be read"):
        load_processor(str(tmp_path), local_files_only=True)


def test_what_does_not_go_together():
    text = interp.load(tiny("llama", vocab_size=400), tokenizer=tiny_tokenizer())
    assert not text.has_vision and text.processor is None
    text.forget_images()
    with pytest.raises(ValueError, match="this model has no vision part"):
        text.prompt("Is it?", image=PICTURES[0])
    with pytest.raises(ValueError, match="has an image, and this model has no vision part"):
        text.final_logits([ask("llava")[0]])
    with pytest.raises(ValueError, match="this model has no vision part; leave out processor="):
        interp.load(tiny("llama"), processor=tiny_vision("llava").processor)
    with pytest.raises(ValueError, match="tokenizer= was given a LlavaProcessor; give processor="):
        interp.load(tiny_vision("llava").hf, tokenizer=tiny_vision("llava").processor)
    with pytest.raises(ValueError, match="was loaded without a processor"):
        interp.load(tiny_vision("llava").hf, tokenizer=tiny_vision("llava").processor.tokenizer).prompt(
            "Is it?", image=PICTURES[0]
        )
    model, _ = loaded("llava")
    with pytest.raises(ValueError, match="an image was given with text_only=True"):
        model.prompt("Is it?", image=PICTURES[0], text_only=True)
    with pytest.raises(ValueError, match="needs a span 'image'"):
        Prompt.from_token_ids([3, 4], image=ask("llava")[0].image)


def test_an_encoder_decoder_inside_is_refused():
    made = tiny_vision("instructblip")
    config = made.hf.config.to_dict()
    config["text_config"] = tf.T5Config(
        vocab_size=400, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    ).to_dict()
    model = tf.InstructBlipForConditionalGeneration(tf.InstructBlipConfig(**config))
    with pytest.raises(ValueError, match=r"an encoder-decoder, reads the picture in one stack.*Vicuna, OPT"):
        interp.load(model, processor=made.processor)


@pytest.mark.parametrize(
    ("text", "chat", "message"),
    [
        ("USER: Is it? ASSISTANT:", False, "has no image token; .* expects one '<image>'"),
        ("USER: <image>\n<image>\nIs it?", False, "has 2 image tokens '<image>'; expected one"),
        ("Is <image> it?", True, "and the chat template places the picture too"),
    ],
)
def test_image_tokens_in_the_text(text, chat, message):
    with pytest.raises(ValueError, match=message):
        loaded("llava")[0].prompt(text, image=PICTURES[0], chat=chat)


def test_an_image_token_in_the_middle_of_the_text():
    model, made = loaded("llava")
    text = "USER: <image>\nIs the sky blue? ASSISTANT:"
    prompt = model.prompt(text, image=PICTURES[0], chat=False, spans={"sky": (21, 24), "both": (0, 24)})
    expected = made.processor(text=[text], images=[PICTURES[0]], return_tensors="pt")
    assert prompt.token_ids == tuple(expected["input_ids"][0].tolist())
    assert "sky" in "".join(prompt.tokens[i] for i in prompt.span("sky"))
    assert prompt.span("image")[0] in prompt.span("both") and prompt.span("image")[-1] in prompt.span("both")
    assert prompt.span("text") == tuple(range(len(prompt)))


@pytest.mark.parametrize("name", ["instructblip", "blip2", "paligemma"])
def test_models_with_the_picture_first_take_text_with_or_without_its_token(name):
    model, _ = loaded(name)
    bare = model.prompt("Is it?", image=PICTURES[0], chat=False, spans={"it": (3, 5)})
    written = model.prompt(IMAGE + "Is it?", image=PICTURES[0], chat=False, spans={"it": (10, 12)})
    assert bare.token_ids == written.token_ids and bare.spans == written.spans
    with pytest.raises(ValueError, match="has the picture before all text"):
        model.prompt(f"Is {IMAGE} it?", image=PICTURES[0], chat=False)
    with pytest.raises(ValueError, match="has 2 image tokens"):
        model.prompt(IMAGE * 2, image=PICTURES[0], chat=False)
    if name != "paligemma":
        with pytest.raises(ValueError, match="writes the begin token itself"):
            model.prompt("<s>Is it?", image=PICTURES[0], chat=False)
    with pytest.raises(ValueError, match=r"has no chat template that places a picture.*chat=False"):
        made = tiny_vision(name)
        made.processor.tokenizer.chat_template = None
        interp.load(made.hf, processor=made.processor).prompt("Is it?", image=PICTURES[0])


def test_a_begin_token_is_added_as_the_processor_does():
    """LLaVA 1.5's template writes none, and its tokenizer adds it; twice would be wrong too."""
    made = tiny_vision("llava")
    tokenizer = tiny_tokenizer(adds_bos=True)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    for template, expected in ((TEMPLATE, 1), ("<s>" + TEMPLATE, 1)):
        made.processor.tokenizer, made.processor.chat_template = tokenizer, template.replace("IMAGE", IMAGE)
        model = interp.load(made.hf, processor=made.processor)
        prompt = model.prompt("Is it?", image=PICTURES[0])
        assert prompt.token_ids[0] == 1 and prompt.token_ids.count(1) == expected
        assert model.prompt("Is it?", text_only=True).token_ids.count(1) == expected


def test_a_reply_that_is_begun():
    model, _ = loaded("llava")
    prompt = model.prompt("Is it?", image=PICTURES[0], reply="The answer is")
    assert "".join(prompt.tokens[i] for i in prompt.span("reply")) == "The answer is"
    with pytest.raises(ValueError, match=r"PaliGemmaProcessor writes .* after the text, so a reply can't be begun"):
        loaded("paligemma")[0].prompt("Is it?", image=PICTURES[0], chat=False, reply="Yes")


def test_system_messages_and_templates_that_take_no_pictures():
    model, _ = loaded("llava")
    assert "Be brief." in model.prompt("Is it?", image=PICTURES[0], system="Be brief.").text
    other = tiny_vision("llava")
    other.processor.chat_template = "{% for m in messages %}{{ m.content[-1].text }}{% endfor %}"
    blind = interp.load(other.hf, processor=other.processor)
    with pytest.raises(ValueError, match="has no image token"):
        blind.prompt("Is it?", image=PICTURES[0])


def test_a_prompt_of_another_model_is_refused():
    model, _ = loaded("llava")
    theirs = ask("qwen2_vl")[0]
    with pytest.raises(
        ValueError, match=r"image encoder fails on its picture .*Was it made with this model's processor"
    ):
        model.final_logits([theirs])
    with pytest.raises(ValueError, match=r"names 5 image positions; .* puts pictures at its image tokens"):
        loaded("smolvlm")[0].final_logits([ask("instructblip")[0]])
    mine = ask("llava")[0]
    short = Prompt(
        mine.token_ids[: mine.span("image")[-1]],
        spans={"image": mine.span("image")[:-1]},
        image=mine.image,
        id="cut",
    )
    with pytest.raises(ValueError, match=r"'cut' has 15 image positions and .* gives 16 vectors"):
        model.final_logits([short])
    with pytest.raises(ValueError, match=r"has 1 image tokens \(id \d+\) and names 0 image positions"):
        model.final_logits([Prompt.from_token_ids([3, model.image_token_id], text_only=True)])


def test_answers_outside_the_vocabulary_keep_their_errors():
    model, _ = loaded("llava")
    prompt = ask("llava")[0]
    answers = {"No": (5,), "Yes": (10**6,)}
    with pytest.raises(ValueError, match="the answer 'Yes' has token 1000000"):
        model.require_fits([Prompt(prompt.token_ids, spans=prompt.spans, image=prompt.image, answers=answers)])
    with pytest.raises(ValueError, match="share their first token"):
        model.prompt("Is it?", image=PICTURES[0], answers=("Yes", "Yes"))


def test_pictures_that_can_not_be_used(tmp_path):
    model, _ = loaded("llava")
    with pytest.raises(FileNotFoundError, match="no such image file"):
        model.prompt("Is it?", image=tmp_path / "missing.png")
    path = tmp_path / "kitchen.png"
    PICTURES[0].save(path)
    assert model.prompt("Is it?", image=path).image.sha256 == ask("llava")[0].image.sha256
    with pytest.raises(ValueError, match="can't prepare a picture of 3000 x 3 pixels"):
        loaded("qwen2_vl")[0].prompt("Is it?", image=picture(0, (3000, 3)))


def test_the_package_asks_for_a_transformers_that_takes_encoded_pictures():
    """The oldest that may be installed is the oldest that the error message accepts."""
    told = re.search(r"Expected transformers ([\d.]+) or later", inspect.getsource(vision_encoder))
    root = Path(__file__).parents[3]
    needed = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert f"transformers>={told[1]},<6" in needed


@pytest.mark.parametrize("where", ["vision_tower", "language_model.layers.2"])
def test_where_numbers_stop_being_finite(where):
    made = tiny_vision("llava")
    model = interp.load(made.hf, processor=made.processor)
    prompt = model.prompt("Is it?", image=PICTURES[0])
    with torch.no_grad():
        next(made.hf.model.get_submodule(where).parameters()).fill_(float("nan"))
    expected = "make of the picture" if "vision" in where else "the attention of layer 2"
    with pytest.raises(interp.NonFiniteLogitsError, match=f"first non-finite activation is .*{expected}"):
        model.final_logits([prompt])


def test_mixed_batches_of_pictures_and_text():
    for name in ("llava", "gemma3", "qwen2_vl", "instructblip", "paligemma"):
        model, made = loaded(name)
        text = model.prompt("Is it?", chat=made.chat, text_only=True)
        mixed = [*ask(name)[:2], text]
        together = model.final_logits(mixed)
        assert (together - torch.cat([model.final_logits([p]) for p in mixed])).abs().max() < 1e-4, name

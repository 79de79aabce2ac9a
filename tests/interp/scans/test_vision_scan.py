"""Scans over pictures: the fan-out against the loop, by architecture and position, and against hooks put by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.passes.inputs import text_from
from interp.prompts.prompt import Prompt
from interp.scans.fanout import fan_out_logits
from tests.interp.tiny_vision import HEADS, LAYERS, NAMES, loaded, picture, tiny_vision
from tests.tiny import prompt as random_prompt, tiny

QUESTIONS = ("Is it?", "Is the sky blue on a clear day?")
PICTURES = (picture(0, (30, 20)), picture(1, (20, 33)))


def ask(name: str, pictures=PICTURES) -> list[Prompt]:
    model, made = loaded(name)
    return [
        model.prompt(q, image=p, chat=made.chat, answers=("No", "Yes"), gold="Yes", id=str(i))
        for i, (q, p) in enumerate(zip(QUESTIONS, pictures, strict=True))
    ]


@pytest.mark.parametrize("positions", ["answer", "text", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_the_fan_out_is_the_loop(name, positions):
    model, _ = loaded(name)
    asked = ask(name)
    edits = interp.ablate_each_head("mean_of_others")
    fast = interp.scan(model, asked, edits, positions=positions)
    slow = interp.scan(model, asked, edits, positions=positions, method="loop")
    assert (fast.how, slow.how) == ("fan-out", "loop")
    assert np.abs(fast.values - slow.values).max() < 1e-4
    assert np.abs(fast.clean - slow.clean).max() < 1e-4
    assert np.abs(slow.change).max(0).min() > 1e-4  # every head matters


@pytest.mark.parametrize("name", ["llava", "instructblip", "qwen3_vl", "gemma3", "paligemma"])
@pytest.mark.parametrize("positions", ["answer", "text", "all"])
def test_edits_act_where_they_are_said_to(name, positions):
    """One plain pass for each head of a layer, with a hook on the output projection of a model nobody else touched."""
    model, made = loaded(name)
    prompt = ask(name)[0]
    first = {"answer": len(prompt) - 1, "text": prompt.span("image")[-1] + 1, "all": 0}[positions]
    layer = 1
    module = next(
        m for n, m in made.hf.named_modules() if n.endswith(f"layers.{layer}.self_attn.o_proj") and "vision" not in n
    )
    inputs = model.inputs([prompt]).inputs
    no, yes = (prompt.answer_tokens(word)[0] for word in ("No", "Yes"))
    by_hand = []
    for head in range(HEADS):

        def others(m, args, head=head):
            z = args[0].unflatten(-1, (HEADS, -1)).clone()
            mean = z[:, first:, [h for h in range(HEADS) if h != head]].mean(2)
            z[:, first:, head] = mean
            return (z.flatten(-2),)

        handle = module.register_forward_pre_hook(others)
        try:
            with torch.no_grad():
                logits = made.hf(**inputs).logits[0, -1]
        finally:
            handle.remove()
        by_hand.append((logits[no] - logits[yes]).item())
    branches = [interp.Branch((interp.HeadEdit(layer, h, "mean_of_others"),)) for h in range(HEADS)]
    found = interp.scan(model, [prompt], branches, positions=positions, method="fan-out")
    assert np.abs(found.values[0] - by_hand).max() < 1e-4


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_vl", "qwen3_vl", "idefics3", "blip2"])
def test_any_number_of_last_positions(name):
    """Also where they begin within the picture, so that no prefix can be kept."""
    model, _ = loaded(name)
    prompt = ask(name)[0]
    image = prompt.span("image")
    edits = interp.scale_each_head(0.5)
    for begin in (image[-1] + 1, image[-1], image[1], image[0], max(image[0] - 1, 0)):
        m = len(prompt) - begin
        assert bool(text_from(model, prompt, m)) == (begin > image[-1])
        fast = interp.scan(model, [prompt], edits, positions=m, method="fan-out")
        slow = interp.scan(model, [prompt], edits, positions=m, method="loop")
        assert np.abs(fast.values - slow.values).max() < 1e-4, begin


@pytest.mark.parametrize("how", ["zero", "mean"])
@pytest.mark.parametrize("name", ["llava_next", "instructblip", "paligemma2"])
def test_other_ablations(name, how):
    model, _ = loaded(name)
    asked = ask(name)
    for positions in ("answer", "text"):
        fast = interp.scan(model, asked, interp.ablate_each_head(how), positions=positions)
        slow = interp.scan(model, asked, interp.ablate_each_head(how), positions=positions, method="loop")
        assert np.abs(fast.values - slow.values).max() < 1e-4


def test_the_mean_at_text_positions_is_over_text_positions():
    model, _ = loaded("llava")
    prompt = ask("llava")[0]
    z = interp.capture.head_outputs(model, [prompt], last=None)[0].double()
    mean = z[:, list(prompt.span("after_image"))].mean(1)
    branch = interp.Branch((interp.HeadEdit(1, 2, "set", value=mean[1, 2].float()),))
    by_hand = interp.scan(model, [prompt], [branch], positions="text")
    found = interp.scan(model, [prompt], interp.ablate_each_head("mean"), positions="text")
    assert found.values[0, HEADS + 2] == pytest.approx(by_hand.values[0, 0], abs=1e-5)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "instructblip"])
def test_patching_from_a_twin_with_another_picture(name):
    """All heads at once, at all text positions of every layer, is not the twin (its picture stays); at all positions
    of the prompt it is the twin but for the embedding; patching a prompt with itself changes nothing."""
    model, _ = loaded(name)
    one, other = ask(name, (PICTURES[0],) * 2)[0], None
    made = loaded(name)[1]
    other = model.prompt(QUESTIONS[0], image=picture(5, (30, 20)), chat=made.chat, answers=("No", "Yes"))
    for positions in ("text", "all"):
        same = interp.scan(model, [one], interp.patch_each_head([one]), positions=positions)
        assert np.abs(same.change).max() < 1e-4
        fast = interp.scan(model, [one], interp.patch_each_head([other]), positions=positions)
        slow = interp.scan(model, [one], interp.patch_each_head([other]), positions=positions, method="loop")
        assert np.abs(fast.values - slow.values).max() < 1e-4
        assert np.abs(fast.change).max() > 1e-3


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "instructblip"])
def test_edits_of_the_stream(name):
    model, _ = loaded(name)
    prompt = ask(name)[0]
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    branches = [
        interp.Branch((interp.ResidualEdit(layer, vector, op, at=at),))
        for layer in (0, 1, LAYERS - 1)
        for op in ("add", "remove")
        for at in ("input", "attention")
    ]
    for positions in ("text", "all"):
        fast = interp.scan(model, [prompt], branches, positions=positions, method="fan-out")
        slow = interp.scan(model, [prompt], branches, positions=positions, method="loop")
        assert np.abs(fast.values - slow.values).max() < 1e-4


def test_small_chunks_and_the_whole_vocabulary():
    model, _ = loaded("qwen3_vl")
    prompt = ask("qwen3_vl")[0]
    branches = interp.ablate_each_head("zero").branches(model)
    for m in (1, len(prompt)):
        whole = fan_out_logits(model, prompt, branches, m, None)
        chunks = fan_out_logits(model, prompt, branches, m, None, memory_mib=0.001)
        assert torch.allclose(whole, chunks, atol=1e-4)
        assert torch.allclose(whole[0], model.final_logits([prompt])[0], atol=1e-4)


def test_the_bridge_loop_agrees():
    """TransformerLens's hooks, one head at a time, with the picture given to the bridge."""
    model, _ = loaded("llava")
    prompt = ask("llava")[0]
    inputs = model.inputs([prompt]).inputs
    ids = inputs.pop("input_ids")
    no, yes = (prompt.answer_tokens(word)[0] for word in ("No", "Yes"))
    found = interp.scan(model, [prompt], interp.ablate_each_head("zero"), positions="text")
    m = len(prompt.span("after_image"))
    for layer, head in ((0, 0), (2, 3)):

        def zero(z, hook, head=head):
            z = z.clone()
            z[:, -m:, head] = 0
            return z

        with torch.no_grad():
            logits = model.bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)], **inputs)
        expected = (logits[0, -1, no] - logits[0, -1, yes]).item()
        assert found.values[0, layer * HEADS + head] == pytest.approx(expected, abs=1e-4)


def test_text_positions_of_a_prompt_without_a_picture():
    tokenizer = tiny_vision("llava").processor.tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}U {{ m.content }} {% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    model = interp.load(tiny("llama", vocab_size=400), tokenizer=tokenizer)
    prompt = model.prompt("Is the sky blue?", answers=("No", "Yes"))
    m = len(prompt) - prompt.span("text")[0]
    assert 1 < m < len(prompt)
    edits = interp.ablate_each_head("zero")
    by_name, by_number = (interp.scan(model, [prompt], edits, positions=p) for p in ("text", m))
    assert np.array_equal(by_name.values, by_number.values)
    with pytest.raises(
        ValueError, match=r"positions='text', and prompt 0 .* has no text after its picture, or no span"
    ):
        interp.scan(model, [random_prompt(9)], edits, positions="text")


def test_an_architecture_that_can_not_fan_out_says_so(monkeypatch):
    """Where features enter deeper layers in a way that is not known to grow with the batch, the loop is right."""
    from contextlib import nullcontext

    from interp.scans import fanout

    model, _ = loaded("qwen3_vl")
    monkeypatch.setattr(fanout, "growing_rows", lambda model: nullcontext())
    with pytest.warns(UserWarning, match="falls back to one pass for each edit"):
        found = interp.scan(model, ask("qwen3_vl")[:1], interp.ablate_each_head("zero"), positions="all")
    assert found.how == "loop" and "fan-out refused" in found.check


def test_means_of_pictures_are_those_of_the_bridge():
    model, _ = loaded("llava")
    with pytest.raises(ValueError, match="no image"):
        interp.capture.mean_head_outputs(model, [random_prompt(9)])
    prompt = ask("llava")[0]
    found = interp.capture.mean_head_outputs(model, [prompt], last=3)
    inputs = model.inputs([prompt]).inputs
    _, cache = model.bridge.run_with_cache(inputs.pop("input_ids"), **inputs)
    expected = torch.stack([cache[f"blocks.{n}.attn.hook_z"][0, -3:].mean(0) for n in range(LAYERS)])
    assert torch.allclose(found, expected, atol=1e-4)

"""Causal tracing: laws, a slow twin with hooks of its own, a planted route, pictures, and what is refused."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from functools import partial

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import interp
from interp.reading.metrics import Probability, metric_values
from interp.scans import tracing
from interp.scans.regions import each_position
from interp.scans.traces import load_trace
from interp.scans.tracing import Logit, trace
from tests.interp.tiny_vision import LAYERS, NAMES, picture, tiny_vision
from tests.tiny import YES, prompt, tiny

PARTS = ("attention", "mlp", "residual")
# where each part writes, by the names that transformers gives the modules: attention, MLP, block
MODULES = {
    "llama": ("model.layers.{}", "self_attn", "mlp"),
    "gemma2": ("model.layers.{}", "post_attention_layernorm", "post_feedforward_layernorm"),
    "gpt2": ("transformer.h.{}", "attn", "mlp"),
    "gpt_neox": ("gpt_neox.layers.{}", "attention", "mlp"),
    "llava": ("model.language_model.layers.{}", "self_attn", "mlp"),
    "llava_next": ("model.language_model.layers.{}", "self_attn", "mlp"),
    "instructblip": ("language_model.model.layers.{}", "self_attn", "mlp"),
}
SEEING = ("llava", "llava_next", "instructblip")


@pytest.fixture(scope="module")
def models():
    """Loaded once each, when first asked for."""
    loaded: dict[str, interp.Model] = {}

    def get(name: str) -> interp.Model:
        if name not in loaded:
            if name in SEEING:
                made = tiny_vision(name)
                loaded[name] = interp.load(made.hf, processor=made.processor)
            else:
                loaded[name] = interp.load(tiny(name))
        return loaded[name]

    return get


def twins(model: interp.Model, name: str, text: str = "Is the sky blue?") -> tuple[interp.Prompt, interp.Prompt]:
    """Two pictures with one text, or two texts of one length."""
    if name not in SEEING:
        return prompt(18, seed=0), prompt(18, seed=1)
    options = {"answers": ("No", "Yes"), "gold": "Yes", "chat": name != "instructblip"}
    return tuple(model.prompt(text, image=picture(seed, (32, 32)), **options) for seed in (0, 1))


def site(model: interp.Model, name: str, part: str, layer: int) -> torch.nn.Module:
    block, attention, mlp = MODULES[name]
    path = block.format(layer) + {"attention": f".{attention}", "mlp": f".{mlp}", "residual": ""}[part]
    found = model.hf.get_submodule(path)
    assert isinstance(found, torch.nn.Module)
    return found


def slow(model, name, clean, corrupt, part, layers, positions) -> torch.Tensor:
    """Logits at the answer, by hooks registered by hand: one pass that keeps, one that sets."""
    kept: dict[int, torch.Tensor] = {}

    def keep(layer, module, args, output):
        kept[layer] = (output[0] if isinstance(output, tuple) else output).clone()

    def put(layer, module, args, output):
        tensor = (output[0] if isinstance(output, tuple) else output).clone()
        tensor[:, list(positions)] = kept[layer][:, list(positions)]
        return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

    for hook, p in ((keep, clean), (put, corrupt)):
        with ExitStack() as stack, torch.no_grad():
            for layer in layers:
                handle = site(model, name, part, layer).register_forward_hook(partial(hook, layer))
                stack.callback(handle.remove)
            logits = model.hf(**model.inputs([p]).inputs, use_cache=False).logits[0, -1].float()
    return logits


def n_hooks(model: interp.Model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())


@pytest.mark.parametrize("name", list(MODULES))
def test_agrees_with_hooks_registered_by_hand(models, name):
    model = models(name)
    clean, corrupt = twins(model, name)
    n = len(clean)
    model.final_logits([clean])
    hooks = n_hooks(model)  # transformers has some of its own from the first pass on
    regions = {"early": [(1, 2, 3)], "late": [(n - 4, n - 3)], "last": [(n - 1,)]}
    found = trace(model, [clean], [corrupt], regions=regions, method="fan-out")
    logits = found["logit(gold)"]
    worst, largest = 0.0, 0.0
    for p, part in enumerate(PARTS):
        for r, positions in enumerate(regions.values()):
            for layer in (0, 2):
                expected = slow(model, name, clean, corrupt, part, [layer], positions[0])
                gold = metric_values(Logit(), expected[None], clean).item()
                prob = metric_values(Probability(), expected[None], clean).item()
                worst = max(worst, abs(logits.values[0, p, layer, r] - gold), abs(found.values[0, p, layer, r] - prob))
                largest = max(largest, abs(gold - logits.corrupt[0]))
    assert worst < 1e-4
    assert largest > 0.05  # effects far above the tolerance
    assert n_hooks(model) == hooks


@pytest.mark.parametrize("name", NAMES)
def test_every_seeing_architecture_agrees_with_plain_passes(name):
    """Masks that let patches see each other, features that enter deeper, positions in three dimensions, Q-Formers."""
    made = tiny_vision(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = interp.load(made.hf, processor=made.processor)
    options = {"answers": ("No", "Yes"), "gold": "Yes", "chat": made.chat}
    clean, corrupt = (model.prompt("Is the sky blue?", image=picture(s, (32, 32)), **options) for s in (0, 1))
    image, last = clean.span("image"), len(clean) - 1
    regions = {"patches": [image[1:3]], "image": [image], "text": [(last - 3,)], "last": [(last,)]}
    parts = ("attention", "residual") if model.components.blocks[0].mlp_write is None else PARTS
    options = {"regions": regions, "parts": parts, "layers": [0, 2], "metric": Logit()}
    fast, plain = (trace(model, [clean], [corrupt], method=how, **options) for how in ("fan-out", "loop"))
    np.testing.assert_allclose(fast.values, plain.values, atol=1e-4)
    assert np.abs(plain.change).max() > 1e-2


@pytest.mark.parametrize("name", ["gpt_neox", "llava"])
def test_windows_patch_layers_together(models, name):
    model = models(name)
    clean, corrupt = twins(model, name)
    positions = (len(clean) - 3, len(clean) - 1)
    found = trace(model, [clean], [corrupt], regions={"end": [positions]}, window=1, method="fan-out")
    for p, part in enumerate(PARTS):
        for layer, together in ((0, [0, 1]), (2, [1, 2, 3])):
            expected = metric_values(Logit(), slow(model, name, clean, corrupt, part, together, positions)[None], clean)
            assert abs(found["logit(gold)"].values[0, p, layer, 0] - expected.item()) < 1e-4
    assert found.window == 1


@pytest.mark.parametrize("name", ["llama", "gemma2", *SEEING])
def test_a_run_patched_with_itself_does_not_change(models, name):
    model = models(name)
    clean, _ = twins(model, name)
    found = trace(model, [clean], [clean])
    for measured in found.measured:
        assert np.abs(measured.change).max() < 1e-4
        assert list(measured.refused()) == [0]  # nothing to recover
        assert np.isnan(measured.recovered()).all()


@pytest.mark.parametrize("name", ["llama", "gemma2", *SEEING])
def test_the_stream_everywhere_is_the_clean_run(models, name):
    model = models(name)
    clean, corrupt = twins(model, name)
    found = trace(
        model, [clean], [corrupt], regions={"all": [range(len(clean))], "last": [(len(clean) - 1,)]}, parts=["residual"]
    )
    for measured in found.measured:
        assert np.abs(measured.values[0, 0, :, 0] - measured.clean[0]).max() < 1e-4  # all positions, any layer
        assert abs(measured.values[0, 0, -1, 1] - measured.clean[0]) < 1e-4  # the last position of the last layer
    assert abs(measured.clean[0] - measured.corrupt[0]) > 1e-2  # of the logit
    share = found["logit(gold)"].recovered(least=0.0)
    assert np.abs(share[0, 0, :, 0] - 1).max() < 1e-2


@pytest.mark.parametrize("name", ["llama", "llava"])
def test_bfloat16_brings_back_the_clean_run_too(name):
    if name == "llava":
        made = tiny_vision(name, torch.bfloat16)
        model = interp.load(made.hf, processor=made.processor)
    else:
        model = interp.load(tiny(name, torch.bfloat16))
    clean, corrupt = twins(model, name)
    regions = {"all": [range(len(clean))], "last": [(len(clean) - 1,)]}
    found = trace(model, [clean], [corrupt], regions=regions, metric=Logit())
    looped = trace(model, [clean], [corrupt], regions=regions, metric=Logit(), method="loop")
    step = 2**-8 * max(4.0, abs(found.clean[0]))  # of bfloat16 at a logit
    assert np.abs(found.values[0, 2, :, 0] - found.clean[0]).max() <= 2 * step
    assert np.abs(found.values - looped.values).max() <= 8 * step
    assert found.values.dtype == np.float32


def test_finds_the_route_that_was_planted():
    """Attention writes in layer 2 alone: what stands at an early position reaches the answer there and nowhere else."""
    hf = tiny("llama")
    with torch.no_grad():
        for layer in (0, 1, 3):
            hf.model.layers[layer].self_attn.o_proj.weight.zero_()
    model = interp.load(hf)
    clean, other = prompt(12, seed=0), prompt(12, seed=1)
    ids = list(clean.token_ids)
    ids[5] = other.token_ids[5]
    corrupt = interp.Prompt.from_token_ids(ids, answers={"Yes": [YES]}, gold="Yes")
    found = trace(model, [clean], [corrupt], regions={"changed": [(5,)], "last": [(11,)]}, metric=Logit())
    share = found.recovered(least=1e-4)[0]
    np.testing.assert_allclose(share[0, :, 1], [0, 0, 1, 0], atol=2e-2)  # attention, last
    np.testing.assert_allclose(share[2, :, 0], [1, 1, 0, 0], atol=1e-3)  # stream, changed
    np.testing.assert_allclose(share[2, 2:, 1], [1, 1], atol=1e-3)  # stream, last, from there on
    np.testing.assert_allclose(share[2, :2, 1], [0, 0], atol=1e-3)


def test_regions_by_default_are_named_by_their_tokens(models):
    model = models("llava")
    clean, corrupt = twins(model, "llava")
    regions = each_position([clean], [corrupt])
    assert next(iter(regions)) == "image"
    assert regions["image"] == [clean.span("image")]
    places = [positions[0] for name, positions in regions.items() if name != "image"]
    assert places == [(p,) for p in clean.span("after_image")]
    assert len(set(regions)) == len(regions)
    texts = prompt(9, seed=0), prompt(9, seed=0)
    changed = list(texts[0].token_ids)
    changed[4] = (changed[4] + 1) % 90 + 3
    other = interp.Prompt.from_token_ids(changed, answers={"Yes": [YES]}, gold="Yes")
    assert list(each_position([texts[0]], [other]).values()) == [[(p,)] for p in range(4, 9)]


def test_several_pairs_by_role_with_a_region_that_one_lacks(models):
    model = models("llama")
    clean, corrupt = [prompt(12, 0), prompt(15, 1)], [prompt(12, 2), prompt(15, 3)]
    regions = {"middle": [(5, 6), ()], "last": [(11,), (14,)]}
    found = trace(model, clean, corrupt, regions=regions)
    assert found.n_positions.tolist() == [[2, 1], [0, 1]]
    assert np.isnan(found.values[1, :, :, 0]).all()
    assert np.isfinite(found.values[0]).all()
    alone = trace(model, clean[:1], corrupt[:1], regions={"middle": [(5, 6)]})
    np.testing.assert_allclose(found.values[0, :, :, 0], alone.values[0, :, :, 0], atol=1e-6)
    assert isinstance(found.plot(), go.Figure)


def test_answers_are_those_of_the_clean_prompt(models):
    model = models("llama")
    clean, corrupt = twins(model, "llama")
    other = interp.Prompt.from_token_ids(corrupt.token_ids, answers={"No": [5]}, gold="No")
    same, renamed = (trace(model, [clean], [c], parts=["mlp"]) for c in (corrupt, other))
    np.testing.assert_array_equal(same.values, renamed.values)


def test_pictures_are_encoded_once_and_patches_share_passes():
    made = tiny_vision("llava")
    model = interp.load(made.hf, processor=made.processor)
    clean, corrupt = twins(model, "llava")
    trace(model, [clean], [corrupt], check=0)  # what a model allows is measured once
    model.forget_images()
    calls = {"tower": 0, "pass": 0}

    def counting(owner, method, key):
        original = getattr(owner, method)

        def call(*args, **kwargs):
            calls[key] += 1
            return original(*args, **kwargs)

        setattr(owner, method, call)

    counting(model.hf.model.vision_tower, "forward", "tower")
    counting(model.hf, "forward", "pass")
    found = trace(model, [clean], [corrupt], check=0)
    assert calls["tower"] == 2
    assert calls["pass"] <= 6  # clean, patches of the picture, patches of the text in a few groups
    assert found.values.size > 100
    assert found.check == "skipped by the caller"


@pytest.mark.parametrize("positions", ["answer", "text"])
@pytest.mark.parametrize("name", SEEING)
def test_single_heads_are_patched_through_the_fan_out(models, name, positions):
    """`patch_each_head` with pictures: each head in turn as it is in the run on the other picture."""
    model = models(name)
    source, target = twins(model, name)
    m = 1 if positions == "answer" else len(target.span("after_image"))
    found = interp.scan(
        model, [target], interp.patch_each_head([source]), metric=Probability(), positions=positions, method="fan-out"
    )
    shape = (LAYERS, model.n_heads, model.d_head)
    kept: dict[int, torch.Tensor] = {}

    def keep(layer, module, args):
        kept[layer] = args[0].clone()

    def put(layer, head, module, args):
        z = args[0].clone()
        low, high = head * shape[2], (head + 1) * shape[2]
        z[:, -m:, low:high] = kept[layer][:, -m:, low:high]
        return (z, *args[1:])

    blocks = model.components.blocks
    with torch.no_grad(), ExitStack() as stack:
        for layer, block in enumerate(blocks):
            stack.callback(block.out_projection.register_forward_pre_hook(partial(keep, layer)).remove)
        model.hf(**model.inputs([source]).inputs, use_cache=False)
    for layer in (0, 3):
        for head in range(model.n_heads):
            handle = blocks[layer].out_projection.register_forward_pre_hook(partial(put, layer, head))
            with torch.no_grad():
                logits = model.hf(**model.inputs([target]).inputs, use_cache=False).logits[:, -1]
            handle.remove()
            expected = metric_values(Probability(), logits, target).item()
            assert abs(found.values[0, layer * model.n_heads + head] - expected) < 1e-5
    assert np.abs(found.change).max() > 1e-4
    itself = interp.scan(model, [target], interp.patch_each_head([target]), metric=Probability(), positions=positions)
    assert np.abs(itself.change).max() < 1e-5


def test_falls_back_to_plain_passes_and_says_so(models, monkeypatch):
    model = models("llama")
    clean, corrupt = twins(model, "llama")
    right = trace(model, [clean], [corrupt], parts=["mlp"], layers=[1], method="loop")
    wrong = tracing.patched_logits
    monkeypatch.setattr(tracing, "patched_logits", lambda *a: wrong(*a).roll(1, -1))
    with pytest.warns(
        UserWarning, match="falls back to one pass for each patch: on prompt .* differ from plain passes"
    ):
        found = trace(model, [clean], [corrupt], parts=["mlp"], layers=[1])
    assert found.how == "loop" and "refused" in found.check
    np.testing.assert_array_equal(found.values, right.values)
    with pytest.raises(RuntimeError, match="can't take a fan-out"):
        trace(model, [clean], [corrupt], method="fan-out")


def test_edits_that_count_rows_take_the_loop(models):
    model = models("llama")
    clean, corrupt = twins(model, "llama")
    edit = interp.HeadEdit(1, 0)
    from interp.interventions.acting import edit_heads

    with edit_heads(model, 1, [(0, edit)], last=2), pytest.warns(UserWarning, match="counts rows or positions"):
        found = trace(model, [clean], [corrupt], parts=["attention"], layers=[2])
    assert found.how == "loop"


def test_shares_of_small_differences_are_refused(models):
    model = models("llama")
    clean, corrupt = twins(model, "llama")
    found = trace(model, [clean, clean], [corrupt, clean], parts=["residual"])
    m = found["logit(gold)"]
    assert np.isnan(m.recovered(1e-3)[1]).all() and np.isfinite(m.recovered(1e-3)[0]).all()
    assert list(m.refused(1e-3)) == [1]
    assert "less than 0.001 apart" in m.refused(1e-3)[1]
    with pytest.raises(ValueError, match="shares of it would be noise"):
        found.plot(1, share=True)


def test_a_trace_is_saved_read_and_shown(models, tmp_path):
    model = models("llava")
    clean, corrupt = twins(model, "llava", "Is <b>it</b> blue?")
    found = trace(model, [clean], [corrupt], layers=[1, 3], window=1)
    read = load_trace(found.save(tmp_path / "trace"))
    for name in ("parts", "layers", "regions", "example_ids", "window", "how", "check"):
        assert getattr(read, name) == getattr(found, name)
    for old, new in zip(found.measured, read.measured, strict=True):
        assert (old.name, old.unit) == (new.name, new.unit)
        np.testing.assert_array_equal(old.values, new.values)
    frame = found.to_frame()
    assert len(frame) == 2 * found.values.size
    assert set(frame["layer"]) == {1, 3}
    row = frame[(frame["measure"] == "P(gold)") & (frame["part"] == "mlp") & (frame["layer"] == 3)].iloc[0]
    assert row["value"] == found.values[0, 1, 1, 0] and row["region"] == "image"
    figure = found.plot(0)
    assert len(figure.data) == 3
    limit = np.abs(found.change).max()
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == pytest.approx((-limit, limit))
    assert not any("<" in text for text in figure.layout.xaxis3.ticktext)
    with pytest.raises(KeyError, match="the trace has no 'x'"):
        found["x"]


def test_refusals(models):
    model, seeing = models("llama"), models("llava")
    clean, corrupt = twins(model, "llama")
    before, _ = twins(seeing, "llava")

    def refused(match, *given, error=ValueError, of=model, **options):
        with pytest.raises(error, match=match):
            trace(of, *given, **options)

    refused("1 clean and 0 corrupt prompts; expected one twin for each", [clean], [])
    refused("0 clean and 0 corrupt", [], [])
    refused("18 and 12 tokens; a state goes to its own position", [clean], [prompt(12)])
    refused(r"parts=\('head',\); expected some of attention, mlp, residual", [clean], [corrupt], parts=["head"])
    refused("ascending numbers of blocks, 0..3", [clean], [corrupt], layers=[4])
    refused("ascending numbers", [clean], [corrupt], layers=[2, 1])
    refused("window=-1", [clean], [corrupt], window=-1)
    refused("method='slow'", [clean], [corrupt], method="slow")
    refused("regions is empty", [clean], [corrupt], regions={})
    refused("region 'x' has 2 lists of positions for 1 pairs", [clean], [corrupt], regions={"x": [(1,), (2,)]})
    refused("position -1 was asked of prompt", [clean], [corrupt], regions={"x": [(-1,)]})
    refused("pair 0 has no position in any region", [clean], [corrupt], regions={"x": [()]})
    refused("each once", [clean], [corrupt], metric=[Logit(), Logit()])
    refused("no answer 'Maybe'", [clean], [corrupt], error=KeyError, metric=Logit("Maybe"))
    refused("have 17, 18 positions", [clean, prompt(17)], [corrupt, prompt(17, 5)])
    refused("it would run text-only without a word", [before], [prompt(len(before))], of=seeing)
    other = seeing.prompt("Is it?", text_only=True, answers=("No", "Yes"), gold="Yes")
    words = seeing.prompt("Is it?", image=picture(1, (32, 32)), answers=("No", "Yes"), gold="Yes")
    if len(other) == len(words):
        refused("pictures are at different positions", [words], [other], of=seeing)


def test_a_block_without_an_mlp_module_is_refused(models, monkeypatch):
    from dataclasses import replace

    model = models("llama")
    clean, corrupt = twins(model, "llama")
    blocks = tuple(replace(b, mlp_write=None) for b in model.components.blocks)
    bare = replace(model, components=replace(model.components, blocks=blocks))
    with pytest.raises(ValueError, match="Leave 'mlp' out of parts"):
        trace(bare, [clean], [corrupt])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trace(bare, [clean], [corrupt], parts=["attention"]).values.shape[1] == 1


def test_hooks_are_gone_after_an_error(models, monkeypatch):
    model = models("llama")
    clean, corrupt = twins(model, "llama")

    def fails(*args, **kwargs):
        raise RuntimeError("stopped")

    monkeypatch.setattr(model.components.final_norm, "forward", fails)
    with pytest.raises(RuntimeError, match="stopped"):
        trace(model, [clean], [corrupt], method="fan-out")
    assert n_hooks(model) == 0

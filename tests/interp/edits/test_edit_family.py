"""Every kind of edit: hooked, folded, exported and read by plain transformers, and in a bare bridge, is one thing."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import interp
from interp.edits.composed import Edits, load_edit
from interp.edits.diff import compare_edits
from interp.edits.directions import Direction
from interp.edits.fold_check import agreement
from interp.edits.head_rows import TunedHeads, current_rows
from interp.edits.head_scales import ScaledHeads
from interp.edits.identity import describe_model
from interp.edits.replaced import ReplacedWeights
from interp.edits.steering import Steering, add_direction, clamp_direction, remove_direction
from interp.interventions.values import ResidualEdit
from interp.reading.generation import generate
from interp.records.artefact import save_artefact
from tests.interp.tiny_vision import picture, tiny_vision
from tests.tiny import prompt, tiny, tiny_tokenizer

PROMPTS = [prompt(9, seed=1), prompt(16, seed=2), prompt(40, seed=3)]
HALF = 0.15  # of the logits' root mean square: fold_check's tolerance in bfloat16


def direction_of(model, scale=1.0) -> Direction:
    vectors = scale * torch.randn(model.n_layers + 1, model.d_model, generator=torch.Generator().manual_seed(5))
    return Direction(vectors, describe_model(model), {"name": "random, for a test"})


def tuned(model, heads=((1, 2), (3, 0)), move=0.3) -> TunedHeads:
    generator = torch.Generator().manual_seed(3)

    def moved(t):
        return None if t is None else (t + move * torch.randn(t.shape, generator=generator).to(t))

    rows = [current_rows(model, *head) for head in heads]
    rows = tuple(replace(r, weight=moved(r.weight), bias=moved(r.bias)) for r in rows)
    return TunedHeads(describe_model(model), {"method": "random, for a test"}, rows)


def scaled(model) -> ScaledHeads:
    return ScaledHeads(describe_model(model), {"from": "a test"}, {(0, 1): 0.0, (1, 2): 1.7, (3, 0): -0.5})


def added(model, *layers) -> Steering:
    return add_direction(direction_of(model), 0.7, layers or [2, 4], while_generating=True)


def removed(model) -> Steering:
    return remove_direction(direction_of(model), from_layer=2)


def composed(model) -> Edits:
    return Edits((scaled(model), removed(model)), {"from": "a test"})


EDITS = {
    "scaled": scaled,
    "tuned": tuned,
    "added": added,
    "added to the embedding": lambda model: added(model, 0, 1),
    "removed": removed,
    "composed": composed,
}


def logits(model) -> torch.Tensor:
    """[token, vocabulary] at every position of every prompt."""
    return plain_logits(model.hf)


@torch.no_grad()
def plain_logits(hf) -> torch.Tensor:
    return torch.cat([hf(torch.tensor([p.token_ids])).logits[0].float() for p in PROMPTS])


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}


def structure(model) -> tuple:
    hf = model.hf
    names = [(n, id(p)) for n, p in hf.named_parameters(remove_duplicate=False)]
    return names, hf.config.to_dict()


def close(found, expected, dtype=torch.float32) -> None:
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    else:
        assert (found - expected).square().mean().sqrt() < HALF * expected.square().mean().sqrt()


CASES = [  # architecture, tied, dtype, kinds of edits
    ("llama", False, torch.float32, list(EDITS)),
    ("llama", True, torch.float32, list(EDITS)),
    ("qwen2", True, torch.float32, list(EDITS)),
    ("gpt2", True, torch.float32, ["scaled", "added", "added to the embedding", "removed", "composed"]),
    ("gpt_neox", False, torch.float32, ["scaled", "added", "added to the embedding", "removed", "composed"]),
    ("mistral", False, torch.float32, ["scaled", "tuned", "removed"]),
    ("phi3", False, torch.float32, ["scaled", "removed"]),
    ("gemma2", True, torch.float32, ["scaled", "tuned"]),
    ("llama", True, torch.bfloat16, list(EDITS)),
    ("qwen2", False, torch.bfloat16, ["scaled", "tuned", "added", "removed"]),
    ("gpt2", True, torch.bfloat16, ["scaled", "added", "removed"]),
]


@pytest.mark.parametrize(
    ("name", "is_tied", "dtype", "kind"),
    [(name, tied, dtype, kind) for name, tied, dtype, kinds in CASES for kind in kinds],
)
def test_hooked_folded_and_exported_agree_and_all_is_taken_back(name, is_tied, dtype, kind, tmp_path):
    model = interp.load(tiny(name, dtype, tie_word_embeddings=is_tied))
    edit = EDITS[kind](model)
    clean, before, shape = logits(model), state(model), structure(model)
    with edit.apply(model):
        hooked = logits(model)
    assert (hooked - clean).abs().max() > 0.1
    assert torch.equal(logits(model), clean)

    edit.export(model, tmp_path / "edited", measures=["It is more so."])
    assert torch.equal(logits(model), clean) and structure(model) == shape
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "edited", dtype="auto").eval()
    assert plain.dtype == dtype
    close(plain_logits(plain), hooked, dtype)
    card = (tmp_path / "edited" / "README.md").read_text()
    assert "It is more so." in card and all(sentence in card for sentence in edit._sentences())

    undo = edit.fold(model)
    folded = logits(model)
    close(folded, hooked, dtype)
    bridged = torch.cat([model.bridge(torch.tensor([p.token_ids]))[0].float() for p in PROMPTS])
    close(bridged.detach(), folded, dtype)
    with pytest.raises(ValueError, match="folded already"):
        edit.fold(model)

    again = load_edit(undo.save(tmp_path / "undo"))
    assert again.summary() == undo.summary()
    redo = again.fold(model)
    assert torch.equal(logits(model), clean) and structure(model)[1] == shape[1]
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())
    assert model.hf.state_dict().keys() == before.keys()
    assert (model.components.embedding.weight is model.components.unembedding.weight) == is_tied
    redo.fold(model)
    assert torch.equal(logits(model), folded)
    undo.fold(model)
    assert torch.equal(logits(model), clean)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "olmo2"])
def test_hooks_of_a_bare_bridge_do_what_ours_do(name):
    model = interp.load(tiny(name))
    kinds = [scaled(model), added(model, 0, 2, 4), clamp_direction(direction_of(model), 0.5, [1])]
    kinds += [removed(model), Edits((scaled(model), removed(model)))]
    if name not in ("gpt2", "gpt_neox"):
        kinds.append(tuned(model))
    ids = [torch.tensor([p.token_ids]) for p in PROMPTS]
    clean = torch.cat([model.bridge(i)[0] for i in ids]).detach()
    for edit in kinds:
        with edit.apply(model):
            expected = logits(model)
        hooks = edit.bridge_hooks(model.bridge)
        with torch.no_grad():
            found = torch.cat([model.bridge.run_with_hooks(i, fwd_hooks=hooks)[0] for i in ids])
        close(found, expected)
        assert (found - clean).abs().max() > 0.1
        assert torch.equal(torch.cat([model.bridge(i)[0] for i in ids]).detach(), clean)


def test_what_a_bridge_cant_do_is_refused(llama):
    direction = direction_of(llama)
    for steering in (add_direction(direction), add_direction(direction, positions="text", while_generating=True)):
        with pytest.raises(ValueError, match=r"hooks of a bare bridge see neither .* while_generating=True"):
            steering.bridge_hooks(llama.bridge)
    wider = interp.load(tiny("llama", hidden_size=64))
    with pytest.raises(ValueError, match=r"with d_head=8; the bridge has d_head=16"):
        scaled(llama).bridge_hooks(wider.bridge)
    with pytest.raises(ValueError, match=r"no hook point 'blocks\.9\.attn\.hook_z'"):
        ScaledHeads({}, {}, {(9, 0): 0.0}).bridge_hooks(llama.bridge)
    compatible = interp.load(tiny("gpt2"))
    compatible.bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ValueError, match="compatibility mode"):
        scaled(compatible).bridge_hooks(compatible.bridge)


def test_a_bare_transformers_model_is_taken_as_it_is(tmp_path):
    hf = tiny("llama", vocab_size=400)
    model = interp.load(hf, tokenizer=tiny_tokenizer())
    edit, asked = added(model, 1), [model.prompt("Is the sky blue?")]
    clean, ids = plain_logits(hf), torch.tensor([asked[0].token_ids])
    with edit.apply(model):
        expected, reply = plain_logits(hf), generate(model, asked, 6)
    with edit.apply(hf):
        assert torch.equal(plain_logits(hf), expected) and not torch.equal(expected, clean)
        made = hf.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    assert [[model.tokenizer.decode(made, skip_special_tokens=True)]] == reply
    assert torch.equal(plain_logits(hf), clean)
    edit.export(hf, tmp_path / "out")
    edit.fold(hf)
    close(plain_logits(hf), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_edits_that_change_nothing_change_nothing_bit_for_bit(dtype):
    model = interp.load(tiny("llama", dtype))
    clean, before = logits(model), state(model)
    nothing = [
        ScaledHeads(describe_model(model), {}, {(0, 1): 1.0, (2, 3): 1.0}),
        tuned(model, move=0.0),
        add_direction(direction_of(model), 0.0, [1, 3], while_generating=True),
        Edits(()),
    ]
    nothing.append(Edits((nothing[0], *nothing[2:])))
    for edit in nothing:
        with edit.apply(model):
            if isinstance(edit, TunedHeads):  # a product of fewer rows is summed in another order
                torch.testing.assert_close(logits(model), clean, atol=1e-4 if dtype == torch.float32 else 0.1, rtol=0)
            else:
                assert torch.equal(logits(model), clean)
        undo = edit.fold(model)
        assert all(torch.equal(t, before[k]) for k, t in state(model).items() if k in before)
        undo.fold(model)
        assert torch.equal(logits(model), clean)


@pytest.mark.parametrize("kind", list(EDITS))
def test_gone_after_an_exception_also_nested(kind, llama):
    edit, clean = EDITS[kind](llama), logits(llama)
    with pytest.raises(KeyboardInterrupt), edit.apply(llama), scaled(llama).apply(llama):
        raise KeyboardInterrupt
    assert torch.equal(logits(llama), clean)
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in llama.hf.modules())


@pytest.mark.parametrize("kind", list(EDITS))
def test_an_interrupted_fold_leaves_all_as_it_was(kind, tmp_path, monkeypatch):
    model = interp.load(tiny("llama", tie_word_embeddings=True))
    edit, clean, shape = EDITS[kind](model), logits(model), structure(model)

    def interrupted(*given, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("interp.edits.family.describe_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            edit.fold(model)
    for where in ("interp.edits.family.write_model", "interp.edits.family.read_plainly"):
        with monkeypatch.context() as patch:
            patch.setattr(where, interrupted)
            with pytest.raises(KeyboardInterrupt):
                edit.export(model, tmp_path / "out")
    assert torch.equal(logits(model), clean) and structure(model) == shape
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", list(EDITS))
def test_saved_and_loaded_bit_for_bit(kind, llama, tmp_path):
    edit = EDITS[kind](llama)
    again = load_edit(edit.save(tmp_path))
    assert type(again) is type(edit) and again.summary() == edit.summary()
    assert dict(again.model) == dict(edit.model) and dict(again.about) == dict(edit.about)
    assert (compare_edits(edit, again)["verdict"] == "same").all()
    with edit.apply(llama):
        expected = logits(llama)
    with again.apply(llama):
        assert torch.equal(logits(llama), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["edit.json", "edit.safetensors"]
    record = json.loads((tmp_path / "edit.json").read_text())
    assert record["format_version"] == 1 and record["kind"] == type(edit).__name__ and record["summary"]


def test_factors_come_back_as_they_were(llama, tmp_path):
    edit = ScaledHeads(describe_model(llama), {}, {(1, 2): 1.1, (0, 3): 1 / 3})
    assert load_edit(edit.save(tmp_path)).factors == edit.factors


def test_older_files_are_read(llama, tmp_path):
    """A steering was saved as steering.json, factors in float32."""
    steering = added(llama)
    record, tensors = steering._record()
    save_artefact(tmp_path / "a", "steering", record, tensors)
    assert load_edit(tmp_path / "a").summary() == steering.summary()
    record = {"kind": "ScaledHeads", "summary": "", "model": describe_model(llama), "about": {}}
    save_artefact(tmp_path / "b", "edit", record, {"1.2": torch.tensor(0.5)})
    assert load_edit(tmp_path / "b").factors == {(1, 2): 0.5}


def test_unknown_and_damaged_edits_are_refused(llama, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no edit\.json"):
        load_edit(tmp_path)
    save_artefact(tmp_path / "a", "edit", {"kind": "Wish", "model": {}, "about": {}}, {})
    with pytest.raises(ValueError, match=r"kind 'Wish' was found; expected one of ScaledHeads"):
        load_edit(tmp_path / "a")
    save_artefact(tmp_path / "b", "edit", {"kind": "Steering", "model": {}, "about": {}}, {})
    with pytest.raises(ValueError, match="damaged edit"):
        load_edit(tmp_path / "b")


def test_an_order_is_kept(llama):
    """Remove everywhere, then add at a layer: it stays up to the next place. The other way round: nothing stays."""
    direction = direction_of(llama)
    orthogonal = (
        direction.vectors[3]
        - direction.vectors[3] @ direction.vectors[2] / direction.vectors[2].norm() ** 2 * (direction.vectors[2])
    )
    along = Steering((ResidualEdit(2, direction.vectors[2]),), while_generating=True)
    across = Steering((ResidualEdit(2, orthogonal),), while_generating=True)
    found = []
    for edits in ((removed(llama), along), (along, removed(llama)), (removed(llama),)):
        with Edits(edits).apply(llama):
            found.append(logits(llama))
        with ExitStack() as nested:
            for edit in edits:
                nested.enter_context(edit.apply(llama))
            assert torch.equal(logits(llama), found[-1])
    close(found[1], found[2])
    assert (found[0] - found[1]).abs().max() > 0.1
    with pytest.raises(ArithmeticError, match=r"the folded model and the hooked one disagree: .* Use apply"):
        Edits((removed(llama), along)).fold(interp.load(llama.hf))
    model = interp.load(tiny("llama"))
    Edits((removed(model), across)).fold(model)  # what is added has nothing to be removed


def test_edits_of_different_weights_are_not_mixed(llama):
    other = interp.load(tiny("llama", seed=1))
    with pytest.raises(ValueError, match=r"of different weights: .* and "):
        Edits((scaled(llama), scaled(other)))
    with pytest.raises(ValueError, match=r"this edit is of .* has weights"):
        Edits((scaled(llama), tuned(llama))).fold(other)
    with Edits((scaled(llama).made_for({}),)).apply(other):
        pass
    assert Edits(()).model == {} and Edits((scaled(llama).made_for({}), tuned(llama))).model["weights_sha256"]


REFUSED = {
    "a span": (lambda d: add_direction(d, 1.0, 2, "text", True), "at the positions 'text' only"),
    "the prompt": (lambda d: add_direction(d, 1.0, 2), "while the prompt is read only"),
    "a clamp": (lambda d: clamp_direction(d, 1.0, 2), "what a clamp adds depends on what the stream holds"),
    "several rows": (remove_direction, "several directions are removed"),
    "some layers": (
        lambda d: remove_direction(d, [2, 3], from_layer=2),
        "not removed at the input of layer 0, so the stream still brings it",
    ),
    "inputs alone": (
        lambda d: remove_direction(d, from_layer=2, every_write=False),
        r"not removed at the attention's output of layer 0.* every_write=True",
    ),
    "both": (
        lambda d: Steering((*remove_direction(d, from_layer=2).edits, *add_direction(d, 1.0, 1).edits), "all", True),
        "it adds and removes",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_weights_cant_do_is_refused_with_the_reason(case, llama, tmp_path):
    make, message = REFUSED[case]
    edit, clean = make(direction_of(llama)), logits(llama)
    with pytest.raises(ValueError, match=r"can't be written into weights: .*" + message):
        edit.fold(llama)
    with pytest.raises(ValueError, match=message):
        Edits((scaled(llama), edit)).export(llama, tmp_path / "out")
    assert torch.equal(logits(llama), clean) and not list(tmp_path.iterdir())


def test_a_removal_up_to_some_place_is_folded():
    model = interp.load(tiny("llama"))
    everywhere = removed(model)
    edit = replace(everywhere, edits=everywhere.edits[:4])
    with edit.apply(model):
        hooked = logits(model)
    edit.fold(model)
    close(logits(model), hooked)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo2"])
@pytest.mark.parametrize("kind", [removed, added])
def test_norms_after_attention_and_mlp_are_refused(name, kind):
    model = interp.load(tiny(name))
    clean = logits(model)
    with pytest.raises(ValueError, match=r"writes goes through a norm before it reaches the stream"):
        kind(model).fold(model)
    assert torch.equal(logits(model), clean)


@pytest.mark.parametrize("name", ["phi3", "qwen3", "mistral"])
def test_a_bias_that_no_architecture_has_a_place_for_is_folded_but_not_exported(name, tmp_path):
    """Mistral's sliding window and Qwen3's norms of queries are not Llama's."""
    model = interp.load(tiny(name))
    edit, clean = added(model), logits(model)
    with pytest.raises(ValueError, match=r"gives biases to weights of .* no switch for them.* no Llama but for biases"):
        edit.export(model, tmp_path / "out")
    assert torch.equal(logits(model), clean) and not list(tmp_path.iterdir())
    undo = edit.fold(model)
    undo.fold(model)
    assert torch.equal(logits(model), clean)


def test_qwen2_with_a_direction_is_written_as_the_llama_that_computes_the_same(tmp_path):
    model = interp.load(tiny("qwen2"))
    added(model).export(model, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["mlp_bias"] and config["attention_bias"]
    assert "LlamaForCausalLM, which computes the same" in (tmp_path / "out" / "README.md").read_text()
    with_window = interp.load(tiny("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=2))
    with pytest.raises(ValueError, match="no Llama but for biases"):
        added(with_window).export(with_window, tmp_path / "other")


def test_a_model_that_sees_is_folded_and_exported_where_pictures_are_not_concerned(tmp_path):
    made = tiny_vision("llava")
    model = interp.load(made.hf, processor=made.processor)
    asked = [model.prompt("Is the sky blue?", image=picture(0)), model.prompt("Can it?", text_only=True)]
    scales = ScaledHeads(describe_model(model), {}, {(0, 1): 0.0, (1, 0): 1.7})
    edits = [scales, tuned(model, ((0, 1), (1, 0))), added(model, 1, 2)]
    for number, edit in enumerate(edits):
        clean = model.final_logits(asked)
        with edit.apply(model):
            hooked = model.final_logits(asked)
        assert (hooked - clean).abs().amax(1).min() > 0.01
        path = edit.export(model, tmp_path / str(number), prompts=asked)
        again = interp.load(path)
        assert again.has_vision
        close(again.final_logits([again.prompt("Is the sky blue?", image=picture(0))]), hooked[:1])
        undo = edit.fold(model, asked)
        close(model.final_logits(asked), hooked)
        undo.fold(model)
        assert torch.equal(model.final_logits(asked), clean)
    for edit in (removed(model), added(model, 0)):
        with pytest.raises(ValueError, match="takes from pictures too"):
            edit.fold(model)


@pytest.mark.parametrize("make", [scaled, added, removed])
def test_quantised_weights_are_refused(make):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    hf = tiny("llama")
    for layer in hf.model.layers:
        for parent, name in ((layer.self_attn, "o_proj"), (layer.mlp, "down_proj")):
            old = getattr(parent, name)
            new = bitsandbytes.nn.Linear8bitLt(old.in_features, old.out_features, bias=False, has_fp16_weights=False)
            new.load_state_dict({"weight": old.weight})
            setattr(parent, name, new.to("cpu"))
    model = interp.load(hf)
    clean = logits(model)
    with pytest.raises(ValueError, match=r"is a Linear8bitLt .* expected a plain linear layer in memory.*unquantised"):
        make(model).made_for({}).fold(model)
    assert torch.equal(logits(model), clean)


def test_a_fold_that_would_be_wrong_is_taken_back(monkeypatch, tmp_path):
    """As if the architecture scaled what its MLP writes: the check sees it."""
    model = interp.load(tiny("llama"))
    for block in model.components.blocks:
        block.module.mlp.register_forward_hook(lambda module, args, output: 0.5 * output)
    clean, before = logits(model), state(model)
    edit = added(model).made_for({})
    for act in (lambda: edit.fold(model), lambda: edit.export(model, tmp_path / "out")):
        with pytest.raises(ArithmeticError, match="disagree: logits differ by at most"):
            act()
    assert torch.equal(logits(model), clean) and model.hf.state_dict().keys() == before.keys()
    assert not list(tmp_path.iterdir())


def test_an_agreement_of_nan_does_not_hold():
    one, nan = torch.ones(1, 2).double(), torch.tensor([[1.0, torch.nan]])
    for dtype, largest in ((torch.float32, 1e-4), (torch.bfloat16, 0.15), (torch.float64, 1e-9)):
        assert not agreement([one], [nan], dtype).holds and not agreement([one, one], [one, nan], dtype).holds
        assert agreement([one], [one + 0.9 * largest], dtype).holds
        assert not agreement([one], [one + 1.1 * largest], dtype).holds
    assert agreement([100 * one], [100 * one + 1e-3], torch.float32).holds  # 5e-5 of the largest
    assert not agreement([100 * one], [100 * one + 6e-3], torch.float32).holds


def test_heads_and_factors_that_cant_be_are_refused(llama):
    with pytest.raises(ValueError, match=r"head L1H7 is out of range: .* heads 0\.\.3"):
        ScaledHeads({}, {}, {(1, 7): 0.0}).apply(llama).__enter__()
    with pytest.raises(ValueError, match="the factor of L1H2 is nan"):
        ScaledHeads({}, {}, {(1, 2): float("nan")})
    rows = tuned(llama)
    wrong = replace(rows.rows[0], bias=torch.zeros(8))
    with pytest.raises(ValueError, match=r"L1H2 have shape \(8, 32\) and a bias; expected \(8, 32\) and no bias"):
        replace(rows, rows=(wrong,)).apply(llama).__enter__()


def test_the_card_says_what_was_changed_and_what_it_does(tmp_path):
    model = interp.load(tiny("llama", vocab_size=400), tokenizer=tiny_tokenizer())
    measures = pd.DataFrame({"measure": ["says Yes | No"], "before": [0.5], "after": [1 / 3]})
    composed(model).export(model, tmp_path / "out", measures=measures)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- 3 heads scaled (L0H1 x 0, L1H2 x 1.7, L3H0 x -0.5)." in card and "- remove the direction" in card
    assert repr(scaled(model)).startswith("ScaledHeads('3 heads scaled (L0H1 x 0,")
    assert (
        "| says Yes \\| No | 0.5 | 0.3333 |" in card and "- from: a test" in card and "- from (edit 1): a test" in card
    )
    assert "logits differ by at most" in card and model.provenance()["weights_sha256"] in card
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    with pytest.raises(FileExistsError, match="not an empty directory"):
        composed(model).export(model, tmp_path / "out")


def test_two_edits_side_by_side(llama):
    a = Edits((ScaledHeads({}, {}, {(0, 1): 0.0, (1, 2): 2.0}), added(llama, 2)))
    b = Edits((ScaledHeads({}, {}, {(0, 1): 0.0, (1, 2): 3.0, (2, 0): 0.5}), added(llama, 2)))
    frame = compare_edits(a, b).set_index("part")
    verdicts = frame["verdict"].to_dict()
    assert verdicts == {
        "L0H1 factor": "same", "L1H2 factor": "differs", "L2 input add": "same", "L2H0 factor": "only in B"
    }  # fmt: skip
    assert frame.loc["L1H2 factor", ["a", "b", "relative_difference"]].tolist() == [2.0, 3.0, 0.5]
    assert frame.loc["L2 input add", "cosine"] == pytest.approx(1.0)
    on_the_prompt = replace(added(llama, 2), while_generating=False)
    assert compare_edits(added(llama, 2), on_the_prompt)["verdict"].tolist() == ["only in A", "only in B"]
    opposite = compare_edits(added(llama, 2), add_direction(direction_of(llama), -0.7, 2, while_generating=True))
    assert opposite["cosine"].tolist() == pytest.approx([-1.0])


def test_an_undo_says_what_it_restores(tmp_path):
    model = interp.load(tiny("llama"))
    undo = scaled(model).fold(model)
    assert isinstance(undo, ReplacedWeights)
    assert undo.summary().startswith("3 weights or switches replaced (model.layers.3.self_attn.o_proj.weight")
    assert undo.about["restores"].startswith("3 heads scaled")
    with undo.apply(model):
        restored = logits(model)
    undo.fold(model)
    assert torch.equal(logits(model), restored)
    with pytest.raises(ValueError, match="replaced weights are no hooks"):
        undo.bridge_hooks(model.bridge)

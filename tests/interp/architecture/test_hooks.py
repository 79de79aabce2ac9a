"""Hooks: a pass in which one is not called raises; compiled code is left aside; what they give is computed with."""

from __future__ import annotations

import types
import warnings

import pytest
import torch
import torch.nn.functional as F

import interp
from interp.architecture.hooks import HookNotCalled, attached, input_of, output_of
from interp.reading.capture import attention_log_probs, head_outputs
from interp.reading.residual import residual_states
from tests.tiny import NO, YES, prompt, tiny

P = prompt(9)
IDS = torch.tensor([P.token_ids])
ZERO = interp.ablate_each_head("zero")
torch._dynamo.config.cache_size_limit = 64


def direction(model, size: float = 1.0):
    return interp.Direction.from_tensors(size * torch.ones(model.n_layers + 1, model.d_model), model)


def steering(model, size: float = 3.0):
    return interp.add_direction(direction(model), size, while_generating=True)


def by_plain_hooks(name: str, layer: int, change, **changes) -> torch.Tensor:
    """The last logits of a model of its own with a plain PyTorch hook at a block's input."""
    hf = tiny(name, **changes)
    with torch.no_grad():
        hf.model.layers[layer].register_forward_pre_hook(lambda m, args: (change(args[0]), *args[1:]))
        return hf(IDS).logits[0, -1]


def last(hf) -> torch.Tensor:
    with torch.no_grad():
        return hf(IDS).logits[0, -1]


def one_layer(model, layer: int = 1, size: float = 3.0):
    return interp.add_direction(direction(model), size, layers=layer, while_generating=True)


def compiled_whole(hf):
    hf.compile(backend="eager")


def compiled_forward(hf):
    hf.forward = torch.compile(hf.forward, backend="eager")


def compiled_layers(hf):
    for layer in hf.model.layers:
        layer.compile(backend="eager")


def compiled_mlp_forward(hf):
    hf.model.layers[2].mlp.forward = torch.compile(hf.model.layers[2].mlp.forward, backend="eager")


def compiled_projection(hf):
    hf.model.layers[1].self_attn.o_proj.compile(backend="eager")


def compiled_attention_module(hf):
    hf.model.layers[1].self_attn = torch.compile(hf.model.layers[1].self_attn, backend="eager")


def scripted_mlp_activation(hf):
    hf.model.layers[0].mlp.act_fn = torch.jit.script(torch.nn.ReLU())


WAYS = [compiled_whole, compiled_forward, compiled_layers, compiled_mlp_forward, compiled_projection]


@pytest.mark.parametrize("way", [*WAYS, compiled_attention_module, scripted_mlp_activation])
def test_load_recognises_a_compiled_model(way):
    hf = tiny("llama")
    way(hf)
    with pytest.raises(ValueError, match=r"(compile|TorchScript).*Load the model before it is compiled"):
        interp.load(hf)


def test_load_names_the_original_of_a_wrapped_model():
    with pytest.raises(ValueError, match="_orig_mod"):
        interp.load(torch.compile(tiny("llama"), backend="eager"))


def test_a_function_that_is_kept_from_the_compiler_is_no_mark():
    hf = tiny("llama")
    hf.model.norm.forward = torch.compiler.disable(hf.model.norm.forward)
    interp.load(hf)


@pytest.mark.parametrize("way", WAYS)
def test_a_model_compiled_after_load_gives_the_true_numbers(way):
    """Also where the compiled code was made before anything was attached, which it then never sees."""
    plain = interp.load(tiny("llama", num_hidden_layers=3))
    expected = interp.scan(plain, [P], ZERO, method="loop").values, head_outputs(plain, [P])[0]
    hf = tiny("llama", num_hidden_layers=3)
    model = interp.load(hf)
    torch._dynamo.reset()
    way(hf)
    clean = last(hf)
    found = interp.scan(model, [P], ZERO).values, head_outputs(model, [P])[0]
    assert abs(found[0] - expected[0]).max() < 1e-4
    torch.testing.assert_close(found[1], expected[1])
    with one_layer(model).apply(model):
        steered = last(hf)
    torch.testing.assert_close(
        steered, by_plain_hooks("llama", 1, lambda h: h + 3, num_hidden_layers=3), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(last(hf), clean, atol=1e-4, rtol=0)  # nothing of the edit was compiled in


def test_compiled_code_that_leaves_no_mark_on_the_model_is_left_aside_too():
    """A compiled wrapper, and a compiled function that calls the model, both made and run before."""
    hf = tiny("llama", num_hidden_layers=3)
    model = interp.load(hf)
    torch._dynamo.reset()
    wrapper, function = torch.compile(hf, backend="eager"), torch.compile(lambda ids: hf(ids), backend="eager")
    with torch.no_grad():
        before = [run(IDS).logits[0, -1] for run in (wrapper, function)]
        with one_layer(model).apply(model):
            steered = [run(IDS).logits[0, -1] for run in (wrapper, function)]
        after = [run(IDS).logits[0, -1] for run in (wrapper, function)]
    expected = by_plain_hooks("llama", 1, lambda h: h + 3, num_hidden_layers=3)
    for was, during, now in zip(before, steered, after, strict=True):
        torch.testing.assert_close(during, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(now, was, atol=1e-4, rtol=0)


def test_a_model_compiled_and_first_run_inside_a_block_keeps_nothing_of_the_edit():
    hf = tiny("llama", num_hidden_layers=3)
    model = interp.load(hf)
    clean = last(hf)
    torch._dynamo.reset()
    with one_layer(model).apply(model):
        hf.compile(backend="eager")
        torch.testing.assert_close(
            last(hf), by_plain_hooks("llama", 1, lambda h: h + 3, num_hidden_layers=3), atol=1e-4, rtol=0
        )
    torch.testing.assert_close(last(hf), clean, atol=1e-4, rtol=0)


def test_the_compiler_is_as_it_was_after_a_block():
    from torch._dynamo import eval_frame

    model = interp.load(tiny("llama"))
    with steering(model).apply(model), steering(model).apply(model):
        last(model.hf)
        assert eval_frame._stance.stance == "force_eager"
    assert eval_frame._stance.stance == "default"


# What goes round a module: each makes one hook silent, after load.


def calls_forward_of_the_projection(hf):
    attention = hf.model.layers[1].self_attn
    attention.o_proj, projection = torch.nn.Identity(), attention.o_proj
    kept = [projection]
    attention.o_proj.forward = lambda x: kept[0].forward(x)


def uses_the_weight_of_the_projection(hf):
    attention = hf.model.layers[1].self_attn
    original, projection = attention.forward, attention.o_proj

    def forward(self, *args, **kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        wrapped = original(*args, **kwargs)
        return (F.linear(hidden, projection.weight), *wrapped[1:])

    attention.forward = types.MethodType(forward, attention)
    attention.o_proj.__class__ = type("Silent", (torch.nn.Linear,), {"__call__": torch.nn.Linear.forward})


def a_call_of_its_own(hf):
    layer = hf.model.layers[2]
    layer.__class__ = type("Own", (type(layer),), {"__call__": type(layer).forward})


def another_block_in_its_place(hf):
    hf.model.layers[2] = tiny("llama", seed=3).model.layers[2]


def blocks_called_as_functions(hf):
    for layer in hf.model.layers:
        layer.__class__ = type("Own", (type(layer),), {"__call__": type(layer).forward})


SILENT = [
    calls_forward_of_the_projection,
    uses_the_weight_of_the_projection,
    a_call_of_its_own,
    another_block_in_its_place,
    blocks_called_as_functions,
]


@pytest.mark.parametrize("way", SILENT)
def test_what_goes_round_a_module_is_refused_everywhere(way):
    hf = tiny("llama")
    model = interp.load(hf)
    way(hf)
    stream = [a_call_of_its_own, another_block_in_its_place, blocks_called_as_functions]
    edit = steering(model) if way in stream else interp.ScaledHeads({}, {}, {(1, 0): 0.0})
    with pytest.raises(HookNotCalled, match="times in a pass; expected once"), edit.apply(model):
        hf(IDS)
    with pytest.raises(HookNotCalled), edit.apply(model):
        hf.generate(IDS, max_new_tokens=2, do_sample=False)
    refused = (HookNotCalled, ValueError)  # ValueError: a module that was put elsewhere is seen before any pass
    with pytest.raises(refused, match=r"expected once|no longer a part"):
        if way in stream:
            residual_states(model, [P], [[3]])
        else:
            head_outputs(model, [P])
    if way is not a_call_of_its_own and way is not blocks_called_as_functions:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*falls back")
            with pytest.raises(refused, match=r"expected once|no longer a part"):
                interp.scan(model, [P], ZERO)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in hf.modules())


@pytest.mark.parametrize("way", [uses_the_weight_of_the_projection, a_call_of_its_own, blocks_called_as_functions])
def test_what_goes_round_a_module_is_refused_at_load(way):
    hf = tiny("llama")
    way(hf)
    with pytest.raises((HookNotCalled, ValueError), match=r"expected once|no logit moves"):
        interp.load(hf)


def test_a_hook_whose_output_nobody_uses_is_refused_at_load():
    """It is called once in each pass, as it must be; the model computes with something else."""
    hf = tiny("llama")
    layer = hf.model.layers[2]
    original = type(layer).forward

    def forward(self, hidden_states, *args, **kwargs):
        return original(self, kept["hidden"], *args, **kwargs)

    kept = {}
    first = hf.model.layers[1]
    first.register_forward_hook(lambda m, args, output: kept.update(hidden=output))
    layer.forward = types.MethodType(forward, layer)
    with pytest.raises(ValueError, match="the residual stream can be changed at layer 2 and no logit moves"):
        interp.load(hf)


def test_a_layer_whose_heads_write_nothing_is_no_fault():
    hf = tiny("llama")
    with torch.no_grad():
        hf.model.layers[1].self_attn.o_proj.weight.zero_()
    assert interp.load(hf).attention_refusal == ""


def test_a_capture_of_attention_needs_every_layer():
    hf = tiny("llama")
    model = interp.load(hf)
    attention = hf.model.layers[2].self_attn
    attention.forward = types.MethodType(
        lambda self, hidden_states, **kwargs: (self.o_proj(hidden_states), None), attention
    )
    with pytest.raises(HookNotCalled, match=r"the attention of layer 2 came through .* 0 times"):
        attention_log_probs(model, [P], [[8]], [[[0], [5]]])


def test_passes_that_skip_layers_rightly_still_count():
    """Tuning runs the lower layers once and resumes above them: an edit below is not called again, and need not be."""
    from interp.passes.shared_prefix import UpperLayers

    model = interp.load(tiny("llama"))
    expected = None
    for layer in (0, 3):
        with interp.ScaledHeads({}, {}, {(1, 0): 0.0, (3, 2): 0.5}).apply(model):
            upper = UpperLayers(model, [prompt(14, 3), prompt(12, 4)], layer)
            upper.all_logits()
            found = upper.all_logits()
        expected = found if expected is None else expected
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_passes_from_a_cache_count():
    model = interp.load(tiny("llama"))
    with steering(model).apply(model):
        expected = model.hf.generate(IDS, max_new_tokens=4, do_sample=False, use_cache=False)
    edit = interp.add_direction(direction(model), 3.0)  # the prompt only
    with steering(model).apply(model):
        assert torch.equal(model.hf.generate(IDS, max_new_tokens=4, do_sample=False), expected)
    with edit.apply(model, [P]):
        model.hf.generate(IDS, max_new_tokens=4, do_sample=False)


def test_a_backward_pass_that_recomputes_is_edited_too_and_counts_once():
    """Gradient checkpointing calls a layer, and its hooks, again in the backward pass."""
    hf = tiny("llama")
    model = interp.load(hf)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            hf.train()  # no dropout in it
            hf.gradient_checkpointing_enable({"use_reentrant": False})
        hf.zero_grad()
        with torch.enable_grad(), interp.ScaledHeads({}, {}, {(1, 0): 0.0, (2, 3): 2.0}).apply(model):
            logits = hf(IDS, use_cache=False).logits[0, -1]
            (logits[YES] - logits[NO]).backward()
        gradients.append(hf.model.layers[1].self_attn.o_proj.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_a_block_in_which_the_model_did_not_run_says_so():
    model = interp.load(tiny("llama"))
    with pytest.warns(UserWarning, match="no pass of the model ran inside this block"), steering(model).apply(model):
        model.bridge(IDS)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "phi3", "olmo2"])
def test_every_place_counts_once_in_every_architecture(name):
    model = interp.load(tiny(name))
    seen: list[str] = []
    hooks = []
    for layer, block in enumerate(model.components.blocks):
        hooks += [
            input_of(block.module, lambda x, layer=layer: seen.append(f"stream {layer}")),
            input_of(block.out_projection, lambda x, layer=layer: seen.append(f"z {layer}")),
            output_of(block.mlp_write, lambda x, layer=layer: seen.append(f"mlp {layer}")),
        ]
    with attached(model, hooks):
        last(model.hf)
        last(model.hf)
    assert len(seen) == 2 * len(hooks) and all(hook.calls == 2 for hook in hooks)


def test_hooks_are_gone_after_an_exception_in_the_middle_of_attaching():
    model = interp.load(tiny("llama"))
    with pytest.raises(AttributeError), attached(model, [output_of(model.components.final_norm, lambda x: None), None]):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())
    last(model.hf)

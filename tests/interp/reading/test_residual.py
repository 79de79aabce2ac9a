"""Residual states are transformers' hidden states and TransformerLens's hooks; sums are means of states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import interp
from interp.prompts.batch import pad_left
from interp.reading.residual import residual_states, residual_sums
from tests.tiny import CONFIGS, WINDOW, prompt, tiny

LENGTHS = (WINDOW - 3, 3 * WINDOW, WINDOW + 5)
PROMPTS = [prompt(n, seed=n) for n in LENGTHS]
POSITIONS = [[0, 4, n - 1] for n in LENGTHS]


@pytest.fixture(scope="module", params=[(name, dtype) for name in CONFIGS for dtype in ("float32", "bfloat16")])
def model(request) -> interp.Model:
    name, dtype = request.param
    return interp.load(tiny(name, getattr(torch, dtype)))


@torch.no_grad()
def by_transformers(model: interp.Model, inputs: dict[str, Tensor]) -> Tensor:
    """[row, layer, pos, d_model], float32: hidden states, but for the last, which transformers gives after the norm."""
    entering: list[Tensor] = []
    hook = model.components.final_norm.register_forward_pre_hook(lambda module, args: entering.append(args[0]))
    states = model.hf(**inputs, use_cache=False, output_hidden_states=True).hidden_states
    hook.remove()
    return torch.stack([*states[:-1], entering[0]], dim=1).float()


@torch.no_grad()
def by_transformerlens(model: interp.Model, p: interp.Prompt) -> Tensor:
    _, cache = model.bridge.run_with_cache(torch.tensor([p.token_ids]))
    states = [cache[f"blocks.{layer}.hook_resid_pre"] for layer in range(model.n_layers)]
    return torch.cat([*states, cache[f"blocks.{model.n_layers - 1}.hook_resid_post"]]).float()


def tolerance(model: interp.Model, expected: Tensor) -> float:
    return (1e-5 if model.dtype == torch.float32 else 0.05) * max(1.0, expected.abs().max().item())


def test_states_are_transformers_hidden_states_bit_for_bit(model):
    """In the same left-padded batch."""
    shortest_first = sorted(range(3), key=LENGTHS.__getitem__)
    batch = pad_left([PROMPTS[i] for i in shortest_first], model.device)
    expected = by_transformers(model, batch.inputs)
    found = residual_states(model, PROMPTS, POSITIONS)
    assert found.shape == (3, model.n_layers + 1, 3, model.d_model) and found.dtype == torch.float32
    for row, i in enumerate(shortest_first):
        columns = [p + batch.offsets[row] for p in POSITIONS[i]]
        assert torch.equal(found[i], expected[row][:, columns])


def test_padding_and_batches_change_nothing(model):
    """Against each prompt alone, by transformers and by TransformerLens."""
    for batch_size in (1, 2, 16):
        found = residual_states(model, PROMPTS, POSITIONS, batch_size)
        for p, positions, states in zip(PROMPTS, POSITIONS, found, strict=True):
            alone = by_transformers(model, {"input_ids": torch.tensor([p.token_ids])})[0][:, positions]
            lens = by_transformerlens(model, p)[:, positions]
            assert (states - alone).abs().max() < tolerance(model, alone)
            assert (states - lens).abs().max() < tolerance(model, lens)


def test_sums_are_those_of_the_states(model):
    labels = ["odd", "even", "odd"]
    states = residual_states(model, PROMPTS, POSITIONS, batch_size=2).double()
    found = residual_sums(model, PROMPTS, POSITIONS, labels, batch_size=2)
    assert list(found) == ["odd", "even"] and (found["odd"].n, found["even"].n) == (2, 1)
    assert found["odd"].total.dtype == torch.float64 and found["odd"].mean.dtype == torch.float32
    assert torch.equal(found["odd"].total, states[[0, 2]].sum(0))
    assert torch.equal(found["odd"].mean, states[[0, 2]].mean(0).float())
    assert torch.equal(found["even"].mean, states[1].float())


def test_a_mean_of_many_is_not_that_of_half_precision():
    """600 bfloat16 states: their sum in bfloat16 would stop growing near 256 times one of them."""
    model = interp.load(tiny("llama", torch.bfloat16))
    many = [PROMPTS[0]] * 600
    found = residual_sums(model, many, [[2]] * 600, [0] * 600, batch_size=200)[0]
    (one,) = residual_states(model, PROMPTS[:1], [[2]])
    assert found.n == 600
    torch.testing.assert_close(found.mean, one, rtol=0.02, atol=0.02)


def test_nothing_is_left_on_the_model(llama, monkeypatch):
    residual_states(llama, PROMPTS, POSITIONS)
    monkeypatch.setattr("interp.passes.Gathered.put", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        residual_states(llama, PROMPTS, POSITIONS)
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in llama.hf.modules())


def test_states_that_are_not_finite_are_named():
    model = interp.load(tiny("llama"))
    with torch.no_grad():
        model.hf.model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    message = r"prompt 'random-9-9' is not finite at layer 3 \(the output of block 2\)"
    with pytest.raises(FloatingPointError, match=message):
        residual_states(model, PROMPTS, POSITIONS)
    with pytest.raises(FloatingPointError, match=message):
        residual_sums(model, PROMPTS, POSITIONS, [0, 0, 0])


@pytest.mark.parametrize(
    ("prompts", "positions", "message"),
    [
        ([], [], "no prompts were given"),
        (PROMPTS, [[0]], "1 lists of positions were given for 3 prompts"),
        (PROMPTS, [[0], [0, 1], [0]], "prompts have 1, 2 positions; expected the same number for all"),
        (PROMPTS, [[], [], []], "prompts have 0 positions"),
        (PROMPTS, [[9], [0], [0]], "position 9 was asked of prompt 'random-9-9', which has 9 tokens"),
        (PROMPTS, [[-1], [0], [0]], r"position -1 .*a negative one would count the padding"),
    ],
)
def test_positions_that_do_not_fit_are_refused(llama, prompts, positions, message):
    with pytest.raises(ValueError, match=message):
        residual_states(llama, prompts, positions)


def test_labels_and_batch_sizes_that_do_not_fit_are_refused(llama):
    with pytest.raises(ValueError, match="2 labels were given for 3 prompts"):
        residual_sums(llama, PROMPTS, POSITIONS, ["a", "b"])
    with pytest.raises(ValueError, match="batch_size=0"):
        residual_states(llama, PROMPTS, POSITIONS, batch_size=0)

"""What heads write along a vector: the parts sum to the state, agree with slow twins, and find what was planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

import interp
from interp.interventions.values import Branch, HeadEdit, ablate_each_head
from interp.reading.attribution import attribute
from interp.scans.head_writing import scan_projection, write_along
from tests.tiny import CONFIGS, NO, WINDOW, YES, prompt, tiny

PROMPTS = [prompt(WINDOW - 4), prompt(3 * WINDOW, seed=1), prompt(20, seed=2)]
ENDS = [len(p) - 1 for p in PROMPTS]


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request) -> interp.Model:
    return interp.load(tiny(request.param))


def vectors(n: int = 2, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=1, keepdim=True)


@torch.no_grad()
def stream(model: interp.Model, p: interp.Prompt) -> torch.Tensor:
    """[layer or end, pos, d_model], from TransformerLens's cache."""
    _, cache = model.bridge.run_with_cache(torch.tensor([p.token_ids]))
    last = model.n_layers - 1
    states = [cache[f"blocks.{layer}.hook_resid_pre"][0] for layer in range(model.n_layers)]
    return torch.stack([*states, cache[f"blocks.{last}.hook_resid_post"][0]])


@pytest.mark.parametrize("positions", [None, [0, 5, 11]], ids=["last", "inside"])
def test_parts_below_a_layer_sum_to_the_projection_of_its_input(model, positions):
    v = vectors()
    writing = write_along(model, PROMPTS, v, positions, batch_size=2)
    assert writing.heads.shape == (3, 2, 4, 4) and writing.heads.dtype == np.float32
    for i, (p, at) in enumerate(zip(PROMPTS, positions or ENDS, strict=True)):
        projected = (stream(model, p)[:, at] @ v.T).T
        np.testing.assert_allclose(writing.projections[i], projected, atol=2e-4)
        for layer in range(model.n_layers + 1):  # by hand
            below = writing.heads[i, :, :layer].sum((1, 2)) + writing.mlps[i, :, :layer].sum(1)
            total = writing.embedding[i] + below + writing.attention_biases[i, :, :layer].sum(1)
            np.testing.assert_allclose(total, projected[:, layer], atol=2e-4)
    np.testing.assert_allclose(writing.sums(), writing.projections, atol=2e-4)
    assert np.abs(writing.heads).max() > 1e-2


@torch.no_grad()
def test_heads_agree_with_the_slow_twin(model):
    """z times W_O from TransformerLens's cache, head by head, through the norm after it with its scale held."""
    v, p = vectors(1), PROMPTS[2]
    found = write_along(model, [p], v).heads[0, 0]
    _, cache = model.bridge.run_with_cache(torch.tensor([p.token_ids]))
    offset = 1.0 if "Gemma" in type(model.hf).__name__ else 0.0
    for layer, block in enumerate(model.components.blocks):
        weight = block.out_projection.weight
        weight = weight if isinstance(block.out_projection, Conv1D) else weight.T  # [features, d_model]
        writes = cache[f"blocks.{layer}.attn.hook_z"][0, -1][:, None] @ weight.unflatten(0, (model.n_heads, -1))
        if (norm := block.attention_post_norm) is not None:
            eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
            scale = (writes[:, 0].sum(0).pow(2).mean() + eps).sqrt()  # these models have no bias
            writes = writes * (norm.weight + offset) / scale
        np.testing.assert_allclose(found[layer], writes[:, 0] @ v[0], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_parts_sum_in_half_precision(name, dtype):
    half, full = (interp.load(tiny(name, dtype=d)) for d in (dtype, torch.float32))
    rough, fine = (write_along(m, PROMPTS, vectors()) for m in (half, full))
    size = np.abs(fine.projections).max()
    assert np.abs(rough.sums() - rough.projections).max() < 3e-2 * size
    assert np.abs(rough.heads - fine.heads).max() < 5e-2 * size


def test_the_projection_bias_is_no_head_s():
    hf = tiny("gpt2")
    with torch.no_grad():
        hf.transformer.h[1].attn.c_proj.bias.add_(3.0)
    model, v = interp.load(hf), vectors(1)
    writing = write_along(model, PROMPTS, v)
    expected = float(hf.transformer.h[1].attn.c_proj.bias.detach() @ v[0])
    np.testing.assert_allclose(writing.attention_biases[:, 0, 1], expected, rtol=1e-5)


def test_writing_is_linear_in_the_vectors_and_no_matter_of_batches(model):
    v = vectors(2)
    both = write_along(model, PROMPTS, torch.cat([v, v[:1] + 3 * v[1:]]), batch_size=1)
    together = write_along(model, PROMPTS, v, batch_size=3)
    np.testing.assert_allclose(both.heads[:, 2], both.heads[:, 0] + 3 * both.heads[:, 1], atol=1e-4)
    np.testing.assert_allclose(both.heads[:, :2], together.heads, atol=1e-4)
    zero = write_along(model, PROMPTS[:1], torch.zeros(1, 32))
    assert not zero.heads.any() and not zero.projections.any()


def test_along_the_unembedding_it_is_direct_attribution_up_to_the_final_norm():
    """Where the final norm's scale is all epsilon and its gain even, logits are projections times a constant."""
    hf = tiny("llama")
    with torch.no_grad():
        hf.model.norm.variance_epsilon = 1e10
        hf.model.norm.weight.fill_(1e5)
    model = interp.load(hf)
    toward = (hf.lm_head.weight[NO] - hf.lm_head.weight[YES]).detach()
    split = attribute(model, PROMPTS[2], interp.LogitDifference("No", "Yes"))
    np.testing.assert_allclose(write_along(model, PROMPTS[2:], toward[None]).heads[0, 0], split.heads, atol=1e-4)


def test_every_hook_is_gone_also_after_an_error(model):
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())

    before = hooks()
    write_along(model, PROMPTS, vectors())
    scan_projection(model, PROMPTS, zeroed(model), vectors(1)[0], 2)
    with torch.no_grad():
        weight = next(p for p in model.components.blocks[1].out_projection.parameters())
        kept = weight.clone()
        weight.fill_(torch.nan)
        with pytest.raises(FloatingPointError, match="layer 1"):
            write_along(model, PROMPTS, vectors())
        with pytest.raises(FloatingPointError, match="layer 1"):
            scan_projection(model, PROMPTS, zeroed(model), vectors(1)[0], 3, method="loop")
        weight.copy_(kept)
    assert hooks() == before


def test_bad_input_is_refused(llama):
    with pytest.raises(ValueError, match="no prompts"):
        write_along(llama, [], vectors())
    with pytest.raises(ValueError, match=r"shape \(2, 31\).*\[vector, 32\]"):
        write_along(llama, PROMPTS, vectors()[:, 1:])
    with pytest.raises(ValueError, match="not finite"):
        write_along(llama, PROMPTS, vectors() * torch.nan)
    with pytest.raises(ValueError, match="2 positions for 3 prompts"):
        write_along(llama, PROMPTS, vectors(), [1, 2])
    with pytest.raises(ValueError, match="position 8 was asked of prompt 'random-8-0', which has 8 tokens"):
        write_along(llama, PROMPTS, vectors(), [8, 2, 2])
    with pytest.raises(ValueError, match="layer=5; expected 0 to 4"):
        scan_projection(llama, PROMPTS, zeroed(llama), vectors(1)[0], 5)
    with pytest.raises(ValueError, match="head L0H9 is out of range"):
        scan_projection(llama, PROMPTS, [Branch((HeadEdit(0, 9),))], vectors(1)[0], 2)
    with pytest.raises(ValueError, match="method='fast'"):
        scan_projection(llama, PROMPTS, zeroed(llama), vectors(1)[0], 2, method="fast")


def test_an_architecture_whose_parts_do_not_sum_is_refused():
    """Granite scales what its blocks add to the stream."""
    from transformers import GraniteConfig, GraniteForCausalLM

    config = tiny("llama").config.to_dict()
    config.pop("model_type")
    torch.manual_seed(0)
    hf = GraniteForCausalLM(GraniteConfig(**config | {"residual_multiplier": 0.3}))
    with pytest.raises(ValueError, match="of their summed size unexplained"):
        write_along(interp.load(hf), [prompt(9)], vectors())


def zeroed(model: interp.Model) -> list[Branch]:
    return ablate_each_head("zero").branches(model)


@torch.no_grad()
def slow_projections(model: interp.Model, p: interp.Prompt, v: torch.Tensor, layer: int) -> np.ndarray:
    """Each head zeroed at the last token in turn, by TransformerLens's own hooks."""
    name = f"blocks.{layer}.hook_resid_pre" if layer < model.n_layers else f"blocks.{layer - 1}.hook_resid_post"
    found = []
    for edited in range(model.n_layers):
        for head in range(model.n_heads):

            def zero(z, hook, head=head):
                z = z.clone()
                z[:, -1, head] = 0
                return z

            def look(state, hook):
                found.append(float(state[0, -1] @ v))

            hooks = [(f"blocks.{edited}.attn.hook_z", zero), (name, look)]
            model.bridge.run_with_hooks(torch.tensor([p.token_ids]), fwd_hooks=hooks)
    return np.array(found)


@pytest.mark.parametrize("layer", [1, 3, 4])
def test_the_fan_out_of_projections_agrees_with_transformerlens(model, layer):
    v = vectors(1)[0]
    result = scan_projection(model, PROMPTS, zeroed(model), v, layer)
    assert result.how == "fan-out" and result.values.shape == (3, 16)
    np.testing.assert_allclose(result.clean, write_along(model, PROMPTS, v[None]).projections[:, 0, layer], atol=2e-4)
    for p, row in zip(PROMPTS, result.values, strict=True):
        np.testing.assert_allclose(row, slow_projections(model, p, v, layer), atol=3e-4)
    slow = scan_projection(model, PROMPTS, zeroed(model), v, layer, method="loop")
    np.testing.assert_allclose(result.values, slow.values, atol=3e-4)
    drop = result.drop.reshape(3, 4, 4)
    assert not drop[:, layer:].any()
    assert np.abs(drop[:, :layer]).max() > 1e-2


def test_the_last_heads_below_the_layer_write_what_their_ablation_takes(llama):
    """With the block's MLP silenced, nothing comes between such a head and the state: total is direct."""
    hf = tiny("llama")
    with torch.no_grad():
        hf.model.layers[1].mlp.down_proj.weight.zero_()
    model, v = interp.load(hf), vectors(1)[0]
    direct = write_along(model, PROMPTS, v[None]).heads[:, 0]
    total = scan_projection(model, PROMPTS, zeroed(model), v, 2).drop.reshape(3, 4, 4)
    np.testing.assert_allclose(total[:, 1], direct[:, 1], atol=1e-4)
    assert np.abs(total[:, 0] - direct[:, 0]).max() > 1e-2


def test_chunks_order_and_sets_of_heads_change_nothing(llama):
    v = vectors(1)[0]
    branches = [
        Branch((HeadEdit(2, 1), HeadEdit(0, 3, "scale", factor=0.5))),
        Branch((HeadEdit(3, 0),)),  # above the layer
        Branch((HeadEdit(1, 1),)),
        Branch((), "nothing"),
        Branch((HeadEdit(0, 2, "mean_of_others"),)),
    ]
    whole = scan_projection(llama, PROMPTS, branches, v, 3)
    one_by_one = scan_projection(llama, PROMPTS, branches, v, 3, memory_mib=1e-6)
    looped = scan_projection(llama, PROMPTS, branches, v, 3, method="loop")
    np.testing.assert_allclose(one_by_one.values, whole.values, atol=1e-4)
    np.testing.assert_allclose(looped.values, whole.values, atol=1e-4)
    np.testing.assert_array_equal(whole.values[:, 1], whole.clean)
    np.testing.assert_array_equal(whole.values[:, 3], whole.clean)
    assert np.abs(whole.change[:, [0, 2, 4]]).min() > 1e-4
    assert whole.labels == ("L2H1+L0H3", "L3H0", "L1H1", "nothing", "L0H2")


def test_a_prompt_of_one_token(llama):
    p = interp.Prompt.from_token_ids([9])
    v = vectors(1)[0]
    fast, slow = (scan_projection(llama, [p], zeroed(llama), v, 4, method=m) for m in ("fan-out", "loop"))
    np.testing.assert_allclose(fast.values, slow.values, atol=1e-4)


def test_an_architecture_without_a_fan_out_takes_the_loop(llama):
    from dataclasses import replace

    own = replace(llama, attention_refusal="it computes attention in its own way")
    v = vectors(1)[0]
    with pytest.warns(UserWarning, match="falls back to one pass for each edit: it computes attention"):
        result = scan_projection(own, PROMPTS[:1], zeroed(llama), v, 3)
    assert result.how == "loop" and "own way" in result.check
    np.testing.assert_allclose(
        result.values, scan_projection(llama, PROMPTS[:1], zeroed(llama), v, 3).values, atol=1e-4
    )
    with pytest.raises(RuntimeError, match="own way"):
        scan_projection(own, PROMPTS[:1], zeroed(llama), v, 3, method="fan-out")


@torch.no_grad()
def test_a_planted_writer_is_found():
    """L1H2 reads evenly and writes a large constant along the vector, in place of what it read."""
    hf, v = tiny("llama", attention_bias=True), vectors(1)[0]
    attention = hf.model.layers[1].self_attn
    attention.v_proj.weight[8:16] = 0
    attention.v_proj.bias[8:16] = 1  # the group of heads 2 and 3
    attention.o_proj.weight[:, 16:24] = v[:, None] * 2  # 8 features: 16 along the vector
    model = interp.load(hf)
    heads = write_along(model, PROMPTS, v[None]).heads[:, 0]
    np.testing.assert_allclose(heads[:, 1, 2], 16, rtol=1e-5)
    assert np.unravel_index(heads.mean(0).argmax(), (4, 4)) == (1, 2)

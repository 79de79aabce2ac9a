"""The fan-out must agree with TransformerLens's own one-head-at-a-time loop, everywhere."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch

import interp
from interp.interventions.values import Branch, HeadEdit, ResidualEdit
from interp.scans.agreement import FanOutDisagreement
from interp.scans.branches import last_positions
from tests.tiny import CONFIGS, VOCABULARY, WINDOW, tiny
from tests.twins import bridge_loop, bridge_means

NO, YES = 5, 7


def prompt(length: int, seed: int = 0) -> interp.Prompt:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
    return interp.Prompt.from_token_ids(ids, answers={"No": [NO], "Yes": [YES]}, gold="Yes")


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request) -> interp.Model:
    return interp.load(tiny(request.param))


@pytest.mark.parametrize("length", [WINDOW - 4, 3 * WINDOW], ids=["shorter", "longer than a window"])
@pytest.mark.parametrize("positions", ["answer", 3, "all"])
@pytest.mark.parametrize("how", ["zero", "mean_of_others", "mean"])
def test_fan_out_agrees_with_transformerlens_loop(model, how, positions, length):
    p = prompt(length)
    m = {"answer": 1, "all": length}.get(positions, positions)
    reference = [prompt(length, seed=s) for s in (5, 6)] if how == "mean" else None
    means = None
    if reference:
        means = bridge_means(model, reference, last=1 if positions == "answer" else length)
    expected = bridge_loop(model, p, how, m, means)
    edits = interp.ablate_each_head(how, reference=reference)
    result = interp.scan(model, [p], edits, positions=positions, method="fan-out")
    assert result.how == "fan-out"
    assert np.abs(result.values[0] - expected).max() < 1e-4
    assert np.abs(expected - result.clean[0]).mean() > 1e-2  # the effects are far above rounding


def test_windows_bite():
    """The models with windows do mask: a token beyond the window changes nothing in a layer with one."""
    for name in ("gemma2", "gemma3", "mistral", "phi3"):
        config = tiny(name).config
        assert config.sliding_window == WINDOW
    assert set(tiny("gemma2").config.layer_types) == set(tiny("gemma3").config.layer_types)
    assert len(set(tiny("gemma2").config.layer_types)) == 2


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox"])
def test_bfloat16_agrees_within_rounding(name):
    model = interp.load(tiny(name, torch.bfloat16))
    p = prompt(30)
    fast = interp.scan(model, [p], interp.ablate_each_head("zero"), method="fan-out")
    slow = interp.scan(model, [p], interp.ablate_each_head("zero"), method="loop")
    scale = model.final_logits([p]).abs().max()
    assert np.abs(fast.values - slow.values).max() < 8 * torch.finfo(torch.bfloat16).eps * scale


def test_every_prompt_has_its_own_numbers(llama):
    prompts = [prompt(n, seed=n) for n in (9, 20, 14)]
    together = interp.scan(llama, prompts, interp.ablate_each_head("zero"))
    for i, p in enumerate(prompts):
        alone = interp.scan(llama, [p], interp.ablate_each_head("zero"))
        np.testing.assert_allclose(together.values[i], alone.values[0], atol=1e-5)
    assert len(together.to_frame()) == 3 * llama.n_layers * llama.n_heads


def test_chunks_change_nothing(llama):
    p = prompt(20)
    whole = interp.scan(llama, [p], interp.ablate_each_head("zero"))
    one_by_one = interp.scan(llama, [p], interp.ablate_each_head("zero"), memory_mib=1e-6)
    np.testing.assert_allclose(whole.values, one_by_one.values, atol=1e-5)


def test_scale_one_changes_nothing_and_scale_zero_is_zero_ablation(llama):
    p = prompt(20)
    same = interp.scan(llama, [p], interp.scale_each_head(1.0))
    assert np.abs(same.change).max() < 1e-5
    zeroed = interp.scan(llama, [p], interp.ablate_each_head("zero"))
    np.testing.assert_allclose(interp.scan(llama, [p], interp.scale_each_head(0.0)).values, zeroed.values, atol=1e-5)


@pytest.mark.parametrize("positions", ["answer", 4, "all"])
def test_patching_a_run_with_itself_changes_nothing(llama, positions):
    p = prompt(20)
    result = interp.scan(llama, [p], interp.patch_each_head([p]), positions=positions)
    assert np.abs(result.change).max() < 1e-5


@torch.no_grad()
def test_patching_agrees_with_transformerlens(llama):
    p, source = prompt(20, seed=1), prompt(20, seed=2)
    _, cache = llama.bridge.run_with_cache(torch.tensor([source.token_ids]))
    expected = np.empty((llama.n_layers, llama.n_heads), dtype=np.float32)
    for layer in range(llama.n_layers):
        for head in range(llama.n_heads):

            def hook(z, hook, layer=layer, head=head):
                z = z.clone()
                z[:, -3:, head] = cache[f"blocks.{layer}.attn.hook_z"][:, -3:, head]
                return z

            logits = llama.bridge.run_with_hooks(
                torch.tensor([p.token_ids]), fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook)]
            )
            expected[layer, head] = logits[0, -1, NO] - logits[0, -1, YES]
    result = interp.scan(llama, [p], interp.patch_each_head([source]), positions=3)
    np.testing.assert_allclose(result.values[0], expected.ravel(), atol=1e-4)


def test_branches_of_several_heads_agree_with_the_loop(llama):
    rng = np.random.default_rng(0)
    branches = []
    for size in (1, 2, 5, 3):
        heads = {tuple(map(int, rng.integers(0, 4, 2))) for _ in range(size)}
        ops = ["zero", "mean_of_others", "scale"]
        branches.append(Branch(tuple(HeadEdit(layer, h, ops[(layer + h) % 3], factor=2.0) for layer, h in heads)))
    branches.append(Branch((), "unedited"))
    for positions in ("answer", "all"):
        fast = interp.scan(llama, [prompt(20)], branches, positions=positions, method="fan-out")
        slow = interp.scan(llama, [prompt(20)], branches, positions=positions, method="loop")
        np.testing.assert_allclose(fast.values, slow.values, atol=1e-4)
        assert abs(fast.change[0, -1]) < 1e-5


def stream_branches(d_model: int) -> list[Branch]:
    """Every operation at every layer, several at once, at the attention's output, with heads; and none."""
    generator = torch.Generator().manual_seed(1)
    v, w = torch.randn(2, d_model, generator=generator)
    single = [
        Branch((ResidualEdit(layer, v, op, coefficient),))
        for layer in range(5)
        for op, coefficient in (("add", 2.0), ("add", -0.5), ("remove", 1.0), ("clamp", 3.0))
    ]
    everywhere = Branch(
        tuple(ResidualEdit(n, v, "remove", at=at) for n in range(4) for at in ("input", "attention")), "removed"
    )
    return [
        *single,
        everywhere,
        Branch((ResidualEdit(2, v, "add", 1.5, at="attention"),)),
        Branch((ResidualEdit(2, v), ResidualEdit(2, w, "remove"), ResidualEdit(2, v, "clamp", 2.0)), "in their order"),
        Branch((ResidualEdit(3, v), HeadEdit(1, 0), HeadEdit(3, 2, "scale", 2.0), ResidualEdit(1, w)), "with heads"),
        Branch((HeadEdit(0, 1), ResidualEdit(4, w, "add", 3.0)), "first and last"),
        Branch((ResidualEdit(1, v, "add", 0.0),), "nothing"),
        Branch((), "unedited"),
    ]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("positions", ["answer", 3, "all"])
def test_edits_of_the_stream_agree_with_the_loop(name, positions):
    model, p = interp.load(tiny(name)), prompt(3 * WINDOW)
    branches = stream_branches(model.d_model)
    fast = interp.scan(model, [p], branches, positions=positions, method="fan-out")
    slow = interp.scan(model, [p], branches, positions=positions, method="loop")
    chunked = interp.scan(model, [p], branches, positions=positions, method="fan-out", memory_mib=1e-6)
    np.testing.assert_allclose(fast.values, slow.values, atol=1e-4)
    np.testing.assert_allclose(fast.values, chunked.values, atol=1e-4)
    assert np.abs(fast.change[0, -2:]).max() < 1e-5 and (np.abs(slow.change[0, :-2]) > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("positions", ["answer", 3, "all"])
def test_edits_of_the_stream_agree_with_transformerlens(name, positions):
    model, p = interp.load(tiny(name)), prompt(3 * WINDOW)
    m = {"answer": 1, "all": len(p)}.get(positions, positions)
    branches = stream_branches(model.d_model)[:16]  # one edit each, of layers 0 to 3
    expected = []
    for (edit,) in (b.edits for b in branches):

        def hook(h, hook, edit=edit):
            u = edit.vector / edit.vector.norm()
            along = (h[:, -m:] @ u)[..., None] * u
            new = {"add": h[:, -m:] + edit.coefficient * edit.vector, "remove": h[:, -m:] - along}
            new["clamp"] = new["remove"] + edit.coefficient * u
            return torch.cat([h[:, :-m], new[edit.op]], dim=1)

        hooks = [(f"blocks.{edit.layer}.hook_in", hook)]
        logits = model.bridge.run_with_hooks(torch.tensor([p.token_ids]), fwd_hooks=hooks)[0, -1]
        expected.append(logits[NO] - logits[YES])
    found = interp.scan(model, [p], branches, positions=positions, method="fan-out")
    np.testing.assert_allclose(found.values[0], torch.stack(expected), atol=1e-4)


def test_a_sweep_of_the_prompt_alone_is_a_scan_of_all_positions(llama):
    """Steering with positions="all", prompt only, and a branch at positions="all" are one thing, and say so."""
    from interp.edits.steering import Steering

    p, v = prompt(20), torch.randn(32, generator=torch.Generator().manual_seed(0))
    edits = [ResidualEdit(layer, v, "add", c) for layer in (0, 2, 4) for c in (-1.0, 2.0)]
    scanned = interp.scan(llama, [p], [Branch((e,)) for e in edits], positions="all")
    assert scanned.labels[:2] == ("L0 add -1", "L0 add 2") and scanned.how == "fan-out"
    for edit, value in zip(edits, scanned.values[0], strict=True):
        with Steering((edit,)).apply(llama):
            logits = llama.final_logits([p])[0]
        assert abs(logits[NO] - logits[YES] - value) < 1e-4


def test_probability_metric_is_the_softmax(llama):
    p = prompt(20)
    result = interp.scan(llama, [p], interp.ablate_each_head("zero"), metric=interp.Probability("gold"))
    expected = llama.final_logits([p]).softmax(-1)[0, YES]
    assert abs(result.clean[0] - expected) < 1e-6
    loop = interp.scan(llama, [p], interp.ablate_each_head("zero"), metric=interp.Probability("gold"), method="loop")
    np.testing.assert_allclose(result.values, loop.values, atol=1e-6)


def test_several_surface_forms_are_summed(llama):
    p = interp.Prompt.from_token_ids(prompt(12).token_ids, answers={"No": [5, 6], "Yes": [7]})
    probs = llama.final_logits([p]).double().softmax(-1)[0]
    expected = (probs[5] + probs[6]).log() - probs[7].log()
    result = interp.scan(llama, [p], interp.ablate_each_head("zero"))
    assert abs(result.clean[0] - expected) < 1e-5


def test_nothing_is_left_behind_after_an_exception(llama, monkeypatch):
    p = prompt(20)
    before = llama.final_logits([p])
    implementation = llama.hf.config._attn_implementation

    def broken(*args):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("interp.interventions.acting.apply_edits", broken)
    with pytest.raises(RuntimeError, match="on purpose"):
        interp.scan(llama, [p], interp.ablate_each_head("zero"), method="fan-out")
    assert llama.hf.config._attn_implementation == implementation
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in llama.hf.modules())
    assert "forward" not in vars(llama.components.unembedding)
    assert torch.equal(llama.final_logits([p]), before)


def test_a_fan_out_that_disagrees_is_refused_and_the_loop_takes_over(monkeypatch):
    llama = interp.load(tiny("llama"))
    module = sys.modules["interp.scans.both_ways"]
    real = module.fan_out_logits
    monkeypatch.setattr(module, "fan_out_logits", lambda *a: real(*a) + torch.arange(2.0))
    with pytest.raises(FanOutDisagreement, match="differs from plain"):
        interp.scan(llama, [prompt(20)], interp.ablate_each_head("zero"), method="fan-out")
    with pytest.warns(UserWarning, match="falls back to one pass"):
        result = interp.scan(llama, [prompt(20)], interp.ablate_each_head("zero"))
    assert result.how == "loop"
    assert "refused" in result.check


def test_attention_of_its_own_falls_back_to_the_loop():
    """BLOOM computes attention in its own way (ALiBi): the loop takes over and says so."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    model = interp.load(
        BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)).eval()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = interp.scan(model, [prompt(10)], interp.ablate_each_head("zero"))
    assert result.how == "loop"
    expected = bridge_loop(model, prompt(10), "zero", 1)
    np.testing.assert_allclose(result.values[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("edits", "changes", "message"),
    [
        ([Branch((HeadEdit(9, 0),))], {}, "L9H0 is out of range.*layers 0..3"),
        ([Branch((HeadEdit(0, 4),))], {}, "L0H4 is out of range.*heads 0..3"),
        ([Branch((ResidualEdit(5, torch.ones(32)),))], {}, r"L5 add 1 is out of range.*residual layers 0\.\.4"),
        ([Branch((ResidualEdit(1, torch.ones(9)),))], {}, "the vector has 9 numbers; .* has 32"),
        ([], {}, "no branches"),
        (
            interp.ablate_each_head("zero"),
            {"positions": 99},
            "positions=99; expected 'answer', 'text', 'all' or a number",
        ),
        (interp.ablate_each_head("zero"), {"method": "fast"}, "method='fast'; expected"),
        (interp.patch_each_head([]), {}, "one source for each prompt"),
        (interp.patch_each_head([prompt(5)]), {"positions": "all"}, "must be of equal length"),
    ],
)
def test_bad_scans_are_refused(llama, edits, changes, message):
    with pytest.raises(ValueError, match=message):
        interp.scan(llama, [prompt(20)], edits, **changes)


def test_bad_edits_are_refused(llama):
    with pytest.raises(ValueError, match="op='blur'"):
        HeadEdit(0, 0, "blur")
    with pytest.raises(ValueError, match="a value belongs to op='set'"):
        HeadEdit(0, 0, "zero", value=torch.zeros(8))
    with pytest.raises(ValueError, match="edits the same head twice"):
        Branch((HeadEdit(0, 0), HeadEdit(0, 0, "scale")))
    with pytest.raises(ValueError, match="value has size 3"):
        interp.scan(llama, [prompt(9)], [Branch((HeadEdit(0, 0, "set", value=torch.zeros(3)),))])
    with pytest.raises(ValueError, match="ablation 'none'"):
        interp.ablate_each_head("none")
    with pytest.raises(KeyError, match="no answer 'Maybe'"):
        interp.scan(llama, [prompt(9)], interp.ablate_each_head("zero"), metric=interp.LogitDifference("Maybe", "Yes"))


def test_no_logits_are_ever_nan_in_silence():
    hf = tiny("llama")
    with torch.no_grad():
        hf.model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(interp.NonFiniteLogitsError, match="the output of layer 2"):
        interp.load(hf)


@torch.no_grad()
def test_smollm2_agrees_with_transformerlens_loop(smollm2):
    """The real model, heads of its first, middle and last layer, at the answer."""
    text = "Answer the question with Yes or No.\nQuestion: Can a kettle boil water without any heat?"
    p = smollm2.prompt(text, answers=("No", "Yes"))
    result = interp.scan(smollm2, [p], interp.ablate_each_head("zero"), method="fan-out")
    no, yes = p.answers["No"][0], p.answers["Yes"][0]
    for layer in (0, 15, 29):
        for head in (0, 4, 8):

            def hook(z, hook, head=head):
                z = z.clone()
                z[:, -1, head] = 0
                return z

            logits = smollm2.bridge.run_with_hooks(
                torch.tensor([p.token_ids]), fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook)]
            )[0, -1]
            assert abs(result.values[0, layer * 9 + head] - (logits[no] - logits[yes]).item()) < 1e-4


def test_a_scan_of_all_heads_is_a_ranking(llama):
    result = interp.scan(llama, [prompt(20), prompt(9)], interp.ablate_each_head("zero"))
    ranking = result.ranking()
    shape = (2, llama.n_layers, llama.n_heads)
    np.testing.assert_array_equal(ranking.scores, result.drop.reshape(shape))
    assert ranking.measure.unit == result.unit and ranking.provenance["model"] == llama.name
    assert result.top(1)["label"].item() == result.labels[int(result.drop.mean(0).argmax())]
    assert result.plot().layout.title.text and "too few" in result._repr_html_()
    assert len(set(ranking.example_ids)) == 2  # also of prompts without ids, or of one id twice


def test_a_ranking_of_a_scan_has_the_kinds_of_heads(llama):
    result = interp.scan(llama, [prompt(20)], interp.ablate_each_head("zero"))
    kinds = result.ranking(llama).provenance["head_kinds"]
    assert set(kinds) <= set(result.labels) and "head_kinds" not in result.ranking().provenance
    assert "kind" in result.ranking(llama).to_frame()
    with pytest.raises(ValueError, match="Give the one that was scanned"):
        result.ranking(interp.load(tiny("gpt2")))


def test_a_scan_of_other_branches_is_no_ranking(llama):
    two = [Branch((HeadEdit(0, 0), HeadEdit(1, 1)))]
    with pytest.raises(ValueError, match="one edit for each head"):
        interp.scan(llama, [prompt(9)], two).ranking()
    with pytest.raises(ValueError, match="every head once"):
        interp.scan(llama, [prompt(9)], [Branch((HeadEdit(1, 1),))]).top()


def test_positions_that_differ_by_prompt_have_no_one_number():
    assert [last_positions(at) for at in ("answer", "all", 4)] == [1, None, 4]
    with pytest.raises(ValueError, match="positions='text' is another number in each prompt"):
        last_positions("text")

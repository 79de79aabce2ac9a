"""A screen is right where it may be, and what is confirmed is what an exact scan gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.interventions import Branch, HeadEdit
from interp.locating import confirmed, estimate_removal, reaching, require_screen
from interp.locating.counting import counted
from interp.models import twin_in
from interp.reading import head_outputs, mean_head_outputs

METRIC = interp.LogitDifference("a", "b")


def prompt(n: int, seed: int) -> interp.Prompt:
    ids = torch.randint(3, 90, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    return interp.Prompt.from_token_ids(ids, answers={"a": [7], "b": [8]})


PROMPTS = [prompt(9, 0), prompt(12, 1), prompt(9, 2)]


@pytest.mark.parametrize("last", [1, 4, None])
@pytest.mark.parametrize("ablation", ["zero", "mean", "mean_of_others"])
@pytest.mark.filterwarnings("ignore")
def test_the_estimate_is_the_slope_of_an_exact_scan(llama, ablation, last):
    """From each head's output a step towards what replaces it, and as long a step away, exactly."""
    means = mean_head_outputs(llama, PROMPTS, last) if ablation == "mean" else None
    found = estimate_removal(llama, PROMPTS, METRIC, ablation=ablation, last=last, means=means)
    step, positions = 2e-2, {1: "answer", None: "all"}.get(last, last)
    heads = [(layer, head) for layer in range(llama.n_layers) for head in range(llama.n_heads)]
    for i, one in enumerate(PROMPTS):
        z = head_outputs(llama, [one], last)[0].float()  # [layer, pos, head, d_head]
        others = (z.sum(2, keepdim=True) - z) / (z.shape[2] - 1)
        target = {"zero": torch.zeros_like(z), "mean_of_others": others}.get(ablation)
        target = means[:, None].expand_as(z) if target is None else target
        branches = []
        for size in (step, -step):
            moved = z + size * (target - z)
            for layer, head in heads:
                value = moved[layer, :, head]
                value = value[0] if last == 1 else value
                branches.append(Branch((HeadEdit(layer, head, "set", value=value),), f"{size} {layer} {head}"))
        options = {"metric": METRIC, "positions": positions, "check": 0, "read_mass": False}
        towards, away = interp.scan(llama, [one], branches, **options).drop.reshape(2, -1)
        slope = (towards - away) / (2 * step)
        np.testing.assert_allclose(found[i].ravel(), slope, atol=0.02 * np.abs(found[i]).max() + 1e-3)


def test_it_costs_three_passes_whatever_the_positions(llama):
    with counted(llama) as cost:
        estimate_removal(llama, PROMPTS, METRIC)
    assert cost.passes(llama, PROMPTS) == pytest.approx(3)


def test_the_first_heads_are_those_of_exact_effects():
    """Of effects with a screen that is off by little, whatever the order; and only what reaches is measured."""
    rng = np.random.default_rng(0)
    for top in (1, 5, 12):
        exact = rng.normal(size=(4, 5)) + 0.3 * rng.normal(size=(30, 4, 5))
        rough, asked = exact + 0.05 * rng.normal(size=(4, 5)), []

        def confirm(heads, number, exact=exact, asked=asked):
            asked.extend(heads)
            return exact[:, *np.array(heads).T]

        found = confirmed(rough, confirm, top, "bfloat16")
        first = [np.argsort(-effects.mean(0), axis=None)[:top].tolist() for effects in (exact, found.effects)]
        assert first[0] == first[1]
        assert sorted(asked) == found.heads and len(set(asked)) == len(asked) and top <= len(asked)
        np.testing.assert_allclose(found.effects[:, found.exact], exact[:, found.exact], rtol=1e-6)
        assert not reaching(found.effects, found.exact, top)
        assert 0 < found.off_by < 0.3
        record = found.record()
        assert len(record["exact"]) == len(asked) and f"{len(asked)} were measured exactly" in found.sentence()


def test_one_example_confirms_the_first_alone():
    effects = np.arange(6.0).reshape(1, 2, 3)
    assert reaching(effects, np.zeros((2, 3), bool), 2) == [(1, 1), (1, 2)]


def test_a_twin_in_bfloat16_has_the_weights_and_no_more(llama):
    twin = twin_in(llama, torch.bfloat16)
    assert twin.dtype == torch.bfloat16 and llama.dtype == torch.float32
    for (name, own), (_, other) in zip(llama.hf.named_parameters(), twin.hf.named_parameters(), strict=True):
        assert torch.equal(own.bfloat16(), other), name
    for (name, own), (_, other) in zip(llama.hf.named_buffers(), twin.hf.named_buffers(), strict=True):
        assert own.dtype == other.dtype, name
    apart = (llama.final_logits(PROMPTS) - twin.final_logits(PROMPTS).float()).abs().max()
    assert 0 < apart < 0.2
    with interp.ScaledHeads({}, factors={(0, 1): 0.0}).apply(llama), pytest.raises(ValueError, match="edits or hooks"):
        twin_in(llama, torch.bfloat16)


def test_what_is_no_screen_is_refused():
    with pytest.raises(ValueError, match="screen='half'; expected one of gradient, bfloat16, or None"):
        require_screen("half", 1, 4)
    for top in (0, 5, True, 1.5):
        with pytest.raises(ValueError, match="expected a number of heads from 1 to all 4"):
            require_screen("gradient", top, 4)

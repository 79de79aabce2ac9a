"""Prompts together give what each gives alone, for the cost of their distinct tokens, and are held to plain passes
once."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import torch

import interp
from interp.architecture import attached, input_of
from interp.interventions.values import Branch, HeadEdit, ResidualEdit
from interp.scans.fanout import fan_out_logits
from interp.scans.scan import scan_metrics
from interp.scans.together import Beginning
from tests.tiny import CONFIGS, VOCABULARY, WINDOW, tiny

SHARED = list(range(20, 20 + WINDOW + 4))  # longer than a window, and than what is worth sharing


def prompts(lengths: list[int], shared: list[int] = SHARED) -> list[interp.Prompt]:
    """They begin alike, and differ in their answers' tokens too."""
    generator, found = torch.Generator().manual_seed(3), []
    for i, n in enumerate(lengths):
        own = torch.randint(3, VOCABULARY, (n,), generator=generator).tolist()
        answers = {"No": [5 + i % 2], "Yes": [7 + i % 3]}
        found.append(interp.Prompt.from_token_ids([*shared, *own], answers=answers))
    return found


HEADS = interp.ablate_each_head("zero")


def batch(model, these: list[interp.Prompt], beginning: Beginning) -> np.ndarray:
    """A batch of a study that has checked before, and keeps what all its prompts begin with."""
    metric = interp.LogitDifference("No", "Yes")
    return scan_metrics(model, these, HEADS, [metric], "answer", "fan-out", check=0, beginning=beginning)[0].values


def alone(model, prompt, branches, m=1) -> np.ndarray:
    tokens = [prompt.answers["No"][0], prompt.answers["Yes"][0]]
    logits = fan_out_logits(model, prompt, branches, m, tokens)
    return (logits[:, 0] - logits[:, 1])[1:].numpy()


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("m", ["answer", 3])
def test_together_as_alone(name, m):
    """Of equal and of other lengths; windows, experts and learned positions; every prompt within rounding."""
    model = interp.load(tiny(name))
    these = prompts([6, 9, 6, 6, 12, 9])
    found = interp.scan(model, these, interp.ablate_each_head("zero"), positions=m, method="fan-out")
    branches = interp.ablate_each_head("zero").branches(model)
    for row, prompt in zip(found.values, these, strict=True):
        expected = alone(model, prompt, branches, 1 if m == "answer" else m)
        np.testing.assert_allclose(row, expected, atol=2e-5)
    assert np.abs(found.change).mean() > 1e-2


@pytest.fixture(scope="module")
def llama() -> interp.Model:
    return interp.load(tiny("llama"))


def test_each_is_patched_from_its_own_source(llama):
    these, sources = prompts([6, 6, 8, 8]), prompts([8, 7, 8, 6], shared=SHARED[::-1])
    found = interp.scan(llama, these, interp.patch_each_head(sources), positions=2, method="fan-out")
    for i, (prompt, source) in enumerate(zip(these, sources, strict=True)):
        one = interp.scan(llama, [prompt], interp.patch_each_head([source]), positions=2, method="loop")
        np.testing.assert_allclose(found.values[i], one.values[0], atol=2e-5)


def test_edits_of_a_stream_act_in_their_order_in_every_row(llama):
    """Sets, steering and removal in one scan: rows of several prompts share an edit."""
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, llama.d_model, generator=generator)
    branches = [
        Branch((ResidualEdit(1, u, "add", 2.0), ResidualEdit(1, v, "remove"), HeadEdit(2, 1)), "both"),
        Branch((ResidualEdit(1, v, "remove"), ResidualEdit(1, u, "add", 2.0)), "the other order"),
        Branch((HeadEdit(0, 0), HeadEdit(3, 2, "scale", 2.0)), "two heads"),
    ]
    these = prompts([6, 6, 6, 9])
    fast, slow = (interp.scan(llama, these, branches, method=how, check=0) for how in ("fan-out", "loop"))
    np.testing.assert_allclose(fast.values, slow.values, atol=2e-5)
    assert np.abs(fast.values[:, 0] - fast.values[:, 1]).min() > 1e-4


def tokens_through(model, layer: int, run) -> int:
    """Token-forwards at one layer."""
    seen = []
    with attached(model, [input_of(model.components.blocks[layer].module, lambda h: seen.append(h[..., 0].numel()))]):
        run()
    return sum(seen)


def test_a_data_set_costs_its_distinct_tokens_and_its_branches(llama):
    """Counted at every layer: what is shared once, the rest of each prompt, a row for each branch that joined below."""
    these = prompts([6] * 10 + [8] * 10)
    edits = interp.ablate_each_head("zero")
    interp.scan(llama, these, edits)  # checked
    for layer in range(llama.n_layers):
        found = tokens_through(llama, layer, partial(interp.scan, llama, these, edits, check=0))
        distinct = len(SHARED) + sum(len(p) - len(SHARED) - 1 for p in these)
        assert found == distinct + len(these) * (1 + llama.n_heads * layer)


def test_what_was_checked_is_not_checked_again_until_something_is_another(llama):
    these, edits = prompts([6, 8, 9, 14]), interp.ablate_each_head("zero")
    model = interp.load(tiny("llama"))
    first = interp.scan(model, these, edits, read_mass=False)
    again = interp.scan(model, these[1:3], edits, read_mass=False)
    assert "in an earlier scan" not in first.check and "in an earlier scan" in again.check

    def checks(**other) -> bool:
        given = {"prompts": these, "edits": edits} | other
        return "in an earlier scan" not in interp.scan(model, **given, read_mass=False).check

    assert checks(prompts=prompts([30])) and checks(edits=interp.ablate_each_head("mean_of_others"))
    assert checks(positions=2) and not checks() and checks(check=5)
    with torch.no_grad():
        model.hf.model.layers[0].mlp.down_proj.weight.mul_(1.01)
    assert checks() and not checks()
    handle = model.hf.model.layers[1].register_forward_hook(lambda module, args, output: None)
    assert checks()
    handle.remove()


def mix_rows(monkeypatch) -> None:
    """Each prompt of a group gets something of another."""
    module = sys.modules["interp.scans.both_ways"]
    real = module.fan_out_together

    def mixed(*given):
        logits = real(*given)
        return logits + logits.roll(1, 0)

    monkeypatch.setattr(module, "fan_out_together", mixed)


def test_prompts_that_do_not_go_together_are_scanned_apart(llama, monkeypatch):
    """A model whose rows mix: said once, and right."""
    mix_rows(monkeypatch)
    these, edits = prompts([7, 7, 7]), interp.ablate_each_head("zero")
    model = interp.load(tiny("llama"))
    with pytest.warns(UserWarning, match="one at a time, not together"):
        found = interp.scan(model, these, edits)
    assert found.how == "fan-out"
    with pytest.warns(UserWarning, match="one at a time, not together"):  # in a study, whose batches are not checked
        batch = interp.scan(other := interp.load(tiny("llama")), these, edits, check=0)
    np.testing.assert_allclose(batch.values, found.values, atol=2e-5)
    np.testing.assert_array_equal(interp.scan(other, these, edits, check=0).values, batch.values)
    np.testing.assert_allclose(found.values, interp.scan(model, these, edits, method="loop").values, atol=2e-5)


def test_what_a_study_keeps_of_the_beginning_is_dropped_where_prompts_go_apart(monkeypatch):
    """Later batches are handed the same beginning: they are run whole too, once the model was seen to mix rows."""
    model, these = interp.load(tiny("llama")), prompts([7, 7, 9])
    beginning = Beginning(model, these)
    assert beginning.prefix_of(these[2], 1) is not None
    with monkeypatch.context() as patched, pytest.warns(UserWarning, match="one at a time, not together"):
        mix_rows(patched)
        batch(model, these[:2], beginning)
    assert beginning.prefix_of(these[2], 1) is None
    found = batch(model, these[2:], beginning)
    np.testing.assert_allclose(found, interp.scan(model, these[2:], HEADS, method="loop").values, atol=2e-5)


def test_a_beginning_is_no_other_prompts_beginning(llama):
    """Prompts that it was not made for are right, alone and together."""
    beginning, others = Beginning(llama, prompts([6, 9])), prompts([6, 6, 9], shared=SHARED[::-1])
    assert beginning.n_shared and beginning.prefix_of(others[0], 1) is None
    slow = interp.scan(llama, others, HEADS, method="loop").values
    np.testing.assert_allclose(batch(llama, others, beginning), slow, atol=2e-5)


def test_a_beginning_needs_room(llama):
    """Prompts that are one another's beginning, that are edited within what they share, or of one token more."""
    these = [interp.Prompt.from_token_ids(SHARED[:n], answers={"No": [5], "Yes": [7]}) for n in (9, 10, 16)]
    for m in (1, 4, 9):
        fast, slow = (
            interp.scan(llama, these, interp.ablate_each_head("zero"), positions=m, method=how, check=0)
            for how in ("fan-out", "loop")
        )
        np.testing.assert_allclose(fast.values, slow.values, atol=2e-5)

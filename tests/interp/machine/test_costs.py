"""The cost that is predicted is the cost that is counted: token-forwards through the layers of a tiny model."""

from __future__ import annotations

import pytest

import interp
from interp.locating import counting
from interp.machine import ModelShape, check_passes
from tests.tiny import tiny

N_LAYERS, N_HEADS, N_TOKENS = 4, 4, 30


def prompt(n: int = N_TOKENS, first: int = 5) -> interp.Prompt:
    ids = [first, *(7 + i % 60 for i in range(n - 1))]
    return interp.Prompt.from_token_ids(ids, answers={"a": [7], "b": [8]})


@pytest.fixture
def model() -> interp.Model:
    """One that nothing has been measured of."""
    return interp.load(tiny("llama", num_hidden_layers=N_LAYERS))


def passes(model: interp.Model, prompts: list[interp.Prompt], **options: object) -> float:
    """Of the mean prompt, all together."""
    edits = options.pop("edits", None) or interp.ablate_each_head("zero")
    with counting.counted(model) as cost:
        interp.scan(model, prompts, edits, **options)
    return cost.passes(model, prompts) * len(prompts)


@pytest.mark.parametrize("last", [1, 10, None], ids=["answer", "last 10", "all"])
def test_a_scan_costs_what_is_predicted(model, last):
    """Exactly, of what heads give: zero, and another prompt's output (a pass more). Its checks, once a call, too."""
    shape, one = ModelShape.of(model), prompt()
    positions = {1: "answer", None: "all"}.get(last, last)
    interp.scan(model, [one], interp.ablate_each_head("zero"))  # what is measured once a model
    expected = shape.scan_passes(N_TOKENS, last)
    assert passes(model, [one], positions=positions, check=0) == pytest.approx(expected)
    patch = interp.patch_each_head([prompt(first=6)])
    assert passes(model, [one], edits=patch, positions=positions, check=0) == pytest.approx(expected + 1)
    once = check_passes(shape, N_TOKENS, n_checked=1, n_mass=1, is_first=False)
    assert passes(model, [one], positions=positions) <= expected + once + 1e-6


def test_checks_are_paid_once_a_call(model):
    """Of many prompts three are checked and eight asked for the answers' mass; the rest is the scan's own."""
    shape, prompts = ModelShape.of(model), [prompt(N_TOKENS, 5 + i) for i in range(12)]
    interp.scan(model, prompts, interp.ablate_each_head("zero"))
    found = passes(model, prompts)
    own = len(prompts) * shape.scan_passes(N_TOKENS)
    assert own <= found <= own + check_passes(shape, N_TOKENS, is_first=False) + 1e-6

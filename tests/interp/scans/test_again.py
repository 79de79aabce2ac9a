"""A prompt asked again: the numbers of a scan, at the cost of the last positions, and never those of another model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.edits.head_scales import ScaledHeads
from interp.scans import AskedAgain, span_length
from tests.tiny import WINDOW, prompt, tiny

METRICS = (interp.Probability("No"), interp.Probability("Yes"))
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}
EDITS = (interp.HeadEdit(1, 2, "scale", 0.0), interp.HeadEdit(3, 0, "scale", 1.5))


def by_scan(model, asked, edits, positions="answer"):
    """The slow way: a plain pass for each edit."""
    branch = [interp.Branch(tuple(edits), "these")]
    return [
        interp.scan(model, [asked], branch, metric=m, positions=positions, method="loop", check=0).values.item()
        for m in METRICS
    ]


@pytest.mark.parametrize("positions", ["answer", 4, "all"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "dynamic"])
def test_answers_are_those_of_plain_passes(name, positions):
    changes = DYNAMIC | {"max_position_embeddings": 16} if name == "dynamic" else {}
    model = interp.load(tiny("llama" if changes else name, **changes))
    asking, prompts = AskedAgain(model), [prompt(WINDOW + 9), prompt(7, seed=1)]
    for asked in (prompts[0], prompts[1], prompts[0]):  # a shorter one between
        m = span_length(asked, positions)
        for edits in (EDITS, EDITS[:1], ()):
            found = asking.values(asked, m, edits, METRICS)
            np.testing.assert_allclose(found, by_scan(model, asked, edits, positions), atol=2e-6)


def test_the_prompt_is_read_once(llama):
    asking, asked, widths = AskedAgain(llama), prompt(20), []
    hook = llama.hf.model.embed_tokens.register_forward_hook(lambda _, given, out: widths.append(given[0].shape[1]))
    try:
        for factor in (0.0, 0.3, 0.9):
            asking.values(asked, 1, [interp.HeadEdit(2, 1, "scale", factor)], METRICS)
    finally:
        hook.remove()
    assert widths[-4:] == [20, 1, 1, 1]  # before it at most the probe of whether the model looks ahead


def written(model):
    with torch.no_grad():
        model.hf.model.layers[0].self_attn.v_proj.weight.mul_(0.5)


def written_through_data(model):
    model.hf.model.layers[0].self_attn.v_proj.weight.data[:, 3] += 0.5


def exchanged(model):
    layer = model.hf.model.layers[0].self_attn.v_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 0.5)


def hooked(model):
    model.hf.model.layers[0].mlp.register_forward_hook(lambda _, given, out: out * 0.5)


def replaced(model):
    layer = model.hf.model.layers[1].mlp
    own = layer.forward
    layer.forward = lambda hidden: own(hidden) * 0.5


def applied(model):
    opened = ScaledHeads(model={}, factors={(0, 1): 0.2, (1, 3): 2.0}).apply(model)
    opened.__enter__()
    model.hf.opened = opened  # else it is closed where nobody holds it


@pytest.mark.parametrize("change", [written, written_through_data, exchanged, hooked, replaced, applied])
def test_a_model_that_was_changed_meanwhile_answers_as_it_is_now(change):
    model = interp.load(tiny("llama"))
    asking, asked = AskedAgain(model), prompt(15)
    before = asking.values(asked, 1, EDITS, METRICS)
    change(model)
    found = asking.values(asked, 1, EDITS, METRICS)
    np.testing.assert_allclose(found, by_scan(model, asked, EDITS), atol=2e-6)
    assert max(abs(a - b) for a, b in zip(found, before, strict=True)) > 1e-5

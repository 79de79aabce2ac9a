"""A few models of the sweep (tests/benchmarks/sweep.py), one for each path through the code, held to plain hooks."""

from __future__ import annotations

import pytest

import interp
from tests.benchmarks.sweep import Outcome, sweep, table
from tests.benchmarks.sweep_models import models

# Attention through the interface or not, one projection for queries, keys and values, windows, caps, sinks, norms after
# attention, latent attention, a mixture of experts, no final norm, adapters mended here.
MODELS = ("DeepseekV3", "Falcon-new", "Gemma2", "GPT2", "GptOss", "Mpt", "NanoChat", "OpenAIGPT", "Qwen3Moe")
REFUSED = {
    "Jamba": "layer 0 has no attention with an output projection",
    "Gemma4": "Layers with a number or a size of heads of their own",
    "GPTBigCode-multihead": "GPTBigCodeArchitectureAdapter can't wrap this GPTBigCodeForCausalLM",
}


@pytest.mark.parametrize("name", MODELS)
def test_every_measure_is_right_or_refused(name):
    found = sweep(models()[name])
    bad = [outcome for outcome in found if outcome.how not in ("right", "refused")]
    assert not bad
    assert sum(outcome.how == "right" for outcome in found) >= 11


@pytest.mark.parametrize("name", REFUSED)
def test_what_cant_be_scanned_is_refused_at_load_in_a_sentence(name):
    (outcome,) = sweep(models()[name])
    assert outcome.how == "refused" and REFUSED[name] in outcome.note


def test_a_wrong_number_and_a_crash_are_called_so(monkeypatch):
    """The sweep itself: it must see what it is there to see."""
    right = interp.reading.residual.residual_states
    monkeypatch.setattr("tests.benchmarks.sweep.residual_states", lambda *a: right(*a) + 0.01)
    monkeypatch.setattr("tests.benchmarks.sweep.attention_log_probs", lambda *a: {}["gone"])
    found = {o.measure: o for o in sweep(models()["Llama"]) if o.how != "right"}
    assert {measure: o.how for measure, o in found.items()} == {"states": "WRONG", "attention": "CRASH"}
    assert found["states"].error > 1e-4 and "KeyError: 'gone'" in found["attention"].note


def test_the_page_counts():
    rows = [Outcome("load", "load", "right"), Outcome("fold", "add", "refused", note="because | of this")]
    page = table({"Llama": rows, "Other": [Outcome("load", "load", "CRASH", note="KeyError: 1")]}, {"Third": "no timm"})
    assert "2 models" in page and "1 right, 1 refused, 0 WRONG, 1 CRASH" in page
    assert "1. because \\| of this" in page and "- Third: no timm" in page and "- Other, load, load: CRASH" in page

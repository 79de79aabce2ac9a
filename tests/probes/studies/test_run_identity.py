"""Every study is another run where something else computes: adapters, edits, hooks, what the template writes."""

from __future__ import annotations

import itertools

import numpy as np
import peft
import pytest
import torch

import interp
from interp.records.folder_lock import OtherRunError
from probes.harmfulness.directions.directions import fit_directions
from probes.negative_bias import (
    knowledge,
    measures as bias_report,
    nas as negative_attention,
    scenario_study as scenarios,
)
from probes.negative_bias.nas import rank_heads
from probes.questions.questions import Question
from probes.requests.behaviour import observe
from probes.requests.requests import Request
from tests.tiny import CHATML, tiny, tiny_tokenizer

QUESTIONS = [
    Question(
        f"q{i}",
        f"Is the {noun} cold?",
        "Yes" if i % 2 else "No",
        open_question=f"How cold is the {noun}?",
        open_answer="very",
    )
    for i, noun in enumerate(("lamp", "river", "stone", "glove"))
]
REQUESTS = [Request(f"r{i}", f"How do I {verb} a door.", "harmless") for i, verb in enumerate(("paint", "hang", "oil"))]


def tuned() -> tuple[peft.PeftModel, interp.Model]:
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(tiny("llama", vocab_size=400, max_position_embeddings=512), config, adapter_name="a")
    wrapped.add_adapter("b", config)
    wrapped.set_adapter("a")
    return wrapped, interp.load(wrapped, tokenizer=tiny_tokenizer())


@pytest.fixture
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=512), tokenizer=tiny_tokenizer())


STUDIES = {
    "rank": lambda model, **where: rank_heads(model, QUESTIONS, n_views=0, **where),
    "measure": lambda model, **where: bias_report.measure(model, QUESTIONS, generate_tokens=0, **where),
    "knowledge": lambda model, **where: knowledge.sort_by_knowledge(
        model, QUESTIONS, n_samples=1, max_new_tokens=2, **where
    ),
    "behaviour": lambda model, **where: observe(model, REQUESTS, max_new_tokens=2, **where),
    "scenarios": lambda model, **where: scenarios.scenarios(model, QUESTIONS, which=("plain",), **where),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_another_run_under_another_adapter_or_an_edit(tmp_path, name):
    wrapped, model = tuned()
    study = STUDIES[name]
    first = study(model, out=tmp_path)
    again = study(model, out=tmp_path, resume=True)
    assert again.provenance["run_id"] == first.provenance["run_id"]
    with interp.ScaledHeads(interp.describe_model(model), factors={(1, 2): 0.0}).apply(model):
        edited = study(model)
        with pytest.raises(OtherRunError, match="the edits that are applied"):
            study(model, out=tmp_path, resume=True)
    wrapped.set_adapter("b")
    switched = study(model)
    with pytest.raises(OtherRunError, match="the active adapters"):
        study(model, out=tmp_path, resume=True)
    ids = [found.provenance["run_id"] for found in (first, edited, switched)]
    assert len(set(ids)) == 3
    assert any("adapter 'b'" in said for said in switched.provenance["caveats"])
    assert any("edit was applied" in said for said in edited.provenance["caveats"])


@pytest.mark.filterwarnings("ignore")
def test_unfinished_work_of_another_adapter_is_not_gone_on_with(tmp_path, monkeypatch):
    wrapped, model = tuned()
    score = negative_attention._score_and_masked
    calls = itertools.count()

    def killed(*given):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return score(*given)

    monkeypatch.setattr(negative_attention, "_score_and_masked", killed)
    with pytest.raises(KeyboardInterrupt):
        rank_heads(model, QUESTIONS, n_views=0, batch_size=1, out=tmp_path)
    monkeypatch.undo()
    wrapped.set_adapter("b")
    with pytest.raises(OtherRunError, match="adapters"):
        rank_heads(model, QUESTIONS, n_views=0, batch_size=1, out=tmp_path, resume=True)
    wrapped.set_adapter("a")
    resumed = rank_heads(model, QUESTIONS, n_views=0, batch_size=1, out=tmp_path, resume=True)
    np.testing.assert_allclose(
        resumed.measures["nas"], rank_heads(model, QUESTIONS, n_views=0).measures["nas"], atol=1e-4
    )


@pytest.mark.filterwarnings("ignore")
def test_a_template_that_writes_a_date_makes_another_run(tmp_path, monkeypatch):
    import transformers.utils.chat_template_utils as utils

    class Clock(utils.datetime):
        now_is = "01 02 2026"

        @classmethod
        def now(cls, tz=None):
            return cls.strptime(cls.now_is, "%d %m %Y")

    def loaded() -> interp.Model:  # a model writes one date as long as it lives
        tokenizer = tiny_tokenizer("{{ strftime_now('%d %m %Y') }}" + CHATML)
        return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=512), tokenizer=tokenizer)

    monkeypatch.setattr(utils, "datetime", Clock)
    first = rank_heads(loaded(), QUESTIONS, n_views=0, out=tmp_path)
    assert rank_heads(loaded(), QUESTIONS, n_views=0).provenance["run_id"] == first.provenance["run_id"]
    Clock.now_is = "03 02 2026"
    assert rank_heads(loaded(), QUESTIONS, n_views=0).provenance["run_id"] != first.provenance["run_id"]
    with pytest.raises(OtherRunError, match="does the template write a date"):
        rank_heads(loaded(), QUESTIONS, n_views=0, out=tmp_path, resume=True)


@pytest.mark.filterwarnings("ignore")
def test_a_fingerprint_that_differs_by_rounding_is_the_same_run(tmp_path, model, monkeypatch):
    from interp.passes import identity

    first = rank_heads(model, QUESTIONS, n_views=0, out=tmp_path)
    own = identity.fingerprint
    grid = identity._GRID
    off = grid / 2 - own(model)[0] % grid + 2e-5  # to the other side of what the key is rounded to
    values = own(model)
    moved = [values[0] + 5e-5 * np.sign(off), *values[1:]]
    monkeypatch.setattr(identity, "fingerprint", lambda model: moved)
    assert (
        rank_heads(model, QUESTIONS, n_views=0, out=tmp_path, resume=True).provenance["run_id"]
        == (first.provenance["run_id"])
    )
    small = [values[0] + 3e-4, *values[1:]]  # the key may round alike; another computation all the same
    monkeypatch.setattr(identity, "fingerprint", lambda model: small)
    with pytest.raises(OtherRunError, match="the logits of a few check prompts"):
        rank_heads(model, QUESTIONS, n_views=0, out=tmp_path, resume=True)


def test_directions_are_of_the_adapter_they_were_fitted_with():
    wrapped, model = tuned()
    verbs = ("open", "close", "lift", "push", "pull", "turn", "lock", "clean", "sand", "oil")
    positive, negative = (
        [Request(f"{kind}-{v}", f"Tell me {how} to {v} it.", kind) for v in verbs]
        for kind, how in (("harmful", "now"), ("harmless", "how"))
    )
    found = fit_directions(model, positive, negative)
    found.refusal.require_fits(model)
    wrapped.set_adapter("b")
    with pytest.raises(ValueError, match="adapter 'a' then, adapter 'b' now"):
        found.refusal.require_fits(model)
    assert fit_directions(model, positive, negative).provenance["run_id"] != found.provenance["run_id"]

"""A guard carries its own test on other requests, and says what it comes to wherever it says anything."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone

import interp
from probes.latent_guard import GuardWarning, HeldOutTest, LatentGuard, load_guard
from probes.latent_guard.held_out import held_out_test, verdict_of
from tests.probes.latent_guard.test_latent_guard import FIT, TEST, VALIDATION
from tests.tiny import tiny, tiny_tokenizer

FAILED = HeldOutTest(0.47, 0.06, 0.83, 12, 12, "")
PASSED = HeldOutTest(0.93, 0.85, 0.99, 12, 12, "")


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture
def guard(model) -> LatentGuard:
    return LatentGuard(model, "calibrated").fit(FIT)


def said(judge, times: int = 1) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("always", GuardWarning, append=True)  # as the package has it
        for _ in range(times):
            judge([TEST[0].text])
    assert all(w.category is GuardWarning and w.filename == __file__ for w in caught)
    return [str(w.message) for w in caught]


def test_the_auroc_is_that_of_the_decisions():
    decisions = np.array([1.0 if r.is_harmful else -1.0 for r in VALIDATION])
    found = held_out_test(decisions, VALIDATION)
    assert (found.auroc, found.high, found.n_harmful, found.n_harmless) == (1, 1, 10, 10)
    assert 0.6 < found.low < 0.95  # ten of each without an error are no certainty
    assert not found.holds_chance and held_out_test(-decisions, VALIDATION).auroc == 0
    assert held_out_test(0 * decisions, VALIDATION).holds_chance


def test_the_sentence_says_what_the_interval_says():
    assert "never tested" in verdict_of(None) and "guard.test(requests)" in verdict_of(None)
    assert "not shown to tell" in verdict_of(FAILED) and "0.47 [0.06, 0.83], which holds chance" in verdict_of(FAILED)
    assert "12 harmful and 12 harmless requests" in verdict_of(FAILED)
    assert verdict_of(PASSED).startswith("This guard tells harmful from harmless requests: AUROC 0.93 [0.85, 0.99]")
    assert "the wrong way round" in verdict_of(replace(FAILED, auroc=0.1, low=0.0, high=0.3))


def test_every_call_of_a_guard_that_failed_its_test_warns(guard):
    guard.tested_ = FAILED
    for judge in (guard.predict, guard.decision_function):
        assert said(judge, times=3) == [verdict_of(FAILED)] * 3
    guard.tested_ = PASSED
    assert said(guard.predict) == said(guard.decision_function) == []


def test_a_guard_without_a_test_says_so(guard):
    assert said(guard.predict) == [verdict_of(None)]
    assert repr(guard).startswith(f"LatentGuard: {verdict_of(None)}")
    assert repr(clone(guard)).startswith("LatentGuard: not fitted.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuardWarning)
        guard.score(TEST)  # is a test itself
        guard.decision_states(guard.read(TEST))


def test_the_test_is_made_kept_and_forgotten(guard, model, tmp_path):
    found = guard.test(VALIDATION)
    assert guard.tested_ == found and (found.n_harmful, found.n_harmless) == (10, 10)
    assert guard.test([r.text for r in VALIDATION], [r.is_harmful for r in VALIDATION]).auroc == found.auroc
    guard.tested_, sha256 = FAILED, guard.sha256
    loaded = load_guard(guard.save(tmp_path), model)
    assert loaded.tested_ == FAILED and loaded.sha256 == sha256  # what decides is the same
    assert repr(loaded).startswith(f"LatentGuard: {verdict_of(FAILED)}")
    assert f"<b>{verdict_of(FAILED)}</b>" in loaded._repr_mimebundle_()["text/html"]
    assert guard.fit(FIT).tested_ is None  # of another fit
    with pytest.raises(ValueError, match=r"fitted on too"):
        guard.test(FIT)
    with pytest.raises(ValueError, match="8 harmful requests to test on; expected at least 10"):
        guard.test(TEST)


def test_the_file_has_no_texts_and_still_knows_them(guard, model, tmp_path):
    guard.save(tmp_path)
    assert "of my neighbour" not in (tmp_path / "guard.json").read_text()
    loaded = load_guard(tmp_path, model)
    with pytest.raises(ValueError, match="fitted on too"):
        loaded.score([replace(r, id=f"new-{r.id}", pair="", text=r.text.upper()) for r in FIT])

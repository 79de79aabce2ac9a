"""A guard as the condition of a steering: the same decisions, a threshold by a stated rule, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import interp
from interp.edits import Direction, add_direction
from probes.latent_guard.classifier import LatentGuard
from probes.latent_guard.conditional import ConditionWarning, _threshold, conditional_steering
from probes.requests import build_request_prompts
from tests.probes.latent_guard.test_latent_guard import FIT, TEST, VALIDATION
from tests.tiny import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def steering(model):
    vectors = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    return add_direction(Direction(vectors, interp.describe_model(model), {}), 1.0, [4])


@pytest.mark.parametrize(("rule", "position"), [("paper", "t_inst"), ("best_layer", "t_post"), ("probe", "t_inst")])
def test_the_condition_decides_as_the_guard_does(model, steering, rule, position):
    guard = LatentGuard(model, rule, position).fit(FIT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a guard of a random model: whether it is any good is not asked here
        edit = conditional_steering(guard, steering, VALIDATION)
        expected = guard.decision_function(TEST)
    found = edit.condition.readings(model, build_request_prompts(model, guard.prepared(TEST)))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert "of 10 harmful requests, " in edit.summary() and edit.about == {}
    assert edit.origins()["guard (condition)"] == guard.sha256


def test_layers_and_a_threshold_of_its_own(model, steering):
    guard = LatentGuard(model, "paper").fit(FIT)
    edit = conditional_steering(guard, steering, VALIDATION, layers=[1, 2], most_harmless=0.2)
    assert edit.condition.layers == [1, 2]
    prompts = build_request_prompts(model, guard.prepared(VALIDATION))
    held, kinds = edit.condition.holds(model, prompts), np.array([r.is_harmful for r in VALIDATION])
    assert held[~kinds].sum() == 2
    scores = guard.layer_scores(guard.read(VALIDATION))[:, [1, 2]].mean(1)
    assert scores[held].min() > scores[~held].max()


def test_a_threshold_lets_no_more_harmless_requests_pass_than_asked():
    scores, kinds = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9]), np.array([False, False, True, False, True, False])
    for share, n in ((0.0, 0), (0.25, 1), (0.5, 2), (0.74, 2)):
        assert (scores >= _threshold(scores, kinds, share))[~kinds].sum() == n


def test_what_never_or_always_fires_is_said_with_the_share(model, steering):
    guard = LatentGuard(model, "paper").fit(FIT)
    guard.threshold_ = 5.0
    with pytest.warns(ConditionWarning, match=r"holds for 0% of 20 validation requests .* never steers"):
        edit = conditional_steering(guard, steering, VALIDATION)
    assert "(on validation: 0% of 10 harmful requests, " in edit.summary()
    guard.threshold_ = -5.0
    with pytest.warns(ConditionWarning, match=r"100% of 20 .* always steers"):
        conditional_steering(guard, steering, VALIDATION)


def test_what_does_not_go_together_is_refused(model, steering):
    guard = LatentGuard(model, "paper").fit(FIT)
    early = add_direction(Direction(torch.ones(5, 32), interp.describe_model(model), {}), 1.0, [2])
    with pytest.raises(ValueError, match="begins at layer 2, and the condition is read up to layer 4"):
        conditional_steering(guard, early, VALIDATION)
    with pytest.raises(ValueError, match="were fitted on too"):
        conditional_steering(guard, steering, FIT)
    with pytest.raises(ValueError, match="from 0 to 4"):
        conditional_steering(guard, steering, VALIDATION, layers=9)
    with pytest.raises(ValueError, match=r"most_harmless=1\.5; expected a share"):
        conditional_steering(guard, steering, VALIDATION, most_harmless=1.5)
    other = interp.load(tiny("llama", seed=3, vocab_size=400))
    theirs = add_direction(Direction(torch.ones(5, 32), interp.describe_model(other), {}), 1.0, [4])
    with pytest.raises(ValueError, match="Fit both on one model"):
        conditional_steering(guard, theirs, VALIDATION)

"""Scores of rankings, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from interp.locating import locate
from probes.known_answers import load_known
from probes.known_answers.scoring import auroc, mean_interval, precision

TRUTH = np.array([True, True, False, False])


def test_auroc_counts_pairs_and_half_of_ties():
    assert auroc(np.array([4.0, 3, 2, 1]), TRUTH) == 1
    assert auroc(np.array([4.0, 1, 3, 2]), TRUTH) == 0.5
    assert auroc(np.array([4.0, 0, 0, 0]), TRUTH) == 0.75
    assert auroc(np.array([4.0, 0.02, 0.01, 0]), TRUTH) == 0.75  # below a hundredth of the largest: no order
    assert np.isnan(auroc(np.ones(4), np.zeros(4, bool)))


def test_precision_shares_out_ties():
    assert precision(np.array([4.0, 3, 2, 1]), TRUTH) == 1
    assert precision(np.array([1.0, 3, 2, 4]), TRUTH) == 0.5
    assert precision(np.array([4.0, 0, 0, 0]), TRUTH) == pytest.approx((1 + 1 / 3) / 2)


def test_intervals_are_over_models_and_draws():
    mean, low, high = mean_interval([[1.0, 1.0], [0.5, 0.7]])
    assert mean == pytest.approx(0.8) and low < 0.62 and high == 1


def test_auto_finds_the_heads_and_zero_at_the_answer_does_not():
    """The reason for the suite, on one program: the table has the others."""
    known = load_known("two_hops")
    pairs = known.pairs(8)
    found = locate(known.model, pairs, check=0)
    assert auroc(found.scores.mean(0).ravel(), known.truth.ravel()) == 1
    missed = locate(known.model, pairs, "zero", positions="answer", check=0)
    assert auroc(missed.scores.mean(0).ravel(), known.truth.ravel()) < 0.9
    scan = locate(known.model, pairs, "resample", check=0)
    assert found.provenance["passes"] <= 3.3 * scan.provenance["passes"]


@pytest.mark.parametrize("chosen", [{"constant": "third"}, {"silent": "smallest"}])
def test_auto_finds_a_head_that_no_drawn_prompt_exercises(chosen):
    """The worst cell of one resample alone: a head's value is another, and the answer the same."""
    known = load_known("not_smallest")
    pairs = known.pairs(20, seed=1, **chosen)
    found = locate(known.model, pairs, check=0, seed=1)
    assert auroc(found.scores.mean(0).ravel(), known.truth.ravel()) == 1

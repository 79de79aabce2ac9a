"""What `auto` is held to: every head that matters before nearly every other, whatever was done to model and pairs.

A few models here; HEADSCOPE_KNOWN_ANSWERS=all tries all of them (a quarter of an hour).
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from interp.locating import locate
from probes.known_answers import known_models, load_known
from probes.known_answers.scoring import auroc
from tests.benchmarks.known_answers import CONDITIONS, N_PAIRS, under

FEW = ("not_smallest", "just_one", "comparison-gpt2-1", "other_name-qwen2-2")
TRIED = known_models() if os.environ.get("HEADSCOPE_KNOWN_ANSWERS") == "all" else FEW


@pytest.mark.parametrize("name", TRIED)
def test_auto_finds_the_heads_under_every_condition(name):
    base, found = load_known(name), {}
    for condition in CONDITIONS:
        if (case := under(base, condition)) is None:
            continue
        known, chosen = case
        ranking = locate(known.model, known.pairs(N_PAIRS, **chosen), check=0, warn=False)
        counts = known.counts.ravel()
        found[condition] = auroc(ranking.scores.mean(0).ravel()[counts], known.truth.ravel()[counts])
        scan = 1 + known.truth.size * (known.model.n_layers + 1) / (2 * known.model.n_layers)
        assert ranking.provenance["passes"] <= 3 * scan
    print(name, {condition: round(value, 3) for condition, value in found.items()})
    assert min(found.values()) >= 0.85 and np.mean(list(found.values())) >= 0.95, found

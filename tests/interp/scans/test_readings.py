"""Several metrics read from one scan are those of several scans."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.interventions.values import ablate_each_head
from interp.reading.metrics import LogitDifference, Probability
from interp.scans.readings import IsMostProbable, scan_readings
from tests.tiny import prompt, tiny

METRICS = [Probability("gold"), LogitDifference("Yes", "No")]


@pytest.mark.parametrize("method", ["fan-out", "loop"])
@pytest.mark.parametrize("positions", ["answer", "all"])
def test_each_reading_is_that_of_a_scan_of_its_own(llama, method, positions):
    prompts = [prompt(20), prompt(31, seed=1)]
    branches = ablate_each_head("mean_of_others").branches(llama)
    read = scan_readings(llama, prompts, branches, METRICS, positions=positions, method=method)
    for metric, result in zip(METRICS, read, strict=True):
        alone = interp.scan(llama, prompts, branches, metric=metric, positions=positions, method=method)
        np.testing.assert_allclose(result.values, alone.values, atol=1e-5)
        np.testing.assert_allclose(result.clean, alone.clean, atol=1e-5)
        assert (result.metric, result.unit) == (str(metric), metric.unit) and result.labels == alone.labels
        assert result.how == method and result.example_ids == alone.example_ids


def test_chunks_of_memory_do_not_matter(llama):
    prompts = [prompt(20), prompt(31, seed=1)]
    branches = ablate_each_head("zero").branches(llama)
    whole, pieces = (scan_readings(llama, prompts, branches, METRICS, memory_mib=m) for m in (1024.0, 0.05))
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(a.values, b.values, atol=1e-5)


def test_logits_alone_need_no_vocabulary(llama):
    branches = ablate_each_head("zero").branches(llama)[:3]
    both = [LogitDifference("Yes", "No"), LogitDifference("No", "Yes")]
    first, second = scan_readings(llama, [prompt(20)], branches, both)
    np.testing.assert_allclose(first.values, -second.values, atol=1e-6)
    assert "largest difference from plain passes" in first.check


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_most_probable_token_by_hand(dtype):
    model = interp.load(tiny("llama", dtype=dtype))
    for seed in range(4):
        p = prompt(15, seed=seed)
        top = int(model.final_logits([p])[0].argmax())
        for tokens, expected in (([top, 4], 1.0), ([t for t in (5, 6) if t != top], 0.0)):
            asked = interp.Prompt.from_token_ids(p.token_ids, answers={"Yes": tokens}, gold="Yes", id="x")
            (read,) = scan_readings(
                model, [asked], ablate_each_head("zero").branches(model)[:1], [IsMostProbable.of(model)], method="loop"
            )
            assert read.clean[0] == expected and read.values[0, 0] in (0.0, 1.0)
    assert str(IsMostProbable.of(model)) == "gold is most probable"


def test_what_is_refused(llama):
    with pytest.raises(ValueError, match="no metrics were given"):
        scan_readings(llama, [prompt(20)], ablate_each_head().branches(llama), [])
    with pytest.raises(KeyError, match="has no answer 'Maybe'"):
        scan_readings(llama, [prompt(20)], ablate_each_head().branches(llama), [Probability("Maybe")])
    with pytest.raises(ValueError, match="no prompts were given"):
        scan_readings(llama, [], ablate_each_head().branches(llama), METRICS)

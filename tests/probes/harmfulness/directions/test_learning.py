"""Directions from whole pairs: what twins share falls away, and every pair is judged by what others fitted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.harmfulness.directions.learning import BEHAVIOUR, DIRECTION, PAIRS, held_out_scores, learning_curve
from probes.requests.requests import Request, whole_pairs
from probes.requests.states import RequestStates, difference_of_means

N, D, LAYERS = 40, 16, 5


def twins(n: int = N) -> list[Request]:
    return [
        Request(f"{kind}-{i}", f"Tell me how to {verb} thing {i}.", kind, pair=str(i))
        for i in range(n)
        for kind, verb in (("harmful", "break"), ("harmless", "mend"))
    ]


def planted(asked: list[Request], topic: float = 8.0, at: int = 3) -> RequestStates:
    """Twins share a topic, far larger than what parts them, which is along axis 0 of one layer."""
    rng = torch.Generator().manual_seed(0)
    shared = {p: topic * torch.randn(D, generator=rng) for p in dict.fromkeys(r.pair for r in asked)}
    x = torch.randn(len(asked), LAYERS, D, generator=rng) + torch.stack([shared[r.pair] for r in asked])[:, None]
    x[:, at, 0] += torch.tensor([3.0 if r.is_harmful else 0.0 for r in asked])
    x[:, 0] = 1.0
    return RequestStates(tuple(asked), x, x.clone(), np.ones(len(asked), dtype=bool), x[:, 1].clone())


def test_whole_pairs_are_those_with_both_halves():
    asked = twins(3)
    odd = [Request("x", "Break it.", "harmful", pair="9"), Request("y", "Mend it.", "harmless"), *asked[:5]]
    assert [r.id for r in whole_pairs(odd)] == [r.id for r in asked[:4]]
    three = [*asked[:2], Request("z", "Break it twice.", "harmful", pair="0")]
    assert whole_pairs(three) == []


def test_over_whole_pairs_it_is_the_mean_of_paired_differences():
    states, positive = planted(twins()), np.arange(2 * N) % 2 == 0
    paired = (states.t_inst[positive].double() - states.t_inst[~positive].double()).mean(0)
    torch.testing.assert_close(difference_of_means(states.t_inst, positive), paired)


def test_held_out_pairs_are_told_apart_at_the_planted_layer():
    table, scores = held_out_scores(planted(twins()))
    rows = table.set_index("score")
    own = rows.loc[DIRECTION]
    assert own["within_pairs"] > 0.8 and own["n_pairs"] == N and own["n_fitted"] == round(2 * N * 0.8)
    assert set(own["layers"].split(", ")) == {"3"} and own["within_pairs_p"] < 0.001
    assert rows.loc["words (TF-IDF)", "within_pairs"] == 1  # one verb
    assert abs(rows.loc["layer 0, mean over the text", "within_pairs"] - 0.5) < 0.3
    assert scores.shape == (2 * N, 5) and np.isfinite(scores).all()


def test_a_topic_of_broken_pairs_costs_more_than_whole_pairs():
    """Half of the harmful requests are refused, and the twins of the others accepted: no pair is whole."""
    states = planted(twins(), topic=3.0)
    odd = {r.id: int(r.pair) % 2 == 1 for r in states.requests}
    verdicts = {r.id: ("refused" if odd[r.id] else "accepted") for r in states.requests}
    curve = learning_curve(states, (12, 24, 500), verdicts, n_draws=3).set_index(["n_fitted", "fitted_on"])
    assert set(curve.index.get_level_values(0)) == {12, 24} and (curve["n_pairs"] == N).all()
    assert curve.loc[(24, PAIRS), "within_pairs"] > curve.loc[(24, BEHAVIOUR), "within_pairs"] + 0.05
    assert curve.loc[(24, PAIRS), "words_auroc"] == 1


def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match="9 whole pairs"):
        held_out_scores(planted(twins(9)))

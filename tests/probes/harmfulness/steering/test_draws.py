"""Directions that mean nothing: both signs of each are read, and one of them can win."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

import interp
from interp.edits.steering import add_direction
from interp.interventions import ResidualEdit
from probes.harmfulness.directions.directions import fit_directions
from probes.harmfulness.steering.drawing import FirstTokens, drawn_of
from probes.harmfulness.steering.draws import beside_draws
from probes.harmfulness.steering.inversion import MARGIN, build_inversion_prompts
from probes.harmfulness.steering.inversion_result import QUESTIONS
from probes.requests.requests import Request
from tests.tiny import tiny, tiny_tokenizer

N = 12


def asked(start: int, n: int) -> tuple[list[Request], list[Request]]:
    verbs = {"harmful": "Break", "harmless": "Paint"}
    return tuple(
        [Request(f"{kind}-{i}", f"{verb} the door number {i}.", kind) for i in range(start, start + n)]
        for kind, verb in verbs.items()
    )


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


def row(own: float, controls: list[tuple[float, float]], shuffled: list[tuple[float, float]] = ()) -> dict:
    """Margins of -1 before; the direction and both signs of each control add so much to all of them."""
    before = np.full(N, -1.0)
    named = {f"random {i}": np.array(c)[:, None] + before for i, c in enumerate(controls)}
    named |= {f"shuffled {i}": np.array(c)[:, None] + before for i, c in enumerate(shuffled)}
    return beside_draws(before, before + own, named)


def test_nothing_does_as_much():
    found = row(2.0, [(0.1, -0.1)] * 20, [(0.5, -0.3)] * 10)
    assert found["change_leans"] == 1 and found["leans_random"] == found["leans_shuffled"] == 0
    assert found["margin_p"] == pytest.approx(1 / 31) and (found["n_random"], found["n_shuffled"]) == (20, 10)


def test_the_other_sign_of_a_control_counts():
    """With the arm's own sign these do nothing; with the other, one in five does as much: the rival wins."""
    found = row(2.0, [(-2.0, 2.0)] * 4 + [(0.0, 0.0)] * 16)
    assert found["margin_random"] == found["leans_random"] == 0.2
    assert found["margin_p"] == pytest.approx(5 / 21)
    assert np.isnan(found["margin_shuffled"])


def test_only_changes_to_the_same_side_count():
    found = row(-2.0, [(3.0, 0.0)] * 20)
    assert found["margin_random"] == 0 and found["margin_p"] == pytest.approx(1 / 21)


def test_first_tokens_are_those_of_plain_steering(model):
    """Every direction, control, sign and place against a plain pass, the mask counted by hand."""
    fitted = fit_directions(model, *asked(0, 12))
    at = (
        {"harmfulness": 2, "refusal": 3},
        {"harmfulness": 3.0, "refusal": 5.0},
        dict.fromkeys(("harmfulness", "refusal"), ("before_question", "all")),
    )
    drawn, vectors = drawn_of(fitted, *at, 2, 1, 0)
    assert len(drawn) == 2 * 4 * 2 * 2
    prompts = build_inversion_prompts(model, asked(50, 2)[0], QUESTIONS[0])
    read = FirstTokens(model, prompts, drawn, vectors, MARGIN).read(prompts)
    for (i, prompt), (k, d) in product(enumerate(prompts), enumerate(drawn)):
        vector = vectors[d.direction, d.control] * (1 if d.sign == "+" else -1)
        with add_direction(vector, d.coefficient, d.layer, positions=d.positions).apply(model, [prompt]):
            logits = model.final_logits([prompt])[0]
        yes, no = (logits[list(prompt.answers[w])].logsumexp(-1) for w in ("Certainly", "No"))
        assert read["drawn"][i, k] == pytest.approx((yes - no).item(), abs=1e-3)
    plain = model.final_logits(prompts)[0]
    yes, no = (plain[list(prompts[0].answers[w])].logsumexp(-1) for w in ("Certainly", "No"))
    assert read["plain"][0] == pytest.approx((yes - no).item(), abs=1e-3)


def test_an_edit_of_the_first_positions_leaves_the_rest():
    hidden, vector = torch.zeros(2, 5, 3), torch.ones(3)
    after = ResidualEdit(0, vector, "add", 2.0, first=2).on(hidden)
    assert (after[:, :2] == 2).all() and (after[:, 2:] == 0).all() and (hidden == 0).all()
    torch.testing.assert_close(ResidualEdit(0, vector, "add", 2.0, first=9).on(hidden), hidden + 2)
    with pytest.raises(ValueError, match="first=0"):
        ResidualEdit(0, vector, first=0)

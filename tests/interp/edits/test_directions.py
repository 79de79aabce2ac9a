"""Directions: arithmetic by hand, projections, files; other weights are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.edits.directions import Direction, load_direction, mean_difference, random_direction
from interp.edits.identity import describe_model
from tests.tiny import tiny

WEIGHTS = {"name": "toy", "weights_sha256": "ab" * 32, "n_layers": 2, "d_model": 3}
D = Direction(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 2.0]]), WEIGHTS, {"name": "d"})
E = Direction(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-2.0, -4.0, -4.0]]), WEIGHTS, {"name": "e"})


def rows(direction: Direction) -> list[list[float]]:
    return direction.vectors.tolist()


def test_arithmetic():
    assert rows(D + E) == [[4, 4, 0], [0, 1, 0], [-1, -2, -2]]
    assert rows(D - E) == [[2, 4, 0], [0, -1, 0], [3, 6, 6]]
    assert rows(-D) == [[-3, -4, 0], [0, 0, 0], [-1, -2, -2]]
    assert rows(2 * D) == rows(D * 2) == rows(D + D) == rows(np.float64(2) * D) == rows(D / 0.5)
    assert torch.equal((D - D).vectors, torch.zeros(3, 3)) and torch.equal((0 * D).vectors, torch.zeros(3, 3))
    assert (2 * (D - E)).about == {"operation": "times 2", "of": [(D - E).about]}
    assert (D - E).about == {"operation": "-", "of": [{"name": "d"}, {"name": "e"}]} and (D - E).model == WEIGHTS
    for wrong in (lambda: D * E, lambda: D + 1, lambda: D / torch.ones(3)):
        with pytest.raises(TypeError):
            wrong()


def test_norms_and_units():
    assert D.norms().tolist() == [5, 0, 3]
    unit = D.unit()
    torch.testing.assert_close(unit.norms(), torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(unit.vectors[0], torch.tensor([0.6, 0.8, 0.0]))


def test_projection_is_the_component_in_the_streams_units():
    states = torch.tensor([[[5.0, 0.0, 1.0], [1.0, 1.0, 1.0], [3.0, 0.0, 0.0]]])
    found = D.project(states)
    torch.testing.assert_close(found, torch.tensor([[3.0, torch.nan, 1.0]]), equal_nan=True)
    torch.testing.assert_close((7 * D).project(states), found, equal_nan=True)  # whatever the row's length
    torch.testing.assert_close(D.project(states[0]), found[0], equal_nan=True)
    assert D.project(states.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"states have shape \(1, 4, 3\); expected \[\.\.\., 3, 3\]"):
        D.project(torch.zeros(1, 4, 3))


def test_cosine():
    torch.testing.assert_close(D.cosine(E), torch.tensor([0.6, torch.nan, -1.0]), equal_nan=True)
    torch.testing.assert_close(D.cosine(-2 * D), torch.tensor([-1.0, torch.nan, -1.0]), equal_nan=True)


def test_the_orthogonal_part():
    left = D.orthogonal_to(E)
    torch.testing.assert_close(left.vectors, torch.tensor([[0.0, 4.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    along = D - left
    torch.testing.assert_close(along.vectors[0], torch.tensor([3.0, 0.0, 0.0]))
    assert torch.equal(E.orthogonal_to(D).vectors[1], E.vectors[1])  # nothing to take away


def test_scaled_to_another():
    scaled = E.scaled_to(D)
    torch.testing.assert_close(scaled.norms(), D.norms())
    torch.testing.assert_close(scaled.vectors[2], torch.tensor([-1.0, -2.0, -2.0]))


def test_a_random_direction_has_the_norms_and_repeats():
    first, again, other = (random_direction(D, seed) for seed in (0, 0, 1))
    torch.testing.assert_close(first.norms(), D.norms())
    assert torch.equal(first.vectors, again.vectors) and not torch.equal(first.vectors, other.vectors)
    assert first.about["seed"] == 0 and first.model == WEIGHTS
    wide = Direction(torch.ones(2, 4000), {})
    drawn = random_direction(wide, 0)
    assert abs(drawn.cosine(wide)[0]) < 0.06 and abs(drawn.unit().vectors.mean()) < 1e-3


def test_saved_and_loaded_bit_for_bit(tmp_path):
    third = D / 3
    again = load_direction(third.save(tmp_path / "d"))
    assert torch.equal(again.vectors, third.vectors) and again.model == WEIGHTS and again.about == third.about
    assert (again - third).norms().tolist() == [0, 0, 0]


def test_directions_of_other_weights_do_not_mix():
    other = Direction(D.vectors, WEIGHTS | {"name": "else", "weights_sha256": "cd" * 32})
    for mix in (D.__add__, D.__sub__, D.cosine, D.orthogonal_to, D.scaled_to):
        with pytest.raises(ValueError, match=r"'toy' \(weights abababababab, 3 rows of 3\).*'else' \(weights cdcd"):
            mix(other)


def test_another_model_is_refused(llama):
    direction = Direction(torch.ones(5, 32), describe_model(llama))
    direction.require_fits(llama)
    with pytest.raises(ValueError, match=r"this direction is of .* with weights .* has weights"):
        direction.require_fits(interp.load(tiny("llama", seed=1)))
    with pytest.raises(ValueError, match=r"with n_layers=4; .* has n_layers=2"):
        direction.require_fits(interp.load(tiny("llama", num_hidden_layers=2)))


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.ones(2, 3), r"shape \(2, 3\); expected \(3, 3\): a row for each of the 2 blocks of 'toy'"),
        (torch.ones(3, 4), r"shape \(3, 4\); expected \(3, 3\)"),
        (torch.tensor([[1.0] * 3, [torch.inf, 0, 0], [torch.nan] * 3]), "layer 1 is not finite .2 of 3 layers"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        Direction(vectors, WEIGHTS)


def test_a_difference_of_means(llama):
    generator = torch.Generator().manual_seed(0)
    above, below = torch.randn(2, 5, 32, generator=generator)
    below[0] = above[0] * (1 + 1e-7)  # the same state, up to the rounding of its sum
    found = mean_difference(above, below, llama, {"name": "toy"})
    assert found.norms()[0] == 0 and torch.equal(found.vectors[1:], (above - below)[1:])
    assert found.model["weights_sha256"] == describe_model(llama)["weights_sha256"] and found.about == {"name": "toy"}
    with pytest.raises(ValueError, match="expected the same"):
        mean_difference(above, below[:3], llama)
    with pytest.raises(ValueError, match="not finite"):
        mean_difference(above * torch.inf, below, llama)

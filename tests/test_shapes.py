"""Arrays are held to the shapes in their annotations in every run of the tests (tests/shapes.py)."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float

from interp.door import outside_package
from probes.negative_bias import negative_attention_score
from tests.shapes import SHAPED, WrongShape, checked

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"probes.known_answers.programs.compiling"}  # needs an environment of its own


def test_a_public_function_is_held_to_its_shapes():
    """Its own code takes these: attention of many examples, where that of one is asked for."""
    assert negative_attention_score(torch.zeros(2, 3, 4, 2)).shape == (2, 3)
    with pytest.raises(WrongShape, match="log_probs"):
        negative_attention_score(torch.zeros(5, 2, 3, 4, 2))


def test_pytests_configuration_alone_turns_the_checker_on():
    """The test above, run as by a user who types `pytest`: no options, and the working directory not on the path."""
    one = f"{Path(__file__)}::{test_a_public_function_is_held_to_its_shapes.__name__}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", one], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout + ran.stderr


def test_every_shape_is_held_to():
    """A name that can't be found would leave its array unchecked."""
    for path in sorted(p for package in ("interp", "probes") for p in (ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name not in ELSEWHERE and path.stem not in ("__init__", "__main__"):
            import_module(name)
    shaped = [of for (module, *_), of in SHAPED.items() if module.startswith(("interp.", "probes."))]
    assert len(shaped) > 300 and all(of.hints.keys() == of.annotations.keys() for of in shaped)
    assert any(of.function is inspect.unwrap(negative_attention_score) for of in shaped)


@checked
@dataclass
class Taken:
    states: Float[np.ndarray, "example layer"]
    mask: Bool[np.ndarray, " example"]


@checked
def taken(scores: Float[np.ndarray, "row column"], n: int = 1) -> Float[np.ndarray, " row"]:
    if scores.ndim > 2:
        raise ValueError("expected [row, column]")
    return scores.mean(axis=n)


@pytest.mark.parametrize(
    "call",
    [
        lambda: taken(np.ones(3), 0),  # axes
        lambda: taken(np.ones((2, 3), int)),  # kind
        lambda: taken(np.ones((2, 3)), 0),  # what it gives
        lambda: Taken(np.ones((2, 3)), np.ones(3, bool)),  # one name, two sizes
        lambda: Taken(np.ones((2, 3)), [True, False]),  # no array
    ],
)
def test_another_shape_fails(call):
    with pytest.raises(WrongShape):
        call()


def test_what_is_right_or_refused_does_not_fail():
    assert taken(np.ones((2, 3))).shape == (2,) and len(Taken(np.ones((2, 3)), np.ones(2, bool)).mask) == 2
    with pytest.raises(ValueError, match="expected"):
        taken(np.ones((2, 3, 4)))


@checked
def warned(scores: Float[np.ndarray, " row"], level: int | None = None) -> Float[np.ndarray, " row"]:
    warnings.warn("few", stacklevel=level or outside_package())
    return scores


@checked
def asked_for(scores: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    return warned(scores, level=3)


@pytest.mark.parametrize("call", [lambda: warned(np.ones(2), 2), lambda: asked_for(np.ones(2))])
def test_a_warning_names_the_line_that_it_names_unchecked(call):
    with pytest.warns(UserWarning, match="few") as caught:
        call()
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, call.__code__.co_firstlineno)]

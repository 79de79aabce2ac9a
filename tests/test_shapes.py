"""The checker of `make shapes`: arrays are held to the shapes in their annotations while tests run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Bool, Float

from interp.statistics import auroc
from tests.shapes import SHAPED, WrongShape, checked

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"probes.known_answers.programs.compiling"}  # needs an environment of its own


@pytest.mark.skipif(not hasattr(auroc, "__wrapped__"), reason="the hook is off: make shapes")
def test_every_shape_is_held_to():
    """A name that can't be found would leave its array unchecked."""
    for path in sorted(p for package in ("interp", "probes") for p in (ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name not in ELSEWHERE and path.stem not in ("__init__", "__main__"):
            import_module(name)
    shaped = [of for (module, *_), of in SHAPED.items() if module.startswith(("interp.", "probes."))]
    assert len(shaped) > 300 and all(of.hints.keys() == of.annotations.keys() for of in shaped)
    assert any(of.function is auroc.__wrapped__ for of in shaped)


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

"""A task as a causal model: inputs, the variables that lead to the answer, and the answer that they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from interp.door.brief import brief

Rows = Int[np.ndarray, "row pos"]
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """``variables(rows, given)``: every variable's value for each row, in the order in which they are computed; those
    in ``given`` are taken from there, and later ones computed from them. The answer is ``answer(rows, values)``, a
    token id for each row. ``layers``: the layer of each variable's head."""

    name: str
    question: str
    vocabulary: tuple[str, ...]
    layers: Mapping[str, int]
    n_layers: int
    sample: Callable[[int, np.random.Generator], Rows]
    variables: Callable[[Rows, Values], dict[str, np.ndarray]]
    answer: Callable[[Rows, Values], Int[np.ndarray, " row"]]

    __repr__ = brief

    @property
    def names(self) -> tuple[str, ...]:
        """The variables' names."""
        return tuple(self.layers)

    def answers(self, rows: Rows, given: Values | None = None) -> Int[np.ndarray, " row"]:
        """The answer's token id for each row, with some variables given."""
        return self.answer(rows, self.variables(rows, given or {}))

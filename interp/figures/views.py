"""One prompt, token by token, as some heads see it: what the token plots of a report show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.door.brief import brief


def head_label(layer: int, head: int) -> str:
    """The name of a head in tables, figures and reports, such as "L17H7" (both counted from 0)."""
    return f"L{layer}H{head}"


@dataclass(frozen=True, eq=False)
class TokenView:
    """One example prompt, token by token, as some heads see it: the raw material behind the scores.

    tokens: the text of each token as shown. heads: (layer, head) -> {"attention": [token] attention
    probability from the scored position, "contribution": [token] signed share of the score, optional},
    float32.

    Raises:
        ValueError: no values for a head, values of another name, of another number of tokens, or not finite.
    """

    example_id: str
    title: str
    tokens: tuple[str, ...]
    heads: Mapping[tuple[int, int], Mapping[str, Float[np.ndarray, " _token"]]]

    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        heads: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        for (layer, head), values in self.heads.items():
            where = f"View {self.example_id!r}, {head_label(layer, head)}"
            unknown = set(values) - {"attention", "contribution"}
            if unknown or not values:
                raise ValueError(f"{where}: has {sorted(values)}; expected 'attention', 'contribution' or both.")
            arrays = {kind: frozen_array(array) for kind, array in values.items()}
            for kind, array in arrays.items():
                if array.shape != (len(self.tokens),):
                    expected = f"({len(self.tokens)},), one value for each token"
                    raise ValueError(f"{where}: {kind} has shape {array.shape}; expected {expected}.")
                if not np.isfinite(array).all():
                    raise ValueError(f"{where}: {kind} is not finite at token {np.argmin(np.isfinite(array))}.")
            heads[int(layer), int(head)] = arrays
        object.__setattr__(self, "heads", heads)


def frozen_array(array: np.ndarray) -> np.ndarray:
    """A copy that can't be written to: cached statistics must not outlive their data.

    Returns:
        float32, of the same shape.
    """
    array = np.array(array, dtype=np.float32)
    array.setflags(write=False)
    return array

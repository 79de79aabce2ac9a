"""Where each direction is read, and the class means that it is a difference of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float

from interp.door.brief import brief

if TYPE_CHECKING:
    from torch import Tensor

POSITIONS = {"harmfulness": "t_inst", "refusal": "t_post"}
"""Where each direction is read."""


@dataclass(frozen=True, eq=False)
class Means:
    """Class means [layer, d_model]: of harmful and harmless requests at t_inst, refused and accepted ones at t_post."""

    harmful: Float[Tensor, "layer d_model"]
    harmless: Float[Tensor, "layer d_model"]
    refused: Float[Tensor, "layer d_model"]
    accepted: Float[Tensor, "layer d_model"]

    __repr__ = brief

    def of(self, name: str) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer d_model"]]:
        """The two means that ``"harmfulness"`` or ``"refusal"`` is the difference of."""
        at_inst = position_of(name) == "t_inst"
        return (self.harmful, self.harmless) if at_inst else (self.refused, self.accepted)


def position_of(name: str) -> str:
    """Where a direction is read; ``ValueError`` for a name that is none of :data:`POSITIONS`."""
    if name not in POSITIONS:
        raise ValueError(f"direction {name!r}; expected one of {', '.join(POSITIONS)}.")
    return POSITIONS[name]


def mean_state(states: Float[Tensor, "example layer d_model"]) -> Float[Tensor, "layer d_model"]:
    """By way of float64, in which equal states have exactly themselves as their mean: two such means differ by zero."""
    return states.double().mean(0).float()

"""The outputs of all heads on their way into the output projections, read or rewritten in a pass with gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from interp.architecture import attached, input_of

if TYPE_CHECKING:
    from interp.models import Model

Rewrite = Callable[[int, Tensor], Tensor | None]
"""(layer, z [row, pos, head, d_head]) -> the z to go on with, or None to leave it."""


def heads_rewritten(model: Model, rewrite: Rewrite) -> AbstractContextManager[None]:
    """While active, every layer's z goes through ``rewrite``; gradients flow through what it returns.

    Rows and positions are those of the pass that runs, padding included.
    """

    def of_layer(layer: int, z: Tensor) -> Tensor | None:
        new = rewrite(layer, z.unflatten(-1, (model.n_heads, model.d_head)))
        return None if new is None else new.flatten(-2)

    blocks = model.components.blocks
    return attached(
        model, [input_of(b.out_projection, partial(of_layer, i), counts=True) for i, b in enumerate(blocks)]
    )

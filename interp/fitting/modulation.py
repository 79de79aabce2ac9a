"""Factors of heads as what a model takes: an edit that is kept, or a branch of a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.edits import ScaledHeads, describe_model
from interp.fitting.factors import Factors, changed_heads
from interp.interventions import Branch, HeadEdit

if TYPE_CHECKING:
    from interp.models import Model


def branch_of(factors: Factors, label: str = "") -> Branch:
    """The factors as one branch of a scan."""
    edits = tuple(HeadEdit(layer, head, "scale", f) for (layer, head), f in changed_heads(factors).items())
    return Branch(edits, label or "factors")


def as_edit(model: Model, factors: Factors, about: Mapping[str, Any] | None = None) -> ScaledHeads:
    """The factors as an edit of this model (its weights are hashed: about a second for each GB).

    Raises ``ValueError`` for a table of another shape than the model's heads."""
    require_shape(model, factors)
    return ScaledHeads(describe_model(model), dict(about or {}), changed_heads(factors))


def require_shape(model: Model, factors: Factors) -> None:
    """Raise ``ValueError`` for a table of another shape than the model's heads."""
    if np.shape(factors) != (model.n_layers, model.n_heads):
        raise ValueError(
            f"a table of shape {np.shape(factors)} was given; {model.name} has {model.n_layers} layers of "
            f"{model.n_heads} heads. Score this model's heads."
        )


def require_heads(model: Model, heads: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The heads as integers, each once. Raises ``ValueError`` for one that the model does not have."""
    heads = list(dict.fromkeys((int(layer), int(head)) for layer, head in heads))
    for layer, head in heads:
        HeadEdit(layer, head).check(model)
    return heads

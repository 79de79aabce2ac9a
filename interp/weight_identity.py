"""Which weights a result is of: named in the result, refused on others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from interp.door import public
from interp.provenance import hash_weights

if TYPE_CHECKING:
    from interp.model import Model


@public
def describe_model(model: Model) -> dict[str, Any]:
    """The weights as they are now: name, hash, geometry, dtype. Reads every weight (about a second for each GB)."""
    described = model.provenance()
    names = ("name", "architecture", "weights_sha256", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_model")
    told = described.get("template_arguments")  # a direction, or a guard, reads prompts that were written so
    return {name: described[name] for name in (*names, "dtype")} | ({"template_arguments": told} if told else {})


def require_weights(model: Model, described: Mapping[str, Any], what: str) -> None:
    """Raise ``ValueError`` unless the model has the geometry and the weights that ``described`` names."""
    for name in ("n_layers", "d_model"):
        if (expected := described.get(name)) is not None and expected != getattr(model, name):
            raise ValueError(
                f"{what} is of {described.get('name')!r} with {name}={expected}; {model.name!r} has "
                f"{name}={getattr(model, name)}. Make it anew on this model."
            )
    found, expected = hash_weights(model.hf), described.get("weights_sha256")
    if found != expected:
        raise ValueError(
            f"{what} is of {described.get('name')!r} with weights {str(expected)[:12]}; {model.name!r} has weights "
            f"{found[:12]}. Use the weights (and the dtype) that it was made on (was an edit folded already?), or make "
            "it anew on these."
        )

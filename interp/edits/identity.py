"""Which weights a result is of: named in the result, refused on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from interp.architecture import describe_adapters, weights_sha256
from interp.architecture.active_edits import active_edits
from interp.door import public

if TYPE_CHECKING:
    from interp.models import Model


@public
def describe_model(model: Model) -> dict[str, Any]:
    """The model as it computes now: name, weights' hash, geometry, dtype, the adapters that are active and the edits
    that are applied. Reads every weight if one was changed since it was last asked (about a second for each GB)."""
    return {
        "name": model.name,
        "architecture": type(model.hf).__name__,
        "weights_sha256": weights_sha256(model.hf),
        "adapters": describe_adapters(model.hf),
        "edits": active_edits(model.hf),
        **{name: getattr(model, name) for name in ("n_layers", "n_heads", "n_kv_heads", "d_head", "d_model")},
        "dtype": str(model.dtype).removeprefix("torch."),
        # a direction, or a guard, reads prompts that were written so
        **({"template_arguments": dict(model.template_arguments)} if model.template_arguments else {}),
    }


def require_weights(model: Model, described: Mapping[str, Any], what: str) -> None:
    """Raise ``ValueError`` unless the model has the geometry, the weights and the active adapters that ``described``
    names, and the edits that were applied then are applied now (others may be, too)."""
    for name in ("n_layers", "d_model"):
        if (expected := described.get(name)) is not None and expected != getattr(model, name):
            raise ValueError(
                f"{what} is of {described.get('name')!r} with {name}={expected}; {model.name!r} has "
                f"{name}={getattr(model, name)}. Make it anew on this model."
            )
    found, expected = weights_sha256(model.hf), described.get("weights_sha256")
    if found != expected:
        there, here = named_adapters(described.get("adapters")), named_adapters(describe_adapters(model.hf))
        adapters = f" ({there} then, {here} now)" if described.get("adapters") or here != named_adapters(()) else ""
        raise ValueError(
            f"{what} is of {described.get('name')!r} with weights {str(expected)[:12]}; {model.name!r} has weights "
            f"{found[:12]}{adapters}. Use the weights (and the dtype, and the adapter) that it was made on (was an "
            "edit folded already?), or make it anew on these."
        )
    require_edits({"edits": active_edits(model.hf)}, described, what)


def require_made_on(model: Model, made: Any, what: str = "the ranking") -> None:
    """Raise ``ValueError`` if what was ``made`` (a ranking of heads, with ``n_layers``, ``n_heads`` and ``provenance``)
    is of a model of other sizes, of other weights where it names them, or with edits that are not applied now."""
    if (made.n_layers, made.n_heads) != (model.n_layers, model.n_heads):
        raise ValueError(
            f"{what} is of {made.n_layers} layers with {made.n_heads} heads, {model.name} has {model.n_layers} with "
            f"{model.n_heads}: it is of another model. Rank this one first."
        )
    of = made.provenance.get("model")
    of, now = of if isinstance(of, Mapping) else {}, describe_model(model)
    there, here = of.get("weights_sha256"), now["weights_sha256"]
    if there is not None and there != here:
        raise ValueError(
            f"{what} is of {of.get('name')!r} with weights {there[:12]}; this is {model.name!r} with {here[:12]}: it "
            "is not of this model. Rank the heads of this model (an edited model is another one)."
        )
    require_edits(now, of, what)


def require_edits(now: Mapping[str, Any], described: Mapping[str, Any], what: str) -> None:
    """Raise ``ValueError`` unless the edits that ``described`` names, of a model then, are applied now, in their order.
    Others may be applied, too."""
    rest = iter(edit["sha256"] for edit in now.get("edits") or ())
    missing = [edit for edit in described.get("edits") or () if edit["sha256"] not in rest]
    if missing:
        raise ValueError(
            f"{what} was made while an edit was applied that is not applied now: {missing[0]['summary']} Apply it "
            "(with edit.apply(model): ...), or make it anew on the model as it is."
        )


def named_adapters(adapters: Sequence[Mapping[str, Any]] | None) -> str:
    """In words: "adapter 'a'", "no adapter"."""
    names = [repr(a.get("name")) + (" merged" if a.get("merged") else "") for a in adapters or ()]
    return f"adapter{'s' * (len(names) > 1)} {', '.join(names)}" if names else "no adapter"

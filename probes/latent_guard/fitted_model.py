"""Whether a guard stands on the model that it was fitted on: its weights, and what acts beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.architecture import require_no_dropout, weights_sha256
from interp.architecture.active_edits import active_edits
from interp.architecture.foreign_parts import foreign_parts
from interp.edits import describe_model
from interp.models import Model
from interp.passes import fingerprint, hash_config, same_fingerprint, tolerance


def require_guard_of(described: Mapping[str, Any], model: Model) -> None:
    """Raise ``ValueError`` if a guard was fitted on other weights, other edits, or another way to write prompts."""
    told, here = described.get("template_arguments", {}), dict(model.template_arguments)
    if told != here:
        raise ValueError(
            f"this guard was fitted on prompts whose chat template was told {told or 'nothing'}; {model.name!r} tells "
            f"it {here or 'nothing'}. Load the model with template_arguments={told!r}."
        )
    found = weights_sha256(model.hf)
    if found != described["weights_sha256"]:
        raise ValueError(
            f"this guard was fitted on {described['name']!r} with weights {described['weights_sha256'][:12]} "
            f"({described['n_layers']} layers of {described['d_model']}, {described['dtype']}); {model.name!r} has "
            f"weights {found[:12]} ({model.n_layers} layers of {model.d_model}). Load that model, in that dtype, or "
            "fit a guard on this one. (States of a changed model can be judged with decision_states.)"
        )
    then, now = ([e["sha256"] for e in edits] for edits in (described.get("edits") or (), active_edits(model.hf)))
    if then != now:
        said = [e["summary"] for e in active_edits(model.hf)] or ["none"]
        raise ValueError(
            f"this guard was fitted while {len(then)} edits were applied to {model.name!r}; {len(now)} are applied now "
            f"({'; '.join(said)}): its states are others. Judge outside of edit.apply, or fit a guard inside. (States "
            "of a changed model can be judged with decision_states.)"
        )


def describe_fitted(model: Model) -> dict[str, Any]:
    """What a guard keeps of its model: what :func:`interp.edits.identity.describe_model` says, and a fingerprint."""
    values = fingerprint(model)
    return describe_model(model) | {"fingerprint": {"values": values}}


def beside_weights(model: Model) -> dict[str, Any]:
    """What can change on a model without a weight being written, cheap to ask for."""
    require_no_dropout(model.hf)
    return {
        "hooks and replaced methods": foreign_parts(model.hf),
        "the config": hash_config(model.hf),
        "the attention implementation": str(getattr(model.hf.config, "_attn_implementation", "")),
        "the chat template": model.chat_template,
    }


def require_fingerprint(described: Mapping[str, Any], model: Model) -> None:
    """Raise ``ValueError`` if the same weights compute other logits than where the guard was fitted."""
    there = described.get("fingerprint")
    if there is not None and not same_fingerprint({"values": fingerprint(model)}, there, tolerance(model)):
        raise ValueError(
            f"{model.name!r} has the weights that this guard was fitted on, and gives other logits: something else is "
            "different (the config, a hook, a library's version). Fit a guard on this one."
        )

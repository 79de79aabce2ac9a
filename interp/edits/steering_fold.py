"""Steering written into the weights: which of it weights can do, and how.

A direction that is added is a bias of whatever writes last before the place where it is added. A direction that is
removed from everything that is written to the stream, up to some place, never is in it: the embedding's rows and the
output projections of attention and MLP are projected (Arditi et al. 2024, arXiv 2406.11717, section 4.1, who
orthogonalise weights so). Everything else depends on what the stream holds at one place, which no weight can know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.edits.weights import Projection, Writer, module_name, open_projection
from interp.interventions import Place, ResidualEdit

if TYPE_CHECKING:
    from interp.models import Model

_PARALLEL = 1e-9  # 1 - cosine: rows that are apart by less are one direction


def require_foldable(edits: Sequence[ResidualEdit], positions: str, while_generating: bool) -> None:
    """Raise ``ValueError`` with the reason if no model's weights can do what the edits do."""
    if positions != "all":
        raise _refusal(
            f"it acts at the positions {positions!r} only, and weights act at every position", "steer positions='all'"
        )
    if not while_generating:
        raise _refusal(
            "it acts while the prompt is read only, and weights act on every token", "steer with while_generating=True"
        )
    ops = {edit.op for edit in edits}
    if "clamp" in ops:
        raise _refusal("what a clamp adds depends on what the stream holds; weights add the same to every state")
    if "turn" in ops:
        raise _refusal("how far a turn moves a state depends on the state; weights add the same to every one")
    if len(ops) > 1:
        raise _refusal(
            "it adds and removes: a removal at one place would take away what was added before it", "fold them apart"
        )


def write_steering(writer: Writer, edits: Sequence[ResidualEdit]) -> None:
    """Make the changes of the weights that do what the edits do. Raises ``ValueError`` with the reason where this
    model's can't."""
    if edits[0].op == "remove":
        _remove_everywhere(writer, edits)
        return
    for edit in edits:
        _add(writer, edit)


def _add(writer: Writer, edit: ResidualEdit) -> None:
    added = edit.coefficient * edit.vector.double()
    if edit.layer == 0 and edit.at == "input":
        _refuse_pictures(writer.model)
        writer.untie_embedding()
        name, rows = _rows(writer.model, writer.model.components.embedding)
        writer.set(name, rows + added.to(rows.device))
        return
    projection = _writer_before(writer.model, edit.layer, edit.at)
    if projection.bias is None:
        size = projection.weight.shape[projection.output_dim]
        zeros = torch.zeros(size, dtype=projection.weight.dtype, device=projection.weight.device)
        writer.create(projection.bias_name, zeros)
        projection = _writer_before(writer.model, edit.layer, edit.at)
    writer.set(projection.bias_name, projection.bias.detach().double() + added.to(projection.bias.device))


def _remove_everywhere(writer: Writer, edits: Sequence[ResidualEdit]) -> None:
    unit = _one_direction(edits)
    model = writer.model
    _refuse_pictures(model)
    order: list[tuple[int, Place]] = [(0, "input")]
    for layer in range(model.n_layers):
        order.extend([(layer, "attention"), (layer + 1, "input")])
    edited = {(edit.layer, edit.at) for edit in edits}
    places = order[: len(edited)]
    if edited != set(places):
        first = next(place for place in places if place not in edited)
        raise _refusal(
            f"the direction is not removed at the {_named(*first)}, so the stream still brings it to a place where it "
            "is removed: that takes more than weights that write nothing along it",
            "remove one row at every write: remove_direction(direction, from_layer=..., every_write=True)",
        )
    projections = [_writer_before(model, layer, at) for layer, at in places[1:]]  # refused before anything is written
    writer.untie_embedding()
    for module in (model.components.embedding, model.components.position_embedding):
        if module is not None:
            name, rows = _rows(model, module)
            writer.set(name, _without(rows, unit))
    for projection in projections:
        weight = projection.weight.detach().double().movedim(projection.output_dim, -1)
        writer.set(projection.weight_name, _without(weight, unit).movedim(-1, projection.output_dim))
        if projection.bias is not None:
            writer.set(projection.bias_name, _without(projection.bias.detach().double(), unit))


def _refuse_pictures(model: Model) -> None:
    if model.has_vision:
        raise _refusal(
            f"it acts on what enters the first block, which {type(model.hf).__name__} takes from pictures too, and not "
            "only from rows of the embedding"
        )


def _one_direction(edits: Sequence[ResidualEdit]) -> Float[Tensor, " d_model"]:
    units = torch.stack([edit.vector.double() / edit.vector.double().norm() for edit in edits])
    if (1 - (units @ units[0]).abs()).max() > _PARALLEL:
        raise _refusal(
            "several directions are removed, each at its own layer, and a weight is read at every later layer",
            "remove one row everywhere: remove_direction(direction, from_layer=...)",
        )
    return units[0]


def _writer_before(model: Model, layer: int, at: Place) -> Projection:
    """What writes to the stream last before a place: a projection with a weight in the open, and nothing after it."""
    of = layer if at == "attention" else layer - 1
    block = model.components.blocks[of]
    if at == "attention":
        part, projection, is_last = "attention", block.out_projection, block.attention_post_norm is None
    else:
        part, projection = "MLP", block.mlp_projection if block.mlp_write is not None else None
        is_last = projection is None or any(m is projection for m in block.mlp_write.modules())
    if projection is None:
        raise _refusal(
            f"the MLP of layer {of} of {type(model.hf).__name__} has no single output projection (a mixture of "
            "experts, or an MLP without a module of its own)"
        )
    if not is_last:
        raise _refusal(
            f"in {type(model.hf).__name__} what the {part} of layer {of} writes goes through a norm before it reaches "
            "the stream, and no weight comes after that norm"
        )
    return open_projection(model, projection, f"the {part}'s output projection of layer {of}")


def _rows(model: Model, module: nn.Module) -> tuple[str, Float[Tensor, "token d_model"]]:
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Embedding) or not weight.is_floating_point() or weight.device.type == "meta":
        raise _refusal(f"the embedding of {model.name} is a {type(module).__name__} without plain rows in memory")
    if weight.shape[1] != model.d_model:
        raise _refusal(
            f"the embedding of {model.name} has rows of {weight.shape[1]}, which a projection brings to the stream's "
            f"{model.d_model}"
        )
    return f"{module_name(model, module)}.weight", weight.detach().double()


def _without(rows: Float[Tensor, "*row d_model"], unit: Float[Tensor, " d_model"]) -> Float[Tensor, "*row d_model"]:
    unit = unit.to(rows.device)
    return rows - (rows @ unit)[..., None] * unit


def _named(layer: int, at: Place) -> str:
    return f"input of layer {layer}" if at == "input" else f"attention's output of layer {layer}"


def _refusal(reason: str, remedy: str = "use apply()") -> ValueError:
    return ValueError(f"this steering can't be written into weights: {reason}. Remedy: {remedy}.")

"""What is done to a running model: its stream and its heads rewritten, and only some logits computed.

Each is a hook (:mod:`interp.architecture.hooks`), to attach with others, or a context in which it acts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.architecture import Hook, attached, input_of, output_of
from interp.interventions.values import Edit, HeadEdit, Place, ResidualEdit, apply_edits, apply_residual_edits

if TYPE_CHECKING:
    from interp.models import Model


def edited(model: Model, edits: Sequence[tuple[int, Edit]], last: int | None = None) -> AbstractContextManager[None]:
    """While active, rows of the batch are edited, at the last ``last`` positions (None: all that the pass computes).

    ``edits`` pairs a row with an edit, of a head or of the stream."""
    heads: dict[int, list[tuple[int, HeadEdit]]] = defaultdict(list)
    stream: dict[tuple[int, Place], list[tuple[int, ResidualEdit]]] = defaultdict(list)
    for row, edit in edits:
        if isinstance(edit, HeadEdit):
            heads[edit.layer].append((row, edit))
        else:
            stream[edit.layer, edit.at].append((row, edit))
    hooks = [heads_hook(model, layer, here, last) for layer, here in heads.items()]
    hooks += [residual_hook(model, layer, here, at, last) for (layer, at), here in stream.items()]
    return attached(model, hooks)


def edit_heads(
    model: Model, layer: int, edits: Sequence[tuple[int, HeadEdit]], last: int | None = None
) -> AbstractContextManager[None]:
    """While active, the layer's z is edited where its output projection reads it: row by row, at the last ``last``
    positions (None: all that the pass computes). Removed again on any exception.

    Rows and positions are those of one plain pass over the batch: ``Model.final_logits`` then shares no prefix."""
    return attached(model, [heads_hook(model, layer, edits, last)])


def edit_residual(
    model: Model,
    layer: int,
    edits: Sequence[tuple[int, ResidualEdit]],
    at: Place = "input",
    last: int | None = None,
) -> AbstractContextManager[None]:
    """As :func:`edit_heads`, for the residual stream at one place."""
    return attached(model, [residual_hook(model, layer, edits, at, last)])


def stream_rewritten(
    model: Model,
    layer: int,
    rewrite: Callable[[Tensor], Tensor | None],
    at: Place = "input",
    counts: bool = False,
) -> AbstractContextManager[None]:
    """While active, the residual stream is rewritten at one place: see :func:`stream_hook`."""
    return attached(model, [stream_hook(model, layer, rewrite, at, counts)])


def heads_hook(model: Model, layer: int, edits: Sequence[tuple[int, HeadEdit]], last: int | None = None) -> Hook:
    """The hook of :func:`edit_heads`."""

    def rewrite(z: Float[Tensor, "row pos features"]) -> Float[Tensor, "row pos features"]:
        if last is None or last >= z.shape[1]:
            return apply_edits(z, edits, model.n_heads)
        return torch.cat([z[:, :-last], apply_edits(z[:, -last:], edits, model.n_heads)], dim=1)

    return input_of(model.components.blocks[layer].out_projection, rewrite, counts=True)


def residual_hook(
    model: Model,
    layer: int,
    edits: Sequence[tuple[int, ResidualEdit]],
    at: Place = "input",
    last: int | None = None,
) -> Hook:
    """The hook of :func:`edit_residual`."""

    def rewrite(hidden: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        if last is None or last >= hidden.shape[1]:
            return apply_residual_edits(hidden, edits)
        return torch.cat([hidden[:, :-last], apply_residual_edits(hidden[:, -last:], edits)], dim=1)

    return stream_hook(model, layer, rewrite, at, counts=True)


def stream_hook(
    model: Model,
    layer: int,
    rewrite: Callable[[Tensor], Tensor | None],
    at: Place = "input",
    counts: bool = False,
) -> Hook:
    """The residual stream that enters block ``layer`` (``n_layers``: leaves the last) goes through ``rewrite``, [row,
    pos, d_model] to the same (None: as it is); ``at="attention"``: what the block's attention adds to the stream.

    Later hooks act on what earlier ones give. ``counts``: whether ``rewrite`` counts rows or positions, so that
    ``Model.final_logits`` shares no prefix."""
    components = model.components
    if at == "attention":
        block = components.blocks[layer]
        norm = block.attention_post_norm
        return output_of(block.out_projection if norm is None else norm, rewrite, counts=counts)
    if layer == model.n_layers:
        # not what enters the final norm, which some models lack, and NanoChat uses for its embeddings too
        return output_of(components.blocks[-1].module, rewrite, counts=counts)
    return input_of(components.blocks[layer].module, rewrite, counts=counts)


def unembed_only(model: Model, tokens: Sequence[int] | None) -> AbstractContextManager[None]:
    """While active, the model's logits are those of the last position and of ``tokens`` alone, in that order.

    Caps and scales that the model applies to its logits still act, being elementwise. Chosen tokens are unembedded in
    float32: logits in bfloat16 come in steps as large as many effects. Layers without a plain weight
    (quantised, adapted) give all logits, of which the tokens are picked.
    """
    head = model.components.unembedding
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    plain = type(head) is torch.nn.Linear and not hasattr(head, "_hf_hook")

    def forward(original: Callable[[Tensor], Tensor], args: tuple, kwargs: dict[str, Any]) -> Tensor:
        hidden = args[0][:, -1:]
        if tokens is None:
            return original(hidden)
        index = torch.tensor(list(tokens), device=hidden.device)
        if not plain:
            return original(hidden)[..., index]
        rows = weight[index].float()  # the answer is read in float32 also from a bfloat16 model
        return F.linear(hidden.float(), rows, None if bias is None else bias[index].float())

    return attached(model, [Hook(head, forward, "forward", "model")])

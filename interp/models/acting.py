"""Shown at load: hooks act. What changes at a block or at its heads moves the logits, in every layer.

Counts (:mod:`interp.architecture.hooks`) show that hooks are called; this, that what they give is what the model
computes with.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.architecture import attached, input_of, one_at_a_time, output_of, run_pass
from interp.prompts import Prompt

if TYPE_CHECKING:
    from interp.models.model import Model


@one_at_a_time
def require_hooks_act(model: Model) -> None:
    """Raise ``ValueError`` naming a layer whose input, or whose heads' outputs, can be changed without moving a logit.

    One pass over a batch of two tokens: row 0 is as it is, each other row is pushed at one place, by about three times
    what is there. A layer whose output projection gives the same whatever it reads (all zero) is left out."""
    n, blocks = model.n_layers, model.components.blocks
    same: set[int] = set()

    def push(row: int, x: Float[Tensor, "row pos feature"]) -> Float[Tensor, "row pos feature"]:
        noise = torch.randn(x.shape[-1], dtype=torch.float32, generator=torch.Generator().manual_seed(row)).to(x)
        new = x.clone()
        new[row] += 3 * (x[row].float().pow(2).mean().sqrt().to(x) + 1e-3) * noise
        return new

    def compare(row: int, written: Float[Tensor, "row pos d_model"]) -> None:
        if torch.equal(written[row], written[0]):
            same.add(row)

    hooks = []
    for layer, block in enumerate(blocks):
        hooks += [
            input_of(block.module, partial(push, 1 + layer)),
            input_of(block.out_projection, partial(push, 1 + n + layer)),
            output_of(block.out_projection, partial(compare, 1 + n + layer)),
        ]
    ids = [0 if model.has_vision and token == model.image_token_id else token for token in (1, 2)]
    ids = ids[: model.context_length]
    probe = Prompt.from_token_ids(ids, id="load check", text_only=True)
    with torch.no_grad(), attached(model, hooks):
        inputs = model.inputs([probe] * (1 + 2 * n)).inputs
        logits = run_pass(model, {**inputs, "use_cache": False, **model.last_logits_only()}).logits[:, -1]
    if logits[0].min() == logits[0].max():
        return  # an unembedding of zeros: nothing can move it
    still = [row for row in range(1, 1 + 2 * n) if row not in same and torch.equal(logits[row], logits[0])]
    if still:
        layer = (still[0] - 1) % n
        where = "the heads' outputs" if still[0] > n else "the residual stream"
        raise ValueError(
            f"{type(model.hf).__name__}: {where} can be changed at layer {layer} and no logit moves ({len(still)} of "
            f"{2 * n} places), so the modules that edits attach to are not what it computes with. Load the plain "
            "transformers model, not a fused or wrapped one."
        )

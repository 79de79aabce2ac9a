"""Slow, obvious twins: what the fan-out computes, by TransformerLens's own hooks, one head at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import interp


@torch.no_grad()
def bridge_loop(
    model: interp.Model,
    p: interp.Prompt,
    how: str,
    last: int,
    means: Float[Tensor, "layer head d_head"] | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
) -> Float[np.ndarray, " branch"]:
    """First answer's logit minus the second's, when each (layer, head) is ablated at the ``last`` positions.

    One ``run_with_hooks`` for each head; ``means`` for how="mean"; all heads by default.
    """
    ids = torch.tensor([p.token_ids])
    first, second = (forms[0] for forms in p.answers.values())
    heads = heads or [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    values = np.empty(len(heads), dtype=np.float32)
    for i, (layer, head) in enumerate(heads):

        def hook(z, hook, layer=layer, head=head):
            z = z.clone()
            if how == "zero":
                z[:, -last:, head] = 0
            elif how == "mean_of_others":
                others = [h for h in range(z.shape[2]) if h != head]
                z[:, -last:, head] = z[:, -last:, others].mean(2)
            else:
                z[:, -last:, head] = means[layer, head]
            return z

        logits = model.bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook)])
        values[i] = logits[0, -1, first] - logits[0, -1, second]
    return values


@torch.no_grad()
def bridge_means(
    model: interp.Model, reference: Sequence[interp.Prompt], last: int
) -> Float[Tensor, "layer head d_head"]:
    """Each head's mean output over the ``last`` positions of prompts of one length, from ``run_with_cache``."""
    _, cache = model.bridge.run_with_cache(torch.tensor([r.token_ids for r in reference]))
    return torch.stack([cache[f"blocks.{n}.attn.hook_z"][:, -last:].mean((0, 1)) for n in range(model.n_layers)])

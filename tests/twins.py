"""Slow, obvious twins: what the fan-out computes, one head and one pass at a time."""

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


@torch.no_grad()
def released_formulas(model: interp.Model, examples: Sequence) -> dict[str, np.ndarray]:
    """What arXiv 2509.14837's code computes, one forward pass for each head: a hook before o_proj replaces head h by
    the mean of the others at every position; the softmax probability of the gold answer's first token is read at the
    end; a question counts as correct if the most probable token is one of the gold answer's."""
    layers = model.hf.model.language_model.layers
    n_heads, correct, p, p_without = model.n_heads, [], [], []
    for example in examples:
        inputs = {
            "input_ids": torch.tensor([example.prompt.token_ids]),
            "attention_mask": torch.ones(1, len(example.prompt), dtype=torch.long),
            "pixel_values": example.prompt.image.inputs["pixel_values"],
        }
        gold = list(example.prompt.answer_tokens("gold"))
        logits = model.hf(**inputs).logits[0, -1]
        correct.append(int(logits.argmax()) in gold)
        p.append(float(logits.softmax(-1)[gold].sum()))
        rows = np.zeros((len(layers), n_heads))
        for layer, block in enumerate(layers):
            for head in range(n_heads):

                def replaced(module, args, head=head):
                    z = args[0].unflatten(-1, (n_heads, -1)).clone()
                    others = [h for h in range(n_heads) if h != head]
                    z[:, :, head] = z[:, :, others].mean(2)
                    return (z.flatten(-2),)

                handle = block.self_attn.o_proj.register_forward_pre_hook(replaced)
                rows[layer, head] = float(model.hf(**inputs).logits[0, -1].softmax(-1)[gold].sum())
                handle.remove()
        p_without.append(rows)
    correct, p, p_without = np.array(correct), np.array(p)[:, None, None], np.array(p_without)
    return {
        "s_plus": np.maximum(0, p - p_without)[correct].mean(0),
        "s_minus": np.maximum(0, p_without - p)[~correct].mean(0),
        "signed_drop": (p - p_without).mean(0),
    }

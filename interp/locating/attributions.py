"""Estimates of what each head does, from a few passes: direct attribution, gradients, attention."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.fitting import frozen
from interp.interventions import stream_rewritten
from interp.locating.asked import Asked, measured
from interp.locating.exact import Effects
from interp.locating.relevance import relevance_rules
from interp.locating.rewriting import heads_rewritten
from interp.prompts import Prompt
from interp.reading import LogitDifference, attention_log_probs, attribute_heads, head_outputs

if TYPE_CHECKING:
    from interp.models import Model

STEPS = 5


def direct(asked: Asked) -> Effects:
    """What each head writes toward the clean answer at the last position, its way through later layers left out."""
    return attribute_heads(asked.model, asked.pairs.clean, asked.metric)


def direct_difference(asked: Asked) -> Effects:
    """The same on the clean prompt minus on the corrupt one, toward the same answer."""
    corrupt = attribute_heads(asked.model, asked.pairs.corrupt, asked.metric)
    return attribute_heads(asked.model, asked.pairs.clean, asked.metric) - corrupt


def attention(asked: Asked) -> Effects:
    """Attention from the last position to those whose tokens differ between the clean and the corrupt prompt."""
    found = []
    for i, (clean, corrupt) in enumerate(zip(asked.pairs.clean, asked.pairs.corrupt, strict=True)):
        twins = [corrupt.token_ids[place] for place in asked.pairs.places(i)]
        differ = [at for at, (a, b) in enumerate(zip(clean.token_ids, twins, strict=True)) if a != b]
        (read,) = attention_log_probs(asked.model, [clean], [[len(clean) - 1]], [[differ]])
        found.append(read[:, :, 0, 0].exp().numpy())
    return np.stack(found).astype(np.float32)


def attribution_patching(asked: Asked) -> Effects:
    """(z on the clean prompt - z on the corrupt one) times the gradient of the metric at the clean prompt: what a patch
    from the corrupt prompt would lose if the model were linear (Nanda 2023; Syed et al. 2023, arXiv 2310.10348)."""
    return _along(asked, [0.0])


def integrated_gradients(asked: Asked) -> Effects:
    """The same, with the gradient's mean over embeddings between the clean and the corrupt prompt's, in STEPS steps
    (Hanna et al. 2024, arXiv 2403.17806)."""
    for i, (clean, corrupt) in enumerate(zip(asked.pairs.clean, asked.pairs.corrupt, strict=True)):
        if len(clean) != len(corrupt):
            raise ValueError(
                f"pair {i} has {len(clean)} and {len(corrupt)} tokens; integrated gradients mix the embeddings of "
                "both, position by position. Take pairs of equal length, or method='attribution_patching'."
            )
    return _along(asked, [(step + 0.5) / STEPS for step in range(STEPS)])


def relevance(asked: Asked) -> Effects:
    """(z on the clean prompt - z on the corrupt one) times the relevance of z at the clean prompt: attribution patching
    with rules in place of gradients (:func:`relevance_rules`)."""
    with relevance_rules(asked.model):
        return _along(asked, [0.0])


def removal_by_gradient(model: Model, prompt: Prompt, metric: LogitDifference) -> Float[np.ndarray, "layer pos head"]:
    """What a gradient says that the metric loses when a head gives 0 at a position: z times its gradient there."""
    z, gradient = outputs_and_gradients(model, metric, [prompt])
    return (z * gradient).sum(-1)[0].numpy()


def _along(asked: Asked, shares: Sequence[float]) -> Effects:
    """Gradients at embeddings of which ``shares`` are the corrupt prompt's."""
    effects = np.full((len(asked.pairs), *asked.shape), np.nan, np.float32)
    for batch in asked.batches():
        clean, corrupt = ([side[i] for i in batch] for side in (asked.pairs.clean, asked.pairs.corrupt))
        z = torch.stack(head_outputs(asked.model, clean, None, len(batch)))  # [row, layer, pos, head, d_head]
        difference = (z - torch.stack(asked.corrupt_outputs(batch))).float()
        embedded = _embeddings(asked, clean, corrupt) if any(shares) else None
        total = torch.zeros_like(difference)
        for share in shares:
            mixed = None if embedded is None else embedded[0] + share * (embedded[1] - embedded[0])
            total += outputs_and_gradients(asked.model, asked.metric, clean, mixed)[1]
        product = (difference * total / len(shares)).sum(-1)  # [row, layer, pos, head]
        product[:, :, : asked.first_position(clean[0])] = 0
        effects[batch] = product.sum(2).numpy()
    return effects


def outputs_and_gradients(
    model: Model, metric: LogitDifference, clean: list[Prompt], embedded: Tensor | None = None
) -> tuple[Float[Tensor, "row layer pos head d_head"], Float[Tensor, "row layer pos head d_head"]]:
    """Every head's z and the metric's gradient by it, float32, on the host; with other embeddings, where there are any.
    Prompts of equal length, in one forward and one backward pass."""
    leaves: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}

    def watch(layer: int, z: Tensor) -> Tensor:
        outputs[layer] = z.detach()
        leaves[layer] = torch.zeros_like(z, requires_grad=True)
        return z + leaves[layer]

    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(frozen(model))
        if embedded is not None:
            stack.enter_context(stream_rewritten(model, 0, lambda hidden: embedded.to(hidden), counts=True))
        stack.enter_context(heads_rewritten(model, watch))
        measured(model, metric, clean).sum().backward()
    layers = range(model.n_layers)
    z = torch.stack([outputs[layer].float() for layer in layers], dim=1)
    return z.cpu(), torch.stack([leaves[layer].grad.float() for layer in layers], dim=1).cpu()


@torch.no_grad()
def _embeddings(asked: Asked, clean: list[Prompt], corrupt: list[Prompt]) -> tuple[Tensor, Tensor]:
    """What enters the first block, for both."""
    seen: list[Tensor] = []

    def look(hidden: Tensor) -> None:
        seen.append(hidden.detach().clone())

    with stream_rewritten(asked.model, 0, look, counts=True):
        asked.measured(clean)
        asked.measured(corrupt)
    return seen[0], seen[1]

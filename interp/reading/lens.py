"""The logit lens: what the model would say if it stopped after a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from interp.architecture import input_device, one_at_a_time
from interp.door import public
from interp.reading.residual import residual_states

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

_TOLERANCE = 0.02  # of a probability, between the lens at the last layer and the model


@public
@one_at_a_time
def lens(model: Model, prompt: Prompt | str, position: int = -1) -> pd.DataFrame:
    """The stream after each layer, through the final norm and the unembedding: which token it would be, and how
    probable the prompt's answers are (the logit lens).

    Args:
        model: asked as it is, with the edits that are on it.
        prompt: built with ``model.prompt``, or a text.
        position: of which token; by default the last, where the answer is read.

    Returns:
        One row for each layer, 0 to L: layer (0: the embedding; L: the model's own answer), token, probability, and
        a column for each answer, the probability of its first token.

    Raises:
        ValueError: a position that the prompt does not have, a model without a final norm, and one whose answer is not
            the unembedding of its last stream, within 0.02 of probability: the lens would show another model.

    Cost: two forward passes.

    Misleads: early layers write in a basis of their own, which the unembedding does not read; a token that is not there
    may be known.

    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).

    >>> interp.lens(model, model.prompt("Is ice cold? Answer Yes or No.", answers=("No", "Yes")))
    """
    asked = model.prompt(prompt) if isinstance(prompt, str) else prompt
    n, parts = len(asked), model.components
    if not -n <= position < n:
        raise ValueError(f"position={position}; expected one of the prompt's {n} tokens, from {-n} to {n - 1}.")
    if parts.final_norm is None:
        raise ValueError(f"{type(model.hf).__name__} has no final norm, through which a lens could look.")
    places = sorted({position % n, n - 1})  # the last is held against the model's own answer, whatever is asked for
    states = residual_states(model, [asked], [places])[0]  # [layer, place, d_model]
    weight = next(parts.unembedding.parameters())
    with torch.no_grad():
        logits = parts.unembedding(parts.final_norm(states.to(input_device(parts.unembedding), weight.dtype))).float()
    config = model.hf.config.get_text_config()
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    shares = logits.softmax(-1).cpu()
    off = float((shares[-1, -1] - model.final_logits([asked])[0].float().softmax(-1).cpu()).abs().max())
    if off > _TOLERANCE:
        raise ValueError(
            f"{type(model.hf).__name__}: the last layer through norm and unembedding is {off:.2g} of probability "
            "from the model's own answer; a lens would show another model."
        )
    shares = shares[:, 0]
    top = shares.max(-1)
    texts = [str(int(i)) if model.tokenizer is None else model.tokenizer.decode([int(i)]) for i in top.indices]
    frame = pd.DataFrame({"layer": range(len(shares)), "token": texts, "probability": top.values.numpy()})
    return frame.assign(**{word: shares[:, list(tokens)].sum(-1).numpy() for word, tokens in asked.answers.items()})

"""The answers of a model to items of any kind under tables of head factors: the passes behind the readings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.edits import heads_scaled
from interp.fitting import Factors, changed_heads
from interp.models import Model
from interp.prompts import Prompt
from probes.modulation.readings import Arrays, Item, ItemSet


def read_answers(model: Model, given: ItemSet, tables: Sequence[Factors], width: int) -> Arrays:
    """The arrays of :class:`Readings` for a batch of items under each table of factors, in float32: what the edit
    made of a table does, at every position. One pass of the batch for each table."""
    prompts = [given.prompts[i] for i in range(len(given))]
    tokens = [_tokens(item, prompt) for item, prompt in zip(given.items, prompts, strict=True)]
    found = {name: np.full((len(given), len(tables), width), np.nan, np.float32) for name in ("log_prob", "top")}
    found["rest_top"] = np.full((len(given), len(tables)), np.nan, np.float32)
    for column, table in enumerate(tables):
        with heads_scaled(model, changed_heads(table)):
            log_probs = model.final_logits(prompts, batch_size=len(prompts)).log_softmax(-1)
        for row, (of_prompt, own) in enumerate(zip(log_probs, tokens, strict=True)):
            log_prob, top, rest = _read(of_prompt, own)
            found["log_prob"][row, column, : len(own)] = log_prob
            found["top"][row, column, : len(own)] = top
            found["rest_top"][row, column] = rest
    return found


def _tokens(item: Item, prompt: Prompt) -> list[tuple[int, ...]]:
    """Token ids of the gold answer and of each other option; a token counts for the first of them that has it."""
    taken: set[int] = set()
    own = []
    for word in item.words:
        tokens = prompt.answer_tokens(word) if word in prompt.answers else ()
        own.append(tuple(token for token in tokens if token not in taken))
        taken |= set(tokens)
    if not own[0]:
        raise ValueError(
            f"question {item.id!r}: its prompt has no tokens of the gold answer {item.gold!r}; it has the answers "
            f"{sorted(prompt.answers)}. Name the gold answer among them."
        )
    return own


def _read(
    log_probs: Float[Tensor, " vocabulary"], own: Sequence[tuple[int, ...]]
) -> tuple[list[float], list[float], float]:
    of_options = [log_probs[list(tokens)] if tokens else None for tokens in own]
    rest = log_probs.clone()
    rest[[token for tokens in own for token in tokens]] = -torch.inf
    log_prob = [float("nan") if x is None else float(x.logsumexp(0)) for x in of_options]
    top = [float("nan") if x is None else float(x.max()) for x in of_options]
    return log_prob, top, float(rest.max())

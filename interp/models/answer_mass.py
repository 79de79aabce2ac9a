"""How much of the probability the answer tokens hold together: is an answer's first token what the model would say?

A logit difference between "Yes" and "No" exists for any prompt, also where the model would begin with "<think>" or
"The". A ranking, a bias, an effect then rest on tokens that are never said. So each of them carries this number, and
warns below 10 % with what the model would rather say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp.door import public
from interp.prompts import template_variables

if TYPE_CHECKING:
    from interp.models.model import Model
    from interp.prompts import Prompt
from interp.reports import LEAST, AnswerMass
from interp.reports.mass import _shown

MOST_PROMPTS = 64  # that are read, spread evenly over all

N_RATHER = 5


@public
def answer_mass(
    model: Model, prompts: Sequence[Prompt], words: Sequence[str] | None = None, *, batch_size: int = 8
) -> AnswerMass | None:
    """How much of the next token's probability the answers of the prompts hold.

    ``words``: which of the answers; by default all.

    ``model`` is asked as it is, edits that are on included. ``batch_size``: prompts in one pass.

    Returns:
        The mean and the least mass, as probabilities; None if the prompts have no answers.

    Cost: one forward pass for each of at most 64 prompts, spread over them.
    Misleads: it is of first tokens: two answers that begin alike share one.
    Source: ours.

    >>> interp.answer_mass(model, [prompt]).sentence()
    """
    return measured_mass(model, prompts, words, batch_size=batch_size)


def measured_mass(
    model: Model,
    prompts: Sequence[Prompt],
    words: Sequence[str] | None = None,
    *,
    batch_size: int = 8,
    most: int = MOST_PROMPTS,
    held: Sequence[float] | np.ndarray | None = None,
    warn: bool = False,
) -> AnswerMass | None:
    """How much of the next token's probability the answers of the prompts hold, read off at most ``most`` of them.

    ``words``: which of the answers; by default all. None if the prompts have none. ``held``: by a study that read it
    of every prompt; prompts are then run only to say what the model would rather say. ``warn``: warn below 10 %. Costs
    one forward pass for each prompt read.
    """
    n = len(prompts)  # prompts may be built when they are read
    places = np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)) if n else []
    if held is not None and len(held) and np.mean(held) >= LEAST:
        named = words if words is not None else prompts[0].answers
        return AnswerMass(tuple(named), float(np.mean(held)), float(np.min(held)), len(held))
    read = [prompts[int(i)] for i in places]
    named = tuple(words if words is not None else dict.fromkeys(w for p in read for w in p.answers))
    groups = [sorted({t for w in named if w in p.answers for t in p.answers[w]}) for p in read]
    if not named or not all(groups):
        return None
    probabilities = model.final_logits(read, batch_size=batch_size).double().softmax(-1)
    found = mass_of_probabilities(model, probabilities, groups, named)
    if held is not None and len(held):
        found = replace(found, mean=float(np.mean(held)), least=float(np.min(held)), n=len(held))
    if warn:
        found.warn()
    return found


def mass_of_probabilities(
    model: Model, probabilities: torch.Tensor, groups: Sequence[Sequence[int]], words: Sequence[str]
) -> AnswerMass:
    """The same of probabilities that were read already, [example, vocabulary], with the token ids of each example's
    answers."""
    held = np.array([float(row[list(g)].sum()) for row, g in zip(probabilities, groups, strict=True)])
    others = probabilities.clone()
    for row, group in zip(others, groups, strict=True):
        row[list(group)] = 0.0
    top = others.mean(0).topk(min(N_RATHER, others.shape[1]))
    rather = tuple((_token(model, t), p) for p, t in zip(top.values.tolist(), top.indices.tolist(), strict=True) if p)
    low = not held.mean() >= LEAST
    return AnswerMass(
        words=tuple(words),
        mean=float(held.mean()),
        least=float(held.min()),
        n=len(held),
        rather=rather,
        remedy=_remedy(model, rather) if low else "",
    )


def _remedy(model: Model, rather: Sequence[tuple[str, float]]) -> str:
    """What to do, for this model: close the thought that it would begin, or use what it says."""
    template = model.chat_template if model.chat else None
    reads = template_variables(template) if template else frozenset()
    thinks = any("think" in token.casefold() for token, _ in rather[:2])
    if "enable_thinking" in reads and model.template_arguments.get("enable_thinking") is not False:
        return (
            "Its chat template can leave out the thought: template_arguments={'enable_thinking': False} "
            "(--template enable_thinking=false)."
        )
    if thinks:
        return "It begins with a thought: close it by beginning the reply, such as reply='<think>\\n\\n</think>\\n\\n'."
    return "Use answer words that it says, forms='both', or begin the reply (reply=...)."


def _token(model: Model, token: int) -> str:
    if model.tokenizer is None:
        return f"token {token}"
    text = model.tokenizer.decode([token])  # of a part of a character, or of nothing: as the vocabulary has it
    return _shown(text if text and "\ufffd" not in text else str(model.tokenizer.convert_ids_to_tokens(token)))

"""Yes/no questions asked: the first token's probabilities, and the reply in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from interp.door import public
from interp.models import Model
from interp.prompts import Prompt
from interp.reading import generate
from probes.negative_bias.answers import OUTSIDE, Answers, answers_from_arrays
from probes.questions import Instruction, Question, build_prompts


@public
def answer(
    model: Model,
    questions: Sequence[Question],
    instruction: Instruction | None = None,
    *,
    forms: str = "in_context",
    generate_tokens: int = 0,
    batch_size: int = 16,
) -> Answers:
    """Ask every question and read the answer from the first token's probabilities; with ``generate_tokens`` also from
    a greedy reply of that many tokens.

    ``model``, ``questions``: who is asked what. ``instruction``: how questions are put; None: the default
    :class:`Instruction`. ``forms``: which spellings of an answer count, as of :meth:`interp.Model.prompt`.
    ``batch_size``: prompts in one pass.

    Returns:
        Probabilities of the options [example, option], what was said, and the replies.

    Cost: a forward pass for each batch, and one for each token generated.
    Misleads: the first token alone is no answer of a model that reasons first: read ``option_mass``.
    Source: ours; the measures of it name theirs.
    """
    instruction = instruction or Instruction()
    prompts = build_prompts(model, questions, instruction, forms=forms)
    return answers_of_prompts(
        model, prompts, questions, instruction, generate_tokens=generate_tokens, batch_size=batch_size
    )


def answers_of_prompts(
    model: Model,
    prompts: Sequence[Prompt],
    questions: Sequence[Question],
    instruction: Instruction,
    *,
    generate_tokens: int = 0,
    batch_size: int = 16,
) -> Answers:
    """As :func:`answer`, for prompts built elsewhere: one for each question, whose answers are the options."""
    if not questions or len(prompts) != len(questions):
        raise ValueError(f"{len(questions)} questions and {len(prompts)} prompts; expected as many, and at least one.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected 1 or more.")
    order = by_length(prompts)
    batches = [[prompts[i] for i in order[s : s + batch_size]] for s in range(0, len(order), batch_size)]
    parts = [score_prompts(model, batch, instruction, generate_tokens) for batch in batches]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return answers_from_arrays(arrays, [questions[i] for i in order], instruction).select(np.argsort(order))


def by_length(prompts: Sequence[Prompt]) -> Int[np.ndarray, " example"]:
    """The order of the prompts by length, so that batches hold little padding."""
    return np.argsort([len(p) for p in prompts], kind="stable")


def score_prompts(
    model: Model, prompts: Sequence[Prompt], instruction: Instruction, generate_tokens: int = 0
) -> dict[str, np.ndarray]:
    """The arrays of one batch of answers; replies as their bytes one after another, beside the length of each."""
    arrays = arrays_of_logits(model.final_logits(list(prompts), batch_size=len(prompts)), prompts, instruction)
    if generate_tokens:
        replies = [r.encode() for (r,) in generate(model, prompts, generate_tokens, batch_size=len(prompts))]
        arrays["reply_bytes"] = np.frombuffer(b"".join(replies), dtype=np.uint8)
        arrays["reply_lengths"] = np.array([len(r) for r in replies])
    return arrays


def arrays_of_logits(
    logits: Float[Tensor, "example vocabulary"], prompts: Sequence[Prompt], instruction: Instruction
) -> dict[str, np.ndarray]:
    """Probability of each option and the most probable one, from the logits at the answer."""
    log_probs = logits.log_softmax(-1)
    found, top = np.full((len(prompts), len(instruction.options)), np.nan), np.full(len(prompts), OUTSIDE)
    for row, (prompt, best) in enumerate(zip(prompts, logits.argmax(-1).tolist(), strict=True)):
        for option, word in enumerate(instruction.options):
            tokens = prompt.answer_tokens(word)
            found[row, option] = log_probs[row, list(tokens)].logsumexp(0)
            if best in tokens:
                top[row] = option
    return {"log_probs": found, "top": top}

"""Standard tasks asked of a model: which items it gets right, by the likeliest letter or by its own reply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.models import Model
from interp.prompts import Prompt
from interp.reading import generate
from probes.negative_bias.asking import by_length
from probes.questions import StandardTask, TaskItem, is_target, last_number

ASK = {
    "gsm8k": "Solve the problem step by step, and end with #### and the answer as a number.",
    "mmlu": "Answer the question with the letter of the right choice.",
    "bbh": "Answer with what is asked for and nothing else: an option's letter, a word, or a number.",
}


def task_prompts(model: Model, task: StandardTask) -> list[Prompt]:
    """A prompt for each item of the task, without examples before it. Its answers are the letters of its choices."""
    return [
        model.prompt(
            "\n".join((ASK[task.format], f"Question: {item.text}", *_choices(item), "Answer:")),
            answers=item.letters,
            id=item.id,
            text_only=model.has_vision,
        )
        for item in task.items
    ]


def task_right(
    model: Model, task: StandardTask, prompts: Sequence[Prompt], *, batch_size: int = 8
) -> Float[np.ndarray, " example"]:
    """1 for each item that the model gets right, else 0, in the task's order; ``prompts``: of :func:`task_prompts`."""
    if task.is_choice:
        return _by_letter(model, task.items, prompts, batch_size)
    replies = [reply for (reply,) in generate(model, prompts, task.reply_tokens, batch_size=batch_size)]
    return np.array([is_right(task, reply, item) for reply, item in zip(replies, task.items, strict=True)], float)


def is_right(task: StandardTask, reply: str, item: TaskItem) -> bool:
    """Whether a reply is the answer: its last number is (GSM8K), or it is the target (BIG-Bench Hard)."""
    return last_number(reply) == item.answer if task.format == "gsm8k" else is_target(reply, item.answer)


def _by_letter(
    model: Model, items: Sequence[TaskItem], prompts: Sequence[Prompt], batch_size: int
) -> Float[np.ndarray, " example"]:
    """Whether the right letter has the highest log probability of an item's letters."""
    right = np.zeros(len(items))
    order = by_length(prompts).tolist()
    for places in (order[start : start + batch_size] for start in range(0, len(order), batch_size)):
        log_probs = model.final_logits([prompts[i] for i in places], batch_size=len(places)).log_softmax(-1)
        for i, row in zip(places, log_probs, strict=True):
            of_letters = [row[list(prompts[i].answer_tokens(letter))].logsumexp(0) for letter in items[i].letters]
            right[i] = items[i].letters[int(np.argmax(of_letters))] == items[i].answer
    return right


def _choices(item: TaskItem) -> list[str]:
    return [f"{letter}. {choice}" for letter, choice in zip(item.letters, item.choices, strict=True)]

"""How much of the probability the answer tokens hold together: is an answer's first token what the model would say?

A logit difference between "Yes" and "No" exists for any prompt, also where the model would begin with "<think>" or
"The". A ranking, a bias, an effect then rest on tokens that are never said. So each of them carries this number, and
warns below 10 % with what the model would rather say.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interp.callers import outside_package
from interp.chat_templates import template_variables
from interp.door import public

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompts import Prompt

LEAST = 0.1  # of the probability; with less the answers are not what the model answers with
MOST_PROMPTS = 64  # that are read, spread evenly over all
N_RATHER = 5


class AnswersUnlikely(UserWarning):
    """The answer tokens hold less than a tenth of the probability of the next token."""


@dataclass(frozen=True)
class AnswerMass:
    """The mean probability that the answers' tokens hold together, over ``n`` prompts; ``least`` is that of the prompt
    with the least. ``rather``: the other tokens of highest mean probability, as they are written, with it.
    ``remedy``: what may help this model."""

    words: tuple[str, ...]
    mean: float
    least: float
    n: int
    rather: tuple[tuple[str, float], ...] = ()
    remedy: str = ""

    @property
    def is_low(self) -> bool:
        """Below 10 %."""
        return not self.mean >= LEAST

    def sentence(self) -> str:
        """For a statement: the number, and what stands against it if it is low."""
        many = len(self.words) > 4
        words = f"of the prompts ({len(self.words)} words)" if many else " and ".join(map(_shown, self.words))
        if not self.is_low:
            return f"The options {words} hold {_percent(self.mean)} of the first token's probability (n = {self.n})."
        return (
            f"The options {words} hold only {_percent(self.mean)} of the first token's probability (n = {self.n}): "
            f"the model answers with something else, and these measures say little. {self.instead()}"
        ).rstrip()

    def instead(self) -> str:
        """What the model would rather say, and what to do."""
        rather = ", ".join(f"{token} {_percent(p)}" for token, p in self.rather)
        return f"{f'It would rather say {rather}. ' if rather else ''}{self.remedy}".strip()

    def warn(self) -> None:
        """Warn, if it is low, about the caller's line."""
        if self.is_low:
            warnings.warn(self.sentence(), AnswersUnlikely, stacklevel=outside_package())

    def to_dict(self) -> dict[str, Any]:
        """For a provenance; read back by :func:`mass_of`."""
        rather = [{"token": token, "probability": float(f"{p:.4g}")} for token, p in self.rather]
        return {
            "words": list(self.words),
            "mean": float(f"{self.mean:.4g}"),
            "least": float(f"{self.least:.4g}"),
            "n": self.n,
            "rather": rather,
            "remedy": self.remedy,
        }


def mass_of(provenance: Mapping[str, Any]) -> AnswerMass | None:
    """The number that a result carries in its provenance under "answer_mass"; None for one without."""
    found = provenance.get("answer_mass")
    if not isinstance(found, Mapping):
        return None
    rather = tuple((row["token"], row["probability"]) for row in found["rather"])
    return AnswerMass(tuple(found["words"]), found["mean"], found["least"], found["n"], rather, found["remedy"])


def with_mass(statement: Sequence[str], provenance: Mapping[str, Any], low_first: bool = False) -> list[str]:
    """The sentences of a result with that of its answer mass: right after the verdict if it is low (``low_first``:
    before it), else last; as they are if it is there already, or the result has none."""
    found, sentences = mass_of(provenance), list(statement)
    if found is None or found.sentence() in sentences:
        return sentences
    at = len(sentences) if not found.is_low else 0 if low_first else 1
    return [*sentences[:at], found.sentence(), *sentences[at:]]


@public
def answer_mass(
    model: Model, prompts: Sequence[Prompt], words: Sequence[str] | None = None, *, batch_size: int = 8
) -> AnswerMass | None:
    """How much of the next token's probability the answers of the prompts hold.

    ``words``: which of the answers; by default all. None if the prompts have none. Read off at most 64 of the prompts,
    spread over them: one forward pass each.

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


def _shown(text: str) -> str:
    """Escaped: no control or invisible character of a token reaches a terminal or a page as it is."""
    return repr(text) if text.isprintable() and not text.isspace() else ascii(text)


def _percent(share: float) -> str:
    return f"{share:.1%}"

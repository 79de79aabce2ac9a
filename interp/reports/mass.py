"""How much of the probability the answer tokens hold together, as a value that results carry.

:mod:`interp.models.answer_mass` measures it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.door import outside_package

LEAST = 0.1  # of the probability; with less the answers are not what the model answers with


class AnswersUnlikely(UserWarning):
    """The answer tokens hold less than a tenth of the probability of the next token."""


@dataclass(frozen=True)
class AnswerMass:
    """The mean probability that the answers' tokens hold together, over ``n`` prompts; ``least`` is that of the prompt
    with the least. ``rather``: the other tokens of highest mean probability, as they are written, with it.
    ``remedy``: what may help this model.

    ``words``: the answers, as the prompts name them.
    """

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


def _shown(text: str) -> str:
    """Escaped: no control or invisible character of a token reaches a terminal or a page as it is."""
    return repr(text) if text.isprintable() and not text.isspace() else ascii(text)


def _percent(share: float) -> str:
    return f"{share:.1%}"

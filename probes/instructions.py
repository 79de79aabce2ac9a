"""How a yes/no question is put: the instruction with its two option words, in either order, and where they stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from interp.model import Model
from interp.prompts import Prompt
from probes.questions import Question


@dataclass(frozen=True)
class Instruction:
    """How a question is put. ``text`` must name both options as whole words; ``layout`` places it."""

    text: str = "Answer the question with Yes or No."
    positive: str = "Yes"
    negative: str = "No"
    layout: str = "{instruction}\n{context}Question: {question}"
    system: str | None = None

    def __post_init__(self) -> None:
        if self.positive == self.negative or not self.positive.strip() or not self.negative.strip():
            raise ValueError(
                f"the options {self.positive!r} and {self.negative!r} must be two different words, not blank."
            )
        for word in (self.positive, self.negative):
            if not self.occurrences(word):
                raise ValueError(
                    f"the instruction {self.text!r} does not contain the option word {word!r}. NAS measures "
                    f"attention to both words in the instruction: name {self.positive!r} and {self.negative!r} there."
                )
        for slot in ("{instruction}", "{question}"):
            if self.layout.count(slot) != 1:
                raise ValueError(f"layout {self.layout!r} must contain {slot} exactly once.")
        if self.layout.count("{context}") > 1:
            raise ValueError(f"layout {self.layout!r} must contain {{context}} at most once.")

    def occurrences(self, word: str) -> list[tuple[int, int]]:
        """Character ranges of an option word in the text, as a whole word, case-sensitive."""
        return [m.span() for m in self._options().finditer(self.text) if m[0] == word]

    def swapped(self) -> Instruction:
        """The same instruction with the two option words in each other's place ("No or Yes")."""
        exchange = {self.positive: self.negative, self.negative: self.positive}
        return replace(self, text=self._options().sub(lambda m: exchange[m[0]], self.text))

    def _options(self) -> re.Pattern[str]:
        longest_first = sorted((self.positive, self.negative), key=len, reverse=True)  # "Not sure" before "Not"
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")

    def place(self, question: str, context: str = "") -> tuple[str, int, int]:
        """The layout filled in, and where the instruction and the question start in it.

        Slots are filled once and in one go, so braces or instructions inside a question stay as they are.
        """
        fill = {"{instruction}": self.text, "{question}": question, "{context}": context}
        text, starts = "", {}
        for piece in re.split(r"(\{instruction\}|\{question\}|\{context\})", self.layout):
            starts[piece] = len(text)
            text += fill.get(piece, piece)
        return text, starts["{instruction}"], starts["{question}"]


def build_prompts(
    model: Model,
    questions: Sequence[Question],
    instruction: Instruction | None = None,
    *,
    with_context: bool = True,
    forms: str = "in_context",
) -> list[Prompt]:
    """One prompt for each question, with spans ``instruction``, ``question``, ``positive`` and ``negative`` (the
    option words inside the instruction) and the two answers, the negative one first.

    ``forms="both"`` sums an answer word with and without a leading space. The log odds of a prompt are then
    ``LogitDifference(instruction.negative, instruction.positive)``.

    Raises ``ValueError`` where the tokenizer reads parts of both options as one token.
    """
    instruction = instruction or Instruction()
    prompts = []
    for question in questions:
        context = f"{question.context.strip()}\n" if with_context and question.context else ""
        text, at, start = instruction.place(question.text, context)
        spans = {
            "instruction": (at, at + len(instruction.text)),
            "question": (start, start + len(question.text)),
            "positive": [(at + a, at + b) for a, b in instruction.occurrences(instruction.positive)],
            "negative": [(at + a, at + b) for a, b in instruction.occurrences(instruction.negative)],
        }
        prompt = model.prompt(
            text,
            spans=spans,
            answers=(instruction.negative, instruction.positive),
            gold=instruction.positive if question.answer == "Yes" else instruction.negative,
            forms=forms,
            system=instruction.system,
            id=question.id,
        )
        if shared := set(prompt.span("positive")) & set(prompt.span("negative")):
            raise ValueError(
                f"{instruction.positive!r} and {instruction.negative!r} in {instruction.text!r} share a token of this "
                f"tokenizer, {prompt.tokens[min(shared)]!r}, so attention to them can't be told apart. Set them apart."
            )
        prompts.append(prompt)
    return prompts

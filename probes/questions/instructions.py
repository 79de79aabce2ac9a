"""How a yes/no question is put: the instruction with its two option words, in either order, and where they stand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp.door import made_by, public
from probes.questions.questions import Question

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt, System


@public
@made_by("Instruction(text)")
@dataclass(frozen=True)
class Instruction:
    """How a question is put. ``text`` must name all options as whole words; ``layout`` places it.

    ``positive`` is the option that is right where the gold answer is Yes. ``abstain`` is a third option ("I don't
    know"), right for no question. ``reply`` begins the assistant's reply. ``system``, ``chat`` and
    ``template_arguments`` are as in :meth:`Model.prompt`; None leaves them to the model. A base model is asked with
    ``chat=False``; a layout (or reply) that ends in "Answer:" helps it to answer.

    ``negative``: the other option.

    Raises:
        ValueError: options that are blank or alike, an option word that the text does not name, and a layout without
            its slots.
    """

    text: str = "Answer the question with Yes or No."
    positive: str = "Yes"
    negative: str = "No"
    layout: str = "{instruction}\n{context}Question: {question}"
    system: System = None
    abstain: str | None = None
    reply: str = ""
    chat: bool | None = None
    template_arguments: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        words = (self.positive, self.negative, *self.options[2:])
        named = " and ".join(map(repr, words))
        if len(set(words)) < len(words) or not all(word.strip() for word in words):
            number = "two" if len(words) == 2 else "three"
            raise ValueError(f"the options {named} must be {number} different words, not blank.")
        for word in words:
            if not self.occurrences(word):
                raise ValueError(
                    f"the instruction {self.text!r} does not contain the option word {word!r}. NAS measures "
                    f"attention to the words in the instruction: name {named} there."
                )
        for slot in ("{instruction}", "{question}"):
            if self.layout.count(slot) != 1:
                raise ValueError(f"layout {self.layout!r} must contain {slot} exactly once.")
        if self.layout.count("{context}") > 1:
            raise ValueError(f"layout {self.layout!r} must contain {{context}} at most once.")

    @property
    def options(self) -> tuple[str, ...]:
        """The answer words in the order of every result: negative, positive, and abstain if there is one."""
        return (self.negative, self.positive) + ((self.abstain,) if self.abstain is not None else ())

    def occurrences(self, word: str) -> list[tuple[int, int]]:
        """Character ranges of an option word in the text, as a whole word, case-sensitive."""
        return [m.span() for m in self._options().finditer(self.text) if m[0] == word]

    def swapped(self) -> Instruction:
        """The same instruction with the two option words in each other's place ("No or Yes"); abstain stays."""
        exchange = {self.positive: self.negative, self.negative: self.positive}
        return replace(self, text=self._options().sub(lambda m: exchange.get(m[0], m[0]), self.text))

    def _options(self) -> re.Pattern[str]:
        longest_first = sorted(self.options, key=len, reverse=True)  # "Not sure" before "Not"
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")

    def place(self, question: str, context: str = "") -> tuple[str, int, int]:
        """The layout filled in.

        Slots are filled once and in one go, so braces or instructions inside a question stay as they are.

        ``context``: a passage that stands before the question.

        Returns:
            The text, and the characters at which the instruction and the question start in it.
        """
        fill = {"{instruction}": self.text, "{question}": question, "{context}": context}
        text, starts = "", {}
        for piece in re.split(r"(\{instruction\}|\{question\}|\{context\})", self.layout):
            starts[piece] = len(text)
            text += fill.get(piece, piece)
        return text, starts["{instruction}"], starts["{question}"]


@public
def build_prompts(
    model: Model,
    questions: Sequence[Question],
    instruction: Instruction | None = None,
    *,
    with_context: bool = True,
    forms: str = "in_context",
) -> list[Prompt]:
    """One prompt for each question, with spans ``instruction``, ``question``, ``positive``, ``negative`` and, if there
    is one, ``abstain`` (the option words inside the instruction), and the answers as in ``Instruction.options``.

    ``model``: whose template is used. ``questions``: in their order. ``with_context``: put passages before them.

    ``forms="both"`` sums an answer word with and without a leading space. The log odds of a prompt are then
    ``LogitDifference(instruction.negative, instruction.positive)``.

    Raises:
        ValueError: the tokenizer reads parts of both options as one token.
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
        if instruction.abstain is not None:
            spans["abstain"] = [(at + a, at + b) for a, b in instruction.occurrences(instruction.abstain)]
        prompt = model.prompt(
            text,
            spans=spans,
            answers=instruction.options,
            gold=instruction.positive if question.answer == "Yes" else instruction.negative,
            forms=forms,
            system=instruction.system,
            reply=instruction.reply,
            chat=instruction.chat,
            template_arguments=instruction.template_arguments,
            id=question.id,
        )
        if shared := set(prompt.span("positive")) & set(prompt.span("negative")):
            raise ValueError(
                f"{instruction.positive!r} and {instruction.negative!r} in {instruction.text!r} share a token of this "
                f"tokenizer, {prompt.tokens[min(shared)]!r}, so attention to them can't be told apart. Set them apart."
            )
        prompts.append(prompt)
    return prompts

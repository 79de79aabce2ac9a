"""Questions about pictures put into words, and their answers into tokens, the same way for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from interp.models import Model
from interp.prompts import Prompt, image_token
from interp.prompts.answer_tokens import resolve_answers
from interp.vision import ImageLike
from probes.visual_semantics.questions.asked import NO, YES, Asked

Cases = Literal["both", "as_given"]

SINGLE_WORD = "Please answer with a single word."
LLAVA = "USER: {image}\n{question} {instruction}\nASSISTANT:"
"""V-SEAM's prompt of LLaVA 1.5 (its released code; arXiv 2509.14837), for models without a chat template."""
INSTRUCTBLIP = "Question: {question} {instruction}"
"""V-SEAM's prompt of InstructBLIP, for models that have the picture before all text."""
INSTRUCTBLIP_INSTRUCTION = "Answer using a single word."


@dataclass(frozen=True)
class VisualExample(Asked):
    """A question with its ``prompt``, whose answers are the options, the gold answer, "yes" and "no", each with the
    token ids that count as giving it; its span "question" holds the words. ``id``, ``question_text``, ``level``,
    ``kind``, ``split``, ``form``, ``image_id``, ``image_sha256`` and the others: as in :class:`Asked`."""

    prompt: Prompt = field(kw_only=True)

    @property
    def asked(self) -> Asked:
        """The question without its prompt."""
        return Asked(**{f.name: getattr(self, f.name) for f in fields(Asked)})


class Builder:
    """Puts questions into words and answers into tokens, the same way for all."""

    def __init__(
        self, model: Model, picture: Callable[[Asked], ImageLike], instruction: str | None, cases: Cases
    ) -> None:
        self.model, self.picture, self.instruction, self.cases = model, picture, instruction, cases
        self._tokens: dict[tuple[str, str], tuple[int, ...] | str] = {}

    def __call__(self, asked: Asked) -> VisualExample:
        prompt = self.prompt(asked)
        answers = self._answers(prompt, asked)
        if isinstance(answers, str):
            raise ValueError(f"question {asked.id!r}: {answers}")
        prompt = replace(prompt, answers=answers, gold=asked.gold)
        self.model.require_fits([prompt])
        return VisualExample(**asdict(asked), prompt=prompt)

    @property
    def asking(self) -> dict[str, Any]:
        """What the prompts depend on beside question and picture."""
        return {"instruction": self.instruction, "cases": self.cases, "wording": list(self._worded("{question}"))}

    def prompt(self, asked: Asked) -> Prompt:
        text, low, chat = self._worded(asked.question_text)
        try:
            return self.model.prompt(
                text,
                image=self.picture(asked),
                spans={"question": (low, low + len(asked.question_text))},
                chat=chat,
                id=asked.id,
            )
        except ValueError as error:
            raise ValueError(f"question {asked.id!r}: {error}") from error

    def reasons(self, asked: Sequence[Asked]) -> dict[str, str]:
        """Why questions can't be judged, by id; of none where that depends on each prompt."""
        prompt = self.prompt(asked[0])
        if not _tail(prompt, asked[0]):
            return {}
        found = {q.id: self._answers(prompt, replace(q, question_text=asked[0].question_text)) for q in asked}
        return {name: reason for name, reason in found.items() if isinstance(reason, str)}

    def _worded(self, question: str) -> tuple[str, int, bool]:
        """The text, where the question starts in it, and whether the chat template is used."""
        own = own_wording(self.model)
        if own is None:
            return f"{question} {self.instruction}" if self.instruction else question, 0, True
        wording, default = own
        sentence = default if self.instruction is None else self.instruction
        head, rest = wording.replace("{image}", image_token(self.model)).split("{question}")
        rest = rest.replace(" {instruction}", f" {sentence}" if sentence else "")
        return head + question + rest, len(head), False

    def _answers(self, prompt: Prompt, asked: Asked) -> dict[str, tuple[int, ...]] | str:
        """Token ids of each answer word, or why the question can't be judged by them."""
        words = dict.fromkeys([asked.gold, *asked.options, YES, NO])
        found = {word: self._of_word(prompt, asked, word) for word in words}
        for word in (asked.gold, YES, NO):
            if isinstance(reason := found[word], str):
                return reason
        for option in asked.options:
            if option.casefold() != asked.gold.casefold() and set(found[option]) & set(found[asked.gold]):
                return f"the gold answer {asked.gold!r} shares its first token with {option!r}, another option."
        return {word: tokens for word, tokens in found.items() if not isinstance(tokens, str)}

    def _of_word(self, prompt: Prompt, asked: Asked, word: str) -> tuple[int, ...] | str:
        tail = _tail(prompt, asked)
        key = (word, tail)
        if tail and key in self._tokens:
            return self._tokens[key]
        tokens = self._resolved(prompt, word)
        if tail:
            self._tokens[key] = tokens
        return tokens

    def _resolved(self, prompt: Prompt, word: str) -> tuple[int, ...] | str:
        """The first token of a word, and of it in the other case where that is one whole token."""
        tokenizer, why = self.model.tokenizer, ""
        tokens: list[int] = []
        others = {word.lower(), word[:1].upper() + word[1:]} - {word} if self.cases == "both" else set()
        for form in (word, *sorted(others)):
            try:
                (token,) = resolve_answers(tokenizer, prompt, [form])[form]
            except ValueError as error:
                why = why or str(error)
                continue
            if form == word or tokenizer.decode([token]).strip().casefold() == word.casefold():
                tokens.append(token)
        return tuple(dict.fromkeys(tokens)) or why


def own_wording(model: Model) -> tuple[str, str] | None:
    """V-SEAM's prompt of a model that is asked without a chat template, and its sentence; None where one is used."""
    processor = model.processor
    leads = hasattr(processor, "num_query_tokens") or type(processor).__name__ == "PaliGemmaProcessor"
    if model.chat and (getattr(processor, "chat_template", None) or (model.chat_template and not leads)):
        return None
    return (INSTRUCTBLIP, INSTRUCTBLIP_INSTRUCTION) if leads else (LLAVA, SINGLE_WORD)


def _tail(prompt: Prompt, asked: Asked) -> str:
    """What stands between the question and the answer; the first token of an answer depends on nothing before it."""
    _, _, tail = prompt.text.rpartition(asked.question_text)
    return tail

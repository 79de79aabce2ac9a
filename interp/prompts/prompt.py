"""A prompt as a value: token ids, and what is where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interp.door import as_integers, made_by, public
from interp.vision import PromptImage

CharSpan = tuple[int, int]
SpanLike = CharSpan | Sequence[CharSpan]
"""Half-open character range(s) in the user's text."""


def called(id: str, text: str) -> str:
    """A prompt as errors call it: by its id; only where it has none by how its text begins, which may be harmful."""
    return f"of prompt {id!r}" if id else repr(text[:60])


@public
@made_by("model.prompt(text)")
@dataclass(frozen=True, repr=False)
class Prompt:
    """A prompt as the model reads it, with what is where. Neither its text nor its tokens are in its repr.

    ``spans`` maps a name to token positions (sorted, from 0). Every prompt built from text has ``"text"`` (the user's
    text), ``"prefix"`` (what the template puts before it) and ``"suffix"`` (what it puts after it, up to the last
    token); ``"reply"`` is there where the beginning of a reply was given. ``answers`` maps an answer word to the token
    ids that count as giving it.

    ``lead`` is what the chat template writes between the prompt and the reply ("" or white space), None where it can't
    say or there is none.

    A prompt with a picture has ``image``, and the spans ``"image"`` (all positions that hold image features) and
    ``"after_image"`` (every position after the last of them). ``text_only``: it has none on purpose, for a model that
    sees.

    ``token_ids`` are what is run; ``tokens`` their texts, for figures. ``gold``: the right answer's word. ``id``: a
    name for tables. ``may_harm``: its text is a request that may be harmful, shown only where texts are
    asked for.

    Raises:
        ValueError: no tokens, positions or token ids that there are not, a gold answer that is none of the answers, and
            an image without its span.
    """

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...] = ()
    text: str = ""
    spans: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    answers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    gold: str | None = None
    id: str = ""
    image: PromptImage | None = None
    text_only: bool = False
    lead: str | None = None
    may_harm: bool = False

    def __post_init__(self) -> None:
        if not self.token_ids:
            raise ValueError("a prompt needs at least one token; an empty one was given.")
        for name, positions in self.spans.items():
            if bad := [p for p in positions if not 0 <= p < len(self.token_ids)]:
                raise ValueError(f"span {name!r} names position {bad[0]}; the prompt has {len(self.token_ids)} tokens.")
        for word, tokens in self.answers.items():
            if not tokens or min(tokens) < 0:
                raise ValueError(f"answer {word!r} has token ids {tuple(tokens)}; expected at least one, none below 0.")
        if self.gold is not None and self.gold not in self.answers:
            raise ValueError(f"gold answer {self.gold!r} is not one of the answers {sorted(self.answers)}.")
        if self.image is not None and not self.spans.get("image"):
            raise ValueError("a prompt with an image needs a span 'image': the positions that hold it.")

    def __repr__(self) -> str:
        picture = ", with a picture" if self.image is not None else ""
        return f"Prompt({self.id!r}, {len(self.token_ids)} tokens{picture})"

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def answer_position(self) -> int:
        """The last position: the model's next token is the answer."""
        return len(self.token_ids) - 1

    @property
    def instruction_end(self) -> int:
        """The last token of the user's text (``t_inst`` in arXiv 2507.11878)."""
        return self.span("text")[-1]

    def span(self, name: str) -> tuple[int, ...]:
        """Token positions of a named span.

        ``name``: one of ``spans``.

        Returns:
            Positions from 0, sorted.

        Raises:
            KeyError: no such span; lists the names there are.
        """
        if name not in self.spans:
            raise KeyError(f"this prompt has no span {name!r}; it has {sorted(self.spans)}.")
        return self.spans[name]

    def answer_tokens(self, word: str) -> tuple[int, ...]:
        """Tokens that count as an answer word, or as the gold answer for ``"gold"``.

        Returns:
            Their ids.

        Raises:
            KeyError: no such answer; lists those there are.
        """
        key = self.gold if word == "gold" and "gold" not in self.answers else word
        if key is None or key not in self.answers:
            raise KeyError(
                f"prompt {self.id!r} has no answer {word!r}; it has {sorted(self.answers)} and gold={self.gold!r}."
            )
        return self.answers[key]

    @classmethod
    def from_token_ids(
        cls, token_ids: Sequence[int], answers: Mapping[str, Sequence[int]] | None = None, **fields: Any
    ) -> Prompt:
        """A prompt for a model without tokenizer.

        ``token_ids`` from 0; ``answers``: word -> the token ids that count as giving it; ``fields``: others of a
        prompt.
        """
        ids = as_integers(token_ids, "token_ids")
        answers = {word: as_integers(tokens, f"answers[{word!r}]") for word, tokens in (answers or {}).items()}
        return cls(ids, tokens=tuple(map(str, ids)), answers=answers, **fields)

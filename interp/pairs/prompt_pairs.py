"""Pairs of prompts: the model answers one in one way, and its corrupt twin in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.door import public
from interp.pairs.alignment import DIFFERING, Places, aligned_places
from interp.prompts import Prompt


@public
@dataclass(frozen=True, eq=False)
class PromptPairs:
    """Clean prompts, and for each a corrupt one. Every prompt has two answers by name, the same two for all: the first
    is what the model should say to the clean prompt, the second what it should say to the corrupt one.

    ``align``: how the positions of a pair of unequal lengths go together: "differing" (the last tokens of what
    differs), or names of spans that all prompts have (roles); None: such a pair is refused.

    Raises ``ValueError`` for other numbers of prompts, for a pair of unequal lengths without ``align`` or that can't be
    aligned so, for a corrupt prompt that equals its clean one, and for answers that share a token.
    """

    clean: tuple[Prompt, ...]
    corrupt: tuple[Prompt, ...]
    align: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "clean", tuple(self.clean))
        object.__setattr__(self, "corrupt", tuple(self.corrupt))
        if len(self.clean) != len(self.corrupt) or not self.clean:
            raise ValueError(
                f"{len(self.clean)} clean and {len(self.corrupt)} corrupt prompts; expected as many of each, and one "
                "pair at least."
            )
        names = tuple(self.clean[0].answers)
        for i, (clean, corrupt) in enumerate(zip(self.clean, self.corrupt, strict=True)):
            if len(clean) != len(corrupt) and self.align is None:
                raise ValueError(
                    f"pair {i}: the clean prompt has {len(clean)} tokens and the corrupt one {len(corrupt)}, so a "
                    "position is not the same thing in both. Give prompts of equal length, or align='differing', or "
                    "the names of spans (roles) by which they are aligned."
                )
            if clean.token_ids == corrupt.token_ids:
                raise ValueError(f"pair {i}: the corrupt prompt equals the clean one, so nothing can be patched.")
            if len(names) != 2 or tuple(clean.answers) != names or tuple(corrupt.answers) != names:
                raise ValueError(
                    f"pair {i} has the answers {tuple(clean.answers)} and {tuple(corrupt.answers)}; expected the same "
                    "two names in every prompt: the clean prompt's answer and the corrupt one's."
                )
            first, second = (set(clean.answer_tokens(name)) for name in names)
            if first & second:
                raise ValueError(f"pair {i}: both answers are token {min(first & second)}; expected two that differ.")
        if self.align is not None:
            [self.places(i) for i in range(len(self))]

    def places(self, i: int) -> Places:
        """For each position of the clean prompt of pair i, the position of its corrupt twin that is the same thing."""
        if self.align is None or (self.align == DIFFERING and len(self.clean[i]) == len(self.corrupt[i])):
            return tuple(range(len(self.clean[i])))
        return aligned_places(self.clean[i], self.corrupt[i], self.align)

    @classmethod
    def from_token_ids(
        cls,
        clean: Sequence[Sequence[int]],
        corrupt: Sequence[Sequence[int]],
        answers: Sequence[tuple[int, int]],
    ) -> PromptPairs:
        """Pairs for a model without tokenizer; ``answers``: the clean and the corrupt answer's token, for each pair."""
        if not len(clean) == len(corrupt) == len(answers):
            raise ValueError(f"{len(clean)} clean, {len(corrupt)} corrupt, {len(answers)} answers; expected as many.")
        made: tuple[list[Prompt], list[Prompt]] = ([], [])
        for i, (first, second, (right, wrong)) in enumerate(zip(clean, corrupt, answers, strict=True)):
            named = {"clean": (right,), "corrupt": (wrong,)}
            made[0].append(Prompt.from_token_ids(first, named, gold="clean", id=str(i)))
            made[1].append(Prompt.from_token_ids(second, named, gold="corrupt", id=f"{i} corrupt"))
        return cls(tuple(made[0]), tuple(made[1]))

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, chosen: slice) -> PromptPairs:
        return PromptPairs(self.clean[chosen], self.corrupt[chosen], self.align)

    def reversed(self) -> PromptPairs:
        """Clean and corrupt exchanged; the answers keep their order, so that a metric keeps its sign."""
        return PromptPairs(self.corrupt, self.clean, self.align)

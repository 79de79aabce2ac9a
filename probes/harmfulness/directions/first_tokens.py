"""How refusals and accepting replies begin: two sets of first tokens, so that one logit difference reads refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@dataclass(frozen=True)
class Openings:
    """Token ids that begin a refusal, and such that begin an accepting reply.

    The rest says how they were found, where they were (:func:`find_openings`): the tokens as text; ``coverage``: which
    share of the "refused" and of the "accepted" replies begins with one of its own set; ``auroc``: how well their log
    odds tell these very replies apart (NaN where only one sort was there); ``how``: where the tokens come from.

    Raises:
        ValueError: no token on a side, or one on both.
    """

    refusing: tuple[int, ...]
    accepting: tuple[int, ...]
    refusing_texts: tuple[str, ...] = ()
    accepting_texts: tuple[str, ...] = ()
    coverage: Mapping[str, float] = field(default_factory=dict)
    auroc: float = float("nan")
    how: str = "Given."

    def __post_init__(self) -> None:
        if not self.refusing or not self.accepting or set(self.refusing) & set(self.accepting):
            raise ValueError(
                f"refusing={self.refusing}, accepting={self.accepting}; expected token ids in both, none in common."
            )

    @property
    def answers(self) -> dict[str, tuple[int, ...]]:
        """For prompts: ``LogitDifference("refusing", "accepting")`` is then the log odds of refusing."""
        return {"refusing": self.refusing, "accepting": self.accepting}

    def on(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts with these tokens as their answers "refusing" and "accepting"."""
        return [replace(p, answers=self.answers, gold=None) for p in prompts]

    def to_frame(self) -> pd.DataFrame:
        """One row for each token: side, token, text (empty where the tokens were given)."""
        rows = []
        for side, texts in (("refusing", self.refusing_texts), ("accepting", self.accepting_texts)):
            tokens = self.answers[side]
            rows += [(side, token, text) for token, text in zip(tokens, texts or [""] * len(tokens), strict=True)]
        table = pd.DataFrame(rows, columns=["side", "token", "text"])
        table.attrs["note"] = f"{self.how} Their log odds tell refused from accepted with AUROC {self.auroc:.2f}."
        return table

    def shown(self, model: Model) -> dict[str, Any]:
        """The tokens as text, their coverage and where they come from, for provenance; no pass."""
        texts = {name: [model.tokenizer.decode([t]) for t in tokens] for name, tokens in self.answers.items()}
        return texts | {"coverage": dict(self.coverage), "how": self.how}

"""What the study of conflicts found: what each head does to a hinted answer, after the hint and without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.door import made_by
from interp.rankings import HeadRanking, Measure, register
from interp.reports import Result
from interp.statistics import FEWEST, Claim, Estimate, paired_share_change, wilson_share
from probes.visual_semantics.questions import Asked

ASKED = ("plain", "conflict", "agree")
PUSHED = ("conflict", "agree", "plain")
FOLLOWS = register(
    Measure(
        "follows_hint",
        "What ablating the head takes away of logit(wrong answer) - logit(gold) where the wrong one is hinted, less "
        "what it takes away where the right one is: high, the head follows the words.",
        unit="logits",
        null=0.0,
        null_is="what is hinted changes nothing of what the head does",
        higher="the head follows the words",
    )
)
PLAIN = register(
    Measure(
        "plain_push",
        "What ablating the head takes away of the same difference on the plain question: high, the head pushes toward "
        "the wrong answer without any hint.",
        unit="logits",
        null=0.0,
        null_is="ablation changes nothing",
        higher="pushes toward the wrong answer",
        changes="the hint is left out",
        leaves="picture, question, answers",
    )
)


@made_by("rank_conflict_heads(model, conflict)")
@dataclass(frozen=True, eq=False, repr=False)
class ConflictHeads(Result, report="probes.visual_semantics.conflict.report"):
    """What each head does to the hinted answer, where it is hinted, where the right one is, and without a hint.

    Args:
        asked: the plain questions in words.
        hinted: the wrong answer that is suggested to each.
        is_right: of ``plain``, ``conflict`` and ``agree``, whether the most probable token is the gold answer's.
        follows: the same, whether it is the hinted answer's.
        push: of ``conflict``, ``agree`` and ``plain``, what ablating each head takes away of logit(hinted) -
            logit(gold).
        provenance: model, data, settings, versions.
    """

    asked: tuple[Asked, ...]
    hinted: tuple[str, ...]
    is_right: Bool[np.ndarray, "example three"]
    follows: Bool[np.ndarray, "example three"]
    push: Float[np.ndarray, "example three layer head"]
    provenance: Mapping[str, Any]

    def ranking(self) -> HeadRanking:
        """Heads by how much they follow the hint (``follows_hint``), with ``plain_push`` beside."""
        return HeadRanking(
            score="follows_hint",
            measures={"follows_hint": self.push[:, 0] - self.push[:, 1], "plain_push": self.push[:, 2]},
            example_ids=tuple(q.id for q in self.asked),
            descriptions={m.name: m for m in (FOLLOWS, PLAIN)},
            provenance={**self.provenance, "title": f"Heads that follow a hint: {self.provenance['model']['name']}"},
        )

    def counts(self) -> pd.DataFrame:
        """One row for each level and way of asking: n, accuracy and how often the hinted answer is given, with
        intervals over pictures."""
        rows = []
        levels = list(dict.fromkeys(q.level for q in self.asked))
        for level in [None, *levels] if len(levels) > 1 else [None]:
            chosen = np.array([level in (None, q.level) for q in self.asked])
            for i, name in enumerate(ASKED):
                row: dict[str, Any] = {"level": level or "all", "asked": name, "n": int(chosen.sum())}
                row |= wilson_share(self.is_right[chosen, i]).columns("accuracy")
                rows.append(row | wilson_share(self.follows[chosen, i]).columns("gives_hinted"))
        return pd.DataFrame(rows)

    def statement(self) -> list[str]:
        """What the hint does to the answers, and which heads follow it."""
        groups = [q.image_id or q.id for q in self.asked]
        n = len(set(groups))

        def change(given: Bool[np.ndarray, " example"], before: Bool[np.ndarray, " example"]) -> Estimate:
            return paired_share_change(given & ~before, ~given & before, groups)

        said = [
            Claim(
                "The wrong answer is given more often where it is hinted than where the right one is, by a share of",
                change(self.follows[:, 1], self.follows[:, 2]),
                n=n,
            ).sentence(),
            Claim(
                "A right hint changes accuracy by a share of", change(self.is_right[:, 2], self.is_right[:, 0]), n=n
            ).sentence(),
        ]
        if len(self.asked) < FEWEST:
            return said
        table = self.ranking().to_frame()
        shown = table[(table["q"] <= 0.05) & (table["score"] > 0)]
        names = f" ({', '.join(shown['label'][:5])}{' ...' if len(shown) > 5 else ''})" if len(shown) else ""
        return [*said, f"{len(shown)} of {len(table)} heads are shown to follow it{names} (n = {len(self.asked)})."]

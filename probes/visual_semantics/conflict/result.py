"""What the study of conflicts found: what each head does to a hinted answer, after the hint and without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.door import made_by
from interp.figures import head_label
from interp.rankings import HeadRanking, Measure, register
from interp.reports import Result
from interp.statistics import (
    ALPHA,
    FEWEST,
    Claim,
    Estimate,
    benjamini_hochberg,
    group_sums,
    mean_interval,
    paired_share_change,
    sign_flip_p,
    wilson_share,
)
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

    @property
    def pictures(self) -> list[str]:
        """The picture of each question: what is drawn and flipped as one."""
        return [q.image_id or q.id for q in self.asked]

    def heads(self) -> pd.DataFrame:
        """One row for each head, those that follow most first: ``follows_hint`` and ``plain_push`` with intervals, and
        p and q (over heads) of the first; whole pictures are drawn and flipped."""
        follows, plain = (x.reshape(len(x), -1) for x in (self.push[:, 0] - self.push[:, 1], self.push[:, 2]))
        places = list(np.ndindex(self.push.shape[2:]))
        columns: dict[str, Any] = {"label": [head_label(*place) for place in places]}
        columns |= {"layer": [layer for layer, _ in places], "head": [head for _, head in places]}
        for name, values in (("follows_hint", follows), ("plain_push", plain)):
            low, high = mean_interval(values, self.pictures)
            columns |= {name: values.mean(0), f"{name}_low": low, f"{name}_high": high}
        p = sign_flip_p(group_sums(follows.astype(np.float64), self.pictures))
        frame = pd.DataFrame(columns | {"p": p, "q": benjamini_hochberg(p), "n": len(follows)})
        return frame.sort_values("follows_hint", ascending=False, kind="stable", ignore_index=True)

    def counts(self) -> pd.DataFrame:
        """One row for each level and way of asking: n, accuracy and how often the hinted answer is given, with
        intervals over pictures."""
        rows, pictures = [], np.array(self.pictures)
        levels = list(dict.fromkeys(q.level for q in self.asked))
        for level in [None, *levels] if len(levels) > 1 else [None]:
            chosen = np.array([level in (None, q.level) for q in self.asked])
            for i, name in enumerate(ASKED):
                row: dict[str, Any] = {"level": level or "all", "asked": name, "n": int(chosen.sum())}
                for what, values in (("accuracy", self.is_right), ("gives_hinted", self.follows)):
                    row |= wilson_share(values[chosen, i], groups=pictures[chosen].tolist()).columns(what)
                rows.append(row)
        return pd.DataFrame(rows)

    def statement(self) -> list[str]:
        """What the hint does to the answers, and which heads follow it."""
        groups = self.pictures
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
        if n < FEWEST:
            return said
        table = self.heads()
        shown = table[(table["q"] <= ALPHA) & (table["follows_hint"] > 0)]
        names = f" ({', '.join(shown['label'][:5])}{' ...' if len(shown) > 5 else ''})" if len(shown) else ""
        told = f"{len(shown)} of {len(table)} heads are shown to follow it{names}"
        return [*said, f"{told} (n = {len(self.asked)}, {n} pictures)."]

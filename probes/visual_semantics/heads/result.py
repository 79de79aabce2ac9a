"""What a ranking of visual heads found: S+, S- and D of every head, and what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.door import made_by
from interp.rankings import HeadRanking
from interp.records import hash_json
from interp.reports import Result
from interp.statistics import FEWEST, split_half, wilson_share
from probes.scenes import LEVELS
from probes.visual_semantics.heads.scores import MEASURES, NAMES, RELU, SCORES, SIGNS, score_table
from probes.visual_semantics.questions import Asked
from probes.visual_semantics.questions.asked import YES


@made_by("rank_visual_heads(model, examples)")
@dataclass(frozen=True, eq=False, repr=False)
class VisualHeads(Result, report="probes.visual_semantics.heads.report"):
    """What ablating each head does to the gold answers, question by question: any score follows from it.

    Args:
        asked: the questions in words.
        is_correct: the most probable token of the whole vocabulary is the gold answer's first.
        option_prob, option_correct: the gold answer among its options alone (NaN where there is no list).
        gold_prob, gold_prob_ablated: probability of the first token of the gold answer, unedited and with each head
            ablated.
        yes_margin, yes_margin_ablated: logit(yes) - logit(no), in logits.
        provenance: model, data, settings, versions.

    In the methods ``score`` is "s_plus", "s_minus" or "signed_drop"; ``level`` ("object", ...), ``kind`` ("yes_no",
    "open") and ``gold`` (the gold answer, case aside) choose questions, None all of them.
    """

    asked: tuple[Asked, ...]
    is_correct: Bool[np.ndarray, " example"]
    option_prob: Float[np.ndarray, " example"]
    option_correct: Float[np.ndarray, " example"]
    gold_prob: Float[np.ndarray, " example"]
    gold_prob_ablated: Float[np.ndarray, "example layer head"]
    yes_margin: Float[np.ndarray, " example"]
    yes_margin_ablated: Float[np.ndarray, "example layer head"]
    provenance: Mapping[str, Any]

    @cached_property
    def drop(self) -> Float[np.ndarray, "example layer head"]:
        """What the head adds to the probability of the gold answer: p - p_h."""
        return self.gold_prob[:, None, None] - self.gold_prob_ablated

    @cached_property
    def yes_push(self) -> Float[np.ndarray, "example layer head"]:
        """What the head adds to logit(yes) - logit(no), whatever the gold answer is (logits)."""
        return self.yes_margin[:, None, None] - self.yes_margin_ablated

    @property
    def n_layers(self) -> int:
        return self.gold_prob_ablated.shape[1]

    @property
    def n_heads(self) -> int:
        """Heads of each layer."""
        return self.gold_prob_ablated.shape[2]

    @property
    def levels(self) -> tuple[str, ...]:
        """Object, attribute, relationship, then others in the order of their first question."""
        there = dict.fromkeys(q.level for q in self.asked)
        return (*(level for level in LEVELS if level in there), *(level for level in there if level not in LEVELS))

    @cached_property
    def pictures(self) -> np.ndarray:
        """The picture of each question: what is drawn and flipped as one."""
        return np.array([q.image_id or q.id for q in self.asked])

    def chosen(
        self, level: str | None = None, kind: str | None = None, gold: str | None = None, score: str | None = None
    ) -> Bool[np.ndarray, " example"]:
        """Which questions are of a ``level`` and ``kind``, have this ``gold`` answer ("yes", "no"; case aside), and
        count for a ``score`` (S+: those answered correctly, S-: wrongly). None: any.

        Returns:
            [example].

        Raises:
            ValueError: a level or kind that no question has, and an unknown score.
        """
        mask = np.ones(len(self.asked), dtype=bool)
        for name, value in (("level", level), ("kind", kind)):
            if value is not None:
                of = [getattr(q, name) for q in self.asked]
                if value not in of:
                    raise ValueError(f"{name}={value!r}; the questions have {', '.join(map(repr, dict.fromkeys(of)))}.")
                mask &= np.array(of) == value
        if gold is not None:
            mask &= np.array([q.gold.casefold() == gold.casefold() for q in self.asked])
        if score is not None:
            _require_score(score)
            mask &= {"s_plus": self.is_correct, "s_minus": ~self.is_correct}.get(score, mask)
        return mask

    def change(self, score: str, chosen: Bool[np.ndarray, " example"]) -> Float[np.ndarray, "chosen layer head"]:
        """The change in a ``score``'s direction, of the questions in the mask ``chosen``: p - p_h, for S- p_h - p.

        Returns:
            [chosen example, layer, head], difference of probabilities.
        """
        drop = self.drop[chosen]
        return -drop if score == "s_minus" else drop

    def mean_score(
        self, score: str, level: str | None = None, kind: str | None = None, gold: str | None = None
    ) -> Float[np.ndarray, "layer head"]:
        """The ``score`` (S+, S- or D) of every head. ``level``, ``kind``, ``gold``: of the questions, None for all.

        Returns:
            [layer, head], in probability; NaN without a question that counts.
        """
        chosen = self.chosen(level, kind, gold, score)
        if not chosen.any():
            return np.full((self.n_layers, self.n_heads), np.nan)
        change = self.change(score, chosen).astype(np.float64)
        return (change if score == "signed_drop" else np.maximum(change, 0)).mean(0)

    def table(
        self, score: str, level: str | None = None, kind: str | None = None, gold: str | None = None
    ) -> pd.DataFrame:
        """The ``score`` of every head with its floor, intervals, p, q and yes push: see
        :func:`probes.visual_semantics.heads.scores.score_table`. ``level``, ``kind``, ``gold``: of the questions, None
        for all. Seconds, then kept.

        Raises:
            ValueError: no question counts.
        """
        chosen, key = self._some(score, level, kind, gold), (score, level, kind, gold)
        if key not in self._tables:
            of = self.change(score, chosen), self.yes_push[chosen], self.pictures[chosen]
            self._tables[key] = score_table(*of, relu=score in RELU)
        return self._tables[key].copy()

    @cached_property
    def _tables(self) -> dict[tuple[str | None, ...], pd.DataFrame]:
        """Those that were made: sign flips over hundreds of heads take seconds."""
        return {}

    def ranking(
        self, score: str, level: str | None = None, kind: str | None = None, gold: str | None = None
    ) -> HeadRanking:
        """One ``score`` as a ranking, over the questions that count for it: reports, comparison, files.

        Measures: the score; ``mean_change`` (not one-sided; p and q are its); ``floor`` (half the change's size: the
        score's mean for random signs); ``yes_push``. ``level``, ``kind``, ``gold``: of the questions, None for all.
        Raises ``ValueError`` where no question counts.
        """
        chosen = self._some(score, level, kind, gold)
        change = self.change(score, chosen)
        measures = {score: np.maximum(change, 0), "mean_change": change, "floor": np.abs(change) / 2}
        if score == "signed_drop":
            measures = {score: change}
        measures["yes_push"] = self.yes_push[chosen]
        group = {"score": score, "level": level, "kind": kind, "gold": gold, "n": int(chosen.sum())}
        which = ", ".join(filter(None, [level, (kind or "").replace("_", "/"), gold and f"gold {gold}"])) or "all"
        caveats = list(self.provenance["caveats"])
        if chosen.sum() < FEWEST:
            caveats.insert(0, f"Only {chosen.sum()} questions count for this score: it says little.")
        head = {"run_id": hash_json([self.provenance["run_id"], group])[:12], "group": group, "caveats": caveats}
        model = self.provenance["model"]["name"]
        return HeadRanking(
            score=score,
            measures=measures,
            example_ids=tuple(q.id for q, is_in in zip(self.asked, chosen, strict=True) if is_in),
            descriptions={m.name: m.worded(sign=SIGNS[score]) for m in MEASURES if m.name in measures},
            provenance={**self.provenance, **head, "title": f"{NAMES[score]} of {model}, {which} questions"},
            tested_by={} if score == "signed_drop" else {score: "mean_change"},
        )

    def top(
        self, score: str, k: int = 10, level: str | None = None, kind: str | None = None, by: str = "score"
    ) -> list[tuple[int, int]]:
        """(layer, head) of the ``k`` highest; equal ones in order of layer and head.

        Args:
            score: "s_plus", "s_minus" or "signed_drop".
            k: how many, 1 to the number of heads.
            level, kind: of the questions, None for all.
            by: the "score", its "size" (of signed drops, whatever their direction), or the "mean_change" of the
                questions that count for it, which is the score above its floor, doubled.

        Raises:
            ValueError: k or ``by`` out of range, and no question counts.
        """
        chosen = self._some(score, level, kind, None)
        if by not in ("score", "size", "mean_change"):
            raise ValueError(f"by={by!r}; expected 'score', 'size' or 'mean_change'.")
        means = self.change(score, chosen).mean(0) if by == "mean_change" else self.mean_score(score, level, kind)
        means = np.abs(means) if by == "size" else means
        if not 1 <= k <= means.size:
            raise ValueError(f"k={k}; expected 1 to {means.size}, the number of heads.")
        return [divmod(int(i), self.n_heads) for i in np.argsort(-means.ravel(), kind="stable")[:k]]

    def counts(self) -> pd.DataFrame:
        """One row for each level and kind: questions, pictures, how many are answered correctly and wrongly, accuracy
        (whole vocabulary) with Wilson's interval, accuracy among options, mean probability of the gold answer; of
        yes/no questions the shares of gold Yes and of Yes said; the split-half reliability of each score's order; and
        a ``flag`` where fewer than 10 count for a score."""
        rows = []
        for level in self.levels:
            of_level = self.chosen(level)
            kinds = list(dict.fromkeys(q.kind for q, is_in in zip(self.asked, of_level, strict=True) if is_in))
            for kind in [*kinds, None] if len(kinds) > 1 else kinds:
                rows.append(self._count(level, kind))
        return pd.DataFrame(rows)

    def _count(self, level: str, kind: str | None) -> dict[str, Any]:
        chosen = self.chosen(level, kind)
        right, n_right = self.is_correct[chosen], int(self.is_correct[chosen].sum())
        row: dict[str, Any] = {"level": level or "all", "kind": kind or "both", "n": int(chosen.sum())}
        row |= {"n_pictures": len(set(self.pictures[chosen])), "n_correct": n_right, "n_wrong": len(right) - n_right}
        row |= wilson_share(right).columns("accuracy")
        known = self.option_correct[chosen]
        row["accuracy_among_options"] = float(np.nanmean(known)) if np.isfinite(known).any() else np.nan
        row["gold_prob"] = float(self.gold_prob[chosen].mean())
        is_yes_no = kind == "yes_no"
        gold_yes = np.array([q.gold.casefold() == YES for q, is_in in zip(self.asked, chosen, strict=True) if is_in])
        row["gold_yes"] = float(gold_yes.mean()) if is_yes_no else np.nan
        row["says_yes"] = float((self.yes_margin[chosen] > 0).mean()) if is_yes_no else np.nan
        for score in SCORES:
            counted = self.chosen(level, kind, score=score)
            values = self.change(score, counted)
            values = values if score == "signed_drop" else np.maximum(values, 0)
            row[f"reliability_{score}"] = split_half(values).spearman_brown if counted.sum() >= 4 else np.nan
        few = [f"{n} {word}" for n, word in ((n_right, "correct"), (len(right) - n_right, "wrong")) if n < FEWEST]
        return row | {"flag": f"few: {', '.join(few)}" if few else ""}

    def _some(self, score: str, level: str | None, kind: str | None, gold: str | None) -> Bool[np.ndarray, " example"]:
        chosen, every = self.chosen(level, kind, gold, score), self.chosen(level, kind, gold)
        if not chosen.any():
            n_right = int(self.is_correct[every].sum())
            raise ValueError(
                f"{NAMES[score]} of level={level!r}, kind={kind!r}, gold={gold!r} has no question: {n_right} of "
                f"{every.sum()} are answered correctly, {every.sum() - n_right} wrongly. Ask more, or "
                f"{'easier' if score == 's_plus' else 'harder'} ones."
            )
        return chosen


def _require_score(score: str) -> None:
    if score not in SCORES:
        raise ValueError(f"score={score!r}; expected one of {', '.join(SCORES)}.")

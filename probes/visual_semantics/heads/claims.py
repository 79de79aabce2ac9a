"""What V-SEAM says of positive and negative heads, held against overlaps and ablations, claim by claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

import pandas as pd

from interp.door import public
from interp.statistics import ALPHA, Claim, Estimate
from probes.visual_semantics.heads.ablation_result import MEASURES, SetAblation
from probes.visual_semantics.heads.overlap import HeadOverlap
from probes.visual_semantics.heads.scores import NAMES

Verdict = Literal["shown", "not shown", "reversed", "not tested"]
PAPER, OURS = "V-SEAM", "ours"
EDIT_NAMES = {"zero": "zeroed", "mean_of_others": "replaced by the mean of the others"}


@dataclass(frozen=True)
class LevelClaim:
    """A sentence that may be true, the number that speaks of it, and what it says: "shown" where the number's 95 %
    interval lies on the claimed side of ``null``, "reversed" where it lies on the other, else "not shown".

    Args:
        text: the sentence.
        by: who says so.
        number: what the number is, in words.
        estimate: the number with its interval.
        null: its value by chance.
        claimed: "above" or "below" ``null``.
        p: of as much by chance, NaN where there is none.
        finest_p: the smallest that as many random sets can give; above 0.05 they are too few to show anything.
        two_sided: whether ``p`` is of as much either way (random sets of heads, which must hardly ever do as much also
            for "reversed"), or on the claimed side alone (levels shuffled).
        n: questions behind the number (0: not known).
    """

    text: str
    by: str
    number: str
    estimate: Estimate
    null: float
    claimed: Literal["above", "below"]
    p: float = float("nan")
    finest_p: float = 0.0
    two_sided: bool = False
    n: int = 0

    @property
    def verdict(self) -> Verdict:
        by_interval = Claim(self.number, self.estimate, self.null, self.claimed, fewest=0)
        tested = replace(by_interval, p=self.p)
        if tested.verdict == "too few":
            return "not tested"
        if (tested if self.two_sided else by_interval).is_reversed:
            return "reversed"
        return "shown" if tested.is_shown else "not shown"

    def sentence(self) -> str:
        """The claim, its verdict and its number."""
        n = f"n = {self.n}" if self.n else ""
        if self.verdict == "not tested":
            few = f"not tested, too few questions ({'; '.join(filter(None, [self.number, n]))})"
            return f"{self.text} ({self.by}): {few}."
        digits = ".1f" if self.null else "+.3f"
        against = f", against {self.null:.1f} by chance" if self.null else ""
        p = f"; p = {self.p:.3f}" if isfinite(self.p) else ""
        p += " (too few random sets to tell)" if self.finest_p > ALPHA + 1e-9 else ""
        n = f"; {n} questions" if n else ""
        said = "not shown to differ from chance" if self.verdict == "not shown" else self.verdict
        return f"{self.text} ({self.by}): {said}. {self.number}: {self.estimate:{digits}}{against}{p}{n}."


@public
def claims_of(overlaps: Sequence[HeadOverlap], ablation: SetAblation | None = None) -> list[LevelClaim]:
    """Every claim that the overlaps and the ablation can speak of, the paper's first.

    Args:
        overlaps: of rankings, each by one score.
        ablation: of sets of heads; without it the claims are about rankings alone.

    Misleads: a claim that can't be told is none: its sentence says so.
    Source: V-SEAM, arXiv 2509.14837; those about ablations are ours.
    """
    claims: list[LevelClaim] = []
    for overlap in overlaps:
        claims += _of_overlap(overlap)
    if ablation is not None:
        for edit in ablation.edits:
            claims += _of_ablation(ablation, edit)
    return sorted(claims, key=lambda claim: claim.by != PAPER)


def sentences_of(claims: Sequence[LevelClaim]) -> list[str]:
    """One sentence for each claim: its first number (the paper's way to ask, where there is one), and what the others
    say."""
    said = []
    for text, by in dict.fromkeys((c.text, c.by) for c in claims):
        first, *others = [c for c in claims if (c.text, c.by) == (text, by)]
        verdicts = [c.verdict for c in others]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
        said.append(first.sentence() + (f" Asked in other ways: {counts}." if others else ""))
    return said


def claims_frame(claims: Sequence[LevelClaim]) -> pd.DataFrame:
    """One row for each claim: claim, by, number, value with interval, n, null, p, verdict."""
    rows = [
        {"claim": c.text, "by": c.by, "number": c.number}
        | c.estimate.columns("value")
        | {"n": c.n, "null": c.null, "claimed": c.claimed, "p": c.p, "verdict": c.verdict}
        for c in claims
    ]
    return pd.DataFrame(rows)


def verdict_counts(claims: Sequence[LevelClaim]) -> pd.DataFrame:
    """How many ways to ask of each claim say "shown", "not shown", "reversed" or "not tested": one row a claim."""
    frame = claims_frame(claims)
    counts = pd.crosstab([frame["claim"], frame["by"]], frame["verdict"])
    verdicts = ["shown", "not shown", "reversed", "not tested"]
    order = list(dict.fromkeys(zip(frame["claim"], frame["by"], strict=True)))
    return counts.reindex(index=order, columns=verdicts, fill_value=0).reset_index()


def claim_tables(claims: Sequence[LevelClaim]) -> dict[str, pd.DataFrame]:
    """The tables of a report: verdicts counted, and every number."""
    frame = claims_frame(claims)
    frame.attrs["note"] = (
        "shown: the 95 % interval lies on the claimed side of the null, and random sets of heads (or shuffled levels) "
        "hardly ever do as much; reversed: it lies on the other side; not shown: not shown to differ from the null; "
        "not tested: too few questions."
    )
    return {"Verdicts": verdict_counts(claims), "Claims": frame}


def _of_overlap(overlap: HeadOverlap) -> list[LevelClaim]:
    positive, k = overlap.score == "s_plus", overlap.k
    kind = "Positive heads" if positive else "Negative heads"
    ranked = "" if overlap.by == "score" else " by their mean change"
    within, by_chance, claims = f"{kind} are shared within a level", overlap.expected, []
    for across in dict.fromkeys(across for across, _ in overlap.contrasts):
        of_heads, of_all = overlap.contrasts[across, "overlap"], overlap.contrasts[across, "spearman"]
        first = f"Of the first {k} heads{ranked}, {across} of a level share"
        between = f"Of the first {k} heads{ranked}, {across} of two levels share"
        less = f"Shared heads of the first {k}{ranked}, {across}: within a level less between levels"
        rank = f"Rank correlation over all heads{ranked}, {across}: within a level less between levels"
        n = of_heads.n_questions
        shared = (first, of_heads.within, by_chance, "above", of_heads.within_p)
        common = (between, of_heads.between, by_chance, "above", of_heads.between_p)
        ranks = (rank, of_all.difference, 0, "above", of_all.p)
        differ = f"{kind} differ between levels"
        if positive:
            claims += [
                LevelClaim(within, PAPER, *shared, n=n),
                LevelClaim(differ, PAPER, less, of_heads.difference, 0, "above", of_heads.p, n=n),
                LevelClaim(differ, PAPER, *ranks, n=n),
                LevelClaim(f"{kind} are shared by levels", OURS, *common, n=n),
            ]
        else:
            claims += [
                LevelClaim(f"{kind} generalise across levels", PAPER, *common, n=n),
                LevelClaim(within, OURS, *shared, n=n),
                LevelClaim(differ, OURS, *ranks, n=n),
            ]
    return claims


def _of_ablation(ablation: SetAblation, edit: str) -> list[LevelClaim]:
    claims = []
    for score in ablation.scores:
        n_random = min((len(ablation.columns(score, s, edit, "random")) for s in ablation.sources(score)), default=0)
        finest = 1 / (1 + n_random)
        for measure, what in MEASURES.items():
            for text, by, kind, subset, claimed in _ABLATIONS.get(score, ()):
                estimate, p = ablation.contrast(score, edit, measure, kind, subset)
                asked = "" if subset == "all" else f" of questions answered {subset}ly"
                number = f"{NAMES[score]} heads {EDIT_NAMES[edit]}, {what}{asked}, {_KINDS[kind].format(n_random)}"
                n = int(ablation.asked_in(score, subset).sum())
                claims.append(LevelClaim(text, by, number, estimate, 0.0, claimed, p, finest, two_sided=True, n=n))
    return claims


_KINDS = {
    "own": "change on their own level less that of random heads of the same layers ({} sets)",
    "cross": "change on the other levels less that of random heads of the same layers ({} sets)",
    "own less cross": "change on their own level less that on the others",
}
_ABLATIONS: Mapping[str, Sequence[tuple[str, str, str, str, Literal["above", "below"]]]] = {
    "s_plus": (
        ("Ablating positive heads does more harm than random heads", PAPER, "own", "all", "below"),
        ("Positive heads matter more to their own level than to others", PAPER, "own less cross", "all", "below"),
        ("A level's positive heads also carry the other levels", OURS, "cross", "all", "below"),
    ),
    "s_minus": (
        ("Ablating one level's negative heads helps on the other levels", PAPER, "cross", "all", "above"),
        ("Ablating one level's negative heads helps on the other levels", PAPER, "cross", "wrong", "above"),
        ("Ablating negative heads helps on their own level", OURS, "own", "all", "above"),
    ),
}

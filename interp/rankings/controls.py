"""What the other measures of a ranking say of its order."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp import statistics
from interp.figures import displayed
from interp.rankings.ranking import HeadRanking

_OVERLAP = ("overlap", "overlap_fraction", "overlap_expected", "overlap_p")

_MOST = 0.8  # of the first heads, that a sentence is said of

_VERDICTS = ("keeps_sign", "changes_sign", "unclear")


def control_summary(ranking: HeadRanking, k: int = 10) -> pd.DataFrame:
    """What each other measure says of the ranking, one row for each, the controls first.

    role: "control" (`HeadRanking.controls`) or "other measure", a quantity of its own. spearman: over all
    heads, with the ranked score. k: at most the number of heads. overlap, overlap_expected, overlap_p: heads
    of the first k that are also in this measure's own first k, and chance. sign_flips: how many of the first
    k have a mean of the opposite sign here. keeps_sign, changes_sign, unclear: the same with the intervals,
    see `interp.rankings.ranking.sign_verdict`; all four are NaN where one of the two has no sign. A control that
    should leave a real effect alone (answer order swapped) and instead flips signs shows that the score measured
    something else (position).
    """
    frame = ranking.to_frame()
    k = min(k, len(frame))
    order = frame["label"].tolist()
    rows = []
    controls = ranking.other_controls
    for name in (*controls, *(name for name in ranking.others if name not in controls)):
        ordered = frame.sort_values([name, "layer", "head"], ascending=[False, True, True])
        counts: dict[str, float] = dict.fromkeys(("sign_flips", *_VERDICTS), np.nan)
        if ranking.keeps_sign(name):
            score_sign = ranking.side_of_null(frame["score"].head(k), ranking.score)
            its_sign = ranking.side_of_null(frame[name].head(k), name)
            verdicts = ranking.verdicts_under(frame.head(k), name)
            counts = {"sign_flips": int((score_sign * its_sign < 0).sum())}
            counts |= {column: verdicts.count(column.replace("_", " ")) for column in _VERDICTS}
        role = "control" if name in controls else "other measure"
        spearman = _spearman(ranking.scores, ranking.measures[name])[0]
        row = {"measure": name, "role": role, "spearman": spearman, "k": k}
        overlap = _overlap_columns(statistics.top_k_overlap(order, ordered["label"].tolist(), k, len(order)))
        rows.append(row | overlap | counts)
    columns = ["measure", "role", "spearman", "k", *_OVERLAP, "sign_flips", *_VERDICTS]
    return pd.DataFrame(rows, columns=columns)


def plain_answer(ranking: HeadRanking, k: int = 10) -> str:
    """What the ranking is about, in one sentence, by its first control that has a sign: that of the first k heads most
    keep their sign under it, most change it, or neither. Empty without such a control, and for fewer than 10 examples.
    """
    summary = control_summary(ranking, k)
    signed = summary[(summary["role"] == "control") & summary["keeps_sign"].notna()]
    if signed.empty or ranking.n_examples < statistics.FEWEST:
        return ""
    row, described = signed.iloc[0], ranking.descriptions[signed["measure"].iloc[0]]
    changes = described.changes or "what that control changes"
    leaves = described.leaves or "what it leaves alone"
    kept, turned, n = int(row["keeps_sign"]), int(row["changes_sign"]), int(row["k"])
    score, control = displayed(ranking.score), displayed(str(row["measure"]))
    of = f"of the {n} heads with the highest {score}"
    for count, does, about, other in ((turned, "change", changes, leaves), (kept, "keep their", leaves, changes)):
        if count >= _MOST * n:
            first = f"{'All' if count == n else count} {of} {does} sign under {control}"
            return f"{first}: this ranking is about {about}, not about {other}."
    return (
        f"{kept} {of} keep their sign under {control} and {turned} change it: whether this ranking is about {leaves} "
        f"or about {changes} is not settled."
    )


def sign_keepers(ranking: HeadRanking, k: int = 20) -> list[str]:
    """Labels of the heads of the first k that keep their sign under every control that has one, intervals off zero.

    Empty without a control other than the ranked score.
    """
    frame = ranking.top(k)
    signed = [name for name in ranking.other_controls if ranking.keeps_sign(name)]
    keeps = [frame[f"{name}_verdict"] == "keeps sign" for name in signed]
    return frame.loc[np.logical_and.reduce(keeps), "label"].tolist() if keeps else []


def _spearman(a: Float[np.ndarray, "example layer head"], b: np.ndarray) -> tuple[float, float]:
    """Spearman correlation over heads of the two means, and its p; NaN where one of them is constant."""
    return statistics.spearman(*(array.astype(np.float64).mean(axis=0).ravel() for array in (a, b)))


def _overlap_columns(overlap: statistics.TopKOverlap) -> dict[str, float]:
    return dict(zip(_OVERLAP, overlap, strict=True))

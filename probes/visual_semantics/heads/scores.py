"""S+, S- and their evidence, head by head: how large they would be for noise, intervals, p and q.

Let x be an example's change in the direction of a score (for S+ the drop of the gold answer's probability, for S- its
rise). Then max(0, x) = (|x| + x) / 2, so the paper's score is half the mean size of the changes plus half their mean:
a head whose ablation moves answers up and down alike has a score above zero, and the larger the more it does anything.
Giving each example a random sign leaves the first half (the floor) and takes away the second, so the test of S above
its floor is the sign-flip test of the mean change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Float

from interp.figures import head_label
from interp.rankings import Measure, register
from interp.statistics import SEED, benjamini_hochberg, group_sums, mean_interval, sign_flip_p

if TYPE_CHECKING:
    pass


SCORES = ("s_plus", "s_minus", "signed_drop")

RELU = ("s_plus", "s_minus")

NAMES = {"s_plus": "S+", "s_minus": "S−", "signed_drop": "D"}

N_FLIPS = 2000  # behind the floor's quantiles

SIGNS = {"s_plus": "p - p_h", "s_minus": "p_h - p", "signed_drop": "p - p_h"}

MEASURES = tuple(
    register(Measure(name, meaning, unit=unit, range=ends, null=null, null_is=null_is, higher=higher))
    for name, meaning, unit, ends, null, null_is, higher in (
        (
            "s_plus",
            "S+: mean of max(0, p - p_h) over correctly answered questions, p being the probability of the first token "
            "of the gold answer and p_h the same with the head ablated: high, the head helps.",
            "probability",
            (0.0, 1.0),
            None,
            "noise alone gives the floor",
            "the head helps right answers",
        ),
        (
            "s_minus",
            "S-: mean of max(0, p_h - p) over wrongly answered questions: high, the head keeps the gold answer down.",
            "probability",
            (0.0, 1.0),
            None,
            "noise alone gives the floor",
            "the head keeps the gold answer down",
        ),
        (
            "signed_drop",
            "D: mean of p - p_h over all questions: above 0, the head helps; below, it hurts.",
            "difference of probabilities",
            (-1.0, 1.0),
            0.0,
            "ablation changes nothing on average",
            "the head helps the gold answer",
        ),
        (
            "mean_change",
            "Mean of {sign} over the same questions, both signs kept: 0 for a head without a direction.",
            "difference of probabilities",
            (-1.0, 1.0),
            0.0,
            "ablation changes nothing on average",
            "as the score, noise cancelled",
        ),
        (
            "floor",
            "Half the mean size of {sign}: what the score would be if each change had a random sign.",
            "probability",
            (0.0, 0.5),
            None,
            "it is itself what the score is compared with",
            "ablation changes more, in whatever direction",
        ),
        (
            "yes_push",
            "What the head adds to logit(yes) - logit(no), whatever the gold answer is (logits): a head of large push "
            "answers Yes (or No) to anything.",
            "logits",
            (None, None),
            0.0,
            "ablation changes nothing",
            "pushes toward yes",
        ),
    )
)

_FLAT = "example layer head -> example (layer head)"


def score_table(
    change: Float[np.ndarray, "example layer head"],
    yes_push: Float[np.ndarray, "example layer head"],
    groups: Sequence[str],
    relu: bool = True,
) -> pd.DataFrame:
    """One row for each head, highest score first.

    ``score``: mean of max(0, change) (``relu=False``: of the change) with its 95 % interval ``score_low``,
    ``score_high``. ``floor``: what it would be if each example's change had a random sign; ``floor_95``: its 95th
    percentile then. ``mean_change`` with its interval, sign-flip ``p`` and Benjamini-Hochberg ``q`` over heads.
    ``yes_push``: what the head adds to logit(yes) - logit(no), whatever is right. Examples of one group (a picture) are
    drawn, and flipped, together.
    """
    n, n_layers, n_heads = change.shape
    x = rearrange(change.astype(np.float64), _FLAT)
    scored = np.maximum(x, 0) if relu else x
    layer, head = (index.ravel() for index in np.indices((n_layers, n_heads)))
    columns = {
        "layer": layer,
        "head": head,
        "label": [head_label(*pair) for pair in zip(layer, head, strict=True)],
        "score": scored.mean(0),
    }
    ends = (0.0, 1.0) if relu else (-1.0, 1.0)
    columns["score_low"], columns["score_high"] = (np.clip(end, *ends) for end in mean_interval(scored, groups))
    if relu:
        floor = np.abs(x).mean(0) / 2
        columns |= {"floor": floor, "floor_95": floor + np.quantile(_flipped_means(x, groups), 0.95, axis=0) / 2}
    columns["mean_change"] = x.mean(0)
    columns["mean_change_low"], columns["mean_change_high"] = (np.clip(e, -1.0, 1.0) for e in mean_interval(x, groups))
    p = sign_flip_p(group_sums(x, groups), n_resamples=int(np.clip(100 * x.shape[1], 9_999, 50_000)))
    columns |= {"p": p, "q": benjamini_hochberg(p)}
    push = rearrange(yes_push.astype(np.float64), _FLAT)
    columns["yes_push"] = push.mean(0)
    columns["yes_push_low"], columns["yes_push_high"] = mean_interval(push, groups)
    frame = pd.DataFrame(columns | {"n": n})
    return frame.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def largest_by_chance(change: Float[np.ndarray, "example layer head"], groups: Sequence[str]) -> float:
    """The 95th percentile of the highest S of any head when each group's changes have a random sign."""
    x = rearrange(change.astype(np.float64), _FLAT)
    return float(np.quantile((np.abs(x).mean(0) / 2 + _flipped_means(x, groups) / 2).max(1), 0.95))


def _flipped_means(x: Float[np.ndarray, "example cell"], groups: Sequence[str]) -> Float[np.ndarray, "flip cell"]:
    sums = group_sums(x, groups)
    signs = np.random.default_rng(SEED).choice([-1.0, 1.0], size=(N_FLIPS, len(sums)))
    return signs @ sums / len(x)

"""From any scores of heads to factors of their outputs: what helps is turned up, what hurts is turned down.

Factors are an array [layer, head]; 1 leaves a head alone. The scores may come from anywhere: ablations of a
vision-language model, attention to an option word, a gradient. :func:`interp.fitting.modulation.as_edit` makes the
factors an edit, which can be applied, saved, folded into the weights and exported.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import Float

Factors = Float[np.ndarray, "layer head"]

LOW, HIGH = 0.0, 2.0
"""The limits of V-SEAM's released rule: a head is at most silenced or doubled."""


def factors_by_rule(
    scores: Float[np.ndarray, "layer head"], strength: float = 1.0, low: float = LOW, high: float = HIGH
) -> Factors:
    """clip(1 + strength x score, low, high) for every head.

    ``scores``: above 0 where the head helps, below where it hurts; of any unit. V-SEAM's released code (arXiv
    2509.14837) does this with the mean drop D of the gold answer's probability when the head is ablated, strength 1 and
    limits 0 and 2; how the paper itself picks a strength could not be read. Misleads: D of a single head is seldom
    above 0.02, and a strength of 1 then changes next to nothing (:func:`largest_change`); :func:`strength_for` gives
    the strength of a wanted change.

    Raises ``ValueError`` for scores that are not a finite [layer, head], and for limits that 1 is not between.
    """
    scores = _table("scores", scores)
    if not isfinite(strength):
        raise ValueError(f"strength={strength}; expected a finite number.")
    require_limits(low, high)
    return np.clip(1 + strength * scores, low, high)


def factors_top_k(
    positive: Float[np.ndarray, "layer head"],
    negative: Float[np.ndarray, "layer head"] | None,
    k: int,
    up: float = 1.5,
    down: float = 0.5,
) -> Factors:
    """``up`` for the k heads of highest ``positive`` score, ``down`` for the k of highest ``negative``; 1 elsewhere.

    ``negative``: how much a head hurts, high being bad (V-SEAM's S-); None: the negated ``positive``. A score of 0 or
    less counts for nothing, so fewer than k heads may change; a head that is among both, by two measures that
    disagree, is left alone. Equal scores keep the order of layer and head.

    Raises ``ValueError`` for k out of range, factors that are not finite, and tables of unlike shape.
    """
    positive = _table("positive", positive)
    negative = -positive if negative is None else _table("negative", negative)
    if positive.shape != negative.shape:
        raise ValueError(f"positive has shape {positive.shape} and negative {negative.shape}; expected one shape.")
    if not 1 <= k <= positive.size:
        raise ValueError(f"k={k}; expected 1 to {positive.size}, the number of heads.")
    if not (isfinite(up) and isfinite(down)):
        raise ValueError(f"up={up}, down={down}; expected finite factors.")
    helps, hurts = _first(positive, k), _first(negative, k)
    factors = np.ones(positive.shape)
    factors[helps & ~hurts] = up
    factors[hurts & ~helps] = down
    return factors


def strength_for(scores: Float[np.ndarray, "layer head"], largest: float) -> float:
    """The strength at which :func:`factors_by_rule` changes the head of largest score by ``largest``, so that scores of
    any unit can be tried alike. 0 where all scores are 0."""
    most = float(np.abs(_table("scores", scores)).max())
    return largest / most if most else 0.0


def largest_change(factors: Factors) -> float:
    """The largest |factor - 1|: 0, nothing is changed; 1, a head is silenced or doubled."""
    return float(np.abs(np.asarray(factors) - 1).max())


def changed_heads(factors: Factors) -> dict[tuple[int, int], float]:
    """(layer, head) -> factor, of the heads whose factor is not 1."""
    factors = _table("factors", factors)
    return {(int(a), int(b)): float(factors[a, b]) for a, b in np.argwhere(factors != 1)}


def random_factors(factors: Factors, n: int, seed: int = 0) -> list[Factors]:
    """Up to n tables with the same factors in the same layers, on heads drawn at random: the control of a choice.

    A layer's factors go to heads that were left alone, if there are as many, else to all of those and to random ones
    of the others; in a layer in which every head changes they are shuffled. No table is the given one, or comes twice,
    so that fewer come back where fewer exist.
    """
    factors = _table("factors", factors)
    rng = np.random.default_rng([seed, int((factors != 1).sum())])
    seen, found = {factors.tobytes()}, []
    for _ in range(20 * n):
        if len(found) == n:
            break
        drawn = np.ones(factors.shape)
        for layer, own in enumerate(factors):
            changed, others = np.flatnonzero(own != 1), np.flatnonzero(own == 1)
            if len(others) >= len(changed):
                places = rng.choice(others, len(changed), replace=False)
            else:
                places = np.concatenate([others, rng.choice(changed, len(changed) - len(others), replace=False)])
            drawn[layer, places] = own[rng.permutation(changed)]
        if drawn.tobytes() not in seen:
            seen.add(drawn.tobytes())
            found.append(drawn)
    return found


def require_limits(low: float, high: float) -> None:
    """Raise ``ValueError`` unless 1 lies between the limits."""
    if not (isfinite(low) and isfinite(high) and low <= 1 <= high):
        raise ValueError(f"low={low}, high={high}; expected finite limits with low <= 1 <= high.")


def _first(scores: np.ndarray, k: int) -> np.ndarray:
    """Which heads are the k first, of those above 0."""
    chosen = np.zeros(scores.size, dtype=bool)
    chosen[np.argsort(-scores, axis=None, kind="stable")[:k]] = True
    return chosen.reshape(scores.shape) & (scores > 0)


def _table(name: str, values: Any) -> np.ndarray:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(
            f"{name} has shape {table.shape} and {int((~np.isfinite(table)).sum())} values that are not finite; "
            "expected finite numbers [layer, head]: the mean over examples of a ranking's measure, for instance."
        )
    return table

"""Constants added to the logits of answer words: the simple rival of any change of heads.

A model that says yes too often, or "red" too often, is put right by a number for each word. What a modulation of heads
does beyond that is of heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.optimize import minimize

from probes.modulation.readings import Item, Readings

SPREAD = 1.0  # logits; the standard deviation of what an offset is expected to be, before anything is seen

Offsets = dict[tuple[str, str], float]  # kind of question, option (in lower case) -> logits


def fit_offsets(readings: Readings, spread: float = SPREAD) -> Offsets:
    """The offset of each option word that makes the gold answers most probable, yes/no and open questions apart.

    ``readings``: of the unedited model, one condition. Maximum likelihood of the first token over the whole vocabulary,
    with a normal prior of mean 0 and standard deviation ``spread`` (logits), so that a word that was seen twice gets
    little. For yes/no questions the two offsets count by their difference, and by their sum where the model says
    something else. Empty for items without options.
    """
    words = sorted({(item.kind, o.casefold()) for item in readings.items for o in item.options})
    if not words:
        return {}
    at, log_prob = (
        _places(readings.items, words, readings.log_prob.shape[2]),
        readings.log_prob[:, 0].astype(np.float64),
    )
    p = np.where(np.isnan(log_prob), 0.0, np.exp(log_prob))
    rest, gold, n = np.maximum(1 - p.sum(1), 1e-12), at[:, 0], len(at)

    def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
        padded = np.append(b, 0.0)  # the last is of what has no offset
        raised = p * np.exp(padded[at])
        z = rest + raised.sum(1)
        value = (np.log(z) - padded[gold]).sum() + (b**2).sum() / (2 * spread**2)
        slope = np.bincount(at.ravel(), (raised / z[:, None]).ravel(), len(padded))
        slope -= np.bincount(gold, minlength=len(padded))
        return value / n, (slope[:-1] + b / spread**2) / n

    found = minimize(loss, np.zeros(len(words)), jac=True, method="L-BFGS-B")
    return dict(zip(words, map(float, found.x), strict=True))


def offsets_of(items: Sequence[Item], offsets: Offsets, width: int) -> Float[np.ndarray, "example option"]:
    """The offsets in the order of the items' options; 0 for words without one."""
    words = list(offsets)
    return np.append([offsets[word] for word in words], 0.0)[_places(items, words, width)]


def offsets_frame(offsets: Offsets) -> pd.DataFrame:
    """One row for each kind of question and option."""
    rows = [{"kind": kind, "option": word, "offset_logits": value} for (kind, word), value in offsets.items()]
    return pd.DataFrame(rows, columns=["kind", "option", "offset_logits"])


def _places(items: Sequence[Item], words: Sequence[tuple[str, str]], width: int) -> Int[np.ndarray, "example option"]:
    """Where each option of each item stands in ``words``; one past the end: nowhere (a gold answer that is not offered
    as an option has no offset, since its word would give it away)."""
    number = {word: i for i, word in enumerate(words)}
    at = np.full((len(items), width), len(words))
    for row, item in enumerate(items):
        offered = {o.casefold() for o in item.options}
        for column, word in enumerate(item.words):
            if word.casefold() in offered:
                at[row, column] = number.get((item.kind, word.casefold()), len(words))
    return at

"""How many requests does a direction need, and does it help to fit it on whole pairs? Read on pairs held out.

Everything is computed from states that were read once, so a curve costs no pass. Ours; the paper (arXiv 2507.11878)
fits on 100 and 100 requests that were chosen by what the model did with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from sklearn.model_selection import GroupKFold

from interp.door import public
from interp.statistics import auroc, auroc_estimate, within_pairs
from probes.requests import (
    LEAST_REQUESTS,
    TEXT_CLASSIFIERS,
    RequestStates,
    Verdict,
    difference_of_means,
    require_both,
    whitened_difference,
    whole_pairs,
)

N_FOLDS = 5
PAIRS, BEHAVIOUR, ANY = "whole pairs", "refused and accepted", "no two of one pair"
"""What a direction is fitted on: both halves of pairs; harmful requests that were refused and harmless ones that were
accepted; as many of each, of different pairs."""
DIRECTION, WHITENED = "direction", "direction, whitened"


@public
def held_out_scores(
    states: RequestStates, position: str = "t_inst", seed: int = 0
) -> tuple[pd.DataFrame, Float[np.ndarray, "example score"]]:
    """Every pair judged by a direction, and by rivals, that were fitted on the other four fifths of the pairs.

    The layer is chosen anew in each fold, on the requests that fit (:func:`chosen_layer`), so no number is picked on
    the requests that it is of.

    Args:
        states: of requests; only whole pairs are used.
        position: "t_inst" or "t_post".
        seed: of the folds.

    Returns: a row for the direction, for its whitened reading (the mean over the upper half of the layers of the
    difference over the spread within the classes: :func:`probes.requests.whitened_difference`), and for each rival
    (words, characters, layer 0's mean over the text): score, within_pairs with interval, sign test and number of pairs,
    auroc with interval, n, n_fitted (on average), layers (of the folds); and the scores behind it [example, score], of
    the requests of :func:`paired_states` in their order.
    """
    states, positive, groups = paired_states(states)
    x, texts = states.at(position), np.array([r.text for r in states.requests], dtype=object)
    names = [DIRECTION, WHITENED, *TEXT_CLASSIFIERS]
    names += ["layer 0, mean over the text"] * (states.embedded is not None)
    scores, layers, fitted = np.full((len(texts), len(names)), np.nan), [], []
    for inside, outside in _folds(groups, seed):
        layer = chosen_layer(states, inside, positive, position)
        layers.append(layer)
        fitted.append(len(inside))
        scores[outside, 0] = _projected(x[:, layer], positive, inside, outside)
        scores[outside, 1] = _whitened(x, positive, inside, outside)
        for column, make in enumerate(TEXT_CLASSIFIERS.values(), start=2):
            scores[outside, column] = make().fit(texts[inside], positive[inside]).decision_function(texts[outside])
        if states.embedded is not None:
            scores[outside, -1] = _projected(states.embedded, positive, inside, outside)
    rows = []
    for name, score in zip(names, scores.T, strict=True):
        row: dict[str, Any] = {"score": name} | within_pairs(score, positive, groups).columns("within_pairs")
        row |= auroc_estimate(score, positive, groups).columns("auroc")
        row |= {"n": len(texts), "n_fitted": round(float(np.mean(fitted)))}
        rows.append(row | {"layers": ", ".join(map(str, layers)) if name == DIRECTION else ""})
    return pd.DataFrame(rows), scores


@public
def learning_curve(
    states: RequestStates,
    sizes: Sequence[int] = (30, 60, 90, 120, 180),
    verdicts: Mapping[str, Verdict] | None = None,
    *,
    position: str = "t_inst",
    n_draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """How well directions tell held-out pairs apart, by how many requests they were fitted on, and which.

    Of each fold's four fifths, ``n_draws`` times so many requests are drawn: :data:`PAIRS`, :data:`ANY` and, where
    ``verdicts`` says what the model did, :data:`BEHAVIOUR`. Words learn from the very same requests.

    Args:
        states: of requests; only whole pairs are used.
        sizes: requests to fit on, half of each kind; sizes that the folds do not have are left out.
        verdicts: request id -> what the model did with it; None: not observed.
        position: "t_inst" or "t_post".
        n_draws: draws for each fold.
        seed: of folds and draws.

    Returns a row for each size and way: n_fitted, fitted_on, within_pairs and auroc of the direction, each the mean
    over draws with _lowest and _highest of them (each draw judges every pair once), the same of words, and n_draws,
    n_pairs (held out).

    Misleads: lowest and highest say how much the choice of requests matters, not what other pairs would give: for that
    see the intervals of :func:`held_out_scores`.
    """
    states, positive, groups = paired_states(states)
    x, rows = states.at(position), []
    texts = np.array([r.text for r in states.requests], dtype=object)
    known = None if verdicts is None else np.array([verdicts.get(r.id, "unclear") for r in states.requests])
    ways = [PAIRS, ANY] + [BEHAVIOUR] * (known is not None)
    folds = list(_folds(groups, seed))
    for size in sizes:
        for way in ways:
            found: dict[str, list[float]] = {
                c: [] for c in ("within_pairs", "auroc", "words_within_pairs", "words_auroc")
            }
            for draw in range(n_draws):
                rng = np.random.default_rng((seed, draw))
                scores = np.full((len(texts), 2), np.nan)
                for inside, outside in folds:
                    chosen = _drawn(way, size, inside, positive, groups, known, rng)
                    if chosen is None:
                        break
                    layer = chosen_layer(states, chosen, positive, position)
                    scores[outside, 0] = _projected(x[:, layer], positive, chosen, outside)
                    words = next(iter(TEXT_CLASSIFIERS.values()))().fit(texts[chosen], positive[chosen])
                    scores[outside, 1] = words.decision_function(texts[outside])
                if np.isfinite(scores).all():
                    for prefix, score in zip(("", "words_"), scores.T, strict=True):
                        found[f"{prefix}within_pairs"].append(within_pairs(score, positive, groups).share.value)
                        found[f"{prefix}auroc"].append(float(auroc(score, positive)))
            if found["auroc"]:
                row: dict[str, Any] = {"n_fitted": size, "fitted_on": way}
                for name, values in found.items():
                    row |= {name: np.mean(values), f"{name}_lowest": min(values), f"{name}_highest": max(values)}
                rows.append(row | {"n_draws": len(found["auroc"]), "n_pairs": len(texts) // 2})
    return pd.DataFrame(rows)


def paired_states(states: RequestStates) -> tuple[RequestStates, Bool[np.ndarray, " example"], list[str]]:
    """The states of whole pairs, which of them are harmful, and the pair of each. Raises ``ValueError`` for fewer than
    10 pairs."""
    states = states.select(states.same_ending)
    whole = {r.id for r in whole_pairs(states.requests)}
    if len(whole) < 2 * LEAST_REQUESTS:
        raise ValueError(
            f"{len(whole) // 2} whole pairs (Request.pair; both ending in the common token); expected at least "
            f"{LEAST_REQUESTS}."
        )
    states = states.select(np.array([r.id in whole for r in states.requests]))
    return states, np.array([r.is_harmful for r in states.requests]), [r.pair for r in states.requests]


def chosen_layer(
    states: RequestStates, fitted: Int[np.ndarray, " fitted"], positive: Bool[np.ndarray, " example"], position: str
) -> int:
    """The layer above 0 of the highest AUROC on the requests of the fit themselves, each judged by a direction of the
    others (4 folds that keep pairs together)."""
    x, groups = states.at(position), [states.requests[i].group for i in fitted]
    require_both(positive[fitted])
    scores = np.zeros((len(fitted), x.shape[1]))
    folds = GroupKFold(min(4, len(set(groups))), shuffle=True, random_state=0)
    for inside, outside in folds.split(fitted, groups=groups):
        kinds = positive[fitted[inside]]
        if 0 < kinds.sum() < len(kinds):
            scores[outside] = _projected(x, positive, fitted[inside], fitted[outside])
    return 1 + int(auroc(scores[:, 1:], positive[fitted]).argmax())


def _projected(x: Any, positive: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Of some states on the direction of others, from 0 at the middle of its two means, 1 for the distance between
    them, so that folds can be put together. ``x`` [example, ..., d_model]."""
    difference = difference_of_means(x[inside], positive[inside])
    middle = (x[inside][positive[inside]].double().mean(0) + x[inside][~positive[inside]].double().mean(0)) / 2
    length = (difference**2).sum(-1).clamp_min(1e-30)
    return (((x[outside].double() - middle) * difference).sum(-1) / length).numpy()


def _whitened(x: Any, positive: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """As the guard's rule "whitened" reads some states, fitted on others."""
    upper = range(x.shape[1] // 2, x.shape[1])
    fitted = [whitened_difference(x[inside, layer], positive[inside]) for layer in upper]
    scores = [x[outside, layer].double() @ slope + start for layer, (slope, start) in zip(upper, fitted, strict=True)]
    return (sum(scores) / len(upper)).numpy()


def _folds(groups: Sequence[str], seed: int):
    return GroupKFold(N_FOLDS, shuffle=True, random_state=seed).split(groups, groups=groups)


def _drawn(
    way: str,
    size: int,
    inside: Int[np.ndarray, " inside"],
    positive: Bool[np.ndarray, " example"],
    groups: Sequence[str],
    verdicts: np.ndarray | None,
    rng: np.random.Generator,
) -> Int[np.ndarray, " drawn"] | None:
    """``size`` of the requests, half of each kind, in one of the three ways; None where there are not so many."""
    half = size // 2
    if way == BEHAVIOUR:
        assert verdicts is not None
        refused = inside[positive[inside] & (verdicts[inside] == "refused")]
        accepted = inside[~positive[inside] & (verdicts[inside] == "accepted")]
        if min(len(refused), len(accepted)) < half:
            return None
        return np.concatenate([rng.permutation(refused)[:half], rng.permutation(accepted)[:half]])
    pairs = rng.permutation(sorted({groups[i] for i in inside}))
    n = half if way == PAIRS else 2 * half
    if len(pairs) < n:
        return None
    place = {(groups[i], bool(positive[i])): i for i in inside}
    if way == PAIRS:
        return np.array([place[g, kind] for g in pairs[:n] for kind in (True, False)])
    return np.array([place[g, i % 2 == 0] for i, g in enumerate(pairs[:n])])

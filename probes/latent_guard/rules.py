"""What a guard decides by: folds, and the rules that make one decision of the layers' scores. Arrays alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from interp.statistics import auroc
from probes.latent_guard.readouts import DIGITS, Readout, fit_clusters, fit_probes, fit_whitened
from probes.requests import LEAST_REQUESTS, Request

Rule = Literal["paper", "calibrated", "best_layer", "logistic", "probe", "whitened", "layer_0"]
RULES: tuple[Rule, ...] = ("paper", "calibrated", "best_layer", "logistic", "probe", "whitened")  # not the control


class Decision(NamedTuple):
    """Harmful where ``scores @ weights >= threshold``. ``layer``: the only one that counts, if there is one."""

    weights: Float[np.ndarray, " layer"]
    threshold: float
    layer: int | None = None


def fit_readout(
    rule: Rule, x: Float[Tensor, "example layer d_model"], positive: Bool[np.ndarray, " example"]
) -> Readout:
    """What a rule reads off each layer."""
    return {"probe": fit_probes, "whitened": fit_whitened}.get(rule, fit_clusters)(x, positive)


def out_of_fold_scores(
    rule: Rule,
    x: Float[Tensor, "example layer d_model"],
    positive: Bool[np.ndarray, " example"],
    requests: Sequence[Request],
    n_folds: int,
    seed: int,
) -> Float[np.ndarray, "example layer"]:
    """Each example's scores by what was fitted on the folds that it is not in."""
    scores = np.full(x.shape[:2], np.nan)
    for fitted, held_out in folds_of(requests, positive, n_folds, seed):
        scores[held_out] = fit_readout(rule, x[fitted], positive[fitted]).scores(x[held_out])
    return scores


def folds_of(
    requests: Sequence[Request], positive: Bool[np.ndarray, " example"], n_folds: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, " fitted"], Int[np.ndarray, " held_out"]]]:
    """Pairs of fitted and held-out indices, stratified, pairs of requests kept together."""
    units = np.array([r.pair or r.id for r in requests])
    fewest = min(len(set(units[positive])), len(set(units[~positive])))
    if fewest < 2 or n_folds < 2:
        raise ValueError(
            f"n_folds={n_folds}, and the smaller class has {fewest} pairs or single requests; calibration without "
            "validation requests needs at least 2 of each. Give validation=, or other requests."
        )
    folds = StratifiedGroupKFold(min(n_folds, fewest), shuffle=True, random_state=seed)
    return folds.split(units, positive, units)


def decide(
    rule: Rule,
    scores: Float[np.ndarray, "example layer"],
    positive: Bool[np.ndarray, " example"],
    C: float = 1.0,
) -> Decision:
    """What a rule chooses, from scores by a readout that has not seen these examples. ``C``: of the logistic rule."""
    n_layers = scores.shape[1]
    if rule == "paper":
        return Decision(mean_of_blocks(n_layers), 0.0)
    if rule == "whitened":
        upper = np.arange(n_layers) >= n_layers // 2
        return Decision(upper / upper.sum(), 0.0)
    if rule == "logistic":
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=C, class_weight="balanced"))
        scaler, fitted = (step for _, step in regression.fit(scores[:, 1:], positive).steps)
        slopes = fitted.coef_[0] / scaler.scale_
        return Decision(np.concatenate([[0.0], slopes]), float(slopes @ scaler.mean_ - fitted.intercept_[0]))
    layer = {"calibrated": None, "layer_0": 0}.get(rule, -1)
    layer = _best_layer(scores, positive) if layer == -1 else layer
    weights = mean_of_blocks(n_layers) if layer is None else np.eye(n_layers)[layer]
    return Decision(weights, best_threshold(scores @ weights, positive), layer)


def best_threshold(scores: Float[np.ndarray, " example"], positive: Bool[np.ndarray, " example"]) -> float:
    """The threshold of the highest balanced accuracy for ``scores >= threshold``, in the middle of the widest gap
    between two scores where several are as good."""
    values = np.unique(scores)
    if len(values) == 1:
        return float(values[0])
    middles, gaps = (values[1:] + values[:-1]) / 2, np.diff(values)
    recall = (scores[positive][:, None] >= middles).mean(0)
    specificity = (scores[~positive][:, None] < middles).mean(0)
    balanced = recall + specificity
    best = np.flatnonzero(balanced > balanced.max() - 1e-9)
    return float(middles[best[gaps[best].argmax()]])


def mean_of_blocks(n_layers: int) -> Float[np.ndarray, " layer"]:
    """Weights that average layers 1 to L (outputs of blocks); the embedding counts nothing."""
    return np.concatenate([[0.0], np.full(n_layers - 1, 1 / (n_layers - 1))])


def require_enough(positive: Bool[np.ndarray, " example"], what: str) -> None:
    """Raise ``ValueError`` for fewer than 10 harmful or harmless requests."""
    for name, n in (("harmful", int(positive.sum())), ("harmless", int((~positive).sum()))):
        if n < LEAST_REQUESTS:
            raise ValueError(
                f"{n} {name} requests {what}; expected at least {LEAST_REQUESTS}: give {LEAST_REQUESTS - n} more."
            )


def require_rule(rule: str, position: str) -> None:
    """Raise ``ValueError`` for names that are not known."""
    if rule not in get_args(Rule):
        raise ValueError(f"rule={rule!r}; expected one of {get_args(Rule)}.")
    if position not in ("t_inst", "t_post"):
        raise ValueError(f"position={position!r}; expected 't_inst' or 't_post'.")


def _best_layer(scores: Float[np.ndarray, "example layer"], positive: Bool[np.ndarray, " example"]) -> int:
    """The layer above 0 of the highest AUROC; of several, the one whose classes lie furthest apart in units of their
    spread."""
    aurocs = auroc(scores[:, 1:], positive).round(DIGITS)
    above, below = scores[positive, 1:], scores[~positive, 1:]
    spread = np.sqrt((above.var(0) + below.var(0)) / 2)
    gap = (above.mean(0) - below.mean(0)) / np.where(spread > 0, spread, np.inf)
    return 1 + int(np.lexsort((gap, aurocs))[-1])

"""What a guard reads off a layer's state, one number for each: nearness to two means, or a trained linear probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from interp.door.brief import brief
from probes.requests import whitened_difference

DIGITS = 9  # of a score: states that are equal must score equal, whatever the order of the sums
PROBE_C = 0.03  # inverse of a probe's penalty


@dataclass(frozen=True, eq=False)
class ClusterReadout:
    """Cosine with the harmful mean less cosine with the harmless one (arXiv 2507.11878, Eq. 2), in float64."""

    kind: ClassVar[str] = "clusters"
    means: Float[Tensor, "2 layer d_model"]

    __repr__ = brief

    def scores(self, x: Float[Tensor, "example layer d_model"]) -> Float[np.ndarray, "example layer"]:
        above, below = torch.nn.functional.normalize(self.means.double(), dim=-1)
        scores = [
            torch.einsum("nld,ld->nl", torch.nn.functional.normalize(part.double(), dim=-1), above - below)
            for part in x.split(64)
        ]
        return torch.cat(scores).numpy().round(DIGITS)


@dataclass(frozen=True, eq=False)
class ProbeReadout:
    """The log odds that a linear probe of each layer gives (ours; the paper trains nothing), in float64."""

    kind: ClassVar[str] = "probes"
    slopes: Float[Tensor, "layer d_model"]
    intercepts: Float[Tensor, " layer"]

    __repr__ = brief

    def scores(self, x: Float[Tensor, "example layer d_model"]) -> Float[np.ndarray, "example layer"]:
        slopes = self.slopes.double()
        scores = [torch.einsum("nld,ld->nl", part.double(), slopes) for part in x.split(64)]
        return (torch.cat(scores) + self.intercepts.double()).numpy().round(DIGITS)


Readout = ClusterReadout | ProbeReadout


def fit_clusters(x: Float[Tensor, "example layer d_model"], positive: Bool[np.ndarray, " example"]) -> ClusterReadout:
    """Means of the positive and of the other examples, summed in float64: equal states have equal means."""
    mask = torch.from_numpy(positive)
    return ClusterReadout(torch.stack([x[m].double().mean(0).float() for m in (mask, ~mask)]))


def fit_probes(x: Float[Tensor, "example layer d_model"], positive: Bool[np.ndarray, " example"]) -> ProbeReadout:
    """Logistic regression on each layer's state: numbers scaled to unit variance, classes weighed alike, ridge penalty
    1 / :data:`PROBE_C` (the best of 0.003 to 0.1 across folds of Qwen2.5-Coder-0.5B's fitted requests)."""
    slopes, intercepts = [], []
    for states in x.double().unbind(1):
        regression = LogisticRegression(C=PROBE_C, class_weight="balanced", max_iter=1000)
        scaler, fitted = (step for _, step in make_pipeline(StandardScaler(), regression).fit(states, positive).steps)
        slope = fitted.coef_[0] / scaler.scale_
        slopes.append(slope)
        intercepts.append(fitted.intercept_[0] - slope @ scaler.mean_)
    return ProbeReadout(*(torch.from_numpy(np.array(part)).float() for part in (slopes, intercepts)))


def fit_whitened(x: Float[Tensor, "example layer d_model"], positive: Bool[np.ndarray, " example"]) -> ProbeReadout:
    """The difference of class means over the spread within the classes, for each layer
    (:func:`probes.requests.whitened_difference`)."""
    found = [whitened_difference(states, positive) for states in x.unbind(1)]
    return ProbeReadout(
        torch.stack([slope for slope, _ in found]).float(), torch.tensor([start for _, start in found]).float()
    )


def readout_from(kind: str, tensors: Mapping[str, Tensor]) -> Readout:
    """The readout whose fields were saved as ``tensors``; ``ValueError`` for a kind that is not known."""
    kinds = {of.kind: of for of in (ClusterReadout, ProbeReadout)}
    if kind not in kinds:
        raise ValueError(f"a readout of kind {kind!r}; expected one of {sorted(kinds)}.")
    return kinds[kind](*(tensors[name] for name in kinds[kind].__dataclass_fields__ if name != "kind"))

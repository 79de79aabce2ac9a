"""Residual states of requests at t_inst and t_post, and what separates two classes of them, layer by layer.

Layer index l is the input of block l (0: the embedding); the last is the output of the last block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from torch import Tensor

from interp.door import public
from interp.models import Model
from interp.prompts import Prompt, System
from interp.reading import residual_states, residual_sums
from interp.statistics import Estimate, auroc, auroc_estimate, auroc_interval
from probes.requests.prompts import build_request_prompts, positions_of, same_ending
from probes.requests.requests import Request, require_disjoint

CONFOUNDED = 0.6  # an AUROC at the embedding above this (or below 1 minus it): the classes end in other tokens


@dataclass(frozen=True, eq=False, repr=False)
class RequestStates:
    """What the model holds of each request: residual states at the end of the request and of the prompt.

    Args:
        requests: one for each example.
        t_inst: states at the request's last token [example, layer, d_model], float32, CPU.
        t_post: states at the prompt's last token, alike; those of ``t_inst`` without post-instruction tokens.
        same_ending: whether a request's last token is the most common one [example].
    """

    requests: tuple[Request, ...]
    t_inst: Float[Tensor, "example layer d_model"]
    t_post: Float[Tensor, "example layer d_model"]
    same_ending: Bool[np.ndarray, " example"]

    def __len__(self) -> int:
        return len(self.requests)

    def __repr__(self) -> str:
        n, n_layers, width = self.t_inst.shape
        return f"RequestStates({n} requests, {n_layers} layers of {width})"

    def at(self, position: str) -> Float[Tensor, "example layer d_model"]:
        """The states at ``position``, ``"t_inst"`` or ``"t_post"``. Raises ``ValueError`` for another."""
        if position not in ("t_inst", "t_post"):
            raise ValueError(f"position={position!r}; expected 't_inst' or 't_post'.")
        return getattr(self, position)

    def layer0_auroc(self, positive: Bool[np.ndarray, " example"]) -> float:
        """:func:`embedding_auroc` at t_inst: near 0.5, or two classes of these requests differ in how they end.
        ``positive``: whether each is of the first class."""
        return embedding_auroc(self.t_inst[:, 0].numpy(), np.asarray(positive), [r.group for r in self.requests])

    def select(self, which: Sequence[int] | Bool[np.ndarray, " example"]) -> RequestStates:
        """The states of some requests. ``which``: a mask [example], or their numbers from 0."""
        which = np.asarray(which)
        rows = np.flatnonzero(which) if which.dtype == bool else which.astype(int)
        index = torch.as_tensor(rows, dtype=torch.long)
        return replace(
            self,
            requests=tuple(self.requests[i] for i in rows),
            t_inst=self.t_inst[index],
            t_post=self.t_post[index],
            same_ending=self.same_ending[rows],
        )


@public
def read_states(
    model: Model,
    requests: Sequence[Request],
    *,
    system: System = None,
    post_instruction: bool = True,
    batch_size: int = 16,
) -> RequestStates:
    """The residual states of each request, as the only message of a conversation, at t_inst and t_post.

    Args:
        model: an instruction-tuned one; edits that are active act.
        requests: their texts must be there (not withheld).
        system: the system prompt; None: the template's own, False: none.
        post_instruction: False ends each prompt at the request's last token; t_post is then t_inst.
        batch_size: prompts in one pass.

    Cost: one forward pass for each batch. Memory: 2 x (layers + 1) x d_model float32 a request (180 kB for 24 x 896).

    Raises ``ValueError`` for a model without chat template, and withheld requests.
    """
    prompts = build_request_prompts(model, requests, system=system, post_instruction=post_instruction)
    states = residual_states(model, prompts, positions_of(prompts).both, batch_size=batch_size)
    return RequestStates(
        tuple(requests), states[:, :, 0].contiguous(), states[:, :, 1].contiguous(), np.array(same_ending(prompts))
    )


def separation(
    scores: Float[np.ndarray, "example layer"],
    positive: Bool[np.ndarray, " example"],
    groups: Sequence[str] | None = None,
) -> pd.DataFrame:
    """How well a score tells two classes apart at each layer: columns layer, auroc, auroc_low, auroc_high, n.

    0.5: not at all; below: the other way round. Intervals count ``groups`` (pairs), not examples.
    Raises ``ValueError`` for one class only, and for scores that are not finite.
    """
    require_both(positive)
    if not np.isfinite(scores).all():
        raise ValueError("some scores are not finite; expected numbers (0 for all where there is no direction).")
    low, high = auroc_interval(scores, positive, groups)
    columns = {"layer": np.arange(scores.shape[1]), "auroc": auroc(scores, positive)}
    return pd.DataFrame({**columns, "auroc_low": low, "auroc_high": high, "n": len(scores)})


@public
def separation_by_position(
    model: Model,
    fitted: Sequence[Request],
    tested: Sequence[Request],
    *,
    matched: bool = True,
    system: System = None,
    batch_size: int = 16,
) -> pd.DataFrame:
    """How well harmful and harmless requests are told apart at every position from t_inst to t_post, and every layer.

    Args:
        model: an instruction-tuned one.
        fitted: requests of both kinds, whose class means make a direction at each position and layer.
        tested: other requests of both kinds, which are projected on it.
        matched: leave out requests that end in another token than most.
        system: the system prompt; None: the template's own, False: none.
        batch_size: prompts in one pass.

    Returns a row for each position and layer, with ``position`` (0: t_inst), ``token``, and the columns of
    :func:`separation`: the AUROC on ``tested``. ``layer0_auroc`` (:func:`embedding_auroc`) and ``confounded``
    (:func:`is_confounded`), the same in every row, say how much of an ending is left.

    Cost: one forward pass for each request. Memory: two class means [layer, position, d_model] and the states of one
    batch.

    Raises ``ValueError`` for requests in both lists, and for one kind only in either.
    """
    require_disjoint(fitted, tested)
    requests = [*fitted, *tested]
    prompts = build_request_prompts(model, requests, system=system)
    positions = positions_of(prompts)
    kept = np.array(same_ending(prompts)) if matched else np.ones(len(requests), dtype=bool)
    harmful = np.array([r.is_harmful for r in requests])
    is_fitted = np.arange(len(requests)) < len(fitted)
    fit, test = np.flatnonzero(kept & is_fitted), np.flatnonzero(kept & ~is_fitted)
    for part in (fit, test):
        require_both(harmful[part])

    def chosen(which: Sequence[int]) -> tuple[list[Prompt], list[tuple[int, ...]]]:
        return [prompts[i] for i in which], [positions.of_prompt[i] for i in which]

    sums = residual_sums(model, *chosen(fit), harmful[fit].tolist(), batch_size=batch_size)
    difference = sums[True].mean - sums[False].mean
    unit = torch.nn.functional.normalize(difference, dim=-1, eps=1e-30)  # zero where all states are equal
    scores, embedded = [], []
    for part in np.split(test, range(batch_size, len(test), batch_size)):
        states = residual_states(model, *chosen(part), batch_size=batch_size)
        scores.append(torch.einsum("elpd,lpd->epl", states, unit).numpy())
        embedded.append(states[:, 0, 0].numpy())
    groups, scores = [requests[i].group for i in test], np.concatenate(scores)
    layer0 = embedding_auroc(np.concatenate(embedded), harmful[test], groups)
    tables = [
        separation(scores[:, i], harmful[test], groups).assign(position=i, token=token)
        for i, token in enumerate(positions.labels)
    ]
    table = pd.concat(tables, ignore_index=True).assign(layer0_auroc=layer0, confounded=is_confounded(layer0))
    return table[["position", "token", *(name for name in table if name not in ("position", "token"))]]


def embedding_auroc(
    embedded: Float[np.ndarray, "example d_model"], positive: Bool[np.ndarray, " example"], groups: Sequence[str]
) -> float:
    """How well the embedding of the last token alone tells the classes apart: the control for all that is read there.

    5-fold cross-validated AUROC of the projection on the difference of class means, ``groups`` (pairs) kept together;
    0.5 where all end in the same token, and where it came out below. NaN for fewer than 2 of a class.
    """
    n_folds = min(5, int(positive.sum()), int((~positive).sum()))
    if n_folds < 2:
        return float("nan")
    scores = np.zeros(len(embedded))
    for fit, test in StratifiedGroupKFold(n_folds, shuffle=True, random_state=0).split(embedded, positive, groups):
        if 0 < positive[fit].sum() < len(fit):
            above, below = (embedded[fit][mask].mean(0, dtype=np.float64) for mask in (positive[fit], ~positive[fit]))
            length = np.linalg.norm(above - below)
            scores[test] = (embedded[test] - (above + below) / 2) @ (above - below) / (length or 1.0)
    return max(0.5, float(auroc(scores, positive)))


def is_confounded(layer0_auroc: float) -> bool:
    """Whether the classes differ at the embedding already (an AUROC above 0.6): in the token that ends the request.
    What separates them at later layers may then be no more than that."""
    return abs(layer0_auroc - 0.5) > CONFOUNDED - 0.5


@public
def surface_baselines(requests: Sequence[Request], positive: Bool[np.ndarray, " example"]) -> pd.DataFrame:
    """What the text alone tells, without the model: AUROC of the length in words, of the last character, and of words
    (TF-IDF and logistic regression, 5-fold cross-validated, pairs kept together), each with its interval, and n.

    ``positive`` [example]: whether each of ``requests`` is of the first class. The AUROC of the length is the better of
    its two directions. Raises ``ValueError`` for fewer than 2 of a class.
    """
    require_both(positive)
    texts = [r.text for r in requests]
    groups = [r.group for r in requests]
    n_folds = min(5, int(positive.sum()), int((~positive).sum()))
    if n_folds < 2:
        raise ValueError(f"{int(positive.sum())} of {len(texts)} requests are positive; expected 2 of each class.")
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)

    def crossed(model) -> Estimate:
        predicted = cross_val_predict(model, texts, positive, cv=folds, groups=groups, method="predict_proba")
        return auroc_estimate(predicted[:, 1], positive, groups)

    last = TfidfVectorizer(analyzer=lambda text: [text.strip()[-1]], use_idf=False)
    length = auroc_estimate([len(text.split()) for text in texts], positive, groups)
    found = {
        "length in words": length if length.value >= 0.5 else Estimate(*(1 - length[i] for i in (0, 2, 1))),
        "last character": crossed(make_pipeline(last, LogisticRegression())),
        "words (TF-IDF)": crossed(words_classifier()),
    }
    rows = [{"baseline": name} | estimate.columns("auroc") for name, estimate in found.items()]
    return pd.DataFrame(rows).assign(n=len(texts))


def words_classifier():
    """The rival of every probe: logistic regression on TF-IDF of words and pairs of words (scikit-learn)."""
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000))


def require_both(positive: Bool[np.ndarray, " example"]) -> None:
    """Raise ``ValueError`` unless some are positive and some are not."""
    if not 0 < positive.sum() < len(positive):
        raise ValueError(f"{int(positive.sum())} of {len(positive)} requests are of the first class; expected both.")

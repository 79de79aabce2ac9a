"""Residual states of requests at t_inst and t_post, and the differences between two classes of them.

Layer index l is the input of block l (0: the embedding); the last is the output of the last block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.door import public
from interp.models import Model
from interp.prompts import Prompt, System
from interp.reading import residual_states, residual_sums
from interp.statistics import auroc_estimate
from probes.requests.classes import embedding_auroc, require_both, separation, words_of
from probes.requests.prompts import build_request_prompts, positions_of, same_ending
from probes.requests.requests import Request, is_confounded, require_disjoint

RIDGE = 1.0  # of a whitened difference, in mean variances within the classes


@dataclass(frozen=True, eq=False, repr=False)
class RequestStates:
    """What the model holds of each request: residual states at the end of the request and of the prompt.

    Args:
        requests: one for each example.
        t_inst: states at the request's last token [example, layer, d_model], float32, CPU.
        t_post: states at the prompt's last token, alike; those of ``t_inst`` without post-instruction tokens.
        same_ending: whether a request's last token is the most common one [example].
        embedded: the mean embedding of the request's tokens [example, d_model]: what its words are, in no order, before
            any layer. None where it was not read.
    """

    requests: tuple[Request, ...]
    t_inst: Float[Tensor, "example layer d_model"]
    t_post: Float[Tensor, "example layer d_model"]
    same_ending: Bool[np.ndarray, " example"]
    embedded: Float[Tensor, "example d_model"] | None = None

    def __len__(self) -> int:
        return len(self.requests)

    def __repr__(self) -> str:
        n, n_layers, width = self.t_inst.shape
        return f"RequestStates({n} requests, {n_layers} layers of {width})"

    def at(self, position: str) -> Float[Tensor, "example layer d_model"]:
        """The states at ``position``, ``"t_inst"`` or ``"t_post"``.

        Returns:
            [example, layer, d_model].

        Raises:
            ValueError: another position.
        """
        if position not in ("t_inst", "t_post"):
            raise ValueError(f"position={position!r}; expected 't_inst' or 't_post'.")
        return getattr(self, position)

    def layer0_auroc(self, positive: Bool[np.ndarray, " example"]) -> float:
        """:func:`embedding_auroc` at t_inst: near 0.5, or two classes of these requests differ in how they end.
        ``positive``: whether each is of the first class."""
        return embedding_auroc(self.t_inst[:, 0].numpy(), np.asarray(positive), [r.group for r in self.requests])

    def select(self, which: Sequence[int] | Bool[np.ndarray, " example"] | Int[np.ndarray, " row"]) -> RequestStates:
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
            embedded=None if self.embedded is None else self.embedded[index],
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
        tuple(requests),
        states[:, :, 0].contiguous(),
        states[:, :, 1].contiguous(),
        np.array(same_ending(prompts)),
        mean_embeddings(model, prompts),
    )


def mean_embeddings(model: Model, prompts: Sequence[Prompt]) -> Float[Tensor, "example d_model"]:
    """The mean embedding of each request's own tokens (the span "text"), float32, on the CPU. No pass."""
    table = model.hf.get_input_embeddings()
    with torch.no_grad():
        ids = [[p.token_ids[i] for i in p.span("text")] for p in prompts]
        means = [table(torch.tensor(row, device=model.device)).float().mean(0).cpu() for row in ids]
    return torch.stack(means)


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

    Returns:
        A row for each position and layer, with ``position`` (0: t_inst), ``token``, and the columns of
        :func:`separation`: the AUROC on ``tested``. ``layer0_auroc`` (:func:`embedding_auroc`) and ``confounded``
        (:func:`is_confounded`), the same in every row, say how much of an ending is left; ``words_auroc`` with its
        interval is the rival, :func:`words_of` as many texts.

    Raises:
        ValueError: requests in both lists, and one kind only in either.

    Cost: one forward pass for each request. Memory: two class means [layer, position, d_model] and the states of one
    batch.
    Misleads: where the classes end in different tokens, t_inst tells them apart by that.
    Source: positions of arXiv 2507.11878; the AUROC is ours.
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
    words = auroc_estimate(words_of([requests[i] for i in fit], [requests[i] for i in test]), harmful[test], groups)
    tables = [
        separation(scores[:, i], harmful[test], groups).assign(position=i, token=token)
        for i, token in enumerate(positions.labels)
    ]
    table = pd.concat(tables, ignore_index=True).assign(layer0_auroc=layer0, confounded=is_confounded(layer0))
    table = table.assign(**words.columns("words_auroc"))
    return table[["position", "token", *(name for name in table if name not in ("position", "token"))]]


def difference_of_means(
    states: Float[Tensor, " example *feature"], positive: Bool[np.ndarray, " example"]
) -> Float[Tensor, "*feature"]:
    """The mean of the positive examples less that of the others; over whole pairs the mean of their differences.

    Returns:
        [feature], float64, in the unit of the states.
    """
    mask = torch.from_numpy(np.asarray(positive, dtype=bool))
    return states[mask].double().mean(0) - states[~mask].double().mean(0)


def whitened_difference(
    states: Float[Tensor, "example d_model"], positive: Bool[np.ndarray, " example"]
) -> tuple[Float[Tensor, " d_model"], float]:
    """The difference of class means over the spread within the classes: linear discriminant analysis with a ridge of
    :data:`RIDGE` mean variances, solved in the space of examples (Woodbury), which are few.

    Returns:
        Slope [d_model] and intercept, float64: 0 is the middle of the two means, 1 their distance; zero where all
        states of each class are equal, as at the embedding of requests that end alike.

    Source: Friedman (1989), J. Am. Stat. Assoc. 84 (regularised discriminant analysis).
    """
    mask, x = torch.from_numpy(np.asarray(positive, dtype=bool)), states.double()
    above, below = x[mask].mean(0), x[~mask].mean(0)
    within = x - torch.where(mask[:, None], above, below)
    ridge, difference = RIDGE * float((within**2).sum()) / within.numel(), above - below
    if ridge == 0 or not difference.any():
        return torch.zeros_like(difference), 0.0
    inner = within @ within.T + len(x) * ridge * torch.eye(len(x), dtype=torch.float64)
    slope = (difference - within.T @ torch.linalg.solve(inner, within @ difference)) / ridge
    slope = slope / (slope @ difference)
    return slope, float(-slope @ (above + below) / 2)

"""What each head of a model does to an answer, over a set of prompts: total, direct, and token by token."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np

from interp.figures import TokenView
from interp.interventions import Branch, EachHead, ablate_each_head
from interp.models import Model
from interp.passes import to_check
from interp.prompts import Prompt
from interp.reading import LogitDifference, attribute, attribute_heads, mean_head_outputs
from interp.scans import Positions
from interp.scans.scan import scan, scan_metrics
from interp.scans.together import Beginning

Ablation = Literal["zero", "mean_of_others", "mean"]


class HeadEffects:
    """Total and direct effects of every head on a logit difference, for batches of prompts.

    What all batches share is made once: a data-set mean, what the prompts begin with, and the check of the fan-out on
    the first, the longest and the shortest prompt. ``direct`` says whether this architecture has direct attribution (if
    not, a warning says why now, instead of an error after long work).
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        metric: LogitDifference,
        ablation: Ablation = "zero",
        positions: Positions = "answer",
    ) -> None:
        self.model, self.metric, self.positions = model, metric, positions
        self.means = None
        if ablation == "mean":
            self.means = mean_head_outputs(model, prompts, last=1 if positions == "answer" else None)
            self.branches = EachHead("mean").branches(model, self.means)
        else:
            self.branches = ablate_each_head(ablation).branches(model)
        self.how, self.check = check_once(model, prompts, self.branches, metric, positions)
        self.beginning = Beginning(model, prompts)
        self.direct = positions == "answer" and not why_no_attribution(model, prompts[0], metric)

    def measure(
        self, prompts: Sequence[Prompt], direct: bool = True, heads: Sequence[tuple[int, int]] | None = None
    ) -> dict[str, np.ndarray]:
        """``total_effect`` [example, layer, head] (clean minus ablated, logits; of some ``heads`` [example, head]),
        ``clean`` [example], and ``direct_effect`` of all heads where the architecture has it."""
        n_heads = self.model.n_heads
        chosen = None if heads is None else [self.branches[layer * n_heads + head] for layer, head in heads]
        (found,) = scan_metrics(
            self.model,
            list(prompts),
            self.branches if chosen is None else chosen,
            [self.metric],
            self.positions,
            self.how,
            check=0,
            beginning=self.beginning,
        )
        shape = (len(prompts), self.model.n_layers, n_heads) if heads is None else (len(prompts), len(heads))
        measures = {"total_effect": found.drop.reshape(shape), "clean": found.clean}
        if direct and self.direct:
            measures["direct_effect"] = attribute_heads(self.model, prompts, self.metric)
        return measures


def check_once(
    model: Model,
    prompts: Sequence[Prompt],
    branches: Sequence[Branch],
    metric: LogitDifference,
    positions: Positions,
    n: int = 3,
) -> tuple[str, str]:
    """How scans of these branches are to run, and what was checked: on ``n`` of them, spread over all, and on the
    prompts of all lengths that matter. Batches can then be scanned with ``method=how, check=0``."""
    ends = [prompts[i] for i in to_check(model, prompts)]
    picked = [branches[i] for i in np.unique(np.linspace(0, len(branches) - 1, n).astype(int))]
    checked = scan(model, ends, picked, metric=metric, positions=positions, check=n, read_mass=False)
    return checked.how, checked.check


def why_no_attribution(model: Model, prompt: Prompt, metric: LogitDifference) -> str:
    """Why this architecture has no direct attribution; empty if it has. Warns once for each call that finds none."""
    try:
        attribute(model, prompt, metric)
    except (ValueError, RuntimeError) as error:
        warnings.warn(f"direct attribution is left out, and the token views with it: {error}", stacklevel=5)
        return str(error)
    return ""


def token_views(
    model: Model,
    prompts: Sequence[Prompt],
    titles: Sequence[str],
    heads: Sequence[tuple[int, int]],
    metric: LogitDifference,
) -> tuple[TokenView, ...]:
    """Where heads look from the answer, and what they read there toward the metric: one view for each prompt."""
    views = []
    for prompt, title in zip(prompts, titles, strict=True):
        split = attribute(model, prompt, metric)
        shown = {h: {"attention": split.attention[h], "contribution": split.by_token[h]} for h in heads}
        views.append(TokenView(example_id=prompt.id, title=title, tokens=prompt.tokens, heads=shown))
    return tuple(views)

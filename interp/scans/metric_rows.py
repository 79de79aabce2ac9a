"""Metrics of the unedited run and of each branch, from the logits of the tokens that they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.reading import Metric, metric_values

if TYPE_CHECKING:
    from interp.prompts import Prompt


def needed_tokens(metrics: Sequence[Metric], prompt: Prompt) -> list[int] | None:
    """Whose logits are computed, metric by metric, group by group; None for all."""
    tokens = [token for metric in metrics for group in metric.tokens(prompt) for token in group]
    return None if any(metric.needs_vocabulary for metric in metrics) else tokens


def read_metrics(
    metrics: Sequence[Metric], logits: Float[Tensor, "row token"], tokens: list[int] | None, prompt: Prompt
) -> Float[Tensor, "metric row"]:
    """The metrics from the logits of these tokens, on their device."""
    if tokens is None:
        return torch.stack([metric_values(metric, logits, prompt).float() for metric in metrics])
    groups = [metric.tokens(prompt) for metric in metrics]
    of_metric = logits.split([sum(map(len, own)) for own in groups], dim=1)
    values = [
        metric(own.split([len(g) for g in of], dim=1), None)
        for metric, own, of in zip(metrics, of_metric, groups, strict=True)
    ]
    return torch.stack([v.float() for v in values])

"""`scan_readings`: several metrics of every edit for the price of one scan."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.interventions import Branch
from interp.passes import to_check
from interp.prompts import Prompt
from interp.reading import Metric
from interp.scans.agreement import Method
from interp.scans.scan import Positions, ScanResult, scan

if TYPE_CHECKING:
    from interp.models import Model


@dataclass(frozen=True)
class IsMostProbable:
    """1 where the most probable token of the whole vocabulary is one of an answer's, else 0.

    ``answer``: a word, or "gold" for each prompt's own. The mean over prompts is the accuracy of the first token.
    ``n_vocabulary``: how many logits the model gives (:meth:`of`).
    """

    n_vocabulary: int
    answer: str = "gold"
    unit = "share"
    needs_vocabulary = True

    @classmethod
    def of(cls, model: Model, answer: str = "gold") -> IsMostProbable:
        """For this model's vocabulary."""
        return cls(model.n_logits, answer)

    def tokens(self, prompt: Prompt) -> tuple[Sequence[int], ...]:
        return prompt.answer_tokens(self.answer), range(self.n_vocabulary)

    def __call__(
        self, groups: tuple[Float[Tensor, "row _form"], ...], log_normaliser: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]:
        of_answer, of_all = groups
        return (of_answer.amax(-1) >= of_all.amax(-1)).float()

    def __str__(self) -> str:
        return f"{self.answer} is most probable"


def scan_readings(
    model: Model,
    prompts: Sequence[Prompt],
    branches: Sequence[Branch],
    metrics: Sequence[Metric | IsMostProbable],
    *,
    positions: Positions = "answer",
    method: Method = "auto",
    check: int = 3,
    memory_mib: float = 1024.0,
) -> tuple[ScanResult, ...]:
    """What :func:`interp.scan` gives for each metric, one result a metric, read from the same passes.

    ``branches``: ``ablate_each_head(...).branches(model)``, or of your own. ``check`` of them are compared with plain
    passes, by the first metric, on the prompts that :func:`interp.scan` checks (0: the caller has checked). Costs and
    errors are those of one scan; ``ValueError`` also for no metrics.
    """
    if not metrics:
        raise ValueError("no metrics were given; give at least one.")
    began, prompts, note = time.perf_counter(), list(prompts), ""
    if check > 0 and prompts and branches and method != "loop":
        picked = [branches[i] for i in np.unique(np.linspace(0, len(branches) - 1, check).astype(int))]
        tried = scan(
            model,
            [prompts[i] for i in to_check(model, prompts)],
            picked,
            metric=metrics[0],
            positions=positions,
            method=method,
            check=check,
            memory_mib=memory_mib,
        )
        method, note = tried.how, tried.check  # type: ignore[assignment]
    several = _Several(metrics)
    first = scan(
        model,
        prompts,
        branches,
        metric=several,  # type: ignore[arg-type]
        positions=positions,
        method=method,
        check=0,
        memory_mib=memory_mib,
    )
    seconds = time.perf_counter() - began
    read = torch.stack(several.kept).numpy()  # [example, metric, row]
    return tuple(
        replace(
            first,
            values=read[:, i, 1:],
            clean=read[:, i, 0],
            metric=str(metric),
            unit=metric.unit,
            check=note or first.check,
            seconds=seconds,
        )
        for i, metric in enumerate(metrics)
    )


class _Several:
    """As the metric of a scan it gives the first of its metrics and keeps all, prompt by prompt: ``kept``
    [metric, row]. A scan asks for a prompt's tokens before it measures it, and measures each prompt once."""

    def __init__(self, metrics: Sequence[Metric | IsMostProbable]) -> None:
        self.metrics, self.unit = tuple(metrics), metrics[0].unit
        self.needs_vocabulary = any(m.needs_vocabulary for m in metrics)
        self.kept: list[Float[Tensor, "metric row"]] = []
        self._n_groups: list[int] = []

    def tokens(self, prompt: Prompt) -> tuple[Sequence[int], ...]:
        groups = [metric.tokens(prompt) for metric in self.metrics]
        self._n_groups = [len(g) for g in groups]
        return tuple(group for of_metric in groups for group in of_metric)

    def __call__(
        self, groups: tuple[Float[Tensor, "row _form"], ...], log_normaliser: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]:
        ends = np.cumsum(self._n_groups)
        of_metric = [groups[end - n : end] for end, n in zip(ends, self._n_groups, strict=True)]
        values = [metric(own, log_normaliser) for metric, own in zip(self.metrics, of_metric, strict=True)]
        self.kept.append(torch.stack([v.float().cpu() for v in values]))
        return values[0]

"""`scan_readings`: several metrics of every edit for the price of one scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from interp.interventions import Branch
from interp.prompts import Prompt
from interp.reading import Metric
from interp.scans.agreement import Method
from interp.scans.branches import Positions
from interp.scans.scan import ScanResult, scan_metrics

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
    return scan_metrics(model, list(prompts), branches, metrics, positions, method, check, memory_mib)

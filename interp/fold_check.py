"""Do two ways of computing a model agree: its logits at every position of a few prompts, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.prompts import Prompt

if TYPE_CHECKING:
    from interp.model import Model

# Of the largest logit, but never less than LEAST. float32: sums in another order, through all layers; a direction that
# is removed everywhere from SmolLM2 gives 8e-6 (tests/benchmarks/edits.md). Half precision: an edit that is folded
# rounds the weights, one that is hooked rounds the states, by steps of 2^-8 (bfloat16) or 2^-11 (float16) of a number.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 0.02, torch.bfloat16: 0.1}
LEAST = {torch.float64: 1e-9}  # 1e-4 for others
LENGTHS = (3, 8, 17, 32)


@dataclass(frozen=True)
class Agreement:
    """How far two sets of logits are apart. difference: the largest absolute one. allowed: the tolerance, as a
    number of the same unit. size: the largest absolute logit."""

    difference: float
    allowed: float
    size: float
    n_prompts: int

    @property
    def holds(self) -> bool:
        return self.difference <= self.allowed

    def __str__(self) -> str:
        return (
            f"logits differ by at most {self.difference:.2g} (the largest is {self.size:.3g}; allowed: "
            f"{self.allowed:.2g}), at every position of {self.n_prompts} prompts"
        )


def check_prompts(model: Model) -> list[Prompt]:
    """Prompts of 3 to 32 random tokens (never the one that stands for a picture), the same for every run."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.hf.config.get_text_config().vocab_size
    prompts = []
    for length in LENGTHS:
        length = min(length, model.context_length or length)
        ids = torch.randint(vocabulary, (length,), generator=generator)
        if model.has_vision:
            ids[ids == model.image_token_id] = 0
        prompts.append(Prompt.from_token_ids(ids.tolist(), id=f"random, {length} tokens", text_only=True))
    return prompts


@torch.no_grad()
def every_logit(
    model: Model, prompts: Sequence[Prompt], hf: nn.Module | None = None
) -> list[Float[Tensor, "pos vocabulary"]]:
    """Logits of each prompt, run alone, on the CPU, in float32 or better; of another transformers model that takes the
    same inputs, if one is given."""
    run = model.hf if hf is None else hf
    found = []
    for prompt in prompts:
        inputs = {k: v.to(run.device) if isinstance(v, Tensor) else v for k, v in model.inputs([prompt]).inputs.items()}
        logits = run(**inputs, use_cache=False).logits[0].cpu()
        found.append(logits.to(torch.promote_types(logits.dtype, torch.float32)))
    return found


def agreement(
    expected: Sequence[Float[Tensor, "pos vocabulary"]], found: Sequence[Float[Tensor, "pos vocabulary"]], dtype
) -> Agreement:
    """``dtype``: what was computed in."""
    size = max(float(logits.abs().max()) for logits in expected)
    differences = [float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)]
    difference = float("nan") if any(d != d for d in differences) else max(differences)
    allowed = max(TOLERANCE.get(dtype, 0.1) * size, LEAST.get(dtype, 1e-4))
    return Agreement(difference, allowed, size, len(expected))

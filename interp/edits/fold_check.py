"""Do two ways of computing a model agree: its logits at every position of a few prompts, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.architecture import run_pass
from interp.prompts import Prompt

if TYPE_CHECKING:
    from interp.models import Model

# In float32 the largest difference counts: sums in another order, through all layers. A direction removed everywhere
# gives 8e-6 of the largest logit in SmolLM2, and 2.7e-5 in Qwen2.5 0.5B, whose stream has features of great size.
OF_LARGEST = {torch.float64: 1e-10, torch.float32: 5e-5}
LEAST = {torch.float64: 1e-9, torch.float32: 1e-4}
# In half precision, the root mean square: single logits are far off by rounding alone. A folded edit rounds the
# weights, a hooked one the states. For the same direction in bfloat16: 0.07 between the two
# (tests/benchmarks/edits.md), and 0.15 between either of them and the hooked model in float32.
OF_RMS = {torch.bfloat16: 0.15, torch.float16: 0.03}
LENGTHS = (3, 8, 17, 32)


@dataclass(frozen=True)
class Agreement:
    """How far two sets of logits are apart. difference: the largest absolute one; size: the largest absolute logit.
    rms: root mean square of all differences, as a share of that of the logits. dtype: what was computed in."""

    difference: float
    rms: float
    size: float
    n_prompts: int
    dtype: torch.dtype

    @property
    def holds(self) -> bool:
        """Up to the rounding of the type; never for NaN."""
        if self.dtype in OF_LARGEST:
            return self.difference <= self._largest
        return self.rms <= OF_RMS.get(self.dtype, 0.15)

    @property
    def _largest(self) -> float:
        return max(OF_LARGEST[self.dtype] * self.size, LEAST[self.dtype])

    def __str__(self) -> str:
        is_single = self.dtype in OF_LARGEST
        allowed = f"at most {self._largest:.2g}" if is_single else f"{OF_RMS.get(self.dtype, 0.15):g} of that"
        return (
            f"logits differ by at most {self.difference:.2g} (the largest is {self.size:.3g}) and by {self.rms:.2g} of "
            f"their root mean square, at every position of {self.n_prompts} prompts; allowed in "
            f"{str(self.dtype).removeprefix('torch.')}: {allowed}"
        )


def check_prompts(model: Model) -> list[Prompt]:
    """Prompts of 3 to 32 random tokens (never the one that stands for a picture), the same for every run."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.n_tokens
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
) -> list[Float[Tensor, "_pos vocabulary"]]:
    """Logits of each prompt, run alone, on the CPU, in float32 or better; of another transformers model that takes the
    same inputs, if one is given."""
    found = []
    for prompt in prompts:
        inputs = model.inputs([prompt]).inputs | {"use_cache": False}
        if hf is not None:
            inputs = {k: v.to(hf.device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        logits = (run_pass(model, inputs) if hf is None else hf(**inputs)).logits[0].cpu()
        found.append(logits.to(torch.promote_types(logits.dtype, torch.float32)))
    return found


def agreement(
    expected: Sequence[Float[Tensor, "_pos vocabulary"]],
    found: Sequence[Float[Tensor, "_pos vocabulary"]],
    dtype: torch.dtype,
) -> Agreement:
    """``dtype``: what was computed in."""
    a, b = torch.cat(list(expected)), torch.cat(list(found))
    difference = (a - b).abs()
    rms = float(difference.square().mean().sqrt() / a.square().mean().sqrt())
    return Agreement(float(difference.max()), rms, float(a.abs().max()), len(expected), dtype)

"""Screen, then confirm: all heads measured cheaply, and exactly those that may be among the first.

A screen is what a gradient says (one forward and one backward pass, whatever the number of heads and positions), or the
exact scan in bfloat16 (which is faster only where the machine computes in it; without AMX a CPU takes longer
than in float32). Which heads are then scanned exactly is one rule for both: every head whose interval over the
examples reaches the first ``top``, again and again until no other does. What a screen gets wrong by more than that is
not found: a ranking says how far it was off on the heads that were confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.door import public
from interp.door.brief import brief
from interp.figures import head_label
from interp.locating.attributions import outputs_and_gradients
from interp.passes import passes
from interp.reading import LogitDifference
from interp.statistics import mean_interval

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

SCREENS = ("gradient", "bfloat16")
Head = tuple[int, int]
Confirm = Callable[[Sequence[Head], int], Float[np.ndarray, "example head"]]
"""(heads, number of the round) -> their exact effects."""


@dataclass(frozen=True)
class Screened:
    """Effects [example, layer, head]: exact where ``exact`` [layer, head], the ``by`` screen's elsewhere. ``rounds``:
    how often heads were added. ``off_by``: the largest error of the screen's mean, among the heads that were confirmed.
    """

    effects: Float[np.ndarray, "example layer head"]
    exact: Bool[np.ndarray, "layer head"]
    by: str
    top: int
    rounds: int
    off_by: float

    __repr__ = brief

    @property
    def heads(self) -> list[Head]:
        """The exact ones, layer by layer."""
        return [(int(layer), int(head)) for layer, head in np.argwhere(self.exact)]

    def record(self) -> dict[str, Any]:
        """For a ranking's provenance."""
        labels = [head_label(*head) for head in self.heads]
        return {"by": self.by, "top": self.top, "exact": labels, "rounds": self.rounds, "off_by": self.off_by}

    def sentence(self, unit: str = "logits") -> str:
        """What was measured how."""
        n, size = int(self.exact.sum()), self.exact.size
        how = "a gradient" if self.by == "gradient" else "a scan in bfloat16"
        return (
            f"All {size} heads were screened by {how}, and {n} were measured exactly: those whose interval reaches the "
            f"first {self.top}. Of these the screen's means are off by at most {self.off_by:.2g} {unit}; the other "
            f"{size - n} have the screen's numbers."
        )


def require_screen(screen: str | None, top: int, n_heads: int) -> None:
    """Raise ``ValueError`` for a screen that is none, and a number of heads that there is not."""
    if screen is not None and screen not in SCREENS:
        raise ValueError(f"screen={screen!r}; expected one of {', '.join(SCREENS)}, or None.")
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= n_heads:
        raise ValueError(f"top={top!r}; expected a number of heads from 1 to all {n_heads}.")


def confirmed(screened: Float[np.ndarray, "example layer head"], confirm: Confirm, top: int, by: str) -> Screened:
    """Exact effects of every head whose interval reaches the first ``top`` by their mean, highest first.

    Args:
        screened: of all heads, roughly.
        confirm: measures some of them exactly.
        top: of how many first heads the order is to be right.
        by: the screen's name.
    """
    effects, exact = screened.astype(np.float32), np.zeros(screened.shape[1:], bool)
    rounds = 0
    while True:
        new = reaching(effects, exact, top)
        if not new:
            break
        index = tuple(np.array(new).T)
        effects[:, *index] = confirm(new, rounds)
        exact[index] = True
        rounds += 1
    error = (effects.mean(0) - screened.mean(0))[exact]
    return Screened(effects, exact, by, top, rounds, float(np.abs(error).max(initial=0.0)))


def reaching(
    effects: Float[np.ndarray, "example layer head"], exact: Bool[np.ndarray, "layer head"], top: int
) -> list[Head]:
    """Heads that are not exact yet and whose interval reaches the mean of the head at place ``top``."""
    means = effects.astype(np.float64).mean(0)
    least = np.sort(means, axis=None)[-top]
    with np.errstate(invalid="ignore"):
        high = mean_interval(effects)[1]
    high = np.where(np.isnan(high), means, np.maximum(high, means))
    return [(int(layer), int(head)) for layer, head in np.argwhere((high >= least) & ~exact)]


@public
def estimate_removal(
    model: Model,
    prompts: Sequence[Prompt],
    metric: LogitDifference,
    *,
    ablation: str = "zero",
    last: int | None = None,
    means: Float[Tensor, "layer head d_head"] | None = None,
    batch_size: int = 8,
) -> Float[np.ndarray, "example layer head"]:
    """What a gradient says that the metric loses when each head's output is replaced, of all heads at once.

    Args:
        model: whose heads.
        prompts: each an example.
        metric: a difference of logits.
        ablation: what takes the output's place: "zero", "mean_of_others" (of its layer), or "mean" (``means``).
        last: at how many last positions; None: at all.
        means: with "mean", the outputs that take the place of each head's.
        batch_size: prompts of equal length in a pass.

    Returns:
        Clean minus ablated, estimated, in logits: (output - what replaces it) times the metric's gradient there, summed
        over positions.

    Raises:
        ValueError: another ablation, or "mean" without means.
        RuntimeError: weights through which no gradient flows.

    Cost: one forward and one backward pass of each prompt, 3 plain passes, whatever the number of heads and positions.
    Misleads: where attention or the answer is saturated a gradient is near zero and the effect is not; MLPs that are
    bent. Confirm by :func:`interp.scan`.
    Source: attribution patching (Nanda 2023; Syed et al. 2023, arXiv 2310.10348), with an ablation in place of the
    corrupt prompt.
    """
    if ablation not in ("zero", "mean", "mean_of_others") or (ablation == "mean") != (means is not None):
        raise ValueError(f"ablation={ablation!r}; expected 'zero', 'mean_of_others', or 'mean' with means.")
    found = np.zeros((len(prompts), model.n_layers, model.n_heads), np.float32)
    lengths = np.array([len(p) for p in prompts])
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        for places in passes(model, [prompts[i] for i in alike], batch_size):
            batch = [int(alike[i]) for i in places]
            z, gradient = outputs_and_gradients(model, metric, [prompts[i] for i in batch])
            effect = ((z - _replacing(z, ablation, means)) * gradient).sum(-1)  # [row, layer, pos, head]
            found[batch] = effect[:, :, 0 if last is None else -last :].sum(2).numpy()
    return found


def _replacing(z: Float[Tensor, "row layer pos head d_head"], ablation: str, means: Tensor | None) -> Tensor:
    if ablation == "zero":
        return torch.zeros(1)
    if means is not None:
        return means.cpu().float()[None, :, None]
    return (z.sum(3, keepdim=True) - z) / (z.shape[3] - 1)

"""Effects of heads in both orders of the options, all of them roughly and those that may be first exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from interp.locating import Screened, confirmed, estimate_removal
from interp.models import Model, twin_in
from interp.prompts import Prompt
from interp.scans import Positions, last_positions
from probes.heads.effects import Ablation, HeadEffects
from probes.studies import Study

Pair = tuple[Prompt, Prompt]
EFFECT, SWAPPED = "total_effect", "total_effect_swapped_order"


def screened_effects(
    study: Study,
    pairs: Sequence[Pair],
    exact: tuple[HeadEffects, HeadEffects],
    screen: str,
    top: int,
    ablation: Ablation,
    positions: Positions,
) -> tuple[dict[str, np.ndarray], Screened]:
    """The arrays of a ranking by effect: both orders' effects, what the unedited model says, and direct effects where
    the architecture has them; and which heads are exact.

    ``pairs``: each prompt in both orders. ``exact``: measures each order in the model's own precision.
    """
    model = exact[0].model
    twin = twin_in(model, torch.bfloat16) if screen == "bfloat16" else None
    rough = [_rough(twin, [p[i] for p in pairs], exact[i], ablation, positions) for i in (0, 1)]

    def screening(batch: Sequence[Pair]) -> dict[str, np.ndarray]:
        first, second = (rough[i]([pair[i] for pair in batch]) for i in (0, 1))
        return {EFFECT: first, SWAPPED: second}

    arrays = study.run(pairs, screening, f"screen by {screen}")

    def confirm(heads: Sequence[tuple[int, int]], number: int) -> np.ndarray:
        def measure(batch: Sequence[Pair]) -> dict[str, np.ndarray]:
            found = exact[0].measure([pair[0] for pair in batch], direct=number == 0, heads=heads)
            swapped = exact[1].measure([pair[1] for pair in batch], direct=False, heads=heads)
            return found | {SWAPPED: swapped[EFFECT]}

        found = study.run(pairs, measure, f"confirm {number}", heads=[list(head) for head in heads])
        arrays[SWAPPED][:, *np.array(heads).T] = found.pop(SWAPPED)
        of_heads = found.pop(EFFECT)
        if number == 0:
            arrays.update(found)
        return of_heads

    screened = confirmed(arrays[EFFECT], confirm, top, screen)
    return arrays | {EFFECT: screened.effects}, screened


def _rough(
    twin: Model | None, prompts: Sequence[Prompt], exact: HeadEffects, ablation: Ablation, positions: Positions
) -> Callable[[Sequence[Prompt]], np.ndarray]:
    """What measures all heads of a batch roughly: a twin in lower precision, or a gradient."""
    model, metric = exact.model, exact.metric
    if twin is not None:
        measured = HeadEffects(twin, prompts, metric, ablation, positions)
        return lambda batch: measured.measure(batch, direct=False)[EFFECT]
    last = last_positions(positions)
    return lambda batch: estimate_removal(
        model, batch, metric, ablation=ablation, last=last, means=exact.means, batch_size=len(batch)
    )

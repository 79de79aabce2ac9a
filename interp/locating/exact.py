"""Each head changed alone, and what that does, exactly: by :func:`interp.scan`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.interventions import EachHead, ablate_each_head, patch_each_head
from interp.locating.asked import Asked
from interp.scans.scan import scan

if TYPE_CHECKING:
    from interp.prompts import Prompt

Effects = Float[np.ndarray, "example layer head"]


def zeroed(asked: Asked) -> Effects:
    """What is lost when each head gives 0."""
    return _lost(asked, ablate_each_head("zero"))


def own_mean(asked: Asked) -> Effects:
    """What is lost when each head gives its mean over the clean and corrupt prompts."""
    return _lost(asked, ablate_each_head("mean", [*asked.pairs.clean, *asked.pairs.corrupt]))


def mean_of_others(asked: Asked) -> Effects:
    """What is lost when each head gives the mean of the other heads of its layer, at the same position."""
    return _lost(asked, ablate_each_head("mean_of_others"))


def resampled(asked: Asked) -> Effects:
    """What is lost when each head gives what it gives on another pair's corrupt prompt, of equal length."""
    return _lost(asked, patch_each_head(other_prompts(asked.pairs.corrupt, asked.seed)))


def patched(asked: Asked) -> Effects:
    """What is lost when each head gives what it gives on the corrupt prompt."""
    return _lost(asked, patch_each_head(asked.pairs.corrupt))


def denoised(asked: Asked) -> Effects:
    """What is won on the corrupt prompt when each head gives what it gives on the clean one."""
    return -_lost(asked, patch_each_head(asked.pairs.clean), asked.pairs.corrupt)


def other_prompts(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """For each prompt another one of equal length, at random; the same one where there is no other."""
    rng, chosen = np.random.default_rng(seed), []
    for i, prompt in enumerate(prompts):
        others = [p for j, p in enumerate(prompts) if j != i and len(p) == len(prompt)]
        chosen.append(others[rng.integers(len(others))] if others else prompt)
    return chosen


def _lost(asked: Asked, edits: EachHead, prompts: Sequence[Prompt] | None = None) -> Effects:
    prompts = asked.pairs.clean if prompts is None else prompts
    done = scan(
        asked.model,
        prompts,
        edits,
        metric=asked.metric,
        positions=asked.positions,
        check=asked.check,
        read_mass=asked.check > 0,
    )
    return done.drop.reshape(len(prompts), *asked.shape)

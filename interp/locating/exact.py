"""Each head changed alone, and what that does, exactly: by :func:`interp.scan`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.interventions import Branch, EachHead, ablate_each_head, patch_each_head
from interp.locating.asked import Asked
from interp.scans.scan import scan

if TYPE_CHECKING:
    from interp.prompts import Prompt

Effects = Float[np.ndarray, "example layer head"]


def zeroed(asked: Asked) -> Effects:
    """What is lost when each head gives 0."""
    return _lost(asked, ablate_each_head("zero"))


def own_mean(asked: Asked) -> Effects:
    """What is lost when each head gives its mean over the clean and corrupt prompts, and the positions looked at."""
    return _lost(asked, EachHead("mean").branches(asked.model, asked.means()))


def mean_of_others(asked: Asked) -> Effects:
    """What is lost when each head gives the mean of the other heads of its layer, at the same position."""
    return _lost(asked, ablate_each_head("mean_of_others"))


def resampled(asked: Asked) -> Effects:
    """What is lost when each head gives what it gives on another pair's corrupt prompt, of equal length (or on a prompt
    of the pool); on its own, where there is no other."""
    pairs = asked.pairs
    others = drawn_from(asked) if asked.pool else other_prompts(pairs.corrupt, pairs.clean, asked.seed)
    places = [pairs.places(i) if source is pairs.corrupt[i] else range(len(source)) for i, source in enumerate(others)]
    return _lost(asked, patch_each_head(others, places=places))


def patched(asked: Asked) -> Effects:
    """What is lost when each head gives what it gives on the corrupt prompt."""
    pairs = asked.pairs
    return _lost(asked, patch_each_head(pairs.corrupt, places=[pairs.places(i) for i in range(len(pairs))]))


def denoised(asked: Asked) -> Effects:
    """What is won on the corrupt prompt when each head gives what it gives on the clean one."""
    turned = asked.pairs.reversed()
    edits = patch_each_head(turned.corrupt, places=[turned.places(i) for i in range(len(turned))])
    return -_lost(asked, edits, turned.clean)


def other_prompts(prompts: Sequence[Prompt], like: Sequence[Prompt], seed: int) -> list[Prompt]:
    """For each prompt another one that is as long as the prompt of the same place in ``like``, at random; the same one
    where there is no other."""
    rng, chosen = np.random.default_rng(seed), []
    for i, (prompt, long) in enumerate(zip(prompts, like, strict=True)):
        others = [p for j, p in enumerate(prompts) if j != i and len(p) == len(long)]
        chosen.append(others[rng.integers(len(others))] if others else prompt)
    return chosen


def drawn_from(asked: Asked) -> list[Prompt]:
    """For each clean prompt one of the pool that is as long, at random. Raises ``ValueError`` where there is none."""
    rng, chosen = np.random.default_rng(asked.seed), []
    for i, prompt in enumerate(asked.pairs.clean):
        others = [p for p in asked.pool if len(p) == len(prompt) and p.token_ids != prompt.token_ids]
        if not others:
            raise ValueError(
                f"the pool of {len(asked.pool)} prompts has none of {len(prompt)} tokens, as clean prompt {i} has, but "
                "itself. Add some."
            )
        chosen.append(others[rng.integers(len(others))])
    return chosen


def _lost(asked: Asked, edits: EachHead | Sequence[Branch], prompts: Sequence[Prompt] | None = None) -> Effects:
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

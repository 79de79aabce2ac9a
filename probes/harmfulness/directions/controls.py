"""Directions that should do nothing, or less: random ones, and those of shuffled labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool

from interp.edits import Direction, random_direction
from probes.harmfulness.directions.result import HarmfulDirections


def controls_of(
    directions: HarmfulDirections, name: str, n_random: int, n_shuffled: int = 1, seed: int = 0
) -> dict[str, Direction]:
    """Directions of the same norms, layer by layer: "random 0", ... and "shuffled 0", ... (see
    :func:`shuffled_direction`)."""
    like = directions.direction(name)
    found = {f"random {i}": random_direction(like, seed + i) for i in range(n_random)}
    return found | {f"shuffled {i}": shuffled_direction(directions, name, seed + i) for i in range(n_shuffled)}


def shuffled_direction(directions: HarmfulDirections, name: str, seed: int = 0) -> Direction:
    """The difference of means of the fitted states under permuted labels, scaled to the direction's norms.

    Labels are permuted within each class, so that each label is on half of it: a plain permutation leaves a chance part
    of the true direction, in which states vary most, and the scaling would enlarge it. What is left is a direction in
    which requests do differ, unlike a random one, but not by class.
    """
    states = directions.states.at("t_inst" if name == "harmfulness" else "t_post").double()
    mask = torch.from_numpy(balanced_half(directions.positive, np.random.default_rng(seed)))
    like = directions.direction(name)
    about = {"name": f"shuffled {name}", "seed": seed, "norms_of": dict(like.about)}
    difference = (states[mask].mean(0) - states[~mask].mean(0)).float()
    return replace(replace(like, vectors=difference).scaled_to(like), about=about)


def balanced_half(positive: Bool[np.ndarray, " example"], rng: np.random.Generator) -> Bool[np.ndarray, " example"]:
    """A mask of a random half of each class."""
    half = np.zeros(len(positive), dtype=bool)
    for members in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        half[rng.permutation(members)[: len(members) // 2]] = True
    return half


DIRECTIONS = ("refusal", "harmfulness")

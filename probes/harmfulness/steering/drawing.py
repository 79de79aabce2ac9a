"""Directions that mean nothing, run: first tokens steered by each of them with both signs, by the fan-out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.edits import Direction
from interp.interventions import Branch, ResidualEdit
from interp.models import Model
from interp.prompts import Prompt
from interp.reading import LogitDifference
from interp.scans import Positions
from interp.scans.scan import scan
from probes.harmfulness.directions import HarmfulDirections, controls_of
from probes.harmfulness.steering.draws import SIGNS
from probes.heads import check_once


@dataclass(frozen=True)
class Drawn:
    """One vector with a sign, added at the input of a layer. ``control``: "" for the direction itself, else "random 0",
    ... or "shuffled 0", .... ``positions``: all that are scanned ("all"), or a span that begins the prompt."""

    direction: str
    control: str
    positions: str
    sign: str
    layer: int
    coefficient: float


def drawn_of(
    directions: HarmfulDirections,
    layers: Mapping[str, int],
    coefficients: Mapping[str, float],
    places: Mapping[str, Sequence[str]],
    n_random: int,
    n_shuffled: int,
    seed: int,
) -> tuple[list[Drawn], dict[tuple[str, str], Direction]]:
    """Every direction, its controls, both signs and all places; and the vectors by direction and control."""
    vectors: dict[tuple[str, str], Direction] = {}
    for name in layers:
        vectors[name, ""] = directions.direction(name)
        vectors |= {(name, c): d for c, d in controls_of(directions, name, n_random, n_shuffled, seed).items()}
    drawn = [
        Drawn(name, control, place, sign, layers[name], coefficients[name])
        for name, control in vectors
        for place in places[name]
        for sign in SIGNS
    ]
    return drawn, vectors


class FirstTokens:
    """The margin at the first token of each prompt under each of ``drawn``, by a fan-out over all of a prompt's tokens
    (half of a pass for each at most: a branch begins at the layer that it edits). Checked against plain passes once."""

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        drawn: Sequence[Drawn],
        vectors: Mapping[tuple[str, str], Direction],
        metric: LogitDifference,
        place: Positions = "all",
    ) -> None:
        self.model, self.drawn, self.vectors, self.metric, self.place = model, list(drawn), vectors, metric, place
        shortest = min(prompts, key=len)
        self.how, _ = check_once(model, [shortest], self._branches(shortest), metric, place)

    def read(self, prompts: Sequence[Prompt]) -> dict[str, Float[np.ndarray, " example *drawn"]]:
        """``plain`` [example] and ``drawn`` [example, drawn], in nats."""
        plain, margins = np.full(len(prompts), np.nan), np.full((len(prompts), len(self.drawn)), np.nan)
        for i, prompt in enumerate(prompts):
            branches = self._branches(prompt)
            how = {"metric": self.metric, "positions": self.place, "method": self.how, "check": 0}
            found = scan(self.model, [prompt], branches, **how)
            plain[i], margins[i] = found.clean[0], found.values[0]
        return {"plain": plain, "drawn": margins}

    def _branches(self, prompt: Prompt) -> list[Branch]:
        def edit(d: Drawn) -> ResidualEdit:
            first = len(prompt.span(d.positions)) if d.positions in prompt.spans and self.place == "all" else None
            vector = self.vectors[d.direction, d.control].vectors[d.layer]
            return ResidualEdit(d.layer, vector, "add", SIGNS[d.sign] * d.coefficient, first=first)

        return [Branch((edit(d),)) for d in self.drawn]

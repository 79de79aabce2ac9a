"""What steering did: the screen, the choice, the test, as one result that can be shown, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from interp.reports import Result
from interp.reports.kept_tables import made_once
from probes.harmfulness.directions import Openings
from probes.harmfulness.steering.draws import draws_table
from probes.harmfulness.steering.rates import compare, noise_note, summarise
from probes.requests import Request

FIRST_TOKENS_NOTE = (
    "margin: log odds (nats) of tokens that open refusals against those that open acceptances; leans: the share of "
    "requests above 0. _random, _shuffled: the share of directions that mean nothing which change it as much to the "
    "same side, by whichever sign does more; _p: (1 + c) / (1 + n), c of all n of them."
)


@dataclass(frozen=True, eq=False, repr=False)
class SteeringStudy(Result, report="probes.harmfulness.steering.report"):
    """What steering did. Saved without texts unless asked for: ``reply`` is then empty, and requests are withheld ones.

    Args:
        screen: first tokens over the grid of layers and coefficients.
        outcomes: one row for each arm and request, as :func:`probes.harmfulness.steering.arms.run_arms` gives them.
        draws: log odds of refusing at the first token, steered by each direction and each control with both signs
            (:class:`probes.harmfulness.steering.drawing.Drawn`), and ``plain``, unsteered; None before the test.
        chosen: for "+refusal", "-refusal", "+harmfulness" and "-harmfulness" the layer and coefficient that validation
            chose, with their numbers there.
        openings: the first tokens of refusals and of acceptances that the screen compares.
        validation: the requests that chose.
        tested: those of the test; empty until :func:`probes.harmfulness.steering.sweep.test`.
        provenance: what was run, on what.
    """

    screen: pd.DataFrame
    outcomes: pd.DataFrame
    draws: pd.DataFrame | None
    chosen: Mapping[str, Mapping[str, Any]]
    openings: Openings
    validation: tuple[Request, ...]
    tested: tuple[Request, ...]
    provenance: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.provenance["settings"]

    @made_once
    def to_frame(self) -> pd.DataFrame:
        """One row for each arm: :func:`probes.harmfulness.steering.rates.summarise`."""
        frame = summarise(self.outcomes, self.settings["fluency_factor"])
        frame.attrs["note"] = noise_note(frame)
        return frame

    def comparison(self) -> pd.DataFrame:
        """Each tested arm beside its controls: :func:`probes.harmfulness.steering.rates.compare`. Empty before a
        test."""
        return compare(self.outcomes)

    def first_tokens(self) -> pd.DataFrame:
        """Each tested arm that adds, beside directions that mean nothing with both of their signs, at the first token:
        one row for each arm and kind (:func:`probes.harmfulness.steering.draws.beside_draws`). Empty before a test."""
        if self.draws is None:
            return pd.DataFrame()
        before = self.draws.groupby("id")["plain"].first().to_dict()
        table = draws_table(self.draws, before, ("kind", "layer", "coefficient"), ("id",))
        table.insert(0, "arm", table["sign"] + table["direction"])
        acts = (table["arm"].str[0] == "+") == (table["kind"] == "harmless")
        table = table[acts].drop(columns=["direction", "sign", "positions"]).reset_index(drop=True)
        table.attrs["note"] = FIRST_TOKENS_NOTE
        return table

    def withheld(self) -> SteeringStudy:
        """The same without what the model said, as files have it."""
        return replace(self, outcomes=self.outcomes.assign(reply=""))

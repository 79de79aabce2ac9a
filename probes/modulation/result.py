"""What a study of modulation found: candidates, the chosen factors as edits, readings of the test sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.fitting import Factors, changed_heads, largest_change
from interp.records import keeps_work
from interp.reports import Result
from interp.reports.kept_tables import made_once
from probes.modulation.effects import ReadSet, conditions_frame, effects_frame, verdict_of
from probes.modulation.offsets import Offsets

if TYPE_CHECKING:
    from interp.edits import ScaledHeads

RELEASED = "released rule, λ = 1"
FAMILIES = {
    RELEASED: "V-SEAM's released rule, 1 + λ D clipped to [0, 2] for every head, at its own λ = 1",
    "rule": "the same rule at the other strengths tried",
    "top-k": "the k best heads up, the k worst down",
    "search": "factors searched on the questions to fit on",
}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A table of factors that may be chosen. ``scope``: the questions it is for, "all" or a level."""

    scope: str
    family: str
    name: str
    factors: Factors
    note: str = ""

    def described(self) -> dict[str, Any]:
        n = int((self.factors != 1).sum())
        row = {"scope": self.scope, "family": self.family, "candidate": self.name, "n_heads": n}
        return row | {"largest_change": largest_change(self.factors), "note": self.note}


@dataclass(frozen=True, eq=False, repr=False)
class Modulation(Result, report="probes.modulation.report"):
    """What was tried, what was chosen, and what that does on questions that had no part in it.

    Args:
        candidates: what was tried, each with its factors.
        chosen: of each scope ("all", or a level) the family whose best candidate is used.
        validation: one row for each candidate.
        tests: the readings of each test set.
        offsets: of each scope the constants of the rival.
        history: the searches, look by look.
        provenance: model, data, settings, versions.
    """

    candidates: tuple[Candidate, ...]
    chosen: Mapping[str, str]
    validation: pd.DataFrame
    tests: tuple[ReadSet, ...]
    offsets: Mapping[str, Offsets]
    history: pd.DataFrame
    provenance: Mapping[str, Any]

    @cached_property
    def edits(self) -> Mapping[str, ScaledHeads]:
        """Of each scope the chosen factors as an edit of the weights that they were chosen on."""
        from interp.edits import ScaledHeads

        edits = {}
        for scope, family in self.chosen.items():
            candidate = self.best(scope, family)
            row = self.validation[(self.validation["scope"] == scope) & self.validation["chosen"]].iloc[0]
            about = {
                "method": f"modulation of heads: {candidate.name}",
                "run_id": self.provenance["run_id"],
                "for_questions": scope,
                "validation": {name: float(row[name]) for name in ("accuracy", "accuracy_change", "gold_prob")},
            }
            edits[scope] = ScaledHeads(dict(self.provenance["edited_model"]), about, changed_heads(candidate.factors))
        return edits

    @property
    def target(self) -> float:
        """The gain in accuracy that was aimed at."""
        return float(self.provenance["settings"]["target"])

    @property
    def edit(self) -> ScaledHeads:
        """The chosen factors, where one edit is for all questions. Raises ``ValueError`` where each level has one."""
        if len(self.edits) > 1:
            raise ValueError(f"there is an edit for each of {', '.join(self.edits)}: take one of modulation.edits.")
        return next(iter(self.edits.values()))

    @property
    def gains_on_validation(self) -> bool:
        """Whether what was chosen did better on validation than the unmodulated model, in any scope."""
        rows = self.validation[self.validation["chosen"]]
        return bool((rows[f"{self.provenance['settings']['choose_by']}_change"] > 0).any())

    def best(self, scope: str, family: str) -> Candidate:
        """The candidate of a ``family`` that did best on validation in a ``scope`` ("all", or a level)."""
        rows = self.validation[(self.validation["scope"] == scope) & (self.validation["family"] == family)]
        name = rows.loc[rows["best_of_family"], "candidate"].iloc[0]
        return next(c for c in self.candidates if (c.scope, c.family, c.name) == (scope, family, name))

    @made_once
    def to_frame(self) -> pd.DataFrame:
        """What the chosen modulation does: see :func:`probes.modulation.effects.effects_frame`; of accuracies also the
        ``verdict`` (:func:`probes.modulation.effects.verdict_of`)."""
        frame = effects_frame(self.tests)
        verdicts = [verdict_of(row, self.target) for row in frame.to_dict("records")]
        return frame.assign(verdict=np.where(frame["measure"] == "accuracy", verdicts, ""))

    @made_once
    def conditions(self) -> pd.DataFrame:
        """Every condition on every test set: see :func:`probes.modulation.effects.conditions_frame`."""
        return conditions_frame(self.tests)

    def measures(self) -> pd.DataFrame:
        """What the edit does to the measures, for the README of an exported model: overall, on every test set."""
        frame = self.to_frame()
        frame = frame[frame["measure"].isin(["accuracy", "gold_prob"])].groupby(["set", "measure"], sort=False).head(1)
        names = ["set", "measure", "n", "before", "after", "change", "change_low", "change_high", "p", "verdict"]
        return frame[names]

    @keeps_work
    def save(self, directory: str | Path, *, include_replies: bool = False, overwrite: bool = False) -> Path:
        """As :meth:`interp.reports.result.Result.save`, and the edit in ``edit`` (of levels: ``edits/0`` ..., in their
        order).

        Args:
            directory: made if need be.
            include_replies: keep texts of requests and replies, which are left out otherwise.
            overwrite: replace another run's report, which is refused otherwise (``FileExistsError``).
        """
        directory = super().save(directory, include_replies=include_replies, overwrite=overwrite)
        for number, edit in enumerate(self.edits.values()):
            edit.save(directory / "edit" if len(self.edits) == 1 else directory / "edits" / str(number))
        return directory

"""How guards compare on requests that none of them was fitted on: accuracy on each of the four groups, AUROC, false
alarms, intervals, and the sentences that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.door import public
from interp.reports import Result
from interp.statistics import wilson_share, within_pairs
from probes.latent_guard.held_out import HeldOutTest, held_out_test
from probes.latent_guard.measures import guard_measures, measure_differences
from probes.requests import GROUPS, Request, Verdict
from probes.requests.requests import SCARY


class Entry(NamedTuple):
    """One row of the table. ``role``: a rule of the guard, a rival, or the surface control; ``chose``: its layer and
    threshold."""

    name: str
    role: Literal["guard", "rival", "control"]
    chose: str = ""


class Latency(NamedTuple):
    """Milliseconds a prompt (medians of ``repeats``, mean over ``n`` prompts) of the plain prefill and of one that the
    guard reads along with, and their ratio with its interval over prompts."""

    n: int
    repeats: int
    plain_ms: float
    guarded_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float


@public
def sounds_dangerous(request: Request) -> bool:
    """Whether a request is safe but scary, by its source: the shipped ones and XSTest's."""
    return not request.is_harmful and (request.source == SCARY or "xstest" in request.source.lower())


@dataclass(frozen=True, eq=False, repr=False)
class GuardStudy(Result, report="probes.latent_guard.report"):
    """What each guard and rival says of each request; everything else is computed from that.

    ``decisions`` [example, entry]: at least 0 is "harmful". ``sets``, ``verdicts``, ``scary``: for each request, the
    test set that it is of, what the model did with it, and whether it is safe but scary. ``main``: the entry that
    rivals are compared with, named before the results. ``guards``: the fitted ones, by entry; not in the files
    (:meth:`probes.latent_guard.classifier.LatentGuard.save`), so none in a study that was read. ``latency``: what
    reading along costs, if that was measured (``dataclasses.replace(study, latency=latency(guard, requests))``).

    ``entries``: guards and rivals. ``provenance``: what was run, on what.
    """

    requests: tuple[Request, ...]
    sets: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    scary: Bool[np.ndarray, " example"]
    entries: tuple[Entry, ...]
    decisions: Float[np.ndarray, "example entry"]
    main: str
    provenance: Mapping[str, Any]
    guards: Mapping[str, Any] = field(default_factory=dict, metadata={"saved": False})
    latency: Latency | None = None

    @property
    def names(self) -> list[str]:
        return [e.name for e in self.entries]

    def groups(self) -> np.ndarray:
        """The group of each request (:data:`probes.requests.behaviour.GROUPS`).

        Returns:
            [request], "harmful-refused", ..., or "...-unclear".
        """
        return np.array([f"{r.kind}-{v}" for r, v in zip(self.requests, self.verdicts, strict=True)])

    def to_frame(self) -> pd.DataFrame:
        """One row for each test set and entry.

        Accuracy on each of the four groups, on all ``harmful`` requests (recall) and on all ``harmless`` ones (1 less
        the false alarms; unclear replies count here), each with its Wilson interval and its n; on the ``n_pairs`` whole
        pairs, ``balanced_on_pairs`` and ``within_pairs`` (the harmful one has the higher score; ``within_pairs_p``: a
        sign test); then, with intervals
        in which pairs hang together, ``balanced_accuracy`` (the mean of these two), ``auroc_harmless`` (harmful
        against harmless requests that are not scary), ``auroc_scary`` (against the safe but scary), and
        ``fpr_at_95_recall``: the share of all harmless ones flagged by the highest threshold that finds 95 % of these
        very harmful ones. NaN where there is no such request. A verdict without degrees (own refusal) has an AUROC and
        a false-positive rate too, but they are those of its one threshold or of flagging everything.
        """
        harmful, groups, rows = self._harmful, self.groups(), []
        for name, which in self.sets_of.items():
            members = {group.replace("-", "_"): which & (groups == group) for group in GROUPS}
            members |= {"harmful": which & harmful, "harmless": which & ~harmful}
            for i, entry in enumerate(self.entries):
                right = (self.decisions[:, i] >= 0) == harmful
                row: dict[str, Any] = {"set": name, "guard": entry.name, "role": entry.role, "chose": entry.chose}
                for column, mask in members.items():
                    row |= wilson_share(right[mask]).columns(column)
                    row[f"n_{column}"] = int(mask.sum())
                of_these = self.decisions[which, i], *self._of(which)
                for measure, estimate in guard_measures(*of_these).items():
                    row |= estimate.columns(measure)
                paired = within_pairs(of_these[0], of_these[1], of_these[3])
                rows.append(row | {"within_pairs_p": paired.p, "n_pairs": paired.n})
        return pd.DataFrame(rows)

    def differences(self) -> pd.DataFrame:
        """``main`` less every other entry, on the same requests, with paired intervals: above 0, ``main`` is
        better. Columns set, guard, then each measure but the false-positive rate."""
        rows = []
        for name, which in self.sets_of.items():
            main = self.decisions[which, self.names.index(self.main)]
            for i, entry in enumerate(self.entries):
                if entry.name != self.main:
                    row: dict[str, Any] = {"set": name, "guard": entry.name, "role": entry.role}
                    found = measure_differences(main, self.decisions[which, i], *self._of(which))
                    rows.append(row | {k: v for m, less in found.items() for k, v in less.columns(m).items()})
        return pd.DataFrame(rows)

    def decisions_frame(self) -> pd.DataFrame:
        """One row for each request: what it is, and every entry's decision; the text is not in it."""
        about = {
            "set": self.sets,
            "id": [r.id for r in self.requests],
            "source": [r.source for r in self.requests],
            "category": [r.category for r in self.requests],
            "group": self.groups(),
            "scary": self.scary,
        }
        return pd.DataFrame(about | dict(zip(self.names, self.decisions.T, strict=True)))

    @property
    def tested(self) -> HeldOutTest:
        """The test of ``main`` on all of these requests: what a saved guard carries."""
        return held_out_test(self.decisions[:, self.names.index(self.main)], self.requests)

    @property
    def sets_of(self) -> dict[str, Bool[np.ndarray, " example"]]:
        """Which requests are of each test set, in order."""
        sets = np.array(self.sets)
        return {name: sets == name for name in dict.fromkeys(self.sets)}

    @property
    def _harmful(self) -> Bool[np.ndarray, " example"]:
        return np.array([r.is_harmful for r in self.requests])

    def _of(self, which: Bool[np.ndarray, " example"]) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Harmful, scary, and the pair of each of these requests."""
        pairs = [r.pair or r.id for r, own in zip(self.requests, which, strict=True) if own]
        return self._harmful[which], self.scary[which], pairs

"""How guards compare on requests that none of them was fitted on: accuracy on each of the four groups, AUROC, false
alarms, intervals, and the sentences that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.door import public
from interp.figures.heads import interval_bars
from interp.records import keeps_work
from interp.reports import Findings
from interp.statistics import bootstrap_interval, wilson_share
from probes.latent_guard.report import (
    ASKED_CALIBRATED,
    AT_T_POST,
    MEASURES,
    OWN,
    WORDS,
    guard_measures,
    guard_sentences,
)
from probes.requests import GROUPS, Request, Verdict
from probes.requests.requests import SCARY
from probes.studies import read_study, write_study

if TYPE_CHECKING:
    import plotly.graph_objects as go

FILE = "guard_study.json"


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


@dataclass(frozen=True, eq=False)
class GuardStudy:
    """What each guard and rival says of each request; everything else is computed from that.

    ``decisions`` [example, entry]: at least 0 is "harmful". ``sets``, ``verdicts``, ``scary``: for each request, the
    test set that it is of, what the model did with it, and whether it is safe but scary. ``main``: the entry that
    rivals are compared with, named before the results. ``guards``: the fitted ones, by entry (not in the files).
    """

    requests: tuple[Request, ...]
    sets: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    scary: Bool[np.ndarray, " example"]
    entries: tuple[Entry, ...]
    decisions: Float[np.ndarray, "example entry"]
    main: str
    provenance: Mapping[str, Any]
    guards: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [e.name for e in self.entries]

    def groups(self) -> np.ndarray:
        """ "harmful-refused", ... of each request (:data:`probes.requests.behaviour.GROUPS`, or "...-unclear")."""
        return np.array([f"{r.kind}-{v}" for r, v in zip(self.requests, self.verdicts, strict=True)])

    def to_frame(self) -> pd.DataFrame:
        """One row for each test set and entry.

        Accuracy on each of the four groups, on all ``harmful`` requests (recall) and on all ``harmless`` ones (1 less
        the false alarms; unclear replies count here), each with its Wilson interval and its n; then, with bootstrap
        intervals (pairs drawn together), ``balanced_accuracy`` (the mean of these two), ``auroc_harmless`` (harmful
        against harmless requests that are not scary), ``auroc_scary`` (against the safe but scary), and
        ``fpr_at_95_recall``: the share of all harmless ones flagged by the highest threshold that finds 95 % of these
        very harmful ones. NaN where there is no such request. A verdict without degrees (own refusal) has an AUROC and
        a false-positive rate too, but they are those of its one threshold or of flagging everything.
        """
        harmful, groups, rows = self._harmful, self.groups(), []
        for name, which in self._sets.items():
            value, low, high = (array[0] for array in self._measured[name])
            members = {group.replace("-", "_"): which & (groups == group) for group in GROUPS}
            members |= {"harmful": which & harmful, "harmless": which & ~harmful}
            for i, entry in enumerate(self.entries):
                right = (self.decisions[:, i] >= 0) == harmful
                row: dict[str, Any] = {"set": name, "guard": entry.name, "role": entry.role, "chose": entry.chose}
                for column, mask in members.items():
                    row |= wilson_share(right[mask]).columns(column)
                    row[f"n_{column}"] = int(mask.sum())
                for j, measure in enumerate(MEASURES):
                    row |= {measure: value[i, j], f"{measure}_low": low[i, j], f"{measure}_high": high[i, j]}
                rows.append(row)
        return pd.DataFrame(rows)

    def differences(self) -> pd.DataFrame:
        """``main`` less every other entry, on the same requests, with paired bootstrap intervals: above 0, ``main`` is
        better. Columns set, guard, then each measure but the false-positive rate."""
        rows = []
        for name in self._sets:
            value, low, high = (array[1] for array in self._measured[name])
            for i, entry in enumerate(self.entries):
                if entry.name != self.main:
                    row: dict[str, Any] = {"set": name, "guard": entry.name, "role": entry.role}
                    for j, measure in enumerate(MEASURES[:3]):
                        row |= {measure: value[i, j], f"{measure}_low": low[i, j], f"{measure}_high": high[i, j]}
                    rows.append(row)
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

    def statement(self) -> list[str]:
        """For each set: how good the guard is, which entry is best, whether words alone, asking, the model's own
        refusal or layer 0 do as well. From the numbers of the tables alone."""
        return guard_sentences(self.to_frame(), self.differences(), self.main)

    def plot(self, of: str) -> go.Figure:
        """Accuracy on the four groups of one test set: the main rule, logistic, t_post and the rivals."""
        shown = (self.main, "logistic", AT_T_POST.format(self.main), WORDS, ASKED_CALIBRATED, OWN)
        frame, rows = self.to_frame(), []
        for row in frame[(frame["set"] == of) & frame["guard"].isin(shown)].to_dict("records"):
            for group in GROUPS:
                key = group.replace("-", "_")
                interval = {"low": row[f"{key}_low"], "high": row[f"{key}_high"], "n": row[f"n_{key}"]}
                rows.append({"group": group, "guard": row["guard"], "accuracy": row[key], **interval})
        labels = {"accuracy": "judged rightly"}
        return interval_bars(
            pd.DataFrame(rows), "group", "accuracy", "low", "high", color="guard", title=of, labels=labels
        )

    def to_findings(self, latency: Latency | None = None) -> Findings:
        """The report; no request's text is in it."""
        frame, many = self.to_frame(), len(self._sets) > 1
        first = [*(["set"] if many else []), "guard", "role", "chose"]
        in_groups = [c for c in frame if any(k in c for k in ("harmful", "harmless")) and "auroc" not in c]
        ranked = [f"{m}{end}" for m in MEASURES for end in ("", "_low", "_high")]
        accuracy, telling = frame[[*first, *in_groups]], frame[[*first[:-1], *ranked]]
        accuracy.attrs["note"] = (
            "Share judged rightly, with Wilson intervals. Own refusal is 0 on harmless-refused and on harmful-accepted "
            "by definition. Every threshold but the paper's rule's (0) and 'asked' (0) was chosen on other requests."
        )
        telling.attrs["note"] = (
            "Bootstrap intervals, pairs drawn together. auroc_scary: harmful against safe but scary requests. "
            "fpr_at_95_recall: share of harmless requests flagged where 95 % of the harmful ones are found."
        )
        tables = {"Accuracy on each group": accuracy, "Telling harmful from harmless": telling}
        tables[f"'{self.main}' less each other"] = self.differences()
        if latency is not None:
            tables["Latency"] = pd.DataFrame([latency._asdict()])
        figures = {f"Judged rightly: {name}" if many else "Judged rightly": self.plot(name) for name in self._sets}
        said = self.statement()
        if latency is not None:
            said.append(
                f"Reading along takes {latency.ratio:.3f} [{latency.ratio_low:.3f}, {latency.ratio_high:.3f}] times "
                f"the plain prefill ({latency.guarded_ms:.1f} against {latency.plain_ms:.1f} ms; n = {latency.n})."
            )
        return Findings(
            title=str(self.provenance["title"]),
            statement=said,
            tables=tables | {"Each request": self.decisions_frame()},
            figures=figures,
            provenance=dict(self.provenance),
        )

    @keeps_work
    def save(self, directory: str | Path, latency: Latency | None = None, overwrite: bool = False) -> Path:
        """The report and ``guard_study.json``, from which :func:`load_guard_study` reads the study back (without the
        fitted guards: :meth:`~probes.latent_guard.comparison.LatentGuard.save`). Raises ``FileExistsError`` for another
        run's."""
        directory = self.to_findings(latency).save(directory, overwrite=overwrite)
        write_study(
            directory / FILE,
            self.requests,
            sets=list(self.sets),
            verdicts=list(self.verdicts),
            scary=self.scary.tolist(),
            entries=[list(e) for e in self.entries],
            decisions=self.decisions.tolist(),
            main=self.main,
            provenance=dict(self.provenance),
        )
        return directory

    @property
    def _harmful(self) -> Bool[np.ndarray, " example"]:
        return np.array([r.is_harmful for r in self.requests])

    @property
    def _sets(self) -> dict[str, Bool[np.ndarray, " example"]]:
        sets = np.array(self.sets)
        return {name: sets == name for name in dict.fromkeys(self.sets)}

    @cached_property
    def _measured(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each set, value, low, high, each [2, entry, measure]: the measures, and main's less them."""
        main, found = self.names.index(self.main), {}

        def statistic(decisions, harmful, scary, counts) -> Float[np.ndarray, "draw 2 entry measure"]:
            measured = guard_measures(decisions, harmful, scary, counts)
            return np.stack([measured, measured[:, [main]] - measured], axis=1)

        for name, which in self._sets.items():
            arrays = self.decisions[which], self._harmful[which], self.scary[which]
            units = [r.pair or r.id for r, own in zip(self.requests, which, strict=True) if own]
            value = statistic(*arrays, np.ones((1, which.sum())))[0]
            found[name] = (value, *bootstrap_interval(statistic, *arrays, groups=units, weighted=True))
        return found


@public
def load_guard_study(directory: str | Path) -> GuardStudy:
    """The study that :meth:`GuardStudy.save` wrote. Raises ``FileNotFoundError`` or ``ValueError`` with the remedy."""

    def build(requests: tuple[Request, ...], data: dict[str, Any]) -> GuardStudy:
        return GuardStudy(
            requests,
            tuple(data["sets"]),
            tuple(data["verdicts"]),
            np.array(data["scary"], dtype=bool),
            tuple(Entry(*entry) for entry in data["entries"]),
            np.array(data["decisions"], dtype=np.float64),
            data["main"],
            data["provenance"],
        )

    return read_study(Path(directory) / FILE, build, of=Request)


__all__ = ["Entry", "GuardStudy", "Latency", "load_guard_study", "sounds_dangerous"]

"""What steering did: the screen, the choice, the test, as one result that can be shown, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.door import public
from interp.records import keeps_work
from interp.reports import Findings
from probes.harmfulness.directions import Openings
from probes.harmfulness.steering import report
from probes.harmfulness.steering.screen import SCREEN_NOTE
from probes.requests import Request
from probes.studies import read_study, write_study

if TYPE_CHECKING:
    import plotly.graph_objects as go

FILE = "steering.json"


@dataclass(frozen=True, eq=False)
class SteeringStudy:
    """What steering did. ``screen``: first tokens over the grid of layers and coefficients. ``outcomes``: one row for
    each arm and request, as :func:`probes.harmfulness.steering.arms.run_arms` gives them. ``chosen``: for "+refusal",
    "-refusal", "+harmfulness" and "-harmfulness" the layer and coefficient that validation chose, with their numbers
    there. ``tested`` is empty until :func:`probes.harmfulness.steering.sweep.test`.
    """

    screen: pd.DataFrame
    outcomes: pd.DataFrame
    chosen: Mapping[str, Mapping[str, Any]]
    openings: Openings
    validation: tuple[Request, ...]
    tested: tuple[Request, ...]
    provenance: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.provenance["settings"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each arm: :func:`probes.harmfulness.steering.report.summarise`."""
        return self._summary.copy()

    @cached_property
    def _summary(self) -> pd.DataFrame:
        frame = report.summarise(self.outcomes, self.settings["fluency_factor"])
        frame.attrs["note"] = report.noise_note(frame)
        return frame

    def comparison(self) -> pd.DataFrame:
        """Each tested arm beside its controls: :func:`probes.harmfulness.steering.report.compare`. Empty before a
        test."""
        return report.compare(self.outcomes)

    def statement(self) -> list[str]:
        """What was chosen and what the test says, with a warning for each arm whose text is noise."""
        summary = self.to_frame()
        if not self.tested:
            noise = report.noise_sentences(summary[summary["stage"] == "validation"])
            return [*report.choice_sentences(self.chosen), "Not tested yet: these numbers chose the arms.", *noise]
        return [*report.tested_sentences(self.comparison(), summary), *report.choice_sentences(self.chosen)]

    def plot(self, what: str = "") -> go.Figure:
        """``"test"``: refusal rates beside the controls. ``"answer"`` or ``"all"`` (whatever the screen's ``positions``
        are): the screen by layer and coefficient. Default: the test if there is one, else the screen that chose."""
        if (what or ("test" if self.tested else "")) == "test":
            if not self.tested:
                raise ValueError("nothing was tested yet: call test(...) on other requests, or plot the screen.")
            return report.plot_test(self.comparison())
        there = list(dict.fromkeys(self.screen["positions"]))
        if what and what not in there:
            raise ValueError(f"plot({what!r}); expected 'test' or one of {there}.")
        return report.plot_screen(self.screen, what or there[-1])

    def to_findings(self, include_replies: bool = False) -> Findings:
        """The report. Requests' texts and replies stand in it only if asked for."""
        summary, comparison = self.to_frame(), self.comparison()
        comparison.attrs["note"] = (
            "change: against the unsteered model; beyond: the direction's rate less this condition's; both paired by "
            "request (Bonett and Price 2012). random: mean over seeds; lowest, highest: single seeds."
        )
        tables: dict[str, pd.DataFrame] = {"Arms beside their controls": comparison} if self.tested else {}
        for stage, name in (("test", "Test arms"), ("validation", "Candidates on validation")):
            part = summary[summary["stage"] == stage].drop(columns="stage").reset_index(drop=True)
            part.attrs["note"] = report.noise_note(part) if len(part) else ""
            tables |= {name: part} if len(part) else {}
        tables |= {"First-token screen": self.screen, "First tokens": self.openings.to_frame()}
        if include_replies:
            texts = {r.id: r.text for r in (*self.validation, *self.tested)}
            said = self.outcomes[self.outcomes["verdict"] != ""]
            tables["Replies"] = said.assign(request=said["id"].map(texts)).drop(columns=["direction", "op"])
        figures = {"Refusals in the test": self.plot("test")} if self.tested else {}
        figures |= {f"Screen, steered at {p}": self.plot(p) for p in dict.fromkeys(self.screen["positions"])}
        return Findings(self.provenance["title"], self.statement(), tables, figures, dict(self.provenance))

    @keeps_work
    def save(self, directory: str | Path, *, include_replies: bool = False, overwrite: bool = False) -> Path:
        """The report and ``steering.json``, for :func:`load_steering_study`; replies are kept out of both unless asked
        for."""
        directory = self.to_findings(include_replies).save(directory, overwrite=overwrite)
        outcomes = self.outcomes if include_replies else self.outcomes.assign(reply="")
        write_study(
            directory / FILE,
            [*self.validation, *self.tested],
            n_validation=len(self.validation),
            screen=_columns(self.screen),
            outcomes=_columns(outcomes),
            chosen={name: dict(c) for name, c in self.chosen.items()},
            openings=asdict(self.openings),
            provenance=dict(self.provenance),
        )
        return directory


@public
def load_steering_study(directory: str | Path) -> SteeringStudy:
    """What :meth:`SteeringStudy.save` wrote; replies are empty where it was saved without them."""

    def build(requests: tuple[Request, ...], data: dict[str, Any]) -> SteeringStudy:
        n = data["n_validation"]
        openings = Openings(**{k: tuple(v) if isinstance(v, list) else v for k, v in data["openings"].items()})
        screened, outcomes = (pd.DataFrame(data[name]) for name in ("screen", "outcomes"))
        screened.attrs["note"] = SCREEN_NOTE
        outcomes = outcomes.astype(dict.fromkeys(("nll", "repetition", "kl"), float))
        return SteeringStudy(
            screened, outcomes, data["chosen"], openings, requests[:n], requests[n:], data["provenance"]
        )

    return read_study(Path(directory) / FILE, build, of=Request)


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """A frame as JSON: its columns, missing numbers as null."""
    return {name: [None if pd.isna(v) else v for v in column.tolist()] for name, column in frame.items()}

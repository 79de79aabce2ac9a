"""The runs in a folder of reports, as a list that is read, filtered and compared in a browser: one offline page."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from interp.door import public
from interp.explorer.exploration import Exploration
from interp.explorer.page import environment, sealed, source, still_map
from interp.rankings import HeadRanking
from interp.records import RecordError
from interp.reports import load_result, model_name, read_report_record
from interp.reports.findings import RECORD

_MOST_SENTENCES = 6
_NO_REPORT = "It has no finished report: it runs still, or was interrupted. The same command, run again, goes on."


@dataclass(frozen=True)
class Run:
    """A folder of a study: what its report says, or what is wrong with it.

    folder: where. title, verdict: the report's title and first sentence. sentences: the others. model, created, kind:
    which model, when (ISO 8601), and what kind of result. problem: why it can't be read; empty for a run that can.
    picture: the map of its heads as an SVG, if it is a ranking.
    """

    folder: Path
    title: str = ""
    verdict: str = ""
    sentences: tuple[str, ...] = ()
    model: str = ""
    created: str = ""
    kind: str = ""
    problem: str = ""
    picture: str = ""

    @property
    def is_broken(self) -> bool:
        return bool(self.problem)


@public
def find_runs(folder: str | Path) -> list[Run]:
    """Every run below a folder, the newest first, then those that are broken.

    folder: of reports, at any depth.

    Raises ``FileNotFoundError`` for a folder that is not there. Reads each record, and the scores of rankings.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"No directory {folder}; expected a folder of reports.")
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if RECORD in files or "report.json" in files:
            found.append(_run(Path(place)))
        elif "parts" in folders:
            found.append(Run(Path(place), title=Path(place).name, problem=_NO_REPORT))
            folders[:] = []
    return sorted(sorted(found, key=lambda run: run.created, reverse=True), key=lambda run: run.is_broken)


@public
def save_runs(runs: Sequence[Run], path: str | Path) -> Path:
    """Write the list as one HTML page beside the runs; returns its path. Links in it are relative to it.

    runs: of :func:`find_runs`. path: of the page, such as "reports/runs.html".
    """
    path = Path(path)
    rows = [_row(number, run, path.parent) for number, run in enumerate(runs)]
    page = (
        environment()
        .get_template("runs.html.j2")
        .render(
            title=f"{len(runs)} runs in {path.resolve().parent.name or path.parent}",
            n_broken=sum(run.is_broken for run in runs),
            rows=rows,
            models=sorted({run.model for run in runs if run.model}),
            kinds=sorted({run.kind for run in runs if run.kind}),
            **sealed(script=source("runs.js"), style=source("explorer.css", "page.css", "runs.css")),
        )
    )
    path.write_text(page, encoding="utf-8")
    return path


def _run(folder: Path) -> Run:
    try:
        record = read_report_record(folder, RECORD, needs=(), kind="run")
        about, (verdict, *others) = record["provenance"], record["statement"]
        if missing := [name for name in record["sha256"] if not (folder / name).is_file()]:
            raise FileNotFoundError(f"{', '.join(missing)} is missing, which its record lists.")
        made = str(record.get("result", {}).get("$", "")).rpartition(":")[2] or "Findings"
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", made).lower()
        picture = ""
        if made in ("HeadRanking", "Exploration"):
            result = load_result(folder)
            ranking = result.ranking if isinstance(result, Exploration) else result
            picture = still_map(ranking, 130, 110) if isinstance(ranking, HeadRanking) else picture
        return Run(
            folder,
            str(record["title"]),
            str(verdict),
            tuple(map(str, others[:_MOST_SENTENCES])),
            model_name(about),
            str(about.get("created") or ""),
            kind,
            picture=picture,
        )
    except (OSError, RecordError, KeyError, TypeError, ValueError, AttributeError) as error:
        told = str(error) if isinstance(error, OSError | ValueError) else f"its record lacks {error}"
        return Run(folder, title=folder.name, problem=told)


def _row(number: int, run: Run, start: Path) -> dict[str, Any]:
    """What the page shows of a run."""
    relative = Path(os.path.relpath(run.folder, start))
    pages = [("report", "report.html"), ("explorer", "explorer.html")]
    links = [(name, quote((relative / file).as_posix())) for name, file in pages if (run.folder / file).is_file()]
    return {
        "number": number,
        "run": run,
        "folder": relative.as_posix(),
        "links": links,
        "day": run.created[:10],
        "text": " ".join((run.title, run.verdict, run.model, run.kind, relative.as_posix())).casefold(),
    }

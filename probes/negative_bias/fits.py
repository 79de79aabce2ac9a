"""Fitted methods on disk: each is kept as soon as it is fitted, so that a killed run, or a finished one, goes on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from interp.edits import load_edit
from interp.records import clear_parts, read_record, understood, write_record
from interp.reports import hash_file
from probes.negative_bias.corrections import Method, State
from probes.studies import Study


class Fits:
    """The fitted methods of a study: each in its part files as soon as it is fitted, all in its result when it is done.

    Unfinished work of the same settings goes on; with ``resume``, a finished run's methods are read back too.
    """

    def __init__(self, study: Study) -> None:
        self.study = study

    def progress(self, name: str) -> Path | None:
        """Where a method keeps what it has so far."""
        return self.study.step(f"{_slug(name)}-progress")

    def are_all_of(self, names: Sequence[str]) -> bool:
        """Whether the finished run has these methods and no others."""
        return self.study.found is not None and {m.name for m in self.study.found.methods} == set(names)

    def get(self, name: str) -> tuple[Method, list[dict[str, Any]]] | None:
        """A method of this very run that is fitted already, with its looks at the validation questions."""
        folder, finished = self.study.step(_slug(name)), self.study.found
        if folder is not None and (kept := read_method(folder, self.study.id, name)) is not None:
            return kept
        for method in finished.methods if finished is not None else ():
            if method.name == name:
                looks = finished.history[finished.history["method"] == name]
                return method, looks.to_dict("records")
        return None

    def tidy(self) -> None:
        """Leave no trace of a run that has fitted nothing yet."""
        out = self.study.keep.folder
        if out is not None and [p.name for p in (out / "parts").iterdir()] == ["run.json"]:
            clear_parts(out)

    def put(self, method: Method, history: Sequence[Mapping[str, Any]]) -> None:
        if (folder := self.study.step(_slug(method.name))) is not None:
            write_method(folder, method, history, self.study.id)


def write_method(folder: Path, method: Method, history: Sequence[Mapping[str, Any]], run_id: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if method.edit is not None:
        method.edit.save(folder)
    record = {k: getattr(method, k) for k in ("name", "offset", "n_parameters", "seconds", "note")}
    record |= {
        "run_id": run_id,
        "edit_sha256": hash_file(folder / "edit.json") if method.edit is not None else None,
        "validation": asdict(method.validation) if method.validation else None,
        "history": list(history),
    }
    write_record(folder / "method.json", record)


def read_method(folder: Path, run_id: str, name: str) -> tuple[Method, list[dict[str, Any]]] | None:
    """What ``write_method`` wrote of this method for this run; None for anything else, with a warning that names the
    file if it was changed, damaged or swapped."""
    path = folder / "method.json"
    if not path.is_file():
        return None
    try:
        with understood(path):
            record = read_record(path)
            if record["run_id"] != run_id:
                return None
            if record["name"] != name:
                raise ValueError(f"it is the fit of {record['name']!r}, not of {name!r}")
            fields = {k: record[k] for k in ("name", "offset", "n_parameters", "seconds", "note")}
            method = Method(**fields, validation=State(**record["validation"]) if record["validation"] else None)
            if record["edit_sha256"] is not None:
                if hash_file(folder / "edit.json") != record["edit_sha256"]:
                    raise ValueError("the edit beside it is not the one that was fitted")
                method = replace(method, edit=load_edit(folder))
            return method, record["history"]
    except (ValueError, FileNotFoundError) as error:
        warnings.warn(f"the fit of {name} is not used, and made again: {error}", stacklevel=4)
        return None


def _slug(name: str) -> str:
    return name.lower().replace(" ", "_")

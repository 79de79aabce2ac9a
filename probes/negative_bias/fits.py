"""Fitted methods on disk: each is kept as soon as it is fitted, so that a killed run, or a finished one, goes on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from interp.edits import load_edit
from interp.records import clear_parts, keep_parts_of, prepare_directory, read_record, understood, write_record
from interp.reports import hash_file, refuse_other_run
from probes.negative_bias.methods import Method, State


class Fits:
    """The fitted methods of one run under ``out``: in ``parts`` while it works, in ``fits`` when it is saved.

    Raises ``FileExistsError`` (``OtherRunError``) where another run's report or unfinished work is; ``overwrite``
    discards them. Unfinished work of the same settings goes on; ``resume`` reads a finished run's methods back too.
    """

    def __init__(
        self, out: str | Path | None, run_id: str, settings: Mapping[str, Any], resume: bool, overwrite: bool
    ) -> None:
        self.run_id, self.resume = run_id, resume
        self.out = None if out is None else Path(out)
        if self.out is None:
            return
        if not overwrite:
            refuse_other_run(self.out, run_id)
        prepare_directory(self.out, need_mib=300)
        keep_parts_of(self.out, settings, resume, discard=overwrite)

    def progress(self, name: str) -> Path | None:
        """Where a method keeps what it has so far."""
        return None if self.out is None else self.out / "parts" / f"{_slug(name)}-progress"

    def get(self, name: str) -> tuple[Method, list[dict[str, Any]]] | None:
        """A method of this very run that is fitted already, with its looks at the validation questions."""
        if self.out is None:
            return None
        finished = [self.out / "fits" / _slug(name)] if self.resume else []
        for folder in (self.out / "parts" / _slug(name), *finished):
            if (found := read_method(folder, self.run_id, name)) is not None:
                return found
        return None

    def tidy(self) -> None:
        """Leave no trace of a run that has fitted nothing yet."""
        if self.out is not None and [p.name for p in (self.out / "parts").iterdir()] == ["run.json"]:
            clear_parts(self.out)

    def put(self, method: Method, history: Sequence[Mapping[str, Any]]) -> None:
        if self.out is not None:
            write_method(self.out / "parts" / _slug(method.name), method, history, self.run_id)


def write_all(out: Path, methods: Sequence[Method], history: Sequence[Mapping[str, Any]], run_id: str) -> None:
    """The methods of a finished run under ``out/fits``; its part files go."""
    for method in methods:
        rows = [row for row in history if row["method"] == method.name]
        write_method(out / "fits" / _slug(method.name), method, rows, run_id)
    clear_parts(out)


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

"""The folder of a saved report, of any kind: all or nothing, and never over another run's.

Files are written under temporary names and then moved, so no final name ever holds half a file. If saving
fails, the files that were there before are put back. Other files in the directory are left alone. A directory holds one
report, whose record is findings.json (:mod:`interp.reports.findings`).
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from interp.records import RecordError, explained, holding, read_record, record_text, sync, this_worker, understood

FORMAT_VERSION = 1

_OLD = "report.json"  # of rankings that older versions saved: never overwritten unasked, never read
RECORDS = ("findings.json", _OLD)  # what a report holds, and the SHA-256 of its files


def save_report(
    directory: str | Path, write: Callable[[Path], Sequence[str]], run_id: str | None, overwrite: bool = False
) -> Path:
    """Let `write(folder)` make the files of a report in an empty folder, and move them into `directory`.

    `write` returns the files' names in order of arrival, the record (`write_report_record`) last. A report of the same
    run is replaced: its files that the new one does not have are removed, unless they were changed since. If anything
    fails, the directory is as it was before. Raises NotADirectoryError, FileExistsError as `refuse_other_run` and
    where somebody else is at work in the directory, and OSError with the remedy where the disk refuses. A worker of an
    engine writes nothing: its driver does, at the end.
    """
    directory = Path(directory)
    if this_worker():
        return directory
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; expected a directory, or a path that does not exist yet.")
    with holding(directory), explained(directory):
        if not overwrite:
            refuse_other_run(directory, run_id)
        # inside the directory, not beside it: the same file system, so that moving is atomic
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory, ignore_cleanup_errors=True) as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            old.mkdir()
            names = write(new)
            for name in names:  # on the disk before a final name points to it
                sync(new / name)
            _replace(new, directory, names, backup=old)
    return directory


def write_report_record(path: Path, data: Mapping[str, Any], files: Sequence[str]) -> None:
    """Write `data` as JSON (NaN as null), with the format's version, the SHA-256 of the files beside it and its own."""
    hashes = {name: hash_file(path.parent / name) for name in files}
    record = _plain({"format_version": FORMAT_VERSION, **data, "sha256": hashes})
    path.write_text(record_text(record), encoding="utf-8")


def read_report_record(directory: Path, name: str, needs: Sequence[str], kind: str) -> dict[str, Any]:
    """The record of a saved report. Raises FileNotFoundError if it, or one of `needs`, is not there, and ValueError
    if it is damaged or of another version; `kind` names in the errors what was expected."""
    if not directory.is_dir():
        raise FileNotFoundError(f"No directory {directory}; expected the folder of a saved {kind}.")
    if not (directory / name).is_file() and (directory / _OLD).is_file():
        raise RecordError(
            f"{directory} holds a ranking that an older version saved ({_OLD}), which this version does not read. Make "
            "it anew: run again, without resuming."
        )
    for file in (name, *needs):
        if not (directory / file).is_file():
            raise FileNotFoundError(
                f"{directory} has no {file}, so it is not a finished, saved {kind}. If its run was "
                "interrupted, run the same command again: it continues."
            )
    return read_record(directory / name, FORMAT_VERSION)


def read_tensors(path: Path, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, which must be the one that the record describes (else ValueError)."""
    content = path.read_bytes()
    with understood(path):
        expected = record["sha256"][path.name]
    if hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(
            f"{path} is not the file that the record beside it describes (its SHA-256 differs): it was changed or "
            "damaged, or saving was interrupted. Copy or save the report again."
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}). Copy it again.") from error


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _replace(new: Path, directory: Path, names: Sequence[str], backup: Path) -> None:
    """Move the new files in and the old report's others out; put all back if that fails half way."""
    outdated = [name for name in _reported(directory) if name not in names]
    for name in (*names, *outdated):
        if (directory / name).exists():
            shutil.copy2(directory / name, backup / name)
    changed = []
    try:
        for name in names:
            os.replace(new / name, directory / name)
            changed.append(name)
        for name in outdated:
            (directory / name).unlink()
            changed.append(name)
    except BaseException:
        for name in changed:
            if (backup / name).exists():
                os.replace(backup / name, directory / name)
            else:
                (directory / name).unlink()
        raise


def _reported(directory: Path) -> list[str]:
    """The records in a directory, and the files that they list, as long as those are what the record says."""
    found = [record for record in RECORDS if (directory / record).is_file()]
    files = []
    for record in found:
        try:
            with understood(directory / record):
                hashes = read_record(directory / record)["sha256"]
                own = [name for name in hashes if Path(name).name == name and (directory / name).is_file()]
                files += [name for name in own if hash_file(directory / name) == hashes[name]]
        except RecordError:
            continue  # a damaged record lists nothing
    return [*dict.fromkeys(files), *found]


def saved_run(directory: str | Path) -> dict[str, Any] | None:
    """The provenance of the report in a directory; None if there is none, empty if it cannot be read."""
    found = [path for record in RECORDS if (path := Path(directory) / record).exists()]
    if not found:
        return None
    latest = max(found, key=lambda path: path.stat().st_mtime_ns)  # two only if a replacement was killed at its end
    try:
        with understood(latest):
            return dict(read_record(latest)["provenance"])
    except RecordError:
        return {}


def is_whole(directory: str | Path) -> bool:
    """Whether the files of the report in a directory are those that it was saved with; a warning says which are not.
    A run that can be made again need not stop at that."""
    directory = Path(directory)
    changed = []
    for record in (name for name in RECORDS if (directory / name).is_file()):
        with understood(directory / record):
            hashes = read_record(directory / record)["sha256"].items()
            changed += [n for n, h in hashes if not (directory / n).is_file() or hash_file(directory / n) != h]
    if changed:
        told = f"{directory}: {', '.join(changed)} is missing or not as it was saved; the report is made again."
        warnings.warn(told, stacklevel=4)
    return not changed


def refuse_other_run(directory: str | Path, run_id: str | None) -> None:
    """Raise FileExistsError if the directory holds a report of another run than `run_id` (None: of any run)."""
    found = saved_run(directory)
    there = (found or {}).get("run_id")
    if found is None or (there is not None and there == run_id):
        return
    which = f"run {there!r}" if there is not None else "a run without a run_id" if found else "a run that can't be told"
    when = f" of {found['created']}" if found.get("created") else ""
    this = f"; this is run {run_id!r}" if run_id else ""
    raise FileExistsError(
        f"{directory} already holds the report of {which}{when}{this}. Save to another directory, or "
        "replace it with overwrite=True."
    )


def _plain(value: Any) -> Any:
    """JSON types only: numpy numbers as Python's, NaN as null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

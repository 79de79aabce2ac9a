"""Long work that can be killed: part files, resume, a progress bar, and a look at the disk before the start."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from interp.provenance import hash_json

Item = TypeVar("Item")
Arrays = Mapping[str, np.ndarray]


class OtherRunError(FileExistsError):
    """The output folder holds the work of a run with other settings."""


def run_batches(
    items: Sequence[Item],
    score: Callable[[Sequence[Item]], Arrays],
    *,
    batch_size: int,
    directory: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    title: str = "scoring",
) -> dict[str, np.ndarray]:
    """Score items batch by batch and join the arrays along axis 0 (examples).

    ``score`` must be a function of its batch alone. With a ``directory``, each batch's arrays are written there as a
    part file before the next begins, so a killed run loses at most one batch; with ``resume=True`` the parts of the
    same ``settings`` are read instead of computed. The parts stay until :func:`clear_parts`.

    Raises ``OtherRunError`` if parts of other settings (or of another number of items, or another batch size) are
    there, or of the same settings without ``resume``; ``ValueError`` for no items.
    """
    if len(items) == 0:
        raise ValueError("no items were given; there is nothing to score.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected 1 or more.")
    starts = range(0, len(items), batch_size)
    settings = {"batch_size": batch_size, "n_items": len(items), **(settings or {})}
    parts = _Parts(directory, settings, resume) if directory is not None else None
    done: list[Arrays] = []
    with _progress(title) as bar:
        task = bar.add_task(title, total=len(items))
        for number, start in enumerate(starts):
            batch = items[start : start + batch_size]
            arrays = parts.read(number) if parts else None
            if arrays is None:
                arrays = score(batch)
                if parts:
                    parts.write(number, arrays)
            done.append(arrays)
            bar.advance(task, len(batch))
    return {name: np.concatenate([a[name] for a in done]) for name in done[0]}


def prepare_directory(directory: str | Path, need_mib: float) -> Path:
    """Make the output folder and show, before any work, that it can be written and has room.

    Raises ``OSError`` with what was found, what is needed and what to do.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"headscope")
    except OSError as error:
        raise OSError(
            f"can't write to the output folder {directory}: {error.strerror or error}. Give a writable --out."
        ) from error
    free = shutil.disk_usage(directory).free / 2**20
    if free < need_mib:
        raise OSError(
            f"the output folder {directory} has {free:.0f} MiB free; about {need_mib:.0f} MiB are needed. Free some "
            "space or give another --out."
        )
    return directory


def clear_parts(directory: Path) -> None:
    """Delete the part files of a finished run."""
    shutil.rmtree(directory / "parts", ignore_errors=True)


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside ``path`` under a temporary name and move it there: a crash leaves the old file or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_parts_of(directory: Path, settings: Mapping[str, Any], resume: bool, discard: bool = False) -> None:
    """Raise ``OtherRunError`` if the folder has part files that a run of these settings could not go on with:
    of other settings, or of the same ones without ``resume``. ``discard`` deletes them instead."""
    settings = _as_read_back(settings)
    record = directory / "parts" / "run.json"
    if not record.exists():
        return
    found = json.loads(record.read_text())
    same = found["key"] == hash_json(settings)
    if same and resume:
        return
    if discard:
        clear_parts(directory)
    elif same:
        raise OtherRunError(
            f"{directory} holds an unfinished run with the same settings. Continue it with --resume, or delete "
            f"{record.parent} to start anew."
        )
    else:
        was = found["settings"]
        changed = sorted(k for k in {*was, *settings} if was.get(k) != settings.get(k))
        raise OtherRunError(
            f"{directory} holds an unfinished run with other settings ({', '.join(changed)} differ). Give another "
            f"--out, the same settings with --resume, or delete {record.parent}."
        )


def keep_parts_of(directory: Path, settings: Mapping[str, Any], resume: bool, discard: bool = False) -> Path:
    """The folder for the part files of these settings, made if needed, for work whose parts are not batches; refuses
    as :func:`require_parts_of`."""
    require_parts_of(directory, settings, resume, discard)
    folder = directory / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    _write_record(folder, settings)
    return folder


def _write_record(folder: Path, settings: Mapping[str, Any]) -> None:
    """Say in a folder of parts what they are parts of."""
    settings = _as_read_back(settings)
    text = json.dumps({"key": hash_json(settings), "settings": settings}, indent=1)
    write_atomically(folder / "run.json", lambda path: path.write_text(text))


def _as_read_back(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(settings), default=str))


def count_left(n_items: int, directory: Path | None, batch_size: int) -> int:
    """How many of the items of :func:`run_batches` have no part file in ``directory`` (None: all of them)."""
    n_kept = 0 if directory is None else len(list((directory / "parts").glob("part-*.safetensors")))
    return n_items - min(n_items, n_kept * batch_size)


class _Parts:
    def __init__(self, directory: Path, settings: Mapping[str, Any], resume: bool) -> None:
        self.folder = directory / "parts"
        require_parts_of(directory, settings, resume)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / "lock")  # gone with the process, also after kill -9
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OtherRunError(
                f"another process is working in {directory} right now. Wait for it, or give another --out."
            ) from None
        for stale in self.folder.iterdir():  # temporary files of a killed writer
            if re.match(r"\.(part|run)", stale.name):
                stale.unlink(missing_ok=True)
        _write_record(self.folder, settings)

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.safetensors"

    def read(self, number: int) -> Arrays | None:
        try:
            return load_file(self.path(number))
        except (FileNotFoundError, SafetensorError):
            return None

    def write(self, number: int, arrays: Arrays) -> None:
        whole = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
        try:
            write_atomically(self.path(number), lambda path: path.write_bytes(save(whole)))
        except OSError as error:
            raise OSError(
                f"can't write {self.path(number)}: {error.strerror or error}. The batches before it are kept: free "
                "some space, then continue with --resume."
            ) from error


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


def _progress(title: str) -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)

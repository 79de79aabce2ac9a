"""One writer for each folder: held from the first check of a run to its saved report, and gone with the process."""

from __future__ import annotations

import errno
import functools
import inspect
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, overload

from interp.records.keep import keep_of
from interp.records.workers import this_worker
from interp.records.writing import remove_stale

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

Given = ParamSpec("Given")
Result = TypeVar("Result")

NAME = ".headscope-lock"
_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


class OtherRunError(FileExistsError):
    """The output folder holds the work of another run."""


class FolderInUseError(OtherRunError):
    """Somebody is working in the folder right now. ``holder`` says who: pid, host, since (empty where unknown)."""

    def __init__(self, folder: Path, holder: dict[str, Any], is_this_process: bool) -> None:
        self.folder, self.holder = folder, holder
        who = "another thread of this process" if is_this_process else "another process"
        known = all(name in holder for name in ("pid", "host", "since"))
        told = f" (process {holder['pid']} on {holder['host']}, since {holder['since']})" if known else ""
        super().__init__(
            f"{who} is working in {folder} right now{told}. Nothing was changed. Wait for it, or give another folder "
            "out=..."
        )


@dataclass
class _Held:
    file: int
    path: Path
    thread: int
    holder: dict[str, Any]
    made: list[Path]  # folders that were not there before
    depth: int = 1


_guard = threading.RLock()
_held: dict[str, _Held] = {}


@contextmanager
def holding(folder: str | Path, *, as_whole: bool = False) -> Iterator[Path]:
    """Be the only one that writes to ``folder``, in the block: no other process, and no other thread of this one.

    The folder is made if needed, and goes again if nothing is left in it. What killed writers left is removed. The same
    thread may hold a folder several times over. The lock is a file in the folder, known to the operating system, which
    forgets it with the process, also after ``kill -9``; it says who holds it, and is removed at the end. ``as_whole``:
    for a file, or a folder that is replaced as a whole, the lock lies beside it.

    In a worker of an engine (:mod:`interp.records.workers`) it is the driver that holds the folder, for all of them.

    Raises :class:`FolderInUseError` at once where somebody else is at work; ``OSError`` with the remedy for a folder
    that can't be written, or a file system without locks.
    """
    folder = Path(folder)
    if worker := this_worker():
        worker.hold(folder)
        yield folder
        return
    place = folder.parent if as_whole else folder
    path = place / (f".{folder.name}{NAME}" if as_whole else NAME)
    key = os.path.realpath(path)
    _take(key, path, place, folder, cleans=not as_whole)
    try:
        if as_whole and folder.is_dir():
            with holding(folder):  # a study may be at work in it
                pass
        yield folder
    finally:
        _give_back(key)


def is_held(folder: str | Path) -> bool:
    """Whether this thread holds the folder, or one above it; of a worker, its driver."""
    if worker := this_worker():
        return worker.holds(Path(folder))
    inside = Path(os.path.realpath(folder))
    with _guard:
        mine = {Path(key).parent for key, held in _held.items() if held.thread == threading.get_ident()}
    return not mine.isdisjoint({inside, *inside.parents})


def holding_unless_held(folder: Path | None) -> AbstractContextManager[Any]:
    """:func:`holding`, but nothing for None, or for a folder inside one that this thread holds: a step's parts lie
    inside those of its study."""
    return nullcontext() if folder is None or is_held(folder) else holding(folder)


@overload
def keeps_work(study: Callable[Given, Result], *, as_whole: bool = False) -> Callable[Given, Result]: ...


@overload
def keeps_work(*, as_whole: bool = False) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]: ...


def keeps_work(
    study: Callable[Given, Result] | None = None, *, as_whole: bool = False
) -> Callable[Given, Result] | Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Hold the folder of a study (its ``keep``; ``directory`` of a ``save``), if one is given, while it runs: for
    every function that keeps work in part files or overwrites a report. ``as_whole``: as in :func:`holding`."""
    if study is None:
        return functools.partial(keeps_work, as_whole=as_whole)
    signature = inspect.signature(study)

    @functools.wraps(study)
    def locked(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            given = signature.bind_partial(*args, **kwargs).arguments
            out = given.get("out", given.get("directory", given.get("keep")))
            if isinstance(out, dict):  # the fields of a Keep
                out = keep_of(out)
            out = getattr(out, "folder", out)
        except (TypeError, ValueError):  # the call itself says it better
            out = None
        if not isinstance(out, (str, os.PathLike)) or not str(out):
            return study(*args, **kwargs)
        with holding(Path(out).expanduser(), as_whole=as_whole):
            return study(*args, **kwargs)

    return locked


def _take(key: str, path: Path, place: Path, folder: Path, cleans: bool) -> None:
    with _guard:
        held = _held.get(key)
        if held is not None:
            if held.thread != threading.get_ident():
                raise FolderInUseError(folder, held.holder, is_this_process=True)
            held.depth += 1
            return
        made = [d for d in (place, *place.parents) if not os.path.lexists(d)]
        try:
            place.mkdir(parents=True, exist_ok=True)
            file = _locked(path, folder)
        except OtherRunError:
            raise
        except OSError as error:
            _remove(made)
            raise OSError(
                f"can't write to the output folder {place}: {error.strerror or error}. Give a writable one, out=..."
            ) from error
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with suppress(OSError):  # a courtesy; the lock holds without it
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(holder).encode(), 0) if fcntl else os.write(file, json.dumps(holder).encode())
        _held[key] = _Held(file, path, threading.get_ident(), holder, made)
        if cleans:
            remove_stale(folder)


def _give_back(key: str) -> None:
    with _guard:
        held = _held.get(key)
        if held is None:  # in a forked child, which never had it
            return
        held.depth -= 1
        if held.depth:
            return
        del _held[key]
        with suppress(OSError):
            if _is_at(held.file, held.path):
                held.path.unlink()  # while it is locked: whoever opened it meanwhile sees that it is gone
        os.close(held.file)
        _remove(held.made)


def _locked(path: Path, folder: Path) -> int:
    """The lock file, opened and locked."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        file = os.open(path, flags, 0o666)
        try:
            _lock(file)
            if _is_at(file, path):
                return file
        except OSError as error:
            os.close(file)
            if error.errno in _BUSY:
                raise FolderInUseError(folder, _holder(path), is_this_process=False) from None
            raise OSError(
                error.errno,
                f"its file system can't lock files ({error.strerror}), so that two runs could write over each other. "
                "Use a folder on a local disk, and copy the results afterwards",
            ) from error
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its last holder removed it in between: lock the one that is there now


def _lock(file: int) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        os.lseek(file, 1 << 20, os.SEEK_SET)  # far behind the text, which others may read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remove(made: list[Path]) -> None:
    for folder in made:  # the deepest first
        with suppress(OSError):
            folder.rmdir()  # only if nothing is in it


def _forget() -> None:
    """In a forked child: the locks are the parent's, and must not outlive it."""
    global _guard
    _guard = threading.RLock()
    for held in _held.values():
        with suppress(OSError):
            os.close(held.file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

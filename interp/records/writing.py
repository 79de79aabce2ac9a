"""Files written whole or not at all, under names that nobody can guess, with a sentence where the disk refuses."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.tmp")
_OLDER = re.compile(r"\.(part-\d+\.safetensors|run\.json)\.\d+")  # of versions that named them by process
_SAVING = re.compile(r"\.saving-[a-z0-9_]{8}")
_OF_A_RUN = ("parts", "fits", "edit", "edits", "guard", "directions", "steering")  # a study's own, under its lock
_REMEDIES = {
    errno.ENOSPC: "Free some space on that disk, or give another folder",
    errno.EDQUOT: "Your quota there is used up: free some of it, or give another folder",
    errno.EFBIG: "A limit on the size of files (`ulimit -f`) stops it: raise it, or ask for less",
    errno.EROFS: "That file system can only be read: give another folder",
    errno.EACCES: "You may not write there: give another folder, or change its permissions",
    errno.EPERM: "You may not write there: give another folder, or change its permissions",
    errno.EIO: "The disk reports an error: give a folder on another one",
}
_NUMBER = re.compile(r"os error (\d+)|errno (\d+)", re.IGNORECASE)  # what libraries of other languages leave of it


class WriteError(OSError):
    """Something could not be written; the sentence says what, why, what is kept, and what to do. ``errno`` is set."""


@contextmanager
def explained(place: str | Path, kept: str = "What was there before is unchanged.") -> Iterator[None]:
    """Turn what a full disk, a quota, a limit on file sizes or a missing permission raises in the block into a
    :class:`WriteError` about ``place``: an ``OSError``, or the error of a library that writes files by itself
    (safetensors, tokenizers, pyarrow). Anything else passes."""
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number = _number_of(error)
        if number not in _REMEDIES:
            raise
        told = WriteError(f"can't write {place}: {os.strerror(number)}. {kept} {_REMEDIES[number]}.")
        told.errno = number
        raise told from error


def _number_of(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER.search(str(error))
    return int(found[1] or found[2]) if found else None


def write_atomically(path: str | Path, write: Callable[[Path], Any], kept: str | None = None) -> None:
    """Let ``write(temporary)`` fill a new file beside ``path``, and move it there: a crash leaves the old file or none.

    The temporary name can't be guessed and is opened as a new file; a link at ``path`` is replaced, not written
    through. The content is on the disk before it gets its name; its mode is that of any new file. ``kept``: a sentence
    for :class:`WriteError`, on what is not lost.
    """
    path = Path(path)
    with explained(path, kept or "What was there before is unchanged."):
        temporary = path.with_name(f".{path.name[:80]}.{secrets.token_hex(8)}.tmp")
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
        os.close(os.open(temporary, flags, 0o666))
        try:
            write(temporary)
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the content of a file on the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def directory_beside(directory: Path) -> Path:
    """A new, empty directory beside ``directory``, to be filled and moved there; those that killed writers of it left
    are removed. For a caller that holds ``directory`` (:func:`interp.records.folder_lock.holding`)."""
    prefix = f".{directory.name}.new-"
    for stale in directory.parent.glob(f"{prefix}????????"):
        shutil.rmtree(stale, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=directory.parent))


def remove_stale(folder: Path) -> None:
    """Remove what killed writers of this package left in the folder of a run: temporary files, and half-saved reports.
    Nothing else. For a caller that holds the folder: another writer's files look the same."""
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            is_ours = _SAVING.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink()
            if is_ours and {inner.name for inner in entry.iterdir()} <= {"new", "old"}:
                shutil.rmtree(entry, ignore_errors=True)
    for top in (folder, *(folder / name for name in _OF_A_RUN)):
        for where, directories, files in os.walk(top):
            if top == folder:
                directories.clear()
            for name in files:
                if _TEMPORARY.fullmatch(name) or _OLDER.fullmatch(name):
                    with suppress(OSError):
                        (Path(where) / name).unlink()

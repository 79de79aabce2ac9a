"""A directory that holds a model made from something else (a GGUF file, a testbed's parts), and what it says of itself.

`headscope.json` beside the weights names where they came from, and the size and SHA-256 of every file. A copy is
believed by these hashes. Reading gigabytes each time would be slow, so a file that has passed once is read again only
when its size, its inode or one of its times has changed: `headscope.verified.json` remembers these.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from interp.records import write_atomically

FORMAT_VERSION = 2  # of headscope.json; a higher one makes older conversions be made again
PROVENANCE_FILE = "headscope.json"
VERIFIED_FILE = "headscope.verified.json"


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex, read in pieces (about 1 s for each GB)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_record(directory: Path, facts: dict[str, Any]) -> None:
    """Write `headscope.json`: `facts` (JSON types), and the size and SHA-256 of every file that is there."""
    files = [file for file in sorted(directory.iterdir()) if file.name not in (PROVENANCE_FILE, VERIFIED_FILE)]
    record = {
        "format_version": FORMAT_VERSION,
        **facts,
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files},
    }
    (directory / PROVENANCE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_provenance(directory: Path, by_size: bool = False) -> dict[str, Any] | None:
    """The `headscope.json` of a finished conversion; None without one, or if a file is missing or is not what was
    written.

    Costs a second for each GB the first time, and after a copy; milliseconds otherwise. `by_size` reads no file (for
    listings, from which nothing is loaded).
    """
    try:
        record = json.loads((directory / PROVENANCE_FILE).read_text(encoding="utf-8"))
        if record["format_version"] != FORMAT_VERSION:
            return None
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in record["files"].items()}
        if any((directory / name).stat().st_size != n_bytes for name, (n_bytes, _) in expected.items()):
            return None
        if not by_size and not _verify(directory, {name: digest for name, (_, digest) in expected.items()}):
            return None
        return record
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def _verify(directory: Path, expected: dict[str, str]) -> bool:
    """Whether every file has its SHA-256; what has passed is remembered, where the directory can be written."""
    stamps = {name: _stamp(directory / name) for name in expected}
    try:
        passed = json.loads((directory / VERIFIED_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        passed = {}
    if not isinstance(passed, dict):
        passed = {}
    new = [name for name in expected if passed.get(name) != [expected[name], *stamps[name]]]
    if any(sha256_of(directory / name) != expected[name] for name in new):
        return False
    if new:
        found = {name: [expected[name], *stamps[name]] for name in expected}
        with contextlib.suppress(OSError):  # a cache that can't be written is verified each time
            write_atomically(directory / VERIFIED_FILE, lambda path: path.write_text(json.dumps(found)))
    return True


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]

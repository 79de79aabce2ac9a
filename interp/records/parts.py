"""Part files: the arrays of one batch, in a file that says whose they are and shows that they are unchanged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from interp.records.provenance import hash_json
from interp.records.writing import write_atomically

Arrays = Mapping[str, np.ndarray]
FORMAT = "headscope part 1"


class Parts:
    """The part files in a folder. ``key``: of which run, and which step of it, they are.

    A part holds, beside its arrays, the key, its number, a hash of what its items are, and a checksum of the arrays:
    names, shapes, types, bytes. :meth:`read` takes nothing else, so that neither a flipped bit nor another batch's file
    gets into a result.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.safetensors"

    def read(self, number: int, items: str) -> Arrays | None:
        """The arrays of a part, None where there is none; with a warning where its file is not this part, whole."""
        arrays, why = self._looked_at(number, items)
        if why:
            self.distrust(number, why)
        return arrays

    def peek(self, number: int, items: str) -> Arrays | None:
        """:meth:`read` without a word: of a part that somebody else writes, and may not have written yet."""
        return self._looked_at(number, items)[0]

    def numbers(self) -> list[int]:
        """Of the part files that are there."""
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob("part-*.safetensors"))

    def taken(self, number: int) -> tuple[str, Arrays]:
        """A part whatever its items are: their hash, and the arrays. Raises ``ValueError`` for a file that is not this
        part of this run, whole."""
        try:
            items = _about(self.path(number).read_bytes()).get("items", "")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path(number)} can't be read: {str(error)[:120]}.") from None
        arrays, why = self._looked_at(number, items)
        if arrays is None:
            raise ValueError(f"{self.path(number)} can't be used: {why or 'it is gone'}. Run its shard again.")
        return items, arrays

    def _looked_at(self, number: int, items: str) -> tuple[Arrays | None, str]:
        """The arrays of a part, or None and why they are not used; without a reason where there is no file."""
        path = self.path(number)
        if not path.is_file():
            return None, ""
        try:
            content = path.read_bytes()
            arrays, about = load(content), _about(content)
            expected = self._about(number, items, arrays)
            wrong = [name for name in expected if about.get(name) != expected[name]]
            why = _WRONG[wrong[0]] if wrong else "it says more than a part does" if len(about) > len(expected) else ""
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
            return None, f"it can't be read: {str(error)[:120]}"
        return (None, why) if why else (arrays, "")

    def write(self, number: int, items: str, arrays: Arrays) -> None:
        whole = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
        content = save(whole, metadata=self._about(number, items, whole))
        kept = "The batches before it are kept: run the same again afterwards: it goes on."
        write_atomically(self.path(number), lambda path: path.write_bytes(content), kept)

    def distrust(self, number: int, why: str) -> None:
        """Say that a part is not used."""
        warnings.warn(f"{self.path(number)} is not used, and computed again: {why}.", stacklevel=4)

    def _about(self, number: int, items: str, arrays: Arrays) -> dict[str, str]:
        about = {"format": FORMAT, "run": self.key, "number": str(number), "items": items}
        return about | {"sha256": checksum(arrays)}


_WRONG = {
    "format": "it has no identity (another version wrote it)",
    "run": "it is of another run, or of another step",
    "number": "it is a copy of another part",
    "items": "it is of other items",
    "sha256": "its numbers were changed or damaged (the checksum differs)",
}


def checksum(arrays: Arrays) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def layout(arrays: Arrays) -> list[tuple[str, str, tuple[int, ...]]]:
    """What the parts of one step have in common: names, types, and shapes but for the first axis."""
    return sorted((name, str(a.dtype), a.shape[1:]) for name, a in arrays.items())


def hash_items(items: Sequence[Any]) -> str:
    """A hash of what the items of a batch are: ids and token ids where they have them, else their values."""
    known = getattr(items, "asked", None)  # of a sequence that builds its items when they are read
    return hash_json([_named(item) for item in (items if known is None else known)])


def _named(item: Any) -> Any:
    if item is None or isinstance(item, (bool, int, float, str)):
        return item if not isinstance(item, str) else ascii(item)
    if isinstance(item, np.generic):
        return item.item()
    if isinstance(item, np.ndarray):
        return checksum({"": item}) if item.dtype != object else [_named(inner) for inner in item.ravel()]
    if isinstance(item, Mapping):
        return {str(name): _named(inner) for name, inner in item.items()}
    if isinstance(item, (list, tuple, set, frozenset, range)):
        inner = [_named(one) for one in item]
        return sorted(inner, key=str) if isinstance(item, (set, frozenset)) else inner
    kind = type(item).__name__
    if getattr(item, "id", None):
        return [kind, ascii(item.id), _named(getattr(item, "token_ids", None))]
    if dataclasses.is_dataclass(item):
        return [kind, {f.name: _named(getattr(item, f.name)) for f in dataclasses.fields(item)}]
    return kind  # its place in the run is all that is known of it


def _about(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__") or {}

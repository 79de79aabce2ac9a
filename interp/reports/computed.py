"""What a result computed from its arrays, saved beside them: read back where nothing that it depends on has changed.

A class says which of its cached properties are worth it: ``_computed_once = ("_frame", "reliability")``. They are taken
for what they are only where the value, its arrays, the class's own source, that of :mod:`interp.statistics` and the
libraries are those that they were computed with; else they are computed again, without a word.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from interp import statistics
from interp.records import hash_json
from interp.records.parts import checksum
from interp.reports.saved import packed, unpacked

_LIBRARIES = ("numpy", "scipy", "pandas")


def computed(result: Any, value: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What ``result`` computed, as JSON for its record; {} of a class that keeps nothing. ``value``, ``arrays``: the
    result, packed."""
    names = getattr(type(result), "_computed_once", ())
    if not names:
        return {}
    made = {name: packed(getattr(result, name), {}, name) for name in names}
    return {"of": _key(type(result), value, arrays), "made": made}


def restore(result: Any, stored: Any, value: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Give a result that was read what :func:`computed` had kept of it, if it is of this very result."""
    names = getattr(type(result), "_computed_once", ())
    if not names or not isinstance(stored, Mapping) or set(stored.get("made", {})) != set(names):
        return
    if stored["of"] == _key(type(result), value, arrays):
        vars(result).update({name: unpacked(stored["made"][name], {}) for name in names})


def _key(cls: type, value: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    versions = [metadata.version(name) for name in _LIBRARIES]
    return hash_json([value, checksum(arrays), _source(cls.__module__), versions])


@cache
def _source(module: str) -> str:
    """A hash of the source of a class's module and of all statistics."""
    digest = hashlib.sha256()
    own = sys.modules[module].__file__
    for file in [own, *sorted(Path(statistics.__file__).parent.glob("*.py"))]:
        digest.update(Path(file or "").read_bytes())
    return digest.hexdigest()

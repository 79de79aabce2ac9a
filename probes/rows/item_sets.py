"""What lists of questions and of requests have in common: their hash, and how units are dealt out to parts."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.records import hash_text
from probes.rows.formats import Reading


def hash_items(items: Iterable[Any]) -> str:
    """SHA-256 (hex) of dataclasses in their order, every field included, for provenance."""
    rows = [dataclasses.asdict(item) for item in items]
    return hash_text(json.dumps(rows, sort_keys=True, ensure_ascii=True, separators=(",", ":")))


def deal(units: Iterable[tuple[Hashable, Sequence[int]]], fractions: Mapping[str, float]) -> dict[str, list[int]]:
    """The numbers in units (each with what it is of) dealt out: every unit goes whole to the part that lacks most of
    its kind. Sorted, by part; a part may be empty."""
    taken: Counter[tuple[Hashable, str]] = Counter()
    members: dict[str, list[int]] = {name: [] for name in fractions}
    for kind, unit in units:
        total = sum(taken[kind, name] for name in fractions) + len(unit)
        name = max(fractions, key=lambda name: fractions[name] * total - taken[kind, name])
        taken[kind, name] += len(unit)
        members[name] += unit
    return {name: sorted(numbers) for name, numbers in members.items()}


def require_fractions(fractions: Mapping[str, float]) -> None:
    shares = list(fractions.values())
    if not shares or not min(shares) > 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"fractions={dict(fractions)}; expected positive numbers that add up to 1.")


def shipped_or(source: str | Path, shipped: Path, what: str, reading: Reading, limit: int | None) -> str | Path:
    """The file of ``what`` that is meant: ``shipped`` for "builtin". Raises ``ValueError`` for words on its columns or
    format, which it has, and for a limit below 1; ``FileNotFoundError`` where it is missing."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; expected 1 or more {what}, or None for all.")
    if source != "builtin":
        return source
    if reading:
        raise ValueError(
            f"format= is for files, and columns are for files too; leave them out to read the built-in {what}."
        )
    if not shipped.is_file():
        raise FileNotFoundError(f"the built-in {what} are missing ({shipped}); install headscope again.")
    return shipped

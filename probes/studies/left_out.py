"""What a report says of data that were left out, whatever it is of: a ranking, levels, a modulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def said_of_data(provenance: Mapping[str, Any]) -> list[str]:
    """Sentences on what was left out of the data (of edited photographs: which pairs), and on answers that are nearly
    all the same."""
    data, left_out = provenance.get("data") or {}, provenance.get("left_out") or {}
    absent = list(data.get("skipped") or ())
    untold = [name for name in left_out if name not in set(absent)]
    said = list(data.get("left_out") or ())
    for names, why in ((absent, "without an image"), (untold, "that the answer's first token can't judge")):
        if names:
            said.append(f"Left out {why}: {len(names)} ({first_names(names)}; reasons in the provenance).")
    if one_sided := data.get("one_sided"):
        said.append(f"{one_sided[:1].upper()}{one_sided[1:]}")
    return said


def first_names(names: Sequence[str], most: int = 5) -> str:
    """The names, or the first of them and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

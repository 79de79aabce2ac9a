"""Rows of a data set that the library ``datasets`` reads: ``hf:ORG/NAME:SPLIT``, or ``hf:FOLDER:SPLIT`` from disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from probes.rows.json_rows import Row

_SOURCE = re.compile(r"hf:(?P<name>.+?)(?::(?P<split>[\w\[\]%+-]+))?$")


def is_hub(source: str | Path) -> bool:
    """Whether a source names a data set of ``datasets``."""
    return str(source).startswith("hf:")


def hub_rows(source: str | Path) -> Iterator[Row]:
    """The rows of a split, by default "train", as they arrive: no more is fetched than is read, and nothing with
    ``HEADSCOPE_OFFLINE=1`` unless it is a folder. Columns that are pictures or sound are left out.

    Raises:
        ModuleNotFoundError: ``datasets`` is not installed.
        FileNotFoundError: no such data set or split, or one that would have to be fetched where that is forbidden.
    """
    found = _SOURCE.match(str(source))
    if found is None:
        raise FileNotFoundError(
            f"no data set {source}; expected hf:ORG/NAME:SPLIT, such as hf:google/boolq:validation."
        )
    name, split = found["name"], found["split"] or "train"
    place = Path(name).expanduser()
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{source} needs the library datasets: pip install datasets") from None
    if os.environ.get("HEADSCOPE_OFFLINE", "0") not in ("", "0") and not place.is_dir():
        raise FileNotFoundError(f"{source} would be fetched, which HEADSCOPE_OFFLINE forbids; give a folder or a file.")
    try:
        rows = load_dataset(str(place) if place.is_dir() else name, split=split, streaming=True)
        for number, fields in enumerate(rows, 1):
            yield Row(str(number), "", {k: v for k, v in fields.items() if _is_plain(v)})
    except (OSError, ValueError) as error:  # datasets' own of what is not there, too
        raise FileNotFoundError(f"{source} can't be read: {' '.join(str(error).split())[:300]}") from error


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | dict)

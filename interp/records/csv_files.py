"""Tables as CSV files whose text a spreadsheet shows and does not run."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pandas as pd

from interp.records.records import read_record

_RUN = re.compile(r"'*[=+\-@\t\r\n]")
_GUARDED = re.compile(r"'+[=+\-@\t\r\n]")


def write_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a table without its index. A text (a cell or a heading) that begins with ``= + - @``, a tab or a line end,
    which spreadsheets take for a formula, gets an apostrophe in front; numbers stay numbers. :func:`read_csv` takes it
    off. The only place of this package that writes CSV."""
    guarded = frame.copy()
    for place in range(frame.shape[1]):
        column = frame.iloc[:, place]
        if column.dtype.kind not in "biufcmM":
            guarded.isetitem(place, column.astype(object).map(_guarded))
    guarded.columns = [_guarded(name) for name in frame.columns]
    texts = (cell for column in guarded for cell in (column, *guarded[column]) if isinstance(cell, str))
    has_bare_return = any("\r" in text for text in texts)  # which pandas leaves without quotes, as the end of a row
    guarded.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC if has_bare_return else csv.QUOTE_MINIMAL)


def read_csv(path: str | Path) -> pd.DataFrame:
    """The table that :func:`write_csv` wrote, with its texts as they were."""
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])  # "NA" is a text; what is missing is empty
    for place in range(frame.shape[1]):
        column = frame.iloc[:, place]
        if column.dtype.kind not in "biufcmM":
            frame.isetitem(place, column.map(unguarded))
    frame.columns = [unguarded(name) for name in frame.columns]
    return frame


def is_of_report(path: Path) -> bool:
    """Whether this file is a table of a saved report, by the record beside it. In any other file an apostrophe before
    ``=`` is its own."""
    try:
        files = read_record(path.with_name("findings.json"))["sha256"]
    except (OSError, ValueError, KeyError):
        return False
    return isinstance(files, dict) and path.name in files


def unguarded(cell: Any) -> Any:
    """A cell of such a file as it was before it was written."""
    return cell[1:] if isinstance(cell, str) and _GUARDED.match(cell) else cell


def _guarded(cell: Any) -> Any:
    if isinstance(cell, str):
        return f"'{cell}" if _RUN.match(cell) else cell
    if isinstance(cell, (list, tuple, dict, set)):  # written as its text
        return _guarded(str(cell))
    return cell

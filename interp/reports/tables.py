"""Tables in a record: columns as JSON, and back with equal cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def tidy(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A copy whose index is row numbers and whose columns are distinct texts."""
    note, rows = table.attrs.get("note"), table.attrs.get("rows")
    is_row_number = table.index.nlevels == 1 and table.index.name is None and table.index.dtype.kind in "iu"
    table = table.reset_index(drop=is_row_number)
    if table.columns.nlevels > 1 or not table.columns.is_unique:
        raise ValueError(f"the table {name!r} has columns {table.columns.tolist()}; expected plain, distinct names.")
    table.columns = [str(column) for column in table.columns]
    table.attrs = ({"note": str(note)} if note else {}) | ({"rows": int(rows)} if rows else {})
    return table


def stored_table(table: pd.DataFrame) -> dict[str, Any]:
    columns = [
        {"name": name, "dtype": str(series.dtype), "values": [_stored(value) for value in series]}
        for name, series in table.items()
    ]
    return {"note": table.attrs.get("note"), "n_rows": len(table), "columns": columns}


def _stored(value: Any) -> Any:
    """JSON for a cell: null for what is missing, text for the infinities and for any object that is not plain."""
    if isinstance(value, np.generic):
        value = value.item()
    if is_missing(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def read_table(data: Mapping[str, Any]) -> pd.DataFrame:
    columns = {}
    for column in data["columns"]:
        dtype, values = column["dtype"], pd.Series(column["values"], dtype=object)
        columns[column["name"]] = values.astype("str" if dtype == "category" else dtype)
    table = pd.DataFrame(columns, index=range(data["n_rows"]))
    table.attrs = {"note": data["note"]} if data["note"] else {}
    return table


def is_missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))

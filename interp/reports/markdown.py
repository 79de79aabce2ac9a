"""Tables for markdown: numbers short, intervals beside their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from interp.records.writing import write_atomically


def write_page(path: Path, title: str, content: Mapping[str, list[str] | pd.DataFrame]) -> None:
    """One markdown file for reading: sentences as a list, tables as :func:`markdown`, each under its heading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", ""]
    for heading, value in content.items():
        lines += [f"## {heading}", ""]
        lines += [f"- {sentence}" for sentence in value] if isinstance(value, list) else [markdown(value)]
        lines.append("")
    write_atomically(path, lambda temporary: temporary.write_text("\n".join(lines), encoding="utf-8"))


def markdown(frame: pd.DataFrame) -> str:
    """A pipe table; a column ``x`` with ``x_low`` and ``x_high`` (or ``ci_low``, ``ci_high``) becomes one, with its
    interval. Bars inside cells are escaped."""
    shown = {}
    for column in frame.columns:
        ends = (f"{column}_low", f"{column}_high")
        if column == "value" and "ci_low" in frame:
            ends = ("ci_low", "ci_high")
        if str(column).endswith(("_low", "_high")) and _owner(str(column), frame) is not None:
            continue
        if all(end in frame for end in ends):
            low, high = (frame[end] for end in ends)
            shown[column] = [
                text(v) if text(v) == "–" else f"{text(v)} [{text(a)}, {text(b)}]"
                for v, a, b in zip(frame[column], low, high, strict=True)
            ]
        else:
            shown[column] = [text(v) for v in frame[column]]
    names = [str(c).replace("_", " ") for c in shown]
    rows = zip(*shown.values(), strict=True)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _owner(column: str, frame: pd.DataFrame) -> str | None:
    base = column.rsplit("_", 1)[0]
    if base == "ci":
        return "value" if "value" in frame else None
    return base if base in frame else None


def text(value: Any) -> str:
    """A cell: floats with three digits after the point, large ones without."""
    if isinstance(value, float):
        if math.isnan(value):
            return "–"
        return (
            f"{value:,.0f}"
            if abs(value) >= 1000
            else f"{value:.3f}"
            if abs(value) >= 0.001 or not value
            else f"{value:.1e}"
        )
    return str(value).replace("|", "\\|").replace("\n", " ")

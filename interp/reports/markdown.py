"""Tables for markdown: numbers short, intervals beside their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from interp.figures import displayed
from interp.records.writing import write_atomically
from interp.statistics import Estimate


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
    """A pipe table of :func:`cells`. Bars inside cells are escaped."""
    shown = {name: [cell.replace("|", "\\|") for cell in column] for name, column in cells(frame).items()}
    names = [name.replace("_", " ") for name in shown]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in zip(*shown.values(), strict=True)])


def narrow(frame: pd.DataFrame, rows: int, columns: int = 8) -> str:
    """The first rows and columns for a notebook, as HTML: intervals beside their values, names that people read,
    without columns that are empty. Empty if there are none."""
    told = {"layer", "head", "se"} if "label" in frame else {"se"}
    there = {name: texts for name, texts in cells(frame.head(rows)).items() if set(texts) - {"–", ""}}
    shown = {displayed(name): texts for name, texts in there.items() if name not in told}
    return pd.DataFrame(dict(list(shown.items())[:columns])).to_html(index=False) if shown else ""


def cells(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Every column as texts; a column ``x`` with ``x_low`` and ``x_high`` (or ``ci_low``, ``ci_high``) becomes one,
    with its interval."""
    shown = {}
    for column in frame.columns:
        ends = (f"{column}_low", f"{column}_high")
        if column in ("value", "score") and "ci_low" in frame:
            ends = ("ci_low", "ci_high")
        elif f"{column}_ci_low" in frame:
            ends = (f"{column}_ci_low", f"{column}_ci_high")
        if str(column).endswith(("_low", "_high")) and _owner(str(column), frame) is not None:
            continue
        if all(end in frame for end in ends):
            low, high = (frame[end] for end in ends)
            rows = zip(frame[column], low, high, strict=True)
            shown[str(column)] = [Estimate(*row).written(text, unknown="–") for row in rows]
        else:
            shown[str(column)] = [text(v) for v in frame[column]]
    return shown


def _owner(column: str, frame: pd.DataFrame) -> str | None:
    base = column.rsplit("_", 1)[0]
    if base == "ci":
        return next((name for name in ("value", "score") if name in frame), None)
    base = base.removesuffix("_ci")
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
    return str(value).replace("\n", " ")

"""What a study finds: sentences, tables, figures, prompts token by token, raw arrays, saved as one report.

    <name of the table>.csv   each table, for other programs
    arrays.safetensors        the raw numbers of the examples, if there are any
    report.html               for reading: one file, which opens without a network
    findings.json             all but figures and arrays, with the SHA-256 of the files above; written last

Saving is that of `interp.storage`: all or nothing, and never over another run's report.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from safetensors.numpy import save as save_tensors

from interp.door import public
from interp.door.brief import brief
from interp.figures import TokenView, displayed
from interp.records import keeps_work, understood, write_csv
from interp.reports import folder as storage
from interp.reports.figures import Figures
from interp.reports.mass import with_mass
from interp.reports.page import figure_entry, number, render_page
from interp.reports.tables import is_missing, read_table, stored_table, tidy
from interp.reports.token_views import shown_view
from interp.statistics import bracketed

if TYPE_CHECKING:
    import plotly.graph_objects as go

RECORD = "findings.json"
_MOST_ROWS = 500  # of a table on the page, unless its attrs["rows"] says otherwise; the CSV has all
_LEAST_P = 1e-4  # a p below it is written as such: its digits say how many signs were flipped
_TALL_ROWS = 25  # a longer table scrolls in its box
_HEAD = re.compile(r"L\d+H\d+")
_WHOLE, _HALF = 860, 520  # pixels of a figure that stands alone, and of one beside another
_LONG_TEXT = 28  # characters from which a column's text is wrapped


class Card(NamedTuple):
    """A number to see first: what it is, itself (with its interval), and what it rests on."""

    name: str
    value: float | str
    low: float = math.nan
    high: float = math.nan
    note: str = ""


@dataclass(frozen=True, eq=False)
class Findings:
    """The result of a study, ready to be read and saved.

    statement: plain sentences, the verdict first. tables, figures: by the heading they stand under; a table and a
    figure of one name stand together. Costly figures are given as :class:`interp.reports.figures.Figures`, which draws
    them when they are asked for. A caption goes into `table.attrs["note"]` or `figure.layout.meta["note"]`; figures of
    one `meta["group"]` stand side by side under that heading. `table.attrs["rows"]`: the most rows that the page
    shows, if not 500. Columns `x, x_low, x_high` (or `x, x_ci_low, x_ci_high`, or a column followed by `ci_low,
    ci_high`, also after its `se`) are shown as a value with its interval. Where `label` is a head's name, rows can be
    filtered by it, and `layer` and `head`, which it says, stand in the CSV alone. A table's index is kept as columns,
    unless it is only row numbers. provenance: as `interp.rankings.ranking.HeadRanking` has it. arrays: raw numbers,
    [example, ...] as a rule. views: prompts, token by token, as some heads see them.
    answer: one sentence in plain words, above the statement on the page. cards: a few numbers to see first. Figures,
    views, answer and cards are the page's alone.

    Raises:
        ValueError: an empty title or statement, or columns that are not plain, distinct names.
    """

    title: str
    statement: Sequence[str]
    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, go.Figure]
    provenance: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    views: Sequence[TokenView] = ()
    answer: str = ""
    cards: Sequence[Card] = ()

    __repr__ = brief

    def __post_init__(self) -> None:
        if not self.title:
            raise ValueError("the findings have no title; give a short one.")
        if isinstance(self.statement, str) or not self.statement:
            raise ValueError(f"statement is {self.statement!r}; expected a list of sentences, the verdict first.")
        sentences = with_mass([str(sentence) for sentence in self.statement], self.provenance)
        object.__setattr__(self, "statement", sentences)
        object.__setattr__(self, "tables", {name: tidy(name, table) for name, table in self.tables.items()})
        if not isinstance(self.figures, Figures):
            object.__setattr__(self, "figures", Figures(self.figures))

    @keeps_work
    def save(
        self,
        directory: str | Path,
        overwrite: bool = False,
        *,
        result: Mapping[str, Any] | None = None,
        raw: Mapping[str, np.ndarray] | None = None,
    ) -> Path:
        """Write the files of this module's first lines into `directory`, which is made if needed; returns it.

        result, raw: the value that these findings are of, as JSON and arrays (:mod:`interp.reports.saved`), for
        :func:`interp.load_result`.

        A report of the same run (equal `provenance["run_id"]`) is replaced. Raises FileExistsError if the directory
        holds a report of another run, of whatever kind, or of one that cannot be told, unless `overwrite`.
        """
        return storage.save_report(
            directory,
            lambda folder: _write(self, folder, result, dict(raw or {})),
            self.provenance.get("run_id"),
            overwrite=overwrite,
        )

    def _repr_html_(self) -> str:
        sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.statement)
        names = ", ".join(html.escape(name) for name in [*self.tables, *self.figures])
        return f"<p><b>{html.escape(self.title)}</b></p><ul>{sentences}</ul><p>Tables and figures: {names}</p>"


@public
def load_findings(directory: str | Path) -> Findings:
    """The findings that `Findings.save` wrote, without their figures and views: equal tables, arrays and provenance.

    Cells of a table come back equal if they are numbers, truth values, text or dates; other objects as their text.

    `directory`: where. Raises `FileNotFoundError`, and `ValueError` for a report that was changed or damaged.
    """
    directory = Path(directory)
    data = storage.read_report_record(directory, RECORD, needs=(), kind="study")
    return findings_in(directory, data, saved_arrays(directory, data))


def findings_in(directory: Path, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Findings:
    """The findings of a record and its arrays, which were read already."""
    with understood(directory / RECORD):
        return Findings(
            title=data["title"],
            statement=data["statement"],
            tables={name: read_table(table) for name, table in data["tables"].items()},
            figures={},
            provenance=data["provenance"],
            arrays={name: arrays[name] for name in data["arrays"]},
        )


def saved_arrays(directory: Path, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays beside a record, by name; none if it lists none. Raises ``FileNotFoundError`` if they are gone."""
    path = directory / "arrays.safetensors"
    with understood(directory / RECORD):
        has_arrays = path.name in record["sha256"]
    if has_arrays and not path.is_file():
        raise FileNotFoundError(f"{directory} has no {path.name}, which {RECORD} lists. Copy it again.")
    return storage.read_tensors(path, record) if has_arrays else {}


def render(findings: Findings) -> str:
    """The page as HTML text: as large as its tables, 30 kB or so for each figure, and 1 kB for each head and token of a
    view."""
    from interp.figures import min_width

    files = _file_names(findings.tables)
    entries: list[dict[str, Any]] = []
    tips: dict[str, int] = {}
    sections: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys([*findings.figures, *findings.tables]):
        figure = findings.figures.get(name)
        meta = figure.layout.meta if figure is not None and isinstance(figure.layout.meta, Mapping) else {}
        heading = meta.get("group", name)
        empty = {"id": f"part-{len(sections)}", "heading": heading, "figure": False, "table": None}
        section = sections.setdefault(heading, empty | {"figure_note": "", "side_by_side": "group" in meta})
        if figure is not None:
            title = name if heading != name else ""
            said = f"{name}. {meta.get('note', '')} Its numbers stand in the tables of this page and in its CSV files."
            width = max(min_width(figure), _HALF if "group" in meta else _WHOLE)
            entries.append(figure_entry(len(entries), figure, section["id"], tips, title, width, said))
            section |= {"figure": True, "figure_note": meta.get("note", "") or section["figure_note"]}
        if name in findings.tables:
            section["table"] = _shown_table(findings.tables[name]) | {"file": files[name]}
    return render_page(
        "findings.html.j2",
        findings.title,
        findings.provenance,
        entries,
        tips=list(tips),
        findings=findings,
        sections=list(sections.values()),
        views=[shown_view(view) for view in findings.views],
        cards=[_card(card) for card in findings.cards],
        facts=_facts(findings.provenance),
    )


def _write(
    findings: Findings, folder: Path, result: Mapping[str, Any] | None, raw: Mapping[str, np.ndarray]
) -> Sequence[str]:
    """All files, named in order of arrival."""
    files = _file_names(findings.tables)
    for name, table in findings.tables.items():
        write_csv(table, folder / files[name])
    names = list(files.values())
    if findings.arrays or raw:
        arrays = {name: np.asarray(array, order="C") for name, array in (*findings.arrays.items(), *raw.items())}
        for name, array in arrays.items():
            if array.dtype.kind not in "biuf":
                raise ValueError(f"the array {name!r} has dtype {array.dtype}; expected numbers or truth values.")
        content = save_tensors(arrays, metadata={"format": "headscope findings"})
        (folder / "arrays.safetensors").write_bytes(content)
        names.append("arrays.safetensors")
    (folder / "report.html").write_text(render(findings), encoding="utf-8")
    names.append("report.html")
    data = {
        "title": findings.title,
        "statement": findings.statement,
        "provenance": findings.provenance,
        "tables": {name: stored_table(table) | {"file": files[name]} for name, table in findings.tables.items()},
        "figures": list(findings.figures),
        "arrays": list(findings.arrays),
        **({} if result is None else {"result": result}),
    }
    storage.write_report_record(folder / RECORD, data, names)
    return [*names, RECORD]


def _file_names(tables: Mapping[str, Any]) -> dict[str, str]:
    """A file name for each table: the letters and digits of its name, numbered if that is taken."""
    names: dict[str, str] = {}
    for name in tables:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "table"
        file, count = f"{slug}.csv", 1
        while file in names.values():
            count += 1
            file = f"{slug}-{count}.csv"
        names[name] = file
    return names


def _shown_table(table: pd.DataFrame) -> dict[str, Any]:
    """Columns and cells as the page prints them: intervals under their values, three digits, yes and no."""
    intervals = _intervals(table)
    ends = {end for pair in intervals.values() for end in pair}
    shown = table.head(table.attrs.get("rows", _MOST_ROWS))
    columns, cells = [], []
    labels = _head_labels(shown)
    told = {"layer", "head"} if labels else set()
    names = [name for name in table if name not in ends | told]
    for name in sorted(names, key=lambda name: name != "label") if labels else names:  # heads stay in sight
        texts = [_cell(value, name) for value in shown[name]]
        is_text = _is_text(table[name])
        longest = max((len(text) for text in texts), default=0)
        columns.append(
            {
                "heading": displayed(name),
                "by": "text" if is_text else "number",
                "class": " ".join(["text"] * is_text + ["long"] * (is_text and longest > _LONG_TEXT)),
            }
        )
        low, high = intervals.get(name, (None, None))
        below = [""] * len(shown)
        if low:
            below = [_ends(*row) for row in zip(shown[name], shown[low], shown[high], strict=True)]
        sort_keys = [""] * len(shown) if is_text else [_sort_key(value) for value in shown[name]]
        cells.append([
            {"text": text, "interval": interval, "key": key}
            for text, interval, key in zip(texts, below, sort_keys, strict=True)
        ])  # fmt: skip
    return {
        "columns": columns,
        "rows": list(zip(*cells, strict=True)),
        "labels": labels,
        "note": table.attrs.get("note", ""),
        "n_rows": len(table),
        "is_tall": len(shown) > _TALL_ROWS,
        "has_intervals": bool(intervals),
    }


def _head_labels(table: pd.DataFrame) -> list[str]:
    """The column `label`, if heads are named in it."""
    labels = list(table["label"]) if "label" in table else []
    return labels if all(isinstance(label, str) and _HEAD.fullmatch(label) for label in labels) else []


def _intervals(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Which columns are the ends of which column's interval."""
    columns = list(table)
    found = {}
    for i, name in enumerate(columns):
        if _is_text(table[name]):
            continue
        for low, high in ((f"{name}_ci_low", f"{name}_ci_high"), (f"{name}_low", f"{name}_high")):
            if low in table and high in table:
                found[name] = (low, high)
        after = columns[i + 2 :] if columns[i + 1 : i + 2] == ["se"] else columns[i + 1 :]
        for pair in (("ci_low", "ci_high"), ("low", "high")):
            if name not in found and name != "se" and tuple(after[:2]) == pair:
                found[name] = pair
    return found


def _is_text(series: pd.Series) -> bool:
    return any(not is_missing(value) and not isinstance(value, (bool, int, float, np.generic)) for value in series)


def _cell(value: Any, column: str = "") -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if is_missing(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, float) and (column in ("p", "q") or column.endswith(("_p", "_q"))) and 0 <= value < _LEAST_P:
        return "< 0.0001"
    if isinstance(value, float) and (column == "n" or column.startswith("n_")) and value.is_integer():
        value = int(value)  # a count, in a column that is float only because a count is missing
    return number(value) if isinstance(value, (int, float)) else str(value)


def _card(card: Card) -> dict[str, str]:
    interval = bracketed(card.low, card.high, number) if math.isfinite(card.low) else ""
    return {"name": card.name, "value": _cell(card.value), "note": ", ".join(filter(None, (interval, card.note)))}


def _ends(value: Any, low: Any, high: Any) -> str:
    """What stands below a value: its interval, nothing where there is none."""
    return "" if is_missing(value) or (is_missing(low) and is_missing(high)) else bracketed(low, high, _cell)


def _sort_key(value: Any) -> str:
    return "" if is_missing(value) else f"{value:.7g}"


def _facts(provenance: Mapping[str, Any]) -> list[str]:
    """What the line under the title adds to the model's name."""
    data = provenance.get("data")
    n = data.get("n") if isinstance(data, Mapping) else None
    facts = [f"{n:,} examples" if isinstance(n, int) else "", f"run {provenance.get('run_id') or ''}"]
    return [fact for fact in [*facts, str(provenance.get("created") or "")[:10]] if fact and fact != "run "]

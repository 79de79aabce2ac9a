"""Declared shapes of rows, and how a file in any of them becomes items: questions, requests, texts, jailbreaks.

A shape is a :class:`Format` in a list; adding one is one entry there. :func:`read_items` is the road of all: read the
rows, rename columns, tell the shape, read row by row, and refuse ids given twice. Which shape a file has is told by a
rule: the first of the list whose columns it has; but a file that fits several which would take *different* texts for
the item is refused, since nothing says which is meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from probes.rows.cells import text
from probes.rows.json_rows import Row
from probes.rows.rows import called, read_rows, stem_of

Cells = Mapping[str, Any]
Fields = dict[str, Any]  # keyword arguments of an item


class _Item(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_Item)


@dataclass(frozen=True)
class Format:
    """A shape of rows. ``tells``: the columns that a file of it has. ``read(row, key, seed)``: the fields of a row's
    items, ``key`` being their id where the row has none; a ValueError says what is wrong with the row. ``text``: the
    column of the item's text. ``needs``: what it can't do without where it is named (None: all that tell it).
    ``told_by`` must hold besides; ``or_by`` tells it without the columns."""

    name: str
    tells: tuple[str, ...]
    read: Callable[[Cells, str, int], list[Fields]]
    text: str = ""
    needs: tuple[str, ...] | None = None
    told_by: Callable[[Sequence[Cells]], bool] | None = None
    or_by: Callable[[Sequence[Cells]], bool] | None = None

    def fits(self, names: set[str], rows: Sequence[Cells]) -> bool:
        if self.or_by is not None and self.or_by(rows):
            return True
        return names.issuperset(self.tells) and (self.told_by is None or self.told_by(rows))

    def lacks(self, names: set[str], rows: Sequence[Cells]) -> list[str]:
        """The columns that it can't do without and that are not there."""
        needed = self.tells if self.needs is None else self.needs
        return [] if self.or_by is not None and self.or_by(rows) else [name for name in needed if name not in names]


@dataclass(frozen=True)
class Reading:
    """How a file is to be read, where its own columns don't say: a format's name, and the file's names for ours."""

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.format is not None or bool(self.columns)

    def settings(self) -> dict[str, Any]:
        """For provenance: what was given, nothing where nothing was."""
        given: dict[str, Any] = {} if self.format is None else {"format": self.format}
        return given | ({"columns": dict(self.columns)} if self.columns else {})

    def of(self, source: str | Path) -> Reading:
        """How one of several sources is read: the built-in ones as they are."""
        return AS_IT_IS if source == "builtin" else self


AS_IT_IS = Reading()


class Misread(ValueError):
    """A file that is not of the shape it is read as. ``columns`` and ``formats`` are what would help: ours -> the
    file's nearest, and the names to choose from. ``str()`` words them for Python, ``on_command_line`` for the command
    line."""

    def __init__(self, what: str, columns: Mapping[str, str] | None = None, formats: Sequence[str] = ()) -> None:
        self.what, self.columns, self.formats = what, dict(columns or {}), tuple(formats)
        super().__init__(self._worded(f"columns={self.columns}", "format="))

    @property
    def on_command_line(self) -> str:
        named = " ".join(f"--column {ours}={theirs}" for ours, theirs in self.columns.items())
        return self._worded(named, "--format ")

    def _worded(self, columns: str, format: str) -> str:
        parts = [f"name the right one, {columns}"] if self.columns else []
        parts += [f"give {format.strip()} (one of {', '.join(self.formats)})"] if self.formats else []
        advice = ", or ".join(parts)
        return f"{self.what}. {advice[:1].upper()}{advice[1:]}" if advice else self.what


def read_items(
    source: str | Path,
    formats: Mapping[str, Format],
    make: Callable[[Format, Fields], Item],
    reading: Reading = AS_IT_IS,
    *,
    otherwise: str | None = None,
    ours: Sequence[str] = (),
    seed: int = 0,
    prepare: Callable[[Cells], Cells] = dict,
    check: Callable[[Sequence[tuple[str, Cells]]], None] | None = None,
) -> list[Item]:
    """The items of a file, in its order.

    ``make(format, fields)`` makes one. ``otherwise``: the format of a file that fits none; else it is refused, with its
    columns and the formats there are. ``ours``: names that ``reading.columns`` may give, beside those that formats
    need. ``prepare``: what is done with a row before its shape is told. ``check``: refuses rows, with their labels, as
    a whole.

    Raises ``ValueError`` naming the row, what is wrong, and the remedy."""
    where = called(source)
    if reading.format is not None:
        known(f"format={reading.format!r}", reading.format, list(formats))
    names = {*ours, *(name for form in formats.values() for name in (*form.tells, form.text) if name)}
    rows = renamed(where, read_rows(source), reading.columns, names)
    rows = [row._replace(fields=_prepared(prepare, row, where)) for row in rows]
    if check is not None:
        try:
            check([(row.label, row.fields) for row in rows])
        except ValueError as error:
            raise ValueError(f"{where}, {error}.") from None
    form, rivals = choose(where, formats, [row.fields for row in rows], reading.format, otherwise)
    stem, said = stem_of(source), f" (format {form.name!r})" if len(formats) > 1 else ""
    items: list[Item] = []
    seen: dict[str, str] = {}  # id -> row
    for row in rows:
        try:
            _require_one_text(form, rivals, row.fields)
            for fields in form.read(row.fields, row.key or f"{stem}-{row.label}", seed):
                item = make(form, fields)
                if item.id in seen:
                    raise ValueError(
                        f"the id {item.id!r} is row {seen[item.id]}'s already; expected ids that differ. Correct it, "
                        "or leave the ids out and the rows are numbered"
                    )
                seen[item.id] = row.label
                items.append(item)
        except Misread as error:
            raise Misread(f"{where}, row {row.label}{said}: {error.what}", error.columns, error.formats) from None
        except ValueError as error:
            raise ValueError(f"{where}, row {row.label}{said}: {error}") from None
    return items


def choose(
    where: str, formats: Mapping[str, Format], rows: Sequence[Cells], named: str | None, otherwise: str | None
) -> tuple[Format, list[Format]]:
    """The format of rows, and others that fit and would take another column for the text: the rows must say the same
    there.

    Raises ``Misread`` for a format whose columns are not there, and, without ``otherwise``, for rows that fit none."""
    names = {name for row in rows for name in row}
    if named is None:
        fit = [form for form in formats.values() if form.fits(names, rows)]
        if fit:
            rivals = [f for f in fit[1:] if f.text and f.text != fit[0].text and not {*f.tells} <= {*fit[0].tells}]
            return fit[0], rivals
        if otherwise is None:
            raise Misread(
                f"{where} has the columns {', '.join(_columns(rows))}, which no format fits", formats=[*formats]
            )
        named = otherwise
    form, columns = formats[named], _columns(rows)
    for name in form.lacks(names, rows):
        close = (difflib.get_close_matches(name, columns, n=1, cutoff=0.5) or ["..."])[0]
        of = f", which format {form.name!r} needs" if len(formats) > 1 else ""
        what = f"{where}: no column {name!r}{of}; the columns are {', '.join(columns)}"
        raise Misread(what, {name: close}, [*formats] if len(formats) > 1 else [])
    return form, []


def renamed(where: str, rows: Sequence[Row], columns: Mapping[str, str], ours: set[str]) -> list[Row]:
    """The rows with the columns called as we call them (``columns``: our name -> the file's); a column so renamed is
    not there under its old name."""
    if not columns:
        return list(rows)
    names = _columns([row.fields for row in rows])
    for name, theirs in columns.items():
        known(f"{where}: columns= names {name!r}", name, sorted(ours))
        known(f"{where}: columns= gives {theirs!r} as {name!r}", theirs, names)
    return [row._replace(fields=rename(row.fields, columns)) for row in rows]


def rename(fields: Cells, columns: Mapping[str, str]) -> dict[str, Any]:
    """One row's cells under our names."""
    moved = set(columns.values())
    kept = {name: value for name, value in fields.items() if name not in moved}
    return kept | {name: fields.get(theirs) for name, theirs in columns.items()}


def known(given: str, name: str, names: Sequence[str]) -> None:
    """Raise ``ValueError`` for a name that is none of these, with the nearest."""
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{given}; expected one of {', '.join(names)}.{hint}")


def _prepared(prepare: Callable[[Cells], Cells], row: Row, where: str) -> dict[str, Any]:
    try:
        return dict(prepare(row.fields))
    except ValueError as error:
        raise ValueError(f"{where}, row {row.label}: {error}") from None


def _require_one_text(form: Format, rivals: Sequence[Format], row: Cells) -> None:
    taken = row.get(form.text)
    for other in rivals:
        rival = row.get(other.text)
        if (
            isinstance(rival, str)
            and isinstance(taken, str)
            and rival.strip()
            and text(row, form.text) != rival.strip()
        ):
            what = f"{form.text} and {other.text} say different things, and the file fits both formats"
            raise Misread(what, formats=[form.name, other.name])


def _columns(rows: Sequence[Cells]) -> list[str]:
    return list(dict.fromkeys(str(name) for row in rows for name in row))

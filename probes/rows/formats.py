"""Declared shapes of rows, and how a file in any of them becomes items: questions, requests, texts, jailbreaks.

A shape is a :class:`Format` in a list; adding one is one entry there. :class:`Items` is the road of all: read the
rows, rename columns, tell the shape, read row by row, and refuse ids given twice. Which shape a file has is told by a
rule: the first of the list whose columns it has; but a file that fits several which would take *different* texts for
the item is refused, since nothing says which is meant.
"""

from __future__ import annotations

import difflib
import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from probes.rows.cells import text
from probes.rows.json_rows import Row
from probes.rows.rows import Header, Rows, called, stem_of

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
    **how: Any,
) -> list[Item]:
    """The items of a file, in its order, all in memory: see :class:`Items`."""
    return list(Items(source, formats, make, reading, **how))


class Items(Generic[Item]):
    """The items of a file, in its order, as often as they are asked for; in memory are no more of them than of the rows
    (:class:`probes.rows.rows.Rows`).

    ``make(format, fields)`` makes one. ``otherwise``: the format of a file that fits none; else it is refused, with its
    columns and the formats there are. Both are told from the file's first rows (``Rows.head``). ``ours``: names that
    ``reading.columns`` may give, beside those that formats need. ``prepare``: what is done with a row before its shape
    is told. ``check``: refuses rows, with their labels, as a whole. ``header``: names the columns of a table that has
    none.

    Raises ``ValueError`` naming the row, what is wrong, and the remedy: of the file when this is made, of an item when
    it is asked for, of an id that is there twice when all were.
    """

    def __init__(
        self,
        source: str | Path,
        formats: Mapping[str, Format],
        make: Callable[[Format, Fields], Item],
        reading: Reading = AS_IT_IS,
        *,
        otherwise: str | None = None,
        ours: Sequence[str] = (),
        seed: int = 0,
        prepare: Callable[[Cells], Cells] = dict,
        check: Callable[[Iterable[tuple[str, Cells]]], None] | None = None,
        header: Header | None = None,
    ) -> None:
        where = called(source)
        if reading.format is not None:
            known(f"format={reading.format!r}", reading.format, list(formats))
        rows = Rows(source, header)
        if reading.columns:
            names = {*ours, *(name for form in formats.values() for name in (*form.tells, form.text) if name)}
            require_columns(where, columns_of(row.fields for row in rows.head), reading.columns, names)
        self._rows = _Prepared(rows, where, reading.columns, prepare)
        head = [row.fields for row in self._rows.of(rows.head)]
        if check is not None:
            try:
                check((row.label, row.fields) for row in self._rows)
            except ValueError as error:
                raise ValueError(f"{where}, {error}.") from None
        self._form, self._rivals = choose(where, formats, head, reading.format, otherwise)
        self._said = f" (format {self._form.name!r})" if len(formats) > 1 else ""
        self._where, self._stem, self._make, self._seed = where, stem_of(source), make, seed

    @property
    def format(self) -> str:
        """The name of the format that the file has."""
        return self._form.name

    def __iter__(self) -> Iterator[Item]:
        ids = array("Q")
        for _, item in self._with_rows():
            ids.append(short_hash(item.id))
            yield item
        values, counts = np.unique(np.frombuffer(ids, dtype=np.uint64), return_counts=True)
        if (counts > 1).any():
            self._refuse_twice(set(values[counts > 1].tolist()))

    def _with_rows(self) -> Iterator[tuple[Row, Item]]:
        for row in self._rows:
            with self._naming(row):
                _require_one_text(self._form, self._rivals, row.fields)
                key = row.key or f"{self._stem}-{row.label}"
                made = [self._make(self._form, fields) for fields in self._form.read(row.fields, key, self._seed)]
            for item in made:
                yield row, item

    def _refuse_twice(self, hashes: set[int]) -> None:
        """Raise for the first id of these hashes that is there twice."""
        seen: dict[str, str] = {}  # id -> row
        for row, item in self._with_rows():
            if item.id in seen:
                with self._naming(row):
                    raise ValueError(
                        f"the id {item.id!r} is row {seen[item.id]}'s already; expected ids that differ. Correct it, "
                        "or leave the ids out and the rows are numbered"
                    )
            if short_hash(item.id) in hashes:
                seen[item.id] = row.label

    @contextmanager
    def _naming(self, row: Row) -> Iterator[None]:
        try:
            yield
        except Misread as error:
            told = f"{self._where}, row {row.label}{self._said}: {error.what}"
            raise Misread(told, error.columns, error.formats) from None
        except ValueError as error:
            raise ValueError(f"{self._where}, row {row.label}{self._said}: {error}") from None


@dataclass(frozen=True)
class _Prepared:
    """Rows under our names of columns, as formats see them, as often as they are asked for."""

    rows: Rows
    where: str
    columns: Mapping[str, str]
    prepare: Callable[[Cells], Cells]

    def __iter__(self) -> Iterator[Row]:
        return self.of(self.rows)

    def of(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            fields = rename(row.fields, self.columns) if self.columns else row.fields
            try:
                yield row._replace(fields=dict(self.prepare(fields)))
            except ValueError as error:
                raise ValueError(f"{self.where}, row {row.label}: {error}") from None


def choose(
    where: str,
    formats: Mapping[str, Format],
    rows: Sequence[Cells],
    named: str | None,
    otherwise: str | None,
) -> tuple[Format, list[Format]]:
    """The format of rows, and others that fit and would take another column for the text: the rows must say the same
    there.

    Raises ``Misread`` for a format whose columns are not there, and, without ``otherwise``, for rows that fit none."""
    columns = columns_of(rows)
    names = set(columns)
    if named is None:
        fit = [form for form in formats.values() if form.fits(names, rows)]
        if fit:
            rivals = [f for f in fit[1:] if f.text and f.text != fit[0].text and not {*f.tells} <= {*fit[0].tells}]
            return fit[0], rivals
        if otherwise is None:
            raise Misread(f"{where} has the columns {', '.join(columns)}, which no format fits", formats=[*formats])
        named = otherwise
    form = formats[named]
    for name in form.lacks(names, rows):
        close = (difflib.get_close_matches(name, columns, n=1, cutoff=0.5) or ["..."])[0]
        of = f", which format {form.name!r} needs" if len(formats) > 1 else ""
        what = f"{where}: no column {name!r}{of}; the columns are {', '.join(columns)}"
        raise Misread(what, {name: close}, [*formats] if len(formats) > 1 else [])
    return form, []


def require_columns(where: str, theirs: Sequence[str], columns: Mapping[str, str], ours: set[str]) -> None:
    """Raise ``ValueError`` for columns (our name -> the file's) that are none of ours, or none of theirs."""
    for name, column in columns.items():
        known(f"{where}: columns= names {name!r}", name, sorted(ours))
        known(f"{where}: columns= gives {column!r} as {name!r}", column, theirs)


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


def columns_of(rows: Iterable[Cells]) -> list[str]:
    """All names in rows, in the order in which they come."""
    return list(dict.fromkeys(str(name) for row in rows for name in row))


def short_hash(text: str) -> int:
    """64 bits that stand for a text where there are too many to keep."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())

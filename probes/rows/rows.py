"""The one reader of rows: CSV, TSV, JSON, JSON lines, Parquet, gzipped or not, from a file, a pipe or standard input.

What a file holds is told from its content; its ending decides only where the content can't (a header alone is a table,
not text). Every error names the file and the row. Nothing is guessed: a row of a table has as many fields as the
header, what is missing is None (see :mod:`probes.rows.cells`), and no text is let through that can't be encoded.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import io
import os
import re
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from probes.rows.cells import clean, fault, shortened
from probes.rows.hub import hub_rows, is_hub
from probes.rows.json_rows import Row, are_lines, json_rows

EXTENSIONS = (".jsonl", ".json", ".csv", ".parquet", ".tsv", ".ndjson")
STDIN = "-"  # standard input by name, as everywhere
IN_MEMORY = 10_000
"""Rows that are kept; a source of more is read again whenever its rows are needed."""

Header = Callable[[Sequence[str]], list[str] | None]

_LOOKS_LIKE_JSON = re.compile(r'\s*(?:\{\s*(?:"|\}|$)|\[\s*(?:[\[{"\]]|$))')
_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NO_ROWS = {
    b"PK\x03\x04": "is a zip archive (an Excel workbook is one); save the sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook; save the sheet as CSV",
    b"<!DOCTYPE": "is a web page, not the file itself; get the raw file",
    b"<html": "is a web page, not the file itself; get the raw file",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; get it with `git lfs pull`",
}


def read_rows(source: str | Path) -> list[Row]:
    """All rows of a source, in memory. ``source``: see :func:`stream_rows`; the rest as :class:`Rows`."""
    return list(Rows(source))


class Rows:
    """The rows of a source, as often as they are asked for: from memory where there are at most ``IN_MEMORY``, else
    read again each time. ``head``: the first ``IN_MEMORY`` of them. Of a row with a list of ``questions`` (AR-LSAT's
    passages), a row each: "3.2" is the second of the third.

    Args:
        source: see :func:`stream_rows`. Standard input and pipes are copied into a temporary file.
        header: see :func:`stream_rows`.

    Raises ``FileNotFoundError``, or ``ValueError`` for a file that is empty, broken, or of another kind."""

    def __init__(self, source: str | Path, header: Header | None = None) -> None:
        self.source, self.header = source, header
        self._copy: BinaryIO | None = None
        if is_read_once(source):
            self._copy = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 (read again as long as this lives)
            with nullcontext(sys.stdin.buffer) if is_stdin(source) else Path(source).expanduser().open("rb") as file:
                shutil.copyfileobj(file, self._copy)
            self._copy.flush()
            weakref.finalize(self, self._copy.close)
        self.head = list(islice(self._read(), IN_MEMORY + 1))
        self._is_whole = len(self.head) <= IN_MEMORY
        if not self.head:
            once = " Standard input can be read once: is it named twice?" if is_stdin(source) else ""
            raise ValueError(f"{called(source)}: the file is empty; expected at least one row.{once}")

    def __iter__(self) -> Iterator[Row]:
        return iter(self.head) if self._is_whole else self._read()

    def _read(self) -> Iterator[Row]:
        expected = "expected 'builtin' or a " + ", ".join(EXTENSIONS) + " file"
        for row in stream_rows(self.source, expected=expected, copy=self._copy, header=self.header):
            nested = row.fields.get("questions")
            if isinstance(nested, list) and nested and all(isinstance(item, dict) for item in nested):
                shared = {name: value for name, value in row.fields.items() if name not in ("questions", "id")}
                yield from (Row(f"{row.label}.{i}", "", shared | item) for i, item in enumerate(nested, 1))
            else:
                yield row


def stream_rows(
    source: str | Path,
    under: str | None = None,
    *,
    keyed: bool = False,
    expected: str = "",
    copy: BinaryIO | None = None,
    header: Header | None = None,
) -> Iterator[Row]:
    """The rows of a source in its order, read as they are asked for: no more of a file is read than that.

    ``source`` is a file, "-" for standard input, or a pipe (these two are read once, whole, unless ``copy`` is a file
    with what they held), or a data set by its name (:mod:`probes.rows.hub`). ``under``: the name of the
    array in a JSON object that has the rows. ``keyed``: a JSON object's values are the rows, their keys kept. Of a
    Parquet file, columns with embedded images are left out, and an index that pandas stored is a column of its name.
    ``expected``: what to say of a file that is not there. ``header``: of the cells of a table's first row, gives the
    columns their names where that row is no header, and None where it is one. Lines of JSON, tables, Parquet (by groups
    of rows) and arrays of JSON are streams; an object of JSON that is no array is read whole, and so is a gzipped
    Parquet file.

    Raises ``FileNotFoundError``, or ``ValueError`` saying what is wrong at which row."""
    if is_hub(source):
        for row in hub_rows(source):
            if wrong := fault(row.fields):
                raise ValueError(f"{source}, row {row.label}: it has {wrong}.")
            yield row
        return
    path = Path(source).expanduser()
    if not is_stdin(source) and (path.is_dir() or not path.exists()):
        near = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        close = ", ".join(difflib.get_close_matches(path.name, near)) or "none"
        raise FileNotFoundError(f"no file {path}{f'; {expected}' if expected else ''}. Close matches: {close}.")
    suffix = suffix_of(source)
    try:
        with _opened(source) if copy is None else _opened_again(copy) as file:
            of_report = not is_read_once(source) and _is_of_report(Path(source).expanduser())
            for row in _rows(file, suffix, under, keyed, of_report, header):
                if wrong := fault(row.fields) or (not row.label.isdecimal() and fault(row.label)):
                    shown = row.label.encode("ascii", "backslashreplace").decode()
                    raise ValueError(f"row {shown} can't be read as {suffix or 'text'}: it has {wrong}")
                yield row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{called(source)}: the gzip file is damaged or cut off ({error}). Get it again.") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{called(source)} can't be read as {suffix or 'text'}: it is not the {error.encoding} that it begins as. "
            "Save it again as UTF-8."
        ) from None
    except ValueError as error:
        raise ValueError(f"{called(source)}, {error}.") from None


def read_lines(source: str | Path) -> list[tuple[str, str]]:
    """The filled lines of a text, without space around them, with their numbers."""
    path = Path(source).expanduser()
    if not is_stdin(source) and not path.exists():
        raise FileNotFoundError(f"no file {path}.")
    found: list[tuple[str, str]] = []
    with _opened(source) as file, _text(file) as lines:
        try:
            for number, line in enumerate(lines, 1):
                if wrong := fault(line):
                    raise ValueError(f"{called(source)} is no text in UTF-8: line {number} has {wrong}.")
                found += [(str(number), line.strip())] if line.strip() else []
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{called(source)} is not the {error.encoding} that it begins as. Save it as UTF-8."
            ) from None
    return found


def has_rows(source: str | Path) -> bool:
    """Whether the content of a file says that it has rows, whatever its name: JSON or Parquet. Not asked of a pipe."""
    if is_read_once(source) or not Path(source).expanduser().is_file():
        return False
    with _opened(source) as file:
        head = file.read(4096)
    return head.startswith(b"PAR1") or bool(_LOOKS_LIKE_JSON.match(head.decode("latin-1")))


def is_stdin(source: str | Path) -> bool:
    return str(source) == STDIN


def is_read_once(source: str | Path) -> bool:
    """Whether it is standard input or a pipe, which can't be read again."""
    path = Path(source).expanduser()
    return is_stdin(source) or (path.exists() and not path.is_file() and not path.is_dir())


def called(source: str | Path) -> str:
    """A source in an error's words."""
    return "standard input" if is_stdin(source) else str(source)


def stem_of(source: str | Path) -> str:
    """The name that a source gives to rows without one: the file's, without its endings. The same in every run: a
    shell's pipe (/dev/fd/63) is called "pipe"."""
    path = Path(source)
    if is_stdin(source) or str(path) == "/dev/stdin":
        return "stdin"
    if path.parent.name == "fd":
        return "pipe"
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def suffix_of(source: str | Path) -> str:
    """The ending that says what a file is, in lower case: without ".gz"; "" for standard input and pipes."""
    path = Path(source)
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


@contextmanager
def _opened(source: str | Path) -> Iterator[BinaryIO]:
    """The bytes, unzipped, so that they can be read from the beginning again: what is no plain file is read into
    memory."""
    path = Path(source).expanduser()
    with nullcontext(sys.stdin.buffer) if is_stdin(source) else path.open("rb") as file:
        yield _unzipped(file if not is_stdin(source) and path.is_file() else io.BytesIO(file.read()))


@contextmanager
def _opened_again(copy: BinaryIO) -> Iterator[BinaryIO]:
    with os.fdopen(os.dup(copy.fileno()), "rb") as file:  # whoever reads text closes it
        yield _unzipped(file)


def _unzipped(file: Any) -> BinaryIO:
    """The bytes from the beginning, unzipped if they need that."""
    file.seek(0)
    is_gzip = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_gzip else file


def _text(file: BinaryIO) -> io.TextIOWrapper:
    """The bytes as text, from the beginning. Bytes that are no UTF-8 become lone surrogates, so that the row which has
    them can be named."""
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    encoding = next((name for bom, name in _BOMS.items() if head.startswith(bom)), "utf-8-sig")
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    return io.TextIOWrapper(file, encoding, errors, newline="")


def _is_of_report(path: Path) -> bool:
    """See :func:`interp.records.csv_files.is_of_report`. Imported late: a bare import of interp brings torch."""
    if not path.with_name("findings.json").is_file():
        return False
    from interp.records import is_of_report

    return is_of_report(path)


def _rows(
    file: BinaryIO, suffix: str, under: str | None, keyed: bool, of_report: bool, header: Header | None
) -> Iterator[Row]:
    head = file.read(4096)
    file.seek(0)
    if head.startswith(b"PAR1"):
        yield from _parquet(file)
        return
    if telling := next((told for magic, told in _NO_ROWS.items() if head.lstrip().startswith(magic)), None):
        raise ValueError(f"which {telling}")
    if suffix == ".parquet" and head.strip() and not _LOOKS_LIKE_JSON.match(head.decode("latin-1")):
        raise ValueError("which can't be read as .parquet: it does not begin as Parquet files do. Get it again")
    lines = _text(file)
    start = lines.read(4096)
    if not start.strip() and not lines.read().strip():
        return
    if start.count("\0") > len(start) / 4:
        raise ValueError("line 1 is full of NUL characters: it is binary, or UTF-16 without a mark. Save it as UTF-8")
    lines.detach()
    if _LOOKS_LIKE_JSON.match(start) or suffix in (".json", ".jsonl", ".ndjson"):
        is_lines = under is None
        if is_lines:
            looked_at = _text(file)
            is_lines = are_lines(looked_at, suffix in (".jsonl", ".ndjson"))
            looked_at.detach()
        with _text(file) as text:
            yield from json_rows(text, is_lines=is_lines, under=under, keyed=keyed)
    elif suffix in (".csv", ".tsv", ""):
        with _text(file) as text:
            for row in _table(text, suffix or "a table", header):
                if of_report:
                    from interp.records import unguarded

                    row = row._replace(fields={name: unguarded(cell) for name, cell in row.fields.items()})
                yield row
    else:
        raise ValueError(f"unknown extension {suffix!r}; expected {', '.join(EXTENSIONS)}. Convert or rename the file")


def _table(file: io.TextIOWrapper, called_as: str, header: Header | None = None) -> Iterator[Row]:
    """Rows of a table with a header, or with the names that ``header`` gives (:func:`stream_rows`). An unnamed first
    column is the index that pandas writes; its texts are keys.

    A row has as many cells as the header. Where every row has the same number of empty ones more (a comma at the end of
    each line), these are nothing: the first row says so, and the others must agree."""
    usual = "\t" if called_as == ".tsv" else ","
    csv.field_size_limit(
        max(csv.field_size_limit(), 1 << 30)
    )  # a passage may be longer than csv expects; never lowered
    first = next((line for line in file if line.strip()), "")
    if wrong := fault(first):
        raise ValueError(f"the header can't be read as a table: it has {wrong}")
    delimiter = usual if usual in first else next((d for d in "\t;," if d in first), usual)
    file.seek(0)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    spare, number, whose = 0, 0, "header's"
    try:
        for cells in reader:
            if not cells or (names is None and not any(cell.strip() for cell in cells)):
                continue
            if names is None:
                stripped = [cell.strip() for cell in cells]
                own = header(stripped) if header is not None else None
                names = _header(stripped) if own is None else own
                if own is None:
                    continue
                whose = "first row's"
            number += 1
            spare = len(cells) - len(names) if number == 1 else spare
            where = f"row {number} (line {reader.line_num})"
            if len(cells) != len(names) + spare or spare < 0 or any(cell.strip() for cell in cells[len(names) :]):
                raise ValueError(
                    f"{where} can't be read as {called_as}: it has another number of cells than the {whose} "
                    f"{len(names)}, {len(cells)}. Quote cells that hold the separator {delimiter!r}, or correct the row"
                )
            under_no_name = [c for name, c in zip(names[1:], cells[1:], strict=False) if not name and c.strip()]
            if under_no_name:
                raise ValueError(
                    f"{where}: its cell {shortened(under_no_name[0])} stands under no name in the header. Name the "
                    f"column, or quote cells that hold the separator {delimiter!r}"
                )
            index = "" if names[0] else cells[0].strip()
            fields = {name: cell for name, cell in zip(names, cells, strict=False) if name}
            yield Row(str(number), "" if re.fullmatch(r"-?\d+(\.0)?", index) else index, fields)
    except csv.Error as error:
        raise ValueError(
            f"row {number + 1} (line {reader.line_num}) can't be read as a table ({error}). Quote a cell that begins "
            "with a quotation mark, and double the marks in it"
        ) from None


def _header(names: list[str]) -> list[str]:
    if twice := [name for i, name in enumerate(names) if name and name in names[:i]]:
        raise ValueError(f"the header has {twice[0]!r} twice; expected names that differ. Rename one of the columns")
    return names


def _parquet(file: BinaryIO) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        parquet = pyarrow.parquet.ParquetFile(file if not isinstance(file, gzip.GzipFile) else io.BytesIO(file.read()))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"which can't be read as .parquet ({error}). Get it again") from None
    schema = parquet.schema_arrow
    if twice := [name for i, name in enumerate(schema.names) if name in schema.names[:i]]:
        raise ValueError(f"it has a column {twice[0]!r} twice; expected names that differ")
    columns = [column.name for column in schema if not _is_picture(column.type)]
    number = 0
    try:
        for batch in parquet.iter_batches(batch_size=256, columns=columns):
            for fields in batch.to_pylist():
                number += 1
                fields = clean(fields)
                unnamed = [name for name in fields if re.fullmatch(r"__index_level_\d+__", name)]
                index = [fields.pop(name) for name in unnamed]
                yield Row(str(number), index[0] if len(index) == 1 and isinstance(index[0], str) else "", fields)
    except UnicodeDecodeError:
        raise ValueError(
            f"row {number + 1} or one of the 255 after it has text that is not UTF-8. Write it again"
        ) from None
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"row {number + 1} can't be read ({error}). Get the file again") from None


def _is_picture(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_struct(kind) and any(
        pyarrow.types.is_binary(part.type) or pyarrow.types.is_large_binary(part.type) for part in kind
    )

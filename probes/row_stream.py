"""Rows of a large file one after the other, without reading the rest: JSON, JSON lines, CSV, Parquet."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

CHUNK = 1 << 20  # characters read at a time
EXTENSIONS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")


class Row(NamedTuple):
    """``label``: where it is in the file, for messages. ``key``: its key, where the file is one JSON object."""

    label: str
    key: str
    fields: dict[str, Any]


def stream_rows(path: Path, under: str | None = None, lines: bool | None = None) -> Iterator[Row]:
    """The rows of a .json, .jsonl, .csv, .tsv or .parquet file, in its order, read as they are asked for.

    A JSON file is an array of objects, an object of objects (their keys are the rows' ``key``), or has the array under
    the name ``under``. ``lines``: whether each line is an object of its own (None: where the file is called .jsonl).
    Columns of a Parquet file that hold embedded images are left out.

    Raises ``FileNotFoundError``, or ``ValueError`` saying what is wrong at which row.
    """
    if not path.is_file():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = ", ".join(difflib.get_close_matches(path.name, near)) or "none"
        raise FileNotFoundError(f"no file {path}. Close matches: {close}.")
    suffix = path.suffix.lower()
    if suffix not in EXTENSIONS:
        raise ValueError(f"{path}: unknown extension {suffix!r}; expected {', '.join(EXTENSIONS)}. Convert the file.")
    try:
        if suffix == ".parquet":
            yield from _parquet(path)
        elif suffix in (".csv", ".tsv"):
            yield from _table(path, "\t" if suffix == ".tsv" else ",")
        elif lines or (lines is None and suffix == ".jsonl"):
            yield from _lines(path)
        else:
            yield from _json(path, under)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} can't be read as {suffix} ({error}). Save it again, in UTF-8.") from None


def first_character(path: Path) -> str:
    """The first that is no space, "" for an empty file or none: "{" or "[" where it is JSON."""
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        while part := file.read(1024):
            if part.strip():
                return part.strip()[0]
    return ""


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} can't be read as Parquet ({error}). Get the file again.") from None
    columns = [field.name for field in file.schema_arrow if not pyarrow.types.is_struct(field.type)]
    number = 0
    for batch in file.iter_batches(batch_size=256, columns=columns):
        for fields in batch.to_pylist():
            number += 1
            yield Row(str(number), "", fields)


def _table(path: Path, delimiter: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        for number, fields in enumerate(reader, 1):
            if None in fields or None in fields.values():
                raise ValueError(
                    f"{path}, row {number}: it has another number of cells than the header's {len(reader.fieldnames)}. "
                    "Quote cells that hold the separator."
                )
            yield Row(str(number), "", fields)


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}, line {number}: invalid JSON ({error.msg}). Correct the line.") from None
                yield Row(str(number), "", _object(value, path, str(number)))


def _json(path: Path, under: str | None) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        text = _Text(file, path)
        opening = text.peek()
        if not opening:
            return
        if under is not None:
            if opening != "{":
                raise ValueError(f"{path} begins with {opening!r}; expected an object with {under!r} in it.")
            _to_array(text, under)
        elif opening not in "{[":
            raise ValueError(f"{path} begins with {opening!r}; expected a JSON object or array.")
        is_object = under is None and opening == "{"
        for number, (key, value) in enumerate(_entries(text, is_object), 1):
            label = key if is_object else str(number)
            yield Row(label, key, _object(value, path, label))
        if under is None and text.peek():
            raise ValueError(f"{path}: there is more after the first object. One object a line? Name the file .jsonl.")


def _object(value: Any, path: Path, label: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."
        raise ValueError(f"{path}, row {label}: {shown} is not an object; expected named fields.")
    return value


class _Text:
    """A file's text from some place on, of which the beginning is in memory."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.file, self.path, self.text, self.at, self.is_whole = file, path, "", 0, False
        self.decoder = json.JSONDecoder()

    def more(self, characters: int = CHUNK) -> bool:
        """Read on; whether there was anything."""
        part = self.file.read(characters)
        self.text, self.at, self.is_whole = self.text[self.at :] + part, 0, not part
        return bool(part)

    def peek(self) -> str:
        """The next character that is no space, where the text now is; "" at the end."""
        while True:
            while self.at < len(self.text):
                if not self.text[self.at].isspace():
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""

    def take(self, expected: str) -> None:
        found = self.peek()
        if found != expected:
            where = "it ends there" if not found else f"found {found!r}"
            raise ValueError(f"{self.path} is no valid JSON: expected {expected!r}, {where}. Get the file again.")
        self.at += 1

    def value(self) -> Any:
        """The next JSON value, reading on until it is whole."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or self.is_whole:  # a number may go on in the next chunk
                    self.at = end
                    return value
            except json.JSONDecodeError as error:
                if self.is_whole:
                    raise ValueError(
                        f"{self.path} is no valid JSON ({error.msg}): damaged, or cut off. Get the file again."
                    ) from None
            self.more(max(CHUNK, len(self.text) - self.at))


def _entries(text: _Text, is_object: bool) -> Iterator[tuple[str, Any]]:
    """Key ("" in an array) and value of each entry of the object or array that begins here."""
    text.take("{" if is_object else "[")
    closing = "}" if is_object else "]"
    if text.peek() == closing:
        text.take(closing)
        return
    while True:
        key = ""
        if is_object:
            key = str(text.value())
            text.take(":")
        yield key, text.value()
        if text.peek() == closing:
            text.take(closing)
            return
        text.take(",")


def _to_array(text: _Text, under: str) -> None:
    """Go to the array under a name of the object that begins here, past whatever comes before it."""
    text.take("{")
    seen: list[str] = []
    while text.peek() not in ("}", ""):
        key = str(text.value())
        text.take(":")
        if key == under:
            if text.peek() != "[":
                raise ValueError(f"{text.path}: {under!r} is not a list.")
            return
        seen.append(key)
        text.value()
        if text.peek() == ",":
            text.take(",")
    raise ValueError(f"{text.path} has no {under!r}; it has {', '.join(seen[:8]) or 'nothing'}.")

"""Rows of JSON: lines of objects, an array, or one object, read as a stream whatever the file is called."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TextIO

from probes.rows.cells import clean, shortened

CHUNK = 1 << 20  # characters read at a time
_FIRST_LINE = 1 << 20  # a longer first line is no row of its own
_WRAPPERS = ("examples", "data")  # an object around the rows: BIG-Bench's, and what many releases use


class Row(NamedTuple):
    """``label``: where it is in the file, for messages. ``key``: its name in the file that is no column: its key in a
    JSON object of objects, or its text in a table's index without a name; else ""."""

    label: str
    key: str
    fields: dict[str, Any]


def json_rows(file: TextIO, *, is_lines: bool, under: str | None = None, keyed: bool = False) -> Iterator[Row]:
    """The rows of JSON. ``is_lines``: see :func:`are_lines`. Errors name the line or the row, not the file.

    An array has a row each element. An object: with ``keyed``, a row each value, its key kept; with ``under``, the
    array under that name; else what it looks like (:func:`_of_object`), for which it is read whole."""
    if is_lines:
        yield from _lines(file)
        return
    source = _Text(file)
    opening = source.peek()
    if not opening:
        return
    if under is not None:
        if opening != "{":
            raise ValueError(f"it begins with {opening!r}; expected an object with {under!r} in it")
        _to_array(source, under)
    elif opening not in "{[":
        raise ValueError(f"it begins with {opening!r}; expected a JSON object or array")
    if under is None and opening == "{" and not keyed:
        yield from _of_object(source.value())
    else:
        is_object = under is None and opening == "{"
        for number, (key, value) in enumerate(_entries(source, is_object), 1):
            label = key if is_object else str(number)
            yield Row(label, key, _object(value, label))
    if under is None and source.peek():
        raise ValueError(
            f"line {source.line_at(source.at)}: there is more after the first value; expected one, or one on each line"
        )


def are_lines(file: TextIO, called_lines: bool) -> bool:
    """Whether each line is an object of its own: the first filled one is a whole value, and more follows. One line
    alone is a row where the file's name says lines."""
    while (line := file.readline(_FIRST_LINE)) and not line.strip():
        pass
    try:
        _decoded(line)
    except (ValueError, RecursionError):
        return called_lines and line.lstrip().startswith("{") and line.strip() != "{"
    return any(part.strip() for part in iter(lambda: file.read(1024), "")) or (
        called_lines and not line.lstrip().startswith("[")
    )


def _lines(file: TextIO) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                value = _decoded(line.rstrip("\r\n"))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}, column {error.colno}: invalid JSON ({error.msg})") from None
            except RecursionError:
                raise ValueError(f"line {number}: it is nested too deep to be read") from None
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            yield Row(str(number), "", _object(value, str(number)))


def _of_object(whole: dict[str, Any]) -> Iterator[Row]:
    """Rows of one object: those in a wrapper ("examples", "data"); of columns by row number, as pandas writes a frame;
    of objects by their keys; else the object is a row (an object of lists of lists is one too: CatQA as it is
    published)."""
    for name in _WRAPPERS:
        if isinstance(whole.get(name), list):
            yield from (Row(str(i), "", _object(value, str(i))) for i, value in enumerate(whole[name], 1))
            return
    inner = list(whole.values())
    if (
        not inner
        or not all(isinstance(value, dict) and value for value in inner)
        or all(isinstance(part, list) for value in inner for part in value.values())
    ):
        yield Row("1", "", whole)
    elif all(number.isdecimal() for value in inner for number in value):
        for number in dict.fromkeys(number for value in inner for number in value):
            yield Row(number, "", {name: values.get(number) for name, values in whole.items()})
    else:
        yield from (Row(key, key, value) for key, value in whole.items())


def _object(value: Any, label: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"row {label}: {shortened(value)} is not an object; expected named fields")
    return value


def _missing(constant: str) -> float | None:
    """NaN is how Python writes an empty cell of a frame: None. An infinity is kept, and refused where it is used."""
    return None if constant == "NaN" else float(constant)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {shortened(twice)} stands twice in one object; expected one value. Correct it")
    return found


_DECODER = json.JSONDecoder(parse_constant=_missing, object_pairs_hook=_unique)


def _decoded(line: str) -> Any:
    return clean(_DECODER.decode(line))


class _Text:
    """A file's text from some place on, of which the beginning is in memory."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.at, self.is_whole, self.lines_before = file, "", 0, False, 0

    def more(self, characters: int) -> bool:
        """Read on; whether there was anything."""
        part = self.file.read(characters)
        self.lines_before += self.text.count("\n", 0, self.at)
        self.text, self.at, self.is_whole = self.text[self.at :] + part, 0, not part
        return bool(part)

    def line_at(self, place: int) -> int:
        return self.lines_before + self.text.count("\n", 0, place) + 1

    def peek(self) -> str:
        """The next character that is no space, where the text now is; "" at the end."""
        while True:
            while self.at < len(self.text):
                if not self.text[self.at].isspace():
                    return self.text[self.at]
                self.at += 1
            if not self.more(CHUNK):
                return ""

    def take(self, expected: str) -> None:
        found = self.peek()
        if found != expected:
            where = "it ends there" if not found else f"found {found!r}"
            raise ValueError(f"it is no valid JSON: expected {expected!r}, {where} (line {self.line_at(self.at)})")
        self.at += 1

    def value(self) -> Any:
        """The next JSON value, reading on until it is whole."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                if end < len(self.text) or self.is_whole:  # a number may go on in the next chunk
                    self.at = end
                    return clean(value)
            except json.JSONDecodeError as error:
                if self.is_whole:
                    line = self.line_at(error.pos)
                    raise ValueError(f"it is no valid JSON ({error.msg}, line {line}): damaged, or cut off") from None
            except RecursionError:
                raise ValueError(f"line {self.line_at(self.at)}: it is nested too deep to be read") from None
            except ValueError as error:
                raise ValueError(f"line {self.line_at(self.at)}: {error}") from None
            self.more(max(CHUNK, len(self.text) - self.at))


def _entries(source: _Text, is_object: bool) -> Iterator[tuple[str, Any]]:
    """Key ("" in an array) and value of each entry of the object or array that begins here."""
    source.take("{" if is_object else "[")
    closing = "}" if is_object else "]"
    if source.peek() == closing:
        source.take(closing)
        return
    while True:
        key = ""
        if is_object:
            key = str(source.value())
            source.take(":")
        yield key, source.value()
        if source.peek() == closing:
            source.take(closing)
            return
        source.take(",")


def _to_array(source: _Text, under: str) -> None:
    """Go to the array under a name of the object that begins here, past whatever comes before it."""
    source.take("{")
    seen: list[str] = []
    while source.peek() not in ("}", ""):
        key = str(source.value())
        source.take(":")
        if key == under:
            if source.peek() != "[":
                raise ValueError(f"{under!r} is not a list")
            return
        seen.append(key)
        source.value()
        if source.peek() == ",":
            source.take(",")
    raise ValueError(f"it has no {under!r}; it has {', '.join(seen[:8]) or 'nothing'}")

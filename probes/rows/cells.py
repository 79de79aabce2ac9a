"""What a cell of a row is: missing, a text, a name, a list. The same whatever kind of file it came from.

Missing is None, and nothing else: the readers of files make None of NaN, NaT, NA and nulls; an empty text is empty. A
text that says "nan", "None" or "NA" is text: it may be an answer. Only where it would *name* something (an id, a pair,
a passage) is it refused: there it is a missing value that was turned into text, and would make twins of all rows.
"""

from __future__ import annotations

import ast
import datetime
import decimal
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

Fields = Mapping[str, Any]
_WAS_MISSING = frozenset(("nan", "NaN", "NaT", "None", "<NA>", "null", "NULL"))


def clean(value: Any) -> Any:
    """A value as JSON would have it, None for what is missing: NaN, NaT, NA, and the like inside lists and objects."""
    if type(value) is str:  # nearly all are
        return value
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {str(name): item if type(item) is str else clean(item) for name, item in value.items()}
    if isinstance(value, datetime.date | datetime.time):
        return None if value != value else value.isoformat()  # NaT is no equal of itself
    if isinstance(value, decimal.Decimal):
        return None if value.is_nan() else str(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def fault(value: Any) -> str:
    """What is wrong with the texts in a value, for an error; "" if nothing: bytes that are no UTF-8, half a character
    (a lone surrogate), NUL."""
    if type(value) is dict and all(
        type(cell) is str and cell.isascii() and name.isascii() and "\0" not in cell and "\0" not in name
        for name, cell in value.items()
    ):
        return ""  # nearly all are
    for text in _texts(value):
        if "\0" in text:
            return "a NUL character, which no text has: is the file in UTF-16, or damaged? Save it again as UTF-8"
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            if 0xDC80 <= code <= 0xDCFF:  # how undecodable bytes are passed on
                return f"a byte {code - 0xDC00:#04x} that is not UTF-8. Save it again as UTF-8"
            return (
                f"half a character, the lone surrogate U+{code:04X}, which can't be encoded. Correct or remove the row"
            )
    return ""


def text(row: Fields, name: str) -> str:
    """The cell as a text without space around it, "" where it is missing. A whole number is written without ".0", so
    that an id is the same from a column of integers and from one that a missing value made into floats."""
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; expected text or a number. Correct the row")
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    if isinstance(value, bool | int):
        return str(value)
    raise ValueError(f"{name} is {shortened(value)}, {_article(value)}; expected text")


def filled(row: Fields, name: str) -> str:
    """The cell's text. ValueError where it is blank or missing."""
    if found := text(row, name):
        return found
    raise ValueError(f"the {name} is blank; expected its text. Fill it in or remove the row")


def named(row: Fields, name: str) -> str:
    """A text that tells what belongs together (an id, a pair, a passage); "" where it is missing.

    ValueError for "nan", "None" and other words that missing values leave behind when they are written as text."""
    found = text(row, name)
    if found in _WAS_MISSING:
        raise ValueError(
            f"the {name} is {found!r}, which is a missing value written as text: all rows with it would count as one "
            "group. Leave the cell empty, or give a name"
        )
    return found


def strings(row: Fields, name: str) -> tuple[str, ...]:
    """A list of texts: a list or, in a cell of a table, a JSON (or Python) list, or texts parted by "|"."""
    given = value = row.get(name)
    if isinstance(value, str):
        is_list = value.lstrip().startswith("[")
        value = listed(value) if is_list else value.split("|") if value.strip() else []
    value = [] if given is None else value
    if not (isinstance(value, list) and all(isinstance(item, str | int | float) for item in value)):
        raise ValueError(f"malformed {name} {shortened(given)}; expected a list (in a CSV, a JSON list or a|b)")
    return tuple(text({name: item}, name) for item in value)


def listed(cell: str) -> Any:
    """The list that a cell holds as text, as JSON or as Python writes it; None where it is neither."""
    for read in (json.loads, ast.literal_eval):  # literal_eval reads constants alone
        try:
            return clean(read(cell))
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def shortened(value: Any) -> str:
    """How a value is shown in an error."""
    shown = repr(value)
    return shown if len(shown) <= 70 else f"{shown[:35]} ... {shown[-30:]}"


def _article(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, names included; without recursion, since files nest as deep as they like."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            left += value

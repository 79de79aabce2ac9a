"""Ordinary English passages: what a model should still read well after an edit of its yes/no answers."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from interp.door import public
from probes.rows import Cells, Format, Items, Reading, named, shipped_or
from probes.rows.formats import Fields

BUILTIN = Path(__file__).with_name("texts.jsonl")


@dataclass(frozen=True)
class Text:
    """A passage. ``kind`` says what sort it is: "news", "recipe", "code", ...; "" where nobody said."""

    id: str
    kind: str
    text: str

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) or not (value.strip() or field.name == "kind"):
                raise ValueError(f"the {field.name} is {value!r}; expected words. Fill it in or remove the row")


@public
def load_texts(
    source: str | Path = "builtin", limit: int | None = None, *, columns: Mapping[str, str] | None = None
) -> list[Text]:
    """The built-in passages, or those of a file, in its order; with ``limit``, the first so many.

    ``source`` is "builtin" or a .jsonl, .json, .csv, .tsv or .parquet file (or "-", standard input) with a column
    "text" and, if you like, "id" and "kind"; ``columns`` gives the file's names for them, such as {"text": "passage"}.
    The built-in 60 passages of 70 to 110 words were written for headscope; their 30 kinds are mixed, so the first few
    are varied too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a row can't be used; says which (from 1; a CSV's header is not a row, a JSONL file's rows are its
            lines), the value, and the remedy.

        >>> [t.kind for t in load_texts(limit=2)]
        ['news', 'recipe']
    """
    reading = Reading(columns=columns or {})
    path = shipped_or(source, BUILTIN, "texts", reading, limit)
    found = Items(path, FORMATS, lambda _, cells: Text(**cells), reading, otherwise="plain", ours=("id", "kind"))
    return list(islice(found, limit))


def passage(row: Cells, key: str, seed: int) -> list[Fields]:
    """A row's passage: text; optional id, kind."""
    if "text" not in row:
        raise ValueError(f"no column 'text'; the columns are {', '.join(row)}. Name the column of passages 'text'")
    kind = row.get("kind")
    return [{"id": named(row, "id") or key, "kind": "" if kind is None else kind, "text": row["text"]}]


FORMATS = {"plain": Format("plain", ("text",), passage, "text")}

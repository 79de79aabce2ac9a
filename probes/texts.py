"""Ordinary English passages: what a model should still read well after an edit of its yes/no answers."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.question_formats import read_rows

BUILTIN = Path(__file__).with_name("data") / "texts.jsonl"


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


def load_texts(source: str | Path = "builtin", limit: int | None = None) -> list[Text]:
    """The built-in passages, or those of a file, in its order; with ``limit``, the first so many.

    ``source`` is "builtin" or a .jsonl, .json, .csv or .parquet file with a column "text" and, if you like, "id" and
    "kind". The built-in 60 passages of 70 to 110 words were written for headscope; their 30 kinds are mixed, so the
    first few are varied too.

    Raises FileNotFoundError, or ValueError naming the row (from 1; a CSV's header is not a row, a JSONL file's rows are
    its lines), the value, and the remedy.

        >>> [t.kind for t in load_texts(limit=2)]
        ['news', 'recipe']
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; expected 1 or more texts, or None for all")
    if source == "builtin" and not BUILTIN.is_file():
        raise FileNotFoundError(f"the built-in texts are missing ({BUILTIN}); install headscope again")
    path = BUILTIN if source == "builtin" else Path(source)
    texts: list[Text] = []
    seen: dict[str, str] = {}  # id -> row
    for number, row in read_rows(path):
        try:
            text = _parse(row, f"{path.stem}-{number}")
            if text.id in seen:
                raise ValueError(
                    f"the id {text.id!r} is row {seen[text.id]}'s already; expected ids that differ. Correct it, or "
                    "leave the ids out and the rows are numbered"
                )
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from None
        seen[text.id] = number
        texts.append(text)
    return texts[:limit]


def _parse(row: Mapping[str, Any], key: str) -> Text:
    if "text" not in row:
        raise ValueError(f"no column 'text'; the columns are {', '.join(row)}. Name the column of passages 'text'")
    identity, kind = row.get("id"), row.get("kind")
    return Text(
        id=key if identity in (None, "") else str(identity),
        kind="" if kind is None else kind,
        text=row["text"],
    )

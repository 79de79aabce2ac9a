"""Rows of pairs: our own fields, and those of MIB's data sets and circuit tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from interp.door import made_by, public
from probes.rows import Cells, Format, Items, Misread, Reading, filled, listed, named, strings, text
from probes.rows.formats import Fields

Answer = str | tuple[str, ...] | tuple[int, ...]


@made_by("load_prompt_pairs(file), or PairRow(id, clean, corrupt, answer, corrupt_answer)")
@dataclass(frozen=True)
class PairRow:
    """A clean and a corrupt prompt, and the answer to each: a word, words that count alike, or ids of tokens."""

    id: str
    clean: str
    corrupt: str
    answer: Answer
    corrupt_answer: Answer

    def __post_init__(self) -> None:
        if not self.clean.strip() or not self.corrupt.strip():
            raise ValueError("the clean or the corrupt prompt is empty; expected both")
        if self.clean == self.corrupt:
            raise ValueError("the corrupt prompt equals the clean one; expected another")
        if self.answer == self.corrupt_answer:
            raise ValueError(f"both answers are {self.answer!r}; expected two that differ")


def plain(row: Cells, key: str, seed: int) -> list[Fields]:
    """headscope's own shape: clean, corrupt, answer, corrupt_answer (each a word, or a list of words); id."""
    given = {name: filled(row, name) for name in ("clean", "corrupt")}
    answers = {name: _words(row, name) for name in ("answer", "corrupt_answer")}
    return [{"id": named(row, "id") or key, **given, **answers}]


def _words(row: Cells, name: str) -> Answer:
    """A word, or a list of them."""
    return tuple(strings(row, name)) if isinstance(row.get(name), list | tuple) else text(row, name)


def circuit_table(row: Cells, key: str, seed: int) -> list[Fields]:
    """The tables of MIB's circuit track: clean, corrupted, correct_idx, incorrect_idx (ids of tokens)."""
    ids = {"answer": _ids(row, "correct_idx"), "corrupt_answer": _ids(row, "incorrect_idx")}
    return [{"id": named(row, "id") or key, "clean": filled(row, "clean"), "corrupt": filled(row, "corrupted"), **ids}]


def mib(row: Cells, key: str, seed: int) -> list[Fields]:
    """MIB's data sets (Mueller et al. 2025): prompt, choices, answerKey, and a column that ends in _counterfactual with
    the same three; where there are several, ``columns={"counterfactual": ...}`` says which."""
    several = [name for name in row if name == "counterfactual" or name.endswith("_counterfactual")]
    chosen = "counterfactual" if "counterfactual" in several else several[0]
    if "counterfactual" not in several and len(several) > 1:
        raise Misread(f"there are {len(several)} counterfactuals", {"counterfactual": several[0]})
    other = row[chosen]
    other = listed(other) if isinstance(other, str) else other
    if not isinstance(other, Mapping):
        raise ValueError(f"{chosen} is {type(other).__name__}; expected prompt, choices and answerKey")
    return [
        {
            "id": named(row, "id") or key,
            "clean": filled(row, "prompt"),
            "corrupt": filled(other, "prompt"),
            "answer": _choice(row),
            "corrupt_answer": _choice(other),
        }
    ]


def _choice(row: Cells) -> str:
    given = row.get("choices")
    choices = given.get("text") if isinstance(given, Mapping) else given
    choices = strings({"choices": choices}, "choices")
    try:
        key = int(row["answerKey"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"answerKey is {row.get('answerKey')!r}; expected the number of a choice, from 0") from None
    if not 0 <= key < len(choices):
        raise ValueError(f"answerKey is {key}; expected the number of one of {len(choices)} choices, from 0")
    return choices[key]


def _ids(row: Cells, name: str) -> tuple[int, ...]:
    value: Any = row.get(name)
    value = listed(value) if isinstance(value, str) else value
    several = value if isinstance(value, list | tuple) else [value]
    try:
        ids = tuple(int(one) for one in several)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; expected the id of a token, or a list of them") from None
    if not ids or min(ids) < 0:
        raise ValueError(f"{name} is {value!r}; expected ids of tokens, none below 0")
    return ids


def _has_counterfactual(rows: Sequence[Cells]) -> bool:
    return any(name.endswith("counterfactual") for name in next(iter(rows), {}))


PAIR_FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("plain", ("clean", "corrupt", "answer", "corrupt_answer"), plain, "clean"),
        Format("circuit_table", ("clean", "corrupted", "correct_idx", "incorrect_idx"), circuit_table, "clean"),
        Format("mib", ("prompt", "choices", "answerKey"), mib, "prompt", told_by=_has_counterfactual),
    )
}
"""By name: the shapes of file that pairs come in."""


@public
def load_prompt_pairs(
    source: str | Path, *, limit: int | None = None, format: str | None = None, columns: Mapping[str, str] | None = None
) -> list[PairRow]:
    """The pairs of a .jsonl, .json, .csv, .tsv or .parquet file, "-" for standard input, in its order.

    The shape is told from the columns, or by ``format``: "plain" (clean, corrupt, answer, corrupt_answer),
    "circuit_table" (MIB's circuit track: clean, corrupted, correct_idx, incorrect_idx) or "mib" (prompt, choices,
    answerKey, and a counterfactual). ``columns``: the file's name for one of ours. ``limit``: the first so many.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming the row, what is wrong, and the remedy: a corrupt prompt that equals the clean one, answers
            that are equal.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; expected 1 or more pairs, or None for all")
    rows = Items(
        source,
        PAIR_FORMATS,
        lambda form, cells: PairRow(**cells),
        Reading(format, dict(columns or {})),
        ours=[*(f.name for f in fields(PairRow)), "counterfactual"],
    )
    return list(islice(rows, limit))

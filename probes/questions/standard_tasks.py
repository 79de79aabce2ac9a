"""Files of standard tasks, asked as the field asks them: GSM8K, MMLU and BIG-Bench Hard, or whatever has their shape.

Yes/no questions made of such files are :mod:`probes.questions.formats`; here a task keeps its own form: a problem that
ends in a number, a question with lettered choices, an input with a target.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.door import made_by, public
from probes.questions.formats import final_number, has_numbers
from probes.questions.task_answers import number_of
from probes.rows import Cells, Format, Items, Reading, filled, known, named, shortened, stem_of, strings, text
from probes.rows.drawing import shuffled
from probes.rows.formats import Fields

LETTERS = string.ascii_uppercase
MAX_NEW_TOKENS = {"gsm8k": 256, "mmlu": 0, "bbh": 64}
"""The length of a reply, by the shape of a task: a worked solution; none, where a letter's probability is read; a
target."""


@dataclass(frozen=True)
class TaskItem:
    """One question of a standard task. ``text``: as the file has it. ``answer``: the number, the letter of the right
    choice, or the target. ``choices``: what the letters stand for, () where the answer is written."""

    id: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of its choices, in order."""
        return tuple(LETTERS[: len(self.choices)])


@made_by("load_task(file)")
@dataclass(frozen=True)
class StandardTask:
    """A task's questions, and how they are scored.

    ``name``: for tables. ``format``: "gsm8k" (the last number of the reply), "mmlu" (the likeliest letter) or "bbh"
    (the reply is the target). ``items``: the questions. ``max_new_tokens``: the length of a reply; None: 256 for
    GSM8K, 64 for BIG-Bench Hard.

    Raises:
        ValueError: another format, no items, choices where none are read or none where they are, no length of a reply.
    """

    name: str
    format: str
    items: tuple[TaskItem, ...]
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        known(f"format={self.format!r}", self.format, list(FORMATS))
        if not self.name.strip() or not self.items:
            raise ValueError(f"task {self.name!r} has {len(self.items)} items; expected a name and at least one.")
        if wrong := [item.id for item in self.items if bool(item.choices) != self.is_choice]:
            has = "no choices" if self.is_choice else "choices"
            raise ValueError(
                f"task {self.name!r} is read as {self.format!r}, but {', '.join(wrong[:3])} has {has}; expected "
                f"{'some' if self.is_choice else 'none'}. Give the format that the file has."
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}; expected 1 or more, or None for the format's.")

    @property
    def is_choice(self) -> bool:
        """Whether a letter's probability is read, and nothing generated."""
        return self.format == "mmlu"

    @property
    def reply_tokens(self) -> int:
        """The most new tokens of a reply; 0 where none is generated."""
        return 0 if self.is_choice else self.max_new_tokens or MAX_NEW_TOKENS[self.format]

    @property
    def guessing(self) -> float:
        """The share that is right by guessing: of choices one over their number, of written answers 0."""
        return sum(1 / len(i.choices) for i in self.items) / len(self.items) if self.is_choice else 0.0


@public
def load_task(
    source: str | Path,
    *,
    name: str | None = None,
    format: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    max_new_tokens: int | None = None,
) -> StandardTask:
    """A standard task of a file, for :func:`probes.negative_bias.edit_cost`.

    Shapes, told from the columns or set by ``format``. ``gsm8k``: question, and an answer that is a number or ends in
    "#### 72". ``mmlu``: question, choices (a list; or a column for each of A, B, ...) and answer, a letter or the
    number of the choice from 0; also a table without header: question, choices, letter. ``bbh``: input and target, as
    rows or within {"examples": [...]}.

    Args:
        source: a .jsonl, .json, .csv, .tsv or .parquet file, "-" for standard input, or a pipe.
        name: for tables; None: the file's.
        format: "gsm8k", "mmlu" or "bbh".
        limit: the most items, drawn by ``seed`` and kept in the file's order; a larger limit adds to the same ones.
        seed: of the draw.
        columns: the file's names for ours, such as {"choices": "options"}.
        max_new_tokens: the length of a reply; None: the format's own.

    Returns:
        The task, with the answers as they are compared.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a shape that is none of these, and a row that can't be used; says which, the value, the remedy.

    Cost: none of a model.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; expected 1 or more items, or None for all.")
    if str(source) == "builtin":
        raise ValueError("no standard task is built in; give a file of one, shaped as GSM8K, MMLU or BIG-Bench Hard.")
    reading = Reading(format, columns or {})
    found = Items(
        source,
        FORMATS,
        lambda _, cells: TaskItem(**cells),
        reading,
        ours=("id",),
        prepare=_with_choices,
        header=mmlu_header if format in (None, "mmlu") else None,
    )
    items = list(found)
    if limit is not None and limit < len(items):
        items = [items[i] for i in sorted(shuffled(len(items), random.Random(seed))[:limit].tolist())]
    return StandardTask(name or stem_of(source), found.format, tuple(items), max_new_tokens)


def mmlu_header(cells: Sequence[str]) -> list[str] | None:
    """Names for the columns of a table without header, told by its first row: question, choices, a letter of theirs.
    None where the row is a header: it names a column "question" or "answer", or choices A and B."""
    letters = LETTERS[: max(0, len(cells) - 2)]
    names = {cell.lower() for cell in cells}
    if len(letters) < 2 or cells[-1] not in [*letters] or names & {"question", "answer"} or {"A", "B"} <= {*cells[:-1]}:
        return None
    return ["question", *letters, "answer"]


def _gsm8k(row: Cells, key: str, seed: int) -> list[Fields]:
    """question, answer: a number, or text that ends in "#### 72"."""
    answer = number_of(final_number(row.get("answer")))
    if answer is None:
        raise ValueError(
            f"the answer {shortened(row.get('answer'))} is not a number; expected one, or text ending in '#### "
            "<number>'. Correct or remove the row"
        )
    return [{"id": named(row, "id") or key, "text": filled(row, "question"), "answer": answer}]


def _ends_in_numbers(rows: Sequence[Cells]) -> bool:
    return has_numbers(rows) or any("####" in str(row.get("answer")) for row in rows)


def _mmlu(row: Cells, key: str, seed: int) -> list[Fields]:
    """question, choices, answer: a letter, or the number of the choice from 0."""
    choices = strings(row, "choices")
    if not 2 <= len(choices) <= len(LETTERS) or not all(choices):
        raise ValueError(
            f"malformed choices {shortened(list(choices))}; expected a list of 2 to {len(LETTERS)} texts, none blank. "
            "Fill them in or remove the row"
        )
    letters, answer = LETTERS[: len(choices)], text(row, "answer")
    given = shortened(row.get("answer"))
    if re.fullmatch(r"\d+", answer) and not isinstance(row.get("answer"), bool):
        if int(answer) >= len(choices):
            raise ValueError(
                f"the answer {given} is the number of no choice; expected 0 to {len(choices) - 1} for {len(choices)} "
                f"choices, or a letter from A to {letters[-1]}. Turn numbers that count from 1 into letters"
            )
        answer = letters[int(answer)]
    elif len(answer) != 1 or answer.upper() not in letters:
        raise ValueError(
            f"the answer {given} names none of the {len(choices)} choices; expected a letter from A to {letters[-1]}, "
            f"or a number from 0 to {len(choices) - 1}. Correct or remove the row"
        )
    fields = {"id": named(row, "id") or key, "text": filled(row, "question")}
    return [fields | {"answer": answer.upper(), "choices": choices}]


def _bbh(row: Cells, key: str, seed: int) -> list[Fields]:
    """input, target."""
    return [{"id": named(row, "id") or key, "text": filled(row, "input"), "answer": filled(row, "target")}]


def _with_choices(row: Cells) -> Cells:
    """A row with columns A, B, ... as one with a list of choices."""
    if "choices" in row or not {"A", "B"} <= row.keys():
        return row
    letters = [letter for letter in LETTERS if letter in row]
    if letters != [*LETTERS[: len(letters)]]:
        raise ValueError(
            f"the columns of choices are {', '.join(letters)}; expected A, B, ... without a gap. Name the choices so"
        )
    choices: list[Any] = [text(row, letter) for letter in letters]
    while len(choices) > 2 and not choices[-1]:  # a row with fewer choices than the table has columns
        choices.pop()
    return {name: value for name, value in row.items() if name not in letters} | {"choices": choices}


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("mmlu", ("question", "choices", "answer"), _mmlu, "question"),
        Format("bbh", ("input", "target"), _bbh, "input"),
        Format("gsm8k", ("question", "answer"), _gsm8k, "question", told_by=_ends_in_numbers),
    )
}
"""The most telling first, as in :mod:`probes.questions.formats`."""

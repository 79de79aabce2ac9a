"""The tasks of the trained twins: inputs, the variables that lead to the answer, and the answer they give.

A task is a causal model: ``variables`` computes each variable from an input, or takes it from elsewhere where another
input's value is put in its place. Training makes one head carry one variable.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from probes.known_answers.tasks import Rows, Task, Values

BOS, END = 0, 1


def _framed(*columns: np.ndarray) -> Rows:
    n = len(columns[0])
    return np.column_stack([np.full(n, BOS), *columns, np.full(n, END)]).astype(np.int64)


def _distinct(n: int, k: int, of: int, rng: np.random.Generator) -> np.ndarray:
    return rng.random((n, of)).argsort(1)[:, :k]


# The other name: BOS first second third END; the third is one of the two, the answer the other.

_NAMES = tuple("ABCDEFGH")


def _sample_names(n: int, rng: np.random.Generator) -> Rows:
    two = _distinct(n, 2, len(_NAMES), rng) + 2
    repeated = rng.integers(2, size=n)
    return _framed(two, two[np.arange(n), repeated])


def _name_variables(rows: Rows, given: Values) -> dict[str, np.ndarray]:
    repeated = given.get("repeated", (rows[:, 3] == rows[:, 2]).astype(int))  # at the third name
    moved = given.get("repeated_at_end", repeated)
    other = given.get("other_name", rows[np.arange(len(rows)), 2 - moved])
    return {"repeated": repeated, "repeated_at_end": moved, "other_name": other}


# The flagged copy: BOS (flag letter) x 4 END; the answer is the letter after the one raised flag.

_LOW, _RAISED = 2, 3
_LETTERS = tuple("abcdefgh")


def _sample_flags(n: int, rng: np.random.Generator) -> Rows:
    letters = _distinct(n, 4, len(_LETTERS), rng) + 4
    flags = np.full((n, 4), _LOW)
    flags[np.arange(n), rng.integers(4, size=n)] = _RAISED
    return _framed(np.stack([flags, letters], axis=2).reshape(n, 8))


def _flag_variables(rows: Rows, given: Values) -> dict[str, np.ndarray]:
    flagged = given.get("flagged", (rows[:, 1:9:2] == _RAISED).argmax(1))  # at each letter: was a flag before it?
    letter = given.get("letter", rows[np.arange(len(rows)), 2 + 2 * flagged])
    return {"flagged": flagged, "letter": letter}


# The comparison: BOS first second order END; "more" asks whether first > second, "fewer" whether first < second.

_MORE, _FEWER, _NO, _YES = 2, 3, 4, 5
_NUMBERS = tuple("012345")


def _sample_numbers(n: int, rng: np.random.Generator) -> Rows:
    return _framed(_distinct(n, 2, len(_NUMBERS), rng) + 6, rng.integers(_MORE, _FEWER + 1, size=n))


def _number_variables(rows: Rows, given: Values) -> dict[str, np.ndarray]:
    return {name: given.get(name, rows[:, i]) for i, name in enumerate(("first", "second", "order"), start=1)}


def _compare(rows: Rows, values: Values) -> np.ndarray:
    difference = np.sign(values["first"] - values["second"]) * np.where(values["order"] == _MORE, 1, -1)
    return np.where(difference > 0, _YES, _NO)  # equal only where a variable was put in: no


# The lookup: BOS (key letter) x 3 key END; every key stands there once, one of them again; the answer is its letter.

_KEYS = ("x", "y", "z")


def _sample_lookups(n: int, rng: np.random.Generator) -> Rows:
    keys, letters = _distinct(n, 3, 3, rng) + 2, _distinct(n, 3, len(_LETTERS), rng) + 2 + len(_KEYS)
    return _framed(np.stack([keys, letters], axis=2).reshape(n, 6), rng.integers(3, size=n) + 2)


def _lookup_variables(rows: Rows, given: Values) -> dict[str, np.ndarray]:
    before = given.get("key_before", rows[:, 1:7:2])  # at each letter
    place = (before == rows[:, 7:8]).argmax(1)
    return {"key_before": before, "letter": given.get("letter", rows[np.arange(len(rows)), 2 + 2 * place])}


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "other_name",
            "Of two names one is said again; which is the other?",
            ("BOS", "END", *_NAMES),
            {"repeated": 0, "repeated_at_end": 1, "other_name": 2},
            3,
            _sample_names,
            _name_variables,
            lambda rows, values: values["other_name"],
        ),
        Task(
            "flagged_copy",
            "Which letter stands after the raised flag?",
            ("BOS", "END", "low", "raised", *_LETTERS),
            {"flagged": 0, "letter": 1},
            3,
            _sample_flags,
            _flag_variables,
            lambda rows, values: values["letter"],
        ),
        Task(
            "comparison",
            "Is the first number more (or fewer) than the second?",
            ("BOS", "END", "more", "fewer", "No", "Yes", *_NUMBERS),
            {"first": 0, "second": 0, "order": 1},
            2,
            _sample_numbers,
            _number_variables,
            _compare,
        ),
        Task(
            "lookup",
            "Which letter stands after this key?",
            ("BOS", "END", *_KEYS, *_LETTERS),
            {"key_before": 0, "letter": 2},
            4,
            _sample_lookups,
            _lookup_variables,
            lambda rows, values: values["letter"],
        ),
    )
}

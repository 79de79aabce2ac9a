"""Scores of heads read from a plain table, which another program may have written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.figures import head_label

NO_EXAMPLES = "all examples"  # the id that stands for them all where a table names none


def read_table(
    frame: pd.DataFrame, name: str, score: str, measures: Sequence[str]
) -> tuple[dict[str, Float[np.ndarray, "example layer head"]], tuple[str, ...]]:
    """The columns ``score`` (as ``name``) and ``measures`` of a table with ``layer`` and ``head``, and ``example`` if
    it has one, as arrays, and the examples' ids: see :meth:`interp.HeadRanking.from_frame`.

    Raises:
        ValueError: missing columns, heads that are missing or doubled, and what is no number.
    """
    named = {name: score, **{m: m for m in measures}}
    if missing := [c for c in ("layer", "head", *named.values()) if c not in frame.columns]:
        raise ValueError(
            f"the table has no column {missing[0]!r}; it has {list(frame.columns)}. Expected layer, head, {score} "
            "and, for scores of single examples, example."
        )
    has_examples = "example" in frame.columns
    layers, heads = (_whole_numbers(frame[column]) for column in ("layer", "head"))
    examples = frame["example"].astype(str) if has_examples else pd.Series(NO_EXAMPLES, index=frame.index)
    ids = tuple(dict.fromkeys(examples))
    shape = (len(ids), int(layers.max()) + 1, int(heads.max()) + 1)
    cells = (examples.map({name: i for i, name in enumerate(ids)}).to_numpy(), layers, heads)
    _require_each_once(cells, shape, ids if has_examples else None)
    made = {}
    for measure, column in named.items():
        try:
            values = pd.to_numeric(frame[column]).to_numpy(np.float32)
        except (ValueError, TypeError) as error:
            raise ValueError(f"the column {column!r} is not of numbers ({error}).") from None
        made[measure] = np.full(shape, np.nan, np.float32)
        made[measure][cells] = values
    return made, ids


def _whole_numbers(column: pd.Series) -> Int[np.ndarray, " row"]:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    if not len(numbers):
        raise ValueError("the table has no rows; expected one for each head.")
    bad = ~(np.isfinite(numbers) & (numbers >= 0) & (numbers == np.floor(numbers)))
    if bad.any():
        raise ValueError(
            f"the column {column.name!r} holds {column[bad].iloc[0]!r}; expected whole numbers, counted from 0."
        )
    return numbers.astype(int)


def _require_each_once(cells: tuple, shape: tuple[int, int, int], ids: Sequence[str] | None) -> None:
    counts = np.zeros(shape, int)
    np.add.at(counts, cells, 1)
    for bad, what in ((counts == 0, "is missing"), (counts > 1, "is there more than once")):
        if bad.any():
            example, layer, head = (int(i) for i in np.argwhere(bad)[0])
            of = f" of example {ids[example]!r}" if ids is not None else ""
            raise ValueError(
                f"{head_label(layer, head)}{of} {what} ({int(bad.sum())} such); expected every head of {shape[1]} "
                f"layers of {shape[2]} heads once{' for each example' if ids is not None else ''}: a ranking is of all."
            )

"""Rankings to and from plain tables, so that scores made elsewhere are compared, plotted and selected as ours are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.ranking import _RESERVED, HeadRanking
from interp.views import head_label

_ONE_NUMBER = (
    "Made from a table with one number for each head, without single examples: there are no intervals, no p-values and "
    "no reliability."
)


def ranking_from_frame(
    frame: pd.DataFrame,
    score: str = "score",
    *,
    measures: Sequence[str] = (),
    name: str | None = None,
    descriptions: Mapping[str, str] | None = None,
    controls: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
) -> HeadRanking:
    """See :meth:`interp.ranking.HeadRanking.from_frame`."""
    named = {name or (f"given_{score}" if score in _RESERVED else score): score, **{m: m for m in measures}}
    if missing := [c for c in ("layer", "head", *named.values()) if c not in frame.columns]:
        raise ValueError(
            f"the table has no column {missing[0]!r}; it has {list(frame.columns)}. Expected layer, head, {score} and, "
            "for scores of single examples, example."
        )
    has_examples = "example" in frame.columns
    layers, heads = (_whole_numbers(frame[column]) for column in ("layer", "head"))
    examples = frame["example"].astype(str) if has_examples else pd.Series("all examples", index=frame.index)
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
    given = dict(provenance or {})
    if not has_examples:
        given["caveats"] = [*given.get("caveats", []), _ONE_NUMBER]
    return HeadRanking(next(iter(named)), made, ids, dict(descriptions or {}), given, controls=tuple(controls))


def example_frame(ranking: HeadRanking) -> pd.DataFrame:
    """See :meth:`interp.ranking.HeadRanking.to_example_frame`."""
    shape = ranking.scores.shape
    example, layer, head = (index.ravel() for index in np.indices(shape))
    columns = {"example": np.asarray(ranking.example_ids)[example], "layer": layer, "head": head}
    return pd.DataFrame(columns | {name: array.ravel() for name, array in ranking.measures.items()})


def _whole_numbers(column: pd.Series) -> Float[np.ndarray, " row"]:
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

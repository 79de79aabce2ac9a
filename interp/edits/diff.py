"""Two edits side by side: which heads, layers and directions they share, and how far apart these are."""

from __future__ import annotations

import math

import pandas as pd
from torch import Tensor

from interp.edits.family import ModelEdit


def compare_edits(a: ModelEdit, b: ModelEdit) -> pd.DataFrame:
    """One row for each thing that either edit changes.

    part: a head's factor, its rows, a vector at a layer. verdict: "same" (bit for bit), "differs", "only in A", "only
    in B". a, b: its value (a single number), or the norm of its tensor; NaN where it is not there.
    relative_difference: |a - b| / |a|. cosine: of the two tensors, NaN for single numbers. Numbers are compared, not
    what they do: look at logits for that.
    """
    ours, theirs = a.parts(), b.parts()
    columns = ["part", "verdict", "a", "b", "relative_difference", "cosine"]
    rows = [_row(label, ours.get(label), theirs.get(label)) for label in dict.fromkeys([*ours, *theirs])]
    return pd.DataFrame(rows, columns=columns)


def _row(label: str, a: Tensor | None, b: Tensor | None) -> dict[str, object]:
    row = {"part": label, "a": _size(a), "b": _size(b), "relative_difference": math.nan, "cosine": math.nan}
    if a is None or b is None:
        return row | {"verdict": "only in B" if a is None else "only in A"}
    if a.shape != b.shape:
        return row | {"verdict": "differs"}
    x, y = a.double().flatten(), b.double().flatten()
    row["verdict"] = "same" if a.dtype == b.dtype and a.equal(b) else "differs"
    row["relative_difference"] = float((x - y).norm() / x.norm()) if x.any() else math.nan if y.any() else 0.0
    if x.numel() > 1 and x.any() and y.any():
        row["cosine"] = float((x @ y) / (x.norm() * y.norm()))
    return row


def _size(value: Tensor | None) -> float:
    if value is None:
        return math.nan
    return float(value) if value.numel() == 1 else float(value.double().norm())

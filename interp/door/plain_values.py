"""Values of numpy, torch and pandas as float64 arrays and as Python's own; and any value described in words."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def is_tensor(value: Any) -> bool:
    """Whether it is one of torch's, which is not imported for that: where it was not, there are none."""
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)


def as_numbers(values: Any, name: str, n_axes: int | None = None) -> np.ndarray:
    """Numbers in any array, list or column, as float64: no small type rounds, and no unsigned one wraps.

    What is missing (NaN, None, pandas' NA, a masked cell) is NaN; a text is refused, also one of digits."""
    if is_tensor(values):
        values = (values.detach().double() if values.is_floating_point() else values.detach()).cpu().numpy()
    elif isinstance(values, np.ma.MaskedArray):
        values = values.astype(np.float64).filled(np.nan)
    elif isinstance(values, Iterator | range):
        values = list(values)
    if isinstance(values, list | tuple) and any(is_tensor(v) for v in values):
        values = [v.tolist() if is_tensor(v) else v for v in values]
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O" and all(map(_is_number_or_missing, array.ravel())):
            flat = [np.nan if _is_missing(v) else float(v) for v in array.ravel()]
            array = np.array(flat, dtype=np.float64).reshape(array.shape)
    except ValueError:  # rows of different lengths
        array = np.array("")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} is {described(values)}; expected numbers, in a list or an array of one shape.")
    if n_axes is not None and array.ndim != n_axes:
        raise ValueError(f"{name} has the shape {array.shape}; expected {n_axes} axis or axes.")
    return np.array(array, dtype=np.float64, order="C")  # sums do not depend on how it lay in memory


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType"


def _is_number_or_missing(value: Any) -> bool:
    return _is_missing(value) or isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating)


def as_tensor(values: Any, name: str) -> Tensor:
    """A tensor as it is; numbers in an array or a list as a float32 tensor."""
    import torch

    return values if is_tensor(values) else torch.tensor(as_numbers(values, name), dtype=torch.float32)


def as_items(values: Any, name: str) -> list[Hashable]:
    """The items of an order, as Python's own values, so that equal ones are equal whatever array they came in."""
    if isinstance(values, Mapping | set | frozenset) or not isinstance(values, Iterable) or hasattr(values, "columns"):
        raise TypeError(f"{name} is {described(values)}; expected a list of items in their order.")
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    items = [_item(v) for v in values] if isinstance(values, list) else [_item(values)]
    if any(isinstance(v, float) and math.isnan(v) for v in items):
        raise ValueError(f"{name} has NaN among its items, which is equal to nothing; leave it out.")
    return items


def _item(value: Any) -> Hashable:
    if isinstance(value, np.floating):
        return float(value)  # long doubles have no other Python value
    value = value.tolist() if isinstance(value, np.generic | np.ndarray) or is_tensor(value) else value
    return tuple(map(_item, value)) if isinstance(value, list | tuple) else value


def described(value: Any) -> str:
    """What was given, in few words."""
    if value is None or isinstance(value, bool | np.bool_):
        return str(value)
    kind = type(value).__name__
    name = f"{'an' if kind[:1] in 'AEIOUaeiou' else 'a'} {kind}"
    if isinstance(value, str | bytes | int | float | np.generic):
        shown = repr(value)
        return f"{name}, {shown if len(shown) <= 60 else shown[:57] + '...'}"
    return f"{name} of {len(value)}" if isinstance(value, list | tuple | dict | set) else name

"""Tables of a result that are made once and handed out as copies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import pandas as pd

_Result = TypeVar("_Result")


def made_once(method: Callable[[_Result], pd.DataFrame]) -> Callable[[_Result], pd.DataFrame]:
    """A method without arguments that makes a table: it makes it once, and a copy is handed out at each call."""

    @functools.wraps(method)
    def handed_out(self: Any) -> pd.DataFrame:
        kept = self.__dict__.setdefault("_made_once", {})  # a result is frozen
        if method.__name__ not in kept:
            kept[method.__name__] = method(self)
        return kept[method.__name__].copy()

    return handed_out

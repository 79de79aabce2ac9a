"""One line for a value that holds arrays, tables or modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

FEW = 6  # values of a list that are shown


def brief(value: Any) -> str:
    """The ``repr`` of a dataclass, an array by its shape, a table by its size, a module by its kind.

    Written in the class as ``__repr__ = brief``: a dataclass's own ``repr`` prints every weight of a model it holds.
    """
    told = (f"{f.name}={_told(getattr(value, f.name))}" for f in dataclasses.fields(value) if f.repr)
    return f"{type(value).__name__}({', '.join(told)})"


def _told(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, type):
        size = " x ".join(str(n) for n in shape) or "scalar"
        return f"<{type(value).__name__} {size}>"
    if hasattr(value, "named_modules"):
        return f"<{type(value).__name__}>"
    if isinstance(value, (tuple, list, Mapping, set, frozenset)) and len(value) > FEW:
        return f"<{type(value).__name__} of {len(value)}>"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_told(each)}' for key, each in value.items())}}}"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(_told(each) for each in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    return repr(value)

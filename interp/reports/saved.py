"""Values as JSON beside arrays, and back: what a result is made of, whatever its class.

Numbers, texts, lists, mappings, tables, arrays, tensors and dataclasses of these. A dataclass is written as its module,
its name and its fields, and built again from them: nothing else of a file is ever called. Texts that may be harmful are
left out unless asked for: a value with a method ``withheld`` is written as what that returns, a field with
``metadata={"withheld": True}`` as None. A field with ``metadata={"saved": False}`` is not written: it has its default
when the value is read. A field that is :class:`later` is built when somebody asks for it, so that the rest is read
where torch is not installed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from inspect import getattr_static
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.door.brief import brief
from interp.records import RecordError
from interp.reports.tables import read_table, stored_table

_KIND = "$"  # the key that says of an object what it is
_OWN = ("interp", "probes")  # packages that are imported to read a result; others must have been


def packed(value: Any, arrays: dict[str, np.ndarray], name: str = "result", withhold: bool = True) -> Any:
    """``value`` as JSON; its arrays go into ``arrays``, under names that begin with ``name``.

    Raises ``TypeError`` for what has no such form."""
    if withhold and hasattr(value, "withheld"):
        value = value.withheld()
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_KIND: "number", "is": str(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray):
        arrays[name] = np.asarray(value, order="C")
        return {_KIND: "array", "is": name}
    if _is_tensor(value):
        arrays[name] = _bits(value)
        return {_KIND: "tensor", "is": name, "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, pd.DataFrame):
        return {_KIND: "table", "is": stored_table(value)}
    if is_dataclass(value) and not isinstance(value, type):
        inside = {}
        for f in fields(value):
            if f.init and f.metadata.get("saved", True):
                hidden = withhold and f.metadata.get("withheld")
                inside[f.name] = (
                    None if hidden else packed(getattr(value, f.name), arrays, f"{name}/{f.name}", withhold)
                )
        return {_KIND: f"{type(value).__module__}:{type(value).__qualname__}", "is": inside}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        inside = {n: packed(v, arrays, f"{name}/{n}", withhold) for n, v in value._asdict().items()}
        return {_KIND: f"{type(value).__module__}:{type(value).__qualname__}", "is": inside}
    if isinstance(value, list | tuple):
        inside = [packed(v, arrays, f"{name}/{i}", withhold) for i, v in enumerate(value)]
        return inside if isinstance(value, list) else {_KIND: "tuple", "is": inside}
    if isinstance(value, Mapping):
        pairs = [
            [packed(k, arrays, f"{name}/{i}", withhold), packed(v, arrays, f"{name}/{i}", withhold)]
            for i, (k, v) in enumerate(value.items())
        ]
        if all(isinstance(k, str) for k, _ in pairs) and _KIND not in value:
            return {k: v for k, v in pairs}
        return {_KIND: "mapping", "is": pairs}
    raise TypeError(
        f"{name} is a {type(value).__name__}, which has no form in a record; expected numbers, texts, "
        "lists, mappings, tables, arrays, tensors, or dataclasses of these."
    )


def unpacked(stored: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """What :func:`packed` was given. Raises :class:`interp.records.records.RecordError` for a class that is not a
    dataclass of a package that was imported; what a changed record lacks is a ``KeyError`` or ``TypeError``."""
    if isinstance(stored, list):
        return [unpacked(v, arrays) for v in stored]
    if not isinstance(stored, Mapping):
        return stored
    if _KIND not in stored:
        return {k: unpacked(v, arrays) for k, v in stored.items()}
    kind, inside = stored[_KIND], stored["is"]
    if kind == "number":
        return float(inside)
    if kind == "array":
        return arrays[inside]
    if kind == "tensor":
        return _tensor(arrays[inside], stored["dtype"])
    if kind == "table":
        return read_table(inside)
    if kind == "tuple":
        return tuple(unpacked(v, arrays) for v in inside)
    if kind == "mapping":
        return {_key(unpacked(k, arrays)): unpacked(v, arrays) for k, v in inside}
    cls = class_of(kind)
    return cls(**{n: Stored(v, arrays) if _is_later(cls, n) else unpacked(v, arrays) for n, v in inside.items()})


@dataclass(frozen=True, eq=False)
class Stored:
    """What :func:`unpacked` has not built yet."""

    stored: Any
    arrays: Mapping[str, np.ndarray]

    __repr__ = brief


class later:
    """A field of a dataclass that holds tensors or edits: of a saved value it is built when it is first asked for.

    >>> @dataclass(frozen=True)
    ... class Correction:
    ...     name: str
    ...     edit: ModelEdit = later()
    """

    def __init__(self, default: Any = MISSING) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            if self.default is MISSING:
                raise AttributeError(self.name)  # a dataclass then takes the field to have no default
            return self.default
        value = vars(instance)[self.name]
        if isinstance(value, Stored):
            value = vars(instance)[self.name] = unpacked(value.stored, value.arrays)
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self.name] = value


def _is_later(cls: type, name: str) -> bool:
    return isinstance(getattr_static(cls, name, None), later)


def class_of(name: str) -> type:
    """The dataclass (or named tuple) that a record names as ``module:Class``."""
    module, _, qualname = name.partition(":")
    if module.partition(".")[0] not in _OWN and module not in sys.modules:
        raise RecordError(f"this result is of {module}, which was not imported. Import it first, then load it again.")
    try:
        found: Any = sys.modules.get(module) or import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OWN:
            raise _of_another_version(name) from None
        raise _needs(f"this result is of {name}", error) from None
    except (ImportError, AttributeError):
        raise _of_another_version(name) from None
    if not (isinstance(found, type) and (is_dataclass(found) or hasattr(found, "_fields"))):
        raise RecordError(f"{name} is no result's class: the record was edited.")
    return found


def _is_tensor(value: Any) -> bool:
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)


def _bits(tensor: Any) -> np.ndarray:
    """The tensor as an array, bit for bit: bfloat16, which numpy does not have, as whole numbers of its size."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _tensor(array: np.ndarray, dtype: str) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise _needs("this is a tensor", error) from None
    tensor = torch.from_numpy(np.array(array))
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def _needs(what: str, error: ModuleNotFoundError) -> RecordError:
    return RecordError(
        f"{what}, which needs {error.name}, and that is not installed. interp.load_findings reads the sentences and "
        "tables without."
    )


def _of_another_version(name: str) -> RecordError:
    return RecordError(
        f"this result is of {name}, which this version does not have: another version wrote it. Load it with that "
        "version (see provenance in the file), or run again."
    )


def _key(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

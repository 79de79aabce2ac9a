"""No value prints its weights: the repr of anything that holds arrays, tables or modules is one short line."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re

import numpy as np
import pandas as pd
import pytest
import torch

import interp
import probes
from interp.door.brief import brief

LARGE = re.compile(r"Module|Tensor|ndarray|DataFrame|Float\[|Int\[|Bool\[|\bModel\b|Components|Block\b")


def dataclasses_of(package) -> list[type]:
    names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    found = {c for m in modules for c in vars(m).values() if inspect.isclass(c) and c.__module__ == m.__name__}
    return sorted(filter(dataclasses.is_dataclass, found), key=lambda c: (c.__module__, c.__name__))


def prints_everything(cls: type) -> list[str]:
    """The large fields that a dataclass's own ``repr`` prints."""
    made = vars(cls).get("__repr__")
    if made is None or inspect.unwrap(made).__code__.co_filename != "<string>":  # written by hand, or a parent's
        return []
    return [f.name for f in dataclasses.fields(cls) if f.repr and LARGE.search(str(f.type))]


@pytest.mark.parametrize("package", [interp, probes])
def test_no_dataclass_prints_what_is_large(package):
    assert {c.__qualname__: large for c in dataclasses_of(package) if (large := prints_everything(c))} == {}


@dataclasses.dataclass
class Held:
    array: np.ndarray
    table: pd.DataFrame
    module: torch.nn.Module
    many: tuple[int, ...]
    named: dict[str, torch.Tensor]
    secret: str = dataclasses.field(default="secret", repr=False)

    __repr__ = brief


def test_arrays_by_shape_modules_by_kind():
    held = Held(np.zeros((30, 9)), pd.DataFrame({"a": [1]}), torch.nn.Linear(2, 2), (1,) * 99, {"v": torch.zeros(())})
    assert repr(held) == (
        "Held(array=<ndarray 30 x 9>, table=<DataFrame 1 x 1>, module=<Linear>, many=<tuple of 99>, "
        "named={'v': <Tensor scalar>})"
    )


def test_a_model_is_one_line(llama):
    assert repr(llama).startswith("Model(") and len(repr(llama)) < 200

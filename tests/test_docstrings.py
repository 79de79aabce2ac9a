"""Every public function and method names each of its parameters in its docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

FACES = ("interp", "probes.harmfulness", "probes.negative_bias", "probes.latent_guard", "probes.visual_semantics")
PLAIN = {"self", "cls"}


def public_functions(face: str) -> Iterator[tuple[str, Callable[..., Any], str]]:
    """Name, function and docstring of what a face hands on; of a class its constructor (told in the docstring of the
    class) and the methods that it defines in this project."""
    module = import_module(face)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value):
            if "__init__" in vars(value) or hasattr(value, "__dataclass_fields__"):
                yield f"{face}.{name}", value.__init__, inspect.getdoc(value) or ""
            for method, found in vars(value).items():
                function = getattr(found, "__func__", found)
                if not method.startswith("_") and inspect.isfunction(function):
                    yield f"{face}.{name}.{method}", function, inspect.getdoc(getattr(value, method)) or ""
        elif inspect.isfunction(value):
            yield f"{face}.{name}", value, inspect.getdoc(value) or ""


def unnamed(function: Callable[..., Any], told: str) -> list[str]:
    """Parameters that a docstring does not mention as a word."""
    names = [p.lstrip("*") for p in inspect.signature(function).parameters if p not in PLAIN]
    return [name for name in names if not name.startswith("_") and not re.search(rf"\b{re.escape(name)}\b", told)]


def missing(face: str) -> dict[str, list[str]]:
    found = {name: unnamed(function, told) for name, function, told in public_functions(face)}
    return {name: left for name, left in found.items() if left}


@pytest.mark.parametrize("face", FACES)
def test_every_parameter_is_named(face):
    assert not missing(face)

"""What a function or a dataclass of the Python interface takes, read from its source: names, types, defaults.

Studies import torch, which takes seconds; options are made and checked before that. So nothing is imported here but the
packages above a module, whose faces are lazy.
"""

from __future__ import annotations

import ast
import builtins
import importlib
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

REQUIRED: Any = object()
"""The default of a parameter that has none."""

_OWN = ("interp", "probes")
_PLAIN = ("typing", "collections", "pathlib", "dataclasses")  # imported as they are


class Taken(NamedTuple):
    """One parameter: its type (what is not plain Python is Any), and its default."""

    kind: Any
    default: Any


@cache
def parameters_at(place: str) -> dict[str, Taken]:
    """The parameters of "module:function", or the fields of "module:dataclass"."""
    node, names = _defined_at(place), _Names(place.partition(":")[0])
    return _of_function(node, names) if isinstance(node, ast.FunctionDef) else _of_class(node, names)


def docstring_at(place: str) -> str:
    """The docstring of "module:function"; "" where it has none."""
    return ast.get_docstring(_defined_at(place)) or ""


def _defined_at(place: str) -> ast.FunctionDef | ast.ClassDef:
    module, _, name = place.partition(":")
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
    raise LookupError(
        f"{module} has no function or class {name!r}; expected 'module:name' of one that is defined there."
    )


def _of_function(node: ast.FunctionDef, names: _Names) -> dict[str, Taken]:
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    pairs = [*zip(plain, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return {arg.arg: Taken(names.value(arg.annotation), names.value(default, REQUIRED)) for arg, default in pairs}


def _of_class(node: ast.ClassDef, names: _Names) -> dict[str, Taken]:
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return {n.target.id: Taken(names.value(n.annotation), names.value(n.value, REQUIRED)) for n in fields}


@cache
def _tree(module: str) -> ast.Module:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(f"there is no module {module!r}.")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


@cache
def _names_in(module: str) -> dict[str, ast.expr | tuple[str, str]]:
    """What a module assigns (name -> expression) and imports (name -> module, name there), for type checkers too."""
    found: dict[str, ast.expr | tuple[str, str]] = {}
    body = _tree(module).body
    for node in [*body, *(inner for block in body if isinstance(block, ast.If) for inner in block.body)]:
        if isinstance(node, ast.Assign):
            found |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node.value
        elif isinstance(node, ast.ImportFrom):
            found |= {a.asname or a.name: (str(node.module), a.name) for a in node.names}
    return found


class _Names(Mapping[str, Any]):
    """The names of a module, looked up in its source; Any for what is not plain Python."""

    def __init__(self, module: str) -> None:
        self.module = module

    def value(self, node: ast.expr | None, otherwise: Any = Any) -> Any:
        """What an expression of this module is: a literal, a type, a name that is one; Any for anything else."""
        if node is None:
            return otherwise
        try:
            return self._read(node)
        except (TypeError, AttributeError, ValueError):
            return Any

    def _read(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self[node.id]
        if isinstance(node, ast.Attribute):
            return getattr(self._read(node.value), node.attr)
        if isinstance(node, ast.Tuple | ast.List):
            items = [self._read(item) for item in node.elts]
            return items if isinstance(node, ast.List) else tuple(items)
        if isinstance(node, ast.Subscript):
            return self._read(node.value)[self._read(node.slice)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self._read(node.left) | self._read(node.right)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._read(node.operand)
        raise ValueError(f"{ast.unparse(node)} is computed")

    def __getitem__(self, name: str) -> Any:
        found = _names_in(self.module).get(name)
        if isinstance(found, ast.expr):
            return self.value(found)
        return getattr(builtins, name, Any) if found is None else _imported(*found)

    def __iter__(self):
        return iter(())

    def __len__(self) -> int:
        return 0


def _imported(module: str, name: str) -> Any:
    if module.split(".")[0] in _OWN:
        return _Names(module)[name]
    return getattr(importlib.import_module(module), name) if module.split(".")[0] in _PLAIN else Any

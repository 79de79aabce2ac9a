"""The public door: what a caller hands over, made into what a function works on, or refused in a sentence.

``@public`` reads the annotations that a public function has anyway. numpy's numbers become Python's, a generator
becomes a list, a path under ``~`` is expanded; another type is a ``TypeError`` that names the argument, what was given,
and how the right thing is made (``made_by``). So a rule is written once, and a function gets it by being annotated.
What only the function can know (is this head in the model?) is its own affair.
"""

from __future__ import annotations

import builtins
import difflib
import functools
import importlib
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from interp.door.plain_values import described, is_tensor

_Public = TypeVar("_Public", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)
_LEAST = {
    **dict.fromkeys(("layer", "head", "seed", "n_views", "check", "n_permutations"), 0),
    **dict.fromkeys(("batch_size", "n_bins", "n_halves"), 1),
}
_UNTOLD = object()  # the annotation says nothing that can be checked
_NOT_LISTS = (str, bytes, Mapping, set, frozenset)


_KEPT = frozenset(("out", "resume", "overwrite", "include_replies", "origin", "shard"))
"""Fields of ``keep`` (:class:`interp.records.keep.Keep`), which a study also takes by name."""


class WrongArgument(TypeError, ValueError):
    """An argument of another type than the function takes. A ValueError too, which many of these were before."""


class _OtherType(TypeError):
    """Not of the annotated type. Becomes a WrongArgument at the function that was called."""


def made_by(how: str) -> Callable[[_Class], _Class]:
    """Say of a class how a user gets one of it: ``@made_by("interp.load(name)")``. Errors end with it."""

    def mark(cls: _Class) -> _Class:
        cls.__made_by__ = how
        return cls

    return mark


def _wanted(signature: inspect.Signature, named: Mapping[str, Any]) -> str:
    """Which name was meant by one that is none of a function's; else what the function needs."""
    told = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    names = [p.name for p in told]
    meant = [difflib.get_close_matches(name, names, n=1) for name in named if name not in names]
    if near := [name for found in meant for name in found]:
        return f"Did you mean {' and '.join(near)}?"
    needed = [p.name for p in told if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return f"It needs {', '.join(needed) or 'no argument'}."


def public(function: _Public) -> _Public:
    """A function (or a class: its constructor) whose arguments are converted and checked by their annotations."""
    if inspect.isclass(function):
        function.__init__ = public(function.__init__)
        return function
    signature = inspect.signature(function)
    kept = _KEPT - set(signature.parameters) if "keep" in signature.parameters else frozenset()

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if kept and "keep" not in kwargs and (named := kept & set(kwargs)):
            kwargs["keep"] = {name: kwargs.pop(name) for name in sorted(named)}
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise WrongArgument(f"{function.__qualname__}: {error}. {_wanted(signature, kwargs)}") from None
        for name, value in given.arguments.items():
            kind = _kinds(function)[name]
            if kind is not _UNTOLD:
                given.arguments[name] = _converted(name, value, kind)
        return function(*given.args, **given.kwargs)

    checked.is_public = True
    return checked


@functools.cache
def _kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """The type of each parameter, as an object; ``_UNTOLD`` where it has none, or takes any number of arguments."""
    names = _Names(function)
    kinds = {}
    for name, parameter in inspect.signature(function).parameters.items():
        told = parameter.annotation
        many = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        kinds[name] = _UNTOLD if told is parameter.empty or many else _resolved(told, names)
    return kinds


def _resolved(annotation: Any, names: Mapping[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, names.globals, names)["it"]


class _Names(dict):
    """The names in a function's annotations, also those that its module imports for type checkers alone."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.globals = inspect.unwrap(function).__globals__

    def __missing__(self, name: str) -> Any:
        if name in self.globals or hasattr(builtins, name):
            raise KeyError(name)
        place = _for_type_checkers(self.globals["__name__"]).get(name)
        if place is None:
            return Any
        module, inner = place
        found = importlib.import_module(module)
        return getattr(found, inner) if inner else found


@functools.cache
def _for_type_checkers(module: str) -> dict[str, tuple[str, str]]:
    """What a module imports under ``if TYPE_CHECKING:``: name -> the module it is in, and its name there."""
    import ast

    found: dict[str, tuple[str, str]] = {}
    for block in ast.parse(inspect.getsource(importlib.import_module(module))).body:
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING"):
            for node in block.body:
                if isinstance(node, ast.ImportFrom):
                    found |= {a.asname or a.name: (str(node.module), a.name) for a in node.names}
                elif isinstance(node, ast.Import):
                    found |= {a.asname or a.name: (a.name, "") for a in node.names}
    return found


def _converted(name: str, value: Any, kind: Any) -> Any:
    """The argument as its function wants it; a TypeError or ValueError that names it otherwise."""
    try:
        made = _as(value, kind)
    except _OtherType as error:
        where = f"{name}{error.args[0]}" if error.args else name
        found = error.args[1] if error.args else value
        raise WrongArgument(f"{where} is {described(found)}; expected {_expected(kind, name, found)}.") from None
    if name in _LEAST and isinstance(made, int) and made < _LEAST[name]:
        raise ValueError(f"{name}={made}; expected {_LEAST[name]} or more.")
    return made


def _as(value: Any, kind: Any) -> Any:
    """``value`` as one of ``kind``; raises ``_OtherType``."""
    if kind in _SIMPLE:
        return _SIMPLE[kind](value)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _as_one_of(value, inner)
    if origin is typing.Literal:
        if not isinstance(value, tuple({type(choice) for choice in inner})) or isinstance(value, bool):
            raise _OtherType
        return value
    if origin in (list, tuple, Sequence):
        return _as_list(value, origin, inner)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _OtherType
        return {_as(k, inner[0]): _as(v, inner[1]) for k, v in value.items()} if type(value) is dict else value
    if origin is Iterable and isinstance(value, _NOT_LISTS):
        raise _OtherType
    if inspect.isclass(kind) and _is_told_apart(kind) and not isinstance(value, kind):
        raise _OtherType
    return value


def _is_told_apart(kind: type) -> bool:
    """Whether isinstance says what is meant: not for shapes of arrays, which functions check, nor for protocols that it
    can't look into."""
    is_open = getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False)
    return not (kind is Any or kind.__module__.startswith("jaxtyping") or is_open)


def _as_one_of(value: Any, kinds: Sequence[Any]) -> Any:
    if Path in kinds and isinstance(value, str) and value.startswith("~"):
        return os.path.expanduser(value)
    deepest = _OtherType()
    for kind in kinds:
        try:
            return _as(value, kind)
        except _OtherType as error:
            deepest = error if len(error.args) > len(deepest.args) else deepest
    raise deepest


def _as_list(value: Any, origin: Any, inner: Sequence[Any]) -> Any:
    if isinstance(value, _NOT_LISTS) or hasattr(value, "columns"):  # of a data frame, the names of columns would come
        raise _OtherType
    if type(value).__module__.split(".")[0] in ("interp", "probes") and isinstance(value, Sequence):
        return value  # a list that makes its items when they are asked for
    try:
        items = (
            value if isinstance(value, list | tuple) else value.tolist() if hasattr(value, "tolist") else list(value)
        )
    except TypeError:
        raise _OtherType from None
    if not isinstance(items, list | tuple):  # an array without an axis
        raise _OtherType
    kinds = inner if origin is tuple and Ellipsis not in inner else [inner[0]] * len(items) if inner else []
    made = list(items)
    for i, kind in enumerate(kinds[: len(items)]):
        try:
            made[i] = _as(items[i], kind)
        except _OtherType as error:
            raise _OtherType(f"[{i}]{error.args[0] if error.args else ''}", items[i]) from None
    if origin is tuple:
        return tuple(made)
    return value if items is value and all(a is b for a, b in zip(made, items, strict=True)) else made


def _as_truth(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise _OtherType
    return bool(value)


def _holds_truth(value: Any) -> bool:
    """Whether numpy's or torch's value is of True and False."""
    return "bool" in str(getattr(value, "dtype", ""))


def _as_integer(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or _holds_truth(value):
        raise _OtherType
    try:
        return value.__index__()
    except TypeError:  # an array of several numbers
        raise _OtherType from None


def _as_real(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = value  # 2 stays 2, in what is recorded too
    elif (
        (isinstance(value, np.generic | np.ndarray) or is_tensor(value))
        and np.ndim(value) == 0
        and "bool" not in str(value.dtype)
    ):
        try:
            number = value.item() if not isinstance(value.item(), str | bytes | complex) else None
        except (ValueError, RuntimeError):
            number = None
    else:
        number = None
    if not isinstance(number, int | float):
        raise _OtherType
    return number


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise _OtherType
    return value


def _as_path(value: Any) -> Any:
    if not isinstance(value, str | os.PathLike):
        raise _OtherType
    return Path(value).expanduser()


def _as_nothing(value: Any) -> None:
    if value is not None:
        raise _OtherType


_SIMPLE: dict[Any, Callable[[Any], Any]] = {
    bool: _as_truth,
    int: _as_integer,
    float: _as_real,
    str: _as_text,
    Path: _as_path,
    type(None): _as_nothing,
    None: _as_nothing,
}
_IN_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def _expected(kind: Any, name: str = "it", found: Any = None) -> str:
    """The annotation in words, and how to get one of it."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        words = [_expected(k, name, found) for k in inner if k is not type(None)] + ["None"] * (type(None) in inner)
        return " or ".join(dict.fromkeys(words))
    if origin is typing.Literal:
        return " or ".join(map(repr, inner))
    if origin in (list, tuple, Sequence) and inner:
        one = inspect.isclass(inner[0]) and hasattr(inner[0], "__made_by__") and isinstance(found, inner[0])
        return f"a list, each of it {_expected(inner[0])}{f': put this one into a list, {name}=[...]' if one else ''}"
    if origin in (dict, Mapping):
        return "a dict"
    if kind in _IN_WORDS:
        return _IN_WORDS[kind]
    name = getattr(kind, "__name__", str(kind))
    made = getattr(kind, "__made_by__", "")
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}{f' (made by {made})' if made else ''}"


def as_integer(value: Any, name: str, least: int | None = None) -> int:
    """A whole number of Python's, numpy's or torch's as Python's; ``least``: the smallest that has a meaning."""
    number = _converted(name, value, int)
    if least is not None and number < least:
        raise ValueError(f"{name}={number}; expected {least} or more.")
    return number


def as_integers(values: Any, name: str) -> tuple[int, ...]:
    """Whole numbers in a list, an array or a tensor, as Python's."""
    return _converted(name, values, tuple[int, ...])


def as_real(value: Any, name: str) -> float:
    """A number of Python's, numpy's or torch's as Python's."""
    return _converted(name, value, float)

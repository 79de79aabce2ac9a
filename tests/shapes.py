"""Arrays are held to the shapes in their annotations while tests run: pytest's options (pyproject.toml) name it.

jaxtyping's hook hands every function of the two packages to :func:`checked`, and beartype checks arguments and result
of those that name a shape (``Float[Tensor, "batch seq"]``): kind, axes, and that a name is one size throughout a call.
Other annotations are pyright's, and at the door ``@public``'s.

A test may hand over what a function refuses: an array of another shape fails only where the function takes it. A
warning names the same line as without the checker, whose frames are not counted.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintParamViolation, BeartypeCallHintReturnViolation

SHAPE = re.compile(r"\b(Bool|Float|Int|Num|UInt8)\[")
WORD = re.compile(r"[A-Z]\w+")
CHECKER = re.compile(rf"{re.escape(__file__)}|<@beartype\(.*|.*/jaxtyping/.*")  # the files of its frames
SHAPED: dict[tuple[str, str, int], Shaped] = {}
_by_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
_told_by_jaxtyping = jaxtyping.jaxtyped

# jaxtyping would wrap each of 3000 functions, inner ones at every call, and check arguments twice: a third more time.
jaxtyping.jaxtyped = lambda *, typechecker: typechecker

_warn = warnings.warn


class WrongShape(AssertionError):
    """What a function takes or gives is not of the shape in its annotation."""


@dataclasses.dataclass
class Shaped:
    """A function with shapes in its annotations. modules: where the names in each are defined."""

    function: types.FunctionType
    annotations: dict[str, Any]
    modules: dict[str, str]

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """Annotations as types, names that are imported for type checkers alone included."""
        from interp.door.door import _Names, _resolved

        names = {m: _Names(types.SimpleNamespace(__globals__=vars(sys.modules[m]))) for m in self.modules.values()}
        return {name: _resolved(told, names[self.modules[name]]) for name, told in self.annotations.items()}

    def held(self, function: types.FunctionType) -> Callable[..., Any]:
        """``function``, checked: this one, or another one made by the same ``def``."""
        copy = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        copy.__kwdefaults__, copy.__qualname__ = function.__kwdefaults__, function.__qualname__
        copy.__annotations__ = dict(self.hints)
        return _told_by_jaxtyping(typechecker=None)(_by_beartype(copy))


def checked(function: Any) -> Any:
    """The function, or the dataclass, with arrays held to the shapes in its signature."""
    if not inspect.isclass(function):
        return counted(function) if function.__qualname__ == "outside_package" else _checked(function, {})
    if dataclasses.is_dataclass(function) and "__init__" in vars(function):
        modules = {n: c.__module__ for c in reversed(function.__mro__) for n in vars(c).get("__annotations__", {})}
        function.__init__ = _checked(function.__init__, modules)
    return function


def _checked(function: types.FunctionType, modules: dict[str, str]) -> Callable[..., Any]:
    names = function.__globals__
    annotations = {name: told for name, told in function.__annotations__.items() if _names_a_shape(str(told), names)}
    if not annotations:
        return function
    made = (function.__module__, function.__qualname__, function.__code__.co_firstlineno)
    modules = {name: modules.get(name, function.__module__) for name in annotations}
    shaped = SHAPED.setdefault(made, Shaped(function, annotations, modules))
    held: Callable[..., Any] | None = None

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal held
        held = held or shaped.held(function)  # at the first call every name is defined
        try:
            return held(*args, **kwargs)
        except BeartypeCallHintReturnViolation as error:
            raise WrongShape(str(error)) from None
        except BeartypeCallHintParamViolation as error:
            wrong = WrongShape(str(error))
        function(*args, **kwargs)  # may refuse
        raise wrong

    return _as_if_in(function, wrapped)


def _as_if_in(function: types.FunctionType, wrapper: Any) -> Any:
    """``wrapper`` as if its module were the function's, for :func:`interp.door.callers.outside_package`."""
    of_module = {**globals(), "__name__": function.__module__}
    there = types.FunctionType(wrapper.__code__, of_module, wrapper.__name__, None, wrapper.__closure__)
    return functools.update_wrapper(there, function)


class Counted(int):
    """A ``stacklevel`` in which the checker's frames are counted."""


def counted(outside_package: types.FunctionType) -> Callable[[], Counted]:
    return _as_if_in(outside_package, lambda: Counted(outside_package() - 1))


def warn(message: Any, category: type[Warning] | None = None, stacklevel: int = 1, source: Any = None) -> None:
    """``warnings.warn``, where ``stacklevel`` does not count the checker's frames."""
    level, frame, left = 1, sys._getframe(1), stacklevel
    if isinstance(stacklevel, Counted):
        level, left = int(stacklevel), 1
    while left > 1 and frame.f_back is not None:
        frame = frame.f_back
        file = frame.f_code.co_filename
        level += "importlib._bootstrap" not in file  # Python does not count these
        left -= not (CHECKER.fullmatch(file) or "importlib._bootstrap" in file)
    _warn(message, category, level + 1, source)


warnings.warn = warn


def _names_a_shape(annotation: str, names: dict[str, Any]) -> bool:
    """Whether there is a shape in it, or a name for one (``Factors = Float[np.ndarray, "layer head"]``)."""
    return bool(SHAPE.search(annotation)) or any(_has_shape(names.get(name)) for name in WORD.findall(annotation))


def _has_shape(value: Any) -> bool:
    is_shape = isinstance(value, type) and issubclass(value, jaxtyping.AbstractArray)
    return is_shape or any(map(_has_shape, typing.get_args(value)))

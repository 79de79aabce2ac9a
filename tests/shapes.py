"""Shapes of arrays are checked while the tests run: `make shapes` names :func:`checked`.

Only annotations of shapes (``Float[Tensor, "batch seq"]``) are; what else a caller hands over is checked by
``@public`` at the door, which converts, where a type checker would refuse. Left out are the rooms of which the same
is true of arrays: their annotations say what a list becomes.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

from beartype import beartype
from jaxtyping import AbstractArray

CONVERTING = ("interp.statistics.", "interp.door.")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its arrays held to the shapes in its signature by beartype."""
    if function.__module__.startswith(CONVERTING):
        return function
    shapes = {name: told for name, told in function.__annotations__.items() if _has_shape(told)}
    function.__annotations__ = shapes
    return beartype(function) if shapes else function


def _has_shape(annotation: Any) -> bool:
    is_shape = isinstance(annotation, type) and issubclass(annotation, AbstractArray)
    return is_shape or any(map(_has_shape, typing.get_args(annotation)))

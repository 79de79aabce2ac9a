"""Faces of rooms: names are handed on when they are asked for, so that importing a room costs nothing.

What a face hands on stands in its ``if TYPE_CHECKING:`` block, once: type checkers and editors read it there, and so
does :func:`hands_on`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from interp.door.moved import moved_name


def hands_on(face: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a face, from the imports in its ``if TYPE_CHECKING:`` block."""
    block = next(n for n in ast.parse(Path(file).read_text(encoding="utf-8")).body if isinstance(n, ast.If))
    imports = [n for n in block.body if isinstance(n, ast.ImportFrom)]
    places = {alias.asname or alias.name: (str(n.module), alias.name) for n in imports for alias in n.names}

    def __getattr__(name: str) -> Any:
        if name not in places:
            return moved_name(face, name)
        module, original = places[name]
        try:
            value = getattr(import_module(module), original)
        except AttributeError:
            value = import_module(f"{module}.{original}")
        setattr(sys.modules[face], name, value)
        return value

    return __getattr__, lambda: sorted({*vars(sys.modules[face]), *places}), sorted(places)

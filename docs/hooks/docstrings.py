"""A griffe extension: docstrings as this project writes them, in Markdown (roles lose their prefix)."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:mod|func|class|meth|data|attr|exc):`~?([^`]+)`")
_EXAMPLE = re.compile(r"(?:^[ \t]*>>> .*\n?(?:^(?!\s*$)(?!\s*>>> ).*\n?)*)+", re.M)


def to_markdown(text: str) -> str:
    """``:func:`x``` to ```x```, and each run of ``>>>`` lines, with what they print, to a block of code."""
    text = _ROLE.sub(r"`\1`", text)
    return _EXAMPLE.sub(lambda found: f"\n```pycon\n{found.group().rstrip()}\n```\n", text)


class Docstrings(griffe.Extension):
    """Acts on every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)

"""Who called: warnings are about a line of the user's, however deep in these packages they come up."""

from __future__ import annotations

import sys

_OWN = ("interp", "probes")


def outside_package() -> int:
    """The ``stacklevel`` of a warning, raised in the function that asks, that names the first caller outside these
    packages."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _OWN:
        frame, level = frame.f_back, level + 1
    return level

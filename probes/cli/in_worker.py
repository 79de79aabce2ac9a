"""A command in a worker of an engine."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

from probes.cli.building import built
from probes.cli.commands import COMMANDS
from probes.cli.own import command_of


def run_command(name: str, given: Mapping[str, Any]) -> None:
    """A command by what is typed after ``interp``, in a worker: what it prints, its driver prints too."""
    function: Callable[..., Any] | str = next(c.function for c in COMMANDS if c.name == name)
    with contextlib.redirect_stdout(io.StringIO()):
        built(command_of(function) if isinstance(function, str) else function)(**given)

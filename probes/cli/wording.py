"""Messages of the Python interface, worded for the command line.

In our messages an argument stands as Python writes it: ``resume=True``, ``columns={'answer': ...}``. Here each is
written as the option which gives it, of the command that was run. So one message serves both front ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_VALUE = (
    r"True|False|None|'[^']*'|\"[^\"]*\"|\{[^{}]*\}|\([^()]*\)|<[^<>]*>|torch\.\w+|-?\d+(?:\.\d+)?|\.{3}|"
    r"-?[\w+-]+(?:\.\w+)*"
)
_ARGUMENT = re.compile(rf"(?<![\w.])([a-z]\w*)=({_VALUE})?")
_OTHERWISE_NAMED = {
    "columns": "column",
    "keep": "out",
    "questions": "data",
    "requests": "data",
    "source": "data",
    "template_arguments": "template",
}


def options_of(command: Any, arguments: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The options of the command that these arguments run: the parameter's name -> (the option, what takes it back)."""
    for argument in arguments:
        command = getattr(command, "commands", {}).get(argument, command)
    named = [p for p in command.params if any(name.startswith("--") for name in p.opts)]
    return {p.name or "": (max(p.opts, key=len), max(p.secondary_opts, key=len, default="")) for p in named}


def as_typed(message: str, options: Mapping[str, tuple[str, str]]) -> str:
    """The message with ``name=value`` as the option that gives it; what the command has no option for stays."""

    def worded(match: re.Match[str]) -> str:
        name, value = match.groups()
        name = name if name in options else _OTHERWISE_NAMED.get(name, name)
        if value == "False" and f"no_{name}" in options:
            return options[f"no_{name}"][0]
        if name not in options:
            return match.group()
        option, without = options[name]
        if value is None or value in ("True", "..."):
            return option
        if value in ("False", "None"):
            return without or f"no {option}"
        if value.startswith("{"):
            pairs = re.findall(r"'?([\w ]+?)'?\s*:\s*('[^']*'|<[^<>]*>|\S+)", value.strip("{}"))
            return " ".join(f"{option} {key}={of.strip(chr(39))}" for key, of in pairs) or option
        return f"{option} {value.strip(chr(39)).removeprefix('torch.')}"

    return _ARGUMENT.sub(worded, message)

"""The command of a study that has none of its own making: its parameters are the options, its docstring is the help."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

from probes.cli.declaring import Option, taken
from probes.cli.options import Data, ModelOptions
from probes.cli.signatures import docstring_at, parameters_at
from probes.cli.study import Report, Study, print_result
from probes.cli.vocabulary import VOCABULARY


def command_of(place: str) -> Callable[..., None]:
    """The command of "module:study": a function that takes a model, plain settings and ``keep``, and returns a result.

    A parameter that is a number, a text, a truth value, one of some words, or a list of these is an option, worded by
    the vocabulary, else by its line under ``Args:``. Nothing is imported of the study before it runs.
    """
    module, _, name = place.partition(":")
    said = docstring_at(place)
    lines = dict(re.findall(r"^ +(\w+): (.*)$", said.partition("Args:")[2], re.MULTILINE))
    kinds = {n: p.kind for n, p in parameters_at(place).items() if n not in ("model", "keep") and p.kind is not Any}
    worded = {n: Option(lines.get(n, "")) for n in kinds if n not in VOCABULARY}

    def command(keep: Any, model: Any, options: Any, as_json: Any = False) -> None:
        study = Study(keep, model, Data())
        result = study.run(
            lambda loaded: getattr(import_module(module), name)(loaded, **options, keep=study.keep()),
            said.partition("\n")[0],
        )
        print_result(result.statement(), [], [study.out], as_json)

    command.__doc__ = said.partition("\n\n")[0]
    options = taken(place, " ".join(n for n in kinds if n in VOCABULARY), **worded)
    of = {"keep": Report, "model": ModelOptions, "options": Annotated[dict, options], "as_json": bool, "return": None}
    command.__annotations__ = of
    return command

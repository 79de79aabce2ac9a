"""Options of a command, made from what takes them.

A command is a function. Each of its parameters is an option; a parameter of a dataclass is an option for each field;
and ``Annotated[dict, taken("module:function", "names of its parameters")]`` gets a dict of arguments for that function,
an option each. So a name, a type and a default are written once, where the work is done, and what an option is called
on the command line, and its help, once for all commands, in :mod:`probes.cli.vocabulary`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from probes.cli.declaring import Only, Option, Taking
from probes.cli.sharing import running
from probes.cli.signatures import REQUIRED, parameters_at
from probes.cli.vocabulary import VOCABULARY, panel_of


def built(function: Callable[..., Any], typed: str = "") -> Callable[..., Any]:
    """The function as typer reads it: every option a parameter of its own. ``typed``: the words that run it."""
    hints = typing.get_type_hints(function, include_extras=True)
    flat: dict[str, inspect.Parameter] = {}
    makers: dict[str, Callable[[dict[str, Any]], Any]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        fields, makers[name] = _fields_of(name, hints[name], parameter.default)
        for field, (kind, default, option, panel) in fields.items():
            flat.setdefault(field, _parameter(field, kind, default, option, panel))

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        with running(typed, given):
            return function(**{name: make(given) for name, make in makers.items()})

    command.__signature__ = inspect.Signature(list(flat.values()))
    command.__annotations__ = {name: parameter.annotation for name, parameter in flat.items()}
    return command


def _fields_of(name: str, hint: Any, default: Any) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]:
    """The options of one parameter of a command (their types, defaults, words and panels), and what makes its value."""
    kind, notes = _told(hint)
    taking = next((n for n in notes if isinstance(n, Taking)), None)
    if taking is not None:
        own, found = dict(taking.options), parameters_at(taking.place)
        fields = {n: (*found[n], own.get(n) or VOCABULARY[n], None) for n in taking.names}
        return fields, lambda given: {n: given[n] for n in taking.names if given[n] is not None}
    if dataclasses.is_dataclass(kind):
        kinds = typing.get_type_hints(kind, include_extras=True)
        among = next((n.names for n in notes if isinstance(n, Only)), None)
        fields = {
            f.name: (_told(kinds[f.name])[0], _default(f), _worded(kinds[f.name]) or VOCABULARY[f.name], panel_of(kind))
            for f in dataclasses.fields(kind)
            if among is None or f.name in among
        }
        return fields, lambda given: kind(**{n: given[n] for n in fields})
    default = REQUIRED if default is inspect.Parameter.empty else default
    return {name: (kind, default, _worded(hint) or VOCABULARY[name], None)}, lambda given: given[name]


def _told(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(hint) is Annotated:
        kind, *notes = typing.get_args(hint)
        return kind, tuple(notes)
    return hint, ()


def _worded(hint: Any) -> Option | None:
    return next((n for n in _told(hint)[1] if isinstance(n, Option)), None)


def _default(field: dataclasses.Field[Any]) -> Any:
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _parameter(name: str, kind: Any, default: Any, option: Option, panel: str | None) -> inspect.Parameter:
    """An option, or an argument, for typer."""
    kind = kind if option.kind is None else option.kind
    if option.default is not None:
        default = option.default
    elif option.kind is not None and default is None and not _allows_none(kind):
        default = REQUIRED
    many, kinds = _taken_apart(kind)
    said: dict[str, Any] = {"help": option.help, "rich_help_panel": panel, "metavar": option.metavar}
    shown = option.shown
    if many and default not in (REQUIRED, None):
        shown = shown or ", ".join(map(str, default))
    if shown:
        default, said["show_default"] = None, shown
    if kinds == [bool]:
        flag = option.flag or f"--{name.replace('_', '-')}"
        flags = [f"{flag}/--no-{flag[2:]}"] if default is True else [flag]
        said["metavar"] = ""  # a flag takes no value
        of: Any = bool
    else:
        flags = [] if option.is_argument else [option.flag or f"--{name.replace('_', '-')}"]
        of = _typed(kinds, said, option)
    if many:
        said["metavar"] = said["metavar"] or f"<{of.__name__}>"
        of = list[of]
    if default is None:
        of = of | None
    if default is REQUIRED:
        default = inspect.Parameter.empty
        if option.is_argument:
            said["show_default"] = False
    info = typer.Argument(**said) if option.is_argument else typer.Option(*flags, **said)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[of, info])


def _allows_none(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def _taken_apart(kind: Any) -> tuple[bool, list[Any]]:
    """Whether it is a list, and the types that a value may be of."""
    kinds = [k for k in _members(kind) if k is not type(None)]
    for one in kinds:
        if typing.get_origin(one) in (list, tuple, Sequence):
            inner = typing.get_args(one)[0]
            return True, [k for k in _members(inner) if k is not type(None)]
    return False, kinds


def _members(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _typed(kinds: list[Any], said: dict[str, Any], option: Option) -> Any:
    """The type for typer; what it can't say is read by a parser, which is put into ``said``."""
    choices = [c for k in kinds if typing.get_origin(k) is Literal for c in typing.get_args(k)]
    if not choices:
        (of,) = [k for k in kinds if k in (int, float, Path)][:1] or [str]
        if of in (int, float):
            said |= {"min": option.least, "max": option.most}
        return of
    numbers = int in kinds
    said["parser"] = functools.partial(_choice, choices=choices, numbers=numbers)
    said["metavar"] = option.metavar or "|".join([*choices, *(["N"] if numbers else [])])

    def completed(incomplete: str) -> list[str]:
        return [c for c in choices if c.startswith(incomplete)]

    said["autocompletion"] = completed
    return str


def _choice(given: Any, choices: Sequence[str], numbers: bool) -> Any:
    """One of the values, as Python spells it, whichever dash was typed."""
    if not isinstance(given, str):
        return given
    spelled = {c.replace("_", "-"): c for c in choices}
    if (found := spelled.get(given.replace("_", "-"))) is not None:
        return found
    if numbers and given.isdecimal():
        return int(given)
    expected = ", ".join(choices) + (" or a number" if numbers else "")
    raise typer.BadParameter(f"{given!r}; expected {'one of ' if not numbers else ''}{expected}")

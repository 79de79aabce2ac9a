"""What a command declares: the words of its options, and what they are made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Option:
    """What the command line says of a parameter.

    Args:
        help: a sentence.
        flag: what is typed, where it is not the parameter's name.
        least, most: bounds of a number.
        kind: its type, where the parameter's own says less than is known (``str`` that is one of three).
        shown: the default in words; the option is then left out of the call unless it is given.
        default: another default than the parameter's own.
        metavar: what stands for the value in the help.
        is_argument: given without a flag.
    """

    help: str
    flag: str = ""
    least: float | None = None
    most: float | None = None
    kind: Any = None
    shown: str = ""
    default: Any = None
    metavar: str | None = None
    is_argument: bool = False


@dataclass(frozen=True)
class Taking:
    """Parameters of a function, by their names; ``options`` for those that are called otherwise here."""

    place: str
    names: tuple[str, ...]
    options: tuple[tuple[str, Option], ...] = ()


@dataclass(frozen=True)
class Only:
    """Which fields of a dataclass are options."""

    names: tuple[str, ...]


def taken(place: str, names: str, **options: Option) -> Taking:
    """``Annotated[dict, taken("module:function", "batch_size seed")]``: arguments for that function, an option each."""
    return Taking(place, (*names.split(), *options), tuple(options.items()))


def only(names: str) -> Only:
    """``Annotated[Keep, only("out resume")]``: the dataclass, of which these fields are options."""
    return Only(tuple(names.split()))


def changed(option: Option, **what: Any) -> Option:
    """The option with something else said of it."""
    return replace(option, **what)

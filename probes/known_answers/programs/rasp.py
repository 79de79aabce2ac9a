"""RASP as data (Weiss et al. 2021, arXiv 2106.06981): what the programs use of the language, and what it means.

One description of a program is run here, on plain lists, and compiled by Tracr (Lindner et al. 2023, arXiv 2301.05062)
in :mod:`probes.known_answers.programs.compiling`. Positions do not count the beginning-of-sequence token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Value = Any
Column = list[Value]
"""A value for each position; None where no position was selected."""


@dataclass(frozen=True)
class Tokens:
    """The input's tokens."""


@dataclass(frozen=True)
class Indices:
    """0, 1, 2, ..."""


@dataclass(frozen=True)
class Map:
    """A function of one value, position by position: an MLP."""

    name: str
    f: Callable[[Value], Value]
    of: Node


@dataclass(frozen=True)
class Zip:
    """A function of two values, position by position: an MLP. ``linear``: f is a - b, of numbers."""

    name: str
    f: Callable[[Value, Value], Value]
    first: Node
    second: Node
    linear: bool = False


@dataclass(frozen=True)
class Head:
    """An attention head: at each position (query) it selects positions (keys) by ``predicate(key, query)``.

    It gives the value of the selected position (``gives="value"``; several must have the same), the mean of numbers
    over those selected ("mean"; 0 for none), or how many there are ("width").
    """

    name: str
    keys: Node
    queries: Node
    predicate: Callable[[Value, Value], bool]
    values: Node = Tokens()
    gives: str = "value"


Node = Tokens | Indices | Map | Zip | Head


@dataclass(frozen=True)
class Program:
    """``sample(rng)``: the tokens of an input of ``length`` for which the answer is defined, most of the time. The
    answer is the output's value at the last position."""

    name: str
    question: str
    output: Node
    vocabulary: tuple[str, ...]
    length: int
    sample: Callable[[Any], Sequence[str]]
    causal: bool = True

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that the output is computed from, each once, earlier ones first."""
        found: dict[str, Head] = {}
        _collect(self.output, found)
        return tuple(found.values())

    def run(self, tokens: Sequence[str], given: Mapping[str, Column] | None = None) -> dict[str, Column]:
        """Every named node's values; those in ``given`` are taken from there, and what reads them computed anew. The
        output's are under "answer"."""
        seen: dict[str, Column] = {}
        seen["answer"] = _values(self.output, list(tokens), self.causal, given or {}, seen)
        return seen


def _collect(node: Node, found: dict[str, Head]) -> None:
    for part in _parts(node):
        _collect(part, found)
    if isinstance(node, Head):
        found.setdefault(node.name, node)


def _parts(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Map):
        return (node.of,)
    if isinstance(node, Zip):
        return (node.first, node.second)
    return (node.keys, node.queries, node.values) if isinstance(node, Head) else ()


def _values(node: Node, tokens: Column, causal: bool, given: Mapping[str, Column], seen: dict[str, Column]) -> Column:
    if isinstance(node, Tokens):
        return tokens
    if isinstance(node, Indices):
        return list(range(len(tokens)))
    if node.name not in seen:
        parts = [_values(part, tokens, causal, given, seen) for part in _parts(node)]
        if node.name in given:
            seen[node.name] = list(given[node.name])
        elif isinstance(node, Map):
            seen[node.name] = [None if v is None else node.f(v) for v in parts[0]]
        elif isinstance(node, Zip):
            seen[node.name] = [None if a is None or b is None else node.f(a, b) for a, b in zip(*parts, strict=True)]
        else:
            seen[node.name] = _attended(node, *parts, causal)
    return seen[node.name]


def _attended(head: Head, keys: Column, queries: Column, values: Column, causal: bool) -> Column:
    out: Column = []
    for i, query in enumerate(queries):
        reach = range(i + 1 if causal else len(keys))
        chosen = [
            values[j] for j in reach if query is not None and keys[j] is not None and head.predicate(keys[j], query)
        ]
        if head.gives == "width":
            out.append(len(chosen))
        elif head.gives == "mean":
            out.append(sum(chosen) / len(chosen) if chosen else 0)
        else:
            out.append(chosen[0] if len(set(chosen)) == 1 else None)
    return out

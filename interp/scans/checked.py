"""What was held against plain passes before: the same model, as it is, with scans of the same kind.

A check costs passes; a result that was checked an hour ago on this very model says no less. What is remembered is of
one state of the model (weights, adapters, hooks, replaced methods) and is forgotten with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from interp.passes import lengths_of, to_check
from interp.scans.again import state_of

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@dataclass(frozen=True)
class _Range:
    """Prompts of some lengths, all on one side of every border that the config names, of which the shortest and the
    longest were compared."""

    shortest: int
    longest: int
    check: int
    error: float


_KNOWN: WeakKeyDictionary[nn.Module, tuple[Any, dict[Hashable, list[_Range]]]] = WeakKeyDictionary()


def checked_before(model: Model, prompts: Sequence[Prompt], kind: Hashable, check: int) -> str | None:
    """What an earlier check of as many branches said of scans of this kind and prompts of these lengths; None where
    some were not checked."""
    if model.hf not in _KNOWN or _KNOWN[model.hf][0] != state_of(model):
        return None
    ranges = [r for r in _KNOWN[model.hf][1].get(kind, ()) if r.check >= check]
    lengths = [len(prompts[i]) for i in to_check(model, prompts)]
    found = [next((r for r in ranges if r.shortest <= n <= r.longest), None) for n in lengths]
    if None in found:
        return None
    error, tokens = max(r.error for r in found), f"{min(r.shortest for r in found)} to {max(r.longest for r in found)}"
    return f"largest difference from plain passes {error:.2g} nats, in an earlier scan of prompts of {tokens} tokens"


def remember(model: Model, lengths: Sequence[int], kind: Hashable, check: int, error: float) -> None:
    """That prompts of these lengths were compared."""
    state = state_of(model)
    known = _KNOWN.get(model.hf)
    if known is None or known[0] != state:
        known = _KNOWN[model.hf] = (state, {})
    borders = lengths_of(model).named
    sides: dict[tuple[bool, ...], list[int]] = {}
    for n in lengths:
        sides.setdefault(tuple(n > border for border in borders), []).append(n)
    known[1].setdefault(kind, []).extend(_Range(min(own), max(own), check, error) for own in sides.values())


def forget(model: Model) -> None:
    """Check the next scan of the model anew."""
    _KNOWN.pop(model.hf, None)

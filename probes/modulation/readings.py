"""What a model answers, by its first token, under several tables of head factors: to questions of any kind.

Of each question the gold answer and the other options are read, and the most probable token of all others. From these
follow accuracy over the whole vocabulary and among the options, the gold answer's probability, and the share of yes;
and what all of them would be if constants were added to the options' logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from interp.door.brief import brief
from interp.records import hash_json

if TYPE_CHECKING:
    from interp.prompts import Prompt

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Item:
    """A question as far as its answer is judged.

    ``options``: the answers it has; () where there is no list. ``yes``: the option that says yes, "" for open
    questions. ``group``: items of one picture, passage or pair share it, and are drawn together. ``marks``: what tells
    that two items are the same, or of one picture: they share at least one.
    """

    id: str
    gold: str
    options: tuple[str, ...] = ()
    level: str = ""
    kind: str = "open"
    group: str = ""
    yes: str = ""
    marks: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The gold answer, then the other options: the order of every array."""
        return (self.gold, *(o for o in self.options if o.casefold() != self.gold.casefold()))

    @property
    def yes_at(self) -> int:
        """Where yes stands among the words; -1: it is no yes/no question."""
        folded = [word.casefold() for word in self.words]
        return folded.index(self.yes.casefold()) if self.yes and self.yes.casefold() in folded else -1

    @property
    def is_closed(self) -> bool:
        """Whether the gold answer is one of two or more options."""
        return len(self.options) > 1 and self.gold.casefold() in {o.casefold() for o in self.options}


@dataclass(frozen=True, eq=False)
class ItemSet:
    """Items and their prompts, which may be built when they are read. ``described``: for provenance, with a
    ``sha256`` of what was asked."""

    items: tuple[Item, ...]
    prompts: Sequence[Prompt]
    described: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def levels(self) -> tuple[str, ...]:
        """In the order of their first item."""
        return tuple(dict.fromkeys(item.level for item in self.items))

    def at(self, positions: Sequence[int]) -> ItemSet:
        """Some of the items."""
        places = [int(i) for i in positions]
        items = tuple(self.items[i] for i in places)
        digest = hash_json([self.described.get("sha256"), [item.id for item in items]])
        return ItemSet(items, _Chosen(self.prompts, places), self.described | {"sha256": digest, "n": len(items)})

    def of_level(self, level: str) -> ItemSet:
        return self.at([i for i, item in enumerate(self.items) if item.level == level])


class _Chosen(Sequence["Prompt"]):
    """Some of the prompts, still built when they are read."""

    def __init__(self, prompts: Sequence[Prompt], places: Sequence[int]) -> None:
        self._prompts, self._places = prompts, list(places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return _Chosen(self._prompts, self._places[index])
        return self._prompts[self._places[index]]


@dataclass(frozen=True, eq=False)
class Readings:
    """Log probabilities (nats) at the answer under each condition. Options are in the order of ``Item.words``, the gold
    answer first; NaN where an item has fewer, or an option no token of its own.

    ``log_prob``: of an option, its forms summed. ``top``: of its most probable token. ``rest_top``: of the most
    probable token of no option.
    """

    items: tuple[Item, ...]
    log_prob: Float[np.ndarray, "example condition option"]
    top: Float[np.ndarray, "example condition option"]
    rest_top: Float[np.ndarray, "example condition"]

    __repr__ = brief

    @property
    def gold_prob(self) -> Float[np.ndarray, "example condition"]:
        """Probability of the gold answer's first token."""
        return np.exp(self.log_prob[:, :, 0].astype(np.float64))

    @property
    def accuracy(self) -> Float[np.ndarray, "example condition"]:
        """1 where the most probable token of the whole vocabulary is the gold answer's."""
        others = np.where(np.isnan(self.top[:, :, 1:]), -np.inf, self.top[:, :, 1:]).max(-1, initial=-np.inf)
        return (self.top[:, :, 0] >= np.maximum(others, self.rest_top)).astype(np.float64)

    @property
    def option_accuracy(self) -> Float[np.ndarray, "example condition"]:
        """1 where the gold answer is the most probable of the options; NaN for items without options."""
        found = (self._likeliest == 0).astype(np.float64)
        found[~np.array([item.is_closed for item in self.items], dtype=bool)] = np.nan
        return found

    @property
    def says_yes(self) -> Float[np.ndarray, "example condition"]:
        """1 where the most probable option is yes; NaN for items that are no yes/no questions."""
        at = np.array([item.yes_at for item in self.items])
        found = (self._likeliest == at[:, None]).astype(np.float64)
        found[at < 0] = np.nan
        return found

    @cached_property
    def _likeliest(self) -> Int[np.ndarray, "example condition"]:
        return np.where(np.isnan(self.log_prob), -np.inf, self.log_prob).argmax(-1)

    def columns(self, conditions: Sequence[int]) -> Readings:
        """Some of the conditions."""
        places = list(conditions)
        return Readings(self.items, self.log_prob[:, places], self.top[:, places], self.rest_top[:, places])

    def with_offsets(self, offsets: Float[np.ndarray, "example option"]) -> Readings:
        """As if ``offsets`` were added to the options' logits (0 where there is none): the rest of the vocabulary
        keeps its logits and shares what probability is left."""
        log_prob, b = self.log_prob.astype(np.float64), offsets[:, None]
        p = np.where(np.isnan(log_prob), 0.0, np.exp(log_prob))
        z = np.log(np.maximum(1 - p.sum(-1), 0) + (p * np.exp(b)).sum(-1))[..., None]
        return Readings(self.items, log_prob + b - z, self.top + b - z, self.rest_top - z[..., 0])

    def rows(self, places: Sequence[int]) -> Readings:
        """Some of the items, in this order."""
        at = [int(i) for i in places]
        return Readings(tuple(self.items[i] for i in at), self.log_prob[at], self.top[at], self.rest_top[at])

    def joined(self, other: Readings) -> Readings:
        """Conditions of the same items, one after another."""
        pairs = zip(self.arrays().values(), other.arrays().values(), strict=True)
        return Readings(self.items, *(np.concatenate(pair, axis=1) for pair in pairs))

    @staticmethod
    def concatenated(parts: Sequence[Readings]) -> Readings:
        """The items of several readings under the same conditions, one after another."""
        same = zip(*(part.arrays().values() for part in parts), strict=True)
        return Readings(tuple(item for part in parts for item in part.items), *map(np.concatenate, same))

    def arrays(self) -> Arrays:
        return {"log_prob": self.log_prob, "top": self.top, "rest_top": self.rest_top}


def width_of(*sets: ItemSet) -> int:
    """The most options that any item has."""
    return max(len(item.words) for given in sets for item in given.items)

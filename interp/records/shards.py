"""One of several processes that share a study: which batches are its own, and where the others keep theirs.

A shard's work lies in ``OUT/shards/2-of-8``, so that each folder has one writer; on a shared disk the others read it
there. Batches are dealt round: shard i of n has the numbers i - 1, i - 1 + n, and so on. A batch's score is a function
of the batch alone, so that what is joined is what one process gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = "shards"
_PLACE = re.compile(r"([1-9][0-9]*)-of-([1-9][0-9]*)")


class ShardWaits(RuntimeError):
    """A shard has done its own batches of a step; those of others are not here yet."""


@dataclass(frozen=True)
class Shard:
    """Number ``number`` (from 1) of ``n`` processes. Raises ``ValueError`` for a number that is none of them."""

    number: int
    n: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.n:
            raise ValueError(
                f"shard {self.number}/{self.n}: there is no such shard. Expected I/N, with I from 1 to N: such as 2/8."
            )

    @classmethod
    def parse(cls, given: str | Shard) -> Shard:
        """Of "2/8". Raises ``ValueError`` for anything else."""
        if isinstance(given, Shard):
            return given
        found = re.fullmatch(r"\s*([0-9]+)\s*/\s*([0-9]+)\s*", str(given))
        if found is None:
            raise ValueError(f"shard={given!r}; expected I/N, such as 2/8: the second of eight processes.")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.n}"

    def folder(self, out: Path) -> Path:
        """Where its work is kept."""
        return out / FOLDER / f"{self.number}-of-{self.n}"

    def numbers(self, n_batches: int) -> range:
        """Its batches, from 0."""
        return range(self.number - 1, n_batches, self.n)


@dataclass(frozen=True)
class Place:
    """A folder inside a shard's.

    Args:
        out: the folder of the whole study.
        shard: whose it is.
        inside: the path from the shard's folder.
    """

    out: Path
    shard: Shard
    inside: Path

    def beside(self) -> list[Path]:
        """The same place in every other shard's folder, those that are there, in order."""
        others = (Shard(number, self.shard.n) for number in range(1, self.shard.n + 1) if number != self.shard.number)
        places = (other.folder(self.out) / self.inside for other in others)
        return [place for place in places if place.is_dir()]


def place_of(folder: Path | None) -> Place | None:
    """Which shard's folder this is in; None for a study that is not shared."""
    for above in [] if folder is None else [folder, *folder.parents]:
        found = _PLACE.fullmatch(above.name)
        if found and above.parent.name == FOLDER:
            return Place(above.parent.parent, Shard(int(found[1]), int(found[2])), folder.relative_to(above))
    return None


def shards_in(out: Path) -> Iterator[tuple[str, Shard | None]]:
    """The names of the folders in ``OUT/shards``, with the shard that each is; None for another name."""
    for folder in sorted((out / FOLDER).iterdir()):
        if folder.is_dir():
            found = _PLACE.fullmatch(folder.name)
            number, n = (int(found[1]), int(found[2])) if found else (0, 0)
            yield folder.name, Shard(number, n) if 1 <= number <= n else None

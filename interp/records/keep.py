"""Where a study keeps its work and its report, and what of it: one parameter, the same for every study."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from interp.door import made_by, public
from interp.records.shards import Shard


@public
@made_by("Keep(folder), or the folder itself")
@dataclass(frozen=True)
class Keep:
    """Where the work of a study is kept, and what of it. A folder alone means ``Keep(folder)``; a study also takes the
    fields by name: ``rank_heads(model, questions, out="reports/heads", resume=True)``.

    Args:
        out: the folder of the report, and of the part files while the study runs; None keeps nothing. A run of the same
            settings goes on where it stopped.
        resume: read a finished report of the same settings back instead of running again.
        overwrite: replace the report, and discard the part files, of another run.
        include_replies: keep the texts of requests and replies, which may be harmful, in memory and in files.
        origin: what is known of the data (a file, a limit, the seed of a sample), for the provenance.
        shard: "2/8": this process is the second of eight that share the study, each of which does its own batches and
            keeps them in ``out/shards``. When all are done, ``interp merge out`` joins them.

    Raises:
        ValueError: a shard that can't be ("3/2"), or one without ``out``.
    """

    out: str | Path | None = None
    resume: bool = False
    overwrite: bool = False
    include_replies: bool = False
    origin: Mapping[str, Any] | None = field(default=None, compare=False)
    shard: str | None = None

    def __post_init__(self) -> None:
        if self.shard is not None:
            Shard.parse(self.shard)
            if self.out is None:
                raise ValueError(f"shard={self.shard!r} without a folder; the shards meet in one: give out=...")

    @property
    def folder(self) -> Path | None:
        """``out`` as a path, ``~`` expanded; of a shard, its own folder in it."""
        if self.out is None:
            return None
        out = Path(self.out).expanduser()
        return out if self.shard is None else Shard.parse(self.shard).folder(out)


Kept: TypeAlias = Keep | str | Path | Mapping[str, Any] | None
"""What a study's parameter ``keep`` takes: a :class:`Keep`, its folder alone, its fields, or None to keep nothing."""


def keep_of(given: Kept) -> Keep:
    """A :class:`Keep`, also from a folder alone, from its fields, or from None."""
    if isinstance(given, Keep):
        return given
    if isinstance(given, Mapping):
        return Keep(**given)
    return Keep(None if given is None else os.fspath(given))

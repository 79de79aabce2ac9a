"""Where a study keeps its work and its report, and what of it: one parameter, the same for every study."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from interp.door import made_by, public


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
    """

    out: str | Path | None = None
    resume: bool = False
    overwrite: bool = False
    include_replies: bool = False
    origin: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def folder(self) -> Path | None:
        """``out`` as a path, ``~`` expanded."""
        return None if self.out is None else Path(self.out).expanduser()


Kept: TypeAlias = Keep | str | Path | Mapping[str, Any] | None
"""What a study's parameter ``keep`` takes: a :class:`Keep`, its folder alone, its fields, or None to keep nothing."""


def keep_of(given: Kept) -> Keep:
    """A :class:`Keep`, also from a folder alone, from its fields, or from None."""
    if isinstance(given, Keep):
        return given
    if isinstance(given, Mapping):
        return Keep(**given)
    return Keep(None if given is None else os.fspath(given))

"""A saved ranking, read back."""

from __future__ import annotations

from pathlib import Path

from interp.door import public
from interp.rankings.ranking import HeadRanking
from interp.records import RecordError
from interp.reports import load_result


@public
def load_ranking(directory: str | Path) -> HeadRanking:
    """The ranking that `HeadRanking.save` wrote, as `interp.load_result` reads it: equal measures bit for bit, equal
    views and provenance.

    `directory`: where.

    Raises:
        RecordError: a folder that holds something else than a ranking, and as `interp.load_result`.
    """
    found = load_result(directory)
    if not isinstance(found, HeadRanking):
        raise RecordError(
            f"{directory} holds a {type(found).__name__}, not a ranking. Read it with interp.load_result, or run again "
            "what ranks heads."
        )
    return found

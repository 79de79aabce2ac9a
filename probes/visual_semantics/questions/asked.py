"""A question about a picture, in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from interp.records import hash_text

YES, NO = "yes", "no"


@dataclass(frozen=True)
class Asked:
    """A question about a picture: its ``id``, words (``question_text``) and ``gold`` answer.

    ``options``: the answers it has; () where there is no list. ``level``: "object", "attribute", "relationship", or ""
    where the data do not say. ``kind``: "yes_no" or "open". ``split``: of the data. ``form``: its template, if any.
    ``image_id``: questions of one picture have one, and are resampled together. ``image_sha256``: of its pixels, or of
    the scene that it is drawn from. A photograph and its edited twins count as one picture, the photograph.
    """

    id: str
    question_text: str
    gold: str
    options: tuple[str, ...] = ()
    level: str = ""
    kind: str = "open"
    split: str = ""
    form: str = ""
    image_id: str = ""
    image_sha256: str = ""

    @property
    def gold_is_yes(self) -> bool:
        return self.gold.casefold() == YES


def describe_asked(asked: Sequence[Asked]) -> dict[str, Any]:
    """What provenance says of the questions: hash (of words and pictures) and counts."""
    rows = json.dumps([asdict(q) for q in asked], ensure_ascii=False, sort_keys=True)
    kinds = {"yes_no": sum(q.kind == "yes_no" for q in asked), "open": sum(q.kind == "open" for q in asked)}
    return {
        "sha256": hash_text(rows),
        "n": len(asked),
        "n_images": len({q.image_id for q in asked}),
        "levels": {level: sum(q.level == level for q in asked) for level in dict.fromkeys(q.level for q in asked)},
        "kinds": kinds,
        "gold_yes": sum(q.kind == "yes_no" and q.gold_is_yes for q in asked),
    }

"""What the study of routes found: of each head, what is lost when it reads nothing of the picture, or of the words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.door import made_by
from interp.figures import head_label
from interp.reports import Result
from interp.statistics import (
    ALPHA,
    FEWEST,
    Estimate,
    benjamini_hochberg,
    group_sums,
    mean_estimate,
    sign_flip_p,
)
from probes.visual_semantics.questions import Asked

PICTURE, WORDS, BOTH, UNTOLD = "picture", "words", "both", "not shown"
KINDS = (PICTURE, WORDS, BOTH, UNTOLD)


@made_by("visual_routes(model, examples, heads)")
@dataclass(frozen=True, eq=False, repr=False)
class VisualRoutes(Result, report="probes.visual_semantics.routes.report"):
    """Each head's effect on the gold answer's probability, by where the head reads.

    Args:
        asked: the questions in words.
        heads: (layer, head).
        routes: names of the groups of positions that are read; "words" is the text after the picture.
        of_picture: the routes that together are the picture.
        lost: of the probability, by the edges to one group; NaN where a prompt has none.
        whole: of the probability, by all edges at once.
        attention: the share of it that goes to each group, mean over the edited positions.
        provenance: model, data, settings, versions.
    """

    asked: tuple[Asked, ...]
    heads: tuple[tuple[int, int], ...]
    routes: tuple[str, ...]
    of_picture: tuple[str, ...]
    lost: Float[np.ndarray, "example route head"]
    whole: Float[np.ndarray, "example head"]
    attention: Float[np.ndarray, "example route head"]
    provenance: Mapping[str, Any]

    @property
    def levels(self) -> tuple[str, ...]:
        """In the order of their first question."""
        return tuple(dict.fromkeys(q.level for q in self.asked))

    def chosen(self, level: str | None) -> Bool[np.ndarray, " example"]:
        """Which questions are of a ``level``, None: all.

        Returns:
            [example].

        Raises:
            ValueError: a level that no question has.
        """
        if level is not None and level not in self.levels:
            raise ValueError(f"level={level!r}; the questions have {', '.join(map(repr, self.levels))}.")
        return np.array([level in (None, q.level) for q in self.asked])

    @cached_property
    def by_picture(self) -> Float[np.ndarray, "example head"]:
        """Lost by the edges to the picture, all groups of its patches."""
        return np.nansum(self.lost[:, [self.routes.index(r) for r in self.of_picture]], axis=1)

    def table(self, level: str | None = None) -> pd.DataFrame:
        """One row for each head, those of the largest effect first, with intervals over pictures.

        Columns: ``whole``, each route, ``beyond`` (lost by all at once beyond their sum), ``picture_less_words`` in the
        direction of the whole effect, its sign-flip ``p`` and Benjamini-Hochberg ``q`` over heads, the ``attention`` to
        the picture, and what the head ``reads``: "picture" or "words" where q is at most 0.05 and the interval leaves
        out 0, "both" where neither is and each alone has a part in the effect, else "not shown" (also of fewer than 10
        pictures).

        Args:
            level: of the questions, None for all.

        Raises:
            ValueError: a level that no question has.
        """
        chosen = self.chosen(level)
        pictures = [q.image_id or q.id for q, is_in in zip(self.asked, chosen, strict=True) if is_in]
        whole, lost, picture = self.whole[chosen], self.lost[chosen], self.by_picture[chosen]
        words = lost[:, self.routes.index(WORDS)]
        sign = np.sign(whole.mean(0))
        ahead = sign * (picture - words)
        p = sign_flip_p(group_sums(ahead, pictures)) if len(ahead) > 1 else np.full(len(self.heads), np.nan)
        q = benjamini_hochberg(p)
        to_picture = np.nansum(self.attention[chosen][:, [self.routes.index(r) for r in self.of_picture]], axis=1)
        rows = []
        for h, (layer, head) in enumerate(self.heads):
            row: dict[str, Any] = {"level": level or "all", "label": head_label(layer, head), "layer": layer}
            row |= {"head": head, "n": len(whole), "pictures": len(set(pictures))} | mean_estimate(
                whole[:, h], pictures
            ).columns("whole")
            for r, route in enumerate(self.routes):
                row |= _mean(lost[:, r, h], pictures).columns(route)
            row |= _mean(whole[:, h] - np.nansum(lost[:, :, h], axis=1), pictures).columns("beyond")
            less = mean_estimate(ahead[:, h], pictures)
            row |= less.columns("picture_less_words") | {"p": p[h], "q": q[h]}
            parts = [mean_estimate(sign[h] * part[:, h], pictures) for part in (picture, words)]
            row |= {
                "attention_to_picture": float(to_picture[:, h].mean()),
                "reads": _reads(*parts, less, q[h], len(set(pictures))),
            }
            rows.append(row)
        frame = pd.DataFrame(rows)
        return frame.sort_values("whole", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def _mean(values: Float[np.ndarray, " example"], pictures: list[str]) -> Estimate:
    there = np.isfinite(values)
    if not there.any():
        return Estimate(np.nan, np.nan, np.nan)
    return mean_estimate(values[there], [p for p, is_in in zip(pictures, there, strict=True) if is_in])


def _reads(picture: Estimate, words: Estimate, less: Estimate, q: float, n: int) -> str:
    if n < FEWEST:
        return UNTOLD
    if q <= ALPHA and less.side_of(0):
        return PICTURE if less.side_of(0) > 0 else WORDS
    return BOTH if picture.side_of(0) > 0 and words.side_of(0) > 0 else UNTOLD

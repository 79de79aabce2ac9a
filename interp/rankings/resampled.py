"""Mean scores of rankings in the same bootstrap draws, made once for all comparisons that need them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from interp.rankings.ranking import HeadRanking
from interp.statistics import rank_agreement

_MOST = 8  # rankings whose draws are kept: 16 MB each for 1,000 heads

Both = tuple[Float[np.ndarray, "draw head_a"], Float[np.ndarray, "draw head_b"]]


class Resampled:
    """What :func:`interp.statistics.rank_agreement.paired_bootstrap_means` gives for two rankings, and its ranks.

    The draws of rankings with the same examples are the same whichever two are compared, so each ranking's are kept;
    of two with other examples they are drawn for the pair.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], tuple[HeadRanking, np.ndarray]] = {}

    def means(self, a: HeadRanking, b: HeadRanking) -> Both:
        """Of both, in the same draws."""
        if not _have_the_same_examples(a, b):
            return rank_agreement.paired_bootstrap_means(a.scores, b.scores, a.example_ids, b.example_ids)
        return self._once("means", a, lambda: _alone(a)), self._once("means", b, lambda: _alone(b))

    def ranks(self, a: HeadRanking, b: HeadRanking) -> Both:
        """The same, as ranks: 1 for the highest."""
        of_a, of_b = self.means(a, b)
        if not _have_the_same_examples(a, b):
            return rank_agreement.ranks(of_a), rank_agreement.ranks(of_b)
        return (
            self._once("ranks", a, lambda: rank_agreement.ranks(of_a)),
            self._once("ranks", b, lambda: rank_agreement.ranks(of_b)),
        )

    def _once(self, what: str, ranking: HeadRanking, make: Callable[[], np.ndarray]) -> np.ndarray:
        key = (what, id(ranking))
        if key not in self._kept:
            if len(self._kept) >= 2 * _MOST:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = (ranking, make())  # with the ranking, whose id would else be another's
        return self._kept[key][1]


def _have_the_same_examples(a: HeadRanking, b: HeadRanking) -> bool:
    """In one order, and none twice: the draws are then those of either alone."""
    return a.example_ids == b.example_ids and len(set(a.example_ids)) == a.n_examples


def _alone(ranking: HeadRanking) -> Float[np.ndarray, "draw head"]:
    """Its half of the draws with any ranking of the same examples."""
    ids = ranking.example_ids
    return rank_agreement.paired_bootstrap_means(ranking.scores, np.zeros((len(ids), 1)), ids, ids)[0]

"""Heads in order, with the evidence that belongs to it; rankings beside each other."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.rankings.loading import load_ranking as load_ranking
    from interp.rankings.measures import Measure as Measure, register as register, registered as registered
    from interp.rankings.ranking import HeadRanking as HeadRanking
    from interp.rankings.side_by_side import ComparedRankings as ComparedRankings
    from interp.rankings.stability import consensus as consensus, sources_of_variance as sources_of_variance

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

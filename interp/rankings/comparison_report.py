"""The report of rankings beside each other: of several by name, or of one pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd
import plotly.graph_objects as go

from interp.rankings import figures as comparison_figures
from interp.rankings.comparison import RankingComparison
from interp.rankings.depth_profiles import KINDS
from interp.rankings.ranking import HeadRanking
from interp.rankings.sentences import by_head, statement
from interp.rankings.side_by_side import ComparedRankings
from interp.reports import Figures, Findings

MAPS, HEADS, MOVED = "Mean score of every head", "Head by head", "Heads that moved"
DEPTH, GIVEN, PROFILES = "By relative depth", "What is compared", "Profiles over depth"
_IN_GIVEN = ["reliability_a", "reliability_b", "overlap_fraction"]  # or to be seen from the column beside it
_ROWS = 500  # of the heads that moved, over all pairs: what a page shows
_COLUMNS = (
    "ceiling: what noise would leave of one order. overlap: heads that the first k share. rbo: rank-biased overlap, "
    "which weighs the top. n shared: examples that both scored; n: heads."
)


def findings_of(found: ComparedRankings | RankingComparison) -> Findings:
    """The page, its tables and its figures."""
    if isinstance(found, RankingComparison):
        tables = {HEADS: _noted(found.to_frame(), _COLUMNS)}
        return Findings("Two head rankings compared", [by_head(found)], tables, {}, found.provenance)
    tables, figures = {}, {MAPS: partial(_maps, found)} if found.ordered else {}
    if found.pairs:
        tables[HEADS] = _noted(found.to_frame().drop(columns=_IN_GIVEN), _COLUMNS)
        figures |= _rank_lines(found)
        moved, per_pair = found.moved(), max(1, _ROWS // len(found.pairs))
        if len(moved):
            tables[MOVED] = _noted(
                moved.groupby(["a", "b"], sort=False).head(per_pair).reset_index(drop=True),
                "Those that surely moved first, then by the size of the change. Rank 1 is the highest score; a change "
                "below 0 is towards the top. Ranks in the middle, where scores are nearly equal, change easily.",
            )
    if found.depth:
        profiles = found.profiles()
        drawn = profiles[profiles["ranking"].isin(found.ordered)]
        if len(drawn):
            figures[DEPTH] = partial(comparison_figures.profile_lines, drawn, KINDS, found.same_scale)
        tables[DEPTH] = _noted(
            found.by_depth(),
            f"Correlation of two profiles over {found.n_bins} bins of depth. chance from, to: 95 % of the "
            "correlations when the layers of the second are turned round and shifted in a circle.",
        )
    tables[GIVEN] = found.given()
    if found.depth:
        tables[PROFILES] = profiles
    said = statement(found.rankings, found.pairs, found.depth, found.same_scale)
    return Findings("Head rankings compared", said, tables, Figures(figures), found.provenance)


def _maps(found: ComparedRankings) -> go.Figure:
    scale = "One colour scale." if found.same_scale else "Different quantities: each has its own colour scale."
    note = {"note": f"{scale} Equal relative depth is at equal height."}
    return comparison_figures.heatmaps(found.ordered, found.same_scale).update_layout(meta=note)


def _rank_lines(found: ComparedRankings) -> dict[str, Callable[[], go.Figure]]:
    """What draws the top heads of each shape that several rankings have."""
    shapes = dict.fromkeys(found.rankings[pair.a].scores.shape[1:] for pair in found.pairs)
    figures = {}
    for n_layers, n_heads in shapes:
        alike = {name: r for name, r in found.ordered.items() if r.scores.shape[1:] == (n_layers, n_heads)}
        if len(alike) < 2:
            continue
        name = HEADS if len(shapes) == 1 else f"{HEADS}, {n_layers} layers of {n_heads}"
        figures[name] = partial(_lines, alike, found.k)
    return figures


def _lines(rankings: Mapping[str, HeadRanking], k: int) -> go.Figure:
    note = (
        f"Heads among the first {k} of any ranking; the dashed line ends these. Orange: among them in all rankings; "
        "violet, dotted: in some."
    )
    return comparison_figures.rank_lines(rankings, k).update_layout(meta={"note": note})


def _noted(table: pd.DataFrame, note: str) -> pd.DataFrame:
    table.attrs["note"] = note
    return table

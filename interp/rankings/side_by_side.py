"""Rankings of several models, checkpoints, methods, levels or prompts, side by side: one page, and its tables.

Pairs of one shape are compared head by head (`interp.compare`), all pairs by relative depth
(`interp.rankings.depth_profiles`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp import statistics
from interp.door import public
from interp.figures import head_label
from interp.rankings.comparison import RankingComparison, compared, compared_provenance, moved_heads
from interp.rankings.depth_profiles import KINDS, N_BINS, ProfileAgreement, compare_profiles, depth_profile
from interp.rankings.loading import load_ranking
from interp.rankings.ranking import HeadRanking
from interp.rankings.resampled import Resampled
from interp.reports import Result, model_name
from interp.reports.kept_tables import made_once


@dataclass(frozen=True, eq=False, repr=False)
class ComparedRankings(Result, report="interp.rankings.comparison_report", figure="Mean score of every head"):
    """Several rankings, by name, and how far each pair agrees.

    k: the first so many heads are compared as sets. n_bins: of relative depth. pairs: what `interp.compare` says of
    each pair of one shape. depth: what `compare_profiles` says of every pair, by (name, name), for the mean and the
    maximum of the heads of a bin.
    """

    rankings: Mapping[str, HeadRanking]
    k: int
    n_bins: int
    pairs: Sequence[RankingComparison]
    depth: Mapping[tuple[str, str], Sequence[ProfileAgreement]]
    provenance: Mapping[str, Any]

    @property
    def same_scale(self) -> bool:
        """Whether all scores are one quantity: equal names, meanings and units."""
        return len({r.measure for r in self.rankings.values()}) == 1

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair of one shape, see `RankingComparison`; empty if there is none."""
        rows = [pair.to_frame() for pair in self.pairs]
        return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()

    def by_depth(self) -> pd.DataFrame:
        """Two rows for each pair, of mean and maximum: a, b, of, correlation with its interval, chance_low,
        chance_high, p."""
        rows = []
        for (a, b), agreements in self.depth.items():
            for found in agreements:
                row = {"a": a, "b": b, "of": found.kind, **found.correlation.columns("correlation")}
                rows.append(row | {"chance_from": found.chance_low, "chance_to": found.chance_high, "p": found.p})
        return pd.DataFrame(rows)

    def profiles(self) -> pd.DataFrame:
        """`interp.rankings.depth_profiles.depth_profile` of each ranking, named in the column ranking."""
        parts = []
        for name, ranking in self.rankings.items():
            part = depth_profile(ranking, self.n_bins)
            part.insert(0, "ranking", name)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    @property
    def ordered(self) -> dict[str, HeadRanking]:
        """The rankings that have examples enough for an order; only these are drawn."""
        return {name: ranking for name, ranking in self.rankings.items() if not ranking.is_too_few}

    @made_once
    def moved(self) -> pd.DataFrame:
        """`interp.rankings.comparison.moved_heads` of each pair of one shape that has examples enough, after the
        columns a and b."""
        parts = []
        for pair in self.pairs:
            if not {pair.a, pair.b} <= self.ordered.keys():
                continue
            part = moved_heads(self.rankings[pair.a], self.rankings[pair.b]).drop(columns=["layer", "head"])
            part.insert(0, "a", pair.a)
            part.insert(1, "b", pair.b)
            parts.append(part)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def given(self) -> pd.DataFrame:
        """What is compared: a row for each ranking."""
        rows = []
        for name, ranking in self.rankings.items():
            means = ranking.scores.mean(axis=0, dtype=np.float64)
            best = tuple(map(int, np.unravel_index(means.argmax(), means.shape)))
            low, high = statistics.mean_interval(ranking.scores[(slice(None), *best)])
            row = {"ranking": name, "model": model_name(ranking.provenance), "score": ranking.score}
            row |= {"n_examples": ranking.n_examples, "layers": ranking.n_layers, "heads_a_layer": ranking.n_heads}
            row |= {"reliability": ranking.reliability.spearman_brown, "best_head": head_label(*best)}
            row |= {"its_score": means[best], "its_score_low": float(low), "its_score_high": float(high)}
            if ranking.is_too_few:
                row |= {"best_head": "too few examples"} | dict.fromkeys(
                    ("its_score", "its_score_low", "its_score_high"), np.nan
                )
            rows.append(
                row | {"largest": float(np.abs(means).max()), "run": str(ranking.provenance.get("run_id") or "")}
            )
        return pd.DataFrame(rows)


@public
def compare_rankings(
    rankings: Sequence[HeadRanking | str | Path],
    names: Sequence[str] | None = None,
    k: int = 10,
    n_bins: int = N_BINS,
) -> ComparedRankings:
    """How far rankings agree: of different models, checkpoints, methods, levels or prompts.

    rankings: in memory, or folders that `HeadRanking.save` wrote; "FOLDER:measure" ranks by another measure of that
    folder. names: one for each, for tables and figures; by default what tells them apart: model, score, or folder.
    Every pair is compared by relative depth; pairs of one shape also head by head. With fewer layers than `n_bins` in
    any model there are as many bins as layers.

        interp.compare_rankings(["reports/nas", "reports/nas:total_effect"]).save("reports/compared")

    Raises:
        ValueError: fewer than two rankings, the same one twice, names that are not distinct, k above the number of
            heads, or n_bins below 2.
        FileNotFoundError: a folder that is not there or holds no ranking.

    Cost: no model is run; about 2 s for each pair of 1,000 heads and 200 examples, and a page (`save`) 7 s for each
    ranking, whose p it shows on hover.
    Misleads: profiles over depth agree also where other heads are meant; only pairs of one shape are compared head by
    head.
    Source: ours for relative depth (`interp.rankings.depth_profiles`); head by head as :func:`interp.compare`.
    """
    given = [rankings] if isinstance(rankings, (str, Path, HeadRanking)) else list(rankings)
    if len(given) < 2:
        raise ValueError(f"rankings has {len(given)} of them; expected a list of two or more to compare.")
    loaded = [_load(one) for one in given]
    seen: dict[Any, int] = {}
    for i, (ranking, folder) in enumerate(loaded, start=1):
        same = seen.setdefault((folder, ranking.score) if folder else id(ranking), i)
        if same != i:
            raise ValueError(
                f"rankings {same} and {i} are the same ({ranking.score} of {folder or 'one ranking in memory'}): there "
                "is nothing to compare. Give another folder, or another measure of it as FOLDER:measure."
            )
    found = [ranking for ranking, _ in loaded]
    named = _names(found, [folder for _, folder in loaded], names)
    fewest = min(found, key=lambda r: r.n_layers * r.n_heads)
    if not 1 <= k <= fewest.n_layers * fewest.n_heads:
        raise ValueError(
            f"k is {k}; expected 1 to {fewest.n_layers * fewest.n_heads}, the heads of the smallest model "
            f"({model_name(fewest.provenance)})."
        )
    if n_bins < 2:
        raise ValueError(f"n_bins is {n_bins}; expected at least 2 bins of depth.")
    n_bins = min(n_bins, *(r.n_layers for r in found))
    by_name = dict(zip(named, found, strict=True))
    pairs, depth, resampled = [], {}, Resampled()
    for a, b in itertools.combinations(by_name, 2):
        first, second = by_name[a], by_name[b]
        if first.scores.shape[1:] == second.scores.shape[1:]:
            pairs.append(replace(compared(first, second, k, resampled), a=a, b=b))
        if n_bins > 1:
            depth[a, b] = tuple(compare_profiles(first, second, kind, n_bins, resampled) for kind in KINDS)
    provenance = compared_provenance(by_name, {"k": k, "n_bins": n_bins})
    return ComparedRankings(by_name, k, n_bins, tuple(pairs), depth, provenance)


def _load(given: HeadRanking | str | Path) -> tuple[HeadRanking, Path | None]:
    """A ranking, and the folder it came from; "FOLDER:measure" if there is no folder of that whole name."""
    if isinstance(given, HeadRanking):
        return given, None
    folder, measure = Path(given), None
    if isinstance(given, str) and not folder.exists() and ":" in given:
        name, measure = given.rsplit(":", 1)
        folder = Path(name)
    ranking = load_ranking(folder)
    if measure is None:
        return ranking, folder.resolve()
    if measure not in ranking.measures:
        raise ValueError(f"{folder} has no measure {measure!r}; expected one of: {', '.join(ranking.measures)}.")
    return ranking.by(measure), folder.resolve()


def _names(found: Sequence[HeadRanking], folders: Sequence[Path | None], names: Sequence[str] | None) -> list[str]:
    """The given names, or the shortest of model, score, both, or folder that tells all apart."""
    if names:
        if len(names) != len(found) or len(set(names)) < len(names) or not all(n.strip() for n in names):
            raise ValueError(f"names are {list(names)}; expected {len(found)} distinct names, one for each ranking.")
        return list(names)
    models, scores = [model_name(r.provenance) for r in found], [r.score for r in found]
    both = [f"{model}, {score}" for model, score in zip(models, scores, strict=True)]
    from_folders = [folder.name if folder else "" for folder in folders]
    with_folders = [f"{name}, {score}" for name, score in zip(from_folders, scores, strict=True)]
    for candidates in (models, scores, both, from_folders, with_folders):
        if len(set(candidates)) == len(candidates) and all(candidates):
            return candidates
    return [f"{i}: {name}" for i, name in enumerate(both, start=1)]

"""Rankings of several models, checkpoints, methods, levels or prompts, side by side: one page, and its tables.

Pairs of one shape are compared head by head (`interp.compare`), all pairs by relative depth
(`interp.rankings.depth_profiles`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.door import public
from interp.figures import head_label
from interp.rankings import figures as comparison_figures
from interp.rankings.comparison import RankingComparison, compare, moved_heads
from interp.rankings.depth_profiles import KINDS, N_BINS, ProfileAgreement, compare_profiles, depth_profile
from interp.rankings.files import load_ranking
from interp.rankings.ranking import HeadRanking
from interp.rankings.sentences import statement
from interp.records import hash_json, hash_text, keeps_work, now, versions
from interp.reports import Findings, model_name
from interp.statistics import estimates as statistics

MAPS, HEADS, MOVED = "Mean score of every head", "Head by head", "Heads that moved"
DEPTH, GIVEN, PROFILES = "By relative depth", "What is compared", "Profiles over depth"
_IN_GIVEN = ["reliability_a", "reliability_b", "overlap_fraction"]  # or to be seen from the column beside it
_ROWS = 500  # of the heads that moved, over all pairs: what a page shows
CAVEATS = (
    "Heads of different models have no identity: head 3 of a layer is no more like head 3 of another model's layer "
    "than like any other, unless one was made from the other (fine-tuned, quantised, another step of one training). "
    "Models of different shapes are compared by relative depth alone.",
    "Intervals say what other examples would give, not other heads. Heads of one model are not independent, so chance "
    "levels, which assume random orders of independent heads, make p too small.",
    "Two noisy rankings of one order do not correlate at 1: read a correlation beside its ceiling. Where both rankings "
    "scored the same examples their noise is shared, and the correlation can pass the ceiling.",
    "Neighbouring layers are alike, so two smooth profiles over depth correlate more often than p says; the profiles "
    "of two models that both act late correlate for that reason alone.",
)


@dataclass(frozen=True, eq=False)
class ComparedRankings:
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

    @property
    def same_scale(self) -> bool:
        """Whether all scores are one quantity: equal names and descriptions."""
        return len({(r.score, r.descriptions.get(r.score)) for r in self.rankings.values()}) == 1

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

    def moved(self) -> pd.DataFrame:
        """`interp.rankings.comparison.moved_heads` of each pair of one shape, after the columns a and b."""
        return self._moved.copy()

    @cached_property
    def _moved(self) -> pd.DataFrame:
        parts = []
        for pair in self.pairs:
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
            rows.append(
                row | {"largest": float(np.abs(means).max()), "run": str(ranking.provenance.get("run_id") or "")}
            )
        return pd.DataFrame(rows)

    def statement(self) -> list[str]:
        """What the numbers say, as sentences, the most important first."""
        return statement(self.rankings, self.pairs, self.depth, self.same_scale)

    def to_findings(self) -> Findings:
        """The page, its tables and its figures."""
        tables, figures = {}, {MAPS: comparison_figures.heatmaps(self.rankings, self.same_scale)}
        scale = "One colour scale." if self.same_scale else "Different quantities: each has its own colour scale."
        figures[MAPS].layout.meta = {"note": f"{scale} Equal relative depth is at equal height."}
        if self.pairs:
            tables[HEADS] = _noted(
                self.to_frame().drop(columns=_IN_GIVEN),
                "ceiling: what noise would leave of one order. overlap: heads that the first k share. rbo: "
                "rank-biased overlap, which weighs the top. n shared: examples that both scored; n: heads.",
            )
            figures |= self._rank_lines()
            moved, per_pair = self.moved(), max(1, _ROWS // len(self.pairs))
            shown = moved.groupby(["a", "b"], sort=False).head(per_pair).reset_index(drop=True)
            tables[MOVED] = _noted(
                shown,
                "Those that surely moved first, then by the size of the change. Rank 1 is the highest score; a change "
                "below 0 is towards the top. Ranks in the middle, where scores are nearly equal, change easily.",
            )
        if self.depth:
            profiles = self.profiles()
            figures[DEPTH] = comparison_figures.profile_lines(profiles, KINDS, self.same_scale)
            tables[DEPTH] = _noted(
                self.by_depth(),
                f"Correlation of two profiles over {self.n_bins} bins of depth. chance from, to: 95 % of the "
                "correlations when the layers of the second are turned round and shifted in a circle.",
            )
        tables[GIVEN] = self.given()
        if self.depth:
            tables[PROFILES] = profiles
        arrays = {f"means/{i}": r.scores.mean(axis=0, dtype=np.float64) for i, r in enumerate(self.rankings.values())}
        return Findings("Head rankings compared", self.statement(), tables, figures, self._provenance(), arrays)

    @keeps_work
    def save(self, directory: str | Path, overwrite: bool = False) -> Path:
        """Write the page and its tables; see `interp.Findings.save`."""
        return self.to_findings().save(directory, overwrite=overwrite)

    def _rank_lines(self) -> dict[str, go.Figure]:
        """A figure of the top heads for each shape that several rankings have."""
        shapes = dict.fromkeys(self.rankings[pair.a].scores.shape[1:] for pair in self.pairs)
        figures = {}
        for n_layers, n_heads in shapes:
            alike = {name: r for name, r in self.rankings.items() if r.scores.shape[1:] == (n_layers, n_heads)}
            figure = comparison_figures.rank_lines(alike, self.k)
            figure.layout.meta = {
                "note": f"Heads among the first {self.k} of any ranking; the dashed line ends these. Orange: among "
                "them in all rankings; violet, dotted: in some."
            }
            figures[HEADS if len(shapes) == 1 else f"{HEADS}, {n_layers} layers of {n_heads}"] = figure
        return figures

    def _repr_html_(self) -> str:
        return self.to_findings()._repr_html_()

    def _provenance(self) -> dict[str, Any]:
        compared = []
        for name, ranking in self.rankings.items():
            about = ranking.provenance
            digest = hash_text(ranking.scores.tobytes().hex())
            entry = {"name": name, "score": ranking.score, "model": model_name(about), "scores_sha256": digest}
            entry |= {"means": ranking.descriptions.get(ranking.score, ""), "n_examples": ranking.n_examples}
            compared.append(entry | {key: about[key] for key in ("run_id", "method") if key in about})
        settings = {"k": self.k, "n_bins": self.n_bins}
        identity = {"compared": [[e["name"], e["score"], e["scores_sha256"]] for e in compared], **settings}
        models = dict.fromkeys(entry["model"] for entry in compared)
        return {
            "run_id": hash_json(identity)[:12],
            "model": {"name": " and ".join(models)},
            "rankings": {entry.pop("name"): entry for entry in compared},
            "settings": settings,
            "statistics": {"seed": statistics.SEED, "bootstrap_resamples": statistics.N_BOOTSTRAP},
            "versions": versions(),
            "created": now(),
            "caveats": list(CAVEATS),
        }


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
    any model there are as many bins as layers. Nothing is run on a model; costs about 2 s for each pair of 1,000 heads
    and 200 examples, and a page (`save`) 7 s for each ranking, whose p it shows on hover.

    Raises ValueError for fewer than two rankings, the same one twice, names that are not distinct, k above the number
    of heads, or n_bins below 2; FileNotFoundError for a folder that is not there or holds no ranking.

        interp.compare_rankings(["reports/nas", "reports/nas:total_effect"]).save("reports/compared")
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
    pairs, depth = [], {}
    for a, b in itertools.combinations(by_name, 2):
        first, second = by_name[a], by_name[b]
        if first.scores.shape[1:] == second.scores.shape[1:]:
            pairs.append(replace(compare(first, second, k), a=a, b=b))
        if n_bins > 1:
            depth[a, b] = tuple(compare_profiles(first, second, kind, n_bins) for kind in KINDS)
    return ComparedRankings(by_name, k, n_bins, tuple(pairs), depth)


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


def _noted(table: pd.DataFrame, note: str) -> pd.DataFrame:
    table.attrs["note"] = note
    return table

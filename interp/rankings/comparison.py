"""Two rankings of the same heads, or two measures of one: how far they agree, and what chance would give.

`interp.rankings.side_by_side` puts any number of rankings on one page by what is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp import statistics
from interp.door import public
from interp.figures import head_label
from interp.rankings.controls import _overlap_columns, _spearman
from interp.rankings.ranking import HeadRanking
from interp.rankings.resampled import Resampled
from interp.records import hash_json, now, versions
from interp.reports import Result, model_name
from interp.statistics import rank_agreement

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


@dataclass(frozen=True, repr=False)
class RankingComparison(Result, report="interp.rankings.comparison_report"):
    """How far two rankings of the same heads agree.

    spearman: correlation of the heads' mean scores by rank, over all heads; spearman_low, spearman_high: the 95 %
    interval of what other examples would give (`interp.statistics.rank_agreement.around`). reliability_a,
    reliability_b: split-half reliability of each ranking, corrected to all its examples. ceiling: the root of their
    product, the Spearman correlation that two samples as noisy would have if the order behind both were one; NaN where
    a reliability is unknown or not above 0. overlap: heads that the first k of both share, with the count expected by
    chance and its hypergeometric p. rbo: rank-biased overlap at p = 0.9, which weighs the top; rbo_expected and rbo_p
    are its mean and the share at least as high over 2,000 random orders. n_shared: examples that both rankings scored,
    drawn together. n_examples: of the ranking that has fewer; below 10 no verdict is given. unlike: in what the
    provenance of the two differs, in words.

    Misleads: heads of one model are not independent, so spearman_p, overlap.p and rbo_p are too small. Examples that
    both rankings scored have common noise: the correlation may then pass the ceiling.
    Source of the ceiling: Spearman (1904), Am. J. Psychol. 15 (correction for attenuation).
    """

    a: str
    b: str
    spearman: float
    spearman_low: float
    spearman_high: float
    spearman_p: float
    reliability_a: float
    reliability_b: float
    k: int
    overlap: statistics.TopKOverlap
    rbo: float
    rbo_expected: float
    rbo_p: float
    n_shared: int
    n_examples: int
    n_heads: int
    unlike: tuple[str, ...]
    provenance: Mapping[str, Any]

    @property
    def ceiling(self) -> float:
        """The correlation that noise alone would leave of two equal orders."""
        reliable = min(self.reliability_a, self.reliability_b) > 0  # False for NaN
        return min(1.0, float(np.sqrt(self.reliability_a * self.reliability_b))) if reliable else np.nan

    def to_frame(self) -> pd.DataFrame:
        """One row; the overlap as overlap, overlap_fraction, overlap_expected, overlap_p; n counts heads."""
        row: dict[str, Any] = {"a": self.a, "b": self.b, "spearman": self.spearman}
        row |= {"spearman_low": self.spearman_low, "spearman_high": self.spearman_high}
        row |= {"spearman_p": self.spearman_p, "ceiling": self.ceiling}
        row |= {"reliability_a": self.reliability_a, "reliability_b": self.reliability_b, "k": self.k}
        row |= _overlap_columns(self.overlap) | {"rbo": self.rbo, "rbo_expected": self.rbo_expected}
        return pd.DataFrame([row | {"rbo_p": self.rbo_p, "n_shared": self.n_shared, "n": self.n_heads}])


@public
def compare(a: HeadRanking, b: HeadRanking, k: int = 10) -> RankingComparison:
    """Agreement of two rankings of the same heads: two samples, prompts, measures, or checkpoints of one model.

    See `RankingComparison`. Heads are matched by layer and index, which means something only within a model or
    between models of which one came from the other.

    `a`, `b`: the rankings. `k`: how many heads count as the top.

    Raises:
        ValueError: rankings of different shapes, and k above the number of heads.

    Cost: about a second for 1,000 heads; no model is run.
    Misleads: see `RankingComparison`: heads of one model are not independent, so its p values are too small.
    Source: rank-biased overlap, Webber, Moffat and Zobel (2010), ACM TOIS 28(4); the others are named in
    `interp.statistics`.
    """
    return compared(a, b, k, Resampled())


def compared(a: HeadRanking, b: HeadRanking, k: int, resampled: Resampled) -> RankingComparison:
    """:func:`compare`, with draws that other comparisons may have made.

    Raises:
        ValueError: as :func:`compare`.
    """
    _require_same_shape(a, b)
    order_a, order_b = _order(a), _order(b)
    overlap = statistics.top_k_overlap(order_a, order_b, k, population=len(order_a))
    rbo = statistics.rank_biased_overlap(order_a, order_b)
    by_chance = rank_agreement.rank_biased_overlap_by_chance(len(order_a))
    spearman, p = _spearman(a.scores, b.scores)
    draws = rank_agreement.correlation_by_row(*resampled.ranks(a, b))
    if min(a.n_examples, b.n_examples) < 2:
        draws = np.full_like(draws, np.nan)
    _, low, high = rank_agreement.around(spearman, draws)
    return RankingComparison(
        a=a.score,
        b=b.score,
        spearman=spearman,
        spearman_low=low,
        spearman_high=high,
        spearman_p=p,
        reliability_a=a.reliability.spearman_brown,
        reliability_b=b.reliability.spearman_brown,
        k=k,
        overlap=overlap,
        rbo=rbo,
        rbo_expected=float(by_chance.mean()),
        rbo_p=float((1 + (by_chance >= rbo - 1e-12).sum()) / (1 + len(by_chance))),
        n_shared=len(set(a.example_ids) & set(b.example_ids)),
        n_examples=min(a.n_examples, b.n_examples),
        n_heads=len(order_a),
        unlike=tuple(differences(a, b)),
        provenance=compared_provenance({"a": a, "b": b}, {"k": k}),
    )


def moved_heads(a: HeadRanking, b: HeadRanking) -> pd.DataFrame:
    """Which heads have another rank in b than in a, one row for each head, those that surely moved first.

    Columns: layer, head, label, score_a, score_b (means), rank_a and rank_b (1 is the highest score; equal scores
    share their mean rank), change (rank_b - rank_a: below 0 is towards the top) and its q, moved: "up", "down", or
    "unclear" for q of 0.05 and above. `_low`, `_high`: 95 % bootstrap intervals over the examples, drawn together
    where both rankings scored the same. Within the three verdicts the order is by the size of the change.

    Raises:
        ValueError: rankings of another number of layers or heads.

    Misleads: heads in the middle, with nearly equal scores, change many ranks for little; look at the scores. A
    resample carries noise twice, so ranks of the top heads drift towards the middle in their intervals.
    q: t with the bootstrap's standard error, Benjamini-Hochberg. Simulated on two samples of one order of 120 heads,
    some head is wrongly said to move in one comparison of twelve, and in one of three where the order is poorly settled
    (reliability 0.73): look at the reliability too.
    """
    _require_same_shape(a, b)
    means = [ranking.scores.astype(np.float64).mean(axis=0).ravel() for ranking in (a, b)]
    found = [rank_agreement.ranks(values) for values in means]
    draws = Resampled().ranks(a, b)
    n = min(a.n_examples, b.n_examples)
    layer, head = (index.ravel() for index in np.indices((a.n_layers, a.n_heads)))
    label = [head_label(*pair) for pair in zip(layer, head, strict=True)]
    frame = pd.DataFrame(
        {"layer": layer, "head": head, "label": label, "score_a": means[0], "score_b": means[1]}
        | _with_interval("rank_a", found[0], draws[0], n)
        | _with_interval("rank_b", found[1], draws[1], n)
        | _with_interval("change", found[1] - found[0], draws[1] - draws[0], n)
    )
    frame["q"] = rank_agreement.shift_q(frame["change"].to_numpy(), draws[1] - draws[0], n)
    direction = np.where(frame["change"] < 0, "up", "down")
    frame["moved"] = np.where(frame["q"] < 0.05, direction, "unclear")
    frame["_unclear"], frame["_size"] = frame["moved"] == "unclear", -frame["change"].abs()
    ordered = frame.sort_values(["_unclear", "_size"], kind="stable", ignore_index=True)
    return ordered.drop(columns=["_unclear", "_size"])


def differences(a: HeadRanking, b: HeadRanking) -> list[str]:
    """In what the provenance of two rankings differs, in words: score, model, weights, examples, settings."""
    first, second = a.provenance, b.provenance
    found = ["score"] if a.score != b.score else []
    if model_name(first) != model_name(second):
        found.append("model")
    elif _of(first, "model", "weights_sha256") != _of(second, "model", "weights_sha256"):
        found.append("weights")
    if set(a.example_ids) != set(b.example_ids):
        found.append("examples")
    settings = [_of(about, "settings") or {} for about in (first, second)]
    if all(isinstance(value, Mapping) for value in settings):
        names = dict.fromkeys(name for value in settings for name in value)
        unlike = [name for name in names if settings[0].get(name) != settings[1].get(name) and name != "batch_size"]
        found += [name.replace("_", " ") for name in unlike]
    return found


def compared_provenance(rankings: Mapping[str, HeadRanking], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a comparison needs to be traced: which scores of which models and runs, by the rankings' names."""
    compared = {}
    for name, ranking in rankings.items():
        about = ranking.provenance
        entry = {"score": ranking.score, "model": model_name(about), "scores_sha256": ranking.scores_sha256}
        entry |= {"means": ranking.measure.meaning, "n_examples": ranking.n_examples}
        compared[name] = entry | {key: about[key] for key in ("run_id", "method") if key in about}
    identity = {"compared": [[n, e["score"], e["scores_sha256"]] for n, e in compared.items()], **settings}
    return {
        "run_id": hash_json(identity)[:12],
        "model": {"name": " and ".join(dict.fromkeys(entry["model"] for entry in compared.values()))},
        "rankings": compared,
        "settings": dict(settings),
        "statistics": {"seed": statistics.SEED, "bootstrap_resamples": statistics.N_BOOTSTRAP},
        "versions": versions(),
        "created": now(),
        "caveats": list(CAVEATS),
    }


def _of(provenance: Mapping[str, Any], *path: str) -> Any:
    value: Any = provenance
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _order(ranking: HeadRanking) -> list[int]:
    """Heads, counted over all layers, in the order of `HeadRanking.to_frame`, without its statistics."""
    return np.argsort(-ranking.scores.mean(axis=0, dtype=np.float64).ravel(), kind="stable").tolist()


def _require_same_shape(a: HeadRanking, b: HeadRanking) -> None:
    if a.scores.shape[1:] != b.scores.shape[1:]:
        raise ValueError(
            f"a ranks {a.n_layers} layers of {a.n_heads} heads, b {b.n_layers} layers of {b.n_heads} heads; expected "
            "rankings of one architecture, since heads are matched by index. `interp.compare_rankings` compares "
            "others by relative depth."
        )


def _with_interval(name: str, values: np.ndarray, draws: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """A column and the ends of its 95 % bootstrap interval, NaN for a single example."""
    tail = 100 * (1 - statistics.CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0) if n > 1 else np.full((2, len(values)), np.nan)
    return {name: values, f"{name}_low": low, f"{name}_high": high}

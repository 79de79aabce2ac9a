"""What a comparison of rankings says, in sentences that follow from the numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from interp.rankings.comparison import RankingComparison
from interp.rankings.depth_profiles import ProfileAgreement
from interp.rankings.ranking import HeadRanking
from interp.reports import model_name, number
from interp.statistics import FEWEST, Claim, Estimate, bracketed, too_few

_UNRELIABLE = 0.5  # split-half reliability below which an order is mostly noise


def statement(
    rankings: Mapping[str, HeadRanking],
    pairs: Sequence[RankingComparison],
    depth: Mapping[tuple[str, str], Sequence[ProfileAgreement]],
    same_scale: bool,
) -> list[str]:
    """Each pair of one shape, then depth, then what can't be said, and of what kind the scores are."""
    sentences = [by_head(pair) for pair in pairs]
    of_one_shape = {(pair.a, pair.b) for pair in pairs}
    first = sorted(depth, key=lambda names: names in of_one_shape)
    sentences += [_by_depth(names, depth[names][0], _n_examples(rankings, names)) for names in first]
    shapes = {name: f"{r.n_layers} layers of {r.n_heads}" for name, r in rankings.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        sentences.append(
            f"Head by head nothing can be said across shapes ({listed}): heads of different models have no identity, "
            "so no overlap and no moved heads are given there."
        )
    sentences += [_matched_by_index(pair) for pair in pairs if _are_strangers(rankings[pair.a], rankings[pair.b])]
    noisy = [name for name, r in rankings.items() if not r.reliability.spearman_brown >= _UNRELIABLE]
    if noisy:
        sentences.append(
            f"{_listed(noisy)}: too few examples to settle the order (split-half reliability below {_UNRELIABLE}, or "
            "not to be told), so little agreement is to be expected of anything."
        )
    if not same_scale:
        of = [r.score if name.endswith(r.score) else f"{r.score} of {name}" for name, r in rankings.items()]
        sentences.append(
            f"The scores are different quantities ({', '.join(of)}): their orders are compared, not their sizes."
        )
    return sentences


def by_head(pair: RankingComparison) -> str:
    """How far two rankings of one shape agree head by head: the verdict, and the numbers behind it."""
    ceiling = f", where noise would leave {number(pair.ceiling)} of one order" if np.isfinite(pair.ceiling) else ""
    few = pair.n_examples < FEWEST and _of(pair).is_known
    apart = f" (they differ in: {', '.join(pair.unlike)})" if pair.unlike else ""
    if few:
        return (
            f"{pair.a} and {pair.b}{apart} can't be compared head by head: the examples are {too_few(pair.n_examples)}."
        )
    return (
        f"{pair.a} and {pair.b}{apart} {_how_alike(pair)}: Spearman {_of(pair).written(number)}{ceiling}; "
        f"of the first {pair.k} heads they share {pair.overlap.count} (by chance {number(pair.overlap.expected)}, p "
        f"{_p(pair.overlap.p)}), rank-biased overlap {number(pair.rbo)} (by chance {number(pair.rbo_expected)}, p "
        f"{_p(pair.rbo_p)})."
    )


def _how_alike(pair: RankingComparison) -> str:
    """The verdict on Spearman: against zero by both kinds of error, then by its share of the ceiling."""
    if np.isnan(pair.spearman):
        return "can't be compared, since all heads of one have equal scores"
    if not _of(pair).is_known:
        return "have no single examples, so that no interval says how far they agree"
    if not Claim("", _of(pair), p=pair.spearman_p, n=pair.n_examples).is_shown:
        return "are not shown to agree in the order of the heads"
    ceiling = 1.0 if np.isnan(pair.ceiling) else pair.ceiling
    if pair.spearman > 0 and _of(pair).side_of(ceiling) >= 0:
        return "order the heads alike, not shown to fall short of two samples of one order"
    share = abs(pair.spearman) / ceiling
    if pair.spearman < 0:
        return "order the heads the other way round" + (
            "" if share >= 0.8 else ", in part" if share >= 0.4 else ", a little"
        )
    return (
        "order the heads much alike, but not the same"
        if share >= 0.8
        else "agree in part"
        if share >= 0.4
        else "agree a little"
    )


def _by_depth(names: tuple[str, str], found: ProfileAgreement, n: int) -> str:
    a, b = names
    if np.isnan(found.correlation.value):
        return f"By relative depth {a} and {b} can't be compared: one profile is flat."
    if n < FEWEST and found.correlation.is_known:
        return f"By relative depth {a} and {b} can't be compared: the examples are {too_few(n)}."
    claim = Claim("", found.correlation, p=found.p, n=n)
    verdict = {
        "above": "rise and fall together",
        "below": "go in opposite ways",
        "not shown to differ": "are not shown to go together",
        "too few": "have no single examples, so that no interval says whether they go together",
    }[claim.verdict]
    return (
        f"By relative depth ({found.n_bins} bins) the mean scores of {a} and {b} {verdict}: correlation "
        f"{found.correlation.written(number)}, by chance {bracketed(found.chance_low, found.chance_high, number)} "
        f"(p {_p(found.p)})."
    )


def _of(pair: RankingComparison) -> Estimate:
    return Estimate.from_row(vars(pair), "spearman")


def _n_examples(rankings: Mapping[str, HeadRanking], names: Sequence[str]) -> int:
    return min(rankings[name].n_examples for name in names)


def _are_strangers(a: HeadRanking, b: HeadRanking) -> bool:
    return model_name(a.provenance) != model_name(b.provenance)


def _matched_by_index(pair: RankingComparison) -> str:
    return (
        f"{pair.a} and {pair.b} are of different names and matched by layer and index: that means something only if "
        "one was made from the other, or both from a third."
    )


def _p(p: float) -> str:
    return "below 0.001" if p < 0.001 else number(p)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

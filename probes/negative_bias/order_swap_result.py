"""Scores of heads by question, wording, option pair and order; what they keep, and where their variance lies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from interp.figures import head_label
from interp.reports import Result
from interp.reports.kept_tables import made_once
from interp.statistics import SEED, Estimate, around, bootstrap_interval, mean_interval, split_half
from interp.statistics.rank_agreement import correlation_by_row, ranks
from probes.heads import spearman_over_heads

K = 10
N_DRAWS = 1000
FACETS = ("wording", "option pair", "order")
ORDER_IN_ALL = "order, alone or with others"
Scores = Float[np.ndarray, "example wording pair order layer head"]


@dataclass(frozen=True, eq=False, repr=False)
class OrderSwap(Result, report="probes.negative_bias.order_swap_report", figure="Where the variance lies"):
    """NAS and effects of every head by question, wording, option pair and order.

    ``nas`` (nats) and ``effects`` (logits; clean less ablated at the answer, above 0: toward the negative word):
    [example, wording, pair, order, layer, head]; order 0 names the positive word first, 1 the negative one. ``effects``
    and ``log_probs`` [example, wording, pair, order, option] (negative word, positive word) are of the first questions
    only, or of none. ``wordings``, ``pairs``: as asked. ``ids``, ``gold_yes``: of the questions. ``groups``: questions
    that are drawn together. ``n_tokens`` [pair, 2]: tokens of the positive and negative word. ``provenance``: what was
    run.
    """

    wordings: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    gold_yes: Bool[np.ndarray, " example"]
    nas: Scores
    effects: Float[np.ndarray, "measured wording pair order layer head"]
    log_probs: Float[np.ndarray, "measured wording pair order option"]
    n_tokens: Int[np.ndarray, "pair 2"]
    provenance: Mapping[str, Any]

    @made_once
    def to_frame(self) -> pd.DataFrame:
        """One row for each wording and pair: do the heads of highest NAS, as the wording stands, outlive a swap?

        ``keep_sign``: of the ten, those whose NAS in the other order lies on the same side of 0 by its 95 % interval;
        ``turn``: on the other side. ``stay``: those among the first ten by the mean of both orders, with an interval
        over draws of questions; ``by_chance``: of random orders. ``spearman_swapped``, ``spearman_balanced``: NAS
        with NAS in the other order, and with the mean of both, over all heads. ``effect_keeps_sign``: of the ten heads
        of largest effect, those whose effect in the other order has the same sign. ``says_no``, ``option_mass``: share
        of answers that are the negative word (of the two), and probability of both, in both orders.
        """
        rows = []
        n_heads = self.nas.shape[-2] * self.nas.shape[-1]
        for (w, wording), (p, pair) in itertools.product(enumerate(self.wordings), enumerate(self.pairs)):
            first, second = (_cells(self.nas[:, w, p, order]) for order in (0, 1))
            kept = self._kept(first, second)
            row: dict[str, Any] = {"options": " or ".join(pair), "wording": wording, "n": len(first)}
            row["tokens"] = " and ".join(map(str, self.n_tokens[p]))
            row |= kept | {"by_chance": K * K / n_heads, "n_effects": len(self.effects)}
            if not len(self.effects):
                rows.append(row)
                continue
            effect = _cells(self.effects[:, w, p, 0]).mean(0), _cells(self.effects[:, w, p, 1]).mean(0)
            largest = np.argsort(-np.abs(effect[0]), kind="stable")[:K]
            row["effect_keeps_sign"] = int((np.sign(effect[0]) == np.sign(effect[1]))[largest].sum())
            said = self.log_probs[:, w, p]  # [example, order, option]
            for order, name in enumerate(("", "_swapped")):
                row[f"says_no{name}"] = float((said[:, order, 0] > said[:, order, 1]).mean())
                row[f"option_mass{name}"] = float(np.exp(said[:, order]).sum(-1).mean())
            rows.append(row)
        return pd.DataFrame(rows)

    def _kept(self, first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
        """What of the first order outlives the second, both [example, head]."""
        top = np.argsort(-first.mean(0), kind="stable")[:K]
        low, high = mean_interval(second[:, top], self.groups)
        of_top = np.sign(first.mean(0)[top])
        sides = np.array([Estimate(*row).side_of(0) for row in zip(second[:, top].mean(0), low, high, strict=True)])
        row: dict[str, Any] = {"keep_sign": int((sides * of_top > 0).sum()), "turn": int((sides * of_top < 0).sum())}
        counts = _draws(self.groups)
        a, b = (counts @ scores / counts.sum(1, keepdims=True) for scores in (first, second))
        balanced = (a + b) / 2
        stay = [len(set(x[:K]) & set(y[:K])) for x, y in zip(np.argsort(-a, 1), np.argsort(-balanced, 1), strict=True)]
        row |= _named("stay", Estimate(stay[0], *np.quantile(stay[1:], [0.025, 0.975])))
        for name, other in (("swapped", b), ("balanced", balanced)):
            agreement = correlation_by_row(ranks(a), ranks(other))
            row |= _named(f"spearman_{name}", around(agreement[0], agreement[1:]))
        return row

    def _measured(self) -> list[tuple[str, Scores]]:
        """NAS, and effects if there are any."""
        return [("nas", self.nas)] + ([("effects", self.effects)] if len(self.effects) else [])

    @made_once
    def variance(self) -> pd.DataFrame:
        """Where the variance of heads' scores lies, as shares of the whole: ``nas`` and ``effects``.

        Of scores less their mean over heads in each question and condition, since a ranking is of differences between
        heads. "the head": what a head has in all questions and conditions; each facet: what it changes of that on
        average over the others; with a cross between names, what they change together; "questions": what single
        questions change in all conditions alike; "the rest": questions and conditions together. Shares add up to 1,
        and are of single questions. The last row, ``ORDER_IN_ALL``, is the sum of those that name the order. Intervals:
        bootstrap over questions; of these wordings and pairs.
        """
        rows: dict[str, dict[str, Any]] = {}
        for measure, scores in self._measured():
            names, shares = variance_shares(scores)
            low, high = bootstrap_interval(
                shares, *_sums(scores), groups=self.groups[: len(scores)], n_resamples=N_DRAWS, weighted=True
            )
            value = shares(*_sums(scores), np.ones((1, len(scores))))[0]
            for name, *ends in zip(names, value, low, high, strict=True):
                row = rows.setdefault(name, {"what changes": name})
                row |= _named(measure, Estimate(*map(float, ends))) | {f"n_{measure}": len(scores)}
        return pd.DataFrame(list(rows.values()))

    @made_once
    def agreement(self) -> pd.DataFrame:
        """Two rankings of the same model that differ in one thing alone: mean Spearman correlation over all such pairs
        of rankings, and how many of the first ten they share. For questions: rankings of two halves of them."""
        rows = []
        for measure, scores in self._measured():
            shape = scores.shape[1:4]
            conditions = list(itertools.product(*map(range, shape)))
            cells = scores.reshape(len(scores), len(conditions), -1).astype(np.float64)
            counts = _draws(self.groups[: len(scores)], n=N_DRAWS // 4)
            means = np.einsum("de,ecm->dcm", counts / counts.sum(1, keepdims=True), cells)
            ordered = ranks(means)
            top = [np.argsort(-m, kind="stable")[:K] for m in means[0]]
            for facet, name in enumerate(FACETS):
                pairs = [
                    (i, j)
                    for (i, a), (j, b) in itertools.combinations(enumerate(conditions), 2)
                    if [x != y for x, y in zip(a, b, strict=True)] == [f == facet for f in range(3)]
                ]
                if not pairs:
                    continue
                each = np.stack([correlation_by_row(ordered[:, i], ordered[:, j]) for i, j in pairs])
                mean = np.tanh(np.arctanh(each.clip(-1 + 1e-9, 1 - 1e-9)).mean(0))
                row: dict[str, Any] = {"score": measure, "rankings differ in": name, "pairs": len(pairs)}
                row |= _named("spearman", around(mean[0], mean[1:]))
                row |= {"least": each[:, 0].min(), "most": each[:, 0].max()}
                row["of first ten, shared"] = float(np.mean([len(set(top[i]) & set(top[j])) for i, j in pairs]))
                rows.append(row | {"n": len(scores)})
            halves = [split_half(cells[:, c]).mean for c in range(len(conditions))]
            row = {"score": measure, "rankings differ in": "questions (halves)", "pairs": len(conditions)}
            row |= _named("spearman", Estimate(float(np.mean(halves)), np.nan, np.nan))
            rows.append(row | {"least": min(halves), "most": max(halves), "n": len(scores)})
        return pd.DataFrame(rows)

    def correlations(self) -> pd.DataFrame:
        """Does NAS say what a head does? Spearman's correlation over heads of mean NAS with the mean effect, sign and
        size, and of their absolute values (size alone); intervals from whole layers drawn with replacement. For each
        pair, over all wordings: the order as written, the other, and the mean of both."""
        rows = []
        both = [("all", slice(None)), *((" or ".join(pair), [p]) for p, pair in enumerate(self.pairs))]
        for name, at in both if len(self.effects) else ():
            nas, effect = (scores[:, :, at].mean((0, 1, 2)) for scores in (self.nas, self.effects))  # order layer head
            for order, of in (("as written", 0), ("swapped", 1), ("mean of both", slice(None))):
                a, b = (np.asarray(x[of], dtype=np.float64).reshape(-1, *x.shape[1:]).mean(0) for x in (nas, effect))
                row: dict[str, Any] = {"options": name, "order": order}
                for relation, f in (("sign_and_size", np.asarray), ("size", np.abs)):
                    (found,) = spearman_over_heads({"nas": f(a)}, f(b))
                    row |= _named(relation, Estimate(found["spearman"], found["ci_low"], found["ci_high"]))
                rows.append(row | {"n_heads": a.size, "n": len(self.nas), "n_effects": len(self.effects)})
        return pd.DataFrame(rows)

    def heads(self) -> pd.DataFrame:
        """The ten heads of highest NAS in the first wording and pair, over all of them: NAS and effect in both
        orders for each pair (means over wordings); in how many of the instructions the sign of NAS outlives the swap
        (``same_sign``), and in how many the head is among the first ten as written, and by the mean of both orders."""
        mean = self.nas.astype(np.float64).mean(0)  # wording pair order layer head
        effect = self.effects.astype(np.float64).mean(0) if len(self.effects) else np.full(mean.shape, np.nan)
        flat = mean.reshape(*mean.shape[:3], -1)
        n_heads = mean.shape[-1]
        first = [set(np.argsort(-cell, kind="stable")[:K]) for cell in flat[:, :, 0].reshape(-1, flat.shape[-1])]
        balanced = [set(np.argsort(-cell, kind="stable")[:K]) for cell in flat.mean(2).reshape(-1, flat.shape[-1])]
        rows = []
        for head in np.argsort(-flat[0, 0, 0], kind="stable")[:K]:
            layer, number = divmod(int(head), n_heads)
            row: dict[str, Any] = {"head": head_label(layer, number), "instructions": len(first)}
            row["same_sign"] = int((np.sign(flat[:, :, 0, head]) == np.sign(flat[:, :, 1, head])).sum())
            row["among first ten"] = sum(head in some for some in first)
            row["among first ten, balanced"] = sum(head in some for some in balanced)
            for p, pair in enumerate(self.pairs):
                name = " or ".join(pair)
                row[f"NAS {name}"] = mean[:, p, 0, layer, number].mean()
                row[f"swapped {name}"] = mean[:, p, 1, layer, number].mean()
            row["effect"], row["effect, swapped"] = effect[:, :, :, layer, number].mean((0, 1))
            rows.append(row)
        return pd.DataFrame(rows)


def variance_shares(scores: Scores):
    """The names of the parts, and a function of the sums of :func:`_sums` and of how often each example is drawn
    that gives their shares [draw, part]."""
    n_factors = 3
    shape = scores.shape[1 : 1 + n_factors]
    terms = [t for size in range(1, n_factors + 1) for t in itertools.combinations(range(n_factors), size)]
    terms = [t for t in terms if all(shape[f] > 1 for f in t)]
    with_order = [1 + i for i, term in enumerate(terms) if FACETS.index("order") in term]
    names = ["the head", *(" x ".join(FACETS[f] for f in t) for t in terms), "questions", "the rest", ORDER_IN_ALL]
    n_conditions = int(np.prod(shape))

    def shares(cells: np.ndarray, averages: np.ndarray, squares: np.ndarray, counts: np.ndarray) -> np.ndarray:
        n = counts.sum(1)
        mean = (counts @ cells / n[:, None]).reshape(len(counts), *shape, -1)  # [draw, wording, pair, order, head]
        axes = tuple(range(1, 1 + n_factors))
        parts = [(mean.mean(axes) ** 2).sum(1) * n_conditions]
        for term in terms:
            effect = np.zeros_like(mean)
            for size in range(len(term) + 1):
                for sub in itertools.combinations(term, size):
                    averaged = tuple(1 + f for f in range(n_factors) if f not in sub)
                    marginal = mean.mean(averaged, keepdims=True) if averaged else mean
                    effect = effect + (-1) ** (len(term) - size) * marginal
            parts.append((effect**2).sum(tuple(range(1, effect.ndim))))
        whole = counts @ squares / n
        across = (counts @ averages / n[:, None]) ** 2  # of what a question changes everywhere
        by_question = counts @ (averages**2).sum(1) / n - across.sum(1)
        parts.append(by_question * n_conditions)
        parts.append(whole - sum(parts))
        parts.append(sum(parts[i] for i in with_order))
        return np.stack(parts, axis=1) / whole[:, None]

    return names, shares


def _sums(scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each example, less the mean over heads of each condition: the cells, their mean over conditions, and the sum
    of their squares."""
    shape = scores.shape[1:4]
    cells = scores.reshape(len(scores), int(np.prod(shape)), -1).astype(np.float64)
    cells = cells - cells.mean(-1, keepdims=True)
    return cells.reshape(len(cells), -1), cells.mean(1), (cells**2).sum((1, 2))


def _draws(groups: tuple[str, ...], n: int = N_DRAWS) -> Float[np.ndarray, "draw example"]:
    """How often each example is drawn where whole groups are; the first row is the sample itself."""
    names, of = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    return np.concatenate([np.ones((1, len(groups))), drawn[:, of]]).astype(np.float64)


def _cells(scores: Float[np.ndarray, "example layer head"]) -> Float[np.ndarray, "example cell"]:
    return scores.reshape(len(scores), -1).astype(np.float64)


def _named(name: str, estimate: Estimate) -> dict[str, float]:
    return estimate.columns(name)

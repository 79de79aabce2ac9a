"""From answers under several scenarios to numbers: negative bias in each subset, its change, its parts, and claims.

All in terms of what an answer *means*: it denies the question or affirms it, whatever its words. With gold the answer
to the question as it was before a scenario turned it,

    negative bias  NB  = P(denies | gold Yes) - P(affirms | gold No)                              in [-1, 1]
    log odds of No L   = mean of log P(denying option) / P(affirming option), over gold Yes and over gold No, halved

NB in terms of the *word* is the same with "says the No word where it is wrong". It equals NB, except where the question
is turned round, where No affirms: there it is -NB. So, with one wrapping W ("was this person right?") and its turned
twin T ("... wrong?"), in terms of meaning,

    word part    = (NB(W) - NB(T)) / 2        meaning part = (NB(W) + NB(T)) / 2

A model that always says No has NB(W) = 1 and NB(T) = -1: word 1, meaning 0. One that always denies has 1 and 1: word 0,
meaning 1. In multiple choice likewise, with B the letter of No in one assignment M and of Yes in the other R,

    content part = (NB(M) + NB(R)) / 2        letter part = (NB(M) - NB(R)) / 2     above 0: a taste for B (or the end)

NB saturates at 1; L does not, and tells a model that answers No a little more gladly from one that does so very much.
For a model that always says one word, parts of NB and changes of it are arithmetic: word 1 and meaning 0, whatever it
knows. So a claim is decided by L where NB is at its ceiling (``CEILING``): where nearly all answers that it rests on
are one word, or where NB could not grow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Num

from interp.door.brief import brief
from interp.statistics import UNKNOWN, Claim, Estimate, bootstrap_interval, difference_of, paired_share_change
from interp.statistics.shares import wilson_of

FORMATS = (
    "plain",
    "swapped_order",
    "wrapped",
    "turned_round",
    "multiple_choice",
    "multiple_choice_reversed",
    "true_false",
)
CEILING = 0.95  # share of answers that are one word, or NB, from which NB says nothing
MANY_OUTSIDE = 0.2
SUMS = {  # parts of NB and of the log odds: what each scenario is multiplied by
    "word": {"wrapped": 0.5, "turned_round": -0.5},
    "meaning": {"wrapped": 0.5, "turned_round": 0.5},
    "word_from_plain": {"plain": 0.5, "turned_round": -0.5},
    "meaning_from_plain": {"plain": 0.5, "turned_round": 0.5},
    "content": {"multiple_choice": 0.5, "multiple_choice_reversed": 0.5},
    "letter": {"multiple_choice": 0.5, "multiple_choice_reversed": -0.5},
    "reasoning": {"chain_of_thought": 1.0, "answer_prefix": -1.0},
}
SHARES = ("bias", "bias_level", "accuracy")  # shares, and a difference of two of other questions
CONTESTS = {  # which of two parts is larger
    "word_over_meaning": ("word", "meaning"),
    "word_over_meaning_from_plain": ("word_from_plain", "meaning_from_plain"),
    "letter_over_content": ("letter", "content"),
}
LEVEL = "a level, no contrast"  # any model that leans to No has it
SHOWN, REVERSED, NOT_SHOWN, TOO_FEW = "shown", "reversed", "not shown", "too few questions"


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the answers mean, for every question under every scenario."""

    scenarios: tuple[str, ...]
    subsets: Mapping[str, Bool[np.ndarray, " example"]]  # "all" first
    gold: Bool[np.ndarray, " example"]  # the answer to the untouched question is Yes
    denies: Bool[np.ndarray, "example scenario"]
    affirms: Bool[np.ndarray, "example scenario"]
    abstains: Bool[np.ndarray, "example scenario"]
    log_odds_no: Float[np.ndarray, "example scenario"]
    groups: tuple[str, ...]  # questions of one group (twins) are resampled together
    domains: tuple[str, ...] = ()  # of the questions; () where they are of one

    __repr__ = brief

    def index(self, scenario: str) -> int:
        return self.scenarios.index(scenario)


@dataclass(frozen=True, eq=False)
class Numbers:
    """Point values and intervals of everything that is bootstrapped; arrays [subset, scenario] or [subset]."""

    value: dict[str, np.ndarray]
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]

    __repr__ = brief

    def at(self, name: str, *where: int) -> tuple[float, float, float]:
        """Value and interval of one number."""
        return tuple(float(part[name][where]) for part in (self.value, self.low, self.high))


def compute(outcomes: Outcomes, n_resamples: int, confidence: float, seed: int) -> Numbers:
    """All numbers with bootstrap intervals over groups of questions: one draw serves all of them, so
    differences between scenarios are paired."""
    masks = np.stack(list(outcomes.subsets.values()), axis=1)
    examples = (masks, outcomes.gold, outcomes.denies, outcomes.affirms, outcomes.abstains, outcomes.log_odds_no)
    domains = np.unique(outcomes.domains or np.zeros(len(outcomes.gold)), return_inverse=True)[1]
    examples = (*examples, 2 * domains + outcomes.gold)
    numbers = partial(_numbers, outcomes.scenarios, tuple(outcomes.subsets))
    value = numbers(*examples)
    interval = bootstrap_interval(
        lambda *drawn: np.concatenate([part.ravel() for part in numbers(*drawn).values()]),
        *examples,
        groups=outcomes.groups,
        confidence=confidence,
        n_resamples=n_resamples,
        seed=seed,
    )
    low, high = _unravel(interval.low, value), _unravel(interval.high, value)
    limits = {"bias_spread": (0, 2)} | {f"bias_{name}": (-1, 1) for name in CONTESTS}
    for name, (down, up) in _reaches(outcomes, value).items():
        ends = np.clip([value[name] - down, value[name] + up], *limits.get(name, (-2, 2)))
        # a share has its formula; of other numbers only where all answers agree: resampled ones do, too
        wider = np.ones_like(low[name], dtype=bool) if name in SHARES else low[name] == high[name]
        low[name] = np.where(wider, np.fmin(low[name], ends[0]), low[name])
        high[name] = np.where(wider, np.fmax(high[name], ends[1]), high[name])
    for name in ("bias_change", "odds_change", "accuracy_change"):  # plain less plain is 0 by definition: no number
        for part in (value, low, high):
            part[name][:, outcomes.index("plain")] = np.nan
    return Numbers(value, low, high)


def _numbers(
    scenarios: tuple[str, ...],
    subsets: tuple[str, ...],
    masks: Bool[np.ndarray, "example subset"],
    gold: Bool[np.ndarray, " example"],
    denies: Bool[np.ndarray, "example scenario"],
    affirms: Bool[np.ndarray, "example scenario"],
    abstains: Bool[np.ndarray, "example scenario"],
    log_odds: Float[np.ndarray, "example scenario"],
    cells: Num[np.ndarray, " example"],
) -> dict[str, np.ndarray]:
    yes, no = (masks & gold[:, None]).T.astype(float), (masks & ~gold[:, None]).T.astype(float)
    answered = (~abstains).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):  # a subset without a gold answer gives NaN
        n_yes, n_no = yes.sum(1, keepdims=True), no.sum(1, keepdims=True)
        bias = yes @ denies / (yes @ answered) - no @ affirms / (no @ answered)
        odds = (yes @ log_odds / n_yes + no @ log_odds / n_no) / 2
        right = (yes @ affirms + no @ denies) / (yes @ answered + no @ answered)
        plain = scenarios.index("plain")
        numbers = {"bias": bias, "odds": odds, "accuracy": right}
        numbers |= {
            f"{name}_change": numbers[name] - numbers[name][:, [plain]] for name in ("bias", "odds", "accuracy")
        }
        if "idk" in scenarios:
            seen = answered[:, [scenarios.index("idk")]]
            same = yes @ (denies * seen) / (yes @ seen) - no @ (affirms * seen) / (no @ seen)
            numbers["bias_idk_same"] = bias[:, scenarios.index("idk")] - same[:, plain]
    if "correct" in subsets and "insufficient" in subsets:
        known, unknown = (masks[:, subsets.index(name)].astype(float) for name in ("correct", "insufficient"))
        numbers["bias_insufficient_within"] = 2 * _within(denies.astype(float), unknown, known, cells)
        numbers["odds_insufficient_within"] = _within(log_odds, unknown, known, cells)
    for kind, table in (("bias", bias), ("odds", odds)):
        numbers[f"{kind}_level"] = table
        numbers |= {f"{kind}_{name}": part for name, part in _parts(scenarios, table).items()}
        if "correct" in subsets and "insufficient" in subsets:
            known, unknown = subsets.index("correct"), subsets.index("insufficient")
            numbers[f"{kind}_insufficient_minus_correct"] = table[unknown] - table[known]
    return numbers


def _within(
    values: Float[np.ndarray, "example scenario"],
    first: Float[np.ndarray, " example"],
    second: Float[np.ndarray, " example"],
    cells: Num[np.ndarray, " example"],
) -> Float[np.ndarray, " scenario"]:
    """The mean of the first less that of the second within cells (a domain and a gold answer), averaged over the cells
    that have both, by n1 n2 / (n1 + n2): the least-squares coefficient with a constant for each cell."""
    of_cell = cells[:, None] == np.unique(cells)
    n = [of_cell.T @ mask for mask in (first, second)]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [of_cell.T @ (mask[:, None] * values) / k[:, None] for mask, k in zip((first, second), n, strict=True)]
        weight = np.nan_to_num(n[0] * n[1] / (n[0] + n[1]))
        return weight @ np.nan_to_num(means[0] - means[1]) / weight.sum()


def _parts(scenarios: tuple[str, ...], table: Float[np.ndarray, "subset scenario"]) -> dict[str, np.ndarray]:
    """Half sums and half differences, as told at the top of this module, and the spread over the formats."""
    column = {name: table[:, i] for i, name in enumerate(scenarios)}
    parts = {name: sum(c * column[of] for of, c in sums.items()) for name, sums in SUMS.items() if {*sums} <= {*column}}
    parts |= {name: np.abs(parts[a]) - np.abs(parts[b]) for name, (a, b) in CONTESTS.items() if a in parts}
    formats = [column[name] for name in FORMATS if name in column]
    if len(formats) > 1:
        parts["spread"] = np.max(formats, axis=0) - np.min(formats, axis=0)
    return parts


def _reaches(outcomes: Outcomes, value: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """How far below and above its value a number reaches, from the Wilson intervals of the shares that it is made of.

    For where all answers of its cells agree, and resampled ones too. Distances of terms are added by their squares
    (MOVER; Zou and Donner 2008, Stat. Med. 27), as if two scenarios had different questions: a little too wide. A
    change is paired (Bonett and Price 2012).
    """
    masks, answered = np.stack(list(outcomes.subsets.values())), ~outcomes.abstains
    yes, no = masks & outcomes.gold, masks & ~outcomes.gold
    wrong_no, wrong_yes = _wilson(yes, outcomes.denies, answered), _wilson(no, outcomes.affirms, answered)
    right = np.where(outcomes.gold[:, None], outcomes.affirms, outcomes.denies)
    bias = np.hypot(wrong_no[0], wrong_yes[1]), np.hypot(wrong_no[1], wrong_yes[0])
    reaches = {"bias": bias, "bias_level": bias, "bias_change": _paired(yes, no, outcomes)}
    reaches |= {"accuracy": _wilson(masks, right, answered), "accuracy_change": _paired(masks, None, outcomes)}
    column = {name: i for i, name in enumerate(outcomes.scenarios)}
    for name, sums in SUMS.items():
        if {*sums} <= {*column}:
            sides = [[(c, bias[(c < 0) ^ above][:, column[of]]) for of, c in sums.items()] for above in (False, True)]
            down, up = (np.sqrt(sum((c * reach) ** 2 for c, reach in side)) for side in sides)
            reaches[f"bias_{name}"] = down, up
    for name, (a, b) in CONTESTS.items():
        if f"bias_{a}" in reaches:
            either = np.hypot(np.maximum(*reaches[f"bias_{a}"]), np.maximum(*reaches[f"bias_{b}"]))
            reaches[f"bias_{name}"] = either, either
    if "idk" in column:
        idk = column["idk"]
        reaches["bias_idk_same"] = tuple(x[:, idk] for x in reaches["bias_change"])
    if {"correct", "insufficient"} <= {*outcomes.subsets}:
        known, unknown = (list(outcomes.subsets).index(name) for name in ("correct", "insufficient"))
        apart = np.hypot(bias[0][unknown], bias[1][known]), np.hypot(bias[1][unknown], bias[0][known])
        reaches |= {"bias_insufficient_minus_correct": apart, "bias_insufficient_within": apart}
    formats = [column[name] for name in FORMATS if name in column]
    if len(formats) > 1:
        widest = np.hypot(*(side[:, formats].max(1) for side in bias))
        reaches["bias_spread"] = widest, widest
    return {name: reach for name, reach in reaches.items() if name in value}


def _paired(
    first: Bool[np.ndarray, "subset example"], second: Bool[np.ndarray, "subset example"] | None, outcomes: Outcomes
) -> tuple[Float[np.ndarray, "subset scenario"], Float[np.ndarray, "subset scenario"]]:
    """How far a change from plain reaches: of wrong No less wrong Yes, or (``second`` None) of right answers."""
    right = np.where(outcomes.gold[:, None], outcomes.affirms, outcomes.denies)
    plain, reach = outcomes.index("plain"), np.zeros((2, len(first), len(outcomes.scenarios)))
    for k, i in np.ndindex(reach.shape[1:]):
        both = ~(outcomes.abstains[:, i] | outcomes.abstains[:, plain])

        def change(of: np.ndarray, hits: np.ndarray, both=both, k=k, i=i) -> Estimate:
            return paired_share_change(hits[of[k] & both, i], hits[of[k] & both, plain])

        if second is None:
            found = change(first, right)
        else:
            found = difference_of(change(first, outcomes.denies), change(second, outcomes.affirms))
        reach[:, k, i] = found.value - found.low, found.high - found.value
    return reach[0], reach[1]


def _wilson(
    of: Bool[np.ndarray, "subset example"],
    hits: Bool[np.ndarray, "example scenario"],
    answered: Bool[np.ndarray, "example scenario"],
) -> tuple[Float[np.ndarray, "subset scenario"], Float[np.ndarray, "subset scenario"]]:
    """How far the Wilson interval of a share of the answered questions reaches below it, and above."""
    n, k = (of.astype(float) @ which.astype(float) for which in (answered, hits & answered))
    shares = [wilson_of(a / b, b) if b else UNKNOWN for a, b in zip(k.flat, n.flat, strict=True)]
    down, up = np.array([(s.value - s.low, s.high - s.value) for s in shares]).T
    return down.reshape(n.shape), up.reshape(n.shape)


def _unravel(flat: np.ndarray, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    result, start = {}, 0
    for name, array in like.items():
        size = np.size(array)
        result[name] = flat[start : start + size].reshape(np.shape(array))
        start += size
    return result


def parts_table(outcomes: Outcomes, numbers: Numbers) -> pd.DataFrame:
    """How much of the bias follows the word, the letter and the form, for each subset: NB and log odds with
    intervals."""
    texts = {
        "word": "word part: follows the word No (wrapped, turned_round)",
        "meaning": "meaning part: follows denying (wrapped, turned_round)",
        "word_from_plain": "word part (plain, turned_round)",
        "meaning_from_plain": "meaning part (plain, turned_round)",
        "letter": "letter part: a taste for B in multiple choice",
        "content": "content part: for No in multiple choice, whatever its letter",
        "spread": "spread over the formats (largest less smallest; noise alone gives more than 0)",
    }
    rows = []
    for name, text in texts.items():
        for k, subset in enumerate(outcomes.subsets):
            if f"bias_{name}" in numbers.value:
                row = {"part": text, "subset": subset, "n": int(outcomes.subsets[subset].sum())}
                row |= _named("negative_bias", numbers.at(f"bias_{name}", k))
                rows.append(row | _named("log_odds_no", numbers.at(f"odds_{name}", k)))
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Contrast:
    """One number that a claim is about: which, what the claim expects of it, and the cells that it stands on."""

    claim: str
    contrast: str
    subset: str
    side: int  # 1: the claim says above 0; -1: below 0
    name: str  # in Numbers, after "bias_" and "odds_"
    where: tuple[int, ...]
    needs: tuple[tuple[str, str], ...]  # (subset, scenario)


def claims_table(outcomes: Outcomes, numbers: Numbers, min_per_class: int) -> pd.DataFrame:
    """What these answers say to each claim of arXiv 2511.10881, by rule.

    ``verdict``: "shown" if the whole interval of the number is on the claim's side of 0, "reversed" if on the other,
    "not shown" if it holds 0; "too few questions" if a cell that it needs has fewer than ``min_per_class`` answered
    questions of either gold answer. A level that stands there for comparison has none. ``decided_by``: the number,
    "NB", or "log odds" where NB is at its ceiling. ``log_odds_verdict`` is the same rule on the log odds. ``note`` says
    why a change can't show, and where many answers are none of the options.
    """
    rows = []
    for c in _contrasts(outcomes):
        if f"bias_{c.name}" not in numbers.value:
            continue  # a scenario that it needs was not run
        counts = [_answered(outcomes, subset, scenario) for subset, scenario in c.needs]
        enough = min(min(pair) for pair in counts) >= min_per_class
        bias = numbers.at(f"bias_{c.name}", *c.where)
        odds = numbers.at(f"odds_{c.name}", *c.where) if f"odds_{c.name}" in numbers.value else None
        row: dict[str, Any] = {"claim": c.claim, "contrast": c.contrast, "subset": c.subset}
        row |= {"n": min(sum(pair) for pair in counts), "expected": "above 0" if c.side > 0 else "below 0"}
        of_odds = verdict(odds, c.side, enough) if odds else "not measured"
        by_odds = odds is not None and at_ceiling(outcomes, numbers, c)
        row["verdict"] = of_odds if by_odds else verdict(bias, c.side, enough)
        row |= {"decided_by": "log odds" if by_odds else "NB", **_named("negative_bias", bias)}
        row["log_odds_verdict"] = of_odds
        if c.name == "level" and enough:
            row |= {"verdict": LEVEL, "log_odds_verdict": LEVEL, "decided_by": ""}
        row |= _named("log_odds_no", odds or (np.nan,) * 3)
        rows.append(row | {"note": _note(outcomes, numbers, c)})
    return pd.DataFrame(rows)


def _contrasts(outcomes: Outcomes) -> list[Contrast]:
    subsets, index = list(outcomes.subsets), {name: i for i, name in enumerate(outcomes.scenarios)}
    plain, found = index["plain"], []
    if "insufficient" in subsets:
        claim, unknown = "Says No when knowledge is insufficient", ("insufficient", "plain")
        where = (subsets.index("insufficient"), plain)
        contrast, needs = "plain: insufficient less correct knowledge", (unknown, ("correct", "plain"))
        found.append(Contrast(claim, contrast, "insufficient", 1, "insufficient_minus_correct", (plain,), needs))
        within = "the same, within domains and gold answers"
        found.append(Contrast(claim, within, "insufficient", 1, "insufficient_within", (plain,), needs))
        found.append(Contrast(claim, "plain, itself", "insufficient", 1, "level", where, (unknown,)))
    context, idk = "Context reduces the bias", '"I don\'t know" reduces the bias'
    think, form = "Chain of thought amplifies the bias", "Format matters more than meaning"
    changes = (
        (context, "relevant passage less plain", -1, "relevant_passage"),
        (context, "control: irrelevant passage less plain", -1, "irrelevant_passage"),
        (idk, "what was answered with that option, less plain", -1, "idk"),
        (think, "chain of thought less plain", 1, "chain_of_thought"),
    )
    others = (
        (idk, "the same, plain on the same questions", -1, "idk_same", "idk"),
        (think, "control: chain of thought less its answer prefix alone", 1, "reasoning", "chain_of_thought"),
        (form, "|word part| less |meaning part| (wrapped, turned_round)", 1, "word_over_meaning", "turned_round"),
        (form, "the same from plain and turned_round", 1, "word_over_meaning_from_plain", "turned_round"),
        (form, "|letter part| less |content part| (multiple choice)", 1, "letter_over_content", "multiple_choice"),
    )
    straight = {"word_over_meaning": "wrapped", "word_over_meaning_from_plain": "plain"}
    straight["letter_over_content"] = "multiple_choice_reversed"
    for k, subset in enumerate(subsets):
        if subset in ("all", "insufficient"):
            for claim, contrast, side, scenario in changes:
                if scenario in index:
                    needs = ((subset, scenario), (subset, "plain"))
                    found.append(Contrast(claim, contrast, subset, side, "change", (k, index[scenario]), needs))
            for claim, contrast, side, name, scenario in others:
                if scenario in index:
                    needs = tuple((subset, s) for s in (scenario, straight.get(name)) if s in index)
                    found.append(Contrast(claim, contrast, subset, side, name, (k,), needs))
    return sorted(found, key=lambda c: [x.claim for x in found].index(c.claim))


def at_ceiling(outcomes: Outcomes, numbers: Numbers, contrast: Contrast) -> bool:
    """Whether NB can't say anything to a claim: all cells that it rests on are nearly always answered with one word, or
    it says that NB grows and NB is at its largest already."""
    one_word = []
    for subset, scenario in contrast.needs:
        i, mask = outcomes.index(scenario), outcomes.subsets[subset]
        said = [of[mask, i].mean() if mask.any() else 0.0 for of in (outcomes.denies, outcomes.affirms)]
        one_word.append(max(said) >= CEILING)
    plain, _, _ = numbers.at("bias", list(outcomes.subsets).index(contrast.subset), outcomes.index("plain"))
    can_grow = contrast.side < 0 or contrast.name not in ("change", "reasoning") or plain < CEILING
    return all(one_word) or not can_grow


def verdict(number: tuple[float, float, float], side: int, enough: bool) -> str:
    """The claims' rule: where the interval stands; ``side`` is 1 for a claim of "above 0" and -1 for "below 0".

    >>> verdict((0.2, 0.1, 0.3), 1, True), verdict((0.2, -0.1, 0.3), 1, True), verdict((0.2, 0.1, 0.3), -1, True)
    ('shown', 'not shown', 'reversed')
    """
    claim = Claim("", Estimate(*number), side="above" if side > 0 else "below", n=int(enough), fewest=1)
    if claim.verdict == "too few":
        return TOO_FEW
    return SHOWN if claim.is_shown else REVERSED if claim.is_reversed else NOT_SHOWN


def _note(outcomes: Outcomes, numbers: Numbers, contrast: Contrast) -> str:
    notes = []
    subset = list(outcomes.subsets).index(contrast.subset)
    plain = Estimate(*numbers.at("bias", subset, outcomes.index("plain")))
    if contrast.name in ("change", "idk_same", "insufficient_minus_correct"):
        if contrast.side > 0 and plain.value > CEILING:
            notes.append(f"NB of plain is {plain.value:.2f}: no room to grow, see the log odds")
        if contrast.side < 0 and plain.side_of(0) <= 0:
            notes.append(f"NB of plain is {plain:.2f}, not shown to be above 0: no negative bias to reduce")
    for key, scenario in contrast.needs:
        i = outcomes.index(scenario)
        said = outcomes.denies[:, i] | outcomes.affirms[:, i] | outcomes.abstains[:, i]
        outside = 1 - said[outcomes.subsets[key]].mean() if outcomes.subsets[key].any() else 0.0
        if outside > MANY_OUTSIDE:
            notes.append(f"{outside:.0%} of the answers of {scenario} ({key}) are none of the options")
    return "; ".join(notes)


def _answered(outcomes: Outcomes, subset: str, scenario: str) -> tuple[int, int]:
    """Questions with gold Yes and with gold No that were not abstained from."""
    answered = outcomes.subsets[subset] & ~outcomes.abstains[:, outcomes.index(scenario)]
    return int((answered & outcomes.gold).sum()), int((answered & ~outcomes.gold).sum())


def _named(name: str, number: Sequence[float]) -> dict[str, float]:
    return {name: number[0], f"{name}_low": number[1], f"{name}_high": number[2]}

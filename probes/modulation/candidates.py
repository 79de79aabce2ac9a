"""Which modulations are tried: V-SEAM's rule at several strengths, the top k of a ranking, searched factors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from interp.door.brief import brief
from interp.fitting import (
    VALUES,
    FactorSearch,
    coordinate_search,
    factors_by_rule,
    factors_top_k,
    gradient_search,
    strength_for,
)
from interp.rankings import HeadRanking
from interp.records import load_artefact, save_artefact, understood
from interp.scans import Positions
from probes.modulation.readings import ItemSet
from probes.modulation.result import RELEASED, Candidate
from probes.studies import Study

Rule = Literal["released", "top-k", "search"]
RULES: tuple[Rule, ...] = ("released", "top-k", "search")
HURTS = ("nas", "nas_order_balanced", "nas_swapped_order", "s_minus", "follows_hint")
"""Measures of this package whose high values mark heads that hurt."""


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Scores of heads, each a table [layer, head]. ``signed``: above 0 the head helps, below it hurts. ``positive``:
    how much it helps, ``negative``: how much it hurts, where they are measures of their own (S+, S-).

    ``made_on``: ids, and other marks, of the questions that made them. ``about``: for provenance, with the
    ``weights_sha256`` of the model if that is known.
    """

    name: str
    signed: Float[np.ndarray, "layer head"]
    positive: Float[np.ndarray, "layer head"]
    negative: Float[np.ndarray, "layer head"]
    made_on: frozenset[str] = frozenset()
    about: Mapping[str, Any] = field(default_factory=dict)

    __repr__ = brief


def scores_of_ranking(
    ranking: HeadRanking, measure: str | None = None, high: Literal["helps", "hurts"] | None = None
) -> HeadScores:
    """The means of a ranking's measure (the ranked one by default), as scores of heads.

    ``high``: what high values say of a head; by default "hurts" for NAS and S- (:data:`HURTS`), "helps" for all others.
    Misleads where a measure says neither: NAS says where a head looks, an effect on logit(No) - logit(Yes) which way it
    pushes, whatever is right.

    Raises ``ValueError`` for a measure that the ranking does not have.
    """
    measure = measure or ranking.score
    if measure not in ranking.measures:
        raise ValueError(f"the ranking has no measure {measure!r}; expected one of {sorted(ranking.measures)}.")
    if high not in (None, "helps", "hurts"):
        raise ValueError(f"high={high!r}; expected 'helps', 'hurts' or None.")
    hurts = (high or ("hurts" if measure in HURTS else "helps")) == "hurts"
    signed = ranking.measures[measure].astype(np.float64).mean(0) * (-1 if hurts else 1)
    known = ranking.provenance.get("model")
    about = {
        "ranking": ranking.provenance.get("run_id"),
        "measure": measure,
        "high": "hurts" if hurts else "helps",
        "weights_sha256": known.get("weights_sha256") if isinstance(known, Mapping) else None,
    }
    name = f"{measure}{', high is bad' * hurts}"
    return HeadScores(name, signed, signed, -signed, frozenset(ranking.example_ids), about)


@dataclass(frozen=True)
class ModulationSettings:
    """What is tried, and how it is chosen.

    Args:
        rules: families of candidates: "released" (the paper's rule on all heads), "top-k", "search".
        largest: strengths of the rule, besides the released λ = 1, as the largest |factor - 1| that they give, so that
            scores of any unit are tried alike.
        ks, up_down: numbers of heads, and factors for the first and for the last k.
        searches: "gradient" (all heads, once for each of ``pulls``), "coordinate" (head by head).
        pulls: weights of sum of (factor - 1)^2 in the loss of the search by gradient.
        learning_rate, steps: of the search by gradient.
        heads: best and worst heads of the scores that the search head by head tries, each at ``values``.
        values: factors that it tries.
        rounds: over all these heads, at most.
        positions: where factors act in the search head by head; the edit itself acts everywhere ("all").
        held_back: the share of the questions to fit on that a search is stopped by, between 0 and 1.
        choose_by: what decides on validation, "accuracy" or "gold_prob"; ties go to the gold answer's probability.
        n_random: draws of random heads (19 or more for a p of 0.05).
        target: the gain in accuracy that is aimed at, as a share.
        seed: of what is held back, of the search by gradient, and of the random heads.

    Raises:
        ValueError: an unknown rule, search or ``choose_by``, and a number outside its range.
    """

    rules: tuple[Rule, ...] = RULES
    largest: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    ks: tuple[int, ...] = (5, 10, 20)
    up_down: tuple[tuple[float, float], ...] = ((1.5, 1.0), (1.0, 0.5), (1.5, 0.5), (2.0, 0.0))
    searches: tuple[Literal["gradient", "coordinate"], ...] = ("gradient", "coordinate")
    pulls: tuple[float, ...] = (0.001, 0.01)
    learning_rate: float = 0.03
    steps: int = 60
    heads: int = 10
    values: tuple[float, ...] = VALUES
    rounds: int = 3
    positions: Positions = "all"
    held_back: float = 0.25
    choose_by: Literal["accuracy", "gold_prob"] = "accuracy"
    n_random: int = 10
    target: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rules or not set(self.rules) <= set(RULES):
            raise ValueError(f"rules={self.rules}; expected some of {', '.join(RULES)}.")
        if not set(self.searches) <= {"gradient", "coordinate"}:
            raise ValueError(f"searches={self.searches}; expected 'gradient', 'coordinate', or both.")
        if self.choose_by not in ("accuracy", "gold_prob"):
            raise ValueError(f"choose_by={self.choose_by!r}; expected 'accuracy' or 'gold_prob'.")
        numbers = [*self.largest, *self.pulls, *self.values, *(f for pair in self.up_down for f in pair), self.target]
        if not all(isfinite(x) and x >= 0 for x in numbers):
            raise ValueError("largest, pulls, values, up_down and target must be finite numbers, none below 0.")
        if not 0 < self.held_back < 1:
            raise ValueError(f"held_back={self.held_back}; expected a share between 0 and 1, such as 0.25.")
        if self.n_random < 0 or min((*self.ks, self.heads, self.rounds, self.steps)) < 1:
            raise ValueError("ks, heads, rounds and steps must be 1 or more, and n_random 0 or more.")


def planned(scope: str, scores: HeadScores, settings: ModulationSettings) -> list[Candidate]:
    """The candidates that follow from the scores alone."""
    found = []
    if "released" in settings.rules:
        of_unit = f"in the unit of {scores.name}: the release has D"
        found.append(Candidate(scope, RELEASED, RELEASED, factors_by_rule(scores.signed, 1.0), of_unit))
        for largest in settings.largest:
            strength = strength_for(scores.signed, largest)
            name = f"rule, largest change {largest:g}"
            factors = factors_by_rule(scores.signed, strength)
            found.append(Candidate(scope, "rule", name, factors, f"λ = {strength:.4g}"))
    if "top-k" in settings.rules:
        tables = {"": (scores.positive, scores.negative)}
        if not (np.array_equal(scores.positive, scores.signed) and np.array_equal(scores.negative, -scores.signed)):
            tables = {" by S+ and S-": tables[""], " by D": (scores.signed, -scores.signed)}
        for by, (positive, negative) in tables.items():
            for k in sorted({min(k, scores.signed.size) for k in settings.ks}):
                for up, down in settings.up_down:
                    factors = factors_top_k(positive, negative, k, up, down)
                    found.append(Candidate(scope, "top-k", f"top {k}{by}: up {up:g}, down {down:g}", factors))
    return found


def searched(
    study: Study,
    number: int,
    scope: str,
    scores: HeadScores,
    fit: ItemSet,
    settings: ModulationSettings,
    memory_mib: float,
    say: Callable[[str], None] | None,
) -> tuple[list[Candidate], list[dict[str, Any]]]:
    """Factors searched on ``fit``, a part of it held back (whole groups), and the searches look by look.

    They are a step of the study: a finished search is read back, and a killed one goes on."""
    if "search" not in settings.rules:
        return [], []
    part, held = divided(fit, settings.held_back, settings.seed)
    found, history = [], []
    folder, key = study.step(f"scope-{number}"), f"{study.id} {number}"
    plans = _searches(study, scores, part, held, settings, memory_mib, key)
    for order, (name, search) in enumerate(plans.items()):
        place = None if folder is None else folder / f"search-{order}"
        own = f"{key} {name}"  # so that no search is taken for another
        if (done := _read_back(place, own)) is None:
            if say is not None:
                say(f"{scope or 'all'} questions: factors {name}, on {len(part)}, stopped by {len(held)} held back")
            result = search(place)
            note = (
                f"loss of {len(part)} searched on {result.loss_before:.3f} to {result.loss:.3f}, of {len(held)} held "
                f"back {result.held_back_before:.3f} to {result.held_back:.3f}; {result.stopped}"
            )
            done = {"factors": result.factors, "note": note, "history": list(result.history)}
            _put_away(place, own, done)
        found.append(Candidate(scope, "search", name, done["factors"], done["note"]))
        history += [{"scope": scope, "candidate": name, **row} for row in done["history"]]
    return found, history


def _searches(
    study: Study,
    scores: HeadScores,
    part: ItemSet,
    held: ItemSet,
    settings: ModulationSettings,
    memory_mib: float,
    key: str,
) -> dict[str, Callable[[Path | None], FactorSearch]]:
    """Every search by its name, still to be called with the folder that keeps it."""

    def by_gradient(pull: float) -> Callable[[Path | None], FactorSearch]:
        return lambda keep: gradient_search(
            study.model,
            part.prompts,
            held_back=held.prompts,
            pull=pull,
            learning_rate=settings.learning_rate,
            steps=settings.steps,
            batch_size=study.batch_size,
            seed=settings.seed,
            keep=keep,
            key=f"{key} pull {pull:g}",
        )

    best, worst = (order_of(table)[: settings.heads] for table in (scores.positive, scores.negative))

    def by_coordinates(keep: Path | None) -> FactorSearch:
        return coordinate_search(
            study.model,
            part.prompts,
            [*best, *worst],
            held_back=held.prompts,
            values=settings.values,
            rounds=settings.rounds,
            positions=settings.positions,
            memory_mib=memory_mib,
            keep=keep,
            key=f"{key} head by head",
        )

    plans = {}
    if "gradient" in settings.searches:
        plans |= {f"searched by gradient, pull {pull:g}": by_gradient(pull) for pull in settings.pulls}
    if "coordinate" in settings.searches and (best or worst):
        plans[f"searched head by head, {len(set([*best, *worst]))} heads"] = by_coordinates
    return plans


def divided(given: ItemSet, share: float, seed: int) -> tuple[ItemSet, ItemSet]:
    """The items without a share of their groups, and those of that share. Raises ``ValueError`` for fewer than two
    groups."""
    groups = sorted({item.group or item.id for item in given.items})
    if len(groups) < 2:
        raise ValueError(
            f"the {len(given)} questions to fit on are of {len(groups)} picture or passage; a search needs two at "
            "least, since it is stopped by questions about others. Give more, or leave out the search."
        )
    rng = np.random.default_rng((seed, 11))
    n = int(np.clip(round(share * len(groups)), 1, len(groups) - 1))
    held = {groups[i] for i in rng.permutation(len(groups))[:n]}
    is_held = [(item.group or item.id) in held for item in given.items]
    return given.at(np.flatnonzero(~np.array(is_held))), given.at(np.flatnonzero(is_held))


def order_of(table: Float[np.ndarray, "layer head"]) -> list[tuple[int, int]]:
    """Heads from the highest score down, those above 0."""
    order = np.argsort(-table, axis=None, kind="stable")
    return [divmod(int(i), table.shape[1]) for i in order if table.ravel()[i] > 0]


def _read_back(place: Path | None, key: str) -> dict[str, Any] | None:
    if place is None or not (place / "found.json").is_file():
        return None
    try:
        record, tensors = load_artefact(place, "found")
        with understood(place / "found.json"):
            if record["key"] != key:
                return None
            return {"factors": tensors["factors"].numpy(), "note": record["note"], "history": record["history"]}
    except (FileNotFoundError, ValueError) as error:
        warnings.warn(f"a finished search is not used, and made again: {error}", stacklevel=3)
        return None


def _put_away(place: Path | None, key: str, done: Mapping[str, Any]) -> None:
    if place is not None:
        record = {"key": key, "note": done["note"], "history": done["history"]}
        save_artefact(place, "found", record, {"factors": torch.from_numpy(done["factors"].copy())})

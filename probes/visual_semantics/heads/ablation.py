"""One level's top heads ablated together on every level's questions, beside random heads of the same layers.

The released code of V-SEAM (arXiv 2509.14837) checks its heads so, by zeroing them, against random sets. Here the heads
of each level are also ablated on the *other* levels' questions, which is where "positive heads differ between levels"
and "negative heads generalise across levels" can be seen in what the model does, and not in a list of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.door import public
from interp.edits import require_edits
from interp.interventions import Branch, HeadEdit
from interp.models import Model
from interp.records import hash_json, keep_parts_of, keeps_work
from interp.scans import IsMostProbable, Positions, scan_readings
from interp.statistics import Estimate, bootstrap_interval, paired_share_change
from probes.heads import Head, check_once, interval_of, permutation_p, random_sets
from probes.studies import Run, mass_read
from probes.visual_semantics.heads.passes import GOLD, PromptsOf, clean_answers, run_step, say_how_long
from probes.visual_semantics.heads.result import VisualHeads
from probes.visual_semantics.heads.scores import NAMES, RELU
from probes.visual_semantics.questions import Asked, VisualExample, asked_of, asking_of, describe_asked

SetEdit = Literal["zero", "mean_of_others"]
MEASURES = {"accuracy": "accuracy", "gold_prob": "probability of the gold answer"}
SUBSETS = ("all", "correct", "wrong")

CITATIONS = [
    "Heads ablated in sets, against random sets: V-SEAM, arXiv:2509.14837 (released code; zeroing, K = 10).",
    "Intervals: bootstrap over pictures; of accuracies the wider of that and Bonett and Price (2012), J. Educ. Behav. "
    "Stat. 37. p against random sets: a permutation test after Fisher (1935), The Design of Experiments.",
]


@dataclass(frozen=True)
class SetCase:
    """One edit of one set of heads: the first k by ``score`` on questions of level ``source`` ("top"), or a ``draw`` of
    as many heads of the same layers ("random")."""

    score: str
    source: str
    edit: str
    set: str
    draw: int
    heads: tuple[Head, ...]


@dataclass(frozen=True, eq=False)
class SetAblation:
    """What ablating sets of heads does, question by question: the gold answer's probability and whether it is the most
    probable token, unedited [example] and in each case [example, case]."""

    cases: tuple[SetCase, ...]
    asked: tuple[Asked, ...]
    gold_prob: Float[np.ndarray, " example"]
    is_correct: Bool[np.ndarray, " example"]
    gold_prob_edited: Float[np.ndarray, "example case"]
    is_correct_edited: Float[np.ndarray, "example case"]
    provenance: Mapping[str, Any]

    @cached_property
    def levels(self) -> np.ndarray:
        """Of each question."""
        return np.array([q.level for q in self.asked])

    @cached_property
    def pictures(self) -> np.ndarray:
        """Of each question: what is drawn as one."""
        return np.array([q.image_id or q.id for q in self.asked])

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.score for c in self.cases))

    @property
    def edits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.edit for c in self.cases))

    def sources(self, score: str) -> tuple[str, ...]:
        """Levels whose heads were ablated."""
        return tuple(dict.fromkeys(c.source for c in self.cases if c.score == score))

    def change(self, measure: str) -> Float[np.ndarray, "example case"]:
        """Edited minus unedited."""
        if measure == "accuracy":
            return self.is_correct_edited.astype(np.float64) - self.is_correct[:, None]
        return self.gold_prob_edited.astype(np.float64) - self.gold_prob[:, None].astype(np.float64)

    def columns(self, score: str, source: str, edit: str, which: str) -> list[int]:
        """The cases of a set: one for "top", one for each draw of "random"."""
        wanted = (score, source, edit, which)
        return [i for i, c in enumerate(self.cases) if (c.score, c.source, c.edit, c.set) == wanted]

    def subset(self, name: str) -> Bool[np.ndarray, " example"]:
        """All questions, those answered correctly unedited, or wrongly."""
        return {"all": np.ones(len(self.asked), bool), "correct": self.is_correct, "wrong": ~self.is_correct}[name]

    @cached_property
    def _frame(self) -> pd.DataFrame:
        rows = []
        for score in self.scores:
            for source in self.sources(score):
                for target in dict.fromkeys(self.levels):
                    for subset in SUBSETS:
                        chosen = (self.levels == target) & self.subset(subset)
                        if chosen.any():
                            rows += [self._row(score, source, target, subset, edit, chosen) for edit in self.edits]
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """One row for each ``score``, level whose heads are ablated (``source``), level whose questions are asked
        (``target``), ``subset`` of these (all, correct, wrong: unedited) and ``edit``.

        ``accuracy``, ``gold_prob``: unedited. ``delta_*``: edited minus unedited with the top heads, ``_low`` and
        ``_high`` its paired 95 % interval. ``random_*``: mean over the random sets with their 2.5 and 97.5 percentiles.
        ``more_*``: top minus mean of random, paired. ``p_*``: (1 + c) / (1 + n_random), where c random sets lie
        at least as far from the mean of all, either way.
        """
        return self._frame.copy()

    def _row(self, score: str, source: str, target: str, subset: str, edit: str, chosen: np.ndarray) -> dict[str, Any]:
        top = self.columns(score, source, edit, "top")
        random = self.columns(score, source, edit, "random")
        row: dict[str, Any] = {"score": NAMES[score], "source": source or "all", "target": target or "all"}
        row |= {"subset": subset, "edit": edit, "n": int(chosen.sum()), "n_random": len(random)}
        row |= {"accuracy": float(self.is_correct[chosen].mean()), "gold_prob": float(self.gold_prob[chosen].mean())}
        for measure in MEASURES:
            change = self.change(measure)[chosen]
            own, others = change[:, top[0]], change[:, random]
            row |= self._paired(own, chosen, measure).columns(f"delta_{measure}")
            by_set = others.mean(0) if random else np.array([np.nan])
            low, high = np.percentile(by_set, [2.5, 97.5])
            row |= Estimate(float(by_set.mean()), float(low), float(high)).columns(f"random_{measure}")
            more = own - others.mean(1) if random else np.full(len(own), np.nan)
            row |= self._paired(more, chosen, "gold_prob").columns(f"more_{measure}")
            row[f"p_{measure}"] = permutation_p(float(own.mean()), by_set if random else [], centred=True)
        return row

    def _paired(self, change: np.ndarray, chosen: np.ndarray, measure: str) -> Estimate:
        if not np.isfinite(change).all():
            return Estimate(np.nan, np.nan, np.nan)
        low, high = (float(end[0]) for end in interval_of(change[:, None], self.pictures[chosen]))
        if measure == "accuracy":
            _, low_pair, high_pair = paired_share_change(change.clip(0), (-change).clip(0))
            low, high = np.nanmin([low, low_pair]), np.nanmax([high, high_pair])
        return Estimate(float(change.mean()), float(low), float(high))

    def contrast(self, score: str, edit: str, measure: str, kind: str, subset: str = "all") -> tuple[Estimate, float]:
        """A number over all levels, with its interval, and p against the random sets (NaN where it has none).

        ``kind``: "own" (each level's heads on its own questions, less the random sets' mean), "cross" (each level's
        heads on the other levels' questions, less random), or "own less cross", in which every level is asked as often
        under its own heads as under others', so that fragile levels do not decide. Levels count equally.
        """
        chosen, sources = self.subset(subset), self.sources(score)
        targets = [t for t in sources if (chosen & (self.levels == t)).any()]
        change, in_targets = self.change(measure), chosen & np.isin(self.levels, targets)
        if not targets or (kind != "own" and len(sources) < 2):
            return Estimate(np.nan, np.nan, np.nan), np.nan
        top = np.stack([change[:, self.columns(score, s, edit, "top")[0]] for s in sources], 1)
        n_draws = min(len(self.columns(score, s, edit, "random")) for s in sources)
        random = np.stack([change[:, self.columns(score, s, edit, "random")[:n_draws]] for s in sources], 1)
        own = np.stack([self.levels == s for s in sources], 1)

        def weighed(values: np.ndarray) -> np.ndarray:  # [example, source, ...] -> [example, ...]
            of_own = np.einsum("es,es...->e...", own, values)
            of_others = np.einsum("es,es...->e...", ~own, values) / max(1, len(sources) - 1)
            return {"own": of_own, "cross": of_others, "own less cross": of_own - of_others}[kind]

        values = weighed(top)
        if kind != "own less cross" and n_draws:
            values = values - weighed(random).mean(1)
        estimate = _mean_over_levels(values[in_targets], self.levels[in_targets], self.pictures[in_targets])
        if not n_draws:
            return estimate, np.nan
        of_top = _level_means(weighed(top)[in_targets, None], self.levels[in_targets])[0]
        of_random = _level_means(weighed(random)[in_targets], self.levels[in_targets])
        return estimate, permutation_p(of_top, of_random, centred=True)

    def sets(self) -> pd.DataFrame:
        """Which heads each top set holds."""
        rows = [
            {"score": NAMES[c.score], "source": c.source or "all", "heads": ", ".join(f"L{x}H{y}" for x, y in c.heads)}
            for c in self.cases
            if c.set == "top" and c.edit == self.edits[0]
        ]
        return pd.DataFrame(rows)


@public
@keeps_work
def cross_level_ablation(
    model: Model,
    heads: VisualHeads,
    examples: Sequence[VisualExample],
    *,
    k: int = 10,
    scores: Sequence[str] = RELU,
    by: str = "score",
    edits: Sequence[SetEdit] = ("zero", "mean_of_others"),
    positions: Positions = "all",
    n_random: int = 20,
    seed: int = 0,
    batch_size: int = 4,
    memory_mib: float = 1024.0,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> SetAblation:
    """Ablate the first k heads of each level together, on questions of every level that did not make the ranking.

    For each score and each level of the ranking: the first k ``by`` the "score" (the paper's) or by its "mean_change",
    and ``n_random`` random sets of as many heads of the same layers. ``edits``: "zero" (the release's check),
    "mean_of_others". Fewer than 19 random sets can give no p of 0.05. Every set is run on every question: (levels x
    scores x edits x (1 + n_random)) passes each, about half of that at ``positions="all"`` by the fan-out.

    With ``out``, work is kept there batch by batch (no report: the caller's). Levels in which no question counts for a
    score have no set. Raises ``ValueError`` for questions that made the ranking, a ranking of another model, a level
    that the ranking does not have, and k out of range.
    """
    asked, edits = asked_of(examples), tuple(edits)
    _require(model, heads, asked, scores, edits, k, n_random)
    cases = plan_sets(heads, k, scores, edits, n_random, seed, by)
    run = run_of_sets(model, heads, examples, cases, k, by, positions, batch_size, out, resume, overwrite, origin)
    folder = None if run.out is None else keep_parts_of(run.out, run.parts_settings, resume, discard=overwrite)
    keys = list(dict.fromkeys((c.edit, c.heads) for c in cases))
    branches = [Branch(tuple(HeadEdit(*head, edit) for head in own), f"{edit} {own}") for edit, own in keys]
    metrics = [GOLD, IsMostProbable.of(model)]

    def score_batch(batch: Sequence[VisualExample], how: str) -> dict[str, np.ndarray]:
        gold, correct = scan_readings(
            model,
            [e.prompt for e in batch],
            branches,
            metrics,
            positions=positions,
            method=how,  # type: ignore[arg-type]
            check=0,
            memory_mib=memory_mib,
        )
        found = {"gold_prob": gold.clean, "gold_prob_edited": gold.values}
        return found | {"is_correct": correct.clean > 0.5, "is_correct_edited": correct.values}

    if say is not None:

        def trial() -> tuple[Callable[[Sequence[VisualExample]], dict[str, np.ndarray]], str]:
            how, _ = check_once(model, [examples[0].prompt], branches, GOLD, positions)
            return partial(score_batch, how=how), f"{len(branches)} sets of heads by the {how}"

        say_how_long(model, examples, run, folder, "sets", trial, say)
    clean = clean_answers(examples, model, run, folder)
    ends = [examples[i].prompt for i in sorted({0, int(clean["length"].argmax()), int(clean["length"].argmin())})]
    how, check = check_once(model, ends, branches, GOLD, positions)
    found = run_step(partial(score_batch, how=how), examples, run, folder, "sets")
    column = [keys.index((c.edit, c.heads)) for c in cases]
    return SetAblation(
        cases=tuple(cases),
        asked=asked,
        gold_prob=found["gold_prob"],
        is_correct=found["is_correct"],
        gold_prob_edited=found["gold_prob_edited"][:, column],
        is_correct_edited=found["is_correct_edited"][:, column],
        provenance=run.provenance(
            f"the first {k} heads of each level ablated together at positions {positions!r}, exact",
            CITATIONS,
            [],
            **mass_read(model, PromptsOf(examples), batch_size),
            scan={"how": how, "check": check},
            left_out=dict(getattr(examples, "left_out", {})),
        ),
    )


def run_of_sets(
    model: Model,
    heads: VisualHeads,
    examples: Sequence[VisualExample],
    cases: Sequence[SetCase],
    k: int,
    by: str,
    positions: Positions,
    batch_size: int,
    out: str | Path | None,
    resume: bool,
    overwrite: bool,
    origin: Mapping[str, Any] | None,
) -> Run:
    """The identity of such a study, and where it is kept. Raises ``ValueError`` for a ranking of other weights."""
    settings = {
        "ranking": heads.provenance.get("run_id"),
        "k": k,
        "by": by,
        "scores": list(dict.fromkeys(c.score for c in cases)),
        "edits": list(dict.fromkeys(c.edit for c in cases)),
        "positions": positions,
        "n_random": 1 + max((c.draw for c in cases if c.set == "random"), default=-1),
        "cases_sha256": hash_json([asdict(c) for c in cases]),
        "asking": asking_of(examples),
    }
    data = describe_asked(asked_of(examples), dict(origin or {}))
    place = None if out is None else Path(out)
    prompts = (example.prompt for example in examples)
    run = Run("Visual heads across levels", model, prompts, data, settings, batch_size, place, resume, overwrite)
    there, here = heads.provenance["model"].get("weights_sha256"), run.described_model["weights_sha256"]
    if there is not None and there != here:
        raise ValueError(
            f"the ranking is of {heads.provenance['model']['name']!r} with weights {there[:12]}; this is "
            f"{model.name!r} with {here[:12]}. Rank the heads of this model (an edited model is another one)."
        )
    require_edits(run.described_model, heads.provenance["model"], "the ranking")
    return run


def plan_sets(
    heads: VisualHeads,
    k: int,
    scores: Sequence[str],
    edits: Sequence[str],
    n_random: int,
    seed: int,
    by: str = "score",
) -> list[SetCase]:
    """Every case: the first k of each score and level, and the random sets, under each edit."""
    cases = []
    for score in scores:
        for level in heads.levels:
            if not heads.chosen(level, score=score).any():
                continue
            top = tuple(sorted(heads.top(score, k, level, by=by)))
            sets = [("top", 0, top)]
            sets += [("random", i, s) for i, s in enumerate(random_sets(top, heads.n_heads, n_random, seed))]
            cases += [SetCase(score, level, edit, *one) for edit in edits for one in sets]
    return cases


def _level_means(values: Float[np.ndarray, "example draw"], levels: np.ndarray) -> Float[np.ndarray, " draw"]:
    return np.mean([values[levels == level].mean(0) for level in dict.fromkeys(levels)], axis=0)


def _mean_over_levels(values: Float[np.ndarray, " example"], levels: np.ndarray, pictures: np.ndarray) -> Estimate:
    """Mean over levels of the mean over a level's questions; bootstrap over pictures."""
    member = np.stack([levels == level for level in dict.fromkeys(levels)], 1).astype(np.float64)

    def mean(values: np.ndarray, member: np.ndarray, counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a draw without a level is left out
            return ((counts * values) @ member / (counts @ member)).mean(-1)

    low, high = bootstrap_interval(mean, values, member, groups=pictures.tolist(), weighted=True)
    return Estimate(float(_level_means(values[:, None], levels)[0]), float(low), float(high))


def _require(model, heads: VisualHeads, asked: Sequence[Asked], scores, edits, k: int, n_random: int) -> None:
    if (heads.n_layers, heads.n_heads) != (model.n_layers, model.n_heads):
        raise ValueError(
            f"the ranking is of {heads.n_layers} layers with {heads.n_heads} heads, {model.name} has {model.n_layers} "
            f"with {model.n_heads}: it is of another model. Rank this one first."
        )
    if unknown := [e for e in edits if e not in ("zero", "mean_of_others")]:
        raise ValueError(f"edit {unknown[0]!r}; expected 'zero' or 'mean_of_others'.")
    if not scores or not edits or not set(scores) <= set(NAMES):
        raise ValueError(f"scores={scores}, edits={edits}; expected one or more of each, scores of {list(NAMES)}.")
    if not 1 <= k <= model.n_layers * model.n_heads:
        raise ValueError(f"k={k}; expected 1 to {model.n_layers * model.n_heads}, the number of heads.")
    if n_random < 0:
        raise ValueError(f"n_random={n_random}; expected 0 or more sets.")
    if not asked:
        raise ValueError("no questions were given; give at least one.")
    if unknown := sorted({q.level for q in asked} - set(heads.levels)):
        raise ValueError(f"questions of level {unknown[0]!r} were given; the ranking has {list(heads.levels)}.")
    if shared := sorted({q.id for q in asked} & {q.id for q in heads.asked}):
        raise ValueError(
            f"{len(shared)} of {len(asked)} questions made the ranking ({', '.join(shared[:3])} ...). Heads chosen on "
            "a question look better on it: give others (another split or seed)."
        )

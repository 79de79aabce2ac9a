"""Are the heads that a score points at causal? Sets of them are edited together, against random heads of their layers.

A score such as NAS says where a head looks. Here the heads with the highest scores are ablated, scaled down and set to
their mean, k at a time, on questions that did not make the ranking, and compared with random sets of as many heads of
the same layers (how deep a head sits decides much of what removing it does) and with the heads of the lowest scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.door import public
from interp.edits import require_edits
from interp.figures import head_label, heads as figures
from interp.interventions import Branch, HeadEdit
from interp.models import Model
from interp.prompts import Prompt
from interp.rankings import HeadRanking
from interp.reading import LogitDifference, mean_head_outputs
from interp.records import hash_json, keeps_work
from interp.reports import Findings, load_findings, mass_of
from interp.scans.scan import scan
from interp.statistics import split_half
from probes.heads import Case, Head, check_once, interval_of, permutation_p, plan_cases, spearman_over_heads
from probes.negative_bias.causal_report import OUTCOMES, name_of, outcomes_of, verdict_sentences, where_of
from probes.questions import Instruction, Question, build_prompts, describe_questions
from probes.studies import Run, mass_read

if TYPE_CHECKING:
    import plotly.graph_objects as go

Edit = Literal["zero", "mean", "scale"]
Arrays = dict[str, np.ndarray]

CITATIONS = [
    "NAS: Yu et al. (2025), Correcting Negative Bias in Large Language Models through Negative Attention Score "
    "Alignment. arXiv:2408.00137.",
    "Random sets of the same size and layers as the control of a set ablation: a permutation test after Fisher (1935), "
    "The Design of Experiments.",
]
CAVEATS = [
    "NB and accuracy are those of the forced choice: the option with more probability is the answer, whatever else "
    "the model would rather say. A model that is far on one side can change its margin and not one answer.",
    "Edits at the answer leave alone what a head writes at earlier tokens, and NAS sums over those too; "
    "positions='all' edits every token.",
    "Zeroing removes also what a head writes whatever the question is; its mean over the questions keeps just that. A "
    "bias that does not depend on the question can therefore fall when heads are zeroed and stay when they are set to "
    "their mean.",
    "The sets of k heads are nested and the three edits alike: the tests are not independent of each other.",
    "With 20 random sets the smallest p is 1/21 = 0.048; where a layer has few other heads, fewer sets exist.",
]


@public
@keeps_work
def causal_test(
    model: Model,
    questions: Sequence[Question],
    ranking: HeadRanking,
    *,
    by: str | Sequence[str] = ("nas", "nas_order_balanced"),
    ks: Sequence[int] = (1, 2, 3, 5, 10, 15, 20),
    edits: Edit | Sequence[Edit] = ("zero", "mean", "scale"),
    factor: float = 0.5,
    positions: str | Sequence[str] = "answer",
    n_random: int = 20,
    ks_all: Sequence[int] = (1, 5, 20),
    n_random_all: int = 3,
    instruction: Instruction | None = None,
    forms: str = "in_context",
    batch_size: int = 8,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    origin: Mapping[str, Any] | None = None,
) -> CausalTest:
    """Edit the top k heads of a ranking together, and see whether that does more than editing random heads.

    For each measure in ``by`` (columns of the ranking), each k and each edit: the k heads with the highest scores, the
    k with the lowest (for NAS: those that attend most to "Yes"), and ``n_random`` random sets from the layers of the
    top. Edits: ``zero``; ``mean``, each head's mean output over these questions; ``scale``, times ``factor``. Beside
    them every head alone is zeroed at the answer, for the correlation between score and effect. The questions must be
    other ones than the ranking's.

    ``positions``: "answer" (the last token), "all" (every token), or both. "all" has a grid of its own,
    ``ks_all`` and ``n_random_all``, since it costs as many times more as the prompt has tokens.

    Cost: about 5 scans of all single heads. Measured on SmolLM2 (270 heads, prompts of 50 to 70 tokens, one CPU core):
    850 distinct edits and 3.5 s a question, 6 minutes for 100 questions; "all" adds 90 edits and 15 s a question, 25
    minutes for 100. With ``out``, the report is saved there, and the work before it batch by batch, as in
    :func:`probes.negative_bias.nas.rank_heads`; ``resume=True`` continues a killed run or reads a finished one back.

    Raises ``ValueError`` for a ranking from another model or (where it names them) other weights, a measure it does
    not have, more heads than the model has, questions that made the ranking, questions of one answer only.
    """
    by, edits, positions = ((v,) if isinstance(v, str) else tuple(dict.fromkeys(v)) for v in (by, edits, positions))
    ks, ks_all = (tuple(sorted({int(k) for k in some})) for some in (ks, ks_all))
    grid = {p: (ks, n_random) if p == "answer" else (ks_all, n_random_all) for p in positions}
    _require(model, questions, ranking, by, edits, grid, factor)
    instruction = instruction or Instruction()
    prompts = build_prompts(model, questions, instruction, forms=forms)
    cases = plan_cases(ranking, by, edits, grid, seed)
    settings = {
        "instruction": asdict(instruction),
        "forms": forms,
        "ranking": ranking.provenance.get("run_id"),
        "by": list(by),
        "edits": list(edits),
        "factor": factor,
        "grid": {p: {"ks": list(k), "n_random": n} for p, (k, n) in grid.items()},
        "seed": seed,
        "cases_sha256": hash_json([asdict(case) for case in cases]),
    }
    data = describe_questions(questions, origin)
    run = Run("Causal test of heads", model, prompts, data, settings, batch_size, out, resume, overwrite)
    _require_same_weights(run.described_model, ranking)
    if run.is_finished():
        done = load_findings(out)
        return _result(cases, done.arrays, questions, model, ranking, done.provenance)

    mass = mass_read(model, prompts, batch_size=batch_size)
    metric = LogitDifference(instruction.negative, instruction.positive)
    plans = {
        where: _Plan(model, prompts, metric, where, [c for c in cases if c.positions == where], factor)
        for where in dict.fromkeys(("answer", *positions))
    }

    def score(batch: Sequence[Prompt]) -> Arrays:
        scans = {where: plan.scan(batch) for where, plan in plans.items()}
        return {"clean": scans["answer"].clean} | {where: found.values for where, found in scans.items()}

    arrays = run.score(prompts, score)
    n_single = model.n_layers * model.n_heads
    column = {where: {key: i for i, key in enumerate(plan.keys)} for where, plan in plans.items()}
    arrays = {
        "clean": arrays["clean"],
        "margins": np.stack([arrays[c.positions][:, column[c.positions][c.edit, c.heads]] for c in cases], axis=1),
        "single": arrays["answer"][:, :n_single],
    }
    provenance = run.provenance(
        f"Sets of heads edited together ({', '.join(edits)}), exact, against random heads of the same layers",
        CITATIONS,
        CAVEATS,
        **mass,
        scan={where: {"how": plan.how, "check": plan.check} for where, plan in plans.items()},
        ranking={key: ranking.provenance.get(key) for key in ("run_id", "title", "data", "settings")},
    )
    return run.save(_result(cases, arrays, questions, model, ranking, provenance))


class _Plan:
    """The distinct edits at some positions as branches of a scan, checked once before the batches.

    ``keys`` are (edit, heads); at the answer the first ones are all single heads, zeroed.
    """

    def __init__(self, model, prompts, metric, positions: str, cases: Sequence[Case], factor: float) -> None:
        single = [("zero", ((lay, h),)) for lay in range(model.n_layers) for h in range(model.n_heads)]
        first = single if positions == "answer" else []
        self.keys = list(dict.fromkeys([*first, *((c.edit, c.heads) for c in cases)]))
        means = None
        if any(c.edit == "mean" for c in cases):
            means = mean_head_outputs(model, prompts, last=1 if positions == "answer" else None)

        def edit(kind: str, head: Head) -> HeadEdit:
            if kind == "mean":
                return HeadEdit(*head, "set", value=means[head])
            return HeadEdit(*head, kind, factor=factor)

        self.branches = [Branch(tuple(edit(kind, h) for h in heads)) for kind, heads in self.keys]
        self._where = (model, metric, positions)
        self.how, self.check = check_once(model, prompts, self.branches, metric, positions, n=4)

    def scan(self, batch: Sequence[Prompt]):
        model, metric, positions = self._where
        return scan(model, batch, self.branches, metric=metric, positions=positions, method=self.how, check=0)


@dataclass(frozen=True, eq=False)
class CausalTest:
    """What editing sets of heads did to yes/no answers, question by question.

    ``margins`` [example, case] and ``clean`` [example]: log P(negative) - log P(positive) at the answer, in logits,
    above 0 for No. ``effects`` [example, layer, head]: what a single head adds to it (clean minus zeroed at the
    answer). ``scores``: mean of each measure in the ranking, [layer, head]. ``groups``: questions of one passage or
    one pair, which are resampled together. The tables are computed at first use and kept.
    """

    cases: tuple[Case, ...]
    margins: Float[np.ndarray, "example case"]
    clean: Float[np.ndarray, " example"]
    gold_yes: Bool[np.ndarray, " example"]
    groups: tuple[str, ...]
    effects: Float[np.ndarray, "example layer head"]
    scores: Mapping[str, Float[np.ndarray, "layer head"]]
    provenance: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One row for each measure (``by``), ``edit``, ``positions``, ``k`` and ``set``: top, bottom and random.

        ``delta_nb``, ``delta_accuracy`` and ``delta_margin``: edited minus unedited, of NB = P(No | gold Yes) -
        P(Yes | gold No), of accuracy, and of the mean margin (logits). ``*_low``, ``*_high``: for top and bottom the
        95 % bootstrap interval over questions (paired with the unedited run); for random the 2.5 and 97.5
        percentiles of the ``n_random`` sets. ``*_p_random`` of the top: (1 + c) / (1 + n_random), where c random sets
        change it at least as much, either way. The bottom stands in other layers: it has no p.
        """
        return self._frame.copy()

    @cached_property
    def _frame(self) -> pd.DataFrame:
        edited, clean = outcomes_of(self.margins, self.gold_yes), outcomes_of(self.clean[:, None], self.gold_yes)
        change = {name: edited[name] - clean[name] for name in OUTCOMES}
        mean = {name: change[name].mean(0) for name in OUTCOMES}
        single = [i for i, case in enumerate(self.cases) if case.set != "random"]
        intervals = {name: interval_of(change[name][:, single], self.groups) for name in OUTCOMES}
        members: dict[tuple, dict[str, list[int]]] = {}
        for i, c in enumerate(self.cases):
            sets = members.setdefault((c.by, c.edit, c.positions, c.k), {"top": [], "bottom": [], "random": []})
            sets[c.set].append(i)
        rows = []
        for key, sets in members.items():
            for kind, indices in sets.items():
                row = dict(zip(("by", "edit", "positions", "k"), key, strict=True))
                row |= {"set": kind, "n_random": len(sets["random"])}
                for name in OUTCOMES:
                    changes, p = mean[name][indices], np.nan
                    if kind == "random":
                        low, high = np.percentile(changes, [2.5, 97.5]) if indices else (np.nan, np.nan)
                    else:
                        low, high = (end[single.index(indices[0])] for end in intervals[name])
                    if kind == "top":
                        p = permutation_p(changes[0], mean[name][sets["random"]])
                    row[f"delta_{name}"] = changes.mean() if indices else np.nan
                    row |= {f"delta_{name}_low": low, f"delta_{name}_high": high, f"delta_{name}_p_random": p}
                rows.append(row)
        return pd.DataFrame(rows)

    def baseline(self) -> pd.DataFrame:
        """The unedited model on these questions: outcome, value, ci_low, ci_high, n, n_yes (gold Yes)."""
        outcomes = outcomes_of(self.clean[:, None], self.gold_yes)
        rows = []
        for name, meaning in OUTCOMES.items():
            low, high = interval_of(outcomes[name], self.groups)
            rows.append((meaning, outcomes[name].mean(), low[0], high[0], len(self.clean), int(self.gold_yes.sum())))
        return pd.DataFrame(rows, columns=["outcome", "value", "ci_low", "ci_high", "n", "n_yes"])

    @cached_property
    def _correlations(self) -> pd.DataFrame:
        effect = self.effects.astype(np.float64).mean(0)
        rows = []
        for relation, of in (("sign and size", lambda a: a), ("size alone", np.abs)):
            found = spearman_over_heads({by: of(score) for by, score in self.scores.items()}, of(effect))
            rows += [{"relation": relation, **row, "n_heads": effect.size} for row in found]
        return pd.DataFrame(rows)

    def correlations(self) -> pd.DataFrame:
        """Does the score of a head predict what the head does? Spearman's correlation over heads between each measure
        (mean over the ranking's questions) and the head's total effect (mean over these).

        ``relation``: "sign and size" of both, or "size alone" (absolute values). A measure "a minus b" is the
        difference of two correlations. ``ci_low``, ``ci_high``: 95 % bootstrap intervals, in which whole layers are
        drawn (heads of a layer share depth and keys), the same ones for both measures of a difference. They speak of
        heads like these, not of other questions.
        """
        return self._correlations.copy()

    def heads(self) -> pd.DataFrame:
        """One row for each head: its scores, and its total effect with the 95 % interval over questions."""
        effects = self.effects.astype(np.float64).reshape(len(self.effects), -1)
        low, high = interval_of(effects, self.groups)
        layer, head = (index.ravel() for index in np.indices(self.effects.shape[1:]))
        label = [head_label(*pair) for pair in zip(layer, head, strict=True)]
        columns = {"layer": layer, "head": head, "label": label} | {by: s.ravel() for by, s in self.scores.items()}
        columns |= {"effect": effects.mean(0), "effect_low": low, "effect_high": high}
        frame = pd.DataFrame(columns).sort_values(next(iter(self.scores)), ascending=False, kind="stable")
        return frame.reset_index(drop=True)

    def sets(self) -> pd.DataFrame:
        """Which heads each top and bottom set holds, and how many random sets each top is compared with."""
        rows = {}
        for case in self.cases:
            row = rows.setdefault((case.by, case.positions, case.k), {"n_random": 0, "random_that_share": 0})
            if case.set != "random":
                row[case.set] = ", ".join(head_label(*head) for head in case.heads)
                row[f"{case.set}_heads"] = set(case.heads)
            elif case.edit == self.cases[0].edit:
                row["n_random"] += 1
                row["random_that_share"] += bool(row["top_heads"] & set(case.heads))
        columns = ["top", "bottom", "n_random", "random_that_share"]
        return pd.DataFrame(
            [{"by": by, "positions": p, "k": k} | {c: row[c] for c in columns} for (by, p, k), row in rows.items()]
        )

    def verdict(self) -> list[str]:
        """What the numbers say, in sentences; the first ones are the answer. Nothing here but the tables."""
        reliability = split_half(self.effects).mean
        said = verdict_sentences(
            self._frame, self._correlations, self.baseline(), self.provenance["settings"]["factor"], reliability
        )
        mass = mass_of(self.provenance)
        return said if mass is None else [*said, mass.sentence()]

    def plot(self, outcome: str = "nb", positions: str = "answer") -> go.Figure:
        """Change of an outcome ("nb", "accuracy", "margin") against k: top, bottom and random sets, edit by edit."""
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome={outcome!r}; expected one of {sorted(OUTCOMES)}.")
        frame = self._frame[self._frame["positions"] == positions]
        if frame.empty:
            raise ValueError(f"positions={positions!r}; tested were {sorted(set(self._frame['positions']))}.")
        y = f"delta_{outcome}"
        panel = frame["edit"] + ", by " + frame["by"].map(name_of)
        what = OUTCOMES[outcome]
        return figures.interval_lines(
            frame.dropna(subset=y).assign(panel=panel),
            x="k",
            y=y,
            low=f"{y}_low",
            high=f"{y}_high",
            color="set",
            facet="panel",
            title=f"Change of {what} when k heads are edited together, {where_of(positions)}",
            labels={"k": "heads", y: "change", "set": "heads edited"},
        )

    def to_findings(self) -> Findings:
        """Verdict, tables, figures and raw numbers, ready to be saved or shown."""
        frame, correlations = self.to_frame(), self.correlations()
        frame.attrs["note"] = (
            "Edited minus unedited. Top and bottom: 95 % bootstrap intervals over questions; random: mean and central "
            "95 % of the random sets. p: share of random sets that change it at least as much, either way."
        )
        correlations.attrs["note"] = (
            "Spearman's correlation over heads of the mean score with the mean total effect; 95 % bootstrap intervals "
            "over layers."
        )
        shown = [(o, p) for p in dict.fromkeys(frame["positions"]) for o in OUTCOMES]
        return Findings(
            title=self.provenance["title"],
            statement=self.verdict(),
            tables={
                "Unedited model": self.baseline(),
                "Sets of heads": frame,
                "Score against effect": correlations,
                "Heads of the sets": self.sets(),
                "Heads": self.heads(),
            },
            figures={f"Change of {OUTCOMES[o]}, {where_of(p)}": self.plot(o, p) for o, p in shown},
            provenance=dict(self.provenance),
            arrays={
                "clean": self.clean,
                "margins": self.margins,
                "single": self.clean[:, None] - self.effects.reshape(len(self.clean), -1),
            },
        )

    @keeps_work
    def save(self, out: str | Path, overwrite: bool = False) -> Path:
        """Write the report into a folder; see :meth:`interp.reports.findings.Findings.save`."""
        return self.to_findings().save(out, overwrite=overwrite)

    def __repr__(self) -> str:
        return f"CausalTest({len(self.clean)} questions, {len(self.cases)} edits of sets of heads)"


def _result(cases, arrays: Arrays, questions, model: Model, ranking: HeadRanking, provenance) -> CausalTest:
    effects = arrays["clean"][:, None] - arrays["single"]
    return CausalTest(
        cases=tuple(cases),
        margins=arrays["margins"],
        clean=arrays["clean"],
        gold_yes=np.array([q.answer == "Yes" for q in questions]),
        groups=tuple(q.group for q in questions),
        effects=effects.reshape(len(questions), model.n_layers, model.n_heads),
        scores={by: ranking.measures[by].astype(np.float64).mean(0) for by in dict.fromkeys(c.by for c in cases)},
        provenance=provenance,
    )


def _require(model, questions, ranking, by, edits, grid, factor) -> None:
    if missing := [name for name in by if name not in ranking.measures]:
        raise ValueError(f"the ranking has no measure {missing[0]!r}; by= can name {sorted(ranking.measures)}.")
    if unknown := [e for e in edits if e not in ("zero", "mean", "scale")]:
        raise ValueError(f"edit {unknown[0]!r}; expected 'zero', 'mean' or 'scale'.")
    if unknown := [p for p in grid if p not in ("answer", "all")]:
        raise ValueError(f"positions={unknown[0]!r}; expected 'answer', 'all', or both.")
    if not by or not edits or not grid:
        raise ValueError(f"by={by}, edits={edits}, positions={tuple(grid)}; expected at least one of each.")
    if not isfinite(factor) or ("scale" in edits and factor == 1):
        raise ValueError(f"factor={factor}; expected a number that changes something, such as 0.5.")
    if (ranking.n_layers, ranking.n_heads) != (model.n_layers, model.n_heads):
        raise ValueError(
            f"the ranking is of {ranking.n_layers} layers with {ranking.n_heads} heads, {model.name} has "
            f"{model.n_layers} with {model.n_heads}: it is of another model. Rank this one first."
        )
    for positions, (ks, n_random) in grid.items():
        n_heads = model.n_layers * model.n_heads
        if not ks or min(ks) < 1 or max(ks) > n_heads:
            name = "ks" if positions == "answer" else "ks_all"
            raise ValueError(f"{name}={tuple(ks)}; expected numbers of heads from 1 to the model's {n_heads}.")
        if n_random < 1:
            raise ValueError(f"{n_random} random sets; expected at least 1 (20 for a p below 0.05).")
    n_yes = sum(q.answer == "Yes" for q in questions)
    if n_yes in (0, len(questions)):
        raise ValueError(
            f"{n_yes} of the {len(questions)} questions have the answer Yes; negative bias compares questions of both "
            "answers. Give some of each."
        )
    if shared := sorted({q.id for q in questions} & set(ranking.example_ids)):
        raise ValueError(
            f"{len(shared)} questions made the ranking: {', '.join(shared)}. Heads chosen on a question look better on "
            "it; test on others (probes.questions.split_questions)."
        )


def _require_same_weights(described: Mapping[str, Any], ranking: HeadRanking) -> None:
    of = ranking.provenance.get("model") or {}
    there, here = of.get("weights_sha256"), described["weights_sha256"]
    if there is not None and there != here:
        raise ValueError(
            f"the ranking is of {of.get('name')!r} with weights {there[:12]}; this is {described['name']!r} with "
            f"{here[:12]}. Rank the heads of this model (an edited model is another one)."
        )
    require_edits(described, of if isinstance(of, Mapping) else {}, "the ranking")

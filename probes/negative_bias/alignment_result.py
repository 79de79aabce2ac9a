"""NASA and its rivals, fitted: what each is, what validation says of it, and the test on questions that none saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.records import keeps_work
from interp.reports import Result, refuse_other_run
from interp.statistics import SEED, Estimate, auroc, auroc_difference, paired_share_change
from probes.negative_bias.answers import LEAST_MASS, Answers, bias_measures
from probes.negative_bias.corrections import Method
from probes.questions import Instruction, Question, overlap

if TYPE_CHECKING:
    from interp.edits import ModelEdit
    from interp.models import Model

FITTED = "NASA on the validation questions"
HELD_OUT = "Held-out questions"
NULLS = ("untouched", "always No", "a coin")  # what any correction is held to; a constant is a rival that is fitted
LEAST_GAIN = 0.03  # of accuracy, over the untouched model's
MOST_LOST = 0.05  # of AUROC: kept if the interval of its change lies above minus this
N_COINS = 1000


@dataclass(frozen=True, eq=False, repr=False)
class Alignment(Result, report="probes.negative_bias.alignment_report", figure=FITTED):
    """NASA and its rivals, fitted. ``edit`` is NASA's: apply, save, fold or export it. ``history``: every look at the
    validation questions. ``before``: validation untouched. ``ranked_on``: ids of the questions that chose the heads.
    ``tests``: tables of :meth:`test`, or of other tests, which stand in the report.

    ``instruction``: how questions were put. ``methods``: NASA and its rivals. ``fitted_on``: the questions.
    ``provenance``: what was run, on what.
    """

    instruction: Instruction
    methods: tuple[Method, ...]
    history: pd.DataFrame
    heads: tuple[tuple[int, int], ...]
    before: dict[str, float]
    fitted_on: tuple[Question, ...]
    ranked_on: tuple[str, ...]
    provenance: Mapping[str, Any]
    tests: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def edit(self) -> ModelEdit:
        return next(m for m in self.methods if m.name == "NASA").edit

    def methods_table(self) -> pd.DataFrame:
        """One row for each method: numbers trained, time, what it chose, and validation afterwards."""
        rows = [{"method": "untouched", "n_parameters": 0, "seconds": 0.0, "chose": "", **self.before}]
        for m in self.methods:
            state = asdict(m.validation) if m.validation else {}
            rows.append(
                {"method": m.name, "n_parameters": m.n_parameters, "seconds": m.seconds, "chose": m.note, **state}
            )
        return pd.DataFrame(rows)

    def test(
        self,
        model: Model,
        sets: Mapping[str, Sequence[Question] | tuple[Sequence[Question], Instruction]],
        *,
        methods: Sequence[str] | None = None,
        batch_size: int = 16,
    ) -> pd.DataFrame:
        """Every method on sets of questions that none of them saw: one row for each set and method.

        A set is questions, or questions with the instruction to ask them with. The measures are of the forced choice
        (``bias_measures(channel="margin")``), each with its interval; ``accuracy_change`` and ``auroc_change`` are
        paired with the untouched model's; ``note`` says where the options hold less than a tenth of the probability.
        Beside the methods stand the null models (``NULLS``): the untouched model, one that always says No, and a coin,
        whose interval is of draws of it. ``target``: what a correction is for, met or missed (:func:`target_of`).
        Costs a forward pass of every question for each method with an edit.

        ``methods``: names of some; None: all. ``batch_size``: prompts in one pass.

        Raises:
            ValueError: questions that a method was fitted on, their twins and copies, those that made the ranking,
                and a model of other weights.
        """
        from interp.edits import require_weights

        require_weights(model, self.edit.model, "the alignment")
        for name, given in sets.items():
            questions, _ = self._asked(given)
            ranked = {q.id for q in questions} & set(self.ranked_on)
            if seen := sorted({*overlap(questions, self.fitted_on)} | ranked):
                raise ValueError(
                    f"{len(seen)} questions of {name!r} were used for fitting or chose the heads: "
                    f"{', '.join(seen[:10])}"
                    f"{' ...' if len(seen) > 10 else ''}. Test on others (probes.questions.split_questions)."
                )
        chosen = [m for m in self.methods if methods is None or m.name in methods]
        untouched = {name: self._ask(model, given, batch_size) for name, given in sets.items()}
        rows = [_row(name, "untouched", answers, answers) for name, answers in untouched.items()]
        for method in chosen:
            with method.applied(model):
                for name, given in sets.items():
                    plain = untouched[name]
                    answers = plain if method.edit is None else self._ask(model, given, batch_size)
                    rows.append(_row(name, method.name, method.adjust(answers), plain))
        rows += [null for name, plain in untouched.items() for null in _null_rows(name, plain)]
        for row in rows:
            row["target"] = "" if row["method"] in NULLS else target_of(row)
        frame = pd.DataFrame(rows)
        order = {name: i for i, name in enumerate(sets)}
        return frame.sort_values("set", key=lambda s: s.map(order), kind="stable").reset_index(drop=True)

    def _asked(self, given) -> tuple[Sequence[Question], Instruction]:
        return given if isinstance(given, tuple) else (given, self.instruction)

    def _ask(self, model: Model, given, batch_size: int) -> Answers:
        from probes.negative_bias.asking import answer

        questions, instruction = self._asked(given)
        return answer(model, questions, instruction, batch_size=batch_size)

    def with_tests(self, tests: Mapping[str, pd.DataFrame]) -> Alignment:
        """The same, with these tables in its report, by their headings.

        ``tests``: heading -> table.
        """
        return replace(self, tests={**self.tests, **tests})

    @keeps_work
    def save(self, directory: str | Path, *, include_replies: bool = False, overwrite: bool = False) -> Path:
        """As :meth:`interp.reports.result.Result.save`, and NASA's edit in ``edit``, ready to be applied.

        ``directory``: made if need be, and returned. ``include_replies``: keep texts of replies. ``overwrite``:
        replace another run's report.

        Raises:
            FileExistsError: another run's report is there, without ``overwrite``.
        """
        directory = Path(directory)
        if not overwrite:
            refuse_other_run(directory, self.provenance["run_id"])
        self.edit.save(directory / "edit")
        return super().save(directory, include_replies=include_replies, overwrite=overwrite)


def _row(name: str, method: str, answers: Answers, untouched: Answers) -> dict[str, Any]:
    measured = bias_measures(answers, channel="margin").set_index("measure")
    row: dict[str, Any] = {"set": name, "method": method, "n": len(answers)}
    shown = ("precision", "recall", "precision_recall_gap", "negative_bias", "accuracy", "auroc", "ece", "says_yes")
    for measure in (*shown, "option_mass"):
        row |= {measure: measured.value[measure]}
        row |= {f"{measure}_low": measured.ci_low[measure], f"{measure}_high": measured.ci_high[measure]}
    for measure in ("accuracy", "auroc"):
        row |= paired_change(answers, untouched, measure).columns(f"{measure}_change")
    mass = measured.value["option_mass"]
    unused = f"the options hold {mass:.0%} of the probability: the model would rather say something else"
    return row | {"note": unused if mass < LEAST_MASS else ""}


def _null_rows(name: str, untouched: Answers) -> list[dict[str, Any]]:
    """A model that always says No, whatever is asked, and a coin: the mean and central 95 % of its draws."""
    never = replace(
        untouched, log_probs=np.log(np.full((len(untouched), 2), [0.99, 0.01])), top=np.zeros(len(untouched), dtype=int)
    )
    rng, gold = np.random.default_rng(SEED), untouched.gold
    coins = rng.normal(size=(N_COINS, len(gold)))
    says_yes = coins > 0
    hits, n_yes = (says_yes & gold).sum(1), says_yes.sum(1)
    recall, false_yes = hits / gold.sum(), (says_yes & ~gold).sum(1) / (~gold).sum()
    precision = np.divide(hits, n_yes, out=np.full(N_COINS, np.nan), where=n_yes > 0)
    drawn = {
        "precision": precision,
        "recall": recall,
        "precision_recall_gap": precision - recall,
        "negative_bias": 1 - recall - false_yes,
        "accuracy": (says_yes == gold).mean(1),
        "auroc": np.array([auroc(coin, gold) for coin in coins]),
        "says_yes": says_yes.mean(1),
    }
    coin: dict[str, Any] = {"set": name, "method": "a coin", "n": len(gold)}
    for measure, values in drawn.items():
        coin |= Estimate(float(np.nanmean(values)), *np.nanquantile(values, [0.025, 0.975])).columns(measure)
    return [_row(name, "always No", never, untouched) | {"note": ""}, coin | {"note": ""}]


def target_of(row: Mapping[str, Any]) -> str:
    """Whether a row of :meth:`Alignment.test` has what a correction is for: "met", or "missed" with what is missing.

    The bias is gone (NB's interval holds 0), the model is right more often (accuracy above the untouched model's by
    ``LEAST_GAIN``, with an interval off 0, and above a coin's half), and it knows what it knew (AUROC's change above
    ``-MOST_LOST`` with its whole interval). Precision - recall alone is small for a coin, too, and for a model whose
    few Yes are all wrong.
    """
    bias, gain, accuracy, auroc_change = (
        Estimate.from_row(row, name) for name in ("negative_bias", "accuracy_change", "accuracy", "auroc_change")
    )
    wants = {
        "negative bias": bias.is_known and bias.side_of(0) == 0,
        "accuracy": gain.value >= LEAST_GAIN and gain.side_of(0) > 0,
        "a coin": accuracy.side_of(0.5) > 0,
        "AUROC": auroc_change.side_of(-MOST_LOST) > 0,
    }
    missed = [name for name, is_met in wants.items() if not is_met]
    return f"missed: {', '.join(missed)}" if missed else "met"


def paired_change(answers: Answers, untouched: Answers, measure: str) -> Estimate:
    """Accuracy or AUROC less the untouched model's on the same questions, with a paired interval."""
    if measure == "auroc":
        return auroc_difference(answers.margin, untouched.margin, answers.gold, answers.groups)
    now, before = ((a.margin > 0) == answers.gold for a in (answers, untouched))
    return paired_share_change(now, before, answers.groups)

"""NASA: correct a model's negative bias by tuning only its negative heads, beside rivals, and test it on held-out data.

After "Correcting Negative Bias in Large Language Models through Negative Attention Score Alignment" (arXiv
2408.00137). What its sources leave open is in :class:`~probes.negative_bias.methods.Settings`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.architecture import weights_sha256
from interp.door import public
from interp.edits import ModelEdit, describe_model, require_edits
from interp.models import Model, measured_mass
from interp.rankings import HeadRanking
from interp.records import hash_json, keeps_work
from interp.reports import refuse_other_run, with_mass
from interp.statistics import bootstrap_interval
from probes.negative_bias.answers import LEAST_MASS, Answers, answer, bias_measures, require_options_used
from probes.negative_bias.fits import Fits, write_all
from probes.negative_bias.methods import (
    Bench,
    Method,
    Settings,
    auroc,
    fit_offset,
    scale_heads,
    train_lora,
    tune_heads,
    validation_state,
)
from probes.negative_bias.nas import CITATIONS, score_prompts
from probes.questions import FEWEST, Instruction, Question, hash_questions, overlap
from probes.studies import parts_identity, study_provenance

if TYPE_CHECKING:
    from interp.reports import Findings

N_RANKED = 128  # training prompts that NAS is measured on
RIVALS = ("random heads", "LoRA", "scaled heads", "constant offset")
CAVEATS = [
    "Validation chose the stops, so its own numbers flatter every method: read the held-out table.",
    "A constant offset is the simple rival: where it closes the gap as well, tuning heads added nothing to that.",
    "On questions that the model knows nothing about, accuracy and AUROC stay near a half whatever the correction.",
]


@dataclass(frozen=True, eq=False)
class Alignment:
    """NASA and its rivals, fitted. ``edit`` is NASA's: apply, save, fold or export it. ``history``: every look at the
    validation questions. ``before``: validation untouched. ``ranked_on``: ids of the questions that chose the heads."""

    model: Model
    instruction: Instruction
    methods: tuple[Method, ...]
    history: pd.DataFrame
    heads: tuple[tuple[int, int], ...]
    before: dict[str, float]
    fitted_on: tuple[Question, ...]
    ranked_on: frozenset[str]
    provenance: dict[str, Any]

    @property
    def edit(self) -> ModelEdit:
        return next(m for m in self.methods if m.name == "NASA").edit  # type: ignore[return-value]

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
        sets: Mapping[str, Sequence[Question] | tuple[Sequence[Question], Instruction]],
        *,
        methods: Sequence[str] | None = None,
        batch_size: int = 16,
    ) -> pd.DataFrame:
        """Every method on sets of questions that none of them saw: one row for each set and method.

        A set is questions, or questions with the instruction to ask them with. The measures are of the forced choice
        (``bias_measures(channel="margin")``), each with its interval; ``accuracy_change`` and ``auroc_change`` are
        paired with the untouched model's; ``note`` says where the options hold less than a tenth of the probability.
        Raises ``ValueError`` for questions that a method was fitted on, their twins and copies, and for those that made
        the ranking. Costs a forward pass of every question for each method with an edit.
        """
        for name, given in sets.items():
            questions, _ = self._asked(given)
            if seen := sorted({*overlap(questions, self.fitted_on)} | ({q.id for q in questions} & self.ranked_on)):
                raise ValueError(
                    f"{len(seen)} questions of {name!r} were used for fitting or chose the heads: "
                    f"{', '.join(seen[:10])}"
                    f"{' ...' if len(seen) > 10 else ''}. Test on others (probes.questions.split_questions)."
                )
        chosen = [m for m in self.methods if methods is None or m.name in methods]
        untouched = {name: self._ask(given, batch_size) for name, given in sets.items()}
        rows = [_row(name, "untouched", answers, answers) for name, answers in untouched.items()]
        for method in chosen:
            with method.applied(self.model):
                for name, given in sets.items():
                    plain = untouched[name]
                    answers = plain if method.edit is None else self._ask(given, batch_size)
                    rows.append(_row(name, method.name, method.adjust(answers), plain))
        frame = pd.DataFrame(rows)
        order = {name: i for i, name in enumerate(sets)}
        return frame.sort_values("set", key=lambda s: s.map(order), kind="stable").reset_index(drop=True)

    def _asked(self, given) -> tuple[Sequence[Question], Instruction]:
        return given if isinstance(given, tuple) else (given, self.instruction)

    def _ask(self, given, batch_size: int) -> Answers:
        questions, instruction = self._asked(given)
        return answer(self.model, questions, instruction, batch_size=batch_size)

    def plot(self) -> go.Figure:
        """Validation gap and the tuned heads' NAS, look by look, of NASA."""
        from interp.figures.heads import TEMPLATES

        nasa = self.history[self.history["method"] == "NASA"]
        looks = nasa[nasa["event"] == "look"].reset_index(drop=True)
        hover = looks["what"] + ", step " + looks["step"].astype(str)
        figure = go.Figure(
            [
                go.Scatter(x=looks.index, y=looks["gap"], name="precision - recall", mode="lines+markers", text=hover),
                go.Scatter(x=looks.index, y=looks["auroc"], name="AUROC", mode="lines+markers", text=hover),
                go.Scatter(x=looks.index, y=looks["loss"], name="loss of the gold answer", mode="lines", text=hover),
            ]
        )
        for start, name in zip(*_starts(looks), strict=True):
            figure.add_vline(x=start - 0.5, line_width=1, line_dash="dot", annotation_text=name)
        figure.update_layout(
            template=TEMPLATES["light"],
            xaxis_title="look at the validation questions",
            yaxis_title="",
            height=420,
            legend={"y": 1.02, "yanchor": "bottom"},  # the axis has a title below
        )
        return figure

    def statement(self) -> list[str]:
        """What fitting did, in sentences made from the numbers alone."""
        nasa = next(m for m in self.methods if m.name == "NASA")
        state, before = nasa.validation, self.before
        assert state is not None
        sentences = [
            f"NASA kept new rows of {sum(r.kind == 'query' for r in self.edit.rows)} heads ({nasa.note}; "
            f"{nasa.n_parameters:,} numbers). On the validation questions precision - recall went from "
            f"{before['gap']:.2f} to {state.gap:.2f}, accuracy from {before['accuracy']:.2f} to {state.accuracy:.2f}, "
            f"AUROC from {before['auroc']:.2f} to {state.auroc:.2f}."
        ]
        closed = [m.name for m in self.methods if m.name != "NASA" and m.validation and abs(m.validation.gap) <= 0.15]
        if closed:
            sentences.append(f"Also to a gap of at most 0.15 on validation: {', '.join(closed)}.")
        return with_mass(sentences, self.provenance)

    def to_findings(self, tests: Mapping[str, pd.DataFrame] | None = None) -> Findings:
        from interp.reports import Findings

        return Findings(
            title=self.provenance["title"],
            statement=self.statement(),
            tables={**(tests or {}), "Methods": self.methods_table(), "Validation, look by look": self.history},
            figures={"NASA on the validation questions": self.plot()},
            provenance=self.provenance,
        )

    @keeps_work
    def save(self, out: str | Path, tests: Mapping[str, pd.DataFrame] | None = None, overwrite: bool = False) -> Path:
        """The report in ``out``, NASA's edit in ``out/edit``, every fitted method in ``out/fits``."""
        out = Path(out)
        if not overwrite:
            refuse_other_run(out, self.provenance["run_id"])
        self.edit.save(out / "edit")
        write_all(out, self.methods, self.history.to_dict("records"), self.provenance["run_id"])
        self.to_findings(tests).save(out, overwrite=overwrite)
        return out


@public
@keeps_work
def align(
    model: Model,
    training: Sequence[Question],
    validation: Sequence[Question],
    *,
    ranking: HeadRanking | None = None,
    instruction: Instruction | None = None,
    settings: Settings | None = None,
    rivals: Sequence[str] = RIVALS,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> Alignment:
    """Fit NASA, and the rivals on the same data, with the same stop.

    Heads are tuned in descending NAS (of ``ranking``, or measured on the training questions), those above 0 only. The
    model is left as it was: ``alignment.edit`` is the correction. With ``out``, what is fitted is kept there head by
    head, and ``resume=True`` goes on after a kill, or reads a finished run back; the report is written by
    ``alignment.save(out)``.

    Rivals: ``"random heads"`` (as many, with as many steps each, none of the 2 ``k`` of highest NAS), ``"LoRA"`` (all
    query and key projections, at least as many numbers, as many steps), ``"scaled heads"`` (factors for NASA's heads,
    no training), ``"constant offset"`` (added to the margin of Yes).

    Cost: about 5 minutes a method for SmolLM2 on one core (tests/benchmarks/negative_bias). Raises ``ValueError`` for
    fewer than 20 questions, one class only, overlap of the two sets (by id or text), options that hold less than 10 %
    of the probability, a ranking of other weights, fused or quantised projections; ``ArithmeticError`` for a loss that
    is not finite.
    """
    began = time.perf_counter()
    instruction, settings = instruction or Instruction(), settings or Settings()
    require_probing_set("training", training)
    require_probing_set("validation", validation)
    require_disjoint(training, validation)
    if unknown := set(rivals) - set(RIVALS):
        raise ValueError(f"rivals {sorted(unknown)}; expected some of {RIVALS}.")
    bench = Bench(model, training, validation, instruction, settings)
    data = {
        **(origin or {}),
        "sha256": hash_json([hash_questions(training), hash_questions(validation)]),
        "n_training": len(training),
        "n_validation": len(validation),
        "domains": sorted({q.domain for q in [*training, *validation]}),
    }
    described = {"instruction": asdict(instruction), **asdict(settings)}  # not the rivals: one can be added later
    if ranking is not None:
        require_ranking_of(ranking, model)
        described["ranking"] = ranking.provenance.get("run_id")
    title = "Negative Attention Score Alignment"
    prompts, more = [*bench.training_prompts, *bench.validation_prompts], {"rivals": list(rivals)}
    provenance = study_provenance(title, model, prompts, data, described, CITATIONS, CAVEATS, began, out, **more)
    key = provenance["run_id"]
    untouched = bench.untouched
    held = np.exp(untouched.log_probs).sum(1)
    read = measured_mass(model, bench.validation_prompts, held=held)
    try:
        require_options_used(untouched)
    except ValueError as error:
        raise ValueError(f"{error} {read.instead()}" if read is not None else str(error)) from None
    provenance |= {} if read is None else {"answer_mass": read.to_dict()}
    bench.about = {
        "run_id": key,
        "data_sha256": data["sha256"],
        "instruction": asdict(instruction),
        "validation_before": asdict(validation_state(untouched)),
    }
    negative = negative_heads(bench, ranking, 2 * settings.k)
    heads = negative[: settings.k]
    others = random_heads(model, negative, settings.seed)
    if "random heads" in rivals and len(others) < len(heads):
        raise ValueError(
            f"{model.name} has {len(others)} heads besides the {len(negative)} of highest NAS; the rival 'random "
            f"heads' needs {len(heads)}. Lower k, or leave that rival out."
        )
    fits = Fits(out, key, {**parts_identity(provenance), **described}, resume, overwrite)

    def fitted(name: str, fit: Callable[[], Method]) -> Method:
        if (found := fits.get(name)) is not None:
            bench.history += found[1]
            return found[0]
        method = fit()
        fits.put(method, [h for h in bench.history if h["method"] == name])
        return method

    def tuned(name: str, chosen: Sequence[tuple[int, int]], steps: Sequence[int] | None = None) -> Method:
        return tune_heads(bench, chosen, name, steps=steps, progress=fits.progress(name), key=key)

    try:
        nasa = fitted("NASA", lambda: tuned("NASA", heads))
    except BaseException:
        fits.tidy()
        raise
    done = [h for h in bench.history if h["method"] == "NASA" and h["event"].startswith(("kept", "cancelled"))]
    steps = [h["step"] for h in done]
    tuned_in_turn = list(dict.fromkeys(h["what"] for h in done))  # a head comes again in the second round
    stand_ins = [others[tuned_in_turn.index(h["what"])] for h in done] if "random heads" in rivals else []
    fit = {
        "random heads": lambda: tuned("random heads", stand_ins, steps),
        "LoRA": lambda: train_lora(bench, sum(steps) or settings.check_every, nasa.n_parameters),
        "scaled heads": lambda: scale_heads(bench, heads[: len(tuned_in_turn)]),
        "constant offset": lambda: fit_offset(untouched),
    }
    methods = [nasa, *(fitted(name, fit[name]) for name in RIVALS if name in rivals)]
    return Alignment(
        model=model,
        instruction=instruction,
        methods=tuple(methods),
        history=pd.DataFrame(bench.history),
        heads=tuple(heads),
        before=asdict(validation_state(untouched)),
        fitted_on=(*training, *validation),
        ranked_on=frozenset(ranking.example_ids if ranking is not None else ()),
        provenance=provenance | {"seconds": round(time.perf_counter() - began, 1)},
    )


def negative_heads(bench: Bench, ranking: HeadRanking | None, k: int) -> list[tuple[int, int]]:
    """The k heads of highest NAS (of at most ``N_RANKED`` training prompts), those above 0, highest first."""
    if ranking is not None:
        mean = ranking.measures["nas"].mean(0)
    else:
        drawn = np.random.default_rng(bench.settings.seed).permutation(len(bench.training_prompts))[:N_RANKED]
        prompts = [bench.training_prompts[i] for i in drawn]
        starts = range(0, len(prompts), 16)
        mean = np.concatenate([score_prompts(bench.model, prompts[s : s + 16]) for s in starts]).mean(0)
    order = np.argsort(-mean, axis=None, kind="stable")[:k]
    found = [tuple(map(int, np.unravel_index(i, mean.shape))) for i in order]
    return [(layer, head) for layer, head in found if mean[layer, head] > 0]


def random_heads(model: Model, but: Sequence[tuple[int, int]], seed: int) -> list[tuple[int, int]]:
    """All other heads, shuffled."""
    others = [(la, h) for la in range(model.n_layers) for h in range(model.n_heads) if (la, h) not in set(but)]
    return [others[i] for i in np.random.default_rng((seed, 7)).permutation(len(others))]


def require_probing_set(name: str, questions: Sequence[Question]) -> None:
    """Raise ``ValueError`` for fewer than 20 questions or for one class only."""
    n_yes = sum(q.answer == "Yes" for q in questions)
    if len(questions) < FEWEST:
        raise ValueError(f"the {name} set has {len(questions)} questions; expected at least {FEWEST}. Give more.")
    if n_yes in (0, len(questions)):
        only = "Yes" if n_yes else "No"
        raise ValueError(
            f"all {len(questions)} {name} questions have the gold answer {only}; precision and recall need both, and "
            "tuning on one class only teaches that word. Add questions of the other."
        )


def require_disjoint(training: Sequence[Question], validation: Sequence[Question]) -> None:
    """Raise ``ValueError`` listing the ids of questions that stand in both sets: by id, pair, or text and passage."""
    same = overlap(validation, training)
    if same:
        raise ValueError(
            f"{len(same)} validation questions are in the training set too: {', '.join(same[:20])}"
            f"{' ...' if len(same) > 20 else ''}. Split them (probes.questions.split_questions)."
        )


def require_ranking_of(ranking: HeadRanking, model: Model) -> None:
    """Raise ``ValueError`` if the ranking has no NAS or is of other weights."""
    if "nas" not in ranking.measures:
        raise ValueError(f"the ranking has the measures {list(ranking.measures)}; NASA needs 'nas' (rank_heads).")
    known = ranking.provenance.get("model")
    was = known.get("weights_sha256") if isinstance(known, dict) else None
    shape = (ranking.n_layers, ranking.n_heads)
    if shape != (model.n_layers, model.n_heads) or (was is not None and was != weights_sha256(model.hf)):
        name = known.get("name") if isinstance(known, dict) else known
        raise ValueError(
            f"the ranking is of {name!r} ({shape[0]} x {shape[1]} heads, weights {str(was)[:12]}), not of "
            f"{model.name!r} ({model.n_layers} x {model.n_heads}). Rank this model's heads, or leave out ranking=."
        )
    require_edits(describe_model(model), known if isinstance(known, dict) else {}, "the ranking")


def _row(name: str, method: str, answers: Answers, untouched: Answers) -> dict[str, Any]:
    measured = bias_measures(answers, channel="margin").set_index("measure")
    row: dict[str, Any] = {"set": name, "method": method, "n": len(answers)}
    shown = ("precision", "recall", "precision_recall_gap", "negative_bias", "accuracy", "auroc", "ece", "says_yes")
    for measure in (*shown, "option_mass"):
        row |= {measure: measured.value[measure]}
        row |= {f"{measure}_low": measured.ci_low[measure], f"{measure}_high": measured.ci_high[measure]}
    for measure in ("accuracy", "auroc"):
        value, (low, high) = paired_change(answers, untouched, measure)
        row |= {f"{measure}_change": value, f"{measure}_change_low": low, f"{measure}_change_high": high}
    mass = measured.value["option_mass"]
    unused = f"the options hold {mass:.0%} of the probability: the model would rather say something else"
    return row | {"note": unused if mass < LEAST_MASS else ""}


def paired_change(answers: Answers, untouched: Answers, measure: str) -> tuple[float, tuple[float, float]]:
    """Accuracy or AUROC minus the untouched model's on the same questions, with a paired bootstrap interval."""

    def difference(gold, margin, margin_before):
        if measure == "accuracy":
            return float(((margin > 0) == gold).mean() - ((margin_before > 0) == gold).mean())
        return auroc(gold, margin) - auroc(gold, margin_before)

    arrays = (answers.gold, answers.margin, untouched.margin)
    low, high = bootstrap_interval(difference, *arrays, groups=answers.groups)
    return difference(*arrays), (float(low), float(high))


def _starts(looks: pd.DataFrame) -> tuple[list[int], list[str]]:
    """Where each head's looks begin."""
    first = looks.drop_duplicates("what")
    return first.index.tolist(), first["what"].tolist()


__all__ = ["Alignment", "Settings", "align"]

"""The commands of a study of negative bias beyond ranking: measure it, test heads, correct it, ask what is known."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes.cli.study import (
    FILES,
    AnswerForms,
    AsJson,
    BatchSize,
    Columns,
    Data,
    Device,
    Dtype,
    FormatName,
    Forms,
    Limit,
    ModelName,
    NoChat,
    Out,
    Overwrite,
    Resume,
    Seed,
    Shown,
    Study,
    Template,
    Wording,
    Writing,
    how_read,
    print_result,
)

if TYPE_CHECKING:
    from probes.questions import Question

measure = typer.Typer(help="Measure a behaviour on a set of questions; write a report.", no_args_is_help=True)
test = typer.Typer(help="Test whether the heads of a ranking are causes; write a report.", no_args_is_help=True)
align = typer.Typer(help="Correct the model by tuning few heads; write a report and the edit.", no_args_is_help=True)

KS, KS_ALL = (1, 2, 3, 5, 10, 15, 20), (1, 5, 20)  # as in probes.negative_bias.causality.causal_test
N_RANDOM, N_RANDOM_ALL = 20, 3


class Edit(StrEnum):
    zero = "zero"
    mean = "mean"
    scale = "scale"


class Positions(StrEnum):
    answer = "answer"
    all = "all"
    both = "both"


@measure.command("negative-bias")
def measure_negative_bias(
    out: Out,
    model: ModelName = "smollm2-135m",
    data: Data = "builtin",
    column: Columns = None,
    format: FormatName = None,
    limit: Limit = None,
    seed: Seed = 0,
    instruction: Wording = "Answer the question with Yes or No.",
    forms: Forms = AnswerForms.in_context,
    generate_tokens: Annotated[int, typer.Option(min=0, help="Also read a reply of N tokens; 0: none.")] = 8,
    batch_size: BatchSize = 16,
    template: Template = None,
    no_chat: NoChat = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Does the model say No too often? Precision, recall, negative bias, calibration and AUROC.

    By the first token of the answer and by generated text.
    """
    from probes import negative_bias

    reading, writing = how_read(format, column), Writing.of(template, no_chat)
    study = Study(out, model, data, limit, seed, resume, overwrite, dtype, device, reading, writing)
    asked = negative_bias.Instruction(instruction)
    questions = _both_answers(study.questions(), data)
    report = study.run(
        lambda loaded: negative_bias.measure(
            loaded,
            questions,
            asked,
            forms=forms.value,
            generate_tokens=generate_tokens,
            batch_size=batch_size,
            keep=study.keep(),
        ),
        f"{len(questions)} questions from {data}",
    )
    table = report.to_findings().tables["Measures"]
    table["measure"] = table["measure"].str.replace("_", " ")
    channels = [c for c in table if f"{c}_low" in table]
    columns = {"measure": "measure"} | {c: c for c in channels}
    shown = [Shown("measures", table, columns, f"{len(questions)} questions")]
    print_result(report.statement(), shown, [out], as_json)


@test.command("negative-heads")
def negative_heads(
    out: Out,
    model: ModelName = "smollm2-135m",
    data: Data = "builtin",
    column: Columns = None,
    format: FormatName = None,
    ranking: Annotated[
        Path | None,
        typer.Option(help="Folder of a saved NAS ranking; the default ranks on one half and tests on the other."),
    ] = None,
    limit: Limit = None,
    seed: Seed = 0,
    instruction: Wording = "Answer the question with Yes or No.",
    forms: Forms = AnswerForms.in_context,
    k: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Heads in a set; may be repeated.", show_default=", ".join(map(str, KS))),
    ] = None,
    edit: Annotated[
        list[Edit] | None, typer.Option(help="What is done to them; may be repeated.", show_default="all three")
    ] = None,
    positions: Annotated[Positions, typer.Option(help="Where: the last token, every token, or both.")] = (
        Positions.answer
    ),
    random_sets: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Random sets of the same layers to compare with.",
            show_default=f"{N_RANDOM} at the last token, {N_RANDOM_ALL} at every token",
        ),
    ] = None,
    batch_size: BatchSize = 8,
    template: Template = None,
    no_chat: NoChat = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Are the top heads causes? Edit the first k together: does the bias change more than with random heads?

    With --ranking, questions that made it are left out; --limit counts the rest.
    Without it, half of the questions make a ranking, which is kept in OUT/ranking.
    """
    from interp import load_ranking
    from probes import negative_bias
    from probes.questions import apart_from, load_questions, sample_questions, split_questions

    reading, writing = how_read(format, column), Writing.of(template, no_chat)
    study = Study(out, model, data, limit, seed, resume, overwrite, dtype, device, reading, writing)
    asked = negative_bias.Instruction(instruction)
    saved, to_rank = None, []
    if ranking is not None:
        saved = load_ranking(ranking)
        every = load_questions(data, seed=seed, format=format, columns=study.reading.columns)
        questions = apart_from(every, saved.example_ids)
        if not questions:
            raise ValueError(
                f"all {len(every)} questions of {data} made the ranking {ranking}, or stand beside one that did. Heads "
                "chosen on a question look better on it: give other questions, or rank on fewer (--limit)."
            )
        questions = questions if limit is None else sample_questions(questions, limit, seed)
    else:
        halves = split_questions(study.questions(), {"ranking": 0.5, "test": 0.5}, seed)
        to_rank, questions = halves["ranking"], halves["test"]
    _both_answers(questions, data)

    def work(loaded):
        ranked = saved
        if ranked is None:
            n_heads = loaded.n_layers * loaded.n_heads
            if (largest := max(k or KS)) > n_heads:  # before the ranking is made
                raise typer.BadParameter(f"{largest}; {loaded.name} has {n_heads} heads", param_hint="--k")
            ranked = negative_bias.rank_heads(
                loaded,
                to_rank,
                instruction=asked,
                forms=forms.value,
                batch_size=batch_size,
                keep=study.keep(out / "ranking", half="ranking"),
            )
        return negative_bias.causal_test(
            loaded,
            questions,
            ranked,
            ks=k or KS,
            ks_all=k or KS_ALL,
            edits=[e.value for e in edit or Edit],
            positions=("answer", "all") if positions is Positions.both else positions.value,
            n_random=random_sets or N_RANDOM,
            n_random_all=random_sets or N_RANDOM_ALL,
            instruction=asked,
            forms=forms.value,
            batch_size=batch_size,
            seed=seed,
            keep=study.keep(**({} if saved else {"half": "test"})),
        )

    folders = [out] if saved else [out, out / "ranking"]
    made_by = f"{len(saved.example_ids)} made the ranking" if saved else f"{len(to_rank)} others to rank by"
    result = study.run(work, f"{len(questions)} questions from {data}, {made_by}", folders)
    frame = result.to_frame()
    top = frame[frame["set"] == "top"]
    n_answers = len(top.drop_duplicates(["by", "positions"]))
    changes = {"delta_nb": "negative bias", "delta_nb_p_random": "p, random sets", "delta_accuracy": "accuracy"}
    columns = {name: name for name in ("positions", "edit", "k")} | changes
    by_nas = top[top["by"] == "nas"]
    shown = [Shown("top_heads", by_nas, columns, "Change when the top k heads by NAS are edited together")]
    print_result(result.statement()[:n_answers], shown, folders, as_json)


@align.command("nasa")
def nasa(
    out: Out,
    model: ModelName = "smollm2-135m",
    data: Annotated[
        list[str],
        typer.Option(help=f"{FILES}; may be repeated.", show_default="builtin"),
    ] = ["builtin"],  # noqa: B006 (typer's way to a default that can be repeated)
    test_data: Annotated[
        list[str] | None, typer.Option(help="Further questions to test on only; may be repeated.")
    ] = None,
    column: Columns = None,
    format: FormatName = None,
    limit: Annotated[
        int | None,
        typer.Option(min=20, help="Most training questions; N/3 validate (20 at least), N/2 are in each test."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split, the samples and the training.")] = 0,
    instruction: Wording = "Answer the question with Yes or No.",
    k: Annotated[int, typer.Option(min=1, help="Tune at most so many heads, those of highest NAS.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Most steps for each head.")] = 15,
    learning_rate: Annotated[float, typer.Option(help="In units of a head's query rows' RMS.")] = 0.006,
    batch_size: Annotated[int, typer.Option(min=2, help="Questions in a step, half of them Yes.")] = 16,
    key_group: Annotated[
        bool, typer.Option("--key-group", help="Tune also the key rows that a head shares with its siblings.")
    ] = False,
    rivals: Annotated[
        bool, typer.Option(help="Fit the rivals too: random heads, LoRA, scaled heads, a constant offset.")
    ] = True,
    export: Annotated[
        Path | None, typer.Option(help="Write the corrected model there, for plain transformers.", metavar="DIR")
    ] = None,
    template: Template = None,
    no_chat: NoChat = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Tune the negative heads one by one (NASA, arXiv 2408.00137), beside rivals; test on held-out questions.

    The questions of all --data are split by --seed: about half to train on,
    a fifth to validate, and the rest kept back to test on.
    The edit is saved in OUT/edit, beside the report.
    """
    from interp.records import prepare_directory
    from probes import negative_bias
    from probes.negative_bias.alignment_result import HELD_OUT
    from probes.negative_bias.nasa import RIVALS, require_probing_set
    from probes.questions import divide

    reading, writing = how_read(format, column), Writing.of(template, no_chat)
    study = Study(out, model, data, limit, seed, resume, overwrite, dtype, device, reading, writing)
    settings = negative_bias.Settings(
        k=k, steps=steps, batch_size=batch_size, learning_rate=learning_rate, key_group=key_group, seed=seed
    )
    asked = negative_bias.Instruction(instruction)
    sets = divide(data, test_data or (), limit=limit, seed=seed, reading=study.reading)
    for name, questions in (("training", sets.training), ("validation", sets.validation)):
        require_probing_set(name, questions)
    for name, questions in sets.tests.items():
        _both_answers(questions, f"the test set {name!r}")
    if export is not None:
        _require_place_for_export(export, out)

    def work(loaded):
        if export is not None:
            weights = loaded.hf.state_dict().values()
            was_there = export.exists()
            prepare_directory(export, need_mib=sum(t.numel() * t.element_size() for t in weights) / 2**20)
            if not was_there:  # only tried: a run that fails leaves none
                export.rmdir()
        alignment = negative_bias.align(
            loaded,
            sets.training,
            sets.validation,
            instruction=asked,
            settings=settings,
            rivals=RIVALS if rivals else (),
            tests=sets.tests,
            keep=study.keep(test={name: len(questions) for name, questions in sets.tests.items()}),
        )
        if export is not None:
            alignment.edit.export(loaded, export)
        return alignment

    repeated = f", {sets.n_repeated} repeated ones left out" if sets.n_repeated else ""
    n_test = sum(map(len, sets.tests.values()))
    counts = f"{len(sets.training)} questions to train on, {len(sets.validation)} to validate, {n_test} to test"
    alignment = study.run(work, counts + repeated, [out], export)
    shown = {"precision_recall_gap": "precision - recall", "accuracy": "accuracy", "auroc": "AUROC"}
    columns = {"set": "set", "method": "method", "n": "n"} | shown
    found = alignment.tests[HELD_OUT]
    tables = [Shown("held_out", found, columns, "Questions that no method saw, with 95 % intervals")]
    print_result(alignment.statement(), tables, [out], as_json)
    if export is not None:
        typer.echo(f"corrected model: {export}", err=True)


def knowledge(
    out: Out,
    model: ModelName = "smollm2-135m",
    data: Data = "builtin",
    column: Columns = None,
    format: FormatName = None,
    limit: Limit = None,
    seed: Seed = 0,
    samples: Annotated[int, typer.Option(min=1, help="Sampled replies to each open question.")] = 8,
    temperature: Annotated[float, typer.Option(help="At which they are sampled.")] = 0.7,
    scenarios: Annotated[bool, typer.Option(help="Then measure the bias under every scenario.")] = True,
    which: Annotated[
        list[str] | None,
        typer.Option(help="Only these scenarios; may be repeated; 'plain' is needed.", show_default="all"),
    ] = None,
    reasoning_tokens: Annotated[int, typer.Option(min=1, help="Length of a chain of thought.")] = 64,
    batch_size: BatchSize = 16,
    template: Template = None,
    no_chat: NoChat = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """What does the model know, and does its bias follow from that or from the form of a question?

    The open form of each question, asked several times, sorts it into correct,
    incorrect or insufficient knowledge (report in OUT/knowledge).
    Then each is put in every scenario of arXiv 2511.10881 (OUT/scenarios).
    """
    from probes import negative_bias
    from probes.negative_bias.scenario_study import ALL

    reading, writing = how_read(format, column), Writing.of(template, no_chat)
    study = Study(out, model, data, limit, seed, resume, overwrite, dtype, device, reading, writing)
    which = which or list(ALL)
    given = study.questions()
    questions = _both_answers([q for q in given if q.open_question.strip() and q.open_answer.strip()] or given, data)
    if scenarios:
        _require_scenarios(which, questions, seed)

    def work(loaded):
        known = negative_bias.sort_by_knowledge(
            loaded,
            questions,
            n_samples=samples,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            keep=study.keep(out / "knowledge"),
        )
        if not scenarios:
            return known, None
        return known, negative_bias.scenarios(
            loaded,
            questions,
            known,
            which=which,
            n_reasoning_tokens=reasoning_tokens,
            seed=seed,
            batch_size=batch_size,
            keep=study.keep(out / "scenarios"),
        )

    folders = [out / "knowledge", out / "scenarios"][: 1 + scenarios]
    left_out = f" ({len(given) - len(questions)} without an open form left out)" if len(questions) < len(given) else ""
    known, by_scenario = study.run(work, f"{len(questions)} questions from {data}{left_out}", folders)
    counts = known.counts()
    tables = [Shown("knowledge", counts, {name: name for name in counts}, "What the model knows, in questions")]
    if by_scenario is not None and len(claims := by_scenario.claims()):
        shown = {
            "claim": "claim",
            "contrast": "contrast",
            "n": "n",
            "negative_bias": "change of NB",
            "verdict": "verdict",
        }
        tables.append(Shown("claims", claims, shown, "The claims of arXiv 2511.10881"))
    print_result([], tables, folders, as_json)


def _both_answers(questions: Sequence[Question], source: str) -> Sequence[Question]:
    """The questions, if some are to be answered with Yes and some with No: bias is a difference between the two."""
    if len(answers := {q.answer for q in questions}) < 2:
        raise ValueError(
            f"all {len(questions)} questions from {source} have the gold answer {answers.pop()}; expected both, since "
            "bias is a difference between the two. Add questions of the other."
        )
    return questions


def _require_scenarios(which: Sequence[str], questions: Sequence[Question], seed: int) -> None:
    """What the study of scenarios would refuse after the questions were sorted, refused now."""
    from probes.negative_bias.scenario_forms import irrelevant_passages, require_scenarios

    require_scenarios(which, questions)
    if "irrelevant_passage" in which:
        irrelevant_passages(questions, seed)


def _require_place_for_export(export: Path, out: Path) -> None:
    """Raise if the corrected model could not be written there after the work."""
    if export.exists() and (not export.is_dir() or any(export.iterdir())):
        raise FileExistsError(f"--export {export} is not an empty directory. Give another, or delete it.")
    report = out.resolve()
    if export.resolve() in (report, *report.parents, *(report / name for name in ("edit", "parts"))):
        raise ValueError(f"--export {export} would hold files of the report in --out {out}. Give another directory.")

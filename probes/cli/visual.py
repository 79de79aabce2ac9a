"""The commands on heads of vision-language models: rank them on visual questions, compare the levels of questions."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from probes.cli.scenes import Decisions, Level, MaxLeak
from probes.cli.study import (
    AsJson,
    Columns,
    Device,
    Dtype,
    ModelName,
    NoChat,
    Out,
    Overwrite,
    Resume,
    Shown,
    Study,
    Template,
    Writing,
    how_read,
    print_result,
    say,
)


class Ablation(StrEnum):
    mean_of_others = "mean-of-others"
    zero = "zero"
    mean = "mean"


class SetEdit(StrEnum):
    zero = "zero"
    mean_of_others = "mean-of-others"


class Positions(StrEnum):
    all = "all"
    text = "text"
    answer = "answer"


class Score(StrEnum):
    s_plus = "s-plus"
    s_minus = "s-minus"
    signed_drop = "signed-drop"


class Cases(StrEnum):
    both = "both"
    as_given = "as-given"


class By(StrEnum):
    score = "score"
    mean_change = "mean-change"


class Missing(StrEnum):
    refuse = "refuse"
    skip = "skip"


VisualData = Annotated[
    str,
    typer.Option(
        metavar="SOURCE",
        help="scenes:SPLIT:DIFFICULTY:N, scenes:FOLDER, or gqa:, pope:, cocoqa:, vqav2:, naturalbench: and a file.",
    ),
]
Images = Annotated[Path | None, typer.Option(help="Folder of a benchmark's images.")]
Annotations = Annotated[Path | None, typer.Option(help="VQAv2's answers, if they are not beside the questions.")]
WhereMissing = Annotated[Missing, typer.Option(help="Questions whose image is missing: refuse all, or leave them out.")]
Levels = Annotated[
    list[Level] | None, typer.Option(help="Only questions of this level; may be repeated.", show_default="all")
]
Sample = Annotated[int | None, typer.Option(min=1, help="At most N questions, drawn by --seed.")]
SceneSeed = Annotated[int, typer.Option(help="Seed of drawn scenes and of samples.")]
Instruction = Annotated[
    str | None,
    typer.Option(
        help="A sentence after each question.", show_default="none for scenes, V-SEAM's single word for benchmarks"
    ),
]
AnswerCases = Annotated[Cases, typer.Option(help="Whether 'Yes' counts as 'yes' too.")]
Where = Annotated[Positions, typer.Option(help="Where heads are ablated: every token, after the picture, the last.")]
Batch = Annotated[int, typer.Option(min=1, help="Questions in a batch; a killed run loses at most one.")]
Memory = Annotated[float, typer.Option(min=16, help="MiB that a chunk of edits may take, beside the model.")]


def visual_heads(
    out: Out,
    data: VisualData,
    model: ModelName = "scenes-smollm2",
    images: Images = None,
    annotations: Annotations = None,
    column: Columns = None,
    missing: WhereMissing = Missing.refuse,
    decisions: Decisions = None,
    max_leak: MaxLeak = 0.0,
    level: Levels = None,
    limit: Sample = None,
    seed: SceneSeed = 0,
    instruction: Instruction = None,
    cases: AnswerCases = Cases.both,
    score: Annotated[
        list[Score] | None, typer.Option(help="Wanted scores; may be repeated.", show_default="all three")
    ] = None,
    ablation: Annotated[Ablation, typer.Option(help="What a head's output is replaced by.")] = Ablation.mean_of_others,
    positions: Where = Positions.all,
    rankings: Annotated[
        bool, typer.Option("--rankings", help="Also a report of each score and level, in OUT/rankings (5 MB each).")
    ] = False,
    batch_size: Batch = 4,
    memory: Memory = 1024.0,
    template: Template = None,
    no_chat: NoChat = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """S+, S- and D of every head (V-SEAM, arXiv 2509.14837), with floors, intervals and p.

    One pass for each head and question at --positions all; it says how long that
    takes before it starts, and a killed run goes on with --resume.
    """
    from probes.visual_semantics.heads import NAMES, first_heads, rank_visual_heads
    from probes.visual_semantics.heads.heads import SCORES
    from probes.visual_semantics.questions import read_source

    reading, writing = how_read(None, column), Writing.of(template, no_chat)
    study = Study(out, model, data, limit, seed, resume, overwrite, dtype, device, reading, writing)
    source = read_source(
        data,
        images=images,
        levels=[lv.value for lv in level or ()],
        limit=limit,
        seed=seed,
        missing=missing.value,
        annotations=annotations,
        columns=study.reading.columns,
        decisions=decisions,
        max_leak=max_leak,
    )
    say(*(f"warning: {warning}" for warning in source.warnings))
    wanted = [s.value.replace("-", "_") for s in score] if score else SCORES
    heads = study.run(
        lambda loaded: rank_visual_heads(
            loaded,
            source.examples(loaded, instruction, cases.value.replace("-", "_")),
            ablation=ablation.value.replace("-", "_"),
            positions=positions.value,
            scores=wanted,
            batch_size=batch_size,
            memory_mib=memory,
            say=say,
            keep=replace(study.keep(), origin=source.origin()),
        ),
        str(source),
    )
    folders = [out]
    if rankings:
        for name in heads.provenance["settings"]["scores"]:
            for of_level in heads.levels:
                if heads.chosen(of_level, score=name).any():
                    folder = out / "rankings" / f"{of_level or 'all'}-{name.replace('_', '-')}"
                    heads.ranking(name, of_level).save(folder, overwrite=overwrite)
                    folders.append(folder)
    found = heads.to_findings()
    columns = {"level": "level", "kind": "kind", "n": "n", "n_correct": "correct", "accuracy": "accuracy"}
    columns |= {"gold_yes": "gold Yes", "says_yes": "says Yes", "flag": "few"}
    shown = [Shown("counts", found.tables["Questions by level and kind"], columns, "Unedited model")]
    of_heads = {"level": "level", "label": "head", "score": "score", "floor": "floor", "mean_change": "mean change"}
    of_heads |= {"q": "q", "yes_push": "yes push"}
    for name in heads.provenance["settings"]["scores"]:
        if (frame := found.tables.get(first_heads(name))) is None:
            continue
        first = frame.groupby("level", sort=False).head(5)
        thousandths = {c: 1000 * first[c] for c in first if c.startswith(("score", "floor", "mean_change"))}
        columns = {c: text for c, text in of_heads.items() if c in frame}
        title = f"{NAMES[name]}: the first 5 heads, in thousandths of probability"
        shown.append(Shown(name, frame if as_json else first.assign(**thousandths), columns, title))
    print_result(found.statement, shown, folders, as_json)


def visual_levels(
    out: Out,
    ranking: Annotated[Path, typer.Option(help="Folder of `interp rank visual-heads`.")],
    data: VisualData,
    model: ModelName = "scenes-smollm2",
    images: Images = None,
    annotations: Annotations = None,
    column: Columns = None,
    missing: WhereMissing = Missing.refuse,
    decisions: Decisions = None,
    max_leak: MaxLeak = 0.0,
    level: Levels = None,
    limit: Sample = None,
    seed: SceneSeed = 0,
    instruction: Instruction = None,
    cases: AnswerCases = Cases.both,
    k: Annotated[int, typer.Option(min=1, help="Heads in a set.")] = 10,
    by: Annotated[By, typer.Option(help="Choose them by the score, or by the mean change behind it.")] = By.score,
    edit: Annotated[
        list[SetEdit] | None, typer.Option(help="What is done to them; may be repeated.", show_default="both")
    ] = None,
    positions: Where = Positions.all,
    random_sets: Annotated[int, typer.Option(min=0, help="Random sets of the same layers to compare with.")] = 20,
    batch_size: Batch = 4,
    memory: Memory = 1024.0,
    template: Template = None,
    no_chat: NoChat = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Are positive heads a level's own, and negative ones everybody's? V-SEAM's claims, one by one.

    Overlaps of the ranking's top heads within and between levels; then each level's heads are
    ablated together on every level's questions, which must be others than the ranking's.
    """
    from interp import load_result
    from probes.visual_semantics.heads import VisualHeads, study_levels
    from probes.visual_semantics.questions import read_source

    reading, writing = how_read(None, column), Writing.of(template, no_chat)
    study = Study(out, model, data, limit, seed, resume, overwrite, dtype, device, reading, writing)
    heads = load_result(ranking)
    if not isinstance(heads, VisualHeads):
        raise ValueError(
            f"{ranking} holds another study ({type(heads).__name__}); it is not a ranking of visual heads. Make one: "
            "`interp rank visual-heads`."
        )
    source = read_source(
        data,
        images=images,
        levels=[lv.value for lv in level or ()],
        limit=limit,
        seed=seed,
        missing=missing.value,
        annotations=annotations,
        columns=study.reading.columns,
        decisions=decisions,
        max_leak=max_leak,
    )
    say(*(f"warning: {warning}" for warning in source.warnings))
    found = study.run(
        lambda loaded: study_levels(
            loaded,
            heads,
            source.examples(loaded, instruction, cases.value.replace("-", "_")),
            k=k,
            by=by.value.replace("-", "_"),
            edits=[e.value.replace("-", "_") for e in edit or SetEdit],
            positions=positions.value,
            n_random=random_sets,
            seed=seed,
            batch_size=batch_size,
            memory_mib=memory,
            say=say,
            keep=replace(study.keep(), origin=source.origin()),
        ),
        f"{source}; {len(heads.asked)} others made the ranking",
    )
    report = found.to_findings()
    verdicts = report.tables["Verdicts"]
    shown = [
        Shown("verdicts", verdicts, {c: c for c in verdicts}, "Claims, and how many ways to ask have which verdict")
    ]
    if as_json:
        shown.append(Shown("claims", report.tables["Claims"], {}, "Claims"))
    print_result(report.statement, shown, [out], as_json)

"""The command `interp modulate`: turn heads up and down by a ranking, and see on other questions whether it helps."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes.cli.scenes import Decisions, MaxLeak
from probes.cli.study import (
    AsJson,
    Columns,
    Device,
    Dtype,
    FormatName,
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
from probes.cli.visual import Annotations, AnswerCases, Cases, Images, Levels, Memory, Missing, WhereMissing

if TYPE_CHECKING:
    from probes.modulation import Modulation, Settings


class Rule(StrEnum):
    released = "released"
    top_k = "top-k"
    search = "search"


class Search(StrEnum):
    gradient = "gradient"
    coordinate = "coordinate"


class High(StrEnum):
    helps = "helps"
    hurts = "hurts"


class ChooseBy(StrEnum):
    accuracy = "accuracy"
    gold_prob = "gold-prob"


class Positions(StrEnum):
    all = "all"
    text = "text"
    answer = "answer"


def modulate(
    ranking: Annotated[
        Path,
        typer.Argument(help="Folder of a saved ranking: `interp rank ...`.", metavar="RANKING", show_default=False),
    ],
    out: Out,
    data: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="scenes:DIFFICULTY:N, scenes:FOLDER, a benchmark's file (gqa:, pope:, ...), 'builtin' or a file of "
            "yes/no questions.",
        ),
    ],
    test: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="A further test set: scenes:SPLIT:DIFFICULTY:N, a file; may be repeated."),
    ] = None,
    model: ModelName = "scenes-smollm2",
    images: Images = None,
    annotations: Annotations = None,
    column: Columns = None,
    format: FormatName = None,
    missing: WhereMissing = Missing.refuse,
    decisions: Decisions = None,
    max_leak: MaxLeak = 0.0,
    level: Levels = None,
    limit: Annotated[int | None, typer.Option(min=2, help="At most N questions of each set, drawn by --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of scenes, samples, splits and searches.")] = 0,
    instruction: Annotated[
        str | None,
        typer.Option(help="A sentence after each visual question; the instruction of yes/no questions of text."),
    ] = None,
    cases: AnswerCases = Cases.both,
    measure: Annotated[
        str | None, typer.Option(help="Another measure of the ranking.", show_default="the ranked one")
    ] = None,
    high: Annotated[
        High | None, typer.Option(help="What a high score says of a head.", show_default="hurts for NAS, else helps")
    ] = None,
    each_level: Annotated[
        bool, typer.Option("--each-level", help="A modulation of its own for each level, not one for all questions.")
    ] = False,
    rule: Annotated[
        list[Rule] | None, typer.Option(help="Which modulations are tried; may be repeated.", show_default="all three")
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Top-k: numbers of heads; may be repeated.", show_default="5, 10, 20"),
    ] = None,
    search: Annotated[
        list[Search] | None, typer.Option(help="How factors are searched; may be repeated.", show_default="both")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of a gradient search.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="Most rounds of a search head by head.")] = 3,
    positions: Annotated[
        Positions, typer.Option(help="Where factors act in a search head by head; the edit acts everywhere.")
    ] = Positions.all,
    choose_by: Annotated[ChooseBy, typer.Option(help="What decides on the validation questions.")] = ChooseBy.accuracy,
    random_draws: Annotated[int, typer.Option(min=0, help="Draws of random heads with the same factors.")] = 10,
    target: Annotated[float, typer.Option(min=0, max=1, help="Gain in accuracy that is aimed at.")] = 0.03,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions in a batch; a killed run loses at most one.")] = 16,
    memory: Memory = 1024.0,
    export: Annotated[
        Path | None, typer.Option(help="Write the modulated model there, for plain transformers.", metavar="DIR")
    ] = None,
    template: Template = None,
    no_chat: NoChat = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Heads that help up, heads that hurt down (V-SEAM, arXiv 2509.14837): does it help on other questions?

    What is tried is fitted and chosen on other questions than it is tested on, and compared with
    random heads and with a constant for each answer. The edit is saved in OUT/edit.
    """
    from interp.rankings import HeadRanking
    from probes.cli.modulation_sources import read_material, read_ranking
    from probes.modulation import Settings, modulate as modulate_items, scores_of_ranking
    from probes.visual_semantics.modulation import scores_of

    reading, writing = how_read(format, column), Writing.of(template, no_chat)
    study = Study(out, model, data, limit, seed, resume, overwrite, dtype, device, reading, writing)
    settings = _settings(Settings, rule, k, search, steps, rounds, positions, choose_by, random_draws, target, seed)
    ranked = read_ranking(ranking)
    if not isinstance(ranked, HeadRanking) and (measure is not None or high is not None):
        raise typer.BadParameter("for rankings of one measure, not for visual heads", param_hint="--measure/--high")
    material = read_material(
        data,
        test or (),
        images=images,
        annotations=annotations,
        missing=missing.value,
        levels=[lv.value for lv in level or ()],
        limit=limit,
        seed=seed,
        decisions=decisions,
        max_leak=max_leak,
        reading=study.reading,
    )
    say(*(f"warning: {warning}" for warning in material.warnings))
    if export is not None:
        if each_level:
            raise typer.BadParameter("one model holds one edit: leave out --each-level", param_hint="--export")
        _require_place(export, out)

    def work(loaded) -> Modulation:
        one = ranked if not isinstance(ranked, HeadRanking) else scores_of_ranking(ranked, measure, high and high.value)
        of_all = scores_of(ranked) if one is ranked else {"all": one}
        sets = material.sets(loaded, list(of_all.values()), instruction, cases.value.replace("-", "_"))
        scores = of_all
        if each_level:
            levels = sets["validation"].levels
            scores = scores_of(ranked, levels) if one is ranked else dict.fromkeys(levels, one)
        found = modulate_items(
            loaded,
            scores,
            sets.pop("fit"),
            sets.pop("validation"),
            sets,
            settings=settings,
            title="Modulation of visual heads" if material.is_visual else "Modulation of heads",
            batch_size=batch_size,
            memory_mib=memory,
            say=say,
            keep=replace(study.keep(), origin=material.origin()),
        )
        if export is not None and found.gains_on_validation:
            found.edit.export(loaded, export, measures=found.measures())
        return found

    found = study.run(work, str(material), [out], export)
    shown = {"set": "set", "level": "level", "kind": "kind", "n": "n", "before": "before", "after": "after"}
    shown |= {"change": "change", "p": "p", "more_than_random": "more than random"}
    shown |= {"more_than_offset": "more than constants", "verdict": "verdict"}
    frame = found.to_frame()
    accuracy = frame[frame["measure"] == "accuracy"].drop(columns="measure")
    tried = {"scope": "for", "candidate": "candidate", "n_heads": "heads", "largest_change": "largest |f - 1|"}
    tried |= {"accuracy": "accuracy", "accuracy_change": "change", "chosen": "chosen"}
    tables = [
        Shown("accuracy", accuracy, shown, "Accuracy with the chosen modulation, in shares"),
        Shown("candidates", found.validation, tried, "Candidates on the validation questions"),
    ]
    print_result(found.statement(), tables, [out], as_json)
    if export is not None:
        if found.gains_on_validation:
            say(f"modulated model: {export}")
        else:
            say("no model was exported: no candidate did better on validation than the model as it is.")


def _settings(
    kind: type[Settings], rule, k, search, steps, rounds, positions, choose_by, draws, target, seed
) -> Settings:
    chosen = {
        "rules": tuple(r.value for r in rule) if rule else None,
        "ks": tuple(k) if k else None,
        "searches": tuple(s.value for s in search) if search else None,
        "choose_by": choose_by.value.replace("-", "_"),
        "positions": positions.value,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    return kind(**given, steps=steps, rounds=rounds, n_random=draws, target=target, seed=seed)


def _require_place(export: Path, out: Path) -> None:
    """Raise if the modulated model could not be written there after the work."""
    if export.exists() and (not export.is_dir() or any(export.iterdir())):
        raise FileExistsError(f"--export {export} is not an empty directory. Give another, or delete it.")
    report = out.resolve()
    if export.resolve() in (report, *report.parents, *(report / name for name in ("edit", "edits", "parts"))):
        raise ValueError(f"--export {export} would hold files of the report in --out {out}. Give another directory.")

"""The command `interp modulate`: turn heads up and down by a ranking, and see on other questions whether it helps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from probes.cli.declaring import Option, taken
from probes.cli.estimate import Cost
from probes.cli.options import VisualData, VisualModel, require_files, say
from probes.cli.study import Report, Shown, Study, print_result, require_folder, require_place_for_export

if TYPE_CHECKING:
    from probes.cli.modulation_sources import Material
    from probes.modulation import Modulation

N_TRIED = 26  # candidates, by default


@dataclass(frozen=True)
class ModulatedData(VisualData):
    """Questions with pictures or without, divided, and further test sets."""

    data: Annotated[
        str,
        Option(
            "scenes:DIFFICULTY:N, scenes:FOLDER, a benchmark's file (gqa:, pope:, ...), 'builtin' or a file of yes/no "
            "questions.",
            metavar="SOURCE",
        ),
    ]
    test: Annotated[
        list[str] | None,
        Option("A further test set: scenes:SPLIT:DIFFICULTY:N, a file; may be repeated.", metavar="SOURCE"),
    ] = None
    format: str | None = None

    def __post_init__(self) -> None:
        require_files(self.reading, self.sources)

    def material(self) -> Material:
        """What is fitted, chosen and tested on. What to know of it is said on stderr."""
        from probes.cli.modulation_sources import read_material

        material = read_material(
            self.data,
            self.test or (),
            images=self.images,
            annotations=self.annotations,
            missing=self.missing,
            levels=self.level or (),
            limit=self.limit,
            seed=self.seed,
            decisions=self.decisions,
            max_leak=self.max_leak,
            reading=self.reading,
        )
        say(*(f"warning: {warning}" for warning in material.warnings))
        return material


def modulate(
    ranking: Annotated[
        Path, Option("Folder of a saved ranking: `interp rank ...`.", metavar="RANKING", is_argument=True)
    ],
    keep: Report,
    model: VisualModel,
    data: ModulatedData,
    tried: Annotated[
        dict,
        taken(
            "probes.modulation.candidates:ModulationSettings",
            "ks steps rounds n_random",
            rules=Option("Which modulations are tried; may be repeated.", flag="--rule"),
            searches=Option("How factors are searched; may be repeated.", flag="--search"),
            positions=Option(
                "Where factors act in a search head by head; the edit acts everywhere.",
                kind=Literal["all", "text", "answer"],
            ),
            choose_by=Option("What decides on the validation questions."),
            target=Option("Gain in accuracy that is aimed at.", least=0, most=1),
        ),
    ],
    options: Annotated[dict, taken("probes.modulation.study:modulate_items", "batch_size memory_mib")],
    measure: Annotated[str | None, Option("Another measure of the ranking.", shown="the ranked one")] = None,
    high: Annotated[
        Literal["helps", "hurts"] | None,
        Option("What a high score says of a head.", shown="hurts for NAS, else helps"),
    ] = None,
    each_level: Annotated[bool, Option("A modulation of its own for each level, not one for all questions.")] = False,
    export: Path | None = None,
    as_json: bool = False,
) -> None:
    """Heads that help up, heads that hurt down (V-SEAM, arXiv 2509.14837): does it help on other questions?

    What is tried is fitted and chosen on other questions than it is tested on, and compared with
    random heads and with a constant for each answer. The edit is saved in OUT/edit.
    """
    study = Study(keep, model, data)
    if export is not None:
        if each_level:
            raise typer.BadParameter("one model holds one edit: leave out --each-level", param_hint="--export")
        require_place_for_export(export, study.out, ("edit", "edits", "parts"))
    require_folder(ranking, "a report of `interp rank ...`")
    from interp.rankings import HeadRanking
    from probes.cli.modulation_sources import read_ranking
    from probes.modulation import ModulationSettings, modulate_items, scores_of_ranking
    from probes.visual_semantics.modulation import scores_of

    ranked = read_ranking(ranking)
    if not isinstance(ranked, HeadRanking) and (measure is not None or high is not None):
        raise typer.BadParameter("for rankings of one measure, not for visual heads", param_hint="--measure/--high")
    settings = ModulationSettings(
        **{name: tuple(v) if isinstance(v, list) else v for name, v in tried.items()}, seed=data.seed
    )
    material = data.material()

    def work(loaded) -> Modulation:
        one = ranked if not isinstance(ranked, HeadRanking) else scores_of_ranking(ranked, measure, high)
        of_all = scores_of(ranked) if one is ranked else {"all": one}
        sets = material.sets(loaded, list(of_all.values()), data.instruction, data.cases)
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
            say=say,
            **options,
            keep=replace(study.keep(), origin=material.origin()),
        )
        if export is not None and found.gains_on_validation:
            found.edit.export(loaded, export, measures=found.measures())
        return found

    found = study.run(work, str(material), [study.out], export, cost=_cost(len(material), tried))
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
    print_result(found.statement(), tables, [study.out], as_json)
    if export is not None:
        if found.gains_on_validation:
            say(f"modulated model: {export}")
        else:
            say("no model was exported: no candidate did better on validation than the model as it is.")


def _cost(n: int, tried: dict[str, Any]) -> Cost:
    """A third of the questions are searched on, a third choose, and the rest test."""
    searched = tried["steps"] * 3 * 2 + tried["rounds"] * 20 * 6  # by gradient, for each pull; head by head
    each = (searched + N_TRIED + tried["n_random"] + 5) / 3
    return Cost(n, each)

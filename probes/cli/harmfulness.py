"""The commands of a study of harmfulness and refusal: fit the two directions, steer by them, rank the heads that write
them. Those of the guard are in ``probes.cli.guard``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes.cli.requests import (
    Asking,
    By,
    Earlier,
    GivenBy,
    GivenEndings,
    Harmful,
    Harmless,
    Replies,
    RequestLimit,
    RequestSeed,
    TestHarmful,
    TestHarmless,
    first_of,
    only,
    read_asking,
)
from probes.cli.study import (
    AsJson,
    BatchSize,
    Columns,
    Device,
    Dtype,
    FormatName,
    ModelName,
    NoSystem,
    Out,
    Overwrite,
    Resume,
    Shown,
    Study,
    System,
    Template,
    print_ranking,
    print_result,
    system_of,
)

if TYPE_CHECKING:
    from interp.models import Model
    from interp.reports import Findings
    from probes.harmfulness.directions import HarmfulDirections
    from probes.harmfulness.steering import SteeringStudy

directions = typer.Typer(help="Fit directions of a behaviour; write a report and the directions.", no_args_is_help=True)

COEFFICIENTS = (1.0, 2.0, 4.0, 8.0)  # as in probes.harmfulness.steering.sweep.sweep
BY_KIND = (
    "Grouped by kind, whatever the model does: what is called refusal here is harmful against harmless requests at "
    "t_post."
)


class Which(StrEnum):
    refusal = "refusal"
    harmfulness = "harmfulness"


class Where(StrEnum):
    all = "all"
    answer = "answer"
    suffix = "suffix"


@directions.command("harmfulness")
def harmfulness_directions(
    out: Out,
    model: ModelName = "smollm2-135m",
    harmful: Harmful = None,
    harmless: Harmless = None,
    test_harmful: TestHarmful = None,
    test_harmless: TestHarmless = None,
    column: Columns = None,
    format: FormatName = None,
    limit: RequestLimit = None,
    seed: RequestSeed = 0,
    system: System = None,
    no_system: NoSystem = False,
    endings: GivenEndings = None,
    by: GivenBy = None,
    include_replies: Replies = False,
    batch_size: BatchSize = 16,
    template: Template = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Fit two directions: harmfulness, where the request ends, and refusal, where the reply begins (arXiv 2507.11878).

    The model replies to every request (OUT/behaviour); refused harmful and accepted harmless ones
    make the directions (OUT/directions); those kept back test them.
    The report compares requests that end alike with requests as they come, as in the paper.
    """
    asking = read_asking(
        harmful=harmful,
        harmless=harmless,
        test_harmful=test_harmful,
        test_harmless=test_harmless,
        column=column,
        format=format,
        limit=limit,
        seed=seed,
        system=system_of(system, no_system),
        template=template,
        endings=endings,
        by=by,
        include_replies=include_replies,
    )
    study = Study(
        out, model, asking.sources, limit, seed, resume, overwrite, dtype, device, asking.reading, *asking.written
    )
    folders = [out, out / "behaviour"]
    behaviour, found = study.run(lambda loaded: _fit(loaded, study, asking, batch_size), asking.said(), folders)
    print_result([*behaviour.statement(), *found.statement], [], folders, as_json)


def _fit(loaded: Model, study: Study, asking: Asking, batch_size: int):
    """The behaviour, and the findings of both protocols; the report, and the directions of the chosen one."""
    from probes.harmfulness.directions import compare_protocols
    from probes.harmfulness.directions.directions import MATCHED, PAPER
    from probes.requests import separation_by_position

    behaviour, positive, negative = asking.group(loaded, study, batch_size)
    n = len(asking.fit)
    raw = {r.id: r for r in (*asking.fit, *asking.held_out)}
    compared = compare_protocols(
        loaded,
        [raw[r.id] for r in positive],
        [raw[r.id] for r in negative],
        asking.held_out,
        groups=[behaviour.group_of(i) for i in range(n, len(behaviour))],
        system=asking.system,
        batch_size=batch_size,
    )
    main = MATCHED if asking.is_matched else PAPER
    held_out = {main: compared[main], **compared}
    by_position = separation_by_position(
        loaded,
        [*positive, *negative],
        asking.ended(asking.held_out),
        matched=asking.is_matched,
        system=asking.system,
        batch_size=batch_size,
    )
    fitted = held_out[main].directions
    findings = _with_origin(fitted.to_findings(held_out), study, asking)
    findings = replace(
        findings,
        statement=[*_by_kind(asking), *findings.statement],
        tables={**findings.tables, "Separation by position": by_position},
    )
    findings.save(study.out, overwrite=study.overwrite)
    fitted.save_directions(study.out / "directions")
    return behaviour, findings


def _with_origin(findings: Findings, study: Study, asking: Asking) -> Findings:
    data = {**findings.provenance["data"], **study.origin()}
    return replace(findings, provenance={**findings.provenance, "data": data, "asking": asking.settings()})


def steer(
    out: Out,
    model: ModelName = "smollm2-135m",
    earlier: Earlier = None,
    harmful: Harmful = None,
    harmless: Harmless = None,
    test_harmful: TestHarmful = None,
    test_harmless: TestHarmless = None,
    column: Columns = None,
    format: FormatName = None,
    limit: RequestLimit = None,
    seed: RequestSeed = 0,
    system: System = None,
    no_system: NoSystem = False,
    endings: GivenEndings = None,
    by: GivenBy = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Try this layer; may be repeated.", show_default="up to 14, evenly spread"),
    ] = None,
    coefficient: Annotated[
        list[float] | None,
        typer.Option(
            help="Try this multiple of the difference of means; may be repeated.",
            show_default=", ".join(f"{c:g}" for c in COEFFICIENTS),
        ),
    ] = None,
    positions: Annotated[Where, typer.Option(help="Tokens of the prompt that are steered.")] = Where.all,
    while_generating: Annotated[
        bool, typer.Option("--while-generating", help="Steer each new token too, not the prompt alone.")
    ] = False,
    random_directions: Annotated[int, typer.Option(min=0, help="Random directions to compare with.")] = 3,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a reply.")] = 24,
    include_replies: Replies = False,
    batch_size: BatchSize = 32,
    template: Template = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Does adding a direction make the model refuse, and does taking it away make it comply?

    Refusal and harmfulness, plus and minus, and removed, beside random and shuffled-label directions.
    Of the requests kept back, two fifths choose layer and coefficient (OUT/sweep);
    the rest test them. The chosen steerings are saved in OUT/steering.
    """
    asking = read_asking(
        harmful=harmful,
        harmless=harmless,
        test_harmful=test_harmful,
        test_harmless=test_harmless,
        column=column,
        format=format,
        limit=limit,
        seed=seed,
        system=system_of(system, no_system),
        template=template,
        endings=endings,
        by=by,
        include_replies=include_replies,
        directions=earlier,
    )
    if coefficient and min(coefficient) <= 0:
        raise typer.BadParameter(
            f"{min(coefficient):g}; expected numbers above 0: plus and minus are both tried", param_hint="--coefficient"
        )
    study = Study(
        out, model, asking.sources, limit, seed, resume, overwrite, dtype, device, asking.reading, *asking.written
    )
    folders = [out, out / "sweep", *([] if earlier else [out / "behaviour"])]

    def work(loaded: Model) -> SteeringStudy:
        from probes.harmfulness import split_requests, steering_sweep, steering_test

        _require_layers(loaded, layer or [])
        behaviour, fitted = asking.directions(loaded, study, batch_size)
        parts = split_requests(asking.ended(asking.held_out), {"validation": 0.4, "test": 0.6}, seed)
        swept = steering_sweep(
            loaded,
            fitted,
            *(only(parts["validation"], kind) for kind in ("harmful", "harmless")),
            layers=layer,
            coefficients=coefficient or COEFFICIENTS,
            positions=positions.value,
            while_generating=while_generating,
            behaviour=first_of(behaviour, len(asking.fit)),
            system=asking.system,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            keep=study.keep(out / "sweep", include_replies, by=asking.by.value),
        )
        tested = steering_test(
            loaded,
            swept,
            fitted,
            *(only(parts["test"], kind) for kind in ("harmful", "harmless")),
            n_random=random_directions,
            seed=seed,
            batch_size=batch_size,
            keep=study.keep(include_replies=include_replies, by=asking.by.value),
        )
        _save_steerings(tested, fitted, out / "steering")
        return tested

    tested = study.run(work, asking.said(), folders)
    columns = {"kind": "requests", "arm": "arm", "condition": "beside", "n": "n", "refusal_rate": "refused"}
    shown = [Shown("arms", tested.comparison(), columns | {"change": "change"}, "Requests that chose nothing")]
    print_result([*_by_kind(asking), *tested.statement()], shown, folders, as_json)


def _save_steerings(study: SteeringStudy, fitted: HarmfulDirections, folder: Path) -> None:
    """The chosen arms, for :func:`interp.load_edit`, each in a folder of its name: "plus-refusal", ..."""
    from interp.edits import add_direction

    for name, chosen in study.chosen.items():
        sign = {"+": "plus", "-": "minus"}[name[0]]
        settings = {key: study.settings[key] for key in ("positions", "while_generating")}
        add_direction(fitted.direction(name[1:]), chosen["coefficient"], chosen["layer"], **settings).save(
            folder / f"{sign}-{name[1:]}"
        )


def refusal_writers(
    out: Out,
    model: ModelName = "smollm2-135m",
    earlier: Earlier = None,
    harmful: Harmful = None,
    harmless: Harmless = None,
    test_harmful: TestHarmful = None,
    test_harmless: TestHarmless = None,
    column: Columns = None,
    format: FormatName = None,
    limit: RequestLimit = None,
    seed: RequestSeed = 0,
    system: System = None,
    no_system: NoSystem = False,
    endings: GivenEndings = None,
    by: GivenBy = None,
    direction: Annotated[Which, typer.Option(help="Whose writers: refusal at t_post, harmfulness at t_inst.")] = (
        Which.refusal
    ),
    layer: Annotated[
        int | None,
        typer.Option(
            min=1, help="Read the direction at the input of this layer.", show_default="where it separates best"
        ),
    ] = None,
    include_replies: Replies = False,
    batch_size: BatchSize = 4,
    template: Template = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Which heads write the direction into the stream, more on harmful than on harmless requests?

    And what does zeroing each of them do? Directions are fitted on one half of the requests,
    or come from --directions; the heads are ranked on the others.
    """
    asking = read_asking(
        harmful=harmful,
        harmless=harmless,
        test_harmful=test_harmful,
        test_harmless=test_harmless,
        column=column,
        format=format,
        limit=limit,
        seed=seed,
        system=system_of(system, no_system),
        template=template,
        endings=endings,
        by=by,
        include_replies=include_replies,
        directions=earlier,
    )
    study = Study(
        out, model, asking.sources, limit, seed, resume, overwrite, dtype, device, asking.reading, *asking.written
    )
    folders = [out, *([] if earlier else [out / "behaviour"])]

    def work(loaded: Model):
        from probes.harmfulness import rank_writers

        _require_layers(loaded, [] if layer is None else [layer])
        behaviour, fitted = asking.directions(loaded, study, batch_size)
        return rank_writers(
            loaded,
            asking.ended(asking.held_out),
            fitted,
            direction.value,
            layer,
            openings=first_of(behaviour, len(asking.fit)),
            seed=seed,
            batch_size=batch_size,
            keep=study.keep(by=asking.by.value),
        )

    ranking = study.run(work, asking.said(), folders)
    print_ranking(ranking, folders, as_json, _by_kind(asking))


def _by_kind(asking: Asking) -> list[str]:
    return [BY_KIND] if asking.by is By.kind else []


def _require_layers(loaded: Model, layers: Sequence[int]) -> None:
    """Refuse layers that the model does not have before anything is asked of it."""
    if layers and max(layers) > loaded.n_layers:
        raise typer.BadParameter(
            f"{max(layers)}; {loaded.name} has layers up to {loaded.n_layers}, the last block's output",
            param_hint="--layer",
        )

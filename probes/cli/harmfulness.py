"""The commands of a study of harmfulness and refusal: fit the two directions, steer by them, ask inverted questions,
rank the heads that write them. Those of the guard are in ``guard.py``, the attacks in ``attacks.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from probes.cli.declaring import Option, taken
from probes.cli.estimate import Cost
from probes.cli.options import ChatModel
from probes.cli.requests import Asking, EarlierRequests, GroupedRequests, first_of, only_kind
from probes.cli.study import ReportWithReplies, Shown, Study, print_ranking, print_result, with_caveats

if TYPE_CHECKING:
    from interp.models import Model
    from interp.reports import Findings
    from probes.harmfulness.directions import HarmfulDirections
    from probes.harmfulness.steering import Inversion, SteeringFront, SteeringStudy

REPLY = 24  # tokens, as in probes.requests.observe
OBSERVED = taken("probes.requests.behaviour:observe", "batch_size")


def harmfulness_directions(
    keep: ReportWithReplies,
    model: ChatModel,
    data: GroupedRequests,
    options: Annotated[dict, OBSERVED],
    as_json: bool = False,
) -> None:
    """Fit two directions: harmfulness, where the request ends, and refusal, where the reply begins (arXiv 2507.11878).

    The model replies to every request (OUT/behaviour); refused harmful and accepted harmless ones
    make the directions (OUT/directions); those kept back test them.
    The report compares requests that end alike with requests as they come, as in the paper.
    """
    asking = data.read()
    study = Study(keep, model, data, asking.says_system)
    folders = [study.out, study.out / "behaviour"]
    behaviour, found = study.run(
        lambda loaded: _fit(loaded, study, asking, options["batch_size"]),
        asking.said(),
        folders,
        cost=observed_cost(asking, passes=5),
    )
    print_result([*found.statement, *behaviour.statement()], [], folders, as_json)


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
        statement=with_caveats(findings.statement, asking.caveats),
        tables={**findings.tables, "Separation by position": by_position},
    )
    findings.save(study.out, overwrite=study.overwrite)
    fitted.save_directions(study.out / "directions")
    return behaviour, findings


def _with_origin(findings: Findings, study: Study, asking: Asking) -> Findings:
    data = {**findings.provenance["data"], **study.origin()}
    return replace(
        findings,
        provenance={**findings.provenance, "data": data, "asking": asking.settings(study.model.template_arguments)},
    )


def steer(
    keep: ReportWithReplies,
    model: ChatModel,
    data: EarlierRequests,
    options: Annotated[
        dict,
        taken(
            "probes.harmfulness.steering.sweep:sweep",
            "while_generating max_new_tokens batch_size",
            layers=Option("Try this layer; may be repeated.", flag="--layer", least=0, shown="up to 14, evenly spread"),
            coefficients=Option("Try this multiple of the difference of means; may be repeated.", flag="--coefficient"),
            positions=Option("Tokens of the prompt that are steered.", kind=Literal["all", "answer", "suffix"]),
        ),
    ],
    testing: Annotated[dict, taken("probes.harmfulness.steering.sweep:test", "n_random n_shuffled")],
    arms: Annotated[
        bool, Option("Compare every way to steer with asking for it: effect against harm, on one figure.")
    ] = False,
    as_json: bool = False,
) -> None:
    """Does adding a direction make the model refuse, and does taking it away make it comply?

    Refusal and harmfulness, plus and minus, and removed, beside random and shuffled-label directions.
    Of the requests kept back, two fifths choose layer and coefficient (OUT/sweep);
    the rest test them. The chosen steerings are saved in OUT/steering.

    With --arms: what beats asking? A prompt, LoRA, vectors, turns, clamps, ablation and steering
    on a condition are searched on the same requests and tested on the same others.
    """
    asking = data.read(model.template)
    coefficients = options.get("coefficients", ())
    if coefficients and min(coefficients) <= 0:
        raise typer.BadParameter(
            f"{min(coefficients):g}; expected numbers above 0: plus and minus are both tried",
            param_hint="--coefficient",
        )
    study = Study(keep, model, data, asking.says_system)
    out, batch_size = study.out, options["batch_size"]
    if arms:
        _compare_arms(study, asking, data.seed, options, testing, as_json)
        return
    folders = [out, out / "sweep", *asking.folders(study)[1:]]

    def work(loaded: Model) -> SteeringStudy:
        from probes.harmfulness import split_requests, steering_sweep, steering_test

        _require_layers(loaded, options.get("layers", ()))
        behaviour, fitted = asking.directions(loaded, study, batch_size)
        parts = split_requests(asking.ended(asking.held_out), {"validation": 0.4, "test": 0.6}, data.seed)
        swept = steering_sweep(
            loaded,
            fitted,
            *(only_kind(parts["validation"], kind) for kind in ("harmful", "harmless")),
            behaviour=first_of(behaviour, len(asking.fit)),
            system=asking.system,
            **options,
            keep=study.keep(out / "sweep", by=asking.by),
        )
        tested = steering_test(
            loaded,
            swept,
            fitted,
            *(only_kind(parts["test"], kind) for kind in ("harmful", "harmless")),
            seed=data.seed,
            batch_size=batch_size,
            **testing,
            keep=study.keep(by=asking.by),
        )
        _save_steerings(tested, fitted, out / "steering")
        return tested

    grid = len(options.get("layers", [0] * 14)) * len(coefficients or [0] * 4)
    drawn = 0.6 * 4 * (testing["n_random"] + testing["n_shuffled"] + 1) / 2
    cost = observed_cost(
        asking,
        passes=2 + grid * 16 / max(1, len(asking.held_out)) + drawn,
        new_tokens=(16 * 0.4 + 3 * 3 * 0.6) * options["max_new_tokens"],
    )
    tested = study.run(work, asking.said(), folders, cost=cost, template_arguments=asking.template)
    columns = {"kind": "requests", "arm": "arm", "condition": "beside", "n": "n", "refusal_rate": "refused"}
    shown = [Shown("arms", tested.comparison(), columns | {"change": "change"}, "Requests that chose nothing")]
    print_result(with_caveats(tested.statement(), asking.caveats), shown, folders, as_json)


def _compare_arms(study: Study, asking: Asking, seed: int, options: dict, testing: dict, as_json: bool) -> None:
    """`interp steer --arms`: every way to steer beside a prompt."""
    folders = asking.folders(study)
    searched = {name: options[name] for name in ("layers", "coefficients") if name in options}
    shared = {name: value for name, value in options.items() if name not in searched}

    def work(loaded: Model) -> SteeringFront:
        from probes.harmfulness import split_requests, standard_arms, steering_front

        _require_layers(loaded, options.get("layers", ()))
        behaviour, fitted = asking.directions(loaded, study, options["batch_size"])
        parts = split_requests(asking.ended(asking.held_out), {"validation": 0.4, "test": 0.6}, seed)
        return steering_front(
            loaded,
            fitted,
            first_of(behaviour, len(asking.fit)),
            parts["validation"],
            parts["test"],
            arms=standard_arms(loaded, **searched),
            system=asking.system,
            seed=seed,
            **shared,
            **testing,
            keep=study.keep(by=asking.by),
        )

    grid = len(options.get("layers", [0] * 2)) * len(options.get("coefficients", [0] * 3))
    passes = 0.4 * (6 * grid + 16) + 0.6 * 3 * 14 + 0.1 * 3 * (testing["n_random"] + testing["n_shuffled"] + 1)
    cost = observed_cost(asking, passes=passes, new_tokens=(4 + 0.6 * 14) * options["max_new_tokens"])
    found = study.run(work, asking.said(), folders, cost=cost, template_arguments=asking.template)
    columns = {"arm": "arm", "point": "settings", "kind": "requests", "n": "n", "refused": "refused"}
    columns |= {"change": "change", "kl": "KL, nats", "moved": "steered", "on_front": "on the front", "note": "text"}
    shown = [Shown("arms", found.to_frame(), columns, "Requests that chose nothing")]
    print_result(with_caveats(found.statement(), asking.caveats), shown, folders, as_json)


def _save_steerings(study: SteeringStudy, fitted: HarmfulDirections, folder: Path) -> None:
    """The chosen arms, for :func:`interp.load_edit`, each in a folder of its name: "plus-refusal", ..."""
    from interp.edits import add_direction

    for name, chosen in study.chosen.items():
        sign = {"+": "plus", "-": "minus"}[name[0]]
        settings = {key: study.settings[key] for key in ("positions", "while_generating")}
        add_direction(fitted.direction(name[1:]), chosen["coefficient"], chosen["layer"], **settings).save(
            folder / f"{sign}-{name[1:]}"
        )


def inversion(
    keep: ReportWithReplies,
    model: ChatModel,
    data: EarlierRequests,
    options: Annotated[
        dict,
        taken(
            "probes.harmfulness.steering.inversion:invert",
            "coefficient n_random n_shuffled batch_size",
            coefficient=Option("The multiple of the difference of means that is added.", kind=float),
        ),
    ],
    layer: Annotated[
        int | None,
        Option("Steer at the input of this layer.", least=0, shown="where each direction separates best"),
    ] = None,
    questions: Annotated[
        str | None,
        Option("Ask the questions of this file as well (columns question, lead, id).", shown="our own three"),
    ] = None,
    as_json: bool = False,
) -> None:
    """Asked whether a request is harmful, does the model answer by its belief or by its urge to refuse?

    To the question "Certainly" says harmful and sounds compliant, "No" says harmless and sounds like a refusal
    (reply inversion, arXiv 2507.11878). Each direction is added and taken away, beside random directions.
    """
    from probes.harmfulness.steering import load_inversion_questions
    from probes.harmfulness.steering.inversion_result import QUESTIONS

    asking = data.read(model.template)
    asked = [*QUESTIONS, *(load_inversion_questions(questions) if questions else [])]
    study = Study(keep, model, data, asking.says_system)
    folders = asking.folders(study)

    def work(loaded: Model) -> Inversion:
        from probes.harmfulness import invert
        from probes.harmfulness.directions import DIRECTIONS, strongest_layer

        _require_layers(loaded, [] if layer is None else [layer])
        _, fitted = asking.directions(loaded, study, options["batch_size"])
        at = layer if layer is not None else {name: strongest_layer(fitted, name) for name in DIRECTIONS}
        return invert(
            loaded,
            fitted,
            *(only_kind(asking.ended(asking.held_out), kind) for kind in ("harmful", "harmless")),
            layer=at,
            questions=asked,
            system=asking.system,
            seed=data.seed,
            **options,
            keep=study.keep(by=asking.by),
        )

    cost = observed_cost(asking, passes=len(asked) * (9 + 8 * (options["n_random"] + options["n_shuffled"] + 1) / 2))
    found = study.run(work, asking.said(), folders, cost=cost, template_arguments=asking.template)
    print_result(with_caveats(found.statement(), asking.caveats), [], folders, as_json)


def refusal_writers(
    keep: ReportWithReplies,
    model: ChatModel,
    data: EarlierRequests,
    options: Annotated[
        dict,
        taken(
            "probes.harmfulness.directions.writers:rank_writers",
            "batch_size",
            which=Option("Whose writers: refusal at t_post, harmfulness at t_inst.", flag="--direction"),
            layer=Option("Read the direction at the input of this layer.", least=1, shown="where it separates best"),
        ),
    ],
    as_json: bool = False,
) -> None:
    """Which heads write the direction into the stream, more on harmful than on harmless requests?

    And what does zeroing each of them do? Directions are fitted on one half of the requests,
    or come from --directions; the heads are ranked on the others.
    """
    asking = data.read(model.template)
    study = Study(keep, model, data, asking.says_system)
    folders = asking.folders(study)

    def work(loaded: Model):
        from probes.harmfulness import rank_writers

        _require_layers(loaded, [options["layer"]] if "layer" in options else [])
        behaviour, fitted = asking.directions(loaded, study, options["batch_size"])
        return rank_writers(
            loaded,
            asking.ended(asking.held_out),
            fitted,
            openings=first_of(behaviour, len(asking.fit)),
            seed=data.seed,
            **options,
            keep=study.keep(by=asking.by),
        )

    cost = observed_cost(asking, passes=7, scans=2)
    ranking = study.run(work, asking.said(), folders, cost=cost, template_arguments=asking.template)
    print_ranking(ranking, folders, as_json, asking.caveats)


def observed_cost(asking: Asking, passes: float = 0, new_tokens: float = 0, scans: float = 0) -> Cost:
    """Replies to all requests, unless an earlier run has them; then so much for each of those kept back."""
    n, every = len(asking.held_out), len(asking.fit) + len(asking.held_out)
    share = 0.0 if asking.earlier else every / n
    return Cost(n, 2 * every / n + share + passes, scans, share * REPLY + new_tokens)


def _require_layers(loaded: Model, layers: Sequence[int]) -> None:
    """Refuse layers that the model does not have before anything is asked of it."""
    if layers and max(layers) > loaded.n_layers:
        raise typer.BadParameter(
            f"{max(layers)}; {loaded.name} has layers up to {loaded.n_layers}, the last block's output",
            param_hint="--layer",
        )

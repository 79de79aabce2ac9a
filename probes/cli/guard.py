"""The commands of the Latent Guard: fit it, compare it with its rivals, and ask it about requests."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from interp.records import Keep
from probes.cli.declaring import Option, taken
from probes.cli.estimate import Cost, say_how_long
from probes.cli.harmfulness import observed_cost
from probes.cli.options import ChatModel, ModelOptions, read_as
from probes.cli.requests import Asking, RequestData
from probes.cli.study import ReportWithReplies, Shown, Study, print_result, print_statement, require_folder

if TYPE_CHECKING:
    import pandas as pd

    from interp.models import Model
    from probes.latent_guard.result import GuardStudy
    from probes.rows import Reading

N_TIMED = 16  # prompts that latency is measured on
COMPARED = taken(
    "probes.latent_guard.comparison:compare_guards",
    "batch_size",
    main=Option(
        "The rule that the others are held against; `guard fit` saves it.",
        flag="--rule",
        kind=Literal["paper", "calibrated", "best_layer", "logistic", "probe", "whitened"],
        default="calibrated",
    ),
)
TITLE = "Share judged rightly on requests that nothing was fitted on"
COLUMNS = {"guard": "guard", "harmful": "harmful", "harmless": "harmless", "auroc_scary": "AUROC, scary"}


def fit(
    keep: ReportWithReplies,
    model: ChatModel,
    data: RequestData,
    options: Annotated[dict, COMPARED],
    as_json: bool = False,
) -> None:
    """Fit a guard on one half of the requests, try it and its rivals on the other (Latent Guard, arXiv 2507.11878).

    Rivals: words alone, the model asked, its own refusal (OUT/behaviour), the same read at t_post.
    The guard is saved in OUT/guard.
    """
    asking = data.read()
    study = Study(keep, model, data, asking.says_system)

    def work(loaded: Model) -> GuardStudy:
        from probes.latent_guard import latency

        behaviour = asking.observe(loaded, study, asking.held_out, options["batch_size"])
        compared = _compare(loaded, study, asking, {"held out": behaviour}, options)
        chosen = compared.guards[options["main"]]
        compared = replace(compared, latency=latency(chosen, asking.held_out[:N_TIMED]))
        compared.save(study.out, include_replies=keep.include_replies, overwrite=study.overwrite)
        chosen.save(study.out / "guard")
        return compared

    folders = [study.out, study.out / "behaviour"]
    compared = study.run(work, asking.said(), folders, cost=observed_cost(asking, passes=2))
    print_result(compared.statement(), [_shown(compared.to_frame(), COLUMNS)], folders, as_json)


def compare_guards(
    keep: ReportWithReplies,
    model: ChatModel,
    data: RequestData,
    options: Annotated[dict, COMPARED],
    test: Annotated[
        list[str] | None,
        Option("A further set of harmful and harmless requests to judge: a file; may be repeated."),
    ] = None,
    as_json: bool = False,
) -> None:
    """Which guard judges requests best, on those kept back and on other sets? No guard is saved.

    Every rule at t_inst and t_post, and the rivals: words alone, the model asked, its own refusal
    (OUT/behaviour, and OUT/behaviour-NAME for each --test).
    """
    from probes.requests import load_requests
    from probes.rows import stem_of

    asking = data.read()
    study = Study(keep, model, data, asking.says_system)
    how = data.reading
    more = {stem_of(file): load_requests(file, format=how.format, columns=how.columns) for file in test or ()}
    if len(more) < len(test or ()) or "held out" in more:
        raise typer.BadParameter("two files have one name; call them differently", param_hint="--test")
    places = {name: study.out / f"behaviour-{name}" for name in more}

    def work(loaded: Model) -> GuardStudy:
        tests = {"held out": asking.observe(loaded, study, asking.held_out, options["batch_size"])}
        for name, requests in more.items():
            tests[name] = asking.observe(loaded, study, requests, options["batch_size"], places[name])
        compared = _compare(loaded, study, asking, tests, options)
        compared.save(study.out, include_replies=keep.include_replies, overwrite=study.overwrite)
        return compared

    folders = [study.out, study.out / "behaviour", *places.values()]
    n_more = sum(map(len, more.values())) / max(1, len(asking.held_out))
    cost = observed_cost(asking, passes=2 + 3 * n_more, new_tokens=24 * n_more)
    compared = study.run(work, asking.said(), folders, cost=cost)
    columns = {"test": "requests", **COLUMNS} if more else COLUMNS
    print_result(compared.statement(), [_shown(compared.to_frame(), columns)], folders, as_json)


def _shown(frame: pd.DataFrame, columns: dict[str, str]) -> Shown:
    """The table without columns of which no request is."""
    there = {name: said for name, said in columns.items() if name in frame and frame[name].notna().any()}
    return Shown("guards", frame, there, TITLE)


def _compare(loaded: Model, study: Study, asking: Asking, tests: dict[str, Any], options: dict[str, Any]) -> GuardStudy:
    from probes.latent_guard import compare_guards

    return compare_guards(
        loaded,
        asking.fit,
        None,
        tests,
        ending="." if asking.is_matched else None,
        matched=asking.is_matched,
        system=asking.system,
        seed=study.data.seed,
        keep=Keep(origin=study.origin()),
        **options,
    )


def predict(
    folder: Annotated[Path, Option("OUT of `interp guard fit`, or its folder `guard`.", flag="--guard", metavar="DIR")],
    file: Annotated[
        Path | None,
        Option(
            "A text file, one request a line; or .jsonl, .json, .csv, .tsv or .parquet; - for standard input.",
            is_argument=True,
        ),
    ] = None,
    column: list[str] | None = None,
    format: str | None = None,
    text: Annotated[list[str] | None, Option("A request; may be repeated.")] = None,
    as_json: bool = False,
    model: Annotated[str | None, Option("The model that the guard was fitted on.", shown="by the name it had")] = None,
    include_replies: bool = False,
    batch_size: int = 16,
    dtype: Annotated[str | None, Option("float32, bfloat16, float16 or auto.", shown="the guard's")] = None,
    device: str | None = None,
) -> None:
    """Which requests are harmful, by a saved guard: one line each, with its score (at least 0: harmful).

    What the guard's own test on other requests says of it is said first (on stderr with --json).
    Requests are named by their ids or lines; their texts are withheld unless asked for.
    """
    reading = read_as(format, column)
    if file is None and reading:
        raise typer.BadParameter("for a file of requests; leave it out", param_hint="--format/--column")
    if (file is None) == (not text):
        raise typer.BadParameter("give a file of requests, or --text, and not both", param_hint="FILE")
    folder = folder / "guard" if (folder / "guard" / "guard.json").is_file() else folder
    require_folder(folder, "a saved guard", "guard.json")
    from interp.records import load_artefact
    from interp.sources import BUILTIN
    from probes.latent_guard import GuardWarning, load_guard

    of = load_artefact(folder, "guard")[0]["model"]
    if model is None and of["name"] not in BUILTIN:
        raise typer.BadParameter(
            f"the guard is of {of['name']!r}, which is no built-in name; say where it is", param_hint="--model"
        )
    ids, texts = _read(file, reading) if file is not None else ([f"text {i}" for i in range(1, len(text) + 1)], text)
    if blank := [i for i, t in zip(ids, texts, strict=True) if not t.strip()]:
        raise ValueError(f"{', '.join(blank)}: no text in it; expected a request.")
    asked = ModelOptions(model or of["name"], dtype or of["dtype"], device)
    asked.require_known()
    asked.say_download()
    loaded = asked.load(of.get("template_arguments", {}))
    say_how_long(loaded, Cost(len(texts)))
    fitted = load_guard(folder, loaded)
    print_statement([fitted.verdict()], err=as_json)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GuardWarning)  # it was said above
        scores = fitted.set_params(batch_size=batch_size).decision_function(texts)
    shown = [{"text": t} if include_replies else {} for t in texts]
    if as_json:
        rows = [
            {"id": i, **text, "harmful": bool(s >= 0), "score": float(s)}
            for i, text, s in zip(ids, shown, scores, strict=True)
        ]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table(title=f"Latent Guard ({fitted.rule_}) of {of['name']}", title_justify="left")
    for column in ("request", *shown[0], "verdict", "score"):
        table.add_column(column, justify="right" if column == "score" else "left", overflow="fold")
    for i, text, s in zip(ids, shown, scores, strict=True):
        table.add_row(Text(i), *map(Text, text.values()), "harmful" if s >= 0 else "harmless", f"{s:+.4f}")
    Console().print(table)


def _read(path: Path, reading: Reading) -> tuple[list[str], list[str]]:
    """Ids and texts of a file: a row, or a line that is not blank, is a request."""
    from probes.requests import read_texts
    from probes.rows import EXTENSIONS, called, has_rows, read_lines, suffix_of

    if suffix_of(path) in EXTENSIONS or reading or has_rows(path):
        found = [(r.id, r.text) for r in read_texts(path, reading)]
    else:
        found = [(f"line {number}", line) for number, line in read_lines(path)]
        if found and found[0][1].startswith(("{", "[{")):  # of a pipe, whose name says nothing
            raise ValueError(f"{called(path)} looks like JSON, not like a request a line; say so with --format plain.")
    if not found:
        raise ValueError(f"{path} has no requests; expected one a line.")
    ids, texts = zip(*found, strict=True)
    return list(ids), list(texts)

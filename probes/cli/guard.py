"""The commands of the Latent Guard: fit it beside its rivals, and ask it about requests."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from probes.cli.requests import (
    Endings,
    GivenEndings,
    Harmful,
    Harmless,
    Replies,
    RequestLimit,
    RequestSeed,
    TestHarmful,
    TestHarmless,
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
    Writing,
    how_read,
    load_model,
    print_result,
    system_of,
)

if TYPE_CHECKING:
    from interp.models import Model
    from probes.latent_guard.comparison import GuardStudy
    from probes.rows import Reading

guard = typer.Typer(help="Is a request harmful? Read from the model's own states.", no_args_is_help=True)

N_TIMED = 16  # prompts that latency is measured on


class Rule(StrEnum):
    paper = "paper"
    calibrated = "calibrated"
    best_layer = "best_layer"
    logistic = "logistic"
    probe = "probe"


@guard.command()
def fit(
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
    rule: Annotated[Rule, typer.Option(help="The rule that is saved, and that rivals are held against.")] = (
        Rule.calibrated
    ),
    include_replies: Replies = False,
    batch_size: BatchSize = 16,
    template: Template = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Fit a guard on one half of the requests, try it and its rivals on the other (Latent Guard, arXiv 2507.11878).

    Rivals: words alone, the model asked, its own refusal (OUT/behaviour), the same read at t_post.
    The guard is saved in OUT/guard.
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
        include_replies=include_replies,
    )
    study = Study(
        out, model, asking.sources, limit, seed, resume, overwrite, dtype, device, asking.reading, *asking.written
    )

    def work(loaded: Model) -> GuardStudy:
        from interp import Keep
        from probes.latent_guard import compare_guards, latency

        behaviour = asking.observe(loaded, study, asking.held_out, batch_size)
        compared = compare_guards(
            loaded,
            asking.fit,
            None,
            {"held out": behaviour},
            main=rule.value,
            ending="." if asking.endings is Endings.alike else None,
            matched=asking.is_matched,
            system=asking.system,
            batch_size=batch_size,
            seed=seed,
            keep=Keep(origin=study.origin()),
        )
        chosen = compared.guards[rule.value]
        compared = replace(compared, latency=latency(chosen, asking.held_out[:N_TIMED]))
        compared.save(out, include_replies=include_replies, overwrite=overwrite)
        chosen.save(out / "guard")
        return compared

    folders = [out, out / "behaviour"]
    compared = study.run(work, asking.said(), folders)
    columns = {"guard": "guard", "harmful": "harmful", "harmless": "harmless", "auroc_scary": "AUROC, scary"}
    title = "Share judged rightly on requests that nothing was fitted on"
    shown = [Shown("guards", compared.to_frame(), columns, title)]
    print_result(compared.statement(), shown, folders, as_json)


@guard.command()
def predict(
    folder: Annotated[
        Path, typer.Option("--guard", help="OUT of `interp guard fit`, or its folder `guard`.", metavar="DIR")
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A text file, one request a line; or .jsonl, .json, .csv, .tsv or .parquet; - for standard input."
        ),
    ] = None,
    column: Columns = None,
    format: FormatName = None,
    text: Annotated[list[str] | None, typer.Option(help="A request; may be repeated.")] = None,
    as_json: AsJson = False,
    model: Annotated[
        str | None, typer.Option(help="The model that the guard was fitted on.", show_default="by the name it had")
    ] = None,
    batch_size: BatchSize = 16,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16 or auto.", show_default="the guard's")
    ] = None,
    device: Device = None,
) -> None:
    """Which requests are harmful, by a saved guard: one line each, with its score (at least 0: harmful).

    What the guard's own test on other requests says of it is said first (on stderr with --json).
    """
    from interp.records import load_artefact
    from interp.sources import BUILTIN
    from probes.latent_guard import GuardWarning, load_guard

    if file is None and (format or column):
        raise typer.BadParameter("for a file of requests; leave it out", param_hint="--format/--column")
    if (file is None) == (not text):
        raise typer.BadParameter("give a file of requests, or --text, and not both", param_hint="FILE")
    folder = folder / "guard" if (folder / "guard" / "guard.json").is_file() else folder
    of = load_artefact(folder, "guard")[0]["model"]
    if model is None and of["name"] not in BUILTIN:
        raise typer.BadParameter(
            f"the guard is of {of['name']!r}, which is no built-in name; say where it is", param_hint="--model"
        )
    ids, texts = (
        _read(file, how_read(format, column))
        if file is not None
        else ([f"text {i}" for i in range(1, len(text) + 1)], text)
    )
    if blank := [i for i, t in zip(ids, texts, strict=True) if not t.strip()]:
        raise ValueError(f"{', '.join(blank)}: no text in it; expected a request.")
    writing = Writing(of.get("template_arguments", {}))
    fitted = load_guard(folder, load_model(model or of["name"], dtype or of["dtype"], device, writing))
    typer.echo(fitted.verdict(), err=as_json)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GuardWarning)  # it was said above
        scores = fitted.set_params(batch_size=batch_size).decision_function(texts)
    if as_json:
        rows = [
            {"id": i, "text": t, "harmful": bool(s >= 0), "score": float(s)}
            for i, t, s in zip(ids, texts, scores, strict=True)
        ]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table(title=f"Latent Guard ({fitted.rule_}) of {of['name']}", title_justify="left")
    for column in ("id", "request", "verdict", "score"):
        table.add_column(column, justify="right" if column == "score" else "left", overflow="fold")
    for i, t, s in zip(ids, texts, scores, strict=True):
        table.add_row(Text(i), Text(t), "harmful" if s >= 0 else "harmless", f"{s:+.4f}")
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

"""The command that looks at this machine: what is installed and cached, what fits, and how long work will take."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from interp.records import in_time
from probes.cli.declaring import Option
from probes.cli.study import print_whole

if TYPE_CHECKING:
    from interp.machine import Diagnosis, Workers

DEMO, N_DEMO = "smollm2-135m", 200  # as in the Makefile


def doctor(
    limit: Annotated[int, Option("Questions of the ranking whose time is estimated.", least=2)] = 60,
    probe: Annotated[bool, Option("Time a few forward passes (about 10 s).")] = True,
    workers: Annotated[
        int | None, Option("What so many workers of --model take, each with the model.", least=1)
    ] = None,
    model: Annotated[str, Option("Of --workers: a built-in name, or a folder.")] = DEMO,
    dtype: Annotated[str, Option("Of --workers: float32, bfloat16 or float16.")] = "float32",
    as_json: bool = False,
) -> None:
    """Is everything installed, which models are cached, what fits into memory, and how long will a run take?

    With --workers: what workers of --engine would take, in memory, time and disk.

    Exit code 0 if all is well, 1 if something required is missing; the remedy is printed. No network is used.
    """
    try:
        from interp.machine import examine, plan_workers
        from probes.negative_bias.costs import ranking_work
    except ImportError as error:
        problem = {
            "what": f"a required package can't be imported: {error}",
            "remedy": "Install the packages that are missing: python -m pip install -e . in a checkout of headscope.",
        }
        _end([problem], {"problems": [problem]}, as_json)
        return
    ranking = f"interp rank negative-attention --limit {limit}"
    works = [(ranking_work(N_DEMO, what="make demo"), DEMO), (ranking_work(limit, what=ranking), None)]
    found = examine(works, probe=probe)
    plan = None if workers is None else plan_workers(found, model, workers, works[1][0], dtype=dtype)
    if not as_json:
        _show(found)
        if plan is not None:
            _show_workers(plan)
    told = found.to_dict() | ({} if plan is None else {"workers": asdict(plan)})
    _end(told["problems"], told, as_json)


def _end(problems: list[dict[str, str]], found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        console = Console()
        for problem in problems:
            text = f"problem: {problem['what']}. {problem['remedy']}"
            console.print(text, style="red", markup=False, emoji=False, highlight=False, soft_wrap=True)
        if not problems:
            console.print("All is well.", style="green", highlight=False)
    if problems:
        raise typer.Exit(1)


def _show(found: Diagnosis) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    console, machine = Console(), found.machine
    say(f"headscope {found.version}, Python {found.python} on {machine.system}")
    required = [p for p in found.packages if not p.extra]
    bad = sum(not p.ok for p in required)
    say(f"{len(required)} required packages: " + ("all there" if not bad else f"{bad} missing or of another version"))
    from interp.sources import install_extra

    for extra in dict.fromkeys(p.extra for p in found.packages if p.extra):
        missing = [p.name for p in found.packages if p.extra == extra and not p.ok]
        remedy = f"without {', '.join(missing)} ({install_extra(extra)})"
        say(f"  for {extra}: {remedy if missing else 'all there'}")
    say(f"{machine.n_cpus} CPUs (threads: {machine.n_threads}); {machine.memory_free_gb:.1f} GB of memory free of "
        f"{machine.memory_total_gb:.1f}; {machine.disk_free_gb:.1f} GB of disk free at {machine.cache}")  # fmt: skip
    for name, free, total in machine.gpus:
        say(f"GPU {name}: {free:.1f} GB free of {total:.1f}")
    if not machine.gpus:
        say("no GPU that this PyTorch can use")
    say("")
    console.print(_models_table(found))
    _show_times(found, say)


def _show_workers(plan: Workers) -> None:
    """What workers take, a line for memory, for time and for the disk."""
    each = f"{plan.weights_gb:.1f} of weights, {plan.prefix_gb + plan.rows_gb:.2f} of prefixes and rows"
    lines = [
        f"{plan.n} workers of {plan.model} in {plan.dtype}: {plan.needs_gb:.1f} GB each ({each}, the process), "
        f"{plan.all_gb:.1f} GB in all; the process that writes the report needs {plan.driver_gb:.1f} more",
        f"this machine has room for {plan.fit_here}, of which {plan.at_once} work at once",
    ]
    if plan.seconds is not None:
        on = f"{plan.at_once} at once" if plan.at_once > 1 else "one at a time"
        lines.append(f"{plan.work}: about {in_time(plan.seconds)} here, {on} (within a factor of 2)")
    lines.append(
        f"every worker must see the folder of --out; {plan.folder} has {plan.disk_free_gb:.1f} GB free, part files and "
        f"report take about {max(plan.parts_gb, 0.001):.3f}"
    )
    for line in ["", *lines]:
        Console().print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _models_table(found: Diagnosis) -> Table:
    """Built-in models: what is cached, and what fits where."""
    places = list(dict.fromkeys(fit.where for fit in found.fits))
    dtypes = list(dict.fromkeys(fit.dtype for fit in found.fits))
    table = Table(title="Models, their sizes in GB, and whether they fit", title_justify="left")
    table.add_column("model", overflow="fold", min_width=12)
    table.add_column("cached")
    for dtype in dtypes:
        for place in places:
            table.add_column(dtype if place == "memory" else f"{dtype} on {place}")
    status = {m.name: m for m in found.models}
    verdicts = {(fit.model, fit.dtype, fit.where): fit for fit in found.fits}
    for name in dict.fromkeys((*status, *(fit.model for fit in found.fits))):
        cells = [verdicts.get((name, dtype, place)) for dtype in dtypes for place in places]
        table.add_row(
            name, _cached(status.get(name)), *["" if f is None else f"{f.weights_gb:.1f}, {f.fits}" for f in cells]
        )
    return table


def _cached(model: Any) -> str:
    if model is None:
        return ""
    said = {"cached": "yes", "not cached": f"no, {model.download_mb:.0f} MB to fetch"}
    return said.get(model.status, f"{model.status}, {model.on_disk_mb:.0f} MB so far")


def _show_times(found: Diagnosis, say: Any) -> None:
    speed = found.speed
    if speed is None:
        say("No time was measured.")
        return
    say(
        f"Measured: {speed.n_passes} forward passes of {speed.tokens} tokens through {speed.of} on {speed.device}, "
        f"{speed.dtype}, CPU threads: {speed.n_threads}; {speed.tokens_per_second:.0f} tokens a second."
    )
    if found.expected:
        table = Table(title="Likely time, from this measurement (within about a factor of 1.5)", title_justify="left")
        for column in ("work", "model", "time"):
            table.add_column(column, justify="right" if column == "time" else "left", overflow="fold")
        for row in found.expected:
            table.add_row(row.what, row.model, in_time(row.seconds))
        print_whole(table)
    if (found.machine.load or 0) > found.machine.n_cpus:
        busy = f"load {found.machine.load:.1f} for {found.machine.n_cpus} CPUs"
        say(f"The machine is busy ({busy}): when it is not, all of this is faster.")

"""The command line: ``interp``. Every command is one call of the Python interface."""

from __future__ import annotations

import contextlib
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="Which attention heads make a language model behave like this, and what happens when you change them?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
rank = typer.Typer(help="Rank every head of a model; write a report.", no_args_is_help=True)
app.add_typer(rank, name="rank")


class Ablation(StrEnum):
    zero = "zero"
    mean_of_others = "mean-of-others"
    mean = "mean"


class Span(StrEnum):
    after_instruction = "after_instruction"
    answer = "answer"
    all = "all"
    question = "question"


class AnswerForms(StrEnum):
    in_context = "in_context"
    both = "both"


class Effects(StrEnum):
    none = "none"
    zero = "zero"
    mean_of_others = "mean-of-others"
    mean = "mean"


ModelName = Annotated[str, typer.Option(help="Built-in name, hub id, directory or .gguf file (see `interp models`).")]
Data = Annotated[str, typer.Option(help="'builtin', or a .jsonl, .json, .csv or .parquet file.")]
Out = Annotated[Path, typer.Option(help="Folder for the report.")]
Limit = Annotated[int | None, typer.Option(min=2, help="Use only N questions: balanced, sampled by --seed.")]
Seed = Annotated[int, typer.Option(help="Seed of the sample of questions.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a killed run of the same settings.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the report of another run in --out.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto (the checkpoint's).")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: CUDA where there is one.")]
Forms = Annotated[AnswerForms, typer.Option(help="Answer words as they follow the prompt, or also with a space.")]
Wording = Annotated[str, typer.Option(help="The instruction; it must name Yes and No.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Questions in a batch; a killed run loses at most one.")]


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What can be loaded, from where, and what is cached."""
    from dataclasses import asdict

    from interp.sources import cache_dir, describe_sources

    found = describe_sources()
    if as_json:
        typer.echo(json.dumps([asdict(s) for s in found], indent=2, default=str))
        return
    table = Table(title="Built-in models (from the package index)", title_justify="left")
    for column in ("name", "model", "licence", "download", "cached"):
        table.add_column(column, overflow="fold")
    for s in found:
        cached = f"yes, {s.size_on_disk_mb:.0f} MB" if s.cached else "no"
        table.add_row(s.name, s.description, s.licence, f"{s.download_mb:.0f} MB", cached)
    console = Console()
    console.print(table)
    console.print(f"Cache: {cache_dir()} (move it with HEADSCOPE_CACHE)", soft_wrap=True)
    console.print("Also: a hub id (org/name), a local directory, a .gguf file.", soft_wrap=True)


@rank.command("negative-attention")
def negative_attention(
    out: Out,
    model: ModelName = "smollm2-135m",
    data: Data = "builtin",
    limit: Limit = None,
    seed: Seed = 0,
    instruction: Wording = "Answer the question with Yes or No.",
    forms: Forms = AnswerForms.in_context,
    query_span: Annotated[Span, typer.Option(help="Query tokens that NAS sums over.")] = Span.after_instruction,
    effects: Annotated[Effects, typer.Option(help="Also measure each head's effect, by this ablation.")] = Effects.zero,
    batch_size: BatchSize = 8,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Negative Attention Score of every head (arXiv 2408.00137), with the swapped order as control."""
    from probes import negative_bias

    def run(loaded, questions, origin):
        return negative_bias.rank_heads(
            loaded,
            questions,
            query_span=query_span.value,
            effects=None if effects is Effects.none else effects.value,
            instruction=negative_bias.Instruction(instruction),
            forms=forms.value,
            batch_size=batch_size,
            out=out,
            resume=resume,
            overwrite=overwrite,
            origin=origin,
        )

    _rank(run, out, model, data, limit, seed, resume, overwrite, dtype, device)


@rank.command("head-effect")
def head_effect(
    out: Out,
    model: ModelName = "smollm2-135m",
    data: Data = "builtin",
    ablation: Annotated[Ablation, typer.Option(help="What a head's output is replaced by.")] = Ablation.zero,
    positions: Annotated[str, typer.Option(help="answer, all, or a number of last positions.")] = "answer",
    limit: Limit = None,
    seed: Seed = 0,
    instruction: Wording = "Answer the question with Yes or No.",
    forms: Forms = AnswerForms.in_context,
    batch_size: BatchSize = 4,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """What ablating each head does to the answer, exactly."""
    from probes import negative_bias

    if positions not in ("answer", "all") and not positions.isdecimal():
        raise typer.BadParameter(f"{positions!r}; expected answer, all or a number", param_hint="--positions")
    where = int(positions) if positions.isdecimal() else positions

    def run(loaded, questions, origin):
        return negative_bias.rank_by_effect(
            loaded,
            questions,
            ablation=ablation.value,
            positions=where,
            instruction=negative_bias.Instruction(instruction),
            forms=forms.value,
            batch_size=batch_size,
            out=out,
            resume=resume,
            overwrite=overwrite,
            origin=origin,
        )

    _rank(run, out, model, data, limit, seed, resume, overwrite, dtype, device)


def _rank(run, out, model, data, limit, seed, resume, overwrite, dtype, device) -> None:
    """Read the questions, check the folder, load the model, rank, save, print the head of the table."""
    from interp.storage import refuse_other_run
    from interp.work import prepare_directory
    from probes.questions import load_questions

    questions = load_questions(data, limit=limit, seed=seed)  # a bad file fails before the model is loaded
    if not (overwrite or resume):
        refuse_other_run(out, run_id=None)
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    prepare_directory(out, need_mib=20)
    console = Console(stderr=True)
    try:
        console.print(f"{len(questions)} questions from {data}; loading {model}", soft_wrap=True, markup=False)
        origin = {"source": data if data == "builtin" else Path(data).name, "limit": limit, "seed": seed}
        ranking = run(_load(model, dtype, device), questions, origin)
    except KeyboardInterrupt:  # here, because typer turns it into an exit without a word
        console.print("stopped; continue with the same command and --resume")
        raise typer.Exit(130) from None
    finally:
        with contextlib.suppress(OSError):
            for folder in new:
                folder.rmdir()  # only if nothing was written
    _print_top(ranking)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, markup=False)


def _load(model: str, dtype: str, device: str | None):
    import torch

    import interp

    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise typer.BadParameter(f"{dtype!r}; expected float32, bfloat16, float16 or auto", param_hint="--dtype")
    return interp.load(model, dtype=dtype if dtype == "auto" else getattr(torch, dtype), device=device)


def _print_top(ranking, k: int = 10) -> None:
    others = [m for m in ranking.measures if m != ranking.score]
    table = Table(title=f"Top {k} heads by {ranking.score}, n = {ranking.n_examples}", title_justify="left")
    table.add_column("head")
    for column in (ranking.score, "95 % CI", *others):
        table.add_column(column.replace("_", " "), justify="right", no_wrap=column == "95 % CI")
    for row in ranking.top(k).to_dict("records"):
        interval = f"{row['ci_low']:.2f} {row['ci_high']:.2f}"
        table.add_row(row["label"], f"{row['score']:.2f}", interval, *[f"{row[m]:.2f}" for m in others])
    Console().print(table)


def main() -> None:
    """Run the command line; errors of use and of the environment are one message, not a traceback."""
    try:
        app()
    except (ValueError, KeyError, OSError, ArithmeticError, RuntimeError) as error:
        Console(stderr=True, soft_wrap=True).print(f"interp: {error}", style="red", markup=False, highlight=False)
        sys.exit(1)

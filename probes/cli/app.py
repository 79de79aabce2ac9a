"""The command line: ``interp``. Every command is one call of the Python interface."""

from __future__ import annotations

import json
import sys
import warnings
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from probes.cli.compare import compare
from probes.cli.doctor import doctor
from probes.cli.edit import edit
from probes.cli.guard import guard
from probes.cli.harmfulness import directions, refusal_writers, steer
from probes.cli.modulate import modulate
from probes.cli.negative_bias import align, knowledge, measure, test
from probes.cli.scenes import scenes
from probes.cli.study import (
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
    Study,
    Template,
    Wording,
    Writing,
    how_read,
    print_ranking,
)
from probes.cli.trace import trace
from probes.cli.visual import visual_heads, visual_levels
from probes.cli.wording import as_typed, options_of

START = "Start here"
STEPS = "The steps of a study"
BIAS = "Negative bias"
HARM = "Harmfulness and refusal"
IMAGES = "Images"


class TableOfContents(TyperGroup):
    """Lists the commands in this order; typer would put groups after the others."""

    order = (
        "models",
        "doctor",
        "measure",
        "rank",
        "test",
        "compare",
        "modulate",
        "edit",
        "align",
        "knowledge",
        "directions",
        "steer",
        "guard",
        "scenes",
        "trace",
    )

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return sorted(super().list_commands(ctx), key=self.order.index)


app = typer.Typer(
    cls=TableOfContents,
    help="Which attention heads make a language model behave like this, and what happens when you change them?",
    epilog="Exit codes: 0 done, 1 failed or refused (the message says what to do), 2 wrong use, 130 stopped by Ctrl-C. "
    "`interp COMMAND --help` says more of each.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
rank = typer.Typer(help="Rank every attention head of a model by what it does; write a report.", no_args_is_help=True)
app.command(rich_help_panel=START)(doctor)
app.add_typer(measure, name="measure", rich_help_panel=STEPS)
app.add_typer(rank, name="rank", rich_help_panel=STEPS)
app.add_typer(test, name="test", rich_help_panel=STEPS)
app.command(rich_help_panel=STEPS)(compare)
app.command(rich_help_panel=STEPS)(modulate)
app.add_typer(edit, name="edit", rich_help_panel=STEPS)
app.add_typer(align, name="align", rich_help_panel=BIAS)
app.command(rich_help_panel=BIAS)(knowledge)
app.add_typer(directions, name="directions", rich_help_panel=HARM)
app.command(rich_help_panel=HARM)(steer)
app.add_typer(guard, name="guard", rich_help_panel=HARM)
app.add_typer(scenes, name="scenes", rich_help_panel=IMAGES)
app.command(rich_help_panel=IMAGES)(trace)
test.command("visual-levels")(visual_levels)


class Ablation(StrEnum):
    zero = "zero"
    mean_of_others = "mean-of-others"
    mean = "mean"


class Span(StrEnum):
    after_instruction = "after_instruction"
    answer = "answer"
    all = "all"
    question = "question"


class Effects(StrEnum):
    none = "none"
    zero = "zero"
    mean_of_others = "mean-of-others"
    mean = "mean"


@app.command(rich_help_panel=START)
def models(as_json: AsJson = False) -> None:
    """Which models can be loaded, from where, and which are cached already."""
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
    column: Columns = None,
    format: FormatName = None,
    limit: Limit = None,
    seed: Seed = 0,
    instruction: Wording = "Answer the question with Yes or No.",
    forms: Forms = AnswerForms.in_context,
    query_span: Annotated[Span, typer.Option(help="Query tokens that NAS sums over.")] = Span.after_instruction,
    effects: Annotated[Effects, typer.Option(help="Also measure each head's effect, by this ablation.")] = Effects.zero,
    batch_size: BatchSize = 8,
    template: Template = None,
    no_chat: NoChat = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Which heads look at "No" more than at "Yes"? Negative Attention Score (arXiv 2408.00137).

    The options in the other order ("No or Yes") are the control.
    """
    from probes import negative_bias

    reading, writing = how_read(format, column), Writing.of(template, no_chat)
    study = Study(out, model, data, limit, seed, resume, overwrite, dtype, device, reading, writing)
    asked = negative_bias.Instruction(instruction)
    questions = study.questions()
    ranking = study.run(
        lambda loaded: negative_bias.rank_heads(
            loaded,
            questions,
            query_span=query_span.value,
            effects=None if effects is Effects.none else effects.value,
            instruction=asked,
            forms=forms.value,
            batch_size=batch_size,
            keep=study.keep(),
        ),
        f"{len(questions)} questions from {data}",
    )
    print_ranking(ranking, [out], as_json)


@rank.command("head-effect")
def head_effect(
    out: Out,
    model: ModelName = "smollm2-135m",
    data: Data = "builtin",
    column: Columns = None,
    format: FormatName = None,
    ablation: Annotated[Ablation, typer.Option(help="What a head's output is replaced by.")] = Ablation.zero,
    positions: Annotated[str, typer.Option(help="answer, all, or a number of last positions.")] = "answer",
    limit: Limit = None,
    seed: Seed = 0,
    instruction: Wording = "Answer the question with Yes or No.",
    forms: Forms = AnswerForms.in_context,
    batch_size: BatchSize = 4,
    template: Template = None,
    no_chat: NoChat = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """What does the answer lose when each head is switched off? Measured exactly, head by head."""
    from probes import negative_bias

    if positions not in ("answer", "all") and not positions.isdecimal():
        raise typer.BadParameter(f"{positions!r}; expected answer, all or a number", param_hint="--positions")
    reading, writing = how_read(format, column), Writing.of(template, no_chat)
    study = Study(out, model, data, limit, seed, resume, overwrite, dtype, device, reading, writing)
    asked = negative_bias.Instruction(instruction)
    questions = study.questions()
    ranking = study.run(
        lambda loaded: negative_bias.rank_by_effect(
            loaded,
            questions,
            ablation=ablation.value,
            positions=int(positions) if positions.isdecimal() else positions,
            instruction=asked,
            forms=forms.value,
            batch_size=batch_size,
            keep=study.keep(),
        ),
        f"{len(questions)} questions from {data}",
    )
    print_ranking(ranking, [out], as_json)


rank.command("refusal-writers")(refusal_writers)  # here, so that it stands after those above
rank.command("visual-heads")(visual_heads)


def main() -> None:
    """Run the command line; errors of use and of the environment are one message, not a traceback."""
    console = Console(stderr=True, soft_wrap=True)
    options = options_of(typer.main.get_command(app), sys.argv[1:])

    def show_warning(message: Warning | str, *where: object) -> None:
        console.print(
            f"warning: {as_typed(str(message), options)}", style="yellow", markup=False, emoji=False, highlight=False
        )

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            app()
        except (ValueError, KeyError, OSError, ArithmeticError, RuntimeError, ImportError) as error:
            is_key = isinstance(error, KeyError) and error.args  # str() of one has quotes around it
            told = getattr(error, "on_command_line", error.args[0] if is_key else error)
            said = as_typed(str(told), options)
            console.print(f"interp: {said}", style="red", markup=False, emoji=False, highlight=False)
            sys.exit(1)

"""What the commands share: their common options, the body that reads, checks, loads and runs, and the tables."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from probes.rows import AS_IT_IS, Reading

if TYPE_CHECKING:
    import pandas as pd

    from interp.models import Model
    from interp.rankings import HeadRanking
    from interp.records import Keep
    from probes.questions import Question

Result = TypeVar("Result")


class AnswerForms(StrEnum):
    in_context = "in_context"
    both = "both"


ModelName = Annotated[str, typer.Option(help="Built-in name, hub id, directory or .gguf file (see `interp models`).")]
FILES = "'builtin', a .jsonl, .json, .csv, .tsv or .parquet file, or - for standard input"
Data = Annotated[str, typer.Option(help=f"{FILES}.")]
FormatName = Annotated[
    str | None,
    typer.Option("--format", help="The shape of the file, where its columns do not tell it.", metavar="NAME"),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="The file's name for one of our columns, such as question=prompt; may be repeated.",
        metavar="OURS=THEIRS",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the report.")]
Limit = Annotated[int | None, typer.Option(min=2, help="Use only N questions: balanced, sampled by --seed.")]
Seed = Annotated[int, typer.Option(help="Seed of the sample of questions.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Read a finished report of the same run back. (A killed run goes on anyway.)"),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the report of another run in --out.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto (the checkpoint's).")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: CUDA where there is one.")]
Forms = Annotated[AnswerForms, typer.Option(help="Answer words as they follow the prompt, or also with a space.")]
Wording = Annotated[str, typer.Option(help="The instruction; it must name Yes and No.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Questions (requests) in a batch; a killed run loses at most one.")]
Template = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        metavar="KEY=VALUE",
        help="Tell the chat template something, such as enable_thinking=false; may be repeated. The value is JSON "
        "(true, false, a number, a list), else a text.",
    ),
]
NoChat = Annotated[
    bool,
    typer.Option("--no-chat", help="Ask without a chat template: for base models. The prompt is the text as it is."),
]
System = Annotated[
    str | None,
    typer.Option(help="A system prompt.", show_default="the template's own, if it writes one; it is said and recorded"),
]
NoSystem = Annotated[
    bool, typer.Option("--no-system", help="Leave out the system prompt that the template writes of its own accord.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def system_of(system: str | None, no_system: bool) -> str | Literal[False] | None:
    """The system prompt of the two options: a text, False for none, None for the template's own."""
    if no_system and system is not None:
        raise typer.BadParameter("give one of --system and --no-system", param_hint="--no-system")
    return False if no_system else system


@dataclass(frozen=True)
class Writing:
    """How prompts are written: what the chat template is told, and whether it is used."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    chat: bool = True

    @classmethod
    def of(cls, template: Sequence[str] | None, no_chat: bool = False) -> Writing:
        """Of the options ``--template`` and ``--no-chat``."""
        arguments: dict[str, Any] = {}
        for given in template or ():
            name, is_set, value = given.partition("=")
            if not is_set or not name.strip():
                raise typer.BadParameter(f"{given!r}; expected KEY=VALUE", param_hint="--template")
            if name in arguments:
                raise typer.BadParameter(f"{name!r} is given twice", param_hint="--template")
            arguments[name.strip()] = _json_or_text(value)
        if arguments and no_chat:
            raise typer.BadParameter("no template reads it with --no-chat", param_hint="--template")
        return cls(arguments, not no_chat)


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value, parse_constant=str)  # NaN and Infinity are no JSON
    except json.JSONDecodeError:
        return {"True": True, "False": False, "None": None}.get(value, value)


class Shown(NamedTuple):
    """A table that a command prints: the columns under their headings; with ``--json`` all of it, under ``name``."""

    name: str
    frame: pd.DataFrame
    columns: Mapping[str, str]
    title: str


@dataclass(frozen=True)
class Study:
    """The options that every command with a model and data has."""

    out: Path
    model: str
    data: str | Sequence[str]
    limit: int | None
    seed: int
    resume: bool
    overwrite: bool
    dtype: str
    device: str | None
    reading: Reading = AS_IT_IS
    writing: Writing = Writing()
    says_system: bool = False

    def __post_init__(self) -> None:
        require_files(self.reading, self.sources)

    @property
    def sources(self) -> list[str]:
        return [self.data] if isinstance(self.data, str) else list(self.data)

    def origin(self) -> dict[str, Any]:
        """Where the data come from, for provenance: the same on another machine."""
        names = [source if source == "builtin" else Path(source).name for source in self.sources]
        given = {"source": names[0] if len(names) == 1 else names, "limit": self.limit, "seed": self.seed}
        return given | self.reading.settings()

    def keeping(self, folder: Path | None = None, **origin: Any) -> dict[str, Any]:
        """The arguments that tell a study where to keep its work (``out``, if no folder is named) and where its
        questions come from."""
        return {
            "out": folder or self.out,
            "resume": self.resume,
            "overwrite": self.overwrite,
            "origin": self.origin() | origin,
        }

    def keep(self, folder: Path | None = None, include_replies: bool = False, **origin: Any) -> Keep:
        """Where a study keeps its work (``out``, if no folder is named), and where its questions come from."""
        from interp.records import Keep

        return Keep(folder or self.out, self.resume, self.overwrite, include_replies, self.origin() | origin)

    def questions(self) -> list[Question]:
        """The questions of a single source."""
        from probes.questions import load_questions

        how = self.reading
        return load_questions(self.sources[0], limit=self.limit, seed=self.seed, format=how.format, columns=how.columns)

    def run(
        self,
        work: Callable[[Model], Result],
        asked: str,
        folders: Sequence[Path] = (),
        export: Path | None = None,
    ) -> Result:
        """Check the folders, load the model, and do ``work(model)``; ``asked`` says in words what is asked.

        ``folders`` get a report each (``out``, if none is named), ``export`` a model. All are held until the work is
        done, so that no other run writes there. Called with the data read: a bad file fails before the model is loaded.
        On errors, folders that were made and are empty are removed. Ctrl-C exits with code 130 and says how to go on.
        """
        from interp.records import holding, prepare_directory
        from interp.reports import refuse_other_run

        folders = folders or [self.out]
        console = Console(stderr=True)
        try:
            with contextlib.ExitStack() as held:
                for folder in folders:
                    held.enter_context(holding(folder))
                if export is not None:
                    held.enter_context(holding(export, as_whole=True))
                if not (self.overwrite or self.resume):
                    for folder in folders:
                        refuse_other_run(folder, run_id=None)
                for folder in folders:
                    prepare_directory(folder, need_mib=20)
                console.print(f"{asked}; loading {self.model}", soft_wrap=True, markup=False, emoji=False)
                loaded = load_model(self.model, self.dtype, self.device, self.writing)
                if self.says_system:
                    say_system(loaded)
                return work(loaded)
        except KeyboardInterrupt:  # here, because typer turns it into an exit without a word
            console.print("stopped; the same command goes on where it stopped, also with --resume")
            raise typer.Exit(130) from None


def how_read(format: str | None, column: Sequence[str] | None) -> Reading:
    """What --format and --column say of how a file is to be read."""
    columns: dict[str, str] = {}
    for given in column or ():
        ours, equals, theirs = given.partition("=")
        if not (ours.strip() and equals and theirs.strip()):
            raise typer.BadParameter(
                f"{given!r}; expected our name, =, and the file's, such as question=prompt", param_hint="--column"
            )
        if ours.strip() in columns:
            raise typer.BadParameter(f"{ours.strip()!r} is given twice; give it once", param_hint="--column")
        columns[ours.strip()] = theirs.strip()
    return Reading(format, columns)


def require_files(reading: Reading, sources: Sequence[str]) -> None:
    """Refuse --format and --column where nothing is read from a file."""
    if reading and all(source == "builtin" for source in sources):
        raise typer.BadParameter("for files; leave it out to use the built-in set", param_hint="--format/--column")


def load_model(model: str, dtype: str, device: str | None, writing: Writing = Writing()) -> Model:
    """The model as the options name it."""
    import torch

    import interp

    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise typer.BadParameter(f"{dtype!r}; expected float32, bfloat16, float16 or auto", param_hint="--dtype")
    known = dtype if dtype == "auto" else getattr(torch, dtype)
    return interp.load(
        model, dtype=known, device=device, chat=writing.chat, template_arguments=writing.arguments or None
    )


def say_system(loaded: Model) -> None:
    """On stderr: the system prompt that stands there because none was given."""
    own = loaded.own_system()
    say(f"system prompt: the template's own, {own!r}" if own else "system prompt: none; the template writes none")


def say(*sentences: str) -> None:
    """Sentences on stderr, a line each, as they are."""
    for sentence in sentences:
        Console(stderr=True).print(sentence, soft_wrap=True, markup=False, emoji=False, highlight=False)


def say_where(*folders: Path) -> None:
    """Name the reports on stderr."""
    say(*(f"report: {folder / 'report.html'}" for folder in folders))


def print_result(
    statement: Sequence[str], tables: Sequence[Shown], folders: Sequence[Path] = (), as_json: bool = False
) -> None:
    """What a command found: its sentences and tables, on stdout, and on stderr where the reports are.

    As JSON, one object: "statement" (a list), "tables" (name -> a list of rows), "reports" (a list of folders).
    """
    if as_json:
        rows = {table.name: json.loads(table.frame.to_json(orient="records", double_precision=15)) for table in tables}
        found = {"statement": list(statement), "tables": rows, "reports": [str(folder) for folder in folders]}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_statement(statement)
        for table in tables:
            if len(table.frame):
                print_table(table.frame, table.columns, table.title)
    say_where(*folders)


def print_ranking(
    ranking: HeadRanking, folders: Sequence[Path], as_json: bool, statement: Sequence[str] = (), k: int = 10
) -> None:
    """The first heads of a ranking, and where its report is; as JSON, the table "top_heads" of `HeadRanking.top`."""
    if as_json:
        print_result(statement, [Shown("top_heads", ranking.top(k), {}, "")], folders, as_json)
        return
    print_statement(statement)
    print_top(ranking, k)
    say_where(*folders)


def print_statement(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        Console().print(sentence, markup=False, emoji=False, highlight=False)


def print_table(frame: pd.DataFrame, columns: Mapping[str, str], title: str) -> None:
    """The named columns under their headings; ``x_low`` and ``x_high`` are shown with ``x``, two digits (none where all
    are whole and some are 10 or more), NaN as –."""
    table = Table(title=title, title_justify="left")
    cells = {name: _cells(frame, name) for name in columns}
    for name, heading in columns.items():
        is_number = frame[name].dtype.kind in "if"
        longest = max([len(word) for word in heading.split()] + [len(cell) for cell in cells[name]])
        least = longest if is_number else min(12, max(longest, len(heading)))
        side = "right" if is_number else "left"  # names keep a readable width where numbers are many
        table.add_column(Text(heading), justify=side, overflow="fold", min_width=least)
    for row in zip(*cells.values(), strict=True):
        table.add_row(*map(Text, row))
    print_whole(table)


def print_whole(table: Table) -> None:
    """The table, wider than the terminal if its columns need that: none is ever cut off."""
    console = Console()
    least = Measurement.get(console, console.options.update(max_width=10_000), table).minimum
    console.print(table, width=max(console.width, least), crop=False)


def print_top(ranking: HeadRanking, k: int = 10) -> None:
    """The first heads of a ranking, with the means of its other measures."""
    others = [m for m in ranking.measures if m != ranking.score]
    table = Table(title=f"Top {k} heads by {ranking.score}, n = {ranking.n_examples}", title_justify="left")
    table.add_column("head")
    for column in (ranking.score, "95 % CI", *others):
        table.add_column(column.replace("_", " "), justify="right", no_wrap=column == "95 % CI")
    for row in ranking.top(k).to_dict("records"):
        interval = f"{row['ci_low']:.2f} {row['ci_high']:.2f}"
        table.add_row(row["label"], f"{row['score']:.2f}", interval, *[f"{row[m]:.2f}" for m in others])
    print_whole(table)


def _cells(frame: pd.DataFrame, name: str) -> list[str]:
    """A column as text, its interval beside it."""
    if frame[name].dtype.kind != "f":
        return [_cell(value, 2) for value in frame[name]]
    known = frame[name].dropna()
    digits = 0 if len(known) and (known % 1 == 0).all() and known.abs().max() >= 10 else 2
    values = [_cell(value, digits) for value in frame[name]]
    if f"{name}_low" not in frame:
        return values
    ends = zip(values, frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
    return [
        value if number != number else f"{value} [{_cell(low, digits)}, {_cell(high, digits)}]"
        for value, number, low, high in ends
    ]


def _cell(value: Any, digits: int) -> str:
    if not isinstance(value, float):
        return str(value)
    return "–" if value != value else f"{value:.{digits}f}"

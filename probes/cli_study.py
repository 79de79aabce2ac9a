"""What the commands share: their common options, the body that reads, checks, loads and runs, and the tables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

    from interp.model import Model
    from interp.ranking import HeadRanking
    from probes.questions import Question

Result = TypeVar("Result")


class AnswerForms(StrEnum):
    in_context = "in_context"
    both = "both"


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
BatchSize = Annotated[int, typer.Option(min=1, help="Questions (requests) in a batch; a killed run loses at most one.")]


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

    @property
    def sources(self) -> list[str]:
        return [self.data] if isinstance(self.data, str) else list(self.data)

    def origin(self) -> dict[str, Any]:
        """Where the data come from, for provenance: the same on another machine."""
        names = [source if source == "builtin" else Path(source).name for source in self.sources]
        return {"source": names[0] if len(names) == 1 else names, "limit": self.limit, "seed": self.seed}

    def keeping(self, folder: Path | None = None, **origin: Any) -> dict[str, Any]:
        """The arguments that tell a study where to keep its work (``out``, if no folder is named) and where its
        questions come from."""
        return {
            "out": folder or self.out,
            "resume": self.resume,
            "overwrite": self.overwrite,
            "origin": self.origin() | origin,
        }

    def questions(self) -> list[Question]:
        """The questions of a single source."""
        from probes.questions import load_questions

        return load_questions(self.sources[0], limit=self.limit, seed=self.seed)

    def run(self, work: Callable[[Model], Result], asked: str, folders: Sequence[Path] = ()) -> Result:
        """Check the folders, load the model, and do ``work(model)``; ``asked`` says in words what is asked.

        ``folders`` get a report each (``out``, if none is named). Called with the data read: a bad file fails before
        the model is loaded. On errors, folders that were made and are empty are removed. Ctrl-C exits with code 130
        and says how to go on.
        """
        from interp.storage import refuse_other_run
        from interp.work import prepare_directory

        folders = folders or [self.out]
        if not (self.overwrite or self.resume):
            for folder in folders:
                refuse_other_run(folder, run_id=None)
        above = [folder for given in folders for folder in (given, *given.parents)]
        new = [folder for folder in dict.fromkeys(above) if not folder.exists()]
        console = Console(stderr=True)
        try:
            for folder in folders:
                prepare_directory(folder, need_mib=20)
            console.print(f"{asked}; loading {self.model}", soft_wrap=True, markup=False)
            return work(load_model(self.model, self.dtype, self.device))
        except KeyboardInterrupt:  # here, because typer turns it into an exit without a word
            console.print("stopped; continue with the same command and --resume")
            raise typer.Exit(130) from None
        finally:
            for folder in sorted(new, key=lambda path: -len(path.parts)):
                with contextlib.suppress(OSError):
                    folder.rmdir()  # only if nothing was written


def load_model(model: str, dtype: str, device: str | None) -> Model:
    """The model as the options name it."""
    import torch

    import interp

    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise typer.BadParameter(f"{dtype!r}; expected float32, bfloat16, float16 or auto", param_hint="--dtype")
    return interp.load(model, dtype=dtype if dtype == "auto" else getattr(torch, dtype), device=device)


def say_where(*folders: Path) -> None:
    """Name the reports on stderr."""
    for folder in folders:
        path = folder / "report.html"
        Console(stderr=True).print(f"report: {path}", soft_wrap=True, markup=False, highlight=False)


def print_statement(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        Console().print(sentence, markup=False, highlight=False)


def print_table(frame: pd.DataFrame, columns: Mapping[str, str], title: str) -> None:
    """The named columns under their headings; ``x_low`` and ``x_high`` are shown with ``x``, two digits, NaN as –."""
    table = Table(title=title, title_justify="left")
    for name, heading in columns.items():
        is_number = frame[name].dtype.kind in "if"
        least = None if is_number else min(12, max([len(heading), *frame[name].astype(str).str.len()]))
        side = "right" if is_number else "left"  # names keep a readable width where numbers are many
        table.add_column(Text(heading), justify=side, no_wrap=is_number, overflow="fold", min_width=least)
    for row in frame.to_dict("records"):
        table.add_row(*[Text(_cell(row, name)) for name in columns])
    Console().print(table)


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
    Console().print(table)


def _cell(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (row.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "–"
    return f"{value:.2f}" if low is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"

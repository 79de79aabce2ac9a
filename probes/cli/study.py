"""What the commands share: the body that reads, checks, loads, says how long and runs, and the tables."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from interp.records import Keep
from probes.cli.declaring import only
from probes.cli.estimate import Cost, say_how_long
from probes.cli.options import ChatModel, Data, say, say_system
from probes.cli.sharing import SharedKeep, let_workers

if TYPE_CHECKING:
    import pandas as pd

    from interp.machine import Work
    from interp.models import Model
    from interp.rankings import HeadRanking

Result = TypeVar("Result")

Report = Annotated[SharedKeep, only("out resume overwrite shard engine workers address per_worker")]
"""The options that say where a report goes, of work that is a stream of batches."""
WholeReport = Annotated[Keep, only("out resume overwrite")]
"""Of work that one process does."""
ReportWithReplies = Annotated[
    SharedKeep, only("out include_replies resume overwrite shard engine workers address per_worker")
]
WholeReportWithReplies = Annotated[Keep, only("out include_replies resume overwrite")]


class Shown(NamedTuple):
    """A table that a command prints: the columns under their headings; with ``--json`` all of it, under ``name``."""

    name: str
    frame: pd.DataFrame
    columns: Mapping[str, str]
    title: str


@dataclass(frozen=True)
class Study:
    """A command's run: where its work is kept, the model that is asked, and what data it is asked about."""

    kept: Keep
    model: ChatModel
    data: Data
    says_system: bool = False

    @property
    def out(self) -> Path:
        assert self.kept.folder is not None
        return self.kept.folder

    @property
    def overwrite(self) -> bool:
        return self.kept.overwrite

    def origin(self) -> dict[str, Any]:
        """Where the data come from, for provenance: the same on another machine."""
        return self.data.origin()

    def keep(self, folder: Path | None = None, include_replies: bool | None = None, **origin: Any) -> Keep:
        """Where a study keeps its work (``out``, if no folder is named), and where its questions come from."""
        replies = self.kept.include_replies if include_replies is None else include_replies
        return Keep(folder or self.out, self.kept.resume, self.overwrite, replies, self.origin() | origin)

    def run(
        self,
        work: Callable[[Model], Result],
        asked: str,
        folders: Sequence[Path] = (),
        export: Path | None = None,
        cost: Cost | Callable[[Model], Cost | Work] | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> Result:
        """Check the folders, load the model, and do ``work(model)``; ``asked`` says in words what is asked.

        ``folders`` get a report each (``out``, if none is named), ``export`` a model. All are held until the work is
        done, so that no other run writes there. Called with the data read: a bad file fails before the model is loaded.
        ``cost``: what is said before the start; None where the study itself says how long it takes.
        On errors, folders that were made and are empty are removed. Ctrl-C exits with code 130 and says how to go on.
        A shard that is done exits with code 0: others are not, or are waiting for ``interp merge``. With ``--engine``
        the workers do the batches first.
        """
        from interp.records import ShardWaits, holding, prepare_directory, this_worker
        from interp.reports import refuse_other_run

        folders = folders or [self.out]
        self.model.require_known()
        try:
            with contextlib.ExitStack() as held:
                for folder in folders:
                    held.enter_context(holding(folder))
                if export is not None:
                    held.enter_context(holding(export, as_whole=True))
                if not (self.overwrite or self.kept.resume):
                    for folder in folders:
                        refuse_other_run(folder, run_id=None)
                for folder in folders:
                    prepare_directory(folder, need_mib=20)
                self.model.say_download()
                if isinstance(self.kept, SharedKeep) and self.kept.engine is not None:
                    say(f"{asked}; starting workers")
                    let_workers(self.kept, self.model.model, self.model.dtype)
                    asked, cost = "all batches are done", None
                say(f"{asked}; loading {self.model.model}")
                loaded = self.model.load(template_arguments)
                if self.says_system:
                    say_system(loaded)
                if cost is not None and not this_worker():
                    say_how_long(loaded, cost if isinstance(cost, Cost) else cost(loaded))
                found = work(loaded)
        except ShardWaits as waits:
            say(str(waits))
            raise typer.Exit(0) from None
        except KeyboardInterrupt:  # here, because typer turns it into an exit without a word
            say("stopped; the same command goes on where it stopped, also with --resume")
            raise typer.Exit(130) from None
        if self.kept.shard is not None:
            say(f"all shards are done: `interp merge {self.kept.out}`, then the same command without --shard")
            raise typer.Exit(0)
        return found


def say_where(*folders: Path) -> None:
    """Name the reports on stderr."""
    say(*(f"report: {folder / 'report.html'}" for folder in folders))


def with_caveats(statement: Sequence[str], caveats: Sequence[str]) -> list[str]:
    """What was found, and right after the verdict what a command did otherwise than usual."""
    return [*statement[:1], *caveats, *statement[1:]]


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
    ranking: HeadRanking, folders: Sequence[Path], as_json: bool, caveats: Sequence[str] = (), k: int = 10
) -> None:
    """What a ranking says, its first heads, and where its report is; as JSON, the table "top_heads" of
    `HeadRanking.top`. Of too few examples there is no order, and no heads are named."""
    statement = with_caveats(ranking.statement(), caveats)
    k = 0 if ranking.is_too_few else k
    if as_json:
        print_result(statement, [Shown("top_heads", ranking.top(k), {}, "")], folders, as_json)
        return
    print_statement(statement)
    if k:
        print_top(ranking, k)
    say_where(*folders)


def print_statement(sentences: Sequence[str], err: bool = False) -> None:
    """The sentences, the verdict first and bold; on stderr if ``err``."""
    for i, sentence in enumerate(sentences):
        style = None if i else "bold"
        Console(stderr=err).print(sentence, style=style, markup=False, emoji=False, highlight=False)


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
    """The first heads of a ranking with their 95 % intervals, and the means of its other measures."""
    from interp.statistics import Estimate

    others = [m for m in ranking.measures if m != ranking.score]
    table = Table(
        title=f"Top {k} heads by {ranking.score}, n = {ranking.n_examples}, 95 % intervals", title_justify="left"
    )
    table.add_column("head")
    for column in (ranking.score, *others):
        table.add_column(column.replace("_", " "), justify="right", no_wrap=column == ranking.score)
    top = ranking.top(k)
    if has_kinds := "kind" in top:
        table.add_column("kind")
    for row in top.to_dict("records"):
        score = Estimate.from_row(row, "score", ("ci_low", "ci_high"))
        kind = [row["kind"]] if has_kinds else []
        table.add_row(row["label"], f"{score:.2f}", *[f"{row[m]:.2f}" for m in others], *kind)
    print_whole(table)


def _cells(frame: pd.DataFrame, name: str) -> list[str]:
    """A column as text, its interval beside it."""
    if frame[name].dtype.kind != "f":
        return [_cell(value, 2) for value in frame[name]]
    known = frame[name].dropna()
    digits = 0 if len(known) and (known % 1 == 0).all() and known.abs().max() >= 10 else 2
    if f"{name}_low" not in frame:
        return [_cell(value, digits) for value in frame[name]]
    from interp.statistics import Estimate

    rows = zip(frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
    return [Estimate(*row).written(lambda value: _cell(value, digits), unknown="–") for row in rows]


def _cell(value: Any, digits: int) -> str:
    if not isinstance(value, float):
        return str(value)
    return "–" if value != value else f"{value:.{digits}f}"


def require_place_for_export(export: Path, out: Path, taken: Sequence[str]) -> None:
    """Raise if a model could not be written to ``export`` after the work; ``taken``: folders of the report."""
    if export.exists() and (not export.is_dir() or any(export.iterdir())):
        raise FileExistsError(f"--export {export} is not an empty directory. Give another, or delete it.")
    report = out.resolve()
    if export.resolve() in (report, *report.parents, *(report / name for name in taken)):
        raise ValueError(f"--export {export} would hold files of the report in --out {out}. Give another directory.")


def require_folder(folder: str | Path, holds: str, file: str = "") -> None:
    """Refuse a folder that is not there, or is without this file, before anything is imported to read it; ``holds``
    says what is expected."""
    if file and not (Path(folder).expanduser() / file).is_file():
        raise FileNotFoundError(f"{folder} has no {file}: it is not {holds}.")
    if not Path(folder).expanduser().is_dir():
        raise FileNotFoundError(f"No directory {folder}; expected {holds}.")

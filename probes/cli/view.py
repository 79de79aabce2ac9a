"""The command that opens what was saved: the heads of a ranking, two rankings, or the list of all runs."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from probes.cli.declaring import Option
from probes.cli.options import say
from probes.cli.study import require_folder

_RUNS, _HEADS, _COMPARED = "runs.html", "explorer.html", "compared.html"
_OURS = '<meta name="generator" content="headscope">'


def view(
    folders: Annotated[
        list[str],
        Option(
            "A saved ranking (its heads, to click and to turn), two or more of them (side by side), or a folder of "
            "reports (the list of its runs).",
            metavar="FOLDER...",
            is_argument=True,
        ),
    ],
    out: Annotated[
        Path | None,
        Option("The HTML file to write.", metavar="FILE", shown="in the folder; of several, beside the first"),
    ] = None,
    open_it: Annotated[bool, Option("Open the page in this machine's browser.", flag="--open")] = False,
    include_replies: bool = False,
    as_json: bool = False,
) -> None:
    """Look at what was saved: one offline page of a ranking's heads, of two rankings, or of all runs in a folder.

    The page needs no server and asks no host. Of a result without a ranking of heads, its report is named.
    """
    places = [Path(folder).expanduser() for folder in folders]
    for place in places if len(places) == 1 else []:
        require_folder(place, "the folder of a saved ranking, or of reports")
    if len(places) == 1 and not _is_saved(places[0]):
        from interp.explorer import find_runs, save_runs

        runs = find_runs(places[0])
        if not runs and not as_json:
            say(f"{places[0]} holds no run: a command with --out in it makes one")
        page = save_runs(runs, _free(out or places[0] / _RUNS))
        rows = [
            {"folder": str(r.folder), "title": r.title, "verdict": r.verdict, "model": r.model, "created": r.created,
             "kind": r.kind, "problem": r.problem}
            for r in runs
        ]  # fmt: skip
        lines = [
            f"{'broken' if r.is_broken else r.created[:10]:10}  {r.folder}: {r.problem or r.verdict}" for r in runs
        ]
        _end(page, open_it, {"page": str(page), "runs": rows} if as_json else None, lines)
        return
    from interp import compare_rankings, load_result

    result = load_result(places[0]) if len(places) == 1 else compare_rankings(folders)
    default = places[0] / _HEADS if len(places) == 1 else places[0].parent / _COMPARED
    try:
        explored = result.explore()
    except (AttributeError, TypeError):  # a result without heads in an order
        report = places[0] / "report.html"
        said = [f"{places[0]} holds no ranking of heads; its report is all there is to look at."]
        _end(report, open_it, {"page": str(report)} if as_json else None, said)
        return
    page = explored.save_explorer(_free(out or default), include_replies=include_replies)
    _end(page, open_it, {"page": str(page)} if as_json else None, explored.statement()[:1])


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("findings.json", "report.json"))


def _free(page: Path) -> Path:
    """The page's path; refused if it is a file that is no page of ours."""
    if page.is_file() and _OURS not in page.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise FileExistsError(f"{page} is there already and is not a page of headscope; give another file: --out FILE.")
    page.parent.mkdir(parents=True, exist_ok=True)
    return page


def _end(page: Path, open_it: bool, found: dict | None, lines: list[str]) -> None:
    if found is not None:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        for line in lines:
            typer.echo(line)
    say(f"page: {page}")
    if open_it and not webbrowser.open(page.resolve().as_uri()):
        say("no browser could be opened here; open the file yourself")

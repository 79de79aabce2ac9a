"""The commands on scenes: make edited pairs, and a sheet to look at them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from probes.cli_study import Overwrite

scenes = typer.Typer(help="Drawn scenes, edited in one fact: make them, look at them.", no_args_is_help=True)


class Level(StrEnum):
    object = "object"
    attribute = "attribute"
    relationship = "relationship"


class Kind(StrEnum):
    yes_no = "yes-no"
    open = "open"


class Split(StrEnum):
    train = "train"
    validation = "validation"
    test = "test"
    ood = "ood"


@scenes.command("make")
def make(
    out: Annotated[Path, typer.Option(help="Folder for pictures, masks and scenes.jsonl.")],
    n: Annotated[int, typer.Option("--n", min=1, max=10_000, help="Number of pairs.")] = 20,
    level: Annotated[Level | None, typer.Option(help="What is edited; default: all three in turn.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Of questions; default: both in turn.")] = None,
    difficulty: Annotated[str, typer.Option(help="easy, medium, hard, or a number from 0 to 1.")] = "medium",
    split: Annotated[Split, typer.Option(help="Whose combinations of shape, colour and material.")] = Split.test,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 0,
    pixels: Annotated[int, typer.Option(min=16, max=2048, help="Height and width of a picture.")] = 96,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the scenes in --out.")] = False,
) -> None:
    """Scenes with questions, each with a twin in which one fact is changed so that the answer changes."""
    from probes.scene_edits import edited_pairs
    from probes.scene_files import require_room, save_scenes

    require_room(out, overwrite)
    asked = None if kind is None else kind.value.replace("-", "_")
    pairs = edited_pairs(
        split.value, n, seed, _difficulty(difficulty), None if level is None else level.value, asked, pixels
    )
    written = save_scenes(pairs, out, overwrite)
    console = Console()
    console.print(f"{written} pairs in {out} (scenes.jsonl, pictures/).", soft_wrap=True, markup=False, emoji=False)
    console.print(f"Look at them: interp scenes sheet {out}", soft_wrap=True, markup=False, emoji=False)


@scenes.command("sheet")
def sheet(
    folder: Annotated[Path, typer.Argument(help="A folder that `interp scenes make` wrote.")],
    out: Annotated[Path | None, typer.Option(help="The page; default: sheet.html in the folder.")] = None,
    picture: Annotated[bool, typer.Option("--png", help="Also a picture of all pairs, beside the page.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """One page to accept or reject each pair on: before, after, mask, question and both answers."""
    from interp.work import write_atomically
    from probes.pair_sheet import sheet_image, without_leaks, write_sheet
    from probes.scene_files import load_scenes

    page = out or folder / "sheet.html"
    image = page.with_suffix(".png")
    for path in (page, image) if picture else (page,):
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is there already. Replace it with --overwrite, or give another --out.")
    pairs = load_scenes(folder)
    dropped = without_leaks(pairs).dropped
    page.parent.mkdir(parents=True, exist_ok=True)
    write_sheet(pairs, page, f"Edited scenes: {folder.resolve().name}")
    if picture:
        drawn = sheet_image(pairs)
        write_atomically(image, lambda temporary: drawn.save(temporary, format="PNG"))
    console = Console()
    console.print(f"{len(pairs)} pairs on {page}", soft_wrap=True, markup=False, emoji=False)
    for name, reason in dropped.items():
        console.print(f"{name}: {reason}", soft_wrap=True, markup=False, emoji=False)


def _difficulty(given: str) -> str | float:
    try:
        return float(given)
    except ValueError:
        return given  # a name; refused where scenes are made if it is none

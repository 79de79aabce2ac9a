"""The commands on edited pictures: pairs of drawn scenes, pairs of a photograph, and a sheet to look at them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from probes.cli.declaring import Option

if TYPE_CHECKING:
    from probes.pairs import Editor, Substitution

Level = Literal["object", "attribute", "relationship"]


def make(
    out: Annotated[Path, Option("Folder for pictures, masks and scenes.jsonl.")],
    n: Annotated[int, Option("Number of pairs.", flag="--n", least=1, most=10_000)] = 20,
    level: Annotated[Level | None, Option("What is edited; default: all three in turn.")] = None,
    kind: Literal["yes_no", "open"] | None = None,
    difficulty: str = "medium",
    split: Literal["train", "validation", "test", "ood"] = "test",
    seed: int = 0,
    pixels: Annotated[int, Option("Height and width of a picture.", least=16, most=2048)] = 96,
    overwrite: Annotated[bool, Option("Replace the scenes in --out.")] = False,
) -> None:
    """Scenes with questions, each with a twin in which one fact is changed so that the answer changes."""
    from probes.pairs import save_scenes
    from probes.scenes import edited_pairs

    pairs = edited_pairs(split, n, seed, _difficulty(difficulty), level, kind, pixels)
    written = save_scenes(pairs, out, overwrite)
    _say(f"{written} pairs in {out} (scenes.jsonl, pictures/).")
    _say(f"Look at them: interp scenes sheet {out}")


def edit_photo(
    image: Annotated[Path, Option("A photograph.", is_argument=True)],
    out: Annotated[Path, Option("Folder of edited photographs; the new pairs are added to it.")],
    question: Annotated[str, Option("About the photograph as it is.")],
    answer: Annotated[str, Option("The right answer before the edit.")],
    box: Annotated[
        list[str] | None,
        Option("Pixels that may change: left, top, width, height (may be given again).", metavar="X,Y,W,H"),
    ] = None,
    mask: Annotated[Path | None, Option("Instead of --box: an image that is white where to edit.")] = None,
    recolour: Annotated[str | None, Option("Two colours, such as red:green.", metavar="OLD:NEW")] = None,
    remove: Annotated[bool, Option("Instead: fill the region from around it.")] = False,
    answer_after: Annotated[
        str | None, Option("The right answer after the edit, where it doesn't follow from the words.")
    ] = None,
    concept: Annotated[
        str | None, Option("The question's word that the edit is about, if not a colour; traces need one.")
    ] = None,
    level: Annotated[Level | None, Option("Default: attribute for --recolour, object for --remove.")] = None,
    name: Annotated[str | None, Option("Of the pair; default: made of the image and the question.")] = None,
) -> None:
    """A region of a photograph recoloured or emptied, and the question that it answers differently then.

    A yes/no question that names a colour is asked twice, with the old and with the new one. Inpainting is there in
    Python: probes.visual_semantics.Inpainter.
    """
    from interp.records import holding
    from probes.pairs import box_region, file_region, photo_pairs

    if bool(box) == (mask is not None):
        raise typer.BadParameter("give one of --box X,Y,W,H and --mask FILE", param_hint="--box")
    if bool(recolour) == remove:
        raise typer.BadParameter("give one of --recolour OLD:NEW and --remove", param_hint="--recolour")
    substitution, editor = _edit(recolour)
    region = file_region(image, mask) if mask else box_region(image, [_numbers(given) for given in box or ()])
    with holding(out):  # a name or a number is given once
        pairs = photo_pairs.edit_photo(
            image,
            region,
            question,
            answer,
            substitution,
            editor,
            level=level,
            answer_after=answer_after,
            concept=concept,
            id=name,
        )
        photo_pairs.save_pairs(pairs, out, append=True)
    for pair in pairs:
        _say(f"{pair.id}: {pair.question} {pair.answer_before} -> {pair.answer_after}")
    for caution in pairs[0].how["cautions"]:
        _say(f"look at it: {caution}")
    added = "1 pair is" if len(pairs) == 1 else f"{len(pairs)} pairs are"
    _say(f"{added} added to {out}. Look: interp scenes sheet {out}")


def sheet(
    folder: Annotated[
        Path, Option("A folder that `interp scenes make` or `edit-photo` (save_pairs) wrote.", is_argument=True)
    ],
    out: Annotated[
        Path | None, Option("The HTML file to write.", metavar="FILE", shown="sheet.html in the folder")
    ] = None,
    picture: Annotated[bool, Option("Also a picture of all pairs, beside the page.", flag="--png")] = False,
    decisions: Path | None = None,
    max_leak: float = 0.0,
    overwrite: Annotated[bool, Option("Replace the page.")] = False,
) -> None:
    """One page to accept or reject each pair on: before, after, mask, question and both answers.

    Its decisions go to `interp trace --decisions FILE`, or here again for a sheet of the accepted pairs.
    """
    from interp.records import holding, write_atomically
    from probes.pairs import sheet_image, used_pairs, write_sheet

    page = out or folder / "sheet.html"
    image = page.with_suffix(".png")
    with holding(page, as_whole=True):
        for path in (page, image) if picture else (page,):
            if path.exists() and not overwrite:
                raise FileExistsError(f"{path} is there already. Replace it with --overwrite, or give another --out.")
        pairs, left_out = used_pairs(folder, decisions, max_leak)
        write_sheet(pairs, page, f"Edited pairs: {folder.resolve().name}")
        if picture:
            drawn = sheet_image(pairs)
            write_atomically(image, lambda temporary: drawn.save(temporary, format="PNG"))
    for sentence in left_out:
        _say(sentence)
    _say(f"{len(pairs)} pairs on {page}")


def _edit(recolour: str | None) -> tuple[Substitution | None, Editor]:
    from probes.pairs import Substitution, recolour_to, take_away

    if recolour is None:
        return None, take_away
    old, _, new = recolour.partition(":")
    if not old or not new:
        raise typer.BadParameter(f"{recolour!r}; expected OLD:NEW, such as red:green", param_hint="--recolour")
    return Substitution("attribute", old, new), recolour_to


def _numbers(box: str) -> list[float]:
    try:
        x, y, w, h = map(float, box.split(","))
    except ValueError:
        raise typer.BadParameter(f"{box!r}; expected X,Y,W,H in pixels", param_hint="--box") from None
    return [x, y, w, h]


def _say(sentence: str) -> None:
    Console().print(sentence, soft_wrap=True, markup=False, emoji=False)


def _difficulty(given: str) -> str | float:
    try:
        return float(given)
    except ValueError:
        return given  # a name; refused where scenes are made if it is none

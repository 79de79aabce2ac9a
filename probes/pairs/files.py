"""A folder of edited pairs, of drawn scenes or of photographs, read in one way: all of it, or the pairs to be used."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from interp.door import public
from probes.pairs.photo_pairs import PAIRS, load_pairs
from probes.pairs.scene_files import RECORDS, load_scenes
from probes.pairs.sheet import PicturePair, accepted, load_decisions, without_leaks


@public
def load_picture_pairs(folder: str | Path) -> list[PicturePair]:
    """The pairs of a folder that :func:`probes.pairs.scene_files.save_scenes` or
    :func:`probes.pairs.photo_pairs.save_pairs` wrote.

    Args:
        folder: where they were written.

    Raises:
        FileNotFoundError: a folder that neither wrote.
        ValueError: a folder that holds both kinds, and as :func:`probes.pairs.scene_files.load_scenes` and
            :func:`probes.pairs.photo_pairs.load_pairs`.
    """
    folder = Path(folder).expanduser()
    scenes, photographs = ((folder / name).is_file() for name in (RECORDS, PAIRS))
    if scenes and photographs:
        raise ValueError(f"{folder} has {RECORDS} and {PAIRS}: which pairs are meant? Move one kind to a folder apart.")
    if photographs:
        return [pair.on_sheet() for pair in load_pairs(folder)]
    if scenes:
        return load_scenes(folder)
    raise FileNotFoundError(
        f"{folder} has no {RECORDS} and no {PAIRS}: it holds no scenes and no edited photographs. Make some: "
        "`interp scenes make`, or `interp scenes edit-photo` (save_pairs in Python)."
    )


class UsedPairs(NamedTuple):
    """``pairs``: those to use. ``left_out``: which pairs of the folder are not among them and why, a sentence each."""

    pairs: tuple[PicturePair, ...]
    left_out: tuple[str, ...]


@public
def used_pairs(folder: str | Path, decisions: str | Path | None = None, max_leak: float = 0.0) -> UsedPairs:
    """The pairs of a folder without those that leak and, with a sheet's decisions, those that no person accepted.

    Args:
        folder: of drawn scenes or of photographs.
        decisions: the file that "Save decisions" on the sheet saved; rejected and undecided pairs are left out. By
            default nobody is asked.
        max_leak: the largest share of the changed pixels that may lie outside the mask, 0 to 1; 1 keeps every leak. A
            pair in which nothing changed is always left out.

    Raises:
        ValueError: no pair is left, and as :func:`load_picture_pairs`, :func:`probes.pairs.sheet.load_decisions` and
            :func:`probes.pairs.sheet.accepted`.
    """
    pairs, said = load_picture_pairs(folder), []
    if decisions is not None:
        taken, all_of_them = load_decisions(decisions), len(pairs)
        pairs = accepted(pairs, taken)
        rejected = sum(not decision.accepted for decision in taken.values())
        said.append(
            f"{len(pairs)} of {all_of_them} pairs were accepted in {Path(decisions).name} ({rejected} rejected, "
            f"{all_of_them - len(taken)} undecided)."
        )
        if not pairs:
            raise ValueError(f"{said[0]} None is left: accept some on the sheet, and save the decisions again.")
    kept, dropped = without_leaks(pairs, max_leak)
    if dropped:
        listed = "; ".join(f"{name}: {reason}" for name, reason in dropped.items())
        said.append(f"{len(dropped)} of {len(pairs)} pairs are dropped: {listed}.")
    if not kept:
        raise ValueError(f"{' '.join(said)} None is left: edit them again, or allow leaks, max_leak=1.")
    return UsedPairs(kept, tuple(said))

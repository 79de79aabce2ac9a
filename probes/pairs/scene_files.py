"""Edited scenes as a folder: pictures and masks as PNG, and `scenes.jsonl` with scene graphs, questions and answers.

Its last line has the number of the others and their SHA-256: what was changed is refused. A picture may be replaced (a
pair's digest, on which decisions are taken, is then another).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from interp.door import public
from interp.records import directory_beside, explained, holding
from interp.vision import read_image
from probes.pairs.sheet import PicturePair, picture_pair
from probes.scenes import EditedPair, Scene
from probes.scenes.programs import SceneQuestion, answer

RECORDS = "scenes.jsonl"
FORMAT_VERSION = 1
_PICTURES = ("before", "after", "mask")
_SEAL = {"format_version", "n", "sha256"}
_OURS = {RECORDS, "pictures", "sheet.html", "sheet.png"}


@public
def save_scenes(pairs: Iterable[EditedPair], folder: str | Path, overwrite: bool = False) -> int:
    """Write the pairs, whole or not at all; returns their number.

    The folder gets ``pictures/0000-before.png``, ``-after.png`` and ``-mask.png``, and ``scenes.jsonl`` with a record
    for each pair. They are written to a temporary folder beside it, which then takes its place.

    Args:
        pairs: one or more, as :func:`probes.scenes.edited_pairs` makes them.
        folder: a new or an empty one.
        overwrite: replace scenes that were saved there.

    Raises:
        FileExistsError: a folder that holds scenes, without ``overwrite``, or anything else, even with it, and one that
            somebody else is writing.
        OSError: the disk refuses; says the remedy.
    """
    folder = Path(folder)
    with holding(folder, as_whole=True), explained(folder):
        require_room(folder, overwrite)
        temporary = directory_beside(folder)
        try:
            (temporary / "pictures").mkdir()
            count, digest = 0, hashlib.sha256()
            with (temporary / RECORDS).open("wb") as records:
                for count, edited in enumerate(pairs, start=1):
                    row = _written(edited, f"{count - 1:04d}", temporary)
                    line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
                    digest.update(line)
                    records.write(line)
                records.write((json.dumps(_seal(count, digest.hexdigest())) + "\n").encode())
            if not count:
                raise ValueError("no pairs were given; there is nothing to save.")
            temporary.chmod(0o777 & ~_umask())
            _take_place(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return count


@public
def load_scenes(folder: str | Path) -> list[PicturePair]:
    """The pairs that :func:`save_scenes` wrote, pictures and masks read from their files.

    Args:
        folder: where they were written.

    Raises:
        FileNotFoundError: a folder without ``scenes.jsonl``, or with pictures missing (all are listed).
        ValueError: a damaged or changed record, a damaged picture, an answer that isn't the scene graph's, and a mask
            of another size or empty.
    """
    folder = Path(folder)
    path = folder / RECORDS
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {RECORDS}: it holds no scenes. Make some: `interp scenes make`, or save_scenes in Python."
        )
    rows, seal, digest = [], None, hashlib.sha256()
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        try:
            row = json.loads(line.decode("utf-8"))
            if set(row) == _SEAL:
                seal = row
                break
            digest.update(line)
            rows.append(_read(row))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: damaged or edited ({error}). Make the scenes again.") from error
    if seal != _seal(len(rows), digest.hexdigest()):
        why = "its last line has no SHA-256 of the others" if seal is None else "the SHA-256 of its last line differs"
        raise ValueError(f"{path} was changed, ends too early, or is of another version: {why}. Make the scenes again.")
    files = [folder / "pictures" / f"{name}-{kind}.png" for name, _ in rows for kind in _PICTURES]
    if missing := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} pictures are missing in {folder / 'pictures'}: {', '.join(missing[:20])}"
            f"{' ...' if len(missing) > 20 else ''}. Copy the folder again, or make it again."
        )
    return [_with_pictures(folder / "pictures", name, edited) for name, edited in rows]


def require_room(folder: Path, overwrite: bool) -> None:
    """Raise ``FileExistsError`` where :func:`save_scenes` would: called before long work."""
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file; expected a folder. Give another.")
    there = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    if others := sorted(there - _OURS):
        raise FileExistsError(
            f"{folder} holds other things than scenes ({', '.join(others[:3])}), which would be lost. Give another "
            "folder, or move them."
        )
    if there and not overwrite:
        raise FileExistsError(f"{folder} holds scenes already. Replace them with overwrite=True, or give another.")


def _seal(n: int, sha256: str) -> dict[str, object]:
    return {"format_version": FORMAT_VERSION, "n": n, "sha256": sha256}


def _written(edited: EditedPair, name: str, folder: Path) -> dict[str, object]:
    pair = picture_pair(edited, name)
    pictures = (pair.before, pair.after, Image.fromarray(pair.mask.astype(np.uint8) * 255))
    for kind, picture in zip(_PICTURES, pictures, strict=True):
        picture.save(folder / "pictures" / f"{name}-{kind}.png")
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "pixels": pair.before.width,
        "level": edited.level,
        "question": edited.question.text,
        "answer_before": edited.answer_before,
        "answer_after": edited.answer_after,
        "changed": edited.changed,
        "fact": edited.fact,
        "before": edited.before.to_dict(),
        "after": edited.after.to_dict(),
        "program": edited.question.to_dict(),
    }


def _read(row: dict) -> tuple[str, EditedPair]:
    """The name and the pair of a record, its region still to be read."""
    if row["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format_version {row['format_version']!r}; expected {FORMAT_VERSION}")
    question, name = SceneQuestion.from_dict(row["program"]), str(row["name"])
    scenes = [Scene.from_dict(row[when]) for when in ("before", "after")]
    answers = [row["answer_before"], row["answer_after"]]
    if (true := [answer(scene, question) for scene in scenes]) != answers:
        raise ValueError(f"answers {answers}; the scene graphs give {true}")
    nowhere = np.zeros((row["pixels"], row["pixels"]), dtype=bool)
    if Path(name).name != name:
        raise ValueError(f"name {name!r}; expected the beginning of a file's name")
    return name, EditedPair(*scenes, question, *answers, row["level"], nowhere, row["changed"], row["fact"])


def _with_pictures(pictures: Path, name: str, edited: EditedPair) -> PicturePair:
    before, after, drawn = (read_image(pictures / f"{name}-{kind}.png") for kind in _PICTURES)
    size = edited.region.shape[::-1]
    if before.size != size:
        raise ValueError(f"{pictures / name}-before.png is {before.size}; {RECORDS} says {size}. Make it again.")
    try:
        return picture_pair(replace(edited, region=np.asarray(drawn)[..., 0] > 127), name, (before, after))
    except ValueError as error:
        raise ValueError(f"{pictures}: {error}") from error


def _take_place(temporary: Path, folder: Path) -> None:
    """Move the temporary folder to where the other is: that one goes first to a name of its own, then is deleted."""
    if not folder.exists():
        os.replace(temporary, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
    os.replace(folder, old)
    try:
        os.replace(temporary, folder)
    except BaseException:
        os.replace(old, folder)
        raise
    shutil.rmtree(old)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

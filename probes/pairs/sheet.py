"""Pairs of pictures before and after an edit, of scenes or photographs: a sheet on which a person accepts or rejects
each, and a filter that drops those that changed outside their mask."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont

from interp.door import made_by, public
from interp.door.brief import brief
from interp.records import hash_json, hash_text, versions
from interp.records.writing import write_atomically
from probes.scenes import EditedPair, render

FORMAT_VERSION = 1
TOLERANCE = 8  # of 255: a channel's difference that counts as a change; an inpainting model moves all pixels a little
_LINE = 16  # pixels of a line of text in `sheet_image`


@made_by("load_picture_pairs(folder)")
@dataclass(frozen=True)
class PicturePair:
    """A picture, its edited twin, the mask of the edit, and a question that the two answer differently.

    Args:
        name: of the pair, in decisions and results.
        before, after: the pictures.
        mask: True where the edit may change them.
        question: asked about both.
        answer_before, answer_after: its gold answers.
        level: "object", "attribute", "relationship", or "" if unknown.
        change: the edit in words.
        edited: the pair's scenes, where it is of scenes.
        concept: elsewhere the word of the question that the edit is about, "" if unknown.

    Raises:
        ValueError: pictures of two sizes, and a mask of another size or empty.
    """

    name: str
    before: Image.Image
    after: Image.Image
    mask: Bool[np.ndarray, "height width"]
    question: str
    answer_before: str
    answer_after: str
    level: str = ""
    change: str = ""
    edited: EditedPair | None = None
    concept: str = ""

    __repr__ = brief

    def __post_init__(self) -> None:
        if self.before.size != self.after.size:
            raise ValueError(f"{self.name}: before is {self.before.size} and after {self.after.size}; give one size.")
        _require_mask(self.before, self.mask, self.name)

    @cached_property
    def digest(self) -> str:
        """A hash of pictures, mask, question and answers: what a decision was about."""
        parts = [
            hashlib.sha256(np.asarray(im.convert("RGB")).tobytes()).hexdigest() for im in (self.before, self.after)
        ]
        parts += [self.before.size, hashlib.sha256(np.packbits(self.mask).tobytes()).hexdigest()]
        return hash_json([*parts, self.question, self.answer_before, self.answer_after])[:16]


@public
def picture_pair(edited: EditedPair, name: str, pictures: tuple[Image.Image, Image.Image] | None = None) -> PicturePair:
    """The pair of pictures of an edited scene.

    Args:
        edited: the scene and its twin.
        name: of the pair, in decisions and results.
        pictures: before and after; by default they are rendered at the size of the scene's region.
    """
    pixels = edited.region.shape[0]
    before, after = pictures or (render(scene, pixels).image for scene in (edited.before, edited.after))
    answers = (edited.answer_before, edited.answer_after)
    text, level = edited.question.text, edited.level
    return PicturePair(name, before, after, edited.region, text, *answers, level, _in_words(edited), edited)


def _in_words(edited: EditedPair) -> str:
    was, now = (scene.objects[edited.changed] for scene in (edited.before, edited.after))
    thing = f"{was.size} {was.material} {was.colour} {was.shape}"
    if edited.fact == "place":
        return f"{thing} moved"
    return f"{thing}: {edited.fact} now {getattr(now, edited.fact)}"


@public
def leaks(
    before: Image.Image | np.ndarray,
    after: Image.Image | np.ndarray,
    mask: Bool[np.ndarray, "height width"],
    tolerance: int = TOLERANCE,
) -> float:
    """The share of the changed pixels that lie outside the mask: 0 for an edit confined to it, 1 for one beside it.

    Args:
        before, after: pictures of one size, RGB where they are arrays [height, width, 3].
        mask: True where they may differ.
        tolerance: a pixel has changed if one of its channels did by more than this (of 255; by default 8, as an
            inpainting model moves all pixels a little).

    Returns: a share, 0 to 1; 0 where no pixel has changed.

    Raises:
        ValueError: pictures of two sizes, and a mask of another size or empty.
    """
    changed = _changed(before, after, tolerance)
    _require_mask(changed, mask, "the pair")
    return float((changed & ~mask).sum() / max(1, changed.sum()))


class Sifted(NamedTuple):
    """Pairs that were kept, and why others weren't: {name: reason}."""

    kept: tuple[PicturePair, ...]
    dropped: dict[str, str]


@public
def without_leaks(pairs: Sequence[PicturePair], at_most: float = 0.0, tolerance: int = TOLERANCE) -> Sifted:
    """Drops pairs that changed outside their mask (:func:`leaks`), and those in which no pixel changed.

    Args:
        pairs: with names that differ.
        at_most: the share of the changed pixels that may lie outside, 0 to 1; by default none.
        tolerance: of 255: by how much a channel may differ and count as unchanged.

    Returns: the pairs that are kept, and {name: reason} of the others.

    Raises:
        ValueError: no pairs, names given twice, and a share out of range.
    """
    if not 0 <= at_most <= 1:
        raise ValueError(f"at_most={at_most}; expected a share from 0 to 1.")
    dropped: dict[str, str] = {}
    for pair in _named(pairs):
        leak = leaks(pair.before, pair.after, pair.mask, tolerance)
        if leak > at_most:
            dropped[pair.name] = (
                f"{leak:.1%} of the changed pixels are outside the mask (at most {at_most:.1%} allowed)"
            )
        elif not _changed(pair.before, pair.after, tolerance).any():
            dropped[pair.name] = f"no pixel changed by more than {tolerance} of 255"
    return Sifted(tuple(p for p in pairs if p.name not in dropped), dropped)


def sheet(pairs: Sequence[PicturePair], title: str = "Edited pairs") -> str:
    """The pairs as one HTML page that needs no network: before, after, mask, question, both answers, accept or reject.

    "Save decisions" downloads ``decisions.json`` for :func:`load_decisions`; the browser also remembers them for this
    very sheet. All texts are escaped. About 3 times the size of the pictures as PNG (96 pixels: 40 kB a pair).
    """
    from interp.reports import render_page

    listed = _named(pairs)
    levels = list(dict.fromkeys(p.level for p in listed if p.level))
    digest = hash_text(" ".join(f"{p.name} {p.digest}" for p in listed))[:16]
    return render_page(
        "pair_sheet.html.j2",
        title,
        {"pairs": len(listed), "sheet": digest, "a change counts above": f"{TOLERANCE} of 255", **versions()},
        [],
        templates=Path(__file__).parent / "templates",
        facts=[f"{len(listed)} pairs", *levels],
        levels=levels,
        pairs=[_shown(pair) for pair in listed],
        sheet_digest=digest,
        format_version=FORMAT_VERSION,
    )


@public
def write_sheet(pairs: Sequence[PicturePair], path: str | Path, title: str = "Edited pairs") -> Path:
    """Write the pairs as one HTML page (:func:`sheet`) on which a person accepts or rejects each, whole or not at all.

    Args:
        pairs: with names that differ.
        path: of the file.
        title: of the page.

    Returns: the path. Raises ``ValueError`` for no pairs and names given twice.
    """
    path, text = Path(path), sheet(pairs, title)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


@public
def sheet_image(pairs: Sequence[PicturePair], height: int = 192, columns: int = 2) -> Image.Image:
    """The pairs as one picture: before, after and mask side by side, question and answers above.

    Args:
        pairs: with names that differ.
        height: of each picture, in pixels.
        columns: pairs in a row.
    """
    listed = _named(pairs)
    scales = [height / p.before.height for p in listed]
    widths = [round(p.before.width * scale) for p, scale in zip(listed, scales, strict=True)]
    cell, row = 3 * max(widths) + 24, height + 2 * _LINE + 14
    canvas = Image.new("RGB", (cell * columns, row * -(-len(listed) // columns)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for number, (pair, width) in enumerate(zip(listed, widths, strict=True)):
        left, top = number % columns * cell + 6, number // columns * row + 4
        for line, text in enumerate((pair.question, f"{pair.answer_before} -> {pair.answer_after}   {pair.change}")):
            draw.text((left, top + line * _LINE), _shortened(text, font, cell - 12), fill="black", font=font)
        for place, picture in enumerate((pair.before, pair.after, _as_image(pair.mask))):
            way = Image.Resampling.NEAREST if height >= pair.before.height else Image.Resampling.LANCZOS
            spot = (left + place * (width + 6), top + 2 * _LINE + 4)
            canvas.paste(picture.convert("RGB").resize((width, height), way), spot)
    return canvas


class Decision(NamedTuple):
    """``accepted``: whether the pair may be used. ``digest``: of the pair that it was taken on
    (:attr:`PicturePair.digest`)."""

    accepted: bool
    digest: str


@public
def load_decisions(path: str | Path) -> dict[str, Decision]:
    """Decisions by the pair's name, as a sheet saved them; undecided pairs are not in it.

    Args:
        path: of the file that "Save decisions" on the sheet saved.

    Raises:
        FileNotFoundError: no file.
        ValueError: another file, a damaged one, or a name twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file. Press "Save decisions" on the sheet, and give that file.')
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {data['format_version']!r}; expected {FORMAT_VERSION}")
        rows = [(str(r["name"]), Decision(r["accepted"], str(r["digest"]))) for r in data["decisions"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"{path} holds no decisions of a sheet ({error!r}). Save them on the sheet again.") from error
    if not all(isinstance(decision.accepted, bool) for _, decision in rows) or len(dict(rows)) < len(rows):
        raise ValueError(f"{path}: every pair needs one decision, true or false. Save them on the sheet again.")
    return dict(rows)


@public
def accepted(pairs: Sequence[PicturePair], decisions: Mapping[str, Decision]) -> list[PicturePair]:
    """The pairs that a person accepted; rejected and undecided ones are left out.

    Args:
        pairs: with names that differ.
        decisions: by the pair's name, as :func:`load_decisions` reads them.

    Raises:
        ValueError: a decision is on a pair that isn't here, or on other pictures under the same name: the decisions are
            of another sheet.
    """
    by_name = {pair.name: pair for pair in _named(pairs)}
    strange = [n for n, d in decisions.items() if n not in by_name or by_name[n].digest != d.digest]
    if strange:
        raise ValueError(
            f"{len(strange)} of {len(decisions)} decisions are on other pictures ({', '.join(strange[:3])} ...): the "
            "file is of another sheet, or the pairs were made again. Decide again on a sheet of these pairs."
        )
    return [pair for pair in pairs if pair.name in decisions and decisions[pair.name].accepted]


def _named(pairs: Sequence[PicturePair]) -> list[PicturePair]:
    names = [pair.name for pair in pairs]
    if not names:
        raise ValueError("no pairs were given; there is nothing to look at.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{len(twice)} names are given twice ({', '.join(twice[:3])}); a decision needs one name a pair."
        )
    return list(pairs)


def _shown(pair: PicturePair) -> dict[str, object]:
    leak = leaks(pair.before, pair.after, pair.mask)
    pictures = {"before": pair.before, "after": pair.after, "mask": _as_image(pair.mask)}
    return {
        **{
            name: getattr(pair, name)
            for name in ("name", "question", "answer_before", "answer_after", "level", "change")
        },
        "digest": pair.digest,
        "width": pair.before.width,
        "height": pair.before.height,
        "pictures": [(caption, _data_uri(picture)) for caption, picture in pictures.items()],
        "share": f"{pair.mask.mean():.1%}",
        "leak": f"{leak:.1%}" if leak else "",
    }


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _as_image(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


def _changed(before: Image.Image | np.ndarray, after: Image.Image | np.ndarray, tolerance: int) -> np.ndarray:
    first, second = (np.asarray(p.convert("RGB") if isinstance(p, Image.Image) else p) for p in (before, after))
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(
            f"pictures of shapes {first.shape} and {second.shape}; expected one (height, width, 3) for both."
        )
    return (np.abs(first.astype(np.int16) - second.astype(np.int16)) > tolerance).any(axis=-1)


def _require_mask(picture: Image.Image | np.ndarray, mask: np.ndarray, name: str) -> None:
    size = (picture.height, picture.width) if isinstance(picture, Image.Image) else picture.shape
    if mask.dtype != bool or mask.shape != size:
        raise ValueError(f"{name}: the mask is {mask.dtype} {mask.shape}; expected bool {size} (height, width).")
    if not mask.any():
        raise ValueError(f"{name}: the mask is empty; an edit changes some pixels. Give the pixels that may change.")


def _shortened(text: str, font: ImageFont.ImageFont, width: int) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2].rstrip() + "…"
    return text

"""A photograph and its edited twin with a question that the two answer differently: made, saved, loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from interp.door import public
from interp.door.brief import brief
from interp.records import hash_text, holding, read_record, understood, write_record
from interp.vision import ImageLike, image_sha256, read_image
from probes.pairs.masks import Region, RegionLike, region_of
from probes.pairs.photo_edits import COLOURS, PhotoEdit, recolour, remove
from probes.pairs.sheet import PicturePair
from probes.pairs.substitutions import Substitution, occurs
from probes.scenes import LEVELS

Editor = Callable[[Image.Image, Region, Substitution | None], PhotoEdit]
"""What draws the edit: :func:`recolour_to`, :func:`take_away`, :class:`probes.pairs.inpainting.Inpainter`, or a
function."""

PAIRS = "pairs.json"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class PhotoPair:
    """Two images that differ inside ``region`` alone, and a question whose answer differs between them.

    Args:
        before, after: the images.
        region: True where they may differ.
        question: asked about both.
        answer_before, answer_after: its gold answers.
        level: "object", "attribute" or "relationship".
        how: where the edit came from (JSON types), with its cautions, the substitution, and the concept word if that is
            another.
        id: the pair's name in files, on sheets and in decisions.

    Raises:
        ValueError: images or a region of different sizes, an empty region, or equal answers.
    """

    before: Image.Image
    after: Image.Image
    region: Bool[np.ndarray, "height width"]
    question: str
    answer_before: str
    answer_after: str
    level: str
    how: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    __repr__ = brief

    def __post_init__(self) -> None:
        region_of(self.before, self.region)
        if self.before.size != self.after.size:
            raise ValueError(f"before is {self.before.size} and after {self.after.size}; expected images of one size.")
        if self.level not in LEVELS:
            raise ValueError(f"level={self.level!r}; expected one of {', '.join(LEVELS)}.")
        if self.answer_before.casefold() == self.answer_after.casefold():
            raise ValueError(
                f"{self.question!r} has the answer {self.answer_before!r} before and after: no edit of meaning."
            )

    @property
    def concept(self) -> str:
        """The word of the question that the edit is about, which traces need: the one given (``how["concept"]``), else
        the substitution's old or new word; "" where the question has none of them."""
        swap = self.how.get("substitution") or {}
        words = self.how.get("concept"), swap.get("old"), swap.get("new")
        return next((word for word in words if word and occurs(word, self.question)), "")

    def on_sheet(self) -> PicturePair:
        """As a pair of pictures, for sheets, the leak filter and traces, under the name ``id``."""
        change = " ".join(str(self.how[k]) for k in ("edit", "colour", "texture", "prompt") if self.how.get(k))
        change = "; ".join([change, *self.how.get("cautions", ())])
        return PicturePair(
            self.id,
            self.before,
            self.after,
            self.region,
            self.question,
            self.answer_before,
            self.answer_after,
            self.level,
            change,
            concept=self.concept,
        )


@public
def edit_photo(
    image: ImageLike,
    region: RegionLike,
    question: str,
    answer: str,
    substitution: Substitution | None,
    editor: Editor,
    *,
    level: str | None = None,
    answer_after: str | None = None,
    concept: str | None = None,
    id: str | None = None,
) -> tuple[PhotoPair, ...]:
    """Edit the region so that the question's answer changes, and ask both ways where that can be.

    A yes/no question that names the old or the new word gives two pairs, the question as it is and with the word
    replaced, whose answers change in opposite directions: V-SEAM's own sets say Yes before every edit in five of seven
    concepts, and a head that says Yes looks like one that sees. An open question whose answer is the old word gives one
    pair.

    The answers follow from the words, not from the picture: a second dog that was not edited makes "Is there a dog?"
    true after all. Look at the pairs (:meth:`PhotoPair.on_sheet`).

    Args:
        image: the photograph, or its path.
        region: which pixels may change, as :func:`probes.pairs.masks.box_region` gives them, or a mask [height, width].
        question, answer: about the photograph as it is.
        substitution: which word becomes which ("red" becomes "green"); None takes the object away.
        editor: draws the edit: :func:`recolour_to`, :func:`take_away`, an ``Inpainter``, or a function like them.
        level: by default the substitution's, or "object" where a thing is taken away.
        answer_after: the answer after the edit, where words don't tell; by default it follows from them.
        concept: the word of the question that the edit is about, where that is no word of the substitution ("cup" in
            "Is there a cup?"); traces need one.
        id: the pairs' name; by default a hash of image and question.

    Returns: one pair, or two (``-asked`` and ``-substituted``) that share the edit.

    Raises:
        ValueError: the answer after the edit does not follow, or the question has no such concept word.

    >>> cup = box_region("cup.jpg", (173, 19, 236, 266))  # doctest: +SKIP
    >>> red_to_green = Substitution("attribute", "red", "green")  # doctest: +SKIP
    >>> edit_photo("cup.jpg", cup, "Is the cup red?", "Yes", red_to_green, recolour_to)  # doctest: +SKIP
    """
    picture = read_image(image)
    checked = region_of(picture, region)
    if concept and not occurs(concept, question):
        raise ValueError(f"concept={concept!r} is no word of {question!r}; expected one that the edit is about.")
    asked = [(question, answer, answer_after)] if answer_after else _asked(question, answer, substitution)
    edit = editor(picture, checked, substitution)
    how = {**edit.how, "cautions": list(edit.cautions), "substitution": substitution and asdict(substitution)}
    how |= {"concept": concept} if concept else {}
    stem = hash_text(f"{image_sha256(picture)} {question}")[:10] if id is None else id
    names = [stem] if len(asked) == 1 else [f"{stem}-asked", f"{stem}-substituted"]
    of = level or (substitution.level if substitution else "object")
    return tuple(
        PhotoPair(edit.before, edit.after, edit.region, text, before, after, of, how, name)
        for name, (text, before, after) in zip(names, asked, strict=True)
    )


@public
def recolour_to(image: Image.Image, region: Region, substitution: Substitution | None) -> PhotoEdit:
    """An editor: the region in the substitution's new colour, with its lightness kept if it then looks that colour.

    Args:
        image: the photograph.
        region: which pixels change.
        substitution: by the name of one of the basic colours.

    Raises:
        ValueError: a word that is no basic colour, and as :func:`probes.pairs.photo_edits.recolour`.
    """
    if substitution is None or substitution.new.casefold() not in {*COLOURS, "grey"}:
        given = substitution and substitution.new
        raise ValueError(f"recolour_to was given {given!r}; expected a substitution by one of {', '.join(COLOURS)}.")
    if substitution.new.casefold() not in ("black", "white", "gray", "grey"):
        kept = recolour(image, region, substitution.new)
        if kept.how["looks"] == kept.how["colour"]:
            return kept
    return recolour(image, region, substitution.new, lightness="match")


@public
def take_away(image: Image.Image, region: Region, substitution: Substitution | None) -> PhotoEdit:
    """An editor: what is in the region is gone (:func:`probes.pairs.photo_edits.remove`).

    Args:
        image: the photograph.
        region: which pixels change.
        substitution: None, as nothing is drawn.

    Raises:
        ValueError: a substitution.
    """
    if substitution is not None:
        raise ValueError(f"take_away draws nothing, and can't draw {substitution.new!r}; expected substitution=None.")
    return remove(image, region)


@public
def save_pairs(pairs: Sequence[PhotoPair], folder: str | Path, append: bool = False) -> Path:
    """Write pairs.json, and before, after and mask as PNG (lossless, so that what did not change stays equal).

    Pairs of one edit share their files. The file carries the hash of its own content, and of each picture and mask;
    nobody else writes to the folder meanwhile.

    Args:
        pairs: with ids that differ.
        folder: made if need be.
        append: add to the pairs that the folder has; by default such a folder is refused.

    Returns: the path of pairs.json.

    Raises:
        FileExistsError: the folder has pairs, without ``append``.
        ValueError: no pairs, or an id is there already.
    """
    place = Path(folder).expanduser()
    target = place / PAIRS
    if not pairs:
        raise ValueError("no pairs were given; there is nothing to save.")
    with holding(place):
        if target.exists() and not append:
            raise FileExistsError(f"{target} exists; add to it with append=True, give another folder, or remove it.")
        rows = _rows(target) if target.exists() else []
        there = {row["id"] for row in rows}
        if twice := sorted(there & {pair.id for pair in pairs}):
            raise ValueError(
                f"{target} has a pair {twice[0]!r} already; give the new one another name, id=..., or another folder."
            )
        written: dict[tuple[str, ...], str] = {}
        first = len({row["files"] for row in rows})
        for pair in pairs:
            hashes = (image_sha256(pair.before), image_sha256(pair.after), _mask_sha256(pair.region))
            if hashes not in written:
                written[hashes] = f"{first + len(written):05d}"
                pair.before.save(place / f"{written[hashes]}_before.png")
                pair.after.save(place / f"{written[hashes]}_after.png")
                Image.fromarray(pair.region).save(place / f"{written[hashes]}_mask.png")
            row = {name: getattr(pair, name) for name in ("id", "question", "answer_before", "answer_after", "level")}
            rows.append({**row, "how": dict(pair.how), "files": written[hashes], "sha256": hashes})
        write_record(target, {"format_version": FORMAT_VERSION, "pairs": rows})
    return target


@public
def load_pairs(folder: str | Path) -> list[PhotoPair]:
    """The pairs of a ``folder`` that :func:`save_pairs` wrote.

    Raises:
        FileNotFoundError: a folder without pairs.
        ValueError: files that were changed since.
    """
    place = Path(folder)
    source = place / PAIRS
    if not source.is_file():
        raise FileNotFoundError(f"{place} has no {PAIRS}; expected a folder written by save_pairs.")
    rows, pairs = _rows(source), []
    try:
        for row in rows:
            before, after = (read_image(place / f"{row['files']}_{name}.png") for name in ("before", "after"))
            with Image.open(place / f"{row['files']}_mask.png") as mask:
                region = np.array(mask.convert("1"))
            if [image_sha256(before), image_sha256(after), _mask_sha256(region)] != row["sha256"]:
                raise ValueError(f"{row['files']}_before.png, _after.png or _mask.png is not the image that was saved")
            texts = (row[name] for name in ("question", "answer_before", "answer_after", "level", "how", "id"))
            pairs.append(PhotoPair(before, after, region, *texts))
        return pairs
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(source, error) from error


def _rows(source: Path) -> list[dict[str, Any]]:
    """The records of pairs.json, unchanged since they were written."""
    data = read_record(source, FORMAT_VERSION, "list of pairs")
    with understood(source, "list of pairs"):
        if not all({"id", "files"} <= set(row) for row in data["pairs"]):
            raise ValueError("a pair without id or files")
        return data["pairs"]


def _mask_sha256(region: Bool[np.ndarray, "height width"]) -> str:
    return hashlib.sha256(str(region.shape).encode() + np.packbits(region).tobytes()).hexdigest()


def _damaged(source: Path, error: Exception) -> ValueError:
    return ValueError(f"{source} can't be read ({error}): damaged or edited. Make the pairs again.")


def _asked(question: str, answer: str, substitution: Substitution | None) -> list[tuple[str, str, str]]:
    """Question, answer before and answer after: the question as it is, then with the word replaced."""
    is_yes_no = answer.casefold() in ("yes", "no")
    if is_yes_no:
        other = {"yes": "No", "no": "Yes"}[answer.casefold()]
        other = other if answer[0].isupper() else other.lower()
    says_yes = answer.casefold() == "yes"
    if substitution is None:
        if says_yes:
            return [(question, answer, other)]
    elif is_yes_no:
        old, new = occurs(substitution.old, question), occurs(substitution.new, question)
        if old and not new and says_yes:
            return [(question, answer, other), (substitution.apply(question), other, answer)]
        if new and not old and not says_yes:
            return [(question, answer, other), (substitution.reverse.apply(question), other, answer)]
    elif substitution.occurs_in(answer):
        return [(question, answer, substitution.apply(answer))]
    change = "nothing" if substitution is None else f"{substitution.new!r} for {substitution.old!r}"
    raise ValueError(
        f"the answer to {question!r}, {answer!r} before, does not follow from putting {change}. Expected a Yes to a "
        "question that names the old word, a No to one that names the new word, or the old word as an open question's "
        "answer; or give answer_after=."
    )

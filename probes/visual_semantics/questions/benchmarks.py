"""Visual questions of published benchmarks, from local files and a folder of images, as one kind of value."""

from __future__ import annotations

import difflib
import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, overload

from interp.door import public
from interp.records import hash_text
from probes.pairs import Box
from probes.rows import is_read_once, stream_rows
from probes.visual_semantics.questions.formats import FORMATS, YES_NO, Draft, drafts, guess

ONE_SIDED = 0.9
"""The share of one answer above which a set can't tell a head that sees from one that says this answer."""


@dataclass(frozen=True)
class VisualQuestion:
    """A question about an image.

    Args:
        id: of the question, no other's.
        question: its words.
        image: the path of the picture.
        answer: Yes or No as these words, other answers as they are published.
        options: the answers to choose from; () where there is no list.
        level: "object", "attribute", "relationship" or None where the data set does not say.
        source: the data set.
        boxes: where the objects asked about are, in pixels of the image.
        extra: whatever else the data set says, in JSON types.
    """

    id: str
    question: str
    image: Path
    answer: str
    options: tuple[str, ...] = ()
    level: str | None = None
    source: str = ""
    boxes: tuple[Box, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def group(self) -> str:
        """What is drawn and resampled together: the questions on one image."""
        return self.image.name

    @property
    def is_yes_no(self) -> bool:
        return self.options == YES_NO


@dataclass(frozen=True)
class Skipped:
    """A question that was left out because none of the files ``looked_for`` is in the image folder."""

    id: str
    looked_for: tuple[str, ...]


@dataclass(frozen=True)
class VisualQuestions(Sequence[VisualQuestion]):
    """Questions in their order, with what was left out and what to know of them. Images are paths, not read yet.

    ``origin``: format, file, limit, for provenance.
    """

    questions: tuple[VisualQuestion, ...]
    skipped: tuple[Skipped, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> VisualQuestion: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[VisualQuestion]: ...
    def __getitem__(self, index):
        return self.questions[index]

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def yes_share(self) -> float | None:
        """The share of Yes among the yes/no questions; None without any."""
        answers = [q.answer for q in self.questions if q.is_yes_no]
        return answers.count("Yes") / len(answers) if answers else None

    @property
    def one_sided(self) -> str | None:
        """A sentence where one answer is more than 90 % of all, else None.

        Five of V-SEAM's seven concepts are Yes throughout: no resampling can balance what has one answer. There, use
        edited twins (:func:`probes.pairs.photo_pairs.edit_photo` asks both ways), or read the scores as those of heads
        that see *or* say Yes.
        """
        if not self.questions:
            return None
        (answer, count), *_ = Counter(q.answer for q in self.questions).most_common(1)
        if count <= ONE_SIDED * len(self):
            return None
        return (
            f"{count} of {len(self)} answers are {answer!r}: scores on this set can't tell heads that see from "
            f"heads that say {answer!r}."
        )

    @property
    def repeats(self) -> int:
        """Questions whose text was asked of the same image before, under another id (published sets have some)."""
        return len(self) - len({(q.image, q.question.casefold()) for q in self.questions})

    def sample(self, n: int, seed: int = 0) -> VisualQuestions:
        """``n`` questions drawn by ``seed``, in their order; all where there are no more."""
        if n < 1:
            raise ValueError(f"n={n}; expected 1 or more questions.")
        if n >= len(self):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self)), n))
        origin = {**self.origin, "sample": n, "seed": seed}
        return replace(self, questions=tuple(self.questions[i] for i in chosen), origin=origin)

    def describe(self) -> dict[str, Any]:
        """What provenance says of the data: origin, hash, counts, share of Yes, warnings (JSON types)."""
        return {
            **self.origin,
            "sha256": hash_visual_questions(self.questions),
            "n": len(self),
            "n_images": len({q.image for q in self.questions}),
            "levels": dict(Counter(q.level or "none" for q in self.questions)),
            "n_yes_no": sum(q.is_yes_no for q in self.questions),
            "yes_share": self.yes_share,
            "one_sided": self.one_sided,
            "repeats": self.repeats,
            "skipped": len(self.skipped),
        }


@public
def load_visual_questions(
    source: str,
    images: str | Path,
    *,
    scene_graphs: str | Path | None = None,
    annotations: str | Path | None = None,
    limit: int | None = None,
    missing: Literal["refuse", "skip"] = "refuse",
    levels: Sequence[str] = (),
    sample: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> VisualQuestions:
    """The questions of a benchmark's file, in its order, each with the path of its image.

    Files are read as a stream and no further than ``limit`` asks: the first hundred of GQA's 1.3 GB take no time and no
    memory. Images are not opened here: :func:`interp.vision.images.read_image` refuses damaged ones.

    Args:
        source: the data set and its file: ``gqa:`` (or V-SEAM's lists), ``pope:``, ``cocoqa:`` (a CSV or the folder of
            its four text files), ``vqav2:`` or ``naturalbench:``. A pipe, or "-" for standard input (``pope:-``), is
            read once.
        images: the folder of the images, or of folders of them (COCO's val2014 and train2014), under the names that
            each data set gives them. They are looked for on behalf of the questions that are kept.
        scene_graphs: GQA's file of them, for ``boxes`` and the objects' names.
        annotations: the answers of ``vqav2:``; by default the file beside it.
        limit: the first so many questions of the file (None: all).
        missing: whether an image that is not in the folder is refused, or its question is left out ("skip") and listed
            in ``skipped``; it is never scored, and a sample is drawn from the others.
        levels: keep these alone (none: all).
        sample: at most so many, drawn from all by ``seed``, as :meth:`VisualQuestions.sample` would (None: all). The
            file is then read twice, to count and to keep, and of what is not drawn no more than the id is held.
        seed: of the sample.
        columns: the file's names for the data set's, such as {"label": "answer"} for ``pope:``.

    Raises:
        FileNotFoundError: files, folders and images that are not there (the first ten are named).
        ValueError: an unknown data set or shape, an id given twice, a level that the file does not have, and a file
            without questions.

    >>> questions = load_visual_questions("pope:coco_pope_random.json", "val2014", limit=500)  # doctest: +SKIP
    >>> questions.yes_share  # doctest: +SKIP
    0.5
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; expected 1 or more questions, or None for all.")
    if sample is not None and sample < 1:
        raise ValueError(f"sample={sample}; expected 1 or more questions, or None for all.")
    if missing not in ("refuse", "skip"):
        raise ValueError(f"missing={missing!r}; expected 'refuse' or 'skip'.")
    format, path = _parted(source)
    folder = _Images(Path(images).expanduser())
    if scene_graphs is not None and format != "gqa":
        raise ValueError("scene_graphs= is for gqa; leave it out.")
    answers = None if annotations is None else Path(annotations).expanduser()
    there: set[str] = set()

    def rows() -> Iterator[tuple[Draft, Path | None]]:
        return _with_images(drafts(format, path, answers, columns), folder, path, levels, there)

    if sample is not None and is_read_once(path):
        kept = list(rows())
        chosen = _drawn(iter(kept), limit, missing, sample, seed)
        found, skipped = _found(iter(kept), limit, missing, chosen)
    else:
        chosen = None if sample is None else _drawn(rows(), limit, missing, sample, seed)
        found, skipped = _found(rows(), limit, missing, chosen)
    if limit is None and there and (unknown := sorted(set(levels) - there)):
        raise ValueError(f"{source!r} has no question at level {unknown[0]!r}; it has {sorted(there)}.")
    if not found and not skipped:
        raise ValueError(f"{path} has no questions; expected at least one. Get the file again.")
    if skipped and (missing == "refuse" or not found):
        raise FileNotFoundError(_absent(skipped, len(found) + len(skipped), folder))
    if scene_graphs is not None:
        found = _with_boxes(found, Path(scene_graphs).expanduser())
    questions = tuple(
        VisualQuestion(d.id, d.question, image, d.answer, d.options, d.level, format, d.boxes, d.extra)
        for d, image in found
    )
    origin = {"format": format, "file": path.name, "limit": limit}
    origin |= {} if chosen is None else {"sample": sample, "seed": seed}
    origin |= {"columns": dict(columns)} if columns else {}
    return VisualQuestions(questions, tuple(skipped), origin)


def hash_visual_questions(questions: Sequence[VisualQuestion]) -> str:
    """SHA-256 (hex) of the questions in their order: all fields, of the image its name alone. Pixels are not read."""
    rows = [
        [q.id, q.question, q.image.name, q.answer, q.options, q.level, q.source, q.boxes, dict(q.extra)]
        for q in questions
    ]
    return hash_text(json.dumps(rows, sort_keys=True, ensure_ascii=True, separators=(",", ":")))


def unpack_naturalbench(files: Sequence[str | Path], folder: str | Path) -> int:
    """Write the images embedded in NaturalBench's published Parquet files as ``{Index}_0.jpg`` and ``{Index}_1.jpg``.

    The bytes are written as they are, about 1.2 GB in all; files that are there already are left. Returns how many were
    written. Raises ``ValueError`` for a file without embedded images.
    """
    import pyarrow.parquet

    place, written = Path(folder), 0
    place.mkdir(parents=True, exist_ok=True)
    for file in files:
        parquet = pyarrow.parquet.ParquetFile(Path(file))
        if not {"Index", "Image_0", "Image_1"} <= set(parquet.schema_arrow.names):
            raise ValueError(f"{file} has no Index, Image_0 and Image_1; expected a Parquet file of NaturalBench.")
        for batch in parquet.iter_batches(batch_size=16, columns=["Index", "Image_0", "Image_1"]):
            for row in batch.to_pylist():
                for number in (0, 1):
                    image = row[f"Image_{number}"]
                    if not isinstance(image, dict) or not image.get("bytes"):
                        raise ValueError(f"{file}: Image_{number} of row {row['Index']} holds no image's bytes.")
                    target = place / f"{int(row['Index'])}_{number}.jpg"
                    if not target.exists():
                        target.write_bytes(image["bytes"])
                        written += 1
    return written


class _Images:
    """The files of a folder and of the folders in it, listed once, by name."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"images={str(folder)!r}: no such folder; expected the folder of the image files.")
        self.folder = folder
        self.by_name: dict[str, Path] = {}
        for place in [folder, *sorted(Path(e.path) for e in os.scandir(folder) if e.is_dir())]:
            for entry in os.scandir(place):
                if entry.is_file():
                    self.by_name.setdefault(entry.name, Path(entry.path))

    def find(self, names: Sequence[str]) -> Path | None:
        """The first of these files that is there; of a path in the data file, what follows the folder counts."""
        for name in names:
            *above, last = name.split("/")
            is_below = above and ".." not in above and not Path(name).is_absolute()
            if is_below and (inside := self.folder / name).is_file():
                return inside
            if (known := self.by_name.get(last)) is not None:
                return known
        return None


def _parted(source: str) -> tuple[str, Path]:
    """Format and path of "gqa:questions.json"."""
    format, colon, rest = str(source).partition(":")
    if colon and format in FORMATS and rest:
        return format, Path(rest).expanduser()
    if colon and format in FORMATS:
        raise ValueError(f"source={source!r} names no file; expected '{format}:' and a path.")
    known = ", ".join(f"{name}:" for name in FORMATS)
    if colon and len(format) > 1 and not Path(source).exists():
        close = difflib.get_close_matches(format, FORMATS, n=1)
        hint = f" Did you mean {close[0]}:?" if close else ""
        raise ValueError(f"source={source!r}: {format!r} is no data set that is known here; expected {known}.{hint}")
    likely = guess(Path(source).expanduser())
    hint = f" Its first row looks like {likely}: source='{likely}:{source}'." if likely else ""
    raise ValueError(f"source={source!r} names no data set; expected one of {known} before the path.{hint}")


def _with_images(
    drafts: Iterator[Draft], folder: _Images, path: Path, levels: Sequence[str], there: set[str]
) -> Iterator[tuple[Draft, Path | None]]:
    """Drafts of these levels (none: all) with their images, None for one that is absent; ``there`` gets every level."""
    seen: dict[str, str] = {}
    for draft in drafts:
        if draft.id in seen:
            raise ValueError(
                f"{path}, row {draft.row}: the id {draft.id!r} is row {seen[draft.id]}'s already; expected ids that "
                "differ. Is the file two files joined? Remove one of the two, or correct the id."
            )
        seen[draft.id] = draft.row
        there.add(draft.level or "")
        if not levels or (draft.level or "") in levels:
            yield draft, folder.find(draft.images)


def _drawn(
    rows: Iterator[tuple[Draft, Path | None]], limit: int | None, missing: str, sample: int, seed: int
) -> set[int] | None:
    """The numbers of a sample among the questions that count (with "skip", those with an image); None for all."""
    counting = (1 for _, image in rows if image is not None or missing == "refuse")
    n = sum(islice(counting, limit))
    return None if n <= sample else set(random.Random(seed).sample(range(n), sample))


def _found(
    rows: Iterator[tuple[Draft, Path | None]], limit: int | None, missing: str, chosen: set[int] | None
) -> tuple[list[tuple[Draft, Path]], list[Skipped]]:
    """The chosen drafts with their images, and those without; ``limit`` and ``chosen`` count as :func:`_drawn` does."""
    found: list[tuple[Draft, Path]] = []
    skipped: list[Skipped] = []
    number = 0
    for draft, image in rows:
        counts = image is not None or missing == "refuse"
        if image is None and (not counts or chosen is None or number in chosen):
            skipped.append(Skipped(draft.id, draft.images))
        elif image is not None and (chosen is None or number in chosen):
            found.append((draft, image))
        number += counts
        if number == limit:
            break
    return found, skipped


def _absent(skipped: Sequence[Skipped], n: int, folder: _Images) -> str:
    names = list(dict.fromkeys(s.looked_for[0] for s in skipped))
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    there = ", ".join(sorted(folder.by_name)[:3]) or "nothing"
    others = f" (or {', '.join(skipped[0].looked_for[1:4])}, ...)" if len(skipped[0].looked_for) > 1 else ""
    return (
        f"{len(skipped)} of {n} questions have no image in {folder.folder}, which has {len(folder.by_name)} files "
        f"({there}). Looked for {listed}{others}. Add the images, or leave these questions out with missing='skip'."
    )


def _with_boxes(found: list[tuple[Draft, Path]], path: Path) -> list[tuple[Draft, Path]]:
    """The drafts with the boxes and names of their objects, from GQA's scene graphs, of which only theirs are kept."""
    wanted = {image.stem for _, image in found}
    graphs = {row.key: row.fields.get("objects") for row in stream_rows(path, keyed=True) if row.key in wanted}
    if not graphs:
        raise ValueError(f"{path} has the scene graph of none of the {len(wanted)} images; is it of another split?")
    new = []
    for draft, image in found:
        objects = graphs.get(image.stem) or {}
        known = [objects[i] for i in draft.objects if i in objects]
        try:
            boxes = draft.boxes or tuple(Box(*(float(o[side]) for side in Box._fields)) for o in known)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: an object of image {image.stem} has no x, y, w, h ({error!r}).") from None
        names = {"objects": [{k: o.get(k) for k in ("name", "attributes")} for o in known]} if known else {}
        new.append((replace(draft, boxes=boxes, extra={**draft.extra, **names}), image))
    return new

"""The shapes in which visual questions are published: one function a data set, each a stream of drafts.

A draft knows the names that its image may have; :mod:`probes.visual_semantics.questions.benchmarks` looks for the file.
A data set is one entry of ``FORMATS``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from probes.pairs import Box
from probes.rows import called, known, rename, stem_of, stream_rows, text
from probes.rows.json_rows import Row

YES_NO = ("Yes", "No")
_GQA_LEVELS = {"obj": "object", "cat": "object", "attr": "attribute", "rel": "relationship"}
_FOLDER_LEVELS = {"object_level": "object", "attribute_level": "attribute", "relation_level": "relationship"}
_COCOQA_TYPES = ("object", "number", "color", "location")
_COCOQA_LEVELS = {"object": "object", "color": "attribute", "colour": "attribute", "location": "relationship"}
Columns = Mapping[str, str]  # our name -> the file's
_COCOQA_COLUMNS = {
    "question": ("question", "questions"),
    "answer": ("answer", "answers", "label"),
    "image": ("image", "image_id", "img_id", "img_ids", "imageid", "image_path", "file_name", "filename"),
    "type": ("type", "types", "question_type"),
    "id": ("id", "question_id", "qid"),
}


@dataclass(frozen=True)
class Draft:
    """A question as its file has it. ``images``: names that its image may have, the likeliest first. ``objects``: ids
    in the image's scene graph. ``row``: where it is in the file."""

    row: str
    id: str
    question: str
    images: tuple[str, ...]
    answer: str
    options: tuple[str, ...] = ()
    level: str | None = None
    boxes: tuple[Box, ...] = ()
    objects: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


def gqa(path: Path, annotations: Path | None, columns: Columns) -> Iterator[Draft]:
    """GQA (Hudson and Manning 2019): an object of questions by id, or V-SEAM's lists for a concept, of questions with
    ``question_id`` and ``object_positions`` (its Color is an object, the other six are lists).

    Level: that of V-SEAM's folder where the file is in one (Object_Level, Attribute_Level, Relation_Level), else
    ``types.semantic`` (obj and cat: object; attr; rel; global: none). Images: ``{imageId}.jpg`` or ``.png``.
    """
    _no_annotations(annotations)
    folder = next((level for part in path.parts if (level := _FOLDER_LEVELS.get(part.casefold()))), None)
    for row in _rows(path, columns, keyed=True):
        with _named(path, row, "gqa"):
            fields = row.fields
            image = _filled(fields, "imageId")
            answer, options = _answer(fields)
            boxes = tuple(_box(b) for b in fields.get("object_positions") or ())
            kinds = fields.get("types") if isinstance(fields.get("types"), dict) else {}
            named = fields.get("annotations") if isinstance(fields.get("annotations"), dict) else {}
            ids = (one for part in ("question", "answer", "fullAnswer") for one in (named.get(part) or {}).values())
            objects = tuple(dict.fromkeys(i for joined in ids for i in str(joined).split(",")))
            extra = {k: fields[k] for k in ("fullAnswer", "involved_objects", "relevant_objects") if k in fields}
            extra |= {"types": dict(kinds)} if kinds else {}
            extra |= {"concept": path.stem} if folder else {}
            level = folder or _GQA_LEVELS.get(str(kinds.get("semantic")))
            key = row.key or text(fields, "question_id") or f"{stem_of(path)}-{row.label}"
            names = (f"{image}.jpg", f"{image}.png", f"{image}.jpeg")
            draft = Draft(row.label, key, _filled(fields, "question"), names, answer, options, level)
            yield replace(draft, boxes=boxes, objects=objects, extra=extra)


def pope(path: Path, annotations: Path | None, columns: Columns) -> Iterator[Draft]:
    """POPE (Li et al. 2023, arXiv 2305.10355): JSON lines of ``question_id``, ``image``, ``text``, ``label``.

    All are about an object's presence: level "object". ``extra["split"]``: random, popular or adversarial, from the
    file's name.
    """
    _no_annotations(annotations)
    split = next((s for s in ("random", "popular", "adversarial") if s in path.stem.casefold()), None)
    for row in _rows(path, columns):
        with _named(path, row, "pope"):
            answer, options = _answer(row.fields, "label")
            if not options:
                raise ValueError(f"the label is {answer!r}; expected yes or no")
            image = _filled(row.fields, "image")
            key = f"{stem_of(path)}-{text(row.fields, 'question_id') or row.label}"
            draft = Draft(row.label, key, _filled(row.fields, "text"), coco_names(image), answer, options, "object")
            yield replace(draft, extra={"split": split} if split else {})


def cocoqa(path: Path, annotations: Path | None, columns: Columns) -> Iterator[Draft]:
    """COCO-QA (Ren et al. 2015, arXiv 1505.02074): a folder of questions.txt, answers.txt, img_ids.txt and types.txt,
    or a CSV with a header (question, answer, image or image_id; type where it has one).

    Types: 0 object, 1 number, 2 colour, 3 location; levels: object, none, attribute, relationship (a location is the
    nearest that it has to one). A CSV without types takes its type from its name (V-SEAM's: color, count, location,
    whose columns are train_image_id_count, question_count, answer_count in all three).
    """
    _no_annotations(annotations)
    rows = _cocoqa_files(path) if path.is_dir() else stream_rows(path)
    for row in _renamed(path, rows, columns):
        with _named(path, row, "cocoqa"):
            lowered = {_plain_name(name): value for name, value in row.fields.items()}
            fields = {
                ours: next((lowered[name] for name in theirs if name in lowered), None)
                for ours, theirs in _COCOQA_COLUMNS.items()
            }
            if missing := [name for name in ("question", "answer", "image") if fields[name] is None]:
                raise ValueError(f"there is no {' and no '.join(missing)}; the columns are {', '.join(row.fields)}")
            answer, options = _answer(fields)
            kind = _cocoqa_type(text(fields, "type"), path)
            key = text(fields, "id") or f"{stem_of(path)}-{row.label}"
            draft = Draft(row.label, key, _filled(fields, "question"), coco_names(fields["image"]), answer, options)
            yield replace(draft, level=_COCOQA_LEVELS.get(kind), extra={"type": kind} if kind else {})


def vqav2(path: Path, annotations: Path | None, columns: Columns) -> Iterator[Draft]:
    """VQAv2 (Goyal et al. 2017, arXiv 1612.00837): questions and annotations, two JSON files.

    The answer is the most frequent of the ten people's (``multiple_choice_answer`` where it is given); all ten are in
    ``extra["answers"]``, and ``extra["agreement"]`` is the share that gave it. ``annotations`` None: the file that the
    data set's names put beside it. Read in step: where both files are in one order, neither is held in memory.
    """
    answers = annotations or path.with_name(
        path.name.replace("OpenEnded_", "").replace("MultipleChoice_", "").replace("questions", "annotations")
    )
    if answers == path or not answers.is_file():
        raise FileNotFoundError(
            f"{path.name} has questions only, and there is no {answers.name} with their answers beside it (test sets "
            "have none). Name it with annotations=."
        )
    ahead: dict[str, dict[str, Any]] = {}
    stream = stream_rows(answers, under="annotations")
    for row in _rows(path, columns, under="questions"):
        with _named(path, row, "vqav2"):
            key = _filled(row.fields, "question_id")
            while key not in ahead:
                following = next(stream, None)
                if following is None:
                    raise ValueError(f"question_id {key} has no answer in {answers.name}; are they of one split?")
                ahead[str(following.fields.get("question_id"))] = following.fields
            given = ahead.pop(key)
            people = [str(one["answer"]) for one in given.get("answers") or ()]
            most = text(given, "multiple_choice_answer") or (Counter(people).most_common(1) or [("", 0)])[0][0]
            answer, options = _answer({"answer": most})
            extra = {k: given[k] for k in ("answer_type", "question_type") if k in given}
            if people:
                extra |= {"answers": people, "agreement": people.count(most) / len(people)}
            names = coco_names(row.fields.get("image_id"))
            yield Draft(row.label, key, _filled(row.fields, "question"), names, answer, options, extra=extra)


def naturalbench(path: Path, annotations: Path | None, columns: Columns) -> Iterator[Draft]:
    """NaturalBench (Li et al. 2024, arXiv 2410.14669): rows of two images and two questions, four drafts each.

    Each question's two answers differ, so a constant answer is right for half of them. Yes or No, or the letter of an
    option that the question's text names. Images: the names in Image_0 and Image_1; where these are embedded (the
    published Parquet), ``{Index}_0.jpg`` and ``{Index}_1.jpg``
    (:func:`probes.visual_semantics.questions.benchmarks.unpack_naturalbench`). ``extra["group"]`` joins the four.
    """
    _no_annotations(annotations)
    for row in _rows(path, columns):
        with _named(path, row, "naturalbench"):
            fields = row.fields
            index = text(fields, "Index") or row.label
            kind = text(fields, "Question_Type") or text(fields, "Question Type")
            for question in (0, 1):
                for image in (0, 1):
                    key = f"{index}-q{question}-i{image}"
                    answer, options = _answer(fields, f"Image_{image}_Question_{question}")
                    if not options and re.fullmatch(r"[A-D]", answer):
                        options = ("A", "B")
                    value = fields.get(f"Image_{image}")
                    plain = (f"{index}_{image}.jpg", f"{index}_{image}.png")
                    names = (value.strip(),) if isinstance(value, str) and value.strip() else plain
                    asked = _filled(fields, f"Question_{question}")
                    extra = {"group": index, "type": kind, "source": text(fields, "Source")}
                    yield Draft(row.label, key, asked, names, answer, options, extra=extra)


@dataclass(frozen=True)
class VisualFormat:
    """A data set's shape. ``read(path, annotations, columns)``: its drafts. ``columns``: what it reads, which a file
    may call otherwise."""

    read: Callable[[Path, Path | None, Columns], Iterator[Draft]]
    columns: tuple[str, ...]


_NATURAL = [f"Image_{i}" for i in (0, 1)] + [f"Question_{q}" for q in (0, 1)]
_NATURAL += [f"Image_{i}_Question_{q}" for i in (0, 1) for q in (0, 1)]

FORMATS: dict[str, VisualFormat] = {
    "gqa": VisualFormat(gqa, ("imageId", "question", "answer", "question_id", "object_positions", "types")),
    "pope": VisualFormat(pope, ("question_id", "image", "text", "label")),
    "cocoqa": VisualFormat(cocoqa, tuple(_COCOQA_COLUMNS)),
    "vqav2": VisualFormat(vqav2, ("question_id", "image_id", "question")),
    "naturalbench": VisualFormat(naturalbench, ("Index", "Question_Type", "Source", *_NATURAL)),
}


def drafts(format: str, path: Path, annotations: Path | None = None, columns: Columns | None = None) -> Iterator[Draft]:
    """The drafts of a data set's file. ``columns``: the file's names for the data set's."""
    form = FORMATS[format]
    for name in columns or {}:
        known(f"{path}: columns names {name!r}", name, form.columns)
    return form.read(path, annotations, columns or {})


def coco_names(image: Any) -> tuple[str, ...]:
    """Names that a COCO image may have, from its id (42) or a file's name (COCO_val2014_000000000042.jpg)."""
    given = text({"image": image}, "image")
    if not given:
        raise ValueError("the image is blank; expected COCO's number of it, or its file's name")
    digits = re.fullmatch(r"(?:.*_)?(\d+)(?:\.jpg|\.jpeg|\.png)?", Path(given).name)
    if digits is None:
        return (given,)
    number = f"{int(digits[1]):012d}"
    guesses = [f"COCO_{split}_{number}.jpg" for split in ("val2014", "train2014", "test2015", "test2014")]
    named = [] if given.isdigit() else [given]
    return tuple(dict.fromkeys([*named, *guesses, f"{number}.jpg", f"{number}.png"]))


def guess(path: Path) -> str | None:
    """The data set whose shape a file seems to have, told from its first 4,000 bytes, for a hint in an error."""
    if path.is_dir():
        return "cocoqa" if (path / "img_ids.txt").is_file() else None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(4000)
    telling = {
        "naturalbench": (b"Image_0_Question_0",),
        "gqa": (b'"imageId"',),
        "vqav2": (b'"questions"', b'"data_subtype"', b'"task_type"'),
        "pope": (b'"label"',),
        "cocoqa": (b"question", b"Question") if path.suffix == ".csv" else (),
    }
    return next((format for format, words in telling.items() if any(word in head for word in words)), None)


class _named:
    """Adds the file and the row to a ValueError raised inside."""

    def __init__(self, path: Path, row: Row, format: str) -> None:
        self.where = f"{path}, row {row.label} (format {format!r})"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError):
            raise ValueError(f"{self.where}: {error}") from None


def _answer(fields: Mapping[str, Any], name: str = "answer") -> tuple[str, tuple[str, ...]]:
    """The answer, and its options where it is Yes or No (in whatever case it was)."""
    found = _filled(fields, name)
    if found.casefold() in ("yes", "no"):
        return found.casefold().capitalize(), YES_NO
    return found, ()


def _filled(fields: Mapping[str, Any], name: str) -> str:
    if found := text(fields, name):
        return found
    listed = ", ".join(map(str, list(fields)[:12]))
    raise ValueError(f"there is no {name}; the row has {listed}. Fill it in, remove the row, or name another format")


def _rows(path: Path, columns: Columns, under: str | None = None, keyed: bool = False) -> Iterator[Row]:
    return _renamed(path, stream_rows(path, under, keyed=keyed), columns)


def _renamed(path: Path, rows: Iterator[Row], columns: Columns) -> Iterator[Row]:
    """The rows under our names of columns; each must have those that are named."""
    for row in rows:
        for ours, theirs in columns.items():
            known(f"{called(path)}, row {row.label}: columns gives {theirs!r} as {ours!r}", theirs, list(row.fields))
        yield row._replace(fields=rename(row.fields, columns)) if columns else row


def _plain_name(name: str) -> str:
    """A column's name in lower case, without V-SEAM's train_ before it and _count behind it."""
    lowered = str(name).strip().casefold()
    released = re.fullmatch(
        r"(?:train_|test_|val_)?(image_id|question|answer)_(?:count|color|location|object)", lowered
    )
    return released[1] if released else lowered


def _box(value: Any) -> Box:
    try:
        return Box(*(float(value[name]) for name in Box._fields))
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"object_positions has {value!r}; expected x, y, w, h") from None


def _no_annotations(annotations: Path | None) -> None:
    if annotations is not None:
        raise ValueError("annotations= is for vqav2, whose answers are a file of their own; leave it out")


def _cocoqa_files(folder: Path) -> Iterator[Row]:
    names = {"question": "questions.txt", "answer": "answers.txt", "image": "img_ids.txt", "type": "types.txt"}
    if missing := [name for name in names.values() if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(missing)}; expected COCO-QA's {', '.join(names.values())}."
        )
    columns = {key: (folder / name).read_text(encoding="utf-8-sig").splitlines() for key, name in names.items()}
    if len({len(lines) for lines in columns.values()}) > 1:
        counts = ", ".join(f"{names[key]} {len(lines)}" for key, lines in columns.items())
        raise ValueError(
            f"{folder}: the files have different numbers of lines ({counts}); expected one row in all four."
        )
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        yield Row(str(number), "", dict(zip(columns, values, strict=True)))


def _cocoqa_type(text: str, path: Path) -> str:
    if not text:
        name = path.stem.casefold()
        known = {"color": "color", "colour": "color", "count": "number", "number": "number", "location": "location"}
        return next((kind for word, kind in known.items() if word in name), "")
    if text.isdigit():
        if int(text) >= len(_COCOQA_TYPES):
            raise ValueError(f"the type is {text}; expected 0 to {len(_COCOQA_TYPES) - 1}")
        return _COCOQA_TYPES[int(text)]
    return text.casefold()

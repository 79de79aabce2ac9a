"""Visual questions as prompts of a model: scenes, saved pairs and benchmarks put in one way, made when they are read.

A prompt with a picture holds its pixels (1.4 MB for LLaVA 1.5), so a set of questions keeps words and where pictures
are, and builds each prompt when it is asked for.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, overload

from interp.door import public
from interp.models import Model
from interp.prompts import image_token
from interp.records import hash_json, hash_text
from interp.vision import ImageLike, image_sha256, read_image
from probes.pairs import load_scenes
from probes.scenes import Scene, render
from probes.scenes.programs import SceneQuestion
from probes.visual_semantics.questions.asked import Asked
from probes.visual_semantics.questions.benchmarks import VisualQuestion, VisualQuestions
from probes.visual_semantics.questions.wording import (
    SINGLE_WORD,
    Builder,
    Cases,
    VisualExample,
    own_wording,
)

_LEAST_PIXELS = 96  # scenes are legible from here on; a processor scales them down if its model sees less


class VisualExamples(Sequence[VisualExample]):
    """Questions whose prompts are built when they are read, so that memory does not grow with their number.

    ``asked``: all of them, in words. ``build`` gives one its prompt. ``left_out``: {id: reason} of those that a first
    token can't judge. A slice, or :meth:`where`, is such a sequence again.
    """

    def __init__(self, asked: Sequence[Asked], build: Callable[[Asked], VisualExample], left_out=None) -> None:
        self.asked = tuple(asked)
        self.left_out: dict[str, str] = dict(left_out or {})
        self._build = build

    def __len__(self) -> int:
        return len(self.asked)

    @overload
    def __getitem__(self, index: int) -> VisualExample: ...
    @overload
    def __getitem__(self, index: slice) -> VisualExamples: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return VisualExamples(self.asked[index], self._build, self.left_out)
        return self._build(self.asked[index])

    def where(self, **wanted: str | Sequence[str]) -> VisualExamples:
        """Those whose fields have the ``wanted`` values, or one of them.

        Raises:
            ValueError: a name that is no field.

        >>> examples.where(level="object", kind=("yes_no", "open"))
        """
        names = {f.name for f in fields(Asked)}
        if unknown := sorted(set(wanted) - names):
            raise ValueError(f"where({unknown[0]}=...); expected some of {', '.join(sorted(names))}.")
        allowed = {name: (v,) if isinstance(v, str) else tuple(v) for name, v in wanted.items()}
        kept = [q for q in self.asked if all(getattr(q, name) in v for name, v in allowed.items())]
        return VisualExamples(kept, self._build, self.left_out)

    def sample(self, n: int, seed: int = 0) -> VisualExamples:
        """``n`` questions drawn by ``seed``, in their order; all where there are no more.

        Raises:
            ValueError: ``n`` below 1.
        """
        if n < 1:
            raise ValueError(f"n={n}; expected 1 or more questions.")
        chosen = sorted(random.Random(seed).sample(range(len(self)), min(n, len(self))))
        return VisualExamples([self.asked[i] for i in chosen], self._build, self.left_out)

    def __repr__(self) -> str:
        return f"VisualExamples({len(self)} questions, {len({q.image_id for q in self.asked})} pictures)"


def asking_of(examples: Sequence[VisualExample]) -> dict[str, Any]:
    """How the questions are put, for the identity of a run: instruction, casing, wording; of prompts that were built
    already, a hash of their tokens and answers."""
    if isinstance(examples, VisualExamples) and isinstance(examples._build, Builder):
        return examples._build.asking
    prompts = [[list(e.prompt.token_ids), {w: list(t) for w, t in e.prompt.answers.items()}] for e in examples]
    return {"prompts_sha256": hash_json(prompts)}


def asked_of(examples: Sequence[VisualExample]) -> tuple[Asked, ...]:
    """The questions in words, without building a prompt where that can be helped.

    Returns:
        one for each example.
    """
    return examples.asked if isinstance(examples, VisualExamples) else tuple(e.asked for e in examples)


@public
def scene_examples(
    model: Model,
    scenes_and_questions: Iterable[tuple[Scene, Sequence[SceneQuestion]]],
    pixels: int | None = None,
    *,
    instruction: str | None = None,
    cases: Cases = "both",
) -> VisualExamples:
    """``scenes_and_questions``, as :func:`probes.scenes.splits.scene_split` draws them, as prompts of a ``model``.

    ``pixels``: of the pictures; by default what the model's image processor scales them to, and 96 at least.
    ``instruction``: a sentence after the question; none by default where there is a chat template. Without a chat
    template the prompt is V-SEAM's (:mod:`probes.visual_semantics.questions.wording`), and so is the sentence, if none
    is given.
    ``cases``: whether "Yes" counts as "yes" too ("both"), or answers only as they are written ("as_given").

    Ids are hashes of scene and question, so two samples that share one can be told. Raises as :func:`visual_examples`.
    """
    pixels = pixels or max(_LEAST_PIXELS, processor_pixels(model))
    scenes: dict[str, Scene] = {}
    asked = []
    for scene, questions in scenes_and_questions:
        digest = hash_json(scene.to_dict() | {"pixels": pixels})
        image_id = f"{scene.split or 'scene'}-{digest[:10]}"
        scenes[image_id] = scene
        asked += [_of_scene(q, image_id, digest, scene.split or "") for q in questions]
    return visual_examples(model, asked, _Last(lambda q: render(scenes[q.image_id], pixels).image), instruction, cases)


@public
def saved_scene_examples(
    model: Model, folder: str | Path, *, instruction: str | None = None, cases: Cases = "both"
) -> VisualExamples:
    """The questions of a ``folder`` that ``interp scenes make`` wrote, about its pictures before the edit, as they are
    in its files. ``model``, ``instruction``, ``cases``: as in :func:`scene_examples`. Raises as
    :func:`probes.pairs.scene_files.load_scenes` and :func:`visual_examples`."""
    pairs = {pair.name: pair for pair in load_scenes(folder)}
    asked = []
    for pair in pairs.values():
        digest, split = image_sha256(read_image(pair.before)), pair.edited.before.split or ""
        asked.append(_of_scene(pair.edited.question, pair.name, digest, split))
    return visual_examples(model, asked, lambda q: pairs[q.image_id].before, instruction, cases)


@public
def benchmark_examples(
    model: Model,
    questions: Sequence[VisualQuestion],
    *,
    instruction: str | None = None,
    cases: Cases = "both",
) -> VisualExamples:
    """``questions`` of a benchmark (:func:`probes.visual_semantics.questions.benchmarks.load_visual_questions`) as
    prompts of a ``model``; those that were skipped for want of an image are in ``left_out`` too. ``instruction``: a
    sentence after the question; by default V-SEAM's for this model ("": none). ``cases``: as in :func:`scene_examples`.

    Every picture is opened once, now (5 to 10 ms each): one that is missing, damaged, animated or huge is refused
    before any work, all of them listed. Their level is the data set's ("" if it says none), their kind "yes_no" where
    the options are Yes and No.

    Raises:
        ValueError: a picture that is missing, damaged, animated or huge, and as :func:`visual_examples`.
    """
    hashes: dict[Path, str] = {}
    refused: dict[str, str] = {}
    for path in dict.fromkeys(q.image for q in questions):
        try:
            hashes[path] = image_sha256(read_image(path))
        except (ValueError, OSError) as error:
            refused[path.name] = str(error)
    if refused:
        listed = "; ".join(list(refused.values())[:10]) + (f"; and {len(refused) - 10} more" * (len(refused) > 10))
        raise ValueError(f"{len(refused)} of {len(refused) + len(hashes)} pictures can't be used: {listed}")
    paths = {q.id: q.image for q in questions}
    asked = [
        Asked(
            id=q.id,
            question_text=q.question,
            gold=q.answer,
            options=q.options,
            level=q.level or "",
            kind="yes_no" if q.is_yes_no else "open",
            split=q.source,
            image_id=q.group,
            image_sha256=hashes[q.image],
        )
        for q in questions
    ]
    if instruction is None and own_wording(model) is None:
        instruction = SINGLE_WORD
    found = visual_examples(model, asked, _Last(lambda q: _read_quietly(paths[q.id])), instruction, cases)
    skipped = questions.skipped if isinstance(questions, VisualQuestions) else ()
    absent = {s.id: f"no image: {s.looked_for[0]} is not in the folder." for s in skipped}
    return VisualExamples(found.asked, found._build, absent | found.left_out)


@public
def visual_examples(
    model: Model,
    asked: Sequence[Asked],
    picture: Callable[[Asked], ImageLike],
    instruction: str | None = None,
    cases: Cases = "both",
) -> VisualExamples:
    """Questions in words (``asked``) as prompts of a ``model``; ``picture`` gives a question's. ``instruction`` and
    ``cases``: as in :func:`scene_examples`.

    A question is left out, with its reason in ``left_out`` and a warning, where the first token can't judge it: the
    gold answer has none of its own, or shares it with another option. The tokens are read off the first prompt;
    where nothing stands between question and answer they are read off each.

    Raises:
        ValueError: no questions, ids given twice, an image token in a question's text, a model without vision or
            processor, and no question is left.
    """
    if not asked:
        raise ValueError("no visual questions were given; give at least one.")
    if not model.has_vision:
        raise ValueError(f"{model.name} ({type(model.hf).__name__}): this model has no vision part.")
    if cases not in ("both", "as_given"):
        raise ValueError(f"cases={cases!r}; expected 'both' or 'as_given'.")
    seen: set[str] = set()
    if doubled := [q.id for q in asked if q.id in seen or seen.add(q.id)]:
        raise ValueError(f"the id {doubled[0]!r} is given to two questions; expected ids that differ.")
    token = image_token(model)
    if holding := [q.id for q in asked if token in q.question_text]:
        more = f" (and {len(holding) - 1} more)" if len(holding) > 1 else ""
        raise ValueError(
            f"question {holding[0]!r}{more} has the image token {token!r} in its text; expected words alone, because "
            "the prompt places the one picture itself. Take the token out of the text."
        )
    builder = Builder(model, picture, instruction, cases)
    reasons = builder.reasons(asked)
    kept = [q for q in asked if q.id not in reasons]
    if reasons:
        first = next(iter(reasons))
        message = (
            f"{len(reasons)} of {len(asked)} questions can't be judged by the first token of the answer and are left "
            f"out; the first is {first!r}: {reasons[first]}"
        )
        if not kept:
            raise ValueError(message)
        warnings.warn(message, stacklevel=4)
    return VisualExamples(kept, builder, reasons)


def processor_pixels(model: Model) -> int:
    """The side in pixels that the model's image processor scales a square picture to; 0 where it says none; no pass."""
    processor = getattr(model.processor, "image_processor", None)
    for name in ("crop_size", "size"):
        size = getattr(processor, name, None)
        size = size if isinstance(size, dict) else vars(size) if hasattr(size, "__dict__") else {}
        for key in ("height", "shortest_edge", "longest_edge"):
            if isinstance(size.get(key), int) and 0 < size[key] <= 4096:
                return int(size[key])
    return 0


def _of_scene(question: SceneQuestion, image_id: str, digest: str, split: str) -> Asked:
    return Asked(
        id=f"{image_id}-{hash_text(question.text)[:6]}",
        question_text=question.text,
        gold=question.answer,
        options=question.options,
        level=question.level,
        kind=question.kind,
        split=split,
        form=question.form,
        image_id=image_id,
        image_sha256=digest,
    )


class _Last:
    """A picture that is kept until another is asked for: questions of one ``image_id`` mostly follow one another."""

    def __init__(self, picture: Callable[[Asked], ImageLike]) -> None:
        self._picture = picture
        self._last: tuple[str, ImageLike] | None = None

    def __call__(self, asked: Asked) -> ImageLike:
        if self._last is None or self._last[0] != asked.image_id or not asked.image_id:
            self._last = (asked.image_id, self._picture(asked))
        return self._last[1]


def _read_quietly(path: Path) -> ImageLike:
    """A picture that was opened before: what its transparency became was said then, once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is transparent in places")
        return read_image(path)

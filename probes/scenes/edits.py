"""Edited twins of scenes: one fact changed, so that the answer to a question changes, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool

from interp.door import public
from interp.door.brief import brief
from probes.scenes.programs import SceneQuestion, answer
from probes.scenes.questions import KINDS, LEVELS, ask
from probes.scenes.renderer import render
from probes.scenes.scenes import (
    ATTRIBUTES,
    OPPOSITE,
    Scene,
    SceneObject,
    difficulty_number,
    direction,
    fits_at,
    place,
    sample_scene,
    setting,
    split_of,
)

_PLACES = 300  # tried for a move
_SCENES = 50  # tried for a pair


@dataclass(frozen=True)
class EditedPair:
    """A scene, its twin in which one fact of one object is another, and a question that the two answer differently.

    Args:
        before, after: the scenes.
        question: asked about both.
        answer_before, answer_after: its gold answers, from the scene graphs.
        level: the question's.
        region: True where the changed object is visible before or after.
        changed: index of the changed object.
        fact: what is another: "shape", "colour", "size", "material" or "place".
    """

    before: Scene
    after: Scene
    question: SceneQuestion
    answer_before: str
    answer_after: str
    level: str
    region: Bool[np.ndarray, "height width"]
    changed: int
    fact: str

    __repr__ = brief


@public
def edit(scene: Scene, question: SceneQuestion, rng: random.Random, pixels: int = 96) -> EditedPair:
    """Change one fact of the scene, of the question's level, so that its answer changes.

    Object level: an object becomes another shape. Attribute level: the colour, size or material that is asked about
    becomes another. Relationship level: an object that the question is about moves, to the opposite side where the
    question is whether it is on one. The rest stays: other objects, background, noise, clutter and the order of
    drawing; the changed object keeps its other attributes. A move changes the object's relations to all others, and
    what it hides, with its place. Where the scene has a split, the changed object is a combination of that split, or
    (where none of it fits) of train, never of another one.

    Args:
        scene: what is changed.
        question: whose answer is to change.
        rng: Python's ``random.Random``, which draws the change.
        pixels: height and width of the region's mask.

    Raises:
        ValueError: no single change does it: nothing else can come to stand left of the circle, there are two stars, or
            no place on the other side has room.

    No single change does it for a third to two thirds of relationship questions and up to a fifth of others: ask
    another question.
    """
    before = answer(scene, question)
    for number, fact, changed in _changes(scene, question, rng):
        objects = (*scene.objects[:number], changed, *scene.objects[number + 1 :])
        after = replace(scene, objects=objects)
        if not _stands(after, number, fact):
            continue
        try:
            now = answer(after, question)
        except ValueError:  # the question has no clear answer there
            continue
        if now == before or (question.asked == "relation" and question.value and not _flips(scene, after, question)):
            continue
        masks = [render(s, pixels).masks[number] for s in (scene, after)]
        return EditedPair(scene, after, question, before, now, question.level, masks[0] | masks[1], number, fact)
    raise ValueError(
        f"no single change of the scene at level {question.level!r} gives {question.text!r} another answer than "
        f"{before!r}. Ask another question, or sample a scene with more objects."
    )


@public
def edited_pairs(
    split: str | None,
    n: int,
    seed: int = 0,
    difficulty: str | float = "medium",
    level: str | None = None,
    kind: str | None = None,
    pixels: int = 96,
) -> Iterator[EditedPair]:
    """``n`` edited scenes with their questions, made as they are asked for.

    Of the yes/no questions, half are answered "yes" before the edit. Pair ``i`` depends on the arguments and ``i``, not
    on ``n``.

    Args:
        split: "train", "validation", "test" or "ood", whose combinations the objects are made of; None for all.
        n: number of pairs.
        seed: of scenes, questions and edits.
        difficulty: "easy", "medium", "hard", or a number from 0 to 1.
        level: "object", "attribute" or "relationship"; None takes them in turn.
        kind: "yes_no" or "open"; None takes them in turn.
        pixels: height and width of the regions' masks.

    Raises:
        ValueError: an unknown split, difficulty, level or kind.

    Cost: about 10 ms a pair, most of it rendering the region.
    """
    if level not in (None, *LEVELS):
        raise ValueError(f"level={level!r}; expected one of {', '.join(LEVELS)}, or None for all.")
    if kind not in (None, *KINDS):
        raise ValueError(f"kind={kind!r}; expected one of {', '.join(KINDS)}, or None for both.")
    if n < 1:
        raise ValueError(f"n={n}; expected 1 or more pairs.")
    levels, kinds = (level,) if level else LEVELS, (kind,) if kind else KINDS
    number = difficulty_number(difficulty)
    sample_scene(random.Random(0), number, split)  # refuses before the first pair is asked for
    return (
        _pair(random.Random(f"pair {split} {seed} {number} {level} {kind} {i}"), number, split, *turn, pixels)
        for i in range(n)
        for turn in [_turn(i, levels, kinds)]
    )


def _turn(index: int, levels: tuple[str, ...], kinds: tuple[str, ...]) -> tuple[str, str, str]:
    """Level, kind, and the answer that a yes/no question is to have before the edit: each combination in turn."""
    rest, level = divmod(index, len(levels))
    rest, kind = divmod(rest, len(kinds))
    return levels[level], kinds[kind], ("yes", "no")[rest % 2]


def _pair(
    rng: random.Random, difficulty: float, split: str | None, level: str, kind: str, first: str, pixels: int
) -> EditedPair:
    for _ in range(_SCENES):
        scene = sample_scene(rng, difficulty, split)
        question = ask(scene, rng, level, kind)
        if kind == "yes_no" and question.answer != first:
            continue
        try:
            return edit(scene, question, rng, pixels)
        except ValueError:
            continue
    raise RuntimeError(f"{_SCENES} scenes gave no {kind} question at level {level!r} with an edit; a bug in this file.")


def facts_changed(before: Scene, after: Scene) -> list[tuple[int, str]]:
    """What differs between two scenes of as many objects: (object, fact), row and column being one fact, "place".
    What isn't an object's counts as (-1, name)."""
    changes = [
        (number, "place" if f.name in ("row", "column") else f.name)
        for number, (a, b) in enumerate(zip(before.objects, after.objects, strict=True))
        for f in fields(SceneObject)
        if getattr(a, f.name) != getattr(b, f.name)
    ]
    others = [f.name for f in fields(Scene) if f.name != "objects"]
    changes += [(-1, name) for name in others if getattr(before, name) != getattr(after, name)]
    return list(dict.fromkeys(changes))


def _changes(scene: Scene, question: SceneQuestion, rng: random.Random) -> Iterator[tuple[int, str, SceneObject]]:
    """Single changes that the question's level allows, in random order; those of the scene's split come first."""
    if question.level == "relationship":
        has = setting(scene.difficulty, scene.split)
        for _ in range(_PLACES):
            number = rng.choice(question.about)
            thing = scene.objects[number]
            row, column = place(rng, has, thing.radius)
            yield number, "place", replace(thing, row=row, column=column)
        return
    fact = "shape" if question.level == "object" else question.asked
    words = setting(scene.difficulty, scene.split).words(fact)
    every = [(i, fact, replace(o, **{fact: w})) for i, o in enumerate(scene.objects) for w in words]
    rng.shuffle(every)
    allowed = (scene.split, "train") if scene.split else (None,)
    for split in dict.fromkeys(allowed):
        for number, _, thing in every:
            if split is None or split_of(thing.shape, thing.colour, thing.material) == split:
                yield number, fact, thing


def _stands(scene: Scene, number: int, fact: str) -> bool:
    """Whether the changed object has room and is no copy of another."""
    thing, rest = scene.objects[number], scene.objects[:number] + scene.objects[number + 1 :]
    if any(all(getattr(thing, name) == getattr(o, name) for name in ATTRIBUTES) for o in rest):
        return False
    return fact not in ("place", "size") or fits_at(
        (thing.row, thing.column), thing.radius, rest, setting(scene.difficulty, scene.split).overlap
    )


def _flips(before: Scene, after: Scene, question: SceneQuestion) -> bool:
    """Whether a yes became the opposite relation (left of, right of), and a no what was asked about."""
    there, now = (direction(s, question.of.only(s), question.other.only(s)) for s in (before, after))
    return now == (OPPOSITE[there] if question.value == there else question.value)

"""Edits: one fact changes, the answer with it, and no pixel outside the region."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from probes.scenes.edits import edit, edited_pairs, facts_changed
from probes.scenes.programs import answer
from probes.scenes.questions import KINDS, LEVELS, ask
from probes.scenes.renderer import render
from probes.scenes.scenes import (
    ATTRIBUTES,
    OPPOSITE,
    SPLITS,
    SceneObject,
    direction,
    sample_scene,
    setting,
    split_of,
)

EVERY = [(d, s) for d in ("easy", "medium", "hard") for s in (None, *SPLITS)]


def pixels_of(scene, pixels=96):
    return np.asarray(render(scene, pixels).image)


@pytest.mark.parametrize(("difficulty", "split"), EVERY)
def test_one_fact_changes_and_the_answer_with_it(difficulty, split):
    for pair in edited_pairs(split, 18, seed=2, difficulty=difficulty, pixels=48):
        assert facts_changed(pair.before, pair.after) == [(pair.changed, pair.fact)]
        assert pair.answer_before == answer(pair.before, pair.question) == pair.question.answer
        assert pair.answer_after == answer(pair.after, pair.question) != pair.answer_before
        assert pair.answer_after in pair.question.options
        expected = {"object": {"shape"}, "relationship": {"place"}, "attribute": {pair.question.asked}}[pair.level]
        assert pair.fact in expected and pair.level == pair.question.level


@pytest.mark.parametrize("pixels", [48, 96])
def test_no_pixel_outside_the_region_changes(pixels):
    for pair in edited_pairs("test", 18, seed=5, difficulty="hard", pixels=pixels):
        changed = (pixels_of(pair.before, pixels) != pixels_of(pair.after, pixels)).any(axis=-1)
        masks = [render(scene, pixels).masks[pair.changed] for scene in (pair.before, pair.after)]
        assert pair.region.shape == (pixels, pixels) and (pair.region == masks[0] | masks[1]).all()
        assert changed.any() and not (changed & ~pair.region).any()


@pytest.mark.parametrize(("difficulty", "split"), EVERY)
def test_the_edited_scene_is_one_that_could_have_been_drawn(difficulty, split):
    has = setting(difficulty, split)
    for pair in edited_pairs(split, 12, seed=3, difficulty=difficulty, pixels=16):
        thing = pair.after.objects[pair.changed]
        assert split is None or split_of(thing.shape, thing.colour, thing.material) in (split, "train")
        assert thing.radius <= min(thing.row, thing.column) and max(thing.row, thing.column) <= 1 - thing.radius
        named = [tuple(getattr(o, name) for name in ATTRIBUTES) for o in pair.after.objects]
        assert len(set(named)) == len(named)
        for number, other in enumerate(pair.after.objects):
            apart = np.hypot(thing.row - other.row, thing.column - other.column)
            room = (1 - has.overlap) * (thing.radius + other.radius) - 1e-6
            assert number == pair.changed or pair.fact not in ("place", "size") or apart >= room


def test_a_move_flips_the_relation():
    for pair in edited_pairs("train", 24, seed=1, difficulty="hard", level="relationship", pixels=16):
        question = pair.question
        assert pair.changed in question.about
        if question.value is None:  # where is the star? what is left of the circle?
            continue
        sides = [direction(s, question.of.only(s), question.other.only(s)) for s in (pair.before, pair.after)]
        assert sides[1] == OPPOSITE[sides[0]]


def test_an_edit_of_any_question_that_has_one():
    rng, none = random.Random(0), Counter()
    for _ in range(40):
        scene = sample_scene(rng, "hard", "train")
        for level in LEVELS:
            for kind in KINDS:
                question = ask(scene, rng, level, kind)
                try:
                    pair = edit(scene, question, rng, pixels=16)
                except ValueError as error:
                    assert "gives" in str(error) and "another answer than" in str(error)
                    none[level] += 1
                else:
                    assert pair.answer_after != question.answer
    assert none["relationship"] < 0.5 * 80 and none["object"] + none["attribute"] < 0.2 * 160, none


def test_pairs_take_turns_and_do_not_depend_on_their_number():
    pairs = list(edited_pairs("validation", 24, difficulty="easy", pixels=16))
    assert Counter(p.level for p in pairs) == dict.fromkeys(LEVELS, 8)
    turns = Counter((p.level, p.answer_before) for p in pairs if p.question.kind == "yes_no")
    assert turns == {(level, word): 2 for level in LEVELS for word in ("yes", "no")}
    again = [p.before for p in islice(edited_pairs("validation", 99, difficulty="easy", pixels=16), 5)]
    assert again == [p.before for p in pairs[:5]]
    other = next(edited_pairs("validation", 1, seed=1, difficulty="easy", pixels=16))
    assert other.before != pairs[0].before
    only = list(edited_pairs("validation", 4, difficulty="easy", level="object", kind="open", pixels=16))
    assert {(p.level, p.question.kind) for p in only} == {("object", "open")}


def test_where_no_single_change_does_it():
    scene = sample_scene(random.Random(1), "easy")
    scene = replace(scene, objects=(SceneObject("star", "red", "small", "solid", 0.5, 1 / 6), scene.objects[0]))
    scene = replace(scene, objects=(scene.objects[0], replace(scene.objects[1], shape="circle", row=0.5, column=0.5)))
    rng = random.Random(0)
    question = next(q for q in (ask(scene, rng, "relationship", "open") for _ in range(99)) if q.form == "what_beside")
    with pytest.raises(ValueError, match=r"no single change of the scene at level 'relationship' gives 'What is "):
        edit(scene, question, rng)


def test_facts_changed_names_what_is_not_an_objects():
    scene = sample_scene(random.Random(1), "hard")
    first, second, *rest = scene.objects
    other = replace(scene, tone=0.1, objects=(replace(first, row=0.1, column=0.1), replace(second, shade=2.0), *rest))
    assert facts_changed(scene, other) == [(0, "place"), (1, "shade"), (-1, "tone")]
    assert facts_changed(scene, scene) == []


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"level": "colour"}, "level='colour'; expected one of object, attribute, relationship"),
        ({"kind": "closed"}, "kind='closed'; expected one of yes_no, open"),
        ({"n": 0}, "n=0; expected 1 or more"),
        ({"split": "dev"}, "split 'dev'"),
        ({"difficulty": 3}, "difficulty=3; expected easy, medium, hard"),
    ],
)
def test_what_is_asked_for_is_checked_at_once(wrong, text):
    with pytest.raises(ValueError, match=text):
        edited_pairs(**{"split": "test", "n": 3, **wrong})

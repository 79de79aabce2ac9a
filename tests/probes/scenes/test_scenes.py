"""Scenes: what a difficulty allows, which combinations a split is made of, and relations by plain geometry."""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import replace

import pytest

from interp.records.provenance import hash_json
from probes.scenes.questions import LEVELS
from probes.scenes.scenes import (
    ATTRIBUTES,
    COLOURS,
    MATERIALS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    SIZES,
    SPLITS,
    Scene,
    SceneObject,
    combinations,
    difficulty_number,
    direction,
    sample_scene,
    setting,
    split_of,
)
from probes.scenes.splits import scene_split

EVERY = [(d, s) for d in ("easy", "medium", "hard") for s in (None, *SPLITS)]


def two(across: float, down: float) -> Scene:
    """The first object, seen from the second in the middle."""
    words = ("star", "red", "small", "solid")
    return Scene((SceneObject(*words, 0.5 + down, 0.5 + across), SceneObject(*words, 0.5, 0.5)), seed=0, difficulty=0.5)


@pytest.mark.parametrize(("difficulty", "split"), EVERY)
def test_a_scene_is_within_its_difficulty(difficulty, split):
    rng, has = random.Random(1), setting(difficulty, split)
    for _ in range(60):
        scene = sample_scene(rng, difficulty, split)
        assert has.n_objects[0] <= len(scene.objects) <= has.n_objects[1]
        assert scene.background in has.backgrounds and has.tones[0] <= scene.tone <= has.tones[1] + 1e-4
        for thing in scene.objects:
            assert all(getattr(thing, name) in has.words(name) for name in ATTRIBUTES)
            assert split in (None, split_of(thing.shape, thing.colour, thing.material))
            assert thing.radius <= min(thing.row, thing.column) and max(thing.row, thing.column) <= 1 - thing.radius
        for a, b in itertools.combinations(scene.objects, 2):
            assert sum(getattr(a, name) != getattr(b, name) for name in ATTRIBUTES) >= 2
            apart = math.hypot(a.row - b.row, a.column - b.column)
            assert apart >= (1 - has.overlap) * (a.radius + b.radius) - 1e-6
        n = len(scene.objects)
        assert any(direction(scene, a, b) for a, b in itertools.combinations(range(n), 2))


def test_easy_is_easy_and_hard_is_hard():
    easy, hard = setting("easy"), setting("hard")
    assert easy.n_objects == (2, 3) and hard.n_objects == (4, 6)
    assert (easy.noise, easy.clutter, easy.overlap, easy.tilt, easy.grid) == (0, 0, 0, 0, 3)
    assert hard.noise > 0 and hard.clutter > 0 and hard.overlap > 0 and hard.grid is None
    assert (hard.shapes, hard.colours, hard.materials) == (SHAPES, COLOURS, MATERIALS)
    amounts = [setting(d / 10) for d in range(11)]
    for name in ("shapes", "colours", "materials", "backgrounds"):
        sizes = [len(getattr(has, name)) for has in amounts]
        assert sizes == sorted(sizes)
    other = setting("hard", "ood")
    assert not set(other.backgrounds) & set(hard.backgrounds) and other.tones[1] < hard.tones[0]
    assert other.noise > hard.noise and other.n_objects[1] > hard.n_objects[1]


def test_the_same_seed_gives_the_same_scene():
    first, again, other = (sample_scene(random.Random(seed), "hard") for seed in (4, 4, 5))
    assert first == again != other


def test_words_are_single_and_lower_case():
    words = [*SHAPES, *COLOURS, *SIZES, *MATERIALS, *RELATIONS]
    assert len(set(words)) == len(words) and all(word.isalpha() and word.islower() for word in words)


@pytest.mark.parametrize(("difficulty", "split"), EVERY)
def test_no_word_is_rare_in_a_split(difficulty, split):
    """A word that a split hardly shows would be asked about mostly in questions answered "no"."""
    rng, has = random.Random(2), setting(difficulty, split)
    objects = [o for _ in range(400) for o in sample_scene(rng, difficulty, split).objects]
    for name in ATTRIBUTES:
        words = has.words(name)
        for word in words:
            share = sum(getattr(o, name) == word for o in objects) / len(objects)
            assert share > (0.6 if name == "size" else 0.35) / len(words), (name, word, share)


def test_splits_are_disjoint_by_combination():
    triples = set(itertools.product(SHAPES, COLOURS, MATERIALS))
    parts = {name: {t for t in triples if split_of(*t) == name} for name in SPLITS}
    assert set().union(*parts.values()) == triples and sum(map(len, parts.values())) == len(triples)
    pairs = {name: {t[:2] for t in part} for name, part in parts.items()}
    assert not pairs["ood"] & (pairs["train"] | pairs["validation"] | pairs["test"])
    for difficulty in ("easy", "medium", "hard"):
        has, used = setting(difficulty), {s: combinations(difficulty_number(difficulty), s) for s in SPLITS}
        assert not set(used["train"]) & set(used["test"]) and not set(used["validation"]) & set(used["test"])
        for name, part in used.items():
            for column, words in enumerate((has.shapes, has.colours, has.materials)):
                assert {t[column] for t in part} == set(words), name
        everywhere = set(itertools.product(has.shapes, has.colours)) - {t[:2] for t in used["ood"]}
        assert {t[:2] for t in used["train"]} == everywhere  # every other pair is seen in training


def test_split_scenes_share_no_object_and_differ_by_index_only():
    seen = {}
    for name in SPLITS:
        items = scene_split(name, 80, seed=3, difficulty="hard")
        seen[name] = {(o.shape, o.colour, o.material) for scene, _ in items for o in scene.objects}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not seen[a] & seen[b], (a, b)
    short, long = scene_split("test", 3, seed=1), scene_split("test", 9, seed=1)
    assert list(short) == long[:3] and long[-1] == long[8] and len(long) == 9
    assert long[2] == long[2] and long[2] != scene_split("test", 9, seed=2)[2]


def test_a_split_makes_items_on_demand():
    """A million scenes are named at once and cost nothing until asked for."""
    items = scene_split("train", 1_000_000, difficulty="hard", pairs=2, opens=3)
    scene, questions = items[999_999]
    assert scene.split == "train" and {q.level for q in questions} == set(LEVELS)
    with pytest.raises(IndexError):
        items[1_000_000]


def test_directions_against_angles():
    rng = random.Random(0)
    for _ in range(2000):
        across, down = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4)
        scene = two(across, down)
        found = direction(scene, 0, 1)
        degrees = math.degrees(math.atan2(-down, across)) % 360
        away = min(abs(degrees - axis) for axis in (0, 90, 180, 270, 360))
        nearest = ("right", "above", "left", "below")[round(degrees / 90) % 4]
        if max(abs(across), abs(down)) > 0.121 and away < 30.4:
            assert found == nearest
        elif away > 30.6 or max(abs(across), abs(down)) < 0.119:
            assert found is None
        assert direction(scene, 1, 0) == OPPOSITE.get(found)


def test_scenes_as_json():
    scene = sample_scene(random.Random(0), "hard", "ood")
    row = json.loads(json.dumps(scene.to_dict()))
    assert Scene.from_dict(row) == scene
    with pytest.raises(ValueError, match="colour='mauve'; expected one of red, green"):
        Scene.from_dict(replace(scene, objects=(replace(scene.objects[0], colour="mauve"),)).to_dict())
    with pytest.raises(ValueError, match=r"not a scene: KeyError\('tone'\)"):
        Scene.from_dict({k: v for k, v in row.items() if k != "tone"})


@pytest.mark.parametrize("difficulty", ["tough", 1.5, -0.1, None, float("nan")])
def test_unknown_difficulties_are_refused(difficulty):
    with pytest.raises(ValueError, match="expected easy, medium, hard or a number from 0 to 1"):
        sample_scene(random.Random(0), difficulty)


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="split 'dev'; expected one of train, validation, test, ood"):
        sample_scene(random.Random(0), "easy", "dev")
    with pytest.raises(ValueError, match="split 'dev'"):
        scene_split("dev", 3)
    with pytest.raises(ValueError, match="n=0; expected 1 or more"):
        scene_split("test", 0)


def test_scenes_and_questions_stay_what_they_are():
    """The testbeds are trained on these, and their model cards' numbers are of these: a change means training again."""
    rows = [
        [scene.to_dict(), [q.to_dict() for q in questions]]
        for difficulty in ("easy", 0.3, "hard")
        for name in SPLITS
        for scene, questions in scene_split(name, 5, 7, difficulty, pairs=2, opens=2)
    ]
    assert hash_json(rows)[:16] == "41f755f308d3b90f"

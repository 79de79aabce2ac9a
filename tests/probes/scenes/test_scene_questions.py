"""Questions: answers held against a reader of the text, as many yes as no, and no word that gives an answer away."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from probes.scenes.programs import Described, SceneQuestion, answer
from probes.scenes.questions import KINDS, LEVELS, ask, ask_many, ask_pair
from probes.scenes.scenes import (
    ATTRIBUTES,
    RELATIONS,
    SPLITS,
    Scene,
    SceneObject,
    combinations,
    direction,
    sample_scene,
    setting,
)
from probes.scenes.splits import scene_split

DIFFICULTIES = ("easy", "medium", "hard")
SIDE = r"(left of|right of|above|below)"
PHRASE = rf"((?:\w+ )*?\w+)(?: {SIDE} the ((?:\w+ )*\w+))?"


# a slow reader of the text, which knows nothing of how a question was made


def side_of(scene: Scene, first: int, second: int) -> str:
    a, b = scene.objects[first], scene.objects[second]
    degrees = math.degrees(math.atan2(b.row - a.row, a.column - b.column)) % 360
    return ("right of", "above", "left of", "below")[round(degrees / 90) % 4]


def fitting(scene: Scene, words: str) -> list[int]:
    return [
        i
        for i, o in enumerate(scene.objects)
        if set(words.split()) - {"object"} <= {o.shape, o.colour, o.size, o.material}
    ]


def found(scene: Scene, phrase: str) -> list[int]:
    simple, side, anchor = re.fullmatch(PHRASE, phrase).groups()
    if not side:
        return fitting(scene, simple)
    (there,) = fitting(scene, anchor)
    return [i for i in fitting(scene, simple) if i != there and side_of(scene, i, there) == side]


def read(scene: Scene, text: str) -> str:
    """The answer to a question's text. Unpacking fails where a phrase fits none or several objects."""
    if match := re.fullmatch(r"Is there an? (.*)\?", text):
        return "yes" if found(scene, match[1]) else "no"
    if match := re.fullmatch(r"Where is the (.*), seen from the (.*)\?", text):
        (one,), (other,) = (found(scene, phrase) for phrase in match.groups())
        return side_of(scene, one, other).removesuffix(" of")
    if match := re.fullmatch(rf"What is {SIDE} the (.*)\?", text):
        (one,) = found(scene, f"object {match[1]} the {match[2]}")
        return scene.objects[one].shape
    if match := re.fullmatch(r"What (shape|colour|size|pattern) (?:is|is on) the (.*)\?", text):
        (one,) = found(scene, match[2])
        return getattr(scene.objects[one], match[1].replace("pattern", "material"))
    phrase, last = re.fullmatch(r"Is the (.*) (\w+)\?", text).groups()
    if last in ATTRIBUTES["shape"]:  # ... left of the small circle?
        first, side, rest = re.fullmatch(rf"(.*) {SIDE} the ?(.*)", phrase).groups()
        (one,), (other,) = found(scene, first), found(scene, f"{rest} {last}".strip())
        return "yes" if side_of(scene, one, other) == side else "no"
    (one,) = found(scene, phrase)
    thing = scene.objects[one]
    return "yes" if last in (thing.colour, thing.size, thing.material) else "no"


@lru_cache
def asked(difficulty: str, split: str) -> list[tuple[Scene, SceneQuestion]]:
    items = scene_split(split, 80, seed=1, difficulty=difficulty, pairs=1, opens=2)
    return [(scene, question) for scene, questions in items for question in questions]


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_those_of_the_text_and_of_the_graph(difficulty, split):
    for scene, question in asked(difficulty, split):
        assert question.answer == answer(scene, question) == read(scene, question.text), question.text
        assert question.answer in question.options and question.answer.isalpha()
        assert all(0 <= i < len(scene.objects) for i in question.about)
        if question.kind == "yes_no":
            assert question.options == ("yes", "no")
        else:
            assert set(question.options) <= {*RELATIONS, *sum(ATTRIBUTES.values(), ())}


def test_every_level_and_kind_can_be_asked_of_every_scene():
    rng = random.Random(0)
    for difficulty in DIFFICULTIES:
        for split in (None, *SPLITS):
            for _ in range(40):
                scene = sample_scene(rng, difficulty, split)
                for level in LEVELS:
                    for kind in KINDS:
                        question = ask(scene, rng, level, kind)
                        assert (question.level, question.kind) == (level, kind)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_yes_and_no_of_every_form_in_equal_numbers(difficulty):
    for split in SPLITS:
        for _, questions in scene_split(split, 40, difficulty=difficulty, pairs=3):
            yes_no = [q for q in questions if q.kind == "yes_no"]
            assert len({q.text for q in questions}) == len(questions)
            counts = Counter((q.form, q.answer) for q in yes_no)
            assert all(counts[form, "yes"] == counts[form, "no"] for form, _ in counts)
            assert {q.level for q in yes_no} == set(LEVELS)
    yes, no = ask_pair(sample_scene(random.Random(0), difficulty), random.Random(0), "attribute")
    assert (yes.answer, no.answer, yes.form) == ("yes", "no", no.form)
    assert len(set(yes.text.split()) ^ set(no.text.split())) == 2  # one word


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("split", SPLITS)
def test_no_word_of_a_question_gives_its_answer_away(difficulty, split):
    rows = [(i, q) for i, (_, qs) in enumerate(scene_split(split, 200, 0, difficulty)) for q in qs]
    rows = [(i, q) for i, q in rows if q.kind == "yes_no"]
    words = CountVectorizer().fit_transform([q.text for _, q in rows])
    truth = np.array([q.answer == "yes" for _, q in rows])
    model = LogisticRegression(max_iter=500)
    folds = {"groups": [i for i, _ in rows], "cv": GroupKFold(4), "method": "predict_proba"}
    score = cross_val_predict(model, words, truth, **folds)[:, 1]
    assert 0.4 < roc_auc_score(truth, score) < 0.6


def test_a_no_is_plausible():
    """What it supposes is true of another object where that can be, and its combination occurs in the split."""
    near = []
    for split in SPLITS:
        triples = combinations(1.0, split)
        for scene, q in asked("hard", split):
            if q.answer != "no":
                continue
            named = {name: getattr(q.of, name) for name in ("shape", "colour", "material")}
            named |= {q.asked: q.value} if q.asked in named else {}
            assert any(all(w in (None, t[i]) for i, w in enumerate(named.values())) for t in triples), q.text
            if q.asked in ATTRIBUTES:
                near.append(q.value in {getattr(o, q.asked) for o in scene.objects})
            if (
                q.form.startswith("exists_") and q.form != "exists_beside"
            ):  # no red heart; but a heart, of another colour
                near.append(q.of.shape in {o.shape for o in scene.objects})
            if q.asked == "relation":
                there = direction(scene, q.of.only(scene), q.other.only(scene))
                assert {there, q.value} in ({"left", "right"}, {"above", "below"})
    assert np.mean(near) > 0.75


def test_open_answers_are_spread():
    counts = Counter((q.form, q.answer) for split in SPLITS for _, q in asked("hard", split) if q.kind == "open")
    for form in {form for form, _ in counts}:
        of_form = [n for (f, _), n in counts.items() if f == form]
        assert max(of_form) / sum(of_form) < (0.65 if "size" in form else 0.45), form


def test_compositional_questions_are_asked():
    easy, hard = ([q.is_compositional for _, q in asked(d, "train")] for d in ("easy", "hard"))
    assert 0.1 < np.mean(easy) < np.mean(hard) < 0.9
    texts = " ".join(q.text for _, q in asked("hard", "train"))
    for pattern in (
        r"What colour is the object (left|right) of the (\w+ )+\w+\?",
        r"Is the (\w+ )+\w+ (above|below) the \w+ \w+\?",
        r"Is there an? \w+ (above|below) the",
        r"What pattern is on the object",
        r"Where is the \w+, seen from the",
    ):
        assert re.search(pattern, texts), pattern


def three() -> Scene:
    """A red circle left of a large blue star; below that a green star."""
    return Scene(
        (
            SceneObject("circle", "red", "small", "solid", 0.2, 0.2),
            SceneObject("star", "blue", "large", "striped", 0.2, 0.8),
            SceneObject("star", "green", "small", "solid", 0.8, 0.8),
        ),
        seed=0,
        difficulty=0.5,
    )


def about(asked: str, of: Described, value: str | None = None, other: Described | None = None) -> SceneQuestion:
    return SceneQuestion("?", "", (), "attribute", "open", (), "by hand", asked, of, value, other)


def test_answers_by_hand():
    circle, star = Described(shape="circle"), Described(shape="star", colour="blue")
    cases = [
        (about("exists", Described(shape="star", material="striped")), "yes"),
        (about("exists", Described(shape="circle", colour="blue")), "no"),
        (about("colour", Described(side="left", beside=star)), "red"),
        (about("size", star, "large"), "yes"),
        (about("size", star, "small"), "no"),
        (about("relation", circle, None, star), "left"),
        (about("relation", star, "left", circle), "no"),
        (about("shape", Described(side="below", beside=star)), "star"),
    ]
    for question, gold in cases:
        assert answer(three(), question) == gold


def test_what_is_not_clear_has_no_answer():
    with pytest.raises(ValueError, match="the star: 2 objects of the scene fit; expected one"):
        answer(three(), about("colour", Described(shape="star")))
    with pytest.raises(ValueError, match="the yellow object: 0 objects"):
        answer(three(), about("shape", Described(colour="yellow")))
    diagonal = (Described(shape="circle"), Described(shape="star", colour="green"))
    with pytest.raises(ValueError, match="no clear relation"):
        answer(three(), about("relation", diagonal[0], None, diagonal[1]))
    with pytest.raises(ValueError, match="neither clearly right of the other nor clearly not"):
        answer(three(), about("colour", Described(colour="green", side="right", beside=diagonal[0])))


def test_a_question_can_be_asked_again_of_another_scene():
    rng = random.Random(3)
    for _ in range(50):
        scene = sample_scene(rng, "hard")
        question = ask(scene, rng, "attribute", "open")
        if question.of.beside:
            continue
        (number,) = question.of.found(scene)
        other = next(w for w in setting("hard").words(question.asked) if w != question.answer)
        twin = replace(scene.objects[number], **{question.asked: other})
        after = replace(scene, objects=(*scene.objects[:number], twin, *scene.objects[number + 1 :]))
        assert answer(after, question) == other


def test_questions_as_json():
    for _, question in asked("hard", "train")[:60]:
        assert SceneQuestion.from_dict(json.loads(json.dumps(question.to_dict()))) == question
    with pytest.raises(ValueError, match=r"not a question: KeyError\('form'\)"):
        SceneQuestion.from_dict({k: v for k, v in question.to_dict().items() if k != "form"})


def test_unknown_levels_and_kinds_are_refused():
    scene, rng = three(), random.Random(0)
    with pytest.raises(ValueError, match="level='colour'; expected one of object, attribute, relationship"):
        ask(scene, rng, "colour", "open")
    with pytest.raises(ValueError, match="kind='yes'; expected one of yes_no, open"):
        ask(scene, rng, "object", "yes")
    with pytest.raises(ValueError, match="no yes_no question at level 'relationship'; sample another"):
        ask(replace(scene, objects=scene.objects[:1]), rng, "relationship", "yes_no")


def test_many_questions_are_all_different():
    questions = ask_many(sample_scene(random.Random(1), "hard"), random.Random(2), pairs=4, opens=4)
    assert len({q.text for q in questions}) == len(questions) > 25
    assert [q.kind for q in questions] == sorted((q.kind for q in questions), key=lambda kind: kind != "open")

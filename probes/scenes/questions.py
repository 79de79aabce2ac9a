"""Questions about scenes at three levels, yes/no (a yes with every no) and open, with answers from the scene graph.

A form makes a question of one template about one object, where the scene allows it without ambiguity; :func:`ask` takes
forms and objects at random. What a question is, and how it is answered: :mod:`probes.scenes.programs`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from interp.door import public
from probes.scenes.programs import PHRASE, Described, SceneQuestion, answer
from probes.scenes.scenes import ATTRIBUTES, OPPOSITE, RELATIONS, Scene, combinations, direction, setting

LEVELS = ("object", "attribute", "relationship")
KINDS = ("yes_no", "open")
YES_NO = ("yes", "no")
_WHAT = {
    "shape": "What shape is {}?",
    "colour": "What colour is {}?",
    "size": "What size is {}?",
    "material": "What pattern is on {}?",
}


@public
def ask(scene: Scene, rng: random.Random, level: str, kind: str) -> SceneQuestion:
    """A question about a scene that can be answered without ambiguity.

    Args:
        scene: what is asked about.
        rng: Python's ``random.Random``, which draws form and object.
        level: "object", "attribute" or "relationship".
        kind: "yes_no" (either of a pair of :func:`ask_pair`, by a coin) or "open".

    Raises:
        ValueError: an unknown level or kind, or a scene of another making that has no such question (every sampled one
            has).
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; expected one of {', '.join(KINDS)}.")
    if kind == "yes_no":
        return ask_pair(scene, rng, level)[int(rng.random() * 2)]
    return _first(scene, rng, level, kind)


@public
def ask_pair(scene: Scene, rng: random.Random, level: str) -> tuple[SceneQuestion, SceneQuestion]:
    """Two yes/no questions of one form about one scene: the first is answered "yes", the second "no".

    They differ in one word (or in which object stands first), and what the no supposes is plausible: a word that is
    true of another object of the scene where there is one, and a combination that the scene's split, or train, has.

    Args:
        scene: what is asked about.
        rng: Python's ``random.Random``, which draws form and object.
        level: "object", "attribute" or "relationship".

    Returns:
        The question answered "yes", and the one answered "no".

    Raises as :func:`ask`.
    """
    return _first(scene, rng, level, "yes_no")


def ask_many(scene: Scene, rng: random.Random, pairs: int = 1, opens: int = 1) -> list[SceneQuestion]:
    """For each level, ``opens`` open questions and ``pairs`` pairs of yes/no questions, open ones first; all texts
    differ, so there are fewer where the scene has no more."""
    asked: dict[str, SceneQuestion] = {}
    for kind, number in (("open", opens), ("yes_no", pairs)):
        for level in LEVELS:
            wanted, tries = number, 0
            while wanted and tries < 4 * number:
                tries += 1
                new = _first(scene, rng, level, kind)
                new = (new,) if isinstance(new, SceneQuestion) else new
                if not any(q.text in asked for q in new):
                    asked |= {q.text: q for q in new}
                    wanted -= 1
    return list(asked.values())


def _first(scene: Scene, rng: random.Random, level: str, kind: str) -> Any:
    if level not in LEVELS:
        raise ValueError(f"level={level!r}; expected one of {', '.join(LEVELS)}.")
    forms = _FORMS[level, kind]
    for form in rng.sample(forms, len(forms)):
        for number in rng.sample(range(len(scene.objects)), len(scene.objects)):
            try:
                if (made := form(scene, rng, number)) is not None:
                    return made
            except ValueError:  # not clear for this object
                continue
    raise ValueError(f"the scene has no {kind} question at level {level!r}; sample another.")


def _describe(scene: Scene, rng: random.Random, number: int, without: tuple[str, ...] = ()) -> Described:
    """A phrase that fits this object only: its shape if that is enough, else with as few words as needed."""
    thing = scene.objects[number]
    usable = [name for name in ("colour", "material", "size") if name not in without]
    rng.shuffle(usable)
    if "shape" not in without:
        usable.insert(0, "shape")
    rest = [o for i, o in enumerate(scene.objects) if i != number]
    said: dict[str, str] = {}
    for name in usable:
        left = [o for o in rest if getattr(o, name) == getattr(thing, name)]
        if len(left) < len(rest) or (not said and name in ("shape", "colour")):
            said[name] = getattr(thing, name)
        rest = left
        if not rest and said:
            return Described(**said)
    raise ValueError(f"object {number} can't be told apart without its {' and '.join(without)}.")


def _beside(scene: Scene, rng: random.Random, number: int) -> Described:
    """A phrase that fits this object only, by the side of another on which it stands."""
    for other in rng.sample(range(len(scene.objects)), len(scene.objects)):
        if other != number and (side := direction(scene, number, other)):
            phrase = Described(side=side, beside=_describe(scene, rng, other))
            try:
                if phrase.only(scene) == number:
                    return phrase
            except ValueError:
                continue
    raise ValueError(f"object {number} is not alone on any side of another.")


def _plausible(scene: Scene, described: Described) -> bool:
    """Whether the scene's split has a combination that fits: a no must not be known from the text alone."""
    return _has(scene.difficulty, scene.split, described.shape, described.colour, described.material)


@lru_cache(maxsize=65536)
def _has(difficulty: float, split: str | None, *wanted: str | None) -> bool:
    triples = combinations(difficulty, split)
    return any(all(w in (None, word) for w, word in zip(wanted, triple, strict=True)) for triple in triples)


def _other_word(
    scene: Scene, rng: random.Random, attribute: str, not_these: set[str], fits: Callable[[str], bool]
) -> str | None:
    """A word for a no: of another object of the scene where there is one that fits, else any of the vocabulary."""
    present = {getattr(o, attribute) for o in scene.objects}
    words = [w for w in setting(scene.difficulty, scene.split).words(attribute) if w not in not_these and fits(w)]
    near = [w for w in words if w in present]
    return rng.choice(near or words) if words else None


def _made(scene: Scene, form: str, level: str, text: str, **program: Any) -> SceneQuestion:
    """Fills in what follows from the program: kind, options, answer, the objects it is about."""
    draft = SceneQuestion(
        text=text,
        answer="",
        options=YES_NO,
        level=level,
        kind="yes_no" if program["asked"] == "exists" or program.get("value") else "open",
        about=(),
        form=form,
        **program,
    )
    if draft.kind == "open":
        words = RELATIONS if draft.asked == "relation" else setting(scene.difficulty, scene.split).words(draft.asked)
        object.__setattr__(draft, "options", words)
    named = [*draft.of.found(scene)]
    named += [d.only(scene) for d in (draft.of.beside, draft.other) if d]
    object.__setattr__(draft, "about", tuple(dict.fromkeys(named)))
    object.__setattr__(draft, "answer", answer(scene, draft))
    return draft


Pair = tuple[SceneQuestion, SceneQuestion]


def _exists(scene: Scene, rng: random.Random, number: int) -> Pair | None:
    """Is there a star? / Is there a heart?"""
    shape = scene.objects[number].shape
    present = {o.shape for o in scene.objects}
    absent = _other_word(scene, rng, "shape", present, lambda word: True)
    return absent and tuple(_is_there(scene, "exists", Described(shape=s)) for s in (shape, absent))


def _exists_bound(scene: Scene, rng: random.Random, number: int) -> Pair | None:
    """Is there a red star? / Is there a red heart?, where a heart is in the scene, in another colour."""
    thing, attribute = scene.objects[number], rng.choice(("colour", "size", "material"))
    word = {attribute: getattr(thing, attribute)}
    bound = {o.shape for o in scene.objects if getattr(o, attribute) == word[attribute]}
    other = _other_word(scene, rng, "shape", bound, lambda w: _plausible(scene, Described(shape=w, **word)))
    if other is None:
        return None
    return tuple(_is_there(scene, "exists_" + attribute, Described(shape=s, **word)) for s in (thing.shape, other))


def _exists_beside(scene: Scene, rng: random.Random, number: int) -> Pair | None:
    """Is there a star left of the circle? / Is there a heart left of the circle?"""
    others = [i for i in range(len(scene.objects)) if i != number]
    other = rng.choice(others)
    side = direction(scene, number, other)
    if side is None:
        return None
    place = {"side": side, "beside": _describe(scene, rng, other)}
    fit = Described(**place).found(scene)
    there = {scene.objects[i].shape for i in fit} | {scene.objects[other].shape}
    absent = _other_word(scene, rng, "shape", there, lambda word: True)
    shapes = (scene.objects[number].shape, absent)
    return absent and tuple(_is_there(scene, "exists_beside", Described(shape=s, **place)) for s in shapes)


def _is_there(scene: Scene, form: str, of: Described) -> SceneQuestion:
    words = of.words()
    article = "an" if words[0] in "aeiou" else "a"
    return _made(scene, form, "object", f"Is there {article} {words}?", asked="exists", of=of)


def _is(attribute: str, by_side: bool) -> Callable[[Scene, random.Random, int], Pair | None]:
    """Is the star red? / Is the star blue? With ``by_side``: Is the object left of the circle red?"""

    def form(scene: Scene, rng: random.Random, number: int) -> Pair | None:
        of = _beside(scene, rng, number) if by_side else _describe(scene, rng, number, without=(attribute,))
        true = getattr(scene.objects[number], attribute)
        said = {name: getattr(of, name) for name in ("shape", "colour", "material")}

        def fits(word: str) -> bool:
            return attribute == "size" or _plausible(scene, Described(**said | {attribute: word}))

        false = _other_word(scene, rng, attribute, {true}, fits)
        if false is None:
            return None
        name = f"is_{attribute}" + "_beside" * by_side
        return tuple(
            _made(scene, name, "attribute", f"Is the {of.words()} {word}?", asked=attribute, of=of, value=word)
            for word in (true, false)
        )

    return form


def _what(attribute: str, level: str, by_side: bool) -> Callable[[Scene, random.Random, int], SceneQuestion]:
    """What colour is the star? With ``by_side``: What colour is the object left of the circle?"""

    def form(scene: Scene, rng: random.Random, number: int) -> SceneQuestion:
        of = _beside(scene, rng, number) if by_side else _describe(scene, rng, number, without=(attribute,))
        name = f"what_{attribute}" + "_beside" * by_side
        return _made(scene, name, level, _WHAT[attribute].format(f"the {of.words()}"), asked=attribute, of=of)

    return form


def _related(scene: Scene, rng: random.Random, number: int) -> Pair | None:
    """Is the star left of the circle? / Is the circle left of the star?, or / Is the star right of the circle?"""
    there = [i for i in range(len(scene.objects)) if i != number and direction(scene, number, i)]
    if not there:
        return None
    other = rng.choice(there)
    first, second = _describe(scene, rng, number), _describe(scene, rng, other)
    side = direction(scene, number, other)
    swapped = rng.random() < 0.5
    no = (second, side, first) if swapped else (first, OPPOSITE[side], second)
    return tuple(
        _made(
            scene,
            "related",
            "relationship",
            f"Is the {a.words()} {PHRASE[word]} the {b.words()}?",
            **{"asked": "relation", "of": a, "value": word, "other": b},
        )
        for a, word, b in ((first, side, second), no)
    )


def _where(scene: Scene, rng: random.Random, number: int) -> SceneQuestion | None:
    """Where is the star, seen from the circle?"""
    there = [i for i in range(len(scene.objects)) if i != number and direction(scene, number, i)]
    if not there:
        return None
    first, second = _describe(scene, rng, number), _describe(scene, rng, rng.choice(there))
    text = f"Where is the {first.words()}, seen from the {second.words()}?"
    return _made(scene, "where", "relationship", text, asked="relation", of=first, other=second)


def _what_beside(scene: Scene, rng: random.Random, number: int) -> SceneQuestion:
    """What is left of the circle?"""
    of = _beside(scene, rng, number)
    text = f"What is {PHRASE[of.side]} the {of.beside.words()}?"
    return _made(scene, "what_beside", "relationship", text, asked="shape", of=of)


_FORMS: dict[tuple[str, str], list[Callable[[Scene, random.Random, int], Any]]] = {
    ("object", "yes_no"): [_exists, _exists_bound, _exists_beside],
    ("object", "open"): [_what("shape", "object", False)],
    ("attribute", "yes_no"): [_is(a, by_side) for a in ATTRIBUTES if a != "shape" for by_side in (False, True)],
    ("attribute", "open"): [
        _what(a, "attribute", by_side) for a in ATTRIBUTES if a != "shape" for by_side in (False, True)
    ],
    ("relationship", "yes_no"): [_related],
    ("relationship", "open"): [_where, _what_beside],
}

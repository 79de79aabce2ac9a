"""A question about a scene as a small program: which objects a phrase fits, what is asked of them, and the answer.

The text of a question is written from the program, and its answer computed from the program and a scene, so that it can
be asked again of an edited scene.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from probes.scenes.scenes import Scene, direction

PHRASE = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
WORD_ORDER = ("size", "material", "colour", "shape")  # a small striped red star


@dataclass(frozen=True)
class Described:
    """The objects that a phrase fits: "small red star", "object left of the circle" (``side`` and ``beside``)."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    material: str | None = None
    side: str | None = None
    beside: Described | None = None

    def words(self) -> str:
        said = [word for name in WORD_ORDER if (word := getattr(self, name))]
        said += [] if self.shape else ["object"]
        if self.beside:
            said += [PHRASE[self.side], "the", self.beside.words()]
        return " ".join(said)

    def found(self, scene: Scene) -> tuple[int, ...]:
        """Indices of the objects that fit. Raises ``ValueError`` where it isn't clear whether one stands on the side,
        or which object the side is of."""
        said = [(name, word) for name in WORD_ORDER if (word := getattr(self, name))]
        fit = [i for i, thing in enumerate(scene.objects) if all(getattr(thing, name) == word for name, word in said)]
        if self.beside is None:
            return tuple(fit)
        anchor = self.beside.only(scene)
        sides = {number: direction(scene, number, anchor) for number in fit if number != anchor}
        for number, side in sides.items():
            if side is None and _may_be(scene, number, anchor, self.side):
                raise ValueError(f"object {number} is neither clearly {PHRASE[self.side]} the other nor clearly not.")
        return tuple(number for number, side in sides.items() if side == self.side)

    def only(self, scene: Scene) -> int:
        """The one object that fits. Raises ``ValueError`` for none or several."""
        found = self.found(scene)
        if len(found) != 1:
            raise ValueError(f"the {self.words()}: {len(found)} objects of the scene fit; expected one.")
        return found[0]


@dataclass(frozen=True)
class SceneQuestion:
    """A question about a scene, in words and as a program that the scene graph answers.

    Args:
        text: the question's words.
        answer: the gold answer.
        options: the words that could answer it at the scene's difficulty.
        level: "object", "attribute" or "relationship".
        kind: "yes_no" or "open".
        about: indices of the objects that it names or finds.
        form: the template; every yes of a form is asked with a no.
        asked: "exists", "shape", "colour", "size", "material" or "relation".
        of: the object(s) that this is asked of.
        value: what a yes/no question supposes.
        other: for a relation, the object it is seen from.
    """

    text: str
    answer: str
    options: tuple[str, ...]
    level: str
    kind: str
    about: tuple[int, ...]
    form: str
    asked: str
    of: Described
    value: str | None = None
    other: Described | None = None

    @property
    def is_compositional(self) -> bool:
        """Whether finding an object takes more than one word."""
        described = [d for d in (self.of, self.of.beside, self.other) if d]
        words = [sum(getattr(d, name) is not None for name in WORD_ORDER) for d in described]
        return self.of.beside is not None or max(words) > 1

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it back."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> SceneQuestion:
        """The question of ``data`` that :meth:`to_dict` wrote.

        Raises:
            ValueError: a field that is missing or unknown.
        """
        try:
            values = {f.name: data[f.name] for f in fields(SceneQuestion)}
            for name in ("of", "other"):
                values[name] = _described(values[name])
            return SceneQuestion(**values | {"options": tuple(data["options"]), "about": tuple(data["about"])})
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"not a question: {error!r}; expected the fields that SceneQuestion.to_dict writes."
            ) from error


def answer(scene: Scene, question: SceneQuestion) -> str:
    """The gold answer, recomputed from the scene graph: of the scene asked about, or of an edited one.

    Raises ``ValueError`` where the scene doesn't determine it: an object that is named is not there, or is there
    twice, or the relation isn't clear.
    """
    if question.asked == "exists":
        return "yes" if question.of.found(scene) else "no"
    if question.asked == "relation":
        there = direction(scene, question.of.only(scene), question.other.only(scene))
        if there is None:
            raise ValueError(f"{question.text} The two objects stand in no clear relation.")
    else:
        there = getattr(scene.objects[question.of.only(scene)], question.asked)
    if question.value is None:
        return there
    return "yes" if there == question.value else "no"


def _described(data: Mapping[str, Any] | None) -> Described | None:
    return None if data is None else Described(**{**data, "beside": _described(data["beside"])})


def _may_be(scene: Scene, first: int, second: int, side: str) -> bool:
    """Whether an object without a clear relation is on the side at all: beside it by whatever distance."""
    a, b = scene.objects[first], scene.objects[second]
    across, down = a.column - b.column, a.row - b.row
    return {"left": across < 0, "right": across > 0, "above": down < 0, "below": down > 0}[side]

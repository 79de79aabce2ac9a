"""Scenes as values: a few objects on a background, sampled at a difficulty from combinations that a split may use.

A scene is its own scene graph: every fact that a question can ask about is read off the objects (:func:`direction` for
relations), and the renderer draws nothing that isn't written here.
"""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "diamond", "ring", "moon", "arrow")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "pink", "brown", "cyan", "gold")
SIZES = ("small", "large")
MATERIALS = ("solid", "striped", "dotted", "checked")
RELATIONS = ("left", "right", "above", "below")
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "material": MATERIALS}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
DIFFICULTIES = {"easy": 0.0, "medium": 0.5, "hard": 1.0}
SPLITS = ("train", "validation", "test", "ood")
RADIUS = {"small": 0.11, "large": 0.16}  # of the disc around an object, in widths of the picture
BACKGROUNDS = ("plain", "gradient", "bands")
OTHER_BACKGROUNDS = ("tiles", "speckle")  # of the ood split only

_MARGIN = 0.12  # two centres nearer than this in both directions have no relation
_PLACES = 40  # tried for an object before the scene is begun anew
_RATIO = 1.7  # the larger offset over the smaller one, from which a relation is clear


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene.

    Args:
        shape, colour, size, material: words of ``ATTRIBUTES``, which questions ask about.
        row, column: the centre, in heights and widths of the picture from its upper left corner.
        scale, tilt, shade: factor of the radius, degrees, factor of brightness; they vary the look, and no question
            asks about them.
    """

    shape: str
    colour: str
    size: str
    material: str
    row: float
    column: float
    scale: float = 1.0
    tilt: float = 0.0
    shade: float = 1.0

    @property
    def radius(self) -> float:
        return RADIUS[self.size] * self.scale


@dataclass(frozen=True)
class Scene:
    """A scene and its scene graph: everything that is drawn, and every fact that can be asked about.

    Args:
        objects: in the order of drawing: a later one hides an earlier one.
        seed: of noise and clutter.
        difficulty: 0 (easy) to 1 (hard).
        background: "plain", "gradient", "bands"; "tiles" or "speckle" in the ood split.
        tone: brightness of the background, 0 to 1.
        noise: its standard deviation, in the same unit.
        clutter: number of grey strokes behind the objects.
        split: whose combinations the objects are made of (None: any).
    """

    objects: tuple[SceneObject, ...]
    seed: int
    difficulty: float
    background: str = "plain"
    tone: float = 0.88
    noise: float = 0.0
    clutter: int = 0
    split: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it back."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Scene:
        """The scene of ``data`` that :meth:`to_dict` wrote.

        Raises:
            ValueError: a word that no scene uses or a field that is missing.
        """
        try:
            objects = tuple(SceneObject(**row) for row in data["objects"])
            scene = Scene(**{**{f.name: data[f.name] for f in fields(Scene)}, "objects": objects})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a scene: {error!r}; expected the fields that Scene.to_dict writes.") from error
        for thing in objects:
            for name, words in ATTRIBUTES.items():
                if getattr(thing, name) not in words:
                    raise ValueError(f"{name}={getattr(thing, name)!r}; expected one of {', '.join(words)}.")
        return scene


@dataclass(frozen=True)
class Setting:
    """What a difficulty allows. ``grid``: cells in a row, None for free places. ``overlap``: how far two discs may
    reach into one another, as a share of the sum of their radii. ``distinct``: no shape and no colour twice."""

    n_objects: tuple[int, int]
    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    materials: tuple[str, ...]
    backgrounds: tuple[str, ...]
    tones: tuple[float, float]
    grid: int | None
    overlap: float
    noise: float
    clutter: int
    tilt: float
    vary: float
    distinct: bool

    def words(self, attribute: str) -> tuple[str, ...]:
        return SIZES if attribute == "size" else getattr(self, f"{attribute}s")


def difficulty_number(difficulty: str | float) -> float:
    """ "easy", "medium", "hard" as 0, 0.5, 1; a number from 0 to 1 as it is. Raises ``ValueError`` for others."""
    number = DIFFICULTIES.get(difficulty, difficulty) if isinstance(difficulty, str) else difficulty
    if not isinstance(number, int | float) or not 0 <= number <= 1:
        raise ValueError(f"difficulty={difficulty!r}; expected {', '.join(DIFFICULTIES)} or a number from 0 to 1.")
    return float(number)


@lru_cache(maxsize=64)
def setting(difficulty: str | float, split: str | None = None) -> Setting:
    """What scenes of a difficulty are made of; the ood split has other backgrounds, more noise and one object more."""
    d, other = difficulty_number(difficulty), split == "ood"
    fewest, most = round(2 + 2 * d), round(3 + 3 * d)
    return Setting(
        n_objects=(most, most + 1) if other else (fewest, most),
        shapes=SHAPES[: round(6 + 4 * d)],
        colours=COLOURS[: round(6 + 4 * d)],
        materials=MATERIALS[: round(2 + 2 * d)],
        backgrounds=OTHER_BACKGROUNDS if other else BACKGROUNDS[: 1 + round(2 * d)],
        tones=(0.2, 0.4) if other else (0.88 - 0.3 * d, 0.88 + 0.07 * d),
        grid=3 if d < 0.25 else None,
        overlap=0.8 * max(0.0, d - 0.5),
        noise=0.05 * d * d + (0.025 if other else 0),
        clutter=round(8 * d * d) + (3 if other else 0),
        tilt=15 * d,
        vary=0.08 * d,
        distinct=d < 0.25,
    )


def split_of(shape: str, colour: str, material: str) -> str:
    """The split that a combination belongs to.

    A quarter of the pairs (shape, colour) is kept for "ood", whatever the material. Of the other triples a fifth each
    is "validation" and "test", so placed (a Latin pattern) that every word occurs in every split and every other pair
    is in "train" with another material.
    """
    i, j, k = SHAPES.index(shape), COLOURS.index(colour), MATERIALS.index(material)
    if (i + j) % 4 == 3:
        return "ood"
    return {0: "validation", 1: "test"}.get((i + 3 * j + 2 * k) % 5, "train")


@lru_cache(maxsize=256)
def combinations(difficulty: float, split: str | None) -> tuple[tuple[str, str, str], ...]:
    """The triples (shape, colour, material) that objects of a split (None: any) are made of."""
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r}; expected one of {', '.join(SPLITS)}, or None for all combinations.")
    has = setting(difficulty, split)
    every = ((s, c, m) for s in has.shapes for c in has.colours for m in has.materials)
    return tuple(triple for triple in every if split is None or split_of(*triple) == split)


@lru_cache(maxsize=256)
def _cumulative(difficulty: float, split: str | None) -> tuple[float, ...]:
    """Cumulative weights of the combinations, by which every shape, colour and material is about as frequent as any
    other (proportional fitting): where a word is rare, asking about it is more often answered "no"."""
    triples = np.array(combinations(difficulty, split))
    weights = np.ones(len(triples))
    for _ in range(100):
        for column in (2, 1, 0):  # ends with shapes, which are exact even where not all can be
            _, word = np.unique(triples[:, column], return_inverse=True)
            weights /= np.bincount(word, weights)[word]
    return tuple(np.cumsum(weights).tolist())


def direction(scene: Scene, first: int, second: int) -> str | None:
    """Where object ``first`` is, seen from object ``second``: one of ``RELATIONS``, or None where it isn't clear.

    By the larger of the two offsets between the centres; clear if that is at least 0.12 of the picture and 1.7 times
    the other one: what is "left" is further left than it is above or below.
    """
    a, b = scene.objects[first], scene.objects[second]
    across, down = a.column - b.column, a.row - b.row
    if max(abs(across), abs(down)) < _MARGIN:
        return None
    if abs(across) >= _RATIO * abs(down):
        return "left" if across < 0 else "right"
    if abs(down) >= _RATIO * abs(across):
        return "above" if down < 0 else "below"
    return None


def fits_at(where: tuple[float, float], radius: float, others: Sequence[SceneObject], overlap: float) -> bool:
    """Whether a disc at (row, column) lies inside the picture and reaches into no other object's further than allowed:
    by ``overlap`` of the sum of the radii."""
    row, column = where
    if not all(radius <= x <= 1 - radius for x in where):
        return False
    return all(math.hypot(row - o.row, column - o.column) >= (1 - overlap) * (radius + o.radius) - 1e-9 for o in others)


def place(rng: random.Random, has: Setting, radius: float) -> tuple[float, float]:
    """A random (row, column): a cell's centre at difficulties with a grid, else anywhere inside the picture."""
    if has.grid:
        return (int(rng.random() * has.grid) + 0.5) / has.grid, (int(rng.random() * has.grid) + 0.5) / has.grid
    width = 1 - 2 * radius
    return round(radius + width * rng.random(), 4), round(radius + width * rng.random(), 4)


def sample_scene(rng: random.Random, difficulty: str | float = "medium", split: str | None = None) -> Scene:
    """A scene in which every level has questions of both kinds.

    Any two objects differ in at least two of shape, colour, size and material, so that one attribute of an object can
    be asked about by naming the others, and at least two objects stand in a clear relation.

    Args:
        rng: Python's ``random.Random``.
        difficulty: "easy", "medium", "hard", or a number from 0 to 1: more objects, words, noise, clutter, overlap.
        split: "train", "validation", "test" or "ood", whose combinations of shape, colour and material are drawn from;
            None for any.

    Cost: about 0.1 ms. Raises ``ValueError`` for an unknown difficulty or split.
    """
    number = difficulty_number(difficulty)
    has = setting(number, split)
    while True:
        objects = _objects(rng, has, combinations(number, split), _cumulative(number, split))
        scene = Scene(
            objects=tuple(objects),
            seed=rng.getrandbits(31),
            difficulty=number,
            background=has.backgrounds[int(rng.random() * len(has.backgrounds))],
            tone=round(rng.uniform(*has.tones), 4),
            noise=has.noise,
            clutter=has.clutter,
            split=split,
        )
        n = len(objects)
        if n >= has.n_objects[0] and any(direction(scene, a, b) for a in range(n) for b in range(a)):
            return scene


def _objects(
    rng: random.Random, has: Setting, triples: tuple[tuple[str, str, str], ...], weights: tuple[float, ...]
) -> list[SceneObject]:
    """Objects one by one; fewer than wanted where they don't fit. A size is kept until it has a place: small objects
    find one more easily, and would be the more frequent ones."""
    wanted, objects = rng.randint(*has.n_objects), []
    for _ in range(8 * wanted):
        shape, colour, material = triples[bisect(weights, rng.random() * weights[-1])]
        size = SIZES[int(rng.random() * 2)]
        if any(_too_alike(o, (shape, colour, size, material), has.distinct) for o in objects):
            continue
        scale = round(1 + has.vary * (2 * rng.random() - 1), 4)
        thing = SceneObject(
            *(shape, colour, size, material, 0.0, 0.0, scale),
            tilt=round(has.tilt * (2 * rng.random() - 1), 2),
            shade=round(1 + has.vary * (2 * rng.random() - 1), 4),
        )
        where = (place(rng, has, thing.radius) for _ in range(_PLACES))
        found = next((w for w in where if fits_at(w, thing.radius, objects, has.overlap)), None)
        if found is None:
            return []
        objects.append(replace(thing, row=found[0], column=found[1]))
        if len(objects) == wanted:
            break
    return objects


def _too_alike(there: SceneObject, new: tuple[str, str, str, str], distinct: bool) -> bool:
    if distinct and (there.shape == new[0] or there.colour == new[1]):
        return True
    same = (there.shape == new[0]) + (there.colour == new[1]) + (there.size == new[2]) + (there.material == new[3])
    return same > 2

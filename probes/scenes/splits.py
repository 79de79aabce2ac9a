"""Splits of scenes by combination: no shape, colour and material of a test object are seen together in train."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from interp.door import public
from probes.scenes.programs import SceneQuestion
from probes.scenes.questions import ask_many
from probes.scenes.scenes import SPLITS, Scene, combinations, difficulty_number, sample_scene


@dataclass(frozen=True)
class SceneSplit(Sequence[tuple[Scene, list[SceneQuestion]]]):
    """A sequence of (scene, its questions) that makes each item when it is asked for, and keeps none.

    Item ``i`` depends on the name, seed, difficulty, ``pairs``, ``opens`` and ``i`` alone: a longer split begins with
    the shorter one, and items can be made anywhere, in any order.
    """

    name: str
    n: int
    seed: int
    difficulty: float
    pairs: int = 1
    opens: int = 1

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Scene, list[SceneQuestion]]:  # one item; slices are lists
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.n))]
        number = index + self.n if index < 0 else index
        if not 0 <= number < self.n:
            raise IndexError(f"item {index} of {self.n}.")
        rng = random.Random(f"{self.name} {self.seed} {self.difficulty} {number}")
        scene = sample_scene(rng, self.difficulty, self.name)
        return scene, ask_many(scene, rng, self.pairs, self.opens)

    def __iter__(self) -> Iterator[tuple[Scene, list[SceneQuestion]]]:
        return (self[i] for i in range(self.n))


@public
def scene_split(
    name: str, n: int, seed: int = 0, difficulty: str | float = "medium", pairs: int = 1, opens: int = 1
) -> SceneSplit:
    """``n`` scenes of a split, each with its questions, made as they are asked for.

    Every object of a scene is a combination of shape, colour and material that belongs to the split
    (:func:`probes.scenes.split_of`), so the splits share no object, whatever their seeds. "ood" has pairs of shape and
    colour that no other split has, other backgrounds, more noise, more clutter and one object more.

    Args:
        name: "train", "validation", "test" or "ood".
        n: number of scenes.
        seed: of scenes and questions.
        difficulty: "easy", "medium", "hard", or a number from 0 to 1.
        pairs: of a yes and a no, for each level of a scene.
        opens: open questions for each level of a scene.

    Returns: a sequence of (scene, questions).

    Raises:
        ValueError: an unknown name or difficulty, and ``n`` below 1.

    Cost: about 1 ms an item.
    """
    if name not in SPLITS:
        raise ValueError(f"split {name!r}; expected one of {', '.join(SPLITS)}.")
    if n < 1:
        raise ValueError(f"n={n}; expected 1 or more scenes.")
    number = difficulty_number(difficulty)
    combinations(number, name)
    return SceneSplit(name, n, seed, number, pairs, opens)

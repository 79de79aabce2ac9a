"""Pairs written for this project: four tasks whose answer a model must work out from the prompt.

The kinds are the field's: the other of two names (indirect objects, Wang et al. 2022, arXiv 2211.00593), a later year
(greater-than, Hanna et al. 2023, arXiv 2305.00586), agreement of a verb with its subject, and yes/no questions on what
was just said. Names, nouns, things and sentences are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from interp.door import public
from probes.prompt_pairs.pair_rows import PairRow

NAMES = (
    *("Mary", "John", "Anna", "Peter", "Laura", "David", "Alice", "Tom", "Emma", "Paul", "Sarah", "Mark", "Julia"),
    *("James", "Kate", "Robert", "Helen", "George", "Lucy", "Henry", "Jane", "Simon", "Rachel", "Adam"),
)
GIFTS = ("flowers", "money", "books", "food", "letters", "water", "paper", "milk")
NOUNS = (
    *(("key", "keys"), ("book", "books"), ("teacher", "teachers"), ("car", "cars"), ("doctor", "doctors")),
    *(("house", "houses"), ("window", "windows"), ("student", "students"), ("dog", "dogs"), ("picture", "pictures")),
    *(("road", "roads"), ("letter", "letters"), ("king", "kings"), ("tree", "trees"), ("ship", "ships")),
)
BETWEEN = ("near", "behind", "above", "beside")
THINGS = ("ball", "book", "car", "cup", "door", "hat", "house", "lamp", "pen", "ring", "shirt", "table")
COLORS = ("red", "blue", "green", "black", "white", "yellow")
YES_NO = "Answer the question with Yes or No.\nQuestion: "
"""What stands before a yes/no question, as in ``probes.questions.Instruction``."""

IN_VAIN = 100
"""Draws that give a pair that is there already, one after the other, before no more are looked for."""
Drawn = tuple[str, str, str | tuple[str, ...], str | tuple[str, ...]]
"""Clean, corrupt, answer, corrupt answer."""


def _other_name(rng: np.random.Generator, wording: int) -> Drawn:
    """Who was given something: the name that was said once."""
    a, b = rng.choice(NAMES, 2, replace=False)
    first, second = (a, b) if rng.random() < 0.5 else (b, a)
    gift = rng.choice(GIFTS)
    text = ("When {0} and {1} met, {2} gave {3} to", "While {0} and {1} talked, {2} handed {3} to")[wording]
    clean, corrupt = (text.format(first, second, giver, gift) for giver in (b, a))
    return clean, corrupt, str(a), str(b)


def _greater_than(rng: np.random.Generator, wording: int) -> Drawn:
    """The next digit of a later year: digits that are late enough for the clean prompt, and those between the two."""
    century, late, early, unit = rng.integers(11, 20), rng.integers(5, 8), rng.integers(1, 4), rng.integers(1, 9)
    text = ("From {0}{1}{2} to {0}", "The war lasted from {0}{1}{2} to {0}")[wording]
    clean, corrupt = (text.format(century, tens, unit) for tens in (late, early))
    return clean, corrupt, tuple(map(str, range(late, 10))), tuple(map(str, range(early, late)))


def _agreement(rng: np.random.Generator, wording: int) -> Drawn:
    """The verb of a subject behind which another noun stands, half the time of the other number."""
    subject, other = (NOUNS[i] for i in rng.choice(len(NOUNS), 2, replace=False))
    number, of_other = rng.integers(2, size=2)
    text = ("The {0} {1} the {2}", "We know that the {0} {1} the {2}")[wording]
    where = rng.choice(BETWEEN)
    clean, corrupt = (text.format(subject[n], where, other[of_other]) for n in (number, 1 - number))
    verbs = ("is", "are")
    return clean, corrupt, verbs[number], verbs[1 - number]


def _yes_no(rng: np.random.Generator, wording: int) -> Drawn:
    """Is a thing of the color that was just said? The other prompt says another color."""
    thing, color, other = rng.choice(THINGS), *rng.choice(COLORS, 2, replace=False)
    text = ("The {0} is {1}. Is the {0} {2}?", "I have a {1} {0}. Is my {0} {2}?")[wording]
    yes, no = (YES_NO + text.format(thing, said, color) for said in (color, other))
    return (yes, no, "Yes", "No") if rng.random() < 0.5 else (no, yes, "No", "Yes")


TASKS: Mapping[str, Callable[[np.random.Generator, int], Drawn]] = {
    "other_name": _other_name,
    "greater_than": _greater_than,
    "agreement": _agreement,
    "yes_no": _yes_no,
}
"""By name. A task is added by a function of a generator of random numbers and a wording (0 or 1), and a line here."""


@public
def written_pairs(task: str, n: int = 40, *, seed: int = 0, wording: int = 0) -> list[PairRow]:
    """Pairs of one of the written tasks, all different, drawn by a seed.

    Args:
        task: "other_name", "greater_than", "agreement" or "yes_no".
        n: how many; more than are needed, as pairs of unequal lengths and those that a model answers otherwise are
            left out (:func:`build_pairs`).
        seed: of what is drawn.
        wording: 0 or 1: two ways to say the same.

    Returns:
        Rows for :func:`build_pairs`. "yes_no" is meant for the chat template, the others for plain text
        (``interp.load(..., chat=False)``).

    Raises:
        ValueError: an unknown task or wording, and more pairs than there are.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r}; expected one of {', '.join(TASKS)}.")
    if wording not in (0, 1) or n < 1:
        raise ValueError(f"wording={wording}, n={n}; expected 0 or 1, and one pair at least.")
    rng = np.random.default_rng([seed, wording, *task.encode()])
    found: dict[tuple[str, str], PairRow] = {}
    in_vain = 0
    while len(found) < n and in_vain < IN_VAIN:
        clean, corrupt, answer, other = TASKS[task](rng, wording)
        in_vain = in_vain + 1 if (clean, corrupt) in found else 0
        if not in_vain:
            found[clean, corrupt] = PairRow(f"{task}-{wording}-{len(found) + 1}", clean, corrupt, answer, other)
    if len(found) < n:
        raise ValueError(f"{task} has about {len(found)} pairs, and {n} were asked for; ask for fewer.")
    return list(found.values())

"""One word for another in a question ("dog" for "cat", "riding" for "feeding"), by a table or by an LLM."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from interp.door import public
from probes.scenes import LEVELS

ANIMALS = ("dog", "cat", "horse", "cow", "goat", "rabbit", "elephant", "giraffe", "zebra", "bear", "bird", "duck")
VEHICLES = ("car", "truck", "bus", "van", "motorcycle", "bicycle", "boat", "train", "airplane")
INDOOR = (
    "chair",
    "table",
    "bed",
    "lamp",
    "vase",
    "clock",
    "mirror",
    "pillow",
    "bottle",
    "book",
    "cup",
    "bowl",
    "spoon",
)
FOOD = ("apple", "banana", "sandwich", "cake", "carrot", "pizza", "donut")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "gray")

TABLE: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "object": (
        ANIMALS,
        VEHICLES,
        INDOOR,
        FOOD,
        ("man", "woman", "boy", "girl"),
        ("men", "women", "boys", "girls"),
        *(
            tuple(f"{word}es" if word.endswith(("s", "ch")) else f"{word}s" for word in group)
            for group in (ANIMALS, VEHICLES, INDOOR, FOOD)
        ),
    ),
    "attribute": (
        COLOURS,
        ("grey", *COLOURS[:-1]),
        ("wood", "metal", "plastic", "glass", "leather", "stone", "brick", "paper"),
        ("wooden", "metal", "plastic", "glass", "leather", "stone", "brick", "paper"),
    ),
    "relationship": (
        ("to the left of", "to the right of"),
        ("left", "right"),
        ("above", "below"),
        ("in front of", "behind"),
        ("on top of", "under"),
        ("inside", "outside"),
        ("riding", "feeding", "leading", "washing"),
        ("holding", "throwing", "kicking"),
        ("wearing", "carrying", "holding"),
        ("sitting", "standing", "lying"),
        ("walking", "running", "sleeping"),
        ("eating", "drinking", "smelling"),
        ("pushing", "pulling"),
        ("looking at", "walking away from"),
    ),
}
"""Words that can stand for one another, by level: small, written for this project, and no claim to cover a data set."""


@dataclass(frozen=True)
class Substitution:
    """``new`` for ``old``, words of a question.

    Args:
        level: "object", "attribute" or "relationship".
        old, new: a word or a few ("to the left of").
        prompt: what an inpainting pipeline is asked to draw; by default ``new``.

    Raises:
        ValueError: another level, blank words, or equal ones.
    """

    level: str
    old: str
    new: str
    prompt: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level={self.level!r}; expected one of {', '.join(LEVELS)}.")
        if not self.old.strip() or not self.new.strip() or self.old.casefold() == self.new.casefold():
            raise ValueError(f"{self.old!r} -> {self.new!r} changes nothing; expected two different words.")

    @property
    def reverse(self) -> Substitution:
        """``old`` for ``new``; without the prompt, which drew ``new``."""
        return Substitution(self.level, self.new, self.old)

    def occurs_in(self, text: str) -> bool:
        """Whether ``old`` is in ``text`` as whole words, in any case."""
        return occurs(self.old, text)

    def apply(self, text: str) -> str:
        """``text`` with ``new`` wherever ``old`` stands as whole words; capitals are kept, "a" and "an" follow.

        Raises:
            ValueError: ``old`` does not occur.

        >>> Substitution("object", "dog", "elephant").apply("Is there a dog?")
        'Is there an elephant?'
        """
        if not self.occurs_in(text):
            raise ValueError(f"{self.old!r} is not a word of {text!r}; expected a word that the text has.")

        def replaced(match: re.Match[str]) -> str:
            article, word = match.group(1) or "", match.group(2)
            new = self.new.upper() if word.isupper() and len(word) > 1 else self.new
            new = new[0].upper() + new[1:] if word[0].isupper() else new
            if article:
                fitting = "an" if self.new[0].lower() in "aeiou" else "a"
                article = (fitting.capitalize() if article[0].isupper() else fitting) + article.lstrip("aAnN")
            return article + new

        pattern = rf"(?<![\w-])(?:((?:an?)\s+)?({_words(self.old)}))(?![\w-])"
        return re.sub(pattern, replaced, text, flags=re.IGNORECASE)


Giver = Callable[[str, str], "Substitution | tuple[str, str]"]
"""A question and a level to a substitution, or to (old, new): an LLM, for example. What it gives is checked."""


def occurs(word: str, text: str) -> bool:
    """Whether the word or words stand in the text on their own: "red" is not in "scared" nor in "red-haired"."""
    return re.search(rf"(?<![\w-]){_words(word)}(?![\w-])", text, flags=re.IGNORECASE) is not None


@public
def substitution_for(question: str, level: str, source: Giver | None = None, seed: int = 0) -> Substitution:
    """One substitution that the question can take at this level, from a small table of words or from a callable.

    From the table: the longest of its words that the question has (of equally long ones the first), and in its place
    one of the words of its group that the question does not have. V-SEAM (arXiv 2509.14837) has GPT-4o write it from
    ten examples; pass such a model as ``source``.

    Args:
        question: whose word is replaced.
        level: "object", "attribute" or "relationship".
        source: gets question and level, and gives a substitution or (old, new); by default the table.
        seed: with the question, draws among the table's words.

    Raises:
        ValueError: the question has no word of the table, or what ``source`` gives does not fit: ``old`` must be in the
            question, ``new`` must not.

    >>> substitution_for("Is the woman riding the horse?", "relationship").old
    'riding'
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r}; expected one of {', '.join(LEVELS)}.")
    if source is None:
        return _from_table(question, level, seed)
    given = source(question, level)
    if isinstance(given, tuple) and len(given) == 2:
        given = Substitution(level, *given)
    if not isinstance(given, Substitution) or given.level != level:
        raise ValueError(f"source gave {given!r} for {question!r}; expected (old, new) or a Substitution of {level!r}.")
    if not given.occurs_in(question) or occurs(given.new, question):
        raise ValueError(
            f"source gave {given.old!r} -> {given.new!r} for {question!r}; expected a word of the question, and one "
            "that it does not have. Ask again, or leave the question out."
        )
    return given


def _from_table(question: str, level: str, seed: int) -> Substitution:
    found: list[tuple[int, int, str, tuple[str, ...]]] = []
    for group in TABLE[level]:
        for word in group:
            match = re.search(rf"(?<![\w-]){_words(word)}(?![\w-])", question, flags=re.IGNORECASE)
            others = tuple(other for other in group if not occurs(other, question))
            if match and others:
                found.append((-len(word), match.start(), word, others))
    if not found:
        raise ValueError(
            f"no word of {question!r} is in the table for level {level!r}. Give a Substitution, or a callable as "
            "source=."
        )
    _, _, old, others = min(found, key=lambda f: f[:2])
    return Substitution(level, old, random.Random(f"{seed}|{question}").choice(others))


def _words(text: str) -> str:
    return r"\s+".join(re.escape(word) for word in text.split())

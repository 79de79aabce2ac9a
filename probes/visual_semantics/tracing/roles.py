"""The role of every position of a question about a picture, so that questions of unlike wording can be averaged.

V-SEAM's release (arXiv 2509.14837) averages token by token after padding its questions on the right: the fifth token is
the concept word of one question and an article of the next. Here positions are lined up by what they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from interp.overlays import patch_positions
from probes.scenes.programs import PHRASE, SceneQuestion

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

PICTURE, EDITED, OTHERS = "whole picture", "edited patches", "other patches"
BEFORE, CONCEPT, AFTER = "question before the concept", "concept word", "question after the concept"
TEMPLATE, LAST, TEXT = "template after the question", "last token", "all text after the picture"
ROLES = (PICTURE, EDITED, OTHERS, BEFORE, CONCEPT, AFTER, TEMPLATE, LAST, TEXT)
"""In the order of the prompt. The last token is the position from which the answer is read; "all text" holds it too."""

_NAMED = {"shape": "shape", "colour": "colour", "size": "size", "material": "pattern"}


def concept_word(question: SceneQuestion) -> tuple[int, int] | None:
    """Where the word for what is asked stands in the question's text: [start, end) in characters.

    The thing whose presence is asked ("Is there a red **star**?"), the value that is supposed ("Is the star **red**?",
    "Is the star **left** of the circle?"), the attribute that is asked for ("What **colour** is the star?"), the side
    ("What is **left** of the circle?", "**Where** is the star, ...?"). None if the text has no such word.
    """
    if question.asked == "exists":
        return word_in(question.text, question.of.shape)
    if question.value is not None:
        if question.asked == "relation":
            return word_in(question.text, PHRASE[question.value].split()[0])
        return word_in(question.text, question.value, last=True)
    if question.asked == "relation":
        return word_in(question.text, "Where")
    if question.level == "relationship":
        return word_in(question.text, PHRASE[question.of.side].split()[0])
    return word_in(question.text, _NAMED[question.asked])


def word_in(text: str, word: str | None, last: bool = False) -> tuple[int, int] | None:
    """The first (or ``last``) place of a whole ``word`` in a ``text``, in either case.

    Returns:
        where it begins and ends, in characters; None if it is not there.
    """
    if not word:
        return None
    found = list(re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text, flags=re.IGNORECASE))
    return found[-1 if last else 0].span() if found else None


def roles_of(
    model: Model,
    prompt: Prompt,
    question: str,
    concept: tuple[int, int],
    region: Bool[np.ndarray, "height width"] | None,
) -> dict[str, tuple[int, ...]]:
    """Positions of each of :data:`ROLES`; () for a role that this prompt has no position for.

    ``concept``: characters in ``question``, the words of the prompt's span "question". ``region``: the edited pixels;
    patches that it touches are "edited", the rest are "other". Without one, or where image positions are no patches
    (``grid`` None), there are neither. A picture's special tokens (frames, row ends) and what stands before it, which
    is the same in twins, are in no role.
    """
    image = prompt.span("image")
    edited, others = (), ()
    if region is not None and prompt.image.grid is not None:
        edited = patch_positions(model, prompt, region)
        others = tuple(p for p in image if p not in set(edited))
    asked = characters(prompt, question)
    within = tuple(p for p, (low, high) in asked.items() if low < concept[1] and high > concept[0])
    if not within:
        raise ValueError(
            f"question {question!r}: no token of its prompt holds {question[slice(*concept)]!r}; was the prompt built "
            "from this question?"
        )
    last = prompt.answer_position
    text = [p for p in prompt.span("after_image") if p != last]
    after_question = max(asked) + 1
    return {
        PICTURE: image,
        EDITED: edited,
        OTHERS: others,
        BEFORE: tuple(p for p in text if p < within[0]),
        CONCEPT: within,
        AFTER: tuple(p for p in text if within[-1] < p < after_question),
        TEMPLATE: tuple(p for p in text if p >= after_question),
        LAST: (last,),
        TEXT: (*text, last),
    }


def characters(prompt: Prompt, question: str) -> Mapping[int, tuple[int, int]]:
    """Characters of the question that each of its tokens holds, by position."""
    start = prompt.text.rfind(question)
    places, cursor = {}, max(0, start - 1)  # a token may begin with the space before the question
    for position in prompt.span("question"):
        token = prompt.tokens[position]
        at = prompt.text.find(token, cursor)
        if token and at >= 0:
            places[position] = (at - start, at + len(token) - start)
            cursor = at + len(token)
    return places

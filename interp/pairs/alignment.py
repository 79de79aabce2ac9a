"""Which position of a corrupt prompt is the same thing as one of the clean one, where they are not of one length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from interp.prompts import Prompt

Places = tuple[int, ...]
"""For each position of one prompt, a position of the other."""
DIFFERING = "differing"


def aligned_places(one: Prompt, other: Prompt, by: str | Sequence[str]) -> Places:
    """For each position of one prompt, the position of the other that is the same thing.

    Both are cut into parts that correspond. Inside a part the last tokens go together (a name that is longer begins
    earlier; what it has more than the other goes with the other's first token); outside, the two must be as long.

    Args:
        one, other: prompts.
        by: "differing": the part is what stands between the common beginning and the common end. Else names of spans
            that both prompts have, each a part.

    Raises:
        ValueError: a span that a prompt lacks, that has gaps or overlaps another, parts that stand in another order,
            tokens outside the parts that are not as many in both, and a part that is empty in the other prompt alone.

    >>> aligned_places(of(1, 2, 3, 9), of(1, 7, 9), "differing")  # 2 3 stand where 7 does
    (0, 1, 1, 2)
    """
    parts = [_differing(one, other)] if by == DIFFERING else _spans(one, other, [by] if isinstance(by, str) else by)
    places: list[int] = []
    at = 0  # of the other prompt
    for (start, end), (other_start, other_end) in [*parts, ((len(one), len(one)), (len(other), len(other)))]:
        if start - len(places) != other_start - at:
            raise ValueError(
                f"{start - len(places)} tokens before position {start} of {_called(one)} go with {other_start - at} of "
                f"{_called(other)}; outside the parts that are aligned the two must have as many."
            )
        if end > start and other_end == other_start:
            raise ValueError(
                f"positions {start} to {end - 1} of {_called(one)} go with nothing in {_called(other)}; expected a "
                "token there."
            )
        places += range(at, other_start)
        places += [max(other_start, other_end - (end - position)) for position in range(start, end)]
        at = other_end
    return tuple(places)


Part = tuple[tuple[int, int], tuple[int, int]]
"""Start and end in one prompt, and in the other."""


def _differing(one: Prompt, other: Prompt) -> Part:
    """Between the common beginning and the common end; the first token of what is longer goes along, where one of the
    two has nothing there."""
    a, b = one.token_ids, other.token_ids
    shorter = min(len(a), len(b))
    begin = next((i for i in range(shorter) if a[i] != b[i]), shorter)
    end = next((i for i in range(shorter - begin) if a[-1 - i] != b[-1 - i]), shorter - begin)
    if begin and begin in (len(a) - end, len(b) - end):  # something was put in: it goes with the token before it
        begin -= 1
    return (begin, len(a) - end), (begin, len(b) - end)


def _spans(one: Prompt, other: Prompt, names: Sequence[str]) -> list[Part]:
    found = sorted((_span(one, name), _span(other, name)) for name in names)
    for (first, of_other), (second, next_of_other) in pairwise(found):
        if second[0] < first[1] or next_of_other[0] < of_other[1]:
            raise ValueError(f"the spans {list(names)} overlap, or stand in another order in {_called(other)}.")
    return found


def _span(prompt: Prompt, name: str) -> tuple[int, int]:
    positions = prompt.spans.get(name)
    if not positions or tuple(positions) != tuple(range(positions[0], positions[-1] + 1)):
        raise ValueError(f"{_called(prompt)} has no span {name!r} in one piece; it has {sorted(prompt.spans)}.")
    return positions[0], positions[-1] + 1


def _called(prompt: Prompt) -> str:
    return f"prompt {prompt.id!r}" if prompt.id else "a prompt"

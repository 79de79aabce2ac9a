"""Pairs of prompts: what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interp.pairs import PromptPairs, aligned_places
from interp.prompts import Prompt

PAIRS = PromptPairs.from_token_ids([(1, 2), (1, 3)], [(1, 3), (1, 2)], [(5, 6), (6, 5)])


def test_pairs_have_clean_and_corrupt_answers():
    assert len(PAIRS) == 2 and PAIRS.clean[0].gold == "clean" and PAIRS.corrupt[1].answer_tokens("corrupt") == (5,)
    assert PAIRS.reversed().clean == PAIRS.corrupt and len(PAIRS[:1]) == 1


@pytest.mark.parametrize(
    "clean, corrupt, answers, message",
    [
        ([(1, 2)], [(1, 2, 3)], [(5, 6)], "2 tokens and the corrupt one 3.*align="),
        ([(1, 2)], [(1, 2)], [(5, 6)], "equals the clean one"),
        ([(1, 2)], [(1, 3)], [(5, 5)], "both answers are token 5"),
        ([], [], [], "one pair at least"),
        ([(1, 2)], [(1, 3), (1, 4)], [(5, 6)], "expected as many"),
    ],
)
def test_pairs_that_say_nothing_are_refused(clean, corrupt, answers, message):
    with pytest.raises(ValueError, match=message):
        PromptPairs.from_token_ids(clean, corrupt, answers)


def test_prompts_without_two_answers_are_refused():
    with pytest.raises(ValueError, match="expected the same two"):
        PromptPairs((Prompt.from_token_ids((1, 2)),), (Prompt.from_token_ids((1, 3)),))


def of(*ids, **spans):
    return replace(Prompt.from_token_ids(ids, {"clean": (5,), "corrupt": (6,)}), spans=spans)


@pytest.mark.parametrize(
    "one, other, by, places",
    [
        (of(1, 2, 9), of(1, 3, 9), "differing", (0, 1, 2)),
        (of(1, 2, 3, 9), of(1, 7, 9), "differing", (0, 1, 1, 2)),  # the last of what differs go together
        (of(1, 7, 9), of(1, 2, 3, 9), "differing", (0, 2, 3)),
        (of(1, 9), of(1, 4, 9), "differing", (1, 2)),  # what was put in goes with the token before it
        (of(1, 4, 9), of(1, 9), "differing", (0, 0, 1)),
        (of(1, 2, 3, 8, 9, name=(1, 2)), of(1, 7, 8, 9, name=(1,)), ("name",), (0, 1, 1, 2, 3)),
        (of(1, 2, 3, a=(0, 1), b=(2,)), of(4, 5, 6, a=(0,), b=(1, 2)), ("b", "a"), (0, 0, 2)),
    ],
)
def test_positions_that_are_the_same_thing(one, other, by, places):
    assert aligned_places(one, other, by) == places
    assert len(aligned_places(other, one, by)) == len(other)


@pytest.mark.parametrize(
    "one, other, by, message",
    [
        (of(1, 2, name=(0,)), of(1, 3), ("name",), "has no span 'name'"),
        (of(1, 2, 3, name=(0, 2)), of(1, 2, 4, name=(0,)), "name", "in one piece"),
        (of(1, 2, 3, name=(2,)), of(1, 2, name=(1,)), ("name",), "must have as many"),
        (of(1, 2, a=(0,), b=(1,)), of(1, 3, a=(1,), b=(0,)), ("a", "b"), "in another order"),
    ],
)
def test_prompts_that_can_not_be_aligned_are_refused(one, other, by, message):
    with pytest.raises(ValueError, match=message):
        PromptPairs((one,), (other,), by)


def test_pairs_of_unequal_lengths_with_a_way_to_align_them():
    pairs = PromptPairs((of(1, 2, 3, 9),), (of(1, 7, 9),), "differing")
    assert pairs.places(0) == (0, 1, 1, 2) and pairs.reversed().places(0) == (0, 2, 3)
    assert pairs[:1].align == "differing"

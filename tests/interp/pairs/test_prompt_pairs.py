"""Pairs of prompts: what is refused."""

from __future__ import annotations

import pytest

from interp.pairs import PromptPairs
from interp.prompts import Prompt

PAIRS = PromptPairs.from_token_ids([(1, 2), (1, 3)], [(1, 3), (1, 2)], [(5, 6), (6, 5)])


def test_pairs_have_clean_and_corrupt_answers():
    assert len(PAIRS) == 2 and PAIRS.clean[0].gold == "clean" and PAIRS.corrupt[1].answer_tokens("corrupt") == (5,)
    assert PAIRS.reversed().clean == PAIRS.corrupt and len(PAIRS[:1]) == 1


@pytest.mark.parametrize(
    "clean, corrupt, answers, message",
    [
        ([(1, 2)], [(1, 2, 3)], [(5, 6)], "2 tokens and the corrupt one 3"),
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

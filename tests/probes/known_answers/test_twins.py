"""The trained twins: tasks worked out by hand, and what training has reached."""

from __future__ import annotations

import numpy as np
import pytest

from probes.known_answers import load_known
from probes.known_answers.twins import twin_names
from probes.known_answers.twins.tasks import TASKS

EXAMPLES = {
    "other_name": ("BOS C F C END", "F"),
    "flagged_copy": ("BOS low a low b raised c low d END", "c"),
    "comparison": ("BOS 4 2 fewer END", "No"),
    "lookup": ("BOS y a x b z c x END", "b"),
}


def ids(task, text):
    return np.array([[task.vocabulary.index(token) for token in text.split()]])


@pytest.mark.parametrize("name", TASKS)
def test_a_task_gives_the_answer(name):
    task, (text, answer) = TASKS[name], EXAMPLES[name]
    assert task.vocabulary[task.answers(ids(task, text))[0]] == answer
    rows = task.sample(200, np.random.default_rng(0))
    assert len(np.unique(task.answers(rows))) > 1


def test_a_variable_that_is_given_changes_the_answer():
    task = TASKS["other_name"]
    row = ids(task, "BOS C F C END")
    assert task.vocabulary[task.answers(row, {"repeated": np.array([1])})[0]] == "C"
    assert task.vocabulary[task.answers(row, {"other_name": np.array([7])})[0]] == task.vocabulary[7]


@pytest.mark.parametrize("name", twin_names())
def test_a_twin_answers_right_and_its_card_says_how_well_it_was_trained(name):
    twin = load_known(name)
    assert twin.right(300) > 0.97
    right = twin.card["right"]
    assert set(right) == {"behaviour", "interchange", "strictness"} and right["behaviour"] > 0.97
    assert set(twin.heads) == set(TASKS[twin.card["task"]].names)

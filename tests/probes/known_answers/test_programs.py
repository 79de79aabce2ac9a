"""The compiled programs: they do what they say, and their heads are the ones that matter."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from probes.known_answers import load_known
from probes.known_answers.programs import PROGRAMS, program_names

EXAMPLES = {  # worked out by hand
    "induction": ("abcdefb", "c"),
    "two_hops": ("abcdefb", "d"),
    "three_hops": ("abcdefb", "e"),
    "four_hops": ("abcdefb", "f"),
    "two_back": ("abcde", "c"),
    "three_back": ("abcde", "b"),
    "after_flag": ("ab!dea", "d"),
    "just_one": ("adda", "yes"),
    "as_many": ("abbac", "yes"),
    "same_again": ("abcab", "no"),
    "alone": ("abcba", "c"),
    "smallest": ("dcbef", "b"),
    "middle": ("fabed", "d"),
    "next_to_flag": ("ab!dea", "d"),
    "not_smallest": ("ebacd", "no"),
}


@pytest.fixture(scope="module")
def known():
    return {name: load_known(name) for name in program_names()}


def test_there_are_enough_of_them_of_both_kinds():
    assert set(program_names()) == set(PROGRAMS) == set(EXAMPLES) and len(PROGRAMS) >= 12
    assert {program.causal for program in PROGRAMS.values()} == {True, False}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_program_gives_what_its_question_asks_for(name):
    tokens, answer = EXAMPLES[name]
    assert PROGRAMS[name].run(list(tokens))["answer"][-1] == answer


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_compiled_model_answers_as_its_program(known, name):
    assert known[name].right(100) == 1.0
    assert 2 <= known[name].model.n_layers <= 5


@pytest.mark.parametrize("name", ["three_hops", "as_many", "not_smallest"])
def test_its_heads_matter_and_no_other_does(known, name):
    model = known[name]
    prompts = list(model.pairs(12).clean)
    scan = interp.scan(model.model, prompts, interp.ablate_each_head("zero"), positions="all", read_mass=False)
    effect = np.abs(scan.drop).mean(0).reshape(model.truth.shape)
    assert effect[model.truth].min() > 2
    assert effect[~model.truth].max() < 1e-2


def test_a_program_that_sees_both_ways_does(known):
    smallest = known["smallest"]
    assert smallest.model.hf.config.is_causal is False
    ids = [smallest.card["vocabulary"].index(token) for token in ["BOS", "b", "a", "d", "c"]]
    states = interp.Prompt.from_token_ids(ids)
    assert smallest.card["vocabulary"][int(smallest.model.final_logits([states])[0].argmax())] == "=a"


def test_exchanging_a_head_s_output_is_exchanging_its_variable(known):
    """One head patched gives the answer that the program gives with that variable taken from there."""
    model = known["two_hops"]
    pairs = model.pairs(10)
    rows, others = (np.array([p.token_ids for p in side]) for side in (pairs.clean, pairs.corrupt))
    scan = interp.scan(
        model.model, list(pairs.clean), interp.patch_each_head(pairs.corrupt), positions="all", read_mass=False
    )
    for name, (layer, head) in model.heads.items():
        given = {name: model.task.variables(others, {})[name]}
        answers = model.task.answers(rows, given)
        value = scan.values[:, layer * model.model.n_heads + head]
        right, wrong = (np.array([p.answer_tokens(key)[0] for p in pairs.clean]) for key in ("clean", "corrupt"))
        assert (value[answers == right] > 1).all() and (value[answers == wrong] < -1).all()

"""Derived forms: what they ask, that twins are balanced, that a wrong candidate is wrong, that overlap is seen."""

import pytest

from probes.negative_bias.nasa import require_disjoint
from probes.questions.forms import as_candidates, with_facts
from probes.questions.questions import load_questions, split_questions


def test_facts_become_the_passage():
    questions = load_questions(limit=20)
    derived = with_facts(questions)
    assert [q.context for q in derived] == [q.fact for q in questions] and all(q.context for q in derived)
    assert [q.pair for q in derived] == [q.id for q in questions]
    assert {q.domain for q in derived} == {f"{q.domain} with facts" for q in questions}


def test_candidates_are_twins_and_the_wrong_one_is_wrong():
    questions = load_questions()
    derived = as_candidates(questions)
    assert len(derived) > 900 and sum(q.answer == "Yes" for q in derived) * 2 == len(derived)
    by_id = {q.id: q for q in questions}
    for yes, no in zip(derived[::2], derived[1::2], strict=True):
        source = by_id[yes.pair]
        assert yes.pair == no.pair and f'"{source.open_answer}"' in yes.text
        right = {a.lower() for a in (source.open_answer, *source.open_aliases)}
        assert no.text.rsplit('"', 2)[1].lower() not in right
    assert as_candidates(questions) == derived


def test_overlap_of_a_form_with_its_question_is_seen():
    questions = load_questions(limit=20)
    with pytest.raises(ValueError, match=r"\+facts"):
        require_disjoint(questions, with_facts(questions[:2]))
    parts = split_questions(questions)
    require_disjoint([*parts["probe"], *as_candidates(parts["probe"])], with_facts(parts["test"]))

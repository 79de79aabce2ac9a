"""The same knowledge asked in other forms: with a passage, or as a candidate answer to accept or reject.

What is derived from a question names it in ``pair``, so that a check of overlap sees them as one. Derive after
splitting: a split can't see that a question and its derivation belong together.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from probes.questions.formats import wrong_number
from probes.questions.open_answers import tokens
from probes.questions.questions import Question


def with_facts(questions: Sequence[Question]) -> list[Question]:
    """Each question that has a fact, asked with it as the passage. Domain: the question's, with "with facts"."""
    return [
        replace(q, id=f"{q.id}+facts", context=q.fact, domain=f"{q.domain} with facts", pair=q.pair or q.id)
        for q in questions
        if q.fact
    ]


def as_candidates(questions: Sequence[Question], seed: int = 0) -> list[Question]:
    """Each question that has an open form as twins: ``<open question> Is the answer "<candidate>"?``, asked of the
    right answer (Yes) and of a wrong one (No): for a number a near one, else another answer of the same domain.

    The transformation that arXiv 2408.00137 makes of short-answer sets; wording and candidates are ours.
    """
    found = []
    for question in questions:
        if not question.open_question or not question.open_answer:
            continue
        wrong = _wrong(question, questions, random.Random(f"{seed}|{question.id}"))
        if wrong is None:
            continue
        for answer, candidate in (("Yes", question.open_answer), ("No", wrong)):
            found.append(
                replace(
                    question,
                    id=f"{question.id}-{answer.lower()}",
                    text=f'{question.open_question} Is the answer "{candidate}"?',
                    answer=answer,
                    domain=f"{question.domain} as candidates",
                    fact="",
                    pair=question.pair or question.id,
                )
            )
    return found


def _wrong(question: Question, questions: Sequence[Question], rng: random.Random) -> str | None:
    try:
        return wrong_number(question.open_answer, rng)
    except ValueError:
        right = {tuple(tokens(a)) for a in (question.open_answer, *question.open_aliases)}
        others = [
            q.open_answer
            for q in questions
            if q.domain == question.domain and q.open_answer and tuple(tokens(q.open_answer)) not in right
        ]
        return rng.choice(others) if others else None

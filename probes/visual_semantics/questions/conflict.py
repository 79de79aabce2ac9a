"""Questions whose text says one thing and whose picture another: a leading hint, or a false premise."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from interp.door import public
from interp.door.brief import brief
from probes.visual_semantics.questions.asked import Asked
from probes.visual_semantics.questions.prompts import VisualExamples

HINT = "I think the answer is {answer}."


@dataclass(frozen=True, eq=False)
class Conflict:
    """The same questions three times: ``plain``, after a wrong hint (``conflict``), after a right one (``agree``), in
    one order. ``hinted``: the wrong answer of each, by the plain question's id. ``wording``: of the hint; "" where each
    has its own."""

    plain: VisualExamples
    conflict: VisualExamples
    agree: VisualExamples
    hinted: Mapping[str, str]
    wording: str

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.plain)

    def both(self) -> VisualExamples:
        """Conflict and plain questions in one sequence, to choose on: what mends the first is not to spoil the
        second."""
        return VisualExamples([*self.conflict.asked, *self.plain.asked], self.plain._build, self.plain.left_out)


@public
def conflicts(
    examples: VisualExamples,
    wording: str | Mapping[str, str] = HINT,
    *,
    hinted: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Conflict:
    """Put a wrong hint before each question, and a right one as control.

    Args:
        examples: questions with pictures, which have options.
        wording: a sentence with ``{answer}`` in it; or each question's own sentence, by id, such as a false premise
            ("The star is blue."): then ``hinted`` says what it suggests, and there is no right hint: the control is the
            question after the words "{answer}" of :data:`HINT`.
        hinted: the wrong answer that is suggested, by the question's id; by default another of its options, drawn by
            ``seed`` (of yes/no questions the other one).
        seed: of the draw.

    Returns: three sequences of as many questions, in one order.

    Raises:
        ValueError: no questions, a question without another option, a hint that agrees with the picture, a hinted
            answer that is none of the options, a wording without ``{answer}``, and sentences without ``hinted``.

    Cost: none; prompts are built when they are read.
    Source: ours; the question is that of object hallucination (POPE, arXiv 2305.10355) asked with a leading text.
    """
    if not len(examples):
        raise ValueError("no questions were given; a conflict needs at least one.")
    own = not isinstance(wording, str)
    if not own and "{answer}" not in wording:
        raise ValueError(f"wording={wording!r}; expected a sentence with {{answer}} in it.")
    if own and hinted is None:
        raise ValueError("sentences of your own were given without hinted=; say which answer each of them suggests.")
    rng, wrong = random.Random(f"conflict {seed}"), {}
    for q in examples.asked:
        wrong[q.id] = _wrong(q, rng) if hinted is None else _given(q, hinted)

    def after(name: str, q: Asked, answer: str) -> Asked:
        said = wording.get(q.id) if own and name == "conflict" else None
        if own and name == "conflict" and not said:
            raise ValueError(f"question {q.id!r} has no sentence in wording; expected one for each question.")
        said = said or (HINT if own else wording).format(answer=answer)
        return replace(q, id=f"{q.id}-{name}", question_text=f"{said} {q.question_text}")

    def made(name: str, answers: Mapping[str, str]) -> VisualExamples:
        asked = [after(name, q, answers[q.id]) for q in examples.asked]
        return VisualExamples(asked, examples._build, examples.left_out)

    right = {q.id: q.gold for q in examples.asked}
    return Conflict(examples, made("conflict", wrong), made("agree", right), wrong, "" if own else wording)


def _wrong(q: Asked, rng: random.Random) -> str:
    others = [o for o in q.options if o.casefold() != q.gold.casefold()]
    if not others:
        raise ValueError(
            f"question {q.id!r} has no option but {q.gold!r}: there is nothing wrong to suggest. Give hinted=, or "
            "questions with options."
        )
    return rng.choice(others)


def _given(q: Asked, hinted: Mapping[str, str]) -> str:
    if q.id not in hinted:
        raise ValueError(f"question {q.id!r} has no answer in hinted; expected one for each question.")
    answer = hinted[q.id]
    if answer.casefold() == q.gold.casefold():
        raise ValueError(
            f"question {q.id!r}: the hint {answer!r} agrees with the picture, whose answer is {q.gold!r}; that is no "
            "conflict. Suggest another answer."
        )
    if q.options and answer not in q.options:
        raise ValueError(f"question {q.id!r}: the hint {answer!r} is none of its options {', '.join(q.options)}.")
    return answer

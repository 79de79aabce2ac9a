"""Which questions may be fitted on and which are kept for testing, from one or several sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from probes.questions.questions import Question, load_questions, sample_questions, split_questions
from probes.rows import AS_IT_IS, Reading, stem_of

HELD_OUT = "held out"  # the name of the set that is kept back from the sources themselves
LEAST_QUESTIONS = 20  # questions of a training or validation set


@dataclass(frozen=True)
class Sets:
    """Questions to train on, to validate with, and to test on, by name. No question is in two of the three, nor are
    two on one passage or of one pair of the same source. ``n_repeated``: copies that were left out for that."""

    training: list[Question]
    validation: list[Question]
    tests: dict[str, list[Question]]
    n_repeated: int = 0


def divide(
    sources: Sequence[str],
    test_sources: Sequence[str] = (),
    *,
    limit: int | None = None,
    seed: int = 0,
    reading: Reading = AS_IT_IS,
) -> Sets:
    """Divide the questions of all ``sources`` with ``split_questions`` by ``seed``; ``test_sources`` are further tests.

    ``limit`` is the most training questions; a third as many validate (20 at least) and half as many are in each test,
    all drawn balanced. A question that stands in the sources twice is kept once, where it is fitted on. ``reading``:
    how the files are read.

    Raises ``ValueError`` for a source given twice, for ids that two sources share, and for a test source with questions
    that are fitted on, naming them.
    """
    given = [*sources, *test_sources]
    if twice := sorted({source for source in given if given.count(source) > 1}):
        raise ValueError(f"{', '.join(map(repr, twice))} is given more than once; give each source of questions once.")
    questions: list[Question] = []
    for source in sources:
        more = _read(source, reading, seed)
        if shared := sorted({q.id for q in questions} & {q.id for q in more}):
            raise ValueError(
                f"{source!r} has ids of another source: {_some(shared)}. If the questions are others, rename the file "
                "or give them ids of their own; else leave one of the two out."
            )
        questions += more
    parts = split_questions(questions, seed=seed)
    training, validation = parts["probe"], _without(parts["validation"], parts["probe"])
    held_out = _without(parts["test"], [*training, *validation])
    n_repeated = len(questions) - len(training) - len(validation) - len(held_out)
    if limit is not None:
        training = sample_questions(training, limit, seed)
        validation = sample_questions(validation, max(LEAST_QUESTIONS, limit // 3), seed)
    tests = {HELD_OUT: held_out}
    for source in test_sources:
        name = stem_of(source) if stem_of(source) not in tests else source
        tests[name] = _read(source, reading, seed)
        if seen := overlap(tests[name], [*training, *validation]):
            raise ValueError(
                f"{len(seen)} questions of the test set {source!r} are fitted on (the same id, pair, or text): "
                f"{_some(seen)}. Test on others; a part of every source of training questions is kept back for that."
            )
    if limit is not None:
        tests = {name: sample_questions(test, max(2, limit // 2), seed) for name, test in tests.items()}
    return Sets(training, validation, tests, n_repeated)


def _read(source: str, reading: Reading, seed: int) -> list[Question]:
    how = reading.of(source)
    return load_questions(source, seed=seed, format=how.format, columns=how.columns)


def overlap(questions: Sequence[Question], others: Sequence[Question]) -> list[str]:
    """Ids of the questions that are among the others or are their twins: by id, pair, open question, or text and
    passage."""
    known = {name for q in others for name in marks(q)}
    return [q.id for q in questions if marks(q) & known]


def marks(question: Question) -> set[str | tuple[str, str]]:
    """What tells that two questions are the same or twins: they share at least one of these."""
    texts = {question.text, question.open_question} - {""}
    return {question.id, question.pair} - {""} | {(text.strip().lower(), question.context) for text in texts}


def apart_from(questions: Sequence[Question], ids: Iterable[str]) -> list[Question]:
    """The questions other than those with these ids, their twins, and questions on the same passages."""
    known = set(ids)
    seen = [q for q in questions if q.id in known]
    contexts, gone = {q.context for q in seen if q.context}, known | set(overlap(questions, seen))
    return [q for q in questions if q.id not in gone and q.context not in contexts]


def _without(questions: Sequence[Question], others: Sequence[Question]) -> list[Question]:
    gone = set(overlap(questions, others))
    return [q for q in questions if q.id not in gone]


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:10]) + (" ..." if len(ids) > 10 else "")


def require_probing_set(name: str, questions: Sequence[Question]) -> None:
    """Raise ``ValueError`` for fewer than 20 questions or for one class only."""
    n_yes = sum(q.answer == "Yes" for q in questions)
    if len(questions) < LEAST_QUESTIONS:
        raise ValueError(
            f"the {name} set has {len(questions)} questions; expected at least {LEAST_QUESTIONS}. Give more."
        )
    if n_yes in (0, len(questions)):
        only = "Yes" if n_yes else "No"
        raise ValueError(
            f"all {len(questions)} {name} questions have the gold answer {only}; precision and recall need both, and "
            "tuning on one class only teaches that word. Add questions of the other."
        )

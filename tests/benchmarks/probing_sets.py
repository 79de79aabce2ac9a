"""The questions of the negative-bias evaluation: what is trained on, validated on, and held out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from probes.questions.forms import as_candidates, with_facts
from probes.questions.instructions import Instruction
from probes.questions.questions import Question, load_questions, split_questions
from tests.benchmarks.known_questions import MADE, known_questions

SEEN = ("facts", "arithmetic", "common_sense")  # domains of the shipped questions that are trained on
Sets = dict[str, list[Question]]


def balanced(questions: Sequence[Question], n: int, seed: int = 0) -> list[Question]:
    """n questions, half Yes and half No, in a shuffled order; twins may part."""
    rng = random.Random(seed)
    sides = [[q for q in questions if q.answer == gold] for gold in ("Yes", "No")]
    for side in sides:
        rng.shuffle(side)
    chosen = [q for side in sides for q in side[: n // 2]]
    rng.shuffle(chosen)
    return chosen


def twins(questions: Sequence[Question], n: int, seed: int = 0) -> list[Question]:
    """n questions as whole pairs."""
    names = sorted({q.pair for q in questions})
    random.Random(seed).shuffle(names)
    kept = set(names[: n // 2])
    return [q for q in questions if q.pair in kept]


def by_subject(questions: Sequence[Question], n: int, seed: int = 0) -> list[Question]:
    """The questions of n subjects: twins share an open form, which is asked once."""
    names = sorted({q.subject for q in questions})
    random.Random(seed).shuffle(names)
    kept = set(names[:n])
    return [q for q in questions if q.subject in kept]


def shipped() -> tuple[Sets, list[Question]]:
    """The shipped questions of the seen domains, split, and those of the unseen domains."""
    questions = load_questions()
    seen = split_questions([q for q in questions if q.domain in SEEN], {"training": 0.7, "validation": 0.3})
    return seen, [q for q in questions if q.domain not in SEEN]


def probing_sets(strategyqa: Path) -> tuple[list[Question], list[Question], list[Question]]:
    """Training and validation questions in four forms each, and what of StrategyQA is left for tests."""
    parts = split_questions(load_questions(strategyqa), {"training": 0.4, "validation": 0.1, "test": 0.5})
    seen, _ = shipped()

    def mixed(part: str, n: int) -> list[Question]:
        drawn = balanced(parts[part], 3 * n)
        open_form = balanced(seen[part], 2 * n)
        return [
            *drawn[: 2 * n],
            *with_facts(drawn[2 * n :]),
            *open_form[:n],
            *as_candidates(open_form[n:])[:n],
        ]

    return mixed("training", 80), mixed("validation", 26), parts["test"]


def held_out(directory: Path, strategyqa_test: Sequence[Question], share: float = 1.0) -> Sets:
    """The sets that no method saw, or a ``share`` of each, for a slow model."""
    _, unseen = shipped()
    plain = balanced(strategyqa_test, round(200 * share))
    ids = {q.id for q in plain}
    return {
        "StrategyQA": plain,
        "StrategyQA with facts": with_facts(
            balanced([q for q in strategyqa_test if q.id not in ids], round(80 * share), seed=1)
        ),
        "shipped, unseen domains": balanced(unseen, round(200 * share)),
        "GSM8K": twins(load_questions(directory / "gsm8k.jsonl"), round(100 * share)),
        "AR-LSAT": twins(load_questions(directory / "ar_lsat.jsonl"), round(60 * share)),
    }


def known_sets(directory: Path, n: int = 60) -> dict[str, dict[str, list[Question]]]:
    """Sets that small models know something of, each split into training, validation and test by whole pairs: what code
    makes for this project, asked as it is and as a candidate answer, and StrategyQA with its facts."""
    made = known_questions(n=2 * n)
    sets = {kind: [q for q in made if q.domain == kind] for kind in MADE}
    fractions = {"training": 0.25, "validation": 0.25, "test": 0.5}
    found = {name: split_questions(questions, fractions) for name, questions in sets.items()}
    for name, parts in list(found.items()):
        found[f"{name} as candidates"] = {
            part: as_candidates([q for q in questions if q.answer == "Yes"]) for part, questions in parts.items()
        }
    strategyqa = balanced(load_questions(directory / "strategyqa_train.jsonl"), 2 * n, seed=6)
    found["StrategyQA with facts"] = {
        part: with_facts(questions) for part, questions in split_questions(strategyqa, fractions).items()
    }
    return found


WORDINGS = {
    "swapped order": Instruction("Answer the question with No or Yes."),
    "other wording": Instruction("Please read the question below and reply with a single word, Yes or No."),
    "question first": Instruction(
        "Your answer must be Yes or No.", layout="{context}Question: {question}\n{instruction}"
    ),
    "True/False": Instruction("Answer the question with True or False.", positive="True", negative="False"),
    "Correct/Incorrect": Instruction(
        "Answer the question with Correct or Incorrect.", positive="Correct", negative="Incorrect"
    ),
}


def reworded(questions: Sequence[Question], n: int = 80) -> dict[str, tuple[list[Question], Instruction]]:
    """Held-out StrategyQA questions under instructions that were not trained on."""
    chosen = [replace(q) for q in balanced(questions, n, seed=2)]
    return {name: (chosen, instruction) for name, instruction in WORDINGS.items()}

"""The forms in which one yes/no question is put: scenarios, their wordings, demonstrations and passages.

Every text here was written for this project. A scenario changes one thing of ``plain`` at a time; where that can't be
(chain of thought also changes how the reply begins, turning a question round also wraps it), a control scenario has
the other change alone: ``answer_prefix`` and ``wrapped``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from probes.questions import Instruction, Question, content_words

YES_DEMONSTRATIONS = (
    "Do bees make honey?",
    "Is Tokyo a city in Japan?",
    "Is seven larger than three?",
    "Would most people shiver if they stood in the snow without a coat?",
)
NO_DEMONSTRATIONS = (
    "Do cows lay eggs?",
    "Is Peru a country in Asia?",
    "Is nine an even number?",
    "Would a person use a spoon to cut down a tree?",
)
OPENING = "First, we need to know"  # without it small models answer at once and reason little
PREFIX = "So the answer is"
WRAPPED = 'Asked "{question}", someone agreed. Was this person right?'
TURNED = 'Asked "{question}", someone agreed. Was this person wrong?'


@dataclass(frozen=True)
class Scenario:
    """One form. ``wrapper`` holds the question; ``turned`` says that it turns gold Yes into gold No."""

    name: str
    description: str
    instruction: Instruction
    wrapper: str = "{question}"
    turned: bool = False
    passage: Literal["", "relevant", "irrelevant"] = ""
    opening: str = ""  # of reasoning to be generated, which the instruction's reply then follows; "": none

    def ask(self, question: Question, passage: str = "") -> Question:
        """The question as this scenario puts it: text, gold answer and context."""
        context = "\n".join(filter(None, [question.context.strip(), f"Passage: {passage.strip()}" if passage else ""]))
        answer = question.answer if not self.turned else {"Yes": "No", "No": "Yes"}[question.answer]
        text = self.wrapper.replace("{question}", question.text)
        return replace(question, text=text, answer=answer, context=context)


def _few_shot(demonstrations: Sequence[tuple[str, str]]) -> Instruction:
    shown = "".join(f"Question: {text}\nAnswer: {answer}\n\n" for text, answer in demonstrations)
    return Instruction(layout=f"{{instruction}}\n\n{shown}{{context}}Question: {{question}}\nAnswer:")


def _letters(yes: str, no: str) -> Instruction:
    meaning = {yes: "Yes", no: "No"}
    layout = f"{{instruction}}\n{{context}}Question: {{question}}\nA: {meaning['A']}\nB: {meaning['B']}"
    return Instruction("Answer with the letter of the right option, A or B.", positive=yes, negative=no, layout=layout)


_YES = [(text, "Yes") for text in YES_DEMONSTRATIONS]
_NO = [(text, "No") for text in NO_DEMONSTRATIONS]
_THINK = Instruction("Think about the question step by step, and then answer it with Yes or No.", reply=PREFIX)
_PLAIN = Instruction()
_LIST = (
    Scenario("plain", "the question alone, to be answered with Yes or No", _PLAIN),
    Scenario("relevant_passage", "after a passage with the fact that decides it", _PLAIN, passage="relevant"),
    Scenario("irrelevant_passage", "after a passage about something else", _PLAIN, passage="irrelevant"),
    Scenario(
        "idk",
        'with the third option "I don\'t know"',
        Instruction("Answer the question with Yes, No or I don't know.", abstain="I don't know"),
    ),
    Scenario("answer_prefix", f'told to think, the reply begins "{PREFIX}": control of chain_of_thought', _THINK),
    Scenario("chain_of_thought", f'the model\'s own reasoning, then "{PREFIX}"', _THINK, opening=OPENING),
    Scenario(
        "few_shot_balanced",
        "after two demonstrations of Yes and two of No",
        _few_shot([_YES[0], _NO[0], _NO[1], _YES[1]]),
    ),
    Scenario("few_shot_all_yes", "after four demonstrations of Yes", _few_shot(_YES)),
    Scenario("few_shot_all_no", "after four demonstrations of No", _few_shot(_NO)),
    Scenario("swapped_order", "to be answered with No or Yes", _PLAIN.swapped()),
    Scenario("wrapped", 'someone agreed: was this person right? Control of "turned_round"', _PLAIN, WRAPPED),
    Scenario("turned_round", "someone agreed: was this person wrong? No affirms the question", _PLAIN, TURNED, True),
    Scenario("multiple_choice", "A: Yes, B: No, to be answered with the letter", _letters("A", "B")),
    Scenario("multiple_choice_reversed", "A: No, B: Yes, to be answered with the letter", _letters("B", "A")),
    Scenario(
        "true_false",
        "to be answered with True or False",
        Instruction("Answer the question with True or False.", positive="True", negative="False"),
    ),
)
SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _LIST}
ALL = tuple(SCENARIOS)


def describe_scenarios(names: Sequence[str]) -> dict[str, Any]:
    """Every wording of the scenarios, for provenance and for the identity of a run."""
    return {name: asdict(SCENARIOS[name]) for name in names}


def require_scenarios(names: Sequence[str], questions: Sequence[Question]) -> None:
    """Refuse unknown scenarios, a list without ``plain``, and questions that a scenario can't be made of."""
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise ValueError(f"scenarios {unknown} are not known; expected some of {', '.join(ALL)}.")
    if "plain" not in names or len(set(names)) < len(names):
        raise ValueError(f"which={list(names)}; expected each scenario once, 'plain' among them: all are held to it.")
    without = [q.id for q in questions if not q.fact.strip()]
    if "relevant_passage" in names and without:
        raise ValueError(
            f"{len(without)} of {len(questions)} questions have no fact to give as a passage: "
            f"{', '.join(without[:5])}{', ...' if len(without) > 5 else ''}. Give questions with facts (the built-in "
            "ones, StrategyQA), or leave relevant_passage out of which=."
        )
    shown = {*YES_DEMONSTRATIONS, *NO_DEMONSTRATIONS}
    same = [q.id for q in questions if q.text.strip() in shown]
    if same and any("few_shot" in name for name in names):
        raise ValueError(
            f"questions {same} are demonstrations of the few_shot scenarios, so their answers would be given away. "
            "Leave them out, or the few_shot scenarios."
        )


def irrelevant_passages(questions: Sequence[Question], seed: int = 0) -> list[str]:
    """For each question the fact of another one that shares no content word with its text, fact and context.

    Of another domain, where the questions have several; of 10 such facts drawn by ``seed``, the one nearest in length
    to the question's own. Raises ``ValueError`` naming a question for which there is none.
    """
    one_domain = len({q.domain for q in questions}) < 2
    words = {q.id: content_words(q.fact) for q in questions}
    passages = []
    for question in questions:
        about = words[question.id] | content_words(f"{question.text} {question.context} {question.open_question}")
        others = [q for q in questions if q.fact.strip() and (one_domain or q.domain != question.domain)]
        random.Random(f"{seed}|{question.id}").shuffle(others)
        fitting = [q.fact for q in others if not words[q.id] & about][:10]
        if not fitting:
            raise ValueError(
                f"no irrelevant passage for question {question.id!r}: none of the {len(others)} facts of other "
                "questions (of another domain, if there are several) is free of its words. Give more questions with "
                "facts, or leave irrelevant_passage out of which=."
            )
        length = len((question.fact or fitting[0]).split())
        passages.append(min(fitting, key=lambda fact: abs(len(fact.split()) - length)))
    return passages


def join_reasoning(opening: str, text: str) -> str:
    """Opening and what was generated after it, up to the last full sentence; all of it where there is none."""
    text = f"{opening} {text.strip()}".strip()
    end = max(text.rfind(mark) for mark in (". ", ".\n", "! ", "? ")) + 1
    return text if text.endswith((".", "!", "?")) or not end else text[:end]

"""Which replies count as right: tokens, statements, options and verdicts, and every shipped answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probes.questions.open_answers import content_words, first_statement, judge, options_of, tokens
from probes.questions.questions import Question, load_questions

SHIPPED = {q.open_question: q for q in load_questions()}.values()


def question(text: str, answer: str, *aliases: str) -> Question:
    return Question("q", "Is it?", "Yes", open_question=text, open_answer=answer, open_aliases=aliases)


WALL = question("In what year was the Berlin Wall opened?", "1989", "nineteen eighty-nine")
SUM = question("What is 15 percent of 240?", "36", "thirty-six")
CAPITAL = question("What is the capital of France?", "Paris")
TALLER = question("Which mountain is taller, Kilimanjaro or Vesuvius?", "Kilimanjaro", "Mount Kilimanjaro")
BONE = question("Which bone is longer, the upper arm bone or the thigh bone?", "the thigh bone", "femur")
BOXES = question("Nine letters go into eight boxes. How many boxes hold one letter at most?", "8", "eight")
TALLEST = question("Pim is taller than Rook, and Rook is taller than Sil. Who is the tallest?", "Pim")
SHARK = question("What kind of animal is a whale shark?", "a fish", "fish", "shark")
OPEN = question("Some are sharp. Which word fits: proved, refuted or undetermined?", "undetermined", "unknown")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 1989.", ["answer", "is", "1989"]),
        ("nineteen eighty-nine", ["1989"]),
        ("one hundred and twenty-five", ["125"]),
        ("forty-two hundred", ["4200"]),
        ("ten thousand and eighty", ["10080"]),
        ("two thousand one hundred", ["2100"]),
        ("six and seven", ["6", "and", "7"]),
        ("five six", ["5", "6"]),
        ("a hundred", ["100"]),
        ("2,400.50", ["2400.5"]),
        ("−5 or minus five", ["-5", "or", "-5"]),
        (".06", ["0.06"]),
        ("3:05 pm", ["3:05", "pm"]),
        ("7/8", ["7/8"]),
        ("$14", ["14"]),
        ("12km", ["12", "km"]),
        ("CO2, the gas", ["co2", "gas"]),
        ("25%", ["25", "percent"]),
        ("5-10", ["5", "10"]),
        ("Don’t", ["dont"]),
        ("fuse A", ["fuse", "a"]),
        ("", []),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("asked", "reply", "contained", "exact"),
    [
        (WALL, "1989", "right", "right"),
        (WALL, "The answer is 1989.", "right", "right"),
        (WALL, "Answer:\n\n**nineteen eighty-nine**", "right", "right"),
        (WALL, "1989, because people were angry.", "right", "right"),
        (WALL, "The Berlin Wall was opened in 1989.", "right", "wrong"),
        (WALL, "19890", "wrong", "wrong"),
        (WALL, "1961.\n\n1989", "wrong", "wrong"),
        (WALL, "1961. Or was it 1989?", "wrong", "wrong"),
        (WALL, "1988 or 1989", "unclear", "unclear"),
        (WALL, "not 1989", "wrong", "wrong"),
        (SUM, "15% of 240 is 36.", "right", "wrong"),
        (SUM, "240 * 0.15 = 36", "right", "wrong"),
        (SUM, "15", "wrong", "wrong"),
        (BOXES, "8", "right", "right"),
        (BOXES, "9 letters go into 8 boxes.", "unclear", "unclear"),
        (CAPITAL, "Sure! It's Paris.", "right", "right"),
        (CAPITAL, "Paris, France", "right", "right"),
        (CAPITAL, "The capital of France is the city of Paris.", "right", "wrong"),
        (CAPITAL, "It is not Paris.", "wrong", "wrong"),
        (CAPITAL, "Parisians live in London", "wrong", "wrong"),
        (CAPITAL, "What is the capital of France?", "unclear", "unclear"),
        (CAPITAL, "I don't know. Paris?", "abstained", "abstained"),
        (CAPITAL, "I’m not sure", "abstained", "abstained"),
        (CAPITAL, "I do not have that information.", "abstained", "abstained"),
        (CAPITAL, "", "unclear", "unclear"),
        (CAPITAL, "\n...", "unclear", "unclear"),
        (TALLER, "Mount Kilimanjaro", "right", "right"),
        (TALLER, "Vesuvius.", "wrong", "wrong"),
        (TALLER, "Kilimanjaro or Vesuvius", "unclear", "wrong"),
        (TALLER, "Kilimanjaro, Vesuvius", "unclear", "unclear"),
        (TALLER, "Kilimanjaro is taller than Vesuvius.", "right", "wrong"),
        (TALLER, "Vesuvius is taller than Kilimanjaro.", "wrong", "wrong"),
        (TALLER, "Kilimanjaro is shorter than Vesuvius.", "unclear", "wrong"),
        (TALLER, "Kilimanjaro is not taller than Vesuvius.", "unclear", "wrong"),
        (BONE, "The upper arm bone is usually longer than the thigh bone.", "wrong", "wrong"),
        (BONE, "The thigh bone is longer.", "right", "wrong"),
        (TALLEST, "Pim is the tallest", "right", "wrong"),
        (TALLEST, "Pim is taller than Rook, and Rook is taller than Sil.", "unclear", "unclear"),
        (SHARK, "A whale shark is a marine mammal.", "wrong", "wrong"),
        (SHARK, "A whale shark is a fish.", "right", "wrong"),
        (OPEN, "Unknown", "right", "right"),
        (OPEN, "refuted", "wrong", "wrong"),
    ],
)
def test_verdicts(asked, reply, contained, exact):
    assert judge(reply, asked, "contained").kind == contained
    assert judge(reply, asked, "exact").kind == exact


def test_like_wrong_answers_have_one_name():
    for a, b in [("Vesuvius", "It is Mount Vesuvius."), ("Vesuvius", "Vesuvius is taller.")]:
        assert judge(a, TALLER) == judge(b, TALLER)
    assert judge("London", CAPITAL) == judge("The capital of France is London.", CAPITAL)
    assert judge("forty", SUM) == judge("15 percent of 240 is 40.", SUM)


@pytest.mark.parametrize("frame", ["{}", "The answer is {}.", "**{}**\nBecause I say so."])
def test_every_shipped_answer_and_alias_is_right(frame):
    for asked in SHIPPED:
        for text in (asked.open_answer, *asked.open_aliases):
            for match in ("exact", "contained"):
                assert judge(frame.format(text), asked, match).kind == "right", (asked.open_question, text, match)


def test_the_other_option_of_every_shipped_either_or_question_is_wrong():
    n = 0
    for asked in SHIPPED:
        options = options_of(asked.open_question)
        others = [o for o in options if judge(o, asked).kind != "right"]
        assert not options or len(others) == len(options) - 1, asked.open_question
        for other in others:
            assert judge(f"{other}.", asked).kind == "wrong"
            n += 1
    assert n > 70


def test_options_and_statements():
    assert options_of("Which is nearer to Earth, the Moon or the Sun?") == ["the Moon", "the Sun"]
    assert options_of("In which hemisphere, northern or southern, does Egypt lie?") == ["northern", "southern"]
    assert options_of("Every tag is round or square. What is Vik's tag?") == []
    assert first_statement("1. Mr. J. Smith went to St. Ives at 3.15 p.m. today. He left.").startswith("Mr. J. Smith")
    assert first_statement("- 5! = 120\n(that is all)") == "5! = 120"
    assert content_words("The bees make honeys.") == {"bee", "make", "honey"}


def test_refusals():
    with pytest.raises(ValueError, match="expected 'exact' or 'contained'"):
        judge("Paris", CAPITAL, "loose")
    with pytest.raises(ValueError, match="no open_question"):
        judge("Paris", replace(CAPITAL, open_question=""))

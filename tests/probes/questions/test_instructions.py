"""How a question is put: the option words and spans must be where they say, whatever the question contains."""

from __future__ import annotations

import pytest

import interp
from probes.questions.instructions import Instruction, build_prompts
from probes.questions.questions import Question
from tests.tiny import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(
        tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer(adds_bos=True)
    )


def text_at(model, prompt, span) -> str:
    return model.tokenizer.decode([prompt.token_ids[i] for i in prompt.span(span)]).strip()


LAYOUTS = {
    "before": "{instruction}\n{context}Question: {question}",
    "after": "{context}Question: {question}\n{instruction}",
    "context between": "{question}\n{context}{instruction}\nAnswer now.",
    "context last": "{instruction}\n{question}\n{context}And so?",
}
QUESTIONS = [
    Question("plain", "Is the sky blue?", "Yes"),
    Question("options", "Does one say Yes or No when asked? No or Yes?", "No"),
    Question("instruction", "What is it? Answer the question with Yes or No. Is it so?", "Yes"),
    Question("braces", "Is {context} or {instruction} or {question} or {0} or {{}} a slot?", "No"),
    Question("scripts", "Ist das größer? 🦙 日本語 No", "No"),
    Question("context", "Can it?", "Yes", context="Answer the question with Yes or No. The kettle: {question} No."),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.id)
@pytest.mark.parametrize("order", ["yes first", "no first"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_spans_cover_the_right_text(model, layout, order, question):
    instruction = Instruction(layout=LAYOUTS[layout])
    instruction = instruction if order == "yes first" else instruction.swapped()
    (p,) = build_prompts(model, [question], instruction)
    # the twin: fill each slot with a mark first, then put in the words, so that no word can be mistaken for a slot
    marks = {"{instruction}": "\ue000", "{context}": "\ue001", "{question}": "\ue002"}
    expected = LAYOUTS[layout]
    for slot, mark in marks.items():
        expected = expected.replace(slot, mark)
    where = {slot: expected.index(mark) for slot, mark in marks.items()}
    context = f"{question.context}\n" if question.context else ""
    words = {"\ue000": instruction.text, "\ue001": context, "\ue002": question.text}
    text = "".join(words.get(c, c) for c in expected)
    assert text in p.text
    start = p.text.index(text)

    for slot, name in (("{instruction}", "instruction"), ("{question}", "question")):
        before = "".join(words.get(c, c) for c in expected[: where[slot]])
        decoded = model.tokenizer.decode(list(p.token_ids[: p.span(name)[0]]))
        assert len(decoded) <= start + len(before) <= len(decoded) + 1  # a token may begin with the space before
        assert text_at(model, p, name) == words[marks[slot]]
    assert text_at(model, p, "positive") == "Yes"
    assert text_at(model, p, "negative") == "No"
    inside = set(p.span("instruction"))
    assert {*p.span("positive"), *p.span("negative")} <= inside
    assert (p.span("positive") < p.span("negative")) == (order == "yes first")
    assert p.gold == question.answer and p.id == question.id
    assert list(p.answers) == ["No", "Yes"]


def test_the_context_can_be_left_out(model):
    with_it, without = (build_prompts(model, QUESTIONS[-1:], with_context=w)[0] for w in (True, False))
    assert "The kettle" in with_it.text and "The kettle" not in without.text
    assert with_it.span("question") > without.span("question")


def test_all_occurrences_of_the_options_are_found(model):
    instruction = Instruction("Say Yes or No. Note: No is not Nobody, Yes is not yes or Yesterday.")
    assert len(instruction.occurrences("No")) == 2
    assert len(instruction.occurrences("Yes")) == 2
    (p,) = build_prompts(model, QUESTIONS[:1], instruction)
    assert text_at(model, p, "negative").split() == ["No", "No"]
    assert text_at(model, p, "positive").split() == ["Yes", "Yes"]


@pytest.mark.parametrize(
    "instruction",
    [
        Instruction(),
        Instruction("Yes, or No? No or Yes! Nobody knows."),
        Instruction("Say Sure or Not sure.", positive="Sure", negative="Not sure"),
        Instruction("Reply C++ or C.", positive="C++", negative="C"),
        Instruction("(a) or (b)?", positive="(a)", negative="(b)"),
        Instruction("Oui ou Non: dis-moi", positive="Oui", negative="Non", system="Be brief."),
    ],
    ids=lambda i: i.text,
)
def test_swapping(instruction):
    swapped = instruction.swapped()
    assert swapped != instruction
    assert swapped.swapped() == instruction
    assert (swapped.positive, swapped.negative, swapped.system) == (
        instruction.positive, instruction.negative, instruction.system
    )  # fmt: skip
    for here, there in (("positive", "negative"), ("negative", "positive")):
        assert len(swapped.occurrences(getattr(swapped, here))) == len(
            instruction.occurrences(getattr(instruction, there))
        )


def test_options_inside_one_another():
    instruction = Instruction("Say Sure or Not sure, Sure?", positive="Sure", negative="Not sure")
    assert [instruction.text[a:b] for a, b in instruction.occurrences("Not sure")] == ["Not sure"]
    assert Instruction("Is it True or Not True?", positive="True", negative="Not True").occurrences("True") == [(6, 10)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "Answer the question."}, "does not contain the option word 'Yes'"),
        ({"text": "Answer Yes or Note."}, "does not contain the option word 'No'"),
        ({"text": "Answer yes or no."}, "does not contain the option word 'Yes'"),
        ({"positive": "No"}, "must be two different words"),
        ({"positive": " "}, "must be two different words, not blank"),
        ({"negative": ""}, "not blank"),
        ({"layout": "Question: {question}"}, r"must contain \{instruction\} exactly once"),
        ({"layout": "{instruction}"}, r"must contain \{question\} exactly once"),
        ({"layout": "{instruction}{instruction}{question}"}, r"must contain \{instruction\} exactly once"),
        ({"layout": "{instruction}{context}{question}{context}"}, r"must contain \{context\} at most once"),
    ],
)
def test_bad_instructions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Instruction(**options)


def test_one_token_for_both_options_is_refused(model):
    """A tokenizer that reads "Yes/No" as one token leaves nothing to compare."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["Yes/No"])
    both = interp.load(tiny("llama", vocab_size=400), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"'Yes' and 'No' .* share a token .*'Yes/No'"):
        build_prompts(both, QUESTIONS[:1], Instruction("Answer Yes/No."))


def test_both_forms(model):
    (p,) = build_prompts(model, QUESTIONS[:1], forms="both")
    assert len(p.answers["No"]) == len(p.answers["Yes"]) == 2


def test_the_system_message_is_used(model):
    (p,) = build_prompts(model, QUESTIONS[:1], Instruction(system="Be brief."))
    assert "<|im_start|>system\nBe brief.<|im_end|>" in p.text


def test_smollm2_spans(smollm2):
    (p,) = build_prompts(smollm2, QUESTIONS[:1])
    assert [text_at(smollm2, p, s) for s in ("instruction", "question", "positive", "negative")] == [
        "Answer the question with Yes or No.", "Is the sky blue?", "Yes", "No"
    ]  # fmt: skip


UNSURE = Instruction("Answer with Yes, No or No idea.", abstain="No idea")


def test_a_third_option_comes_last_and_is_not_taken_for_another(model):
    assert UNSURE.options == ("No", "Yes", "No idea")
    assert UNSURE.occurrences("No") == [(17, 19)] and UNSURE.occurrences("No idea") == [(23, 30)]
    assert UNSURE.swapped().text == "Answer with No, Yes or No idea." and UNSURE.swapped().swapped() == UNSURE
    unsure = Instruction("Answer with Yes, No or I don't know.", abstain="I don't know")
    (p,) = build_prompts(model, QUESTIONS[:1], unsure)
    assert list(p.answers) == ["No", "Yes", "I don't know"] and p.gold == "Yes"
    assert text_at(model, p, "abstain") == "I don't know" and text_at(model, p, "negative") == "No"


def test_a_third_option_must_differ_be_named_and_begin_otherwise(model):
    with pytest.raises(ValueError, match="'Yes' and 'No' and 'No' must be three different words"):
        Instruction(abstain="No")
    with pytest.raises(ValueError, match='does not contain the option word "I don\'t know"'):
        Instruction(abstain="I don't know")
    with pytest.raises(ValueError, match="'No' and 'No idea' share their first token"):
        build_prompts(model, QUESTIONS[:1], UNSURE)


def test_the_reply_is_begun(model):
    instruction = Instruction(reply="The answer is")
    (p,) = build_prompts(model, QUESTIONS[:1], instruction)
    assert text_at(model, p, "reply") == "The answer is" and p.text.endswith("The answer is")
    plain = build_prompts(model, QUESTIONS[:1])[0]
    assert p.span("question") == plain.span("question") and p.span("negative") == plain.span("negative")

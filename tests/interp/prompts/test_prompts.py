"""From text to tokens: templates, spans, answer tokens, padding. Positions are held to decoding, not to offsets."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from interp import Model, Prompt
from interp.prompts.batch import pad_left
from interp.prompts.building import build_prompt
from interp.prompts.chat_templates import render
from tests.probes.visual_tiny import word_tokenizer
from tests.tiny import CHATML, tiny_tokenizer

QWEN = Path.home() / ".cache/headscope/models/qwen2.5-coder-0.5b-1d9614638d18"
TEXTS = [
    "Answer the question with Yes or No.\nQuestion: Is 17 a prime number?",
    "naïve café — “quoted” 3.14 … \t tabs\n\n\nand   spaces",
    "🦙 llama 👩‍👩‍👧 family 🇫🇷 flag, 日本語の質問ですか？ Да или нет؟ हाँ",
    "e\u0301 and o\u0308 combine; ﬁ ligature; \u200bzero width; x²",
]


def model(tokenizer, context_length=4096):
    """All that prompts ask of a model."""
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=len(tokenizer)))
    stub = SimpleNamespace(tokenizer=tokenizer, name="a model", context_length=context_length, has_vision=False)
    stub.hf = SimpleNamespace(config=config)
    stub.chat, stub.template_arguments, stub.renderings = True, {}, {}
    stub.n_tokens = stub.n_logits = 0 if tokenizer is None else len(tokenizer)
    stub.require_fits = lambda prompts: Model.require_fits(stub, prompts)
    return stub


@pytest.fixture(scope="module", params=["smollm2", "qwen2.5", "tiny", "tiny, trimmed offsets"])
def tokenizer(request):
    if request.param == "smollm2":
        return request.getfixturevalue("smollm2").tokenizer
    if request.param == "qwen2.5":
        if not QWEN.exists():
            pytest.skip("qwen2.5-coder-0.5b is not in the cache (interp.load downloads it)")
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(QWEN)
    return tiny_tokenizer(trim_offsets="trimmed" in request.param)


def text_of(tokenizer, text: str) -> str:
    """A text that the tokenizer keeps as it is (Qwen's composes combining characters)."""
    return unicodedata.normalize("NFC", text) if tokenizer("e\u0301").input_ids == tokenizer("é").input_ids else text


def decode(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("text", TEXTS, ids=["plain", "spaces", "scripts", "combining"])
@pytest.mark.parametrize("chat", [True, False])
def test_tokens_of_any_substring_are_those_that_decode_to_it(tokenizer, text, chat):
    text = text_of(tokenizer, text)
    rng = random.Random(0)
    picks = [sorted(rng.sample(range(len(text) + 1), 2)) for _ in range(40)]
    spans = {str(i): (low, high) for i, (low, high) in enumerate(picks) if text[low:high].strip()}
    p = build_prompt(model(tokenizer), text, spans=spans, chat=chat)
    start = p.text.index(text)
    assert decode(tokenizer, p.token_ids) == p.text
    for name, (low, high) in spans.items():
        where = p.span(name)
        cuts = (where[0], where[-1] + 1)  # a token may hold the end of one character and the beginning of the next
        before, through = (decode(tokenizer, p.token_ids[:n]).rstrip("\ufffd") for n in cuts)
        assert where == tuple(range(where[0], where[-1] + 1))
        leading = len(text[low:high]) - len(text[low:high].lstrip())  # trimmed offsets leave outer spaces out
        trailing = len(text[low:high]) - len(text[low:high].rstrip())
        assert p.text.startswith(before) and len(before) <= start + low + leading
        assert p.text.startswith(through) and len(through) >= start + high - trailing
        without_last, with_first = (decode(tokenizer, p.token_ids[:n]) for n in (where[-1], where[0] + 1))
        if p.text.startswith(with_first):  # else the cut is inside a character
            assert len(with_first) > start + low
        if p.text.startswith(without_last):
            assert len(without_last) < start + high


@pytest.mark.parametrize("text", TEXTS, ids=["plain", "spaces", "scripts", "combining"])
@pytest.mark.parametrize("chat", [True, False])
def test_prefix_text_and_suffix_partition_the_tokens(tokenizer, text, chat):
    text = text_of(tokenizer, text)
    p = build_prompt(model(tokenizer), text, chat=chat)
    assert p.span("prefix") + p.span("text") + p.span("suffix") == tuple(range(len(p)))
    assert len(p.tokens) == len(p)
    assert decode(tokenizer, [p.token_ids[i] for i in p.span("text")]).strip() == text.strip()
    assert p.answer_position == len(p) - 1
    assert p.instruction_end == p.span("text")[-1]
    if chat:
        tail = decode(tokenizer, [p.token_ids[i] for i in p.span("suffix")])
        assert tail == "<|im_end|>\n<|im_start|>assistant\n"
    else:
        assert p.span("prefix") == p.span("suffix") == ()
        assert p.text == text


def test_ids_are_those_of_transformers_own_template(tokenizer):
    p = build_prompt(model(tokenizer), "Is it so?", system="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it so?"}]
    own = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    assert list(p.token_ids) == list(own["input_ids"])


def test_several_ranges_make_one_span(tokenizer):
    text = "Yes or No? No or Yes?"
    p = build_prompt(model(tokenizer), text, spans={"no": [(7, 9), (11, 13)], "first": [7, 9], "last": (11, 13)})
    assert p.span("no") == p.span("first") + p.span("last")
    assert [decode(tokenizer, [p.token_ids[i]]).strip() for i in p.span("no")] == ["No", "No"]


def test_system_prompt_given_empty_or_left_to_the_template(smollm2):
    default, empty, own = (smollm2.prompt("Is it so?", system=s) for s in (None, "", "Be brief."))
    assert "named SmolLM" in default.text  # the template writes one of its own
    assert "named SmolLM" not in empty.text and "<|im_start|>system\n<|im_end|>" in empty.text
    assert "<|im_start|>system\nBe brief.<|im_end|>" in own.text
    for p in (default, empty, own):
        assert decode(smollm2.tokenizer, [p.token_ids[i] for i in p.span("text")]) == "Is it so?"


def test_bos_stands_exactly_once():
    both = tiny_tokenizer("{{ bos_token }}" + CHATML, adds_bos=True)
    only_tokenizer = tiny_tokenizer(CHATML, adds_bos=True)
    for p in (
        build_prompt(model(both), "Is the sky blue?"),
        build_prompt(model(both), "Is the sky blue?", chat=False),
        build_prompt(model(both), "<s>Is the sky blue?", chat=False),
    ):
        assert p.token_ids.count(1) == 1 and p.token_ids[0] == 1
    # a template without BOS is taken at its word, as transformers' own apply_chat_template does
    assert build_prompt(model(only_tokenizer), "Is the sky blue?").token_ids.count(1) == 0
    p = build_prompt(model(both), "Is the sky blue?", chat=False, spans={"sky": (7, 10)}, answers=("No", "Yes"))
    assert p.span("prefix") == (0,)
    assert decode(both, [p.token_ids[i] for i in p.span("sky")]).strip() == "sky"
    assert decode(both, p.answers["No"]) == " No"


@pytest.mark.parametrize(
    ("content", "text", "message"),
    [
        ("{{ m.content | trim }}", " Is it so?", "alters the message ' Is it so"),
        ("{{ m.content | upper }}", "Is it so?", "writes the user's message 0 times|alters"),
        ("{{ m.content | replace('so', 'not') }}", "Is it so?", "alters the message"),
        ("{{ m.content }} {{ m.content }}", "Is it so?", "writes the user's message 2 times; expected once"),
        ("hello", "Is it so?", "writes the user's message 0 times"),
    ],
)
def test_templates_that_change_the_text_are_refused(content, text, message):
    tokenizer = tiny_tokenizer(CHATML.replace("{{ m.content }}", content))
    with pytest.raises(ValueError, match=message):
        build_prompt(model(tokenizer), text)
    with pytest.raises(ValueError) as caught:
        build_prompt(model(tokenizer), text, id="request-7")  # named, so that its text stays out of logs
    assert "Is it" not in str(caught.value)


def test_a_trimming_template_takes_text_without_outer_spaces():
    tokenizer = tiny_tokenizer(CHATML.replace("{{ m.content }}", "{{ m.content | trim }}"))
    assert "\nIs it so?<|im_end|>" in build_prompt(model(tokenizer), "Is it so?").text


def test_the_users_words_in_the_templates_own_text_mislead_nothing():
    tokenizer = tiny_tokenizer("Answer Yes or No. Is it so? Yes or No.\n" + CHATML + "Yes or No: ")
    text = "Yes or No."
    p = build_prompt(model(tokenizer), text, spans={"no": (7, 9)})
    assert p.text.count(text) == 3
    before = decode(tokenizer, p.token_ids[: p.span("no")[0] + 1])
    assert before.count("No") == 3 and "<|im_start|>user\nYes or" in before


def test_a_token_across_the_edge_of_the_text_belongs_to_the_text():
    tokenizer = tiny_tokenizer("Question:{% for m in messages %} {{ m.content }}{% endfor %}\nAnswer:")
    p = build_prompt(model(tokenizer), "Is the sky blue?")
    assert decode(tokenizer, [p.token_ids[p.span("text")[0]]]) == " Is"
    assert decode(tokenizer, [p.token_ids[i] for i in p.span("prefix")]) == "Question:"


def test_no_template_no_tokenizer():
    tokenizer = tiny_tokenizer(template=None)
    with pytest.raises(ValueError, match=r"no chat template \(a base model\?\).*chat=False"):
        build_prompt(model(tokenizer), "Is it so?")
    assert build_prompt(model(tokenizer), "Is it so?", chat=False).text == "Is it so?"
    with pytest.raises(ValueError, match="without a tokenizer"):
        build_prompt(model(None), "Is it so?")


def test_templates_that_take_no_system_message_are_refused():
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    with pytest.raises(ValueError, match=r"System role not supported\. Leave out system="):
        render(tiny_tokenizer(refuses + CHATML), "Is it so?", system="Be brief.")
    drops = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role == 'user' %}")
    with pytest.raises(ValueError, match="drops the system message 'Be brief"):
        render(tiny_tokenizer(drops), "Is it so?", system="Be brief.")


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({"a": (0, 99)}, r"span 'a' is characters 0\.\.99, but the text has 9 characters"),
        ({"a": (5, 5)}, "expected 0 <= start < end"),
        ({"a": (-2, 5)}, "expected 0 <= start"),
        ({"a": [(0, 2), (4, 3)]}, r"characters 4\.\.3"),
        ({"a": []}, r"span 'a' \(\[\]\) holds no token"),
        ({"text": (0, 2)}, r"spans named \['text'\] were given; every prompt has its own"),
    ],
)
def test_bad_spans_are_refused(spans, message):
    with pytest.raises(ValueError, match=message):
        build_prompt(model(tiny_tokenizer()), "Is it so?", spans=spans)


def test_a_prompt_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match=r"has \d+ tokens; a model reads at most 10\. Shorten it"):
        build_prompt(model(tiny_tokenizer(), context_length=10), "Is it so?")
    assert build_prompt(model(tiny_tokenizer(), context_length=None), "Is it so?")


def words(tokenizer, p, *names):
    return [decode(tokenizer, [t]) for name in names for t in p.answers[name]]


def test_answers_take_the_form_that_follows_the_prompt(smollm2):
    t = smollm2.tokenizer
    chat = smollm2.prompt("Is it so?", answers=("No", "Yes"), gold="Yes")
    assert words(t, chat, "No", "Yes") == ["No", "Yes"]
    assert chat.answer_tokens("gold") == chat.answers["Yes"]
    base = smollm2.prompt("Is it so?\nAnswer:", answers=("No", "Yes"), chat=False)
    assert words(t, base, "No", "Yes") == [" No", " Yes"]
    line = smollm2.prompt("Is it so?\n", answers=("No", "Yes"), chat=False)
    assert words(t, line, "No", "Yes") == ["No", "Yes"]
    spelled = smollm2.prompt("Is it so?", answers=(" No ", "Yes"))  # spaces in the word are not its own
    assert spelled.answers[" No "] == chat.answers["No"]


def test_both_forms_do_not_overlap(smollm2):
    for chat, text in ((True, "Is it so?"), (False, "Is it so?\nAnswer:")):
        p = smollm2.prompt(text, answers=("No", "Yes"), forms="both", chat=chat)
        assert sorted(words(smollm2.tokenizer, p, "No")) == [" No", "No"]
        assert sorted(words(smollm2.tokenizer, p, "Yes")) == [" Yes", "Yes"]
        assert not set(p.answers["No"]) & set(p.answers["Yes"])


def test_a_word_that_the_tokenizer_does_not_know_is_no_answer():
    stub = model(word_tokenizer())
    with pytest.raises(ValueError, match=r"'giraffe' is not in the tokenizer's vocabulary: .*'<unk>' \(id 1\).*use"):
        build_prompt(stub, "is there a circle", chat=False, answers=("giraffe", "no"))
    known = build_prompt(stub, "is there a circle", chat=False, answers=("yes", "no"), forms="both").answers
    assert known == {word: (stub.tokenizer.convert_tokens_to_ids(word),) for word in ("yes", "no")}


def test_words_of_several_tokens_count_by_their_first(smollm2):
    p = smollm2.prompt("Is it so?", answers=("disagree", "Absolutely"))
    assert words(smollm2.tokenizer, p, "disagree", "Absolutely") == ["dis", "Absol"]


@pytest.mark.parametrize(
    ("answers", "options", "message"),
    [
        (("Yes", "Yes"), {}, "'Yes' and 'Yes' share their first token"),
        (("Yep", "Yesterday"), {}, "'Yep' and 'Yesterday' share their first token 'Y'"),
        (("Absolutely", "Absolutely not"), {}, "can't be told apart"),
        (("Yes", " "), {}, "must not be blank; ' ' was given"),
        (("Yes", ""), {}, "must not be blank"),
        (("Yes", "No"), {"forms": "all"}, "forms='all'; expected 'in_context' or 'both'"),
        (("Yes", "No"), {"chat": False}, r"'Yes' has no token of its own after the prompt ending .*Answer: '"),
        (("Yes", "No"), {"gold": "Maybe"}, r"gold answer 'Maybe' is not one of the answers \['No', 'Yes'\]"),
    ],
)
def test_bad_answers_are_refused(smollm2, answers, options, message):
    with pytest.raises(ValueError, match=message):
        smollm2.prompt("Is it so? Answer: ", answers=answers, **options)


REPLIES = [
    "The answer is",
    "The answer is:\n",
    "So, “No” 🦙 … ",
    "Yes or No? <b>x</b>\n\n  It was 3 > 2.\nAnswer:",
    "\n",
]


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("chat", [True, False])
def test_a_given_reply_is_kept_and_leaves_the_rest_in_place(tokenizer, reply, chat):
    text = "Is 17 prime? The answer is Yes or No."
    reply = text_of(tokenizer, reply)
    plain = build_prompt(model(tokenizer), text, spans={"no": (34, 36)}, chat=chat)
    p = build_prompt(model(tokenizer), text, spans={"no": (34, 36)}, chat=chat, reply=reply)
    assert p.text == plain.text + reply and decode(tokenizer, p.token_ids) == p.text
    for name in ("prefix", "text", "no"):
        assert p.span(name) == plain.span(name)
    assert "reply" not in plain.spans and set(p.span("reply")) - set(p.span("suffix")) <= {p.span("text")[-1]}
    kept = decode(tokenizer, [p.token_ids[i] for i in p.span("reply")])
    assert reply.strip() in kept and kept in p.text
    assert p.span("prefix") + p.span("text") + p.span("suffix") == tuple(range(len(p)))


@pytest.mark.parametrize(
    ("reply", "forms"),
    [("The answer is", [" No", " Yes"]), ("The answer is ", ["No", "Yes"]), ("Answer:\n", ["No", "Yes"])],
)
def test_answers_after_a_given_reply(smollm2, reply, forms):
    p = smollm2.prompt("Is it so?", answers=("No", "Yes"), gold="No", reply=reply)
    assert words(smollm2.tokenizer, p, "No", "Yes") == forms
    after = smollm2.tokenizer(p.text, add_special_tokens=False).input_ids
    assert list(p.token_ids) == after  # the reply's tokens are its own, whatever the answer would have merged with
    both = smollm2.prompt("Is it so?", answers=("No", "Yes"), reply=reply, forms="both")
    assert set(p.answers["No"]) <= set(both.answers["No"]) and not set(both.answers["No"]) & set(both.answers["Yes"])


def test_answers_after_a_reply_for_every_tokenizer(tokenizer):
    for reply in REPLIES:
        p = build_prompt(model(tokenizer), "Is it so?", answers=("No", "Yes"), reply=text_of(tokenizer, reply))
        glued = reply[-1].isspace()
        first = decode(tokenizer, [p.answers["No"][0]])
        assert first.startswith("N" if glued else " ") and first.strip()


def test_prompts_from_token_ids():
    p = Prompt.from_token_ids(torch.tensor([5, 6, 7]), answers={"No": [1], "Yes": torch.tensor([2, 3])}, gold="No")
    assert p.token_ids == (5, 6, 7) and p.tokens == ("5", "6", "7") and len(p) == 3
    assert p.answer_tokens("Yes") == (2, 3) and p.answer_tokens("gold") == (1,)
    named_gold = Prompt.from_token_ids([5], answers={"gold": [1], "silver": [2]}, gold="silver")
    assert named_gold.answer_tokens("gold") == (1,)


def test_bad_prompts_are_refused():
    with pytest.raises(ValueError, match="at least one token"):
        Prompt.from_token_ids([])
    with pytest.raises(ValueError, match="span 'a' names position 3; the prompt has 3 tokens"):
        Prompt((1, 2, 3), spans={"a": (0, 3)})
    with pytest.raises(ValueError, match="span 'a' names position -1"):
        Prompt((1, 2, 3), spans={"a": (-1, 0)})
    with pytest.raises(ValueError, match=r"answer 'No' has token ids \(\); expected at least one"):
        Prompt.from_token_ids([5], answers={"No": []})
    with pytest.raises(ValueError, match=r"answer 'No' has token ids \(3, -1\); .* none below 0"):
        Prompt.from_token_ids([5], answers={"No": [3, -1]})  # would be read as the vocabulary's last token
    with pytest.raises(ValueError, match="gold answer 'Yes'"):
        Prompt((1,), gold="Yes")
    p = Prompt((1, 2), spans={"a": (0,)}, answers={"No": (1,)}, id="p1")
    with pytest.raises(KeyError, match=r"no span 'b'; it has \['a'\]"):
        p.span("b")
    with pytest.raises(KeyError, match=r"prompt 'p1' has no answer 'gold'; it has \['No'\] and gold=None"):
        p.answer_tokens("gold")


def test_padding_is_on_the_left_masked_and_only_where_needed():
    batch = pad_left([Prompt((5, 6, 7)), Prompt((8,))], torch.device("cpu"))
    assert batch.offsets == (0, 2)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    equal = pad_left([Prompt((5, 6)), Prompt((7, 8))], torch.device("cpu"))
    assert set(equal.inputs) == {"input_ids"} and equal.offsets == (0, 0)

"""What chat templates can be told, and what they write of their own accord: found by asking and rendering them."""

from __future__ import annotations

import pytest

import interp
from interp.prompts.building import build_prompt
from interp.prompts.chat_templates import template_used, template_variables, tokenizer_template, writes_date
from probes.negative_bias.nas import rank_heads
from probes.questions.instructions import Instruction
from probes.questions.questions import Question
from tests.interp.prompts.test_answer_tokens import GENERATE, SMOLLM3, TEMPLATES, byte_level, model
from tests.tiny import CHATML, tiny, tiny_tokenizer

HEAD = "<|im_start|>system\n"
DEFAULT = (
    "{% if messages[0].role != 'system' %}" + HEAD + "You are a kettle, made in Leeds.<|im_end|>\n{% endif %}"
    + TEMPLATES["ChatML"]
)  # fmt: skip
DATED = (  # as Llama 3.1: a system block in any case, with the date
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}{% set messages = messages[1:] %}"
    "{% else %}{% set said = '' %}{% endif %}{% if not date_string is defined %}"
    "{% set date_string = strftime_now('%H:%M:%S.%f') %}{% endif %}<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday is: {{ date_string }}\n\n{{ said }}<|eot_id|>" + TEMPLATES["Llama 3"]
)
IN_TURN = (  # as Llama 2: inside the user's turn
    "{% set ns = namespace(head='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.head = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %}{% elif m.role == 'user' %}"
    "(INST) {{ ns.head }}{{ m.content }} (/INST){% else %} {{ m.content }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}{% else %}"
    "A chat between a curious user and an assistant.{% endif %} {% for m in messages %}{{ m.role | upper }}: "
    "{{ m.content }} {% endfor %}" + GENERATE + "ASSISTANT:{% endif %}"
)
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATES["Gemma"]
LEAVES_OUT = (  # nothing for an empty message, a text of its own for none
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}{% set messages = messages[1:] %}"
    "{% else %}{% set said = 'Be a helpful kettle.' %}{% endif %}"
    "{% if said %}" + HEAD + "{{ said }}<|im_end|>\n{% endif %}" + TEMPLATES["ChatML"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("template", "own"),
    [
        (TEMPLATES["ChatML"], ""),
        (TEMPLATES["Gemma"], ""),
        (TEMPLATES["tekken"], ""),
        (TEMPLATES["Granite"], ""),
        (DEFAULT, "You are a kettle, made in Leeds."),
        (IN_TURN, ""),
        (REFUSING, ""),
        (VICUNA, "A chat between a curious user and an assistant."),
        (LEAVES_OUT, "Be a helpful kettle."),
    ],
)
def test_the_system_prompt_that_stands_there(template, own):
    tokenizer = byte_level(template)
    assert tokenizer_template(tokenizer).own_system() == own
    p = build_prompt(model(tokenizer), "Is it?")
    assert own in p.text


def test_a_block_that_is_always_there_is_said_too():
    own = tokenizer_template(byte_level(DATED), {"date_string": "26 Jul 2024"}).own_system()
    assert own == "Cutting Knowledge Date: December 2023\nToday is: 26 Jul 2024"


def test_none_can_be_asked_for():
    stub = model(byte_level(LEAVES_OUT))
    bare = build_prompt(stub, "Is it?", system=False, answers=("Yes", "No"))
    assert bare.text == "<|im_start|>user\nIs it?<|im_end|>\n<|im_start|>assistant\n"
    assert bare.answers == build_prompt(stub, "Is it?", answers=("Yes", "No")).answers
    for template in (TEMPLATES["ChatML"], IN_TURN, REFUSING):  # nothing stands there anyway
        stub = model(byte_level(template))
        assert build_prompt(stub, "Is it?", system=False) == build_prompt(stub, "Is it?")
    assert "USER: Is it?" in build_prompt(model(byte_level(VICUNA)), "Is it?", system=False).text
    assert "A chat" not in build_prompt(model(byte_level(VICUNA)), "Is it?", system=False).text
    for template, said in ((DEFAULT, "made in Leeds"), (DATED, "Cutting Knowledge")):
        with pytest.raises(ValueError, match=rf"{said}.* can't leave it out. Give one"):
            build_prompt(model(byte_level(template)), "Is it?", system=False)
    empty = build_prompt(model(byte_level(DEFAULT)), "Is it?", system="")
    assert HEAD + "<|im_end|>" in empty.text and "Leeds" not in empty.text


def test_arguments_are_asked_of_the_template():
    assert template_variables(SMOLLM3) == {"messages", "add_generation_prompt", "enable_thinking"}
    assert {"date_string", "strftime_now"} <= template_variables(DATED)
    assert template_variables("{% generation %}{{ x }}{% endgeneration %}{% macro f(a) %}{{ a }}{{ y }}{% endmacro %}"
                              "{% for m in messages %}{% break %}{% endfor %}") == {"x", "y", "messages"}  # fmt: skip
    stub = model(byte_level(SMOLLM3))
    for value in (False, True, None):
        p = build_prompt(stub, "Is it?", template_arguments={"enable_thinking": value})
        assert p.text.endswith("</think>\n\n") == (value is False)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"enable_thinkng": False}, ValueError, "never reads 'enable_thinkng': .* told enable_thinking"),
        ({"messages": []}, ValueError, r"never reads 'messages' \(messages is set by the prompt itself\)"),
        ({"add_generation_prompt": False}, ValueError, "set by the prompt itself"),
        ({"enable_thinking": object()}, TypeError, "expected a name and a value of JSON"),
        ({3: 1}, TypeError, "expected a name"),
        ("enable_thinking=False", TypeError, "expected a dictionary"),
    ],
)
def test_what_no_template_can_be_told_is_refused(arguments, error, message):
    tokenizer = byte_level(SMOLLM3)
    with pytest.raises(error, match=message):
        build_prompt(model(tokenizer), "Is it?", template_arguments=arguments)


def test_nothing_reads_an_argument_without_a_template():
    with pytest.raises(ValueError, match=r"template_arguments=.* was given for a prompt without a chat template"):
        build_prompt(model(byte_level(SMOLLM3)), "Is it?", chat=False, template_arguments={"enable_thinking": False})


def test_a_system_message_has_no_place_without_a_template():
    with pytest.raises(ValueError, match=r"system='Be brief' was given for a prompt without a chat template"):
        build_prompt(model(byte_level()), "Is it?", chat=False, system="Be brief")


def test_of_named_templates_the_default_one_is_used_everywhere():
    named = {"default": CHATML, "tool_use": "tools: {{ messages[0].content }}", "rag": "{{ documents }}"}
    tokenizer, plain = tiny_tokenizer(), tiny_tokenizer()
    tokenizer.chat_template = named
    several, one = (interp.load(tiny("llama", vocab_size=400), tokenizer=t) for t in (tokenizer, plain))
    assert several.prompt("Is it?", answers=("Yes", "No")) == one.prompt("Is it?", answers=("Yes", "No"))
    assert several.provenance()["template_sha256"] == one.provenance()["template_sha256"]
    assert several.chat_template == CHATML
    tokenizer.chat_template = {"rag": CHATML, "tool_use": CHATML}
    with pytest.raises(ValueError, match=r"named 'rag', 'tool_use', and none is called 'default'\. Choose one"):
        several.prompt("Is it?")
    assert template_used(tokenizer) is None and several.provenance()["template_sha256"] is None


def test_a_template_that_reads_the_clock_writes_one_time_for_a_model():
    tokenizer = tiny_tokenizer("It is {{ strftime_now('%H:%M:%S.%f') }}.\n" + CHATML)
    loaded = interp.load(tiny("llama", vocab_size=400), tokenizer=tokenizer)
    texts = [loaded.prompt(t, system=s).text for s in (None, "Be brief.") for t in ("Is it?", "Is it?", "Yes or No?")]
    assert len({text.split("\n")[0] for text in texts[:3]}) == 1 and len(set(texts)) == 4
    again = loaded.asking(chat=True).prompt("Is it?").text
    assert again == texts[0]
    assert loaded.provenance()["template_writes_todays_date"] is True
    assert not writes_date(DATED, {"date_string": "26 Jul 2024"}) and not writes_date(CHATML, {})
    with pytest.raises(ValueError, match="alters the message ' Is it"):
        trimming = tiny_tokenizer("{{ strftime_now('%f') }}" + CHATML.replace("m.content", "m.content | trim"))
        interp.load(tiny("llama", vocab_size=400), tokenizer=trimming).prompt(" Is it?")


THINKS = CHATML + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
QUESTIONS = [Question(f"q{i}", f"Is thing {i} cold?", "Yes" if i % 2 else "No") for i in range(4)]


@pytest.fixture(scope="module")
def thinking() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=512), tokenizer=tiny_tokenizer(THINKS))


@pytest.mark.filterwarnings("ignore::interp.reports.mass.AnswersUnlikely")
def test_arguments_go_through_load_prompt_and_instruction_into_the_identity(thinking):
    told = {"enable_thinking": False}
    loaded = interp.load(thinking.hf, tokenizer=thinking.tokenizer, template_arguments=told)
    quiet = thinking.asking(template_arguments=told)
    assert loaded.prompt("Is it?") == quiet.prompt("Is it?") == thinking.prompt("Is it?", template_arguments=told)
    assert loaded.prompt("Is it?").text == thinking.prompt("Is it?").text + "<think>\n\n</think>\n\n"
    assert loaded.provenance()["template_arguments"] == told and thinking.provenance()["template_arguments"] == {}
    with pytest.raises(ValueError, match="never reads 'thinking'"):
        interp.load(thinking.hf, tokenizer=thinking.tokenizer, template_arguments={"thinking": False})
    with pytest.raises(ValueError, match="never reads 'thinking'"):
        thinking.asking(template_arguments={"thinking": False})
    ids = [
        rank_heads(m, QUESTIONS, n_views=0, instruction=i).provenance["run_id"]
        for m, i in (
            (thinking, None),
            (loaded, None),
            (quiet, None),
            (thinking, Instruction(template_arguments=told)),
            (thinking, Instruction(chat=False)),
            (thinking.asking(chat=False), None),
        )
    ]
    assert len({*ids[:2], *ids[3:]}) == 5 and ids[1] == ids[2]


def test_a_lone_surrogate_is_named_before_a_tokenizer_sees_it(thinking):
    for given in (
        {"text": "Is \ud83d cold?"},
        {"text": "Is it?", "system": "\udc00"},
        {"text": "a", "reply": "b\ud800"},
    ):
        with pytest.raises(ValueError, match=r"half of a surrogate pair, '\\u"):
            thinking.prompt(**given)
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        thinking.prompt("Is it?", answers=("Yes", "\ud83d"))
    assert thinking.prompt("Is \U0001f999 cold?").text.count("\U0001f999") == 1


def test_a_tokenizer_without_offsets_is_named():
    from transformers import ByT5Tokenizer

    loaded = interp.load(tiny("llama", vocab_size=400), tokenizer=ByT5Tokenizer())
    with pytest.raises(ValueError, match="ByT5Tokenizer, gives no offsets"):
        loaded.prompt("Is it?", chat=False)

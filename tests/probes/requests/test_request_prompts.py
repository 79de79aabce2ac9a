"""Where a request ends and the template goes on, for every kind of chat template, with and without system prompt."""

from __future__ import annotations

import pytest

import interp
from probes.requests.prompts import build_request_prompts, positions_of, same_ending, until_instruction_end
from probes.requests.requests import Request
from tests.tiny import CHATML, tiny, tiny_tokenizer

LLAMA2 = (
    "{% set ns = namespace(head='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.head = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %}"
    "{% else %}[INST] {{ ns.head }}{{ m.content }} [/INST]{% endif %}{% endfor %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
NOTHING_AFTER = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "plain": PLAIN}
REQUESTS = [
    Request("short", "Is it so.", "harmful"),
    Request("long", "Explain how the kettle boils water when it is heated.", "harmless"),
    Request("accents", "Où est le café préféré de Zoë.", "harmless"),
]


def load(template: str, **options) -> interp.Model:
    network = tiny("llama", vocab_size=400, max_position_embeddings=1024)
    return interp.load(network, tokenizer=tiny_tokenizer(template, **options))


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return load(CHATML)


@pytest.mark.parametrize("system", [None, "You are a kind assistant. Is it so."])
@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("template", TEMPLATES)
def test_positions_are_those_of_the_real_template(template, system, trim_offsets):
    model = load(TEMPLATES[template], trim_offsets=trim_offsets, adds_bos=True)
    prompts = build_request_prompts(model, REQUESTS, system=system)
    positions = positions_of(prompts)
    expected = {"chatml": "<|im_end|>\n<|im_start|>assistant\n", "llama2": " [/INST]", "plain": "\nassistant:"}[
        template
    ]
    for prompt, request, own in zip(prompts, REQUESTS, positions.of_prompt, strict=True):
        ids = prompt.token_ids
        assert own[-1] == len(prompt) - 1 and own == tuple(range(own[0], len(prompt)))
        assert model.tokenizer.decode(ids[own[0] + 1 :]) == expected
        assert model.tokenizer.decode(ids[: own[0] + 1]).endswith(request.text)
        assert prompt.id == request.id
    assert len(positions.tokens) == len(positions.of_prompt[0]) == len(positions.labels)
    assert positions.labels[0] == "t_inst" and positions.labels[-1].startswith("t_post")
    assert [len(p) for p in positions.both] == [2, 2, 2]
    assert [p[0] for p in positions.t_inst] == [p[0] for p in positions.both]
    assert [p[0] for p in positions.t_post] == [len(p) - 1 for p in prompts]
    assert all(same_ending(prompts))


@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("template", TEMPLATES)
def test_without_post_instruction_tokens(template, trim_offsets):
    model = load(TEMPLATES[template], trim_offsets=trim_offsets)
    whole = build_request_prompts(model, REQUESTS)
    cut = build_request_prompts(model, REQUESTS, post_instruction=False)
    for prompt, before, request in zip(cut, whole, REQUESTS, strict=True):
        assert prompt.token_ids == before.token_ids[: before.instruction_end + 1]
        assert prompt.text == before.text[: len(prompt.text)] and prompt.text.endswith(request.text)
        assert prompt.span("text") == before.span("text") and not prompt.span("suffix")
        assert until_instruction_end(prompt) == prompt
    positions = positions_of(cut)
    assert positions.tokens == ("t_inst",) and positions.labels == ["t_inst"]
    assert positions.t_inst == positions.t_post


def test_a_template_may_end_with_the_request():
    positions = positions_of(build_request_prompts(load(NOTHING_AFTER), REQUESTS))
    assert positions.tokens == ("t_inst",) and positions.t_inst == positions.t_post


def test_endings_are_compared_as_tokens(model):
    texts = ["One.", "Two.", "Three?", "Four."]
    prompts = build_request_prompts(model, [Request(t, t, "harmful") for t in texts])
    assert same_ending(prompts) == [True, True, False, True]


def test_what_cannot_be_compared_is_refused(model):
    one = build_request_prompts(model, REQUESTS[:2])
    other = build_request_prompts(load(PLAIN), REQUESTS[2:])
    with pytest.raises(ValueError, match=r"3 prompts end in 2 different ways .*\(accents differ"):
        positions_of([*one, *other])
    with pytest.raises(ValueError, match="no prompts"):
        positions_of([])
    base = interp.load(tiny("llama", vocab_size=400), tokenizer=tiny_tokenizer(None))
    with pytest.raises(ValueError, match="no chat template"):
        build_request_prompts(base, REQUESTS)


def test_requests_are_marked_as_texts_that_may_harm(model):
    """So that an explorer of heads shows them only where texts are asked for."""
    assert all(prompt.may_harm for prompt in build_request_prompts(model, REQUESTS))

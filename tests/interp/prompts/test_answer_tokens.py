"""The first token of an answer, for the shapes of templates and tokenizers of the field. The slow twin renders the
whole conversation and looks which token comes after the prompt's own."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from interp import Model
from interp.prompts.building import appended_tokens, build_prompt
from interp.prompts.chat_templates import template_used

CORPUS = [
    "Is the kettle hot? Yes. No. Yes No Maybe Yes, No,\nYes\nNo\nsystem user assistant model [INST] ASSISTANT: USER:"
] * 9
ADDED = (
    "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|start_of_role|>", "<|end_of_role|>", "[INST]", "[/INST]", "<|User|>", "<|Assistant|>",
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
    "<start_of_turn>", "<end_of_turn>", "<|turn|>", "<|reply|>",
)  # fmt: skip
NOT_SPECIAL = ("<think>", "</think>")
GENERATE = "{% if add_generation_prompt %}"

TEMPLATES = {
    "ChatML": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + GENERATE + "<|im_start|>assistant\n{% endif %}",
    "Phi-4": "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    + GENERATE + "<|im_start|>assistant<|im_sep|>{% endif %}",
    "Llama 3": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    + GENERATE + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "Granite": "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|im_end|>\n"
    "{% endfor %}" + GENERATE + "<|start_of_role|>assistant<|end_of_role|>{% endif %}",
    "tekken": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "Mistral": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "Llama 2": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}(INST) {{ m.content }} (/INST)"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}",
    "DeepSeek": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% else %}<|Assistant|>{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    + GENERATE + "<|Assistant|>{% endif %}",
    "Command R": "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>{% if m.role == 'user' %}<|USER_TOKEN|>"
    "{% else %}<|CHATBOT_TOKEN|>{% endif %}{{ m.content.strip() }}<|END_OF_TURN_TOKEN|>{% endfor %}"
    + GENERATE + "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    "Gemma": "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}" + GENERATE + "<start_of_turn>model\n{% endif %}",
    "Vicuna": "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}"
    "{{ eos_token if m.role == 'assistant' else ' ' }}{% endfor %}" + GENERATE + "ASSISTANT:{% endif %}",
    "no header of the reply's": "{% for m in messages %}{% if m.role == 'user' %}<|turn|>{{ m.content }}<|reply|>"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}",
}  # fmt: skip
QWEN3 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n<think>\n\n</think>\n\n{{ m.content }}"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SMOLLM3 = QWEN3.replace("<|im_start|>assistant\n<think>\n\n</think>\n\n{{ m", "<|im_start|>assistant\n{{ m")


def finished(raw, template, **special):
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **special
    )
    made.add_tokens([AddedToken(t, special=True, normalized=False) for t in ADDED], special_tokens=True)
    made.add_tokens([AddedToken(t, special=False, normalized=False) for t in NOT_SPECIAL])
    made.chat_template = template
    return made


def byte_level(template=None):
    raw = Tokenizer(models.BPE(unk_token=None))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet)
    )
    return finished(raw, template)


def metaspace(template=None, scheme="first"):
    """As Llama's and Mistral's: spaces are part of words, the first word has one put before it, bytes for the rest."""
    pieces = ["▁", "\n", "▁Yes", "Yes", "▁No", "No", "▁Is", "▁it", "?", ":", ".", "(", ")", "/", "▁Maybe", "Maybe"]
    pieces += [chr(c) for c in (*range(97, 123), *range(65, 91)) if chr(c) not in pieces]
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    vocabulary += [(f"<0x{b:02X}>", -20.0) for b in range(256)]
    vocabulary += [(p, -1.0 * len(p) if len(p) > 2 else -9.0) for p in pieces]
    raw = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return finished(raw, template)


def legacy_metaspace(template=None):
    """The older way: a normaliser puts the space, before every stretch of text between special tokens."""
    made = metaspace(template)
    made._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    made._tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return made


def word_piece(template=None):
    pieces = [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "<unk>",
        "<s>",
        "</s>",
        "yes",
        "no",
        "maybe",
        "is",
        "it",
        "?",
        ":",
        ".",
        "inst",
    ]
    pieces += [c for c in "abcdefghijklmnopqrstuvwxyz()/[]<>|_-"] + ["##" + chr(c) for c in range(97, 123)]
    raw = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return finished(raw, template)


TOKENIZERS = {
    "byte-level": byte_level, "metaspace": metaspace, "always": lambda t=None: metaspace(t, "always"),
    "legacy": legacy_metaspace, "WordPiece": word_piece,
}  # fmt: skip


def model(tokenizer, **asking):
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=len(tokenizer)))
    stub = SimpleNamespace(tokenizer=tokenizer, name="a model", context_length=4096, has_vision=False, processor=None)
    stub.hf = SimpleNamespace(config=config)
    stub.chat, stub.template_arguments, stub.renderings = True, {}, {}
    stub.n_tokens = stub.n_logits = len(tokenizer)
    stub.chat_template = template_used(tokenizer)
    stub.require_fits = lambda prompts: Model.require_fits(stub, prompts)
    vars(stub).update(asking)
    return stub


def twin(tokenizer, text, word, **told):
    """The first token after the prompt's own in the rendering with the word as the assistant's message."""
    user = [{"role": "user", "content": text}]
    said = [*user, {"role": "assistant", "content": word}]
    own, whole = (
        tokenizer(
            tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=m is user, **told),
            add_special_tokens=False,
        )["input_ids"]
        for m in (user, said)
    )
    assert whole[: len(own)] == own
    return whole[len(own)]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("shape", TEMPLATES)
def test_the_answers_token_is_the_one_the_template_puts_there(shape, kind):
    tokenizer = TOKENIZERS[kind](TEMPLATES[shape])
    if shape == "Llama 3":  # its line breaks are a token of the header's own
        assert build_prompt(model(tokenizer), "Is it?").text.endswith("\n\n")
    answers = build_prompt(model(tokenizer), "Is it?", answers=("Yes", "No", "Maybe")).answers
    if (shape, kind) == ("Mistral", "legacy"):  # two spaces, the first a token alone, which no answer can be told by
        assert tokenizer.convert_ids_to_tokens([twin(tokenizer, "Is it?", "Yes"), *answers["Yes"]]) == ["▁", "▁Yes"]
        return
    assert answers == {word: (twin(tokenizer, "Is it?", word),) for word in ("Yes", "No", "Maybe")}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", [QWEN3, SMOLLM3], ids=["Qwen3", "SmolLM3"])
def test_a_template_that_writes_a_thought_does_not_make_it_the_answer(kind, template):
    """Rendered with an answer, the template begins the assistant's message with an empty thought."""
    tokenizer = TOKENIZERS[kind](template)
    stub = model(tokenizer)
    plain = build_prompt(stub, "Is it?", answers=("Yes", "No"))
    quiet = build_prompt(stub, "Is it?", answers=("Yes", "No"), template_arguments={"enable_thinking": False})
    assert quiet.text == plain.text + "<think>\n\n</think>\n\n"
    glued = tokenizer("\nYes", add_special_tokens=False)["input_ids"][-1]
    assert plain.answers["Yes"] == quiet.answers["Yes"] == (glued,)
    if template == QWEN3:
        assert quiet.answers["Yes"] == (twin(tokenizer, "Is it?", "Yes", enable_thinking=False),)


def test_a_header_that_ends_in_a_space_is_gone_on_from():
    """Space and word would be one token, but the space is in the prompt already."""
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + GENERATE + "assistant: {% endif %}"
    )
    for make in (byte_level, metaspace):
        tokenizer = make(template)
        p = build_prompt(model(tokenizer), "Is it?", answers=("Yes", "No"))
        assert tokenizer.convert_ids_to_tokens(list(p.answers["Yes"])) == ["Yes"] and p.text.endswith(" ")


@pytest.mark.parametrize("lead", ["\n", "\n\n", " \n"])
def test_a_line_break_before_the_reply_that_no_header_holds_is_said(lead):
    template = TEMPLATES["DeepSeek"].replace("<|Assistant|>{{ m.content }}", "<|Assistant|>" + lead + "{{ m.content }}")
    tokenizer = byte_level(template)
    with pytest.warns(UserWarning, match=r"writes '.*\\n' between its header and the reply, .*reply="):
        p = build_prompt(model(tokenizer), "Is it?", answers=("Yes", "No"))
    assert p.lead == lead and tokenizer.convert_ids_to_tokens(list(p.answers["No"])) == ["No"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begun = build_prompt(model(tokenizer), "Is it?", answers=("Yes", "No"), reply=lead)
    assert begun.answers == p.answers


@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "legacy"])
@pytest.mark.parametrize(
    ("reply", "space"),
    [
        ("It is", True),
        ("Reply: (", False),
        ("Hm.\n", False),
        ("<think>\n\n</think>", False),
        ("“", False),
        ("答案是", False),
    ],
)
def test_after_a_given_reply(kind, reply, space):
    tokenizer = TOKENIZERS[kind](TEMPLATES["ChatML"])
    p = build_prompt(model(tokenizer), "Is it?", answers=("Yes", "No"), reply=reply)
    whole = tokenizer(p.text + " " * space + "No", add_special_tokens=False)["input_ids"]
    assert tuple(whole[: len(p)]) == p.token_ids and p.answers["No"] == (whole[len(p)],)


def test_words_of_scripts_without_spaces_follow_directly():
    tokenizer = byte_level()
    p = build_prompt(model(tokenizer), "冷吗?", chat=False, answers=("是", "否"), forms="in_context")
    first = {w: tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in ("是", "否")}
    assert {w: t for w, (t,) in p.answers.items()} == first


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_both_forms_hold_the_one_in_context(kind):
    tokenizer = TOKENIZERS[kind](TEMPLATES["Mistral"])
    one, both = (
        build_prompt(model(tokenizer), "Is it?", answers=("Yes", "No"), forms=f) for f in ("in_context", "both")
    )
    for word in ("Yes", "No"):
        assert set(one.answers[word]) <= set(both.answers[word])
    assert not set(both.answers["Yes"]) & set(both.answers["No"])


APPENDING = {"$A </s>": 1, "<s> $A </s>": 1, "$A </s> </s>": 2, "<s> $A </s> <unk> </s>": 3, "<s> $A": 0}


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
@pytest.mark.parametrize("single", APPENDING)
def test_nothing_is_read_behind_the_end_of_a_text_that_is_continued(kind, single):
    tokenizer = TOKENIZERS[kind](TEMPLATES["ChatML"])
    plain = build_prompt(model(TOKENIZERS[kind]()), "Is it?", chat=False, answers=("Yes", "No"), spans={"it": (3, 5)})
    numbers = [(t, tokenizer.convert_tokens_to_ids(t)) for t in ("<s>", "</s>", "<unk>")]
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B", special_tokens=numbers
    )
    begins = single.startswith("<s>")
    assert len(appended_tokens(tokenizer)) == APPENDING[single]
    p = build_prompt(model(tokenizer), "Is it?", chat=False, answers=("Yes", "No"), spans={"it": (3, 5)})
    assert p.token_ids == (numbers[0][1],) * begins + plain.token_ids and p.answers == plain.answers
    assert p.span("it") == tuple(i + begins for i in plain.span("it")) and p.span("suffix") == ()
    # an end token that the user wrote is text, and stays
    written = build_prompt(model(tokenizer), "Is it?</s>", chat=False)
    assert written.token_ids == (*p.token_ids, tokenizer.eos_token_id)
    begun = build_prompt(model(tokenizer), "Is it?", chat=False, reply=" Yes", answers=("No", "Maybe"))
    assert begun.token_ids[: len(p)] == p.token_ids and begun.token_ids[-1] not in appended_tokens(tokenizer)
    chat = build_prompt(model(tokenizer), "Is it?", answers=("Yes", "No"))
    assert chat.answers["Yes"] == (twin(tokenizer, "Is it?", "Yes"),)


def test_word_piece_has_its_beginning_and_not_its_end():
    tokenizer = word_piece()
    p = build_prompt(model(tokenizer), "Is it?", chat=False, answers=("Yes", "No"))
    assert p.tokens == ("[CLS]", "Is", "it", "?") and p.answers["Yes"] == (tokenizer.convert_tokens_to_ids("yes"),)

"""The tokenizer of a GGUF file, mended where transformers reads it otherwise than its authors meant.

A vocabulary's way of splitting text that transformers doesn't know; control tokens that the file calls normal ones, so
that a chat template's markers come out in pieces; special tokens by their numbers.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

# `tokenizer.ggml.pre` of vocabularies learned with every digit apart (llama.cpp, llama-vocab.cpp).
# transformers 5.23 doesn't know it: "\n\n4" becomes "\n", "\n", "4"; the model was trained on "\n\n", "4".
_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
# what transformers does with every `pre` it doesn't know, which is right for these
_SPLIT_AS_GPT2 = {"gpt-2", "phi-2", "gigachat", "mpt", "olmo", "jais", "jina-es", "jina-de", "trillion"}


def set_pre_tokenizer(tokenizer: Any, kind: str) -> None:
    """Split text as the vocabulary's authors did, where transformers falls back on GPT-2's way."""
    from tokenizers import pre_tokenizers

    split = tokenizer.backend_tokenizer.pre_tokenizer
    if not isinstance(split, pre_tokenizers.ByteLevel) or kind in _SPLIT_AS_GPT2:
        return
    if kind in _DIGITS_APART:
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, split])
    else:
        warnings.warn(
            f"the file's tokenizer splits text in a way ({kind!r}) that transformers doesn't know; it is "
            "split as GPT-2 does. Compare token ids with the original tokenizer before you trust positions.",
            stacklevel=3,
        )


def keep_control_tokens(tokenizer: Any) -> None:
    """Make every marker of the chat template that is one entry of the vocabulary come out as that one token.

    A marker is an entry with a sign in it (`<|im_start|>`, `[INST]`) that stands in the template's own text and that
    the tokenizer would cut: no merges lead to it, so the file only forgot to call it a control token.

    Raises:
        ValueError: a marker can't be kept whole.
    """
    from tokenizers import AddedToken

    template = tokenizer.chat_template
    if not template:
        return
    templates = template.values() if isinstance(template, dict) else [template]
    literals = {text for one in templates for text in _literals(one)}
    markers = _markers(tokenizer, literals)
    _spell_plainly(tokenizer, markers)
    cut = [marker for marker, token in markers.items() if not _is_whole(tokenizer, marker, token)]
    if cut:
        tokenizer.add_tokens(
            [AddedToken(marker, normalized=False, special=True) for marker in cut], special_tokens=True
        )
    left = [marker for marker, token in markers.items() if not _is_whole(tokenizer, marker, token)]
    if left:
        raise ValueError(
            f"the chat template writes {', '.join(map(repr, left[:5]))}, one entry of the vocabulary each, and the "
            "tokenizer cuts it into pieces: the model was trained on the whole. Use the original checkpoint's "
            "tokenizer (interp.load takes the original's directory or hub id)."
        )


def _literals(template: str) -> Iterator[str]:
    """What a template may write of itself: its text, and the strings in its expressions."""
    import jinja2.ext
    from jinja2 import Environment, TemplateSyntaxError, nodes

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    try:
        tree = environment.parse(template)
    except TemplateSyntaxError:  # a block of transformers' own ({% generation %}): the whole text is searched
        yield template
        return
    for node in tree.find_all(nodes.TemplateData):
        yield node.data
    for node in tree.find_all(nodes.Const):
        if isinstance(node.value, str):
            yield node.value


def _markers(tokenizer: Any, literals: set[str]) -> dict[str, int]:
    """Entries of the vocabulary that stand in the literals, have a sign in them, and are no part of a longer one."""
    text, byte_of = "\0".join(literals), _bytes_of_characters(tokenizer)
    found: dict[str, int] = {}
    for entry, token in tokenizer.get_vocab().items():
        plain = _plainly(entry, byte_of)
        is_marker = len(plain) > 2 and not plain.replace("_", "").isalnum() and plain.isprintable() and " " not in plain
        if is_marker and plain in text:
            found[plain] = token
    kept: dict[str, int] = {}
    for entry in sorted(found, key=len, reverse=True):
        if entry in text:  # a shorter one counts where it stands outside the longer ones
            kept[entry] = found[entry]
            text = text.replace(entry, "\0")
    return kept


def _spell_plainly(tokenizer: Any, markers: Mapping[str, int]) -> None:
    """Name the entries by their plain text where transformers spelled them in the alphabet of bytes (`<｜User｜>`): no
    merges lead to them, and an added token is found by its plain text."""
    byte_of = _bytes_of_characters(tokenizer)
    plainly = {entry: _plainly(entry, byte_of) for entry in tokenizer.get_vocab()}
    spelled = {entry: plain for entry, plain in plainly.items() if plain in markers and plain != entry}
    if not spelled:
        return
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"] = {spelled.get(entry, entry): i for entry, i in state["model"]["vocab"].items()}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def _bytes_of_characters(tokenizer: Any) -> dict[str, int]:
    """What each character of a byte-level vocabulary stands for; empty for other vocabularies."""
    from tokenizers import decoders
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    if not isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel):
        return {}
    return {character: byte for byte, character in bytes_to_unicode().items()}


def _plainly(entry: str, byte_of: Mapping[str, int]) -> str:
    if not byte_of or not set(entry) <= byte_of.keys():
        return entry
    try:
        return bytes(byte_of[c] for c in entry).decode("utf-8")
    except UnicodeDecodeError:
        return entry


def _is_whole(tokenizer: Any, marker: str, token: int) -> bool:
    return tokenizer(f"a{marker}b", add_special_tokens=False)["input_ids"].count(token) == 1


def check_special_tokens(tokenizer: Any, metadata: Mapping[str, Any]) -> None:
    """Give the tokenizer the header's begin, end, padding and unknown tokens, and what it adds to a text.

    Warns where the tokenizer adds a begin or an end token and the header says no, or the other way round.
    """
    names = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    for key, name in names.items():
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(token, int) and 0 <= token < len(tokenizer) and getattr(tokenizer, f"{name}_id") != token:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token))
    ids = tokenizer("a")["input_ids"]
    ends = {"bos": ids[:1], "eos": ids[-1:]}
    for key, end in ends.items():
        stated = metadata.get(f"tokenizer.ggml.add_{key}_token")
        token = getattr(tokenizer, f"{key}_token_id")
        if stated is None or token is None or (end == [token]) == bool(stated):
            continue
        warnings.warn(
            f"the file's tokenizer {'adds' if stated else 'does not add'} {key.upper()} to a text, and transformers' "
            f"{'does not' if stated else 'does'}. A chat template writes its own; with chat=False, write the token "
            "where you want it.",
            stacklevel=5,
        )

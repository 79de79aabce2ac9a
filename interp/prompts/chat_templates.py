"""Chat templates: the text that a model reads for one user message, with or without a picture, and where that is.

What a template can be told (``enable_thinking``, ``reasoning_effort``, ...) are its *arguments*; which ones it reads is
asked of the template itself. What it writes of its own accord (a system prompt, a date, a space before the reply) is
found out by rendering, never by a list of names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension

from interp.prompts.prompt import called

System = str | bool | None
"""A system message; None leaves it to the template; False asks for none (True is refused)."""

_SENTINEL = "\u2063headscope\u2063"  # stands for the user's text while the template is taken apart
_OTHER = "\u2063system\u2063"  # and for a system message
_OURS = {
    "messages", "add_generation_prompt", "continue_final_message", "tokenize", "chat_template", "return_dict",
    "return_tensors", "return_assistant_tokens_mask", "padding", "truncation", "max_length", "strftime_now",
    "raise_exception", "conversation", "tokenizer_kwargs", "processor_kwargs", "sanitize_control_tokens",
    "load_audio_from_video", "bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token",
}  # fmt: skip
_DATE = "strftime_now"  # transformers' clock, as templates call it
_ROLE = re.compile(r"^\W*(?:system|developer|user|human)\W*$", re.IGNORECASE)  # a line that names a role and no more


def template_used(holder: Any) -> str | None:
    """The chat template of a tokenizer or processor: of several that have names, the one called "default"."""
    template = getattr(holder, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default")
    return template or None


def picture_template(processor: Any) -> str | None:
    """The chat template of a processor, or of its tokenizer; None if neither has one."""
    return template_used(processor) or template_used(getattr(processor, "tokenizer", None))


@lru_cache(maxsize=64)
def template_variables(template: str) -> frozenset[str]:
    """The variables that a template reads and does not make itself: all that it can be told."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols", _Generation])
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(template)))
    except TemplateSyntaxError as error:
        raise ValueError(f"the chat template can't be read: {error}. Set another one on the tokenizer.") from None


class _Generation(Extension):
    """transformers' tag around what the assistant says, which only marks it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def told(arguments: Mapping[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments, and more of them, which count where both name one. Raises ``TypeError`` for what is no mapping."""
    if more is not None and not isinstance(more, Mapping):
        raise TypeError(
            f"template_arguments={more!r} is a {type(more).__name__}; expected a dictionary, such as "
            "{'enable_thinking': False}."
        )
    return {**arguments, **(more or {})}


def checked_arguments(template: str | None, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments, if the template reads every one of them.

    Raises ``ValueError`` for one that it never reads (it would change nothing, without a word), for a name that is not
    the user's to set, and without a template; ``TypeError`` for what is no mapping, or a value that is not JSON's.
    """
    given = told({}, arguments)
    for name, value in given.items():
        if not isinstance(name, str) or not _is_json(value):
            raise TypeError(
                f"template_arguments: {name!r} is {value!r}; expected a name and a value of JSON (true, false, a "
                "number, a text, a list, a dictionary), so that it can stand in the provenance."
            )
    if given and template is None:
        raise ValueError(f"template_arguments {sorted(given)} were given, and there is no chat template to read them.")
    if not given:
        return {}
    known = template_variables(template) - _OURS
    if unknown := sorted(set(given) - known):
        ours = f" ({unknown[0]} is set by the prompt itself)" if unknown[0] in _OURS else ""
        raise ValueError(
            f"the chat template never reads {unknown[0]!r}{ours}: the argument would change nothing. It can be told "
            f"{', '.join(sorted(known)) or 'nothing'}."
        )
    return given


def writes_date(template: str | None, arguments: Mapping[str, Any]) -> bool:
    """Whether the template can write today's date: it reads the clock, and no argument names a date instead."""
    return template is not None and _DATE in template_variables(template) and not any("date" in a for a in arguments)


@dataclass(frozen=True)
class ChatTemplate:
    """A template, who applies it, and its arguments: all that decides what stands around a user's message.

    ``pictured``: None for a tokenizer, whose messages are texts; for a processor, whose messages are lists of parts,
    whether a picture stands before the text. ``kept``: what stands around a message, rendered once, so that a template
    that reads the clock writes one date as long as this lives.
    """

    holder: Any
    template: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pictured: bool | None = None
    kept: dict[Any, Any] = field(default_factory=dict)

    def render(self, text: str, system: System = None, id: str = "") -> tuple[str, int]:
        """The text for one user message, ready for the reply, and where the message starts in it.

        The template is taken apart by rendering a sentinel instead of the message, so the position is right even when
        the message's words also stand elsewhere (in the system prompt, say). Raises ``ValueError`` for text that the
        template alters, and a system message that it refuses, drops, or can't leave out.
        """
        head, tail = self.around(system)
        rendered = self._write(text, system)
        kept = rendered == head + text + tail
        if not kept and _DATE in template_variables(self.template):  # the clock has moved on since
            at = len(head)
            kept = rendered[at : at + len(text)] == text and len(rendered) == at + len(text) + len(tail)
            kept = kept or rendered == text.join(self._apart(system))
        if not kept:
            raise ValueError(
                f"the chat template alters the message {called(id, text)} (by stripping spaces at its ends, for "
                "example), so character positions would be off. Give the text as the template keeps it."
            )
        return head + text + tail, len(head)

    def around(self, system: System = None) -> tuple[str, str]:
        """What stands before the user's message, and after it up to the reply."""
        key = self._key(system)
        if key not in self.kept:
            self.kept[key] = self._apart(system)
        return self.kept[key]

    def lead(self, system: System = None) -> str | None:
        """What the template writes between the prompt and a reply: "", spaces, line breaks. None where it can't say:
        it puts no assistant's message after the prompt as it stands, but something else (a thought, another header)."""
        key = ("lead", self._key(system))
        if key not in self.kept:
            self.kept[key] = self._lead(system)
        return self.kept[key]

    def _lead(self, system: System) -> str | None:
        head, tail = self.around(system)
        try:
            whole = self._write(_SENTINEL, system, reply=_OTHER)
        except ValueError:
            return None
        prompt = head + _SENTINEL + tail
        if not whole.startswith(prompt) or _OTHER not in whole[len(prompt) :]:
            return None
        lead = whole[len(prompt) :].split(_OTHER)[0]
        return None if lead.strip() else lead

    def own_system(self) -> str:
        """The system prompt that stands there if none is given, as text; "" for none.

        Found by rendering with and without one: what a given message replaces, and before that what the template writes
        in any case (Llama 3's dates), if it is three words or more.
        """
        own, _ = self.around(None)
        try:
            given, _ = self.around(_OTHER)
        except ValueError:  # it takes none
            return self._words(own)
        common = _shared_start(own, given)
        rest, other = own[len(common) :], given[len(common) :]
        shared = len(_shared_start(rest[::-1], other[::-1]))
        replaced = rest[: len(rest) - shared]
        return "\n".join(filter(None, (self._words(common), self._plain(replaced))))

    def _key(self, system: System) -> tuple:
        told = tuple(sorted((name, repr(value)) for name, value in self.arguments.items()))
        return (self.template, told, self.pictured, repr(system))

    def _plain(self, text: str) -> str:
        """A piece of a rendering without the template's marks and names of roles."""
        for mark in sorted(_marks(getattr(self.holder, "tokenizer", self.holder)), key=len, reverse=True):
            text = text.replace(mark, "\n")
        lines = [line for line in text.strip().split("\n") if not _ROLE.match(line)]
        return "\n".join(lines).strip()

    def _words(self, text: str) -> str:
        plain = self._plain(text)
        return plain if len(re.findall(r"[^\W\d_]{2,}", plain)) >= 3 else ""

    def _apart(self, system: System) -> tuple[str, str]:
        if system is True:
            raise ValueError(
                "system=True; expected a text, False for no system prompt, or None for the template's own."
            )
        if system is False:
            return self._without_system()
        parts = self._write(_SENTINEL, system).split(_SENTINEL)
        if len(parts) != 2:
            raise ValueError(f"the chat template writes the user's message {len(parts) - 1} times; expected once.")
        if system and system.strip() not in parts[0] + parts[1]:
            raise ValueError(f"the chat template drops the system message {system[:60]!r}. Leave out system=.")
        return parts[0], parts[1]

    def _without_system(self) -> tuple[str, str]:
        own = self.own_system()
        if not own:
            return self._apart(None)
        begin = getattr(getattr(self.holder, "tokenizer", self.holder), "bos_token", None) or ""
        with suppress(ValueError):  # a template that writes nothing at all for an empty message, not even a header
            head, tail = self._apart("")
            bare, given = head.removeprefix(begin), self._apart(_OTHER)[0].removeprefix(begin)
            if (given.endswith(bare) or given.startswith(bare)) and not self._words(bare):
                return head, tail
        raise ValueError(
            f"the chat template writes a system prompt of its own, {own[:80]!r}, and can't leave it out. Give one "
            "(system='...'), or an empty one (system='')."
        )

    def _write(self, content: str, system: System, reply: str | None = None) -> str:
        if system is False:  # what stands around is known; only the message and the reply are written
            head, tail = self.around(False)
            system = None if (head, tail) == self.around(None) else ""
        messages = [] if system is None else [{"role": "system", "content": self._parts(system)}]
        messages.append({"role": "user", "content": self._parts(content, bool(self.pictured))})
        if reply is not None:
            messages.append({"role": "assistant", "content": self._parts(reply)})
        options = {"tokenize": False, "add_generation_prompt": reply is None, **self.arguments}
        try:
            return self.holder.apply_chat_template(messages, chat_template=self.template, **options)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            told = f" (told {dict(self.arguments)})" if self.arguments else ""
            raise ValueError(
                f"the chat template{told} refuses {'a system and ' if system is not None else ''}a user message: "
                f"{error}. {'Leave out system=.' if system is not None else 'Use another template, or chat=False.'}"
            ) from error

    def _parts(self, text: str, with_picture: bool = False) -> Any:
        if self.pictured is None:
            return text
        return [*([{"type": "image"}] if with_picture else []), {"type": "text", "text": text}]


def render(tokenizer: Any, text: str, system: System = None, arguments: Mapping[str, Any] | None = None):
    """:meth:`ChatTemplate.render` by a tokenizer's own template."""
    return tokenizer_template(tokenizer, arguments).render(text, system)


def tokenizer_template(
    tokenizer: Any, arguments: Mapping[str, Any] | None = None, kept: dict[Any, Any] | None = None
) -> ChatTemplate:
    """A tokenizer's chat template. Raises ``ValueError`` if it has none, or several and none called "default"."""
    template = template_used(tokenizer)
    if template is None:
        named = getattr(tokenizer, "chat_template", None)
        if isinstance(named, Mapping) and named:
            raise ValueError(
                f"the tokenizer has chat templates named {', '.join(map(repr, sorted(named)))}, and none is called "
                "'default'. Choose one: tokenizer.chat_template = tokenizer.chat_template[name]."
            )
        raise ValueError(
            "the tokenizer has no chat template (a base model?): expected an instruction-tuned model. Use an "
            "instruct version, set tokenizer.chat_template, or build prompts with chat=False."
        )
    return ChatTemplate(tokenizer, template, checked_arguments(template, arguments), None, {} if kept is None else kept)


def _marks(tokenizer: Any) -> Sequence[str]:
    """What the tokenizer has as tokens that are no words: added and special ones, as text."""
    added = getattr(tokenizer, "added_tokens_decoder", {}) or {}
    return [*{str(t) for t in added.values()}, *getattr(tokenizer, "all_special_tokens", ())]


def _shared_start(one: str, other: str) -> str:
    n = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:n]


def _is_json(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_json(v) for k, v in value.items())
    return value is None or isinstance(value, (bool, int, float, str))

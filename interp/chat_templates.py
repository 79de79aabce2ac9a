"""Chat templates: the text that a model reads for one user message, with or without a picture, and where that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError

_SENTINEL = "\u2063headscope\u2063"  # stands for the user's text while the template is taken apart


def render(tokenizer: Any, text: str, system: str | None = None) -> tuple[str, int]:
    """The chat template's text for one user message, ready for the reply, and where the message starts in it.

    The template is taken apart by rendering a sentinel instead of the message, so the position is right even when
    the message's words also stand elsewhere (in the system prompt, say). Text that the template alters is refused.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template (a base model?): expected an instruction-tuned model. Use an "
            "instruct version, set tokenizer.chat_template, or build prompts with chat=False."
        )
    head = [] if system is None else [{"role": "system", "content": system}]

    def write(content: str) -> str:
        messages = [*head, {"role": "user", "content": content}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    return _taken_apart(write, text, system)


def render_parts(processor: Any, template: str, text: str, system: str | None, pictured: bool) -> tuple[str, int]:
    """The same for messages that are lists of parts: the picture first, if there is one, then the text. The template
    writes the image token where it wants it."""
    head = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    picture = [{"type": "image"}] if pictured else []

    def write(content: str) -> str:
        messages = [*head, {"role": "user", "content": [*picture, {"type": "text", "text": content}]}]
        return processor.apply_chat_template(messages, template, tokenize=False, add_generation_prompt=True)

    return _taken_apart(write, text, system)


def picture_template(processor: Any) -> str | None:
    """The chat template of a processor, or of its tokenizer; None if neither has one."""
    for part in (processor, getattr(processor, "tokenizer", None)):
        if template := template_used(part):
            return template
    return None


def template_used(holder: Any) -> str | None:
    """The template that ``apply_chat_template`` of a tokenizer or a processor takes when none is named: of several that
    have names, the default. None if there is no such template."""
    template = getattr(holder, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def _taken_apart(write: Callable[[str], str], text: str, system: str | None) -> tuple[str, int]:
    def apply(content: str) -> str:
        try:
            return write(content)
        except TemplateError as error:
            raise ValueError(
                f"the chat template refuses {'a system and ' if system is not None else ''}a user message: {error}. "
                f"{'Leave out system=.' if system is not None else 'Use another template, or chat=False.'}"
            ) from error

    parts = apply(_SENTINEL).split(_SENTINEL)
    if len(parts) != 2:
        raise ValueError(f"the chat template writes the user's message {len(parts) - 1} times; expected once.")
    if system and system.strip() not in parts[0] + parts[1]:
        raise ValueError(f"the chat template drops the system message {system[:60]!r}. Leave out system=.")
    rendered = apply(text)
    if rendered != parts[0] + text + parts[1]:
        raise ValueError(
            f"the chat template alters the message {text[:60]!r} (by stripping spaces at its ends, for example), so "
            "character positions would be off. Give the text as the template keeps it."
        )
    return rendered, len(parts[0])

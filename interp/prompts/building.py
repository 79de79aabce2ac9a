"""From text to tokens, and from characters to positions: chat templates, spans, answer tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from interp.prompts.answer_tokens import resolve_answers
from interp.prompts.chat_templates import (
    ChatTemplate,
    System,
    checked_arguments,
    picture_template,
    tokenizer_template,
    told,
)
from interp.prompts.fits import require_fits
from interp.prompts.pictures import encode, image_token
from interp.prompts.prompt import CharSpan, Prompt, SpanLike, called
from interp.prompts.reader import Reader
from interp.vision import TOKEN_INPUTS, Encoded, ImageLike


def build_prompt(
    model: Reader,
    text: str,
    *,
    spans: Mapping[str, SpanLike] | None = None,
    answers: Sequence[str] = (),
    gold: str | None = None,
    forms: str = "in_context",
    system: System = None,
    chat: bool | None = None,
    reply: str = "",
    id: str = "",
    image: ImageLike | None = None,
    text_only: bool = False,
    template_arguments: Mapping[str, Any] | None = None,
) -> Prompt:
    """Put ``text`` (and a picture) through the chat template, tokenise once, and find every span's tokens by character
    offsets.

    Args:
        spans: name -> half-open character range(s) in ``text``. A token belongs to a span if they overlap.
        answers: words whose first token is looked up as it would follow this very prompt
            (:mod:`interp.prompts.answer_tokens`).
        forms: ``"in_context"``: the one form that the tokenizer gives after this prompt; ``"both"``: that form and
            the one with (or without) a leading space, summed.
        system: a system message. None leaves it to the template, and some templates then write one of their own
            (SmolLM2, Qwen2.5; ``model.own_system()`` says which); ``""`` asks for an empty one, ``False`` for none.
        chat: False takes the text as it is, with the special tokens that the tokenizer puts *before* it. Those that it
            would append (an end token, ``[SEP]``) are left out: nothing is read behind the end of a text that is to be
            continued. None: as the model was loaded (``interp.load(chat=...)``).
        reply: how the assistant's reply begins; the model goes on from there. It is kept to the letter and is the span
            ``"reply"`` (the end of ``"suffix"``). Better not end it in a space: models have rarely seen one alone.
        image: a picture (a path or a ``PIL.Image.Image``) for a vision-language model. It goes where the chat template
            puts it, or, with ``chat=False``, where the one image token stands in ``text`` (models with the picture
            before all text, as InstructBLIP, need none). A begin token is added as the processor does it.
        text_only: for a vision-language model, that it is meant to see no picture.
        template_arguments: what the template is told, such as ``{"enable_thinking": False}``; added to those that the
            model was loaded with.

    Raises ``FileNotFoundError`` and ``ValueError`` for pictures as :func:`interp.read_image` does; ``ValueError`` for
    a picture and a model without vision, none and a model with it, other than one image token in the text; for a
    tokenizer without chat template or offsets, half of a surrogate pair, a template that refuses or drops the system
    message, alters the text or never reads an argument, a prompt longer than the context, spans outside the text or
    without a token, and answers that can't be told apart by their first token.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError(
            f"{model.name} was loaded without a tokenizer: give interp.load(..., tokenizer=...) or build prompts "
            "with Prompt.from_token_ids."
        )
    _require_unicode(text=text, system=system or "", reply=reply, **{f"answer {w!a}": w for w in answers})
    _require_offsets(tokenizer, model.name)
    _require_image_or_none(model, image, text_only)
    chat = model.chat if chat is None else chat
    lead = None
    if chat:
        template = template_of(model, template_arguments, pictured=image is not None)
        if image is not None and image_token(model) in text:
            raise ValueError(
                f"the text holds the image token {image_token(model)!r}, and the chat template places the picture too. "
                "Leave it out, or use chat=False."
            )
        (whole, start), lead = template.render(text, system, id), None if reply else template.lead(system)
    else:
        _require_no_template(system, template_arguments)
        whole, start = text, 0
    whole += reply
    bos = getattr(tokenizer, "bos_token", None)
    # a chat template writes its begin token itself, but for those of processors
    add_special = (not chat or model.has_vision) and not (bos and whole.startswith(bos))
    if image is not None:
        made = encode(model, whole, image, add_special)
    else:
        encoded = tokenizer(whole, add_special_tokens=add_special, return_offsets_mapping=True)
        made = Encoded(tuple(encoded["input_ids"]), tuple(encoded["offset_mapping"]), whole)
    n_appended = len(appended_tokens(tokenizer)) if add_special else 0
    ids, offsets = (part[: len(part) - n_appended] for part in (made.token_ids, made.offsets))
    rendered, moved, seen = made.text, made.moved, made.image
    if seen is not None and n_appended:
        cut = {name: v[:, :-n_appended] if name in TOKEN_INPUTS else v for name, v in seen.inputs.items()}
        seen = replace(seen, inputs=cut)
    located = _thirds(offsets, moved(start), moved(start + len(text)))
    if image is not None:
        located["image"] = made.image_positions
        located["after_image"] = tuple(range(made.image_positions[-1] + 1, len(ids)))
    if reply:
        if not rendered.endswith(reply):
            raise ValueError(
                f"{type(model.processor).__name__} writes {rendered[-3:]!r} after the text, so a reply can't be begun "
                "there. Leave out reply=."
            )
        located["reply"] = _tokens_in(offsets, (len(rendered) - len(reply), len(rendered)))
    if taken := sorted(set(spans or {}) & set(located)):
        raise ValueError(f"spans named {taken} were given; every prompt has its own. Use other names.")
    for name, given in (spans or {}).items():
        parts = [given] if given and isinstance(given[0], int) else list(given)
        for low, high in parts:
            if not 0 <= low < high <= len(text):
                raise ValueError(
                    f"span {name!r} is characters {low}..{high}, but the text has {len(text)} characters; expected "
                    "0 <= start < end <= length."
                )
        located[name] = _tokens_in(offsets, [(moved(start + low), moved(start + high)) for low, high in parts])
        if not located[name]:
            raise ValueError(
                f"span {name!r} ({parts}) holds no token of the text {called(id, text)}: it is empty, or the tokenizer "
                "keeps nothing of it. Widen it."
            )
    prompt = Prompt(
        token_ids=ids,
        tokens=_display(tokenizer, rendered, ids, offsets),
        text=rendered,
        spans=located,
        id=id,
        image=seen,
        text_only=text_only,
        lead=lead,
    )
    require_fits(model, [prompt])
    if not answers:
        return prompt
    resolved = resolve_answers(tokenizer, prompt, answers, forms)
    return replace(prompt, answers=resolved, gold=gold)


def template_of(
    model: Reader, template_arguments: Mapping[str, Any] | None = None, pictured: bool = False
) -> ChatTemplate:
    """The chat template that writes a model's prompts, told what the model was loaded with and what is given: the
    tokenizer's, or, for a model that sees, the processor's, which places the picture.

    Raises ``ValueError`` where there is none, and for an argument that it never reads.
    """
    arguments = told(model.template_arguments, template_arguments)
    template = picture_template(model.processor) if model.has_vision else None
    if template is None and not pictured:
        return tokenizer_template(model.tokenizer, arguments, model.renderings)
    if template is None:
        raise ValueError(
            f"{model.name}'s {type(model.processor).__name__} has no chat template that places a picture. Set "
            f"processor.chat_template, or build prompts with chat=False and {image_token(model)!r} in the text "
            "(InstructBLIP, BLIP-2 and PaliGemma need no image token)."
        )
    return ChatTemplate(model.processor, template, checked_arguments(template, arguments), pictured, model.renderings)


def appended_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The special tokens that a tokenizer puts behind a text of its own accord (an end token, ``[SEP]``): none as a
    rule. They are never part of a prompt."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    starts = [i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain]
    return tuple(whole[starts[0] + len(plain) :]) if starts else ()


def _require_no_template(system: System, template_arguments: Mapping[str, Any] | None) -> None:
    for name, given in (("system", system), ("template_arguments", template_arguments)):
        if given:
            raise ValueError(
                f"{name}={given!r} was given for a prompt without a chat template (chat=False), which has no place for "
                f"it. Leave out {name}=, or write it into the text."
            )


def _require_unicode(**texts: Any) -> None:
    for name, text in texts.items():
        try:
            str(text).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the {name} has half of a surrogate pair, {text[error.start]!a}, as character {error.start}: no "
                "text, and no tokenizer can encode it. It comes from an emoji that was cut in two; leave it out, or "
                "read the file anew."
            ) from None


def _require_offsets(tokenizer: Any, name: str) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{name}'s tokenizer, {type(tokenizer).__name__}, gives no offsets (where in the text each token stands), "
            "so spans can't be found. Load the fast one (tokenizer.json), or give token ids: Prompt.from_token_ids."
        )


def _require_image_or_none(model: Reader, image: ImageLike | None, text_only: bool) -> None:
    if image is not None and not model.has_vision:
        raise ValueError(f"{model.name} ({type(model.hf).__name__}): this model has no vision part; leave out image=.")
    if image is not None and text_only:
        raise ValueError("an image was given with text_only=True; leave out one of them.")
    if image is not None and model.processor is None:
        raise ValueError(f"{model.name} was loaded without a processor: give interp.load(..., processor=...).")
    if image is None and model.has_vision and not text_only:
        raise ValueError(
            f"{model.name} reads pictures, and none was given (image=...). It would run text-only without a word; if "
            "that is meant, give text_only=True."
        )


def _thirds(offsets: Sequence[CharSpan], start: int, end: int) -> dict[str, tuple[int, ...]]:
    """All tokens, in three parts: from the first to the last that overlap the text, those before, those after."""
    inside = _tokens_in(offsets, (start, end))
    before = [i for i, (low, high) in enumerate(offsets) if high <= start]
    first, last = (inside[0], inside[-1] + 1) if inside else 2 * (before[-1] + 1 if before else 0,)
    return {
        "prefix": tuple(range(first)),
        "text": tuple(range(first, last)),
        "suffix": tuple(range(last, len(offsets))),
    }


def _tokens_in(offsets: Sequence[CharSpan], ranges: SpanLike) -> tuple[int, ...]:
    parts = [ranges] if ranges and isinstance(ranges[0], int) else ranges
    hits: set[int] = set()
    for start, end in parts:
        inside = [i for i, (low, high) in enumerate(offsets) if low < end and high > start and high > low]
        if inside:  # tokens between them too, whose offsets some tokenizers trim to nothing (lone spaces)
            hits.update(range(inside[0], inside[-1] + 1))
    return tuple(sorted(hits))


def _display(tokenizer: Any, text: str, ids: Sequence[int], offsets: Sequence[CharSpan]) -> tuple[str, ...]:
    return tuple(
        text[low:high] if high > low else tokenizer.decode([token])
        for token, (low, high) in zip(ids, offsets, strict=True)
    )

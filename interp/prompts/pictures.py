"""A prompt with a picture: what the model's processor makes of it, and which positions hold the picture.

The processor replaces the one image token of a text by as many as the model needs, with rows and frames around them
where it has such, and makes the pixels. Characters of the text that was given are followed through this, so that
spans stay right.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interp.prompts.reader import Reader
from interp.vision import Encoded, ImageLike, PromptImage, image_sha256, patch_grid, read_image

_NOT_INPUTS = ("input_ids", "attention_mask", "labels", "offset_mapping", "text_replacement_offsets")


def encode(model: Reader, text: str, image: ImageLike, add_special_tokens: bool) -> Encoded:
    """Read the picture and let the model's processor put it into ``text``, at its one image token.

    Processors that put the image token in front by themselves (InstructBLIP, BLIP-2, PaliGemma) may be given a text
    without one. Raises ``ValueError`` for no image token where one is needed, for two, and for a processor that fails.
    """
    processor, token = model.processor, image_token(model)
    rgb = read_image(image)
    count = text.count(token)
    if count > 1:
        raise ValueError(
            f"the text has {count} image tokens {token!r}; expected one, for one picture. With a chat template leave "
            "them out: the template places the image."
        )
    leads = _image_leads(processor)
    if _has_own_layout(processor) and not add_special_tokens:
        raise ValueError(f"{type(processor).__name__} writes the begin token itself; leave it out of {text[:40]!r}.")
    if count == 0 and not leads:
        raise ValueError(
            f"the text {text[:60]!r} has no image token; {model.name} expects one {token!r} where the picture goes. "
            "Write it into the text, or let the chat template place it (chat=True)."
        )
    if leads and text.startswith(token):
        text, cut = text[len(token) :], len(token)
    else:
        cut = 0
    if leads and token in text:
        raise ValueError(f"{model.name} has the picture before all text; {token!r} stands in the middle of it.")
    try:
        made = processor(
            images=rgb if _has_own_layout(processor) else [rgb],
            text=text if _has_own_layout(processor) else [token + text if leads else text],
            add_special_tokens=add_special_tokens,
            return_tensors="pt",
            return_offsets_mapping=True,
            **({} if _has_own_layout(processor) else {"return_text_replacement_offsets": True}),
        )
    except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"{model.name}'s {type(processor).__name__} can't prepare a picture of {rgb.width} x {rgb.height} pixels: "
            f"{error}. Is it the processor of this model?"
        ) from error
    ids = tuple(made["input_ids"][0].tolist())
    offsets = [tuple(pair) for pair in made["offset_mapping"][0].tolist()]
    positions = tuple(i for i, token_id in enumerate(ids) if token_id == model.image_token_id)
    if not positions:
        raise ValueError(
            f"{type(processor).__name__} put no image token (id {model.image_token_id}) into the prompt: its tokenizer "
            f"does not fit {model.name}, or num_query_tokens and the like are not set on it."
        )
    if _has_own_layout(processor):
        expanded, moved = text, (lambda place: max(0, place - cut))
        for position in positions:
            offsets[position] = (0, 0)  # they are offsets in a text of image tokens
    else:
        expanded, moved = _expanded(processor, rgb, token + text if leads else text, made["text_replacement_offsets"])
        if leads:
            moved = _after_cut(moved, cut, len(token))
    keep = _accepted(model)
    inputs = {
        name: value for name, value in made.items() if name not in _NOT_INPUTS and name in keep and value is not None
    }
    prompt_image = PromptImage(
        inputs=inputs,
        size=rgb.size,
        sha256=image_sha256(rgb),
        grid=patch_grid(model.hf.config, inputs, len(positions)),
    )
    return Encoded(ids, tuple(offsets), expanded, positions, prompt_image, moved)


def image_token(model: Reader) -> str:
    """The image token as it is written in a text for this model's processor."""
    token = getattr(model.processor, "image_token", None) or "<image>"
    return str(getattr(token, "content", token))


def _has_own_layout(processor: Any) -> bool:
    """Whether image tokens are put before the tokenised text, begin token included: the BLIP family."""
    return hasattr(processor, "num_query_tokens")


def _image_leads(processor: Any) -> bool:
    return _has_own_layout(processor) or type(processor).__name__ == "PaliGemmaProcessor"


def _expanded(
    processor: Any, rgb: Any, text: str, replaced: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[str, Callable[[int], int]]:
    """The text that was tokenised, and where characters of ``text`` went in it."""
    (place,) = replaced[0]
    laid_out = processor.prepare_inputs_layout(images=[rgb], text=[text])[1]
    laid_out = laid_out if isinstance(laid_out, str) else laid_out[0]
    low, high = place["span"]
    before, after = laid_out[:low], laid_out[high:]
    own_low = text.index(place["text"])
    own_high = own_low + len(place["text"])
    shift = after.find(text[own_high:])
    if before != text[:own_low] or shift < 0:
        raise ValueError(
            f"{type(processor).__name__} rewrites the text {text[:60]!r} to {laid_out[:60]!r}: characters can't be "
            "followed to tokens."
        )
    expanded = before + place["replacement"] + after
    grown = len(place["replacement"]) - len(place["text"]) + shift

    def moved(character: int) -> int:
        if character <= own_low:
            return character
        return character + grown if character >= own_high else own_low + len(place["replacement"])

    return expanded, moved


def _after_cut(moved: Callable[[int], int], cut: int, token: int) -> Callable[[int], int]:
    """For a text whose image token was put (or stood) in front: its own characters begin after that token."""
    return lambda character: moved(max(character - cut, 0) + token)


def _accepted(model: Reader) -> set[str]:
    """Names that the model's forward or its image encoder spells out."""
    base = model.hf.base_model
    functions = [type(model.hf).forward, base.get_image_features]
    names = {name for function in functions for name in inspect.signature(function).parameters}
    if hasattr(base, "get_rope_index"):
        names.add("mm_token_type_ids")
    return names

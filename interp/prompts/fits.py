"""Whether prompts are for this model: their length, their token ids, their pictures."""

from __future__ import annotations

from collections.abc import Sequence

from interp.prompts.prompt import Prompt
from interp.prompts.reader import Reader


def require_fits(model: Reader, prompts: Sequence[Prompt]) -> None:
    """Raise ``ValueError`` for a prompt longer than the context, with (answer) tokens outside the vocabulary, with
    a picture that the model can't see, or without one that it expects."""
    for prompt in prompts:
        name = prompt.id or prompt.text[:60]
        _require_picture(model, prompt, name)
        if model.context_length and len(prompt) > model.context_length:
            raise ValueError(
                f"prompt {name!r} has {len(prompt)} tokens; {model.name} reads at most {model.context_length}. "
                "Shorten it."
            )
        held = set(prompt.span("image")) if prompt.image is not None else ()
        ids = [token for i, token in enumerate(prompt.token_ids) if i not in held]
        if ids and not (min(ids) >= 0 and max(ids) < model.n_tokens):
            raise ValueError(
                f"prompt {name!r} has token ids from {min(ids)} to {max(ids)}; "
                f"{model.name} has ids 0..{model.n_tokens - 1}. Was it made with another tokenizer?"
            )
        for word, tokens in prompt.answers.items():
            if max(tokens) >= model.n_logits:
                raise ValueError(
                    f"prompt {name!r}: the answer {word!r} has token {max(tokens)}; {model.name} has ids "
                    f"0..{model.n_logits - 1}. Was it made with another tokenizer?"
                )


def _require_picture(model: Reader, prompt: Prompt, name: str) -> None:
    if prompt.image is not None and not model.has_vision:
        raise ValueError(
            f"prompt {name!r} has an image, and this model has no vision part: {model.name}, {type(model.hf).__name__}."
        )
    if not model.has_vision:
        return
    if prompt.image is None and not prompt.text_only:
        raise ValueError(
            f"prompt {name!r} has no image, and {model.name} reads pictures: it would run text-only without a word. "
            "Build it with image=..., or, if that is meant, with text_only=True."
        )
    places = tuple(i for i, token in enumerate(prompt.token_ids) if token == model.image_token_id)
    held = prompt.span("image") if prompt.image is not None else ()
    if places != tuple(held):
        raise ValueError(
            f"prompt {name!r} has {len(places)} image tokens (id {model.image_token_id}) and names {len(held)} image "
            f"positions; {model.name} puts pictures at its image tokens and nowhere else. Build it with "
            "model.prompt(..., image=...)."
        )

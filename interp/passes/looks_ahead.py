"""Does a model look ahead? Measured: a token is changed, and the states before it must stay as they were.

What follows from it: the beginning of a prompt may be run once and kept only if it does not depend on what comes later,
and padding on the right is hidden only by a causal mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.architecture import attached, output_of, run_pass, undisturbed
from interp.prompts import Prompt

if TYPE_CHECKING:
    from interp.passes.handle import Handle

_TOKENS = 12  # of the text that is tried
_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple, bool]] = WeakKeyDictionary()


def looks_ahead(model: Handle, prompt: Prompt | None = None) -> bool:
    """Whether a position of a prompt sees later ones: of text, or of prompts with a picture like ``prompt``.

    Measured once for each (PaliGemma sees both ways in what comes with a picture, Gemma 3 within a picture alone), and
    again if the config's or the attention's own words about it change. Of text: a pass over 12 rows of 12 tokens, each
    with another token changed. Of a picture: two passes, with another last token; a prompt that ends within its picture
    counts as looking ahead.
    """
    is_pictured = prompt is not None and prompt.image is not None
    known = _KNOWN.setdefault(model.hf, {})
    key = (is_pictured, *_own_words(model))
    if key not in known:
        with torch.no_grad(), undisturbed(model.hf):
            known[key] = _last_token_is_seen(model, prompt) if is_pictured else _any_token_is_seen(model)
    return known[key]


def text_probe(model: Handle, n: int = _TOKENS) -> Prompt:
    """Some text of n tokens, or of as many as the model reads."""
    return _text(_two_tokens(model, min(n, model.context_length or n))[0])


def any_looks_ahead(model: Handle, prompts: Sequence[Prompt]) -> bool:
    """Whether that is so for any of the prompts."""
    pictured = next((p for p in prompts if p.image is not None), None)
    is_text = any(p.image is None for p in prompts)
    return (is_text and looks_ahead(model)) or (pictured is not None and looks_ahead(model, pictured))


def _own_words(model: Handle) -> tuple[Any, ...]:
    configs = (model.hf.config, model.hf.config.get_text_config())
    names = ("is_causal", "use_bidirectional_attention", "_attn_implementation")
    said = [getattr(config, name, None) for config in configs for name in names]
    return (*said, *(getattr(block.attention, "is_causal", None) for block in model.components.blocks))


def _any_token_is_seen(model: Handle) -> bool:
    """Row r of a batch has another token r; its states before r must be those of row 0."""
    n = min(_TOKENS, model.context_length or _TOKENS)
    ids, others = _two_tokens(model, n)
    rows = [[*ids[:i], others[i], *ids[i + 1 :]] for i in range(1, n)]
    first, *changed = _states(model, [_text(ids), *map(_text, rows)])
    moved = [i for i, states in enumerate(changed, start=1) if _differ(model, states[:i], first[:i])]
    if not moved:
        return False
    # rows may have moved each other: a mixture of experts that drops tokens, 8-bit layers
    (alone,) = _states(model, [_text(ids)])
    return any(_differ(model, _states(model, [_text(rows[i - 1])])[0][:i], alone[:i]) for i in moved)


def _last_token_is_seen(model: Handle, prompt: Prompt) -> bool:
    n = len(prompt)
    if n - 1 <= prompt.span("image")[-1]:
        return True
    _, others = _two_tokens(model, n)
    other = others[0] if others[0] != prompt.token_ids[-1] else others[-1]
    changed = Prompt.from_token_ids(
        [*prompt.token_ids[:-1], other], image=prompt.image, spans={"image": prompt.span("image")}
    )
    before, after = (_states(model, [p])[0][: n - 1] for p in (prompt, changed))
    return _differ(model, after, before)


def _two_tokens(model: Handle, n: int) -> tuple[list[int], list[int]]:
    """Two lists of token ids that differ at every place."""
    vocabulary = model.n_tokens
    avoid = model.image_token_id if model.has_vision else -1
    usable = [i for i in range(min(vocabulary, 4 * _TOKENS)) if i != avoid]
    ids = [usable[(5 * i + 1) % len(usable)] for i in range(n)]
    return ids, [usable[(usable.index(token) + 1) % len(usable)] for token in ids]


def _text(ids: Sequence[int]) -> Prompt:
    return Prompt.from_token_ids(ids, text_only=True)


def _states(model: Handle, prompts: Sequence[Prompt]) -> Float[Tensor, "row pos d_model"]:
    """What leaves the last block: any layer that looks ahead has moved it."""
    seen: list[Tensor] = []

    def look(hidden: Tensor) -> None:
        seen.append(hidden.detach().float())

    with attached(model, [output_of(model.components.blocks[-1].module, look)]):
        run_pass(model, {**model.inputs(prompts).inputs, "use_cache": False, **model.last_logits_only()})
    return seen[0].reshape(len(prompts), -1, seen[0].shape[-1])


def _differ(model: Handle, states: Float[Tensor, "pos d_model"], as_before: Float[Tensor, "pos d_model"]) -> bool:
    """By more than rounding, at any position. States that are not finite are another check's business."""
    moved = (states - as_before).norm(dim=-1) / as_before.norm(dim=-1).clamp(min=1e-12)
    return bool((moved > (1e-3 if model.dtype == torch.float32 else 1e-2)).any())

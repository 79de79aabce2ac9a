"""Which positions of a pass are steered, found out from its token ids.

A hook sees a padded batch, not prompts: rows are recognised by their tokens, so that padding, batching and generation
can't move an edit to another token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.architecture import Hook, decoder_of
from interp.architecture.hooks import Runs
from interp.interventions import ResidualEdit

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


class SteeredPass:
    """Which positions of the pass that is running are edited: found out from its token ids before its first block."""

    def __init__(self, positions: str, while_generating: bool, prompts: Sequence[Prompt] | None) -> None:
        self.positions, self.while_generating = positions, while_generating
        self.is_everywhere = positions == "all" and while_generating
        self.spans = None if positions == "all" else _spans(positions, prompts)
        self.chosen: bool | Bool[Tensor, "row pos"] = True

    def rewriting(self, edits: Sequence[ResidualEdit]) -> Callable[[Tensor], Tensor]:
        def rewrite(hidden: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
            if self.chosen is False:
                return hidden
            edited = hidden
            for edit in edits:
                edited = edit.on(edited)
            if self.chosen is True:
                return edited
            return torch.where(self.chosen.to(hidden.device)[..., None], edited, hidden)

        return rewrite

    def watch(self, model: Model) -> Hook:
        """What looks at the tokens of each pass, before its first block."""
        base, runs = watched(model)

        def look(args: tuple, kwargs: dict[str, Any]) -> None:
            given = arguments_of(base, args, kwargs)
            cache, ids = given.get("past_key_values"), given.get("input_ids")
            if cache is not None and cache.get_seq_length() > 0:
                if ids is None or ids.shape[1] != 1:
                    raise ValueError(
                        "a pass goes on from a cache with several tokens: whether they are of the prompt or of the "
                        "reply can't be told. Steer positions='all' with while_generating=True, or run whole prompts."
                    )
                self.chosen = self.while_generating
            else:
                self.chosen = True if self.spans is None else self._find(ids, given.get("attention_mask"))

        return Hook(base, look, "input", runs, counts=True, finds_rows=True)

    def _find(self, ids: Tensor | None, mask: Tensor | None) -> Bool[Tensor, "row pos"]:
        if ids is None:
            raise ValueError(f"positions={self.positions!r} need token ids; the model was given embeddings.")
        chosen = torch.zeros(ids.shape, dtype=torch.bool)
        width = ids.shape[1]
        is_padded = isinstance(mask, Tensor) and mask.shape == ids.shape
        lengths = mask.bool().sum(1).tolist() if is_padded else [width] * len(ids)
        for row, (own, length) in enumerate(zip(ids.tolist(), lengths, strict=True)):
            span = self.spans.get(tuple(own[width - length :]))
            if span is None:
                raise ValueError(
                    f"row {row} of the batch ({length} tokens) is none of the {len(self.spans)} prompts that the "
                    f"steering was given, so its {self.positions!r} is not known. Give apply() every prompt "
                    "that will be run."
                )
            chosen[row, [width - length + position for position in span]] = True
        return chosen


def watched(model: Model) -> tuple[nn.Module, Runs]:
    """The module that gets the tokens of every pass before its first block, and when it runs."""
    base, decoder = model.hf.base_model, decoder_of(model)
    if not model.has_vision and "input_ids" in inspect.signature(type(decoder).forward).parameters:
        base = decoder  # OPT's whole model calls it, and not the base model around it
    return base, "decoder" if base is decoder else "above"


def arguments_of(base: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """By name, what a module is called with."""
    return inspect.signature(type(base).forward).bind_partial(base, *args, **kwargs).arguments


def _spans(name: str, prompts: Sequence[Prompt] | None) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Where each prompt is edited, by its token ids."""
    if not prompts:
        raise ValueError(f"positions={name!r} need the prompts that will be run: steering.apply(model, prompts).")
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for prompt in prompts:
        try:
            span = (prompt.answer_position,) if name == "answer" else tuple(prompt.span(name))
        except KeyError as error:
            raise ValueError(f"prompt {prompt.id or prompt.text[:60]!r}: {error.args[0]}") from None
        if not span:
            raise ValueError(f"the span {name!r} of prompt {prompt.id or prompt.text[:60]!r} is empty.")
        if found.setdefault(prompt.token_ids, span) != span:
            raise ValueError(
                f"two prompts have the tokens of {prompt.id or prompt.text[:60]!r}, but other positions of {name!r}; "
                "run them under steerings of their own."
            )
    return found

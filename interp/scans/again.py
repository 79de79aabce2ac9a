"""A prompt asked again and again under other edits: what no edit changes is read once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.architecture import UnsupportedAttention, alone, attention_handler, require_in_place, run_pass
from interp.architecture.weight_hash import change_token
from interp.interventions import Edit, edited, unembed_only
from interp.passes import text_from
from interp.passes.lengths import pass_lengths
from interp.reading import Metric
from interp.scans.fanout import Prefix, inputs_after, require_fan_out, run_prefix, through_prefix
from interp.scans.metric_rows import needed_tokens, read_metrics

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


class AskedAgain:
    """The model's answer to a prompt under edit after edit, as for somebody who moves a slider.

    The positions before those that are edited are read once and kept (of one prompt, the last that was asked), for as
    long as nothing on the model is another: weights, adapters, hooks, replaced methods. Nothing is kept of a model
    whose numbers go by the longest pass before, nor where ``fans_out`` is False: then each answer is a plain pass.
    """

    def __init__(self, model: Model, fans_out: bool = True) -> None:
        self._model = model
        self._keeps = fans_out and pass_lengths(model.hf.config).own_above is None
        self._kept: tuple[Any, Prefix] | None = None

    def values(self, prompt: Prompt, m: int, edits: Sequence[Edit], metrics: Sequence[Metric]) -> list[float]:
        """Each metric with the edits at the last ``m`` positions.

        Raises ``ValueError`` and ``KeyError`` as :func:`interp.scan`. Costs a pass of m tokens, and one over the prompt
        where it was not the last that was asked."""
        model = self._model
        for edit in edits:
            edit.check(model)
        tokens = needed_tokens(metrics, prompt)
        with alone(model.hf):
            require_in_place(model)
            model.require_fits([prompt])
            logits = edited_logits(model, prompt, edits, m, tokens, self._prefix(prompt, m))
            model.require_finite(logits[None], [prompt])
        return [float(row[0]) for row in read_metrics(metrics, logits[None], tokens, prompt)]

    def _can_fan_out(self) -> bool:
        """Asked each time: an edit that counts positions may have been applied meanwhile."""
        try:
            require_fan_out(self._model)
        except UnsupportedAttention:
            return False
        return True

    def _prefix(self, prompt: Prompt, m: int) -> Prefix | None:
        n_prefix = text_from(self._model, prompt, m) if self._keeps and self._can_fan_out() else 0
        if not n_prefix:
            return None
        asked = (prompt.token_ids, None if prompt.image is None else prompt.image.key, n_prefix)
        if self._kept is None or self._kept[0] != (asked, state_of(self._model)):
            self._kept = None  # freed before the next takes as much
            prefix = run_prefix(self._model, prompt, n_prefix)
            self._kept = ((asked, state_of(self._model)), prefix)  # transformers puts hooks of its own in a first pass
        return self._kept[1]


def edited_logits(
    model: Model,
    prompt: Prompt,
    edits: Sequence[Edit],
    m: int,
    tokens: Sequence[int] | None,
    prefix: Prefix | None = None,
) -> Float[Tensor, " token"]:
    """Logits at the answer with edits at the last ``m`` positions, float32, in a pass of their own: over the whole
    prompt, or over what a prefix leaves of it.

    ``tokens``: the token ids to unembed, None for the whole vocabulary."""
    inputs = inputs_after(model, [prompt], prefix)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if prefix is not None:
            stack.enter_context(attention_handler(model, through_prefix(prefix)))
        stack.enter_context(edited(model, [(0, edit) for edit in edits], last=m))
        stack.enter_context(unembed_only(model, tokens))
        return run_pass(model, inputs).logits[0, -1].float()


def state_of(model: Model) -> tuple[Any, ...]:
    """Another value as soon as anything on the model is another. About 0.03 s for 0.1 billion parameters."""
    on = tuple(
        (*module._forward_pre_hooks, *module._forward_hooks, id(vars(module).get("forward")), module.training)
        for module in model.hf.modules()
    )
    return change_token(model.hf), on, str(getattr(model.hf.config, "_attn_implementation", ""))

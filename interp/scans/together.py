"""Several prompts in one fan-out: those of one length are rows of one batch, and what prompts begin with is read once.

The floor of a data set is its distinct prefix tokens and its branch tokens. Questions of one set share two thirds of
their tokens (system prompt, instruction): these are run once for all prompts, what a group shares beyond them once for
the group. Prompts are not padded: a group has one length, so positions, rotary tables and masks hold for each row as
they do for a prompt alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from interp.architecture import one_at_a_time
from interp.interventions import Branch
from interp.passes import may_share, prefix_inputs, rest_inputs, text_from
from interp.passes.lengths import pass_lengths
from interp.passes.plain import foreign_hooks
from interp.passes.shared_prefix import WORTH_SHARING, common_prefix
from interp.scans.fanout import Prefix, fill, row_bytes, run_rows

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

_KNOWN: WeakKeyDictionary[nn.Module, dict[Hashable, int | None]] = WeakKeyDictionary()
"""How many rows were held against plain passes, or None where prompts can't go together."""

MOST_PROMPTS = 32  # in a group: beyond, a batch gains nothing


def groups_of(
    model: Model,
    prompts: Sequence[Prompt],
    spans: Sequence[int],
    n_branches: int,
    tokens: Sequence[int] | None,
    memory_mib: float,
) -> list[list[int]]:
    """Positions of prompts, those together that one fan-out takes: of one length, edited at as many last positions
    (``spans``), without pictures, and with as many rows as the memory holds; ``tokens``: that are unembedded, None for
    all. All others stand alone."""
    if rows_go_together(model, 0) is False:
        return [[i] for i in range(len(prompts))]
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    alone = []
    for i, (prompt, m) in enumerate(zip(prompts, spans, strict=True)):
        if prompt.image is None and m < len(prompt) and may_share(model, [prompt], len(prompt)):
            alike[len(prompt), m].append(i)
        else:
            alone.append([i])
    found = []
    for (length, m), places in alike.items():
        rows = memory_mib * 2**20 / row_bytes(model, m, length, tokens)
        size = max(1, min(MOST_PROMPTS, int(rows / (1 + n_branches))))
        places.sort(key=lambda i: prompts[i].token_ids)  # neighbours share most
        found += [places[at : at + size] for at in range(0, len(places), size)]
    return sorted([*found, *alone])


def rows_go_together(model: Model, n_rows: int) -> bool | None:
    """Whether prompts of a group of so many rows keep their own numbers: measured
    (:class:`interp.scans.both_ways.BothWays`), as no config says it (experts that drop tokens, 8-bit layers). None: not
    known yet."""
    known = _KNOWN.get(model.hf, {})
    if _kind(model) not in known:
        return None
    most = known[_kind(model)]
    return False if most is None else True if n_rows <= 2 * most else None


def note_together(model: Model, n_rows: int | None) -> None:
    """That they do, or (None) do not."""
    _KNOWN.setdefault(model.hf, {})[_kind(model)] = n_rows


def _kind(model: Model) -> Hashable:
    return model.dtype, model.hf.training, foreign_hooks(model.hf)


class Beginning:
    """The first tokens that all prompts of a scan share: run once, when they are first needed; none where there are few
    of them, or the model does not allow it."""

    def __init__(self, model: Model, prompts: Sequence[Prompt]) -> None:
        text = [p for p in prompts if p.image is None]
        n = common_prefix(text) if len(text) > 1 else 0
        self._model, self._example = model, text[0] if text else None
        self.n_shared = n if n >= WORTH_SHARING and may_share(model, text, n) else 0
        self._prefix: Prefix | None = None

    def prefix_of(self, prompt: Prompt, m: int) -> Prefix | None:
        """Keys and values of all but the last ``m`` positions of one prompt; None where it does not begin so, or where
        prompts of this model are run apart, each whole."""
        fits = self.n_shared <= text_from(self._model, prompt, m) and prompt.image is None
        if not fits or not self._begins([prompt]) or rows_go_together(self._model, 0) is False:
            return None
        return self.prefixes([prompt], len(prompt) - m)

    def prefixes(self, prompts: Sequence[Prompt], n_prefix: int) -> Prefix:
        """Keys and values of the first ``n_prefix`` positions of prompts of one length, of text.

        What follows the common beginning is run once for the group as far as it is shared, then for each."""
        model, first = self._model, prompts[0]
        n = min(self.n_shared, n_prefix) if self._begins(prompts) else 0
        steady = pass_lengths(model.hf.config).is_steady(n_prefix, len(first))
        stop = n_prefix if steady else len(first)
        cache = self._kept().for_rows(1) if n else Prefix()
        if len(prompts) > 1:
            own = min(common_prefix(prompts), n_prefix)
            if own - n >= WORTH_SHARING and may_share(model, prompts, own):
                extend(model, cache, [first], n, own)
                n = own
            cache = cache.for_rows(len(prompts)) if n else cache
        if n < stop:
            extend(model, cache, prompts, n, stop)
        return cache.frozen_at(n_prefix)

    def _begins(self, prompts: Sequence[Prompt]) -> bool:
        """Whether there is a common beginning, and these prompts have it: they may be others than it was made for."""
        n = self.n_shared
        return n > 0 and all(p.token_ids[:n] == self._example.token_ids[:n] for p in prompts)

    def _kept(self) -> Prefix:
        if self._prefix is None:
            self._prefix = Prefix()
            extend(self._model, self._prefix, [self._example], 0, self.n_shared)
        return self._prefix


def extend(model: Model, cache: Prefix, prompts: Sequence[Prompt], start: int, stop: int) -> None:
    """Run the tokens from ``start`` to ``stop`` of each prompt on top of what the cache holds."""
    if start == 0 and len(prompts) == 1:
        return fill(model, cache, prefix_inputs(model, prompts[0], stop))
    inputs = rest_inputs(model, prompts[0], start, stop - start, len(prompts))
    ids = torch.tensor([p.token_ids[start:stop] for p in prompts], device=model.device)
    return fill(model, cache, {**inputs, "input_ids": ids})


@one_at_a_time
def fan_out_together(
    model: Model,
    prompts: Sequence[Prompt],
    branches: Sequence[Sequence[Branch]],
    m: int,
    tokens: Sequence[int] | None,
    beginning: Beginning,
) -> Float[Tensor, "example branch token"]:
    """What :func:`interp.scans.fanout.fan_out_logits` gives for each prompt of a group (:func:`groups_of`), in one pass
    over their rows.

    Args:
        branches: of each prompt; those of one place edit the same layers.
        m: the edits act on the last m positions.
        tokens: the token ids to unembed, None for the whole vocabulary.
        beginning: of all prompts of the scan.
    """
    prefix = beginning.prefixes(prompts, len(prompts[0]) - m)
    order = sorted(range(len(branches[0])), key=lambda i: branches[0][i].first_layer)
    rows = run_rows(model, prompts, prefix, [[of[i] for i in order] for of in branches], m, tokens)
    found = rearrange(rows, "(branch example) token -> example branch token", example=len(prompts))
    places = torch.tensor([0, *(1 + torch.tensor(order).argsort())] if order else [0], device=found.device)
    return found[:, places]

"""Answers of many prompts that begin alike, without computing the beginning again for each.

Questions of one set share the system prompt, the instruction and more: often two thirds of their tokens. A batch runs
these once, and its own rest, padded on the right, on top of the same keys and values. Padding is after every real
token, so the causal mask alone hides it, and positions and sliding windows are those of one prompt at a time. Where a
model does not allow that, or a batch at all, is found out by :mod:`interp.passes.independence`.

The same pass can resume at a layer: while only weights above it change (tuning, head by head), what enters the layer is
computed once for each prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache

from interp.architecture import Hook, alone, attached, input_of, run_pass
from interp.passes.independence import by_side, logits_of_batch, may_share, padded_logits
from interp.passes.inputs import prefix_inputs, rest_inputs
from interp.passes.looks_ahead import any_looks_ahead, looks_ahead
from interp.passes.plain import forget_lengths
from interp.prompts import Prompt

if TYPE_CHECKING:
    from interp.passes.handle import Handle

_TRIED = 8  # prompts on which upper layers are tried at first
WORTH_SHARING = 8  # tokens in common; fewer are not worth a pass of their own


def common_prefix(prompts: Sequence[Prompt]) -> int:
    """How many first tokens all prompts share, leaving each at least one of its own.

    Prompts with pictures share a beginning only if it holds the whole of one and the same picture, encoded alike
    (InstructBLIP's encoding depends on the question): 0 otherwise."""
    first, last = min(p.token_ids for p in prompts), max(p.token_ids for p in prompts)
    shared = 0
    for a, b in zip(first[:-1], last[:-1], strict=False):
        if a != b:
            break
        shared += 1
    shared = min(shared, min(map(len, prompts)) - 1)
    if all(p.image is None for p in prompts):
        return shared
    keys = {p.image.key if p.image is not None else "" for p in prompts}
    return shared if len(keys) == 1 and shared > prompts[0].span("image")[-1] else 0


def by_picture(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Positions of prompts, those about one picture (encoded alike) together, in the order of their first; a prompt
    without one stands alone."""
    groups: dict[str | int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(i if prompt.image is None else prompt.image.key, []).append(i)
    return list(groups.values())


def batches_alike(model: Handle, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    """Positions of prompts, at most ``batch_size`` a batch: questions about one picture together, if they can share
    the pass over it, then all others in their order."""
    alone, groups = [], []
    for places in by_picture(prompts):
        shares = len(places) > 1 and shared_tokens(model, [prompts[i] for i in places]) > 0
        groups += [places] if shares else []
        alone += [] if shares else places
    return [g[at : at + batch_size] for g in (*groups, sorted(alone)) for at in range(0, len(g), batch_size)]


def logits_by_batch(
    model: Handle, prompts: Sequence[Prompt], batch_size: int
) -> Iterator[tuple[list[int], Float[Tensor, "example vocabulary"]]]:
    """Logits at each prompt's last position, batch by batch (:func:`batches_alike`, with the batch's positions), as the
    model gives them: those of each prompt alone, up to rounding (1e-4 in float32). What a batch shares at its beginning
    is run once, where that is right and worth it."""
    for alike in by_side(model, prompts):
        for places in batches_alike(model, [prompts[i] for i in alike], batch_size):
            batch = [prompts[alike[i]] for i in places]
            for found, logits in _batch_logits(model, batch, shared_tokens(model, batch), may_pad_right=False):
                yield [alike[places[i]] for i in found], logits


def shared_tokens(model: Handle, prompts: Sequence[Prompt], least: int = WORTH_SHARING) -> int:
    """How many first tokens of a batch are run once for all: none for one prompt, or fewer than ``least``, or where
    the model does not allow it."""
    n = common_prefix(prompts) if len(prompts) > 1 else 0
    return n if n >= max(1, least) and may_share(model, prompts, n) else 0


def in_order(rows: Sequence[tuple[list[int], Tensor]]) -> Float[Tensor, "example vocabulary"]:
    """The batches of :func:`logits_by_batch` as one tensor, in the order of the prompts."""
    places = torch.tensor([i for of_batch, _ in rows for i in of_batch])
    return torch.cat([logits for _, logits in rows])[places.argsort()]


def answer_logits(model: Handle, prompts: Sequence[Prompt]) -> Float[Tensor, "example vocabulary"]:
    """Logits at each prompt's last position, for one batch, as the model gives them (its dtype, with gradients where
    they are enabled). Equal to one prompt at a time up to rounding (1e-4 in float32)."""
    _require_no_counting(model)
    rows = []
    for places in by_side(model, prompts):
        batch = [prompts[i] for i in places]
        may_pad = not any_looks_ahead(model, batch) and all(p.image is None for p in batch)
        found = _batch_logits(model, batch, shared_tokens(model, batch, 1), may_pad)
        rows += [([places[i] for i in own], logits) for own, logits in found]
    return in_order(rows)


def _batch_logits(
    model: Handle, batch: Sequence[Prompt], n_shared: int, may_pad_right: bool
) -> Iterator[tuple[list[int], Float[Tensor, "example vocabulary"]]]:
    """One batch, whose passes go by one rule of length: in one pass if that is right, or in as many as are needed."""
    if n_shared or may_pad_right:
        kind = "with a shared beginning" if n_shared else "padded on the right"
        logits = logits_of_batch(model, batch, lambda rows: _run(model, rows, n_shared, None), kind, n_shared)
        if logits is not None:
            yield list(range(len(batch))), logits
            return
    yield from padded_logits(model, batch)


class UpperLayers:
    """A model from one layer up, on prompts whose lower layers were run once and are kept.

    Exact as long as nothing below ``layer`` changes after a prompt's first use, which costs a pass of the lower
    layers. Memory [token, d_model] for all tokens of the prompts used, in the model's dtype, on its device.
    """

    def __init__(self, model: Handle, prompts: Sequence[Prompt], layer: int) -> None:
        if not prompts:
            raise ValueError("no prompts were given; give at least one.")
        model.require_fits(prompts)
        if any(p.image is not None for p in prompts) or looks_ahead(model):
            raise ValueError(
                "prompts with pictures were given, or a model that reads prompts both ways; layers are tuned and "
                "resumed on prompts of text alone, read forwards. Build them with text_only=True."
            )
        self.model, self.prompts, self.layer = model, list(prompts), layer
        self.n_shared = shared_tokens(model, self.prompts)
        self._are_together = all(self._may_run(places) for places in by_side(model, self.prompts))
        if not self._are_together:
            self.n_shared = 0
        self._returns_tuple = _returns_tuple(model, self.prompts[0])
        self._shared: Tensor | None = None
        self._rest: dict[int, Tensor] = {}

    def logits(self, indices: Sequence[int]) -> Float[Tensor, "example vocabulary"]:
        """Logits at the last position of the chosen prompts, with gradients where they are enabled."""
        rows = []
        with alone(self.model.hf):
            for places in self._passes(indices):
                here = [indices[i] for i in places]
                if new := [i for i in here if i not in self._rest]:
                    self._fill(new)
                rows.append((places, self._logits(here)))
        return in_order(rows)

    def _passes(self, indices: Sequence[int]) -> list[list[int]]:
        if self._are_together:
            return by_side(self.model, [self.prompts[i] for i in indices])
        return [[place] for place in range(len(indices))]

    @torch.no_grad()
    def _may_run(self, places: Sequence[int]) -> bool:
        """Whether passes of these prompts give each its own numbers, tried on a few of them, from short to long."""
        order = sorted(places, key=lambda i: len(self.prompts[i]))
        few = order if len(order) <= _TRIED else [*order[: _TRIED - 1], order[-1]]
        kind = "with a shared beginning" if self.n_shared else "padded on the right"
        batch, n = [self.prompts[i] for i in few], self.n_shared
        return logits_of_batch(self.model, batch, lambda rows: _run(self.model, rows, n, None), kind, n) is not None

    def _logits(self, indices: Sequence[int]) -> Float[Tensor, "example vocabulary"]:
        chosen = [self.prompts[i] for i in indices]
        rest = [self._rest[i] for i in indices]
        width = max(len(r) for r in rest)
        padded = torch.stack([torch.nn.functional.pad(r, (0, 0, 0, width - len(r))) for r in rest])
        entering = (self._shared, padded)
        with _skip_below(self.model, self.layer, entering, self._returns_tuple):
            return _run(self.model, chosen, self.n_shared, width)

    def all_logits(self, batch_size: int = 16) -> Float[Tensor, "example vocabulary"]:
        """Logits of every prompt, float32, on the CPU, without gradients."""
        with torch.no_grad():
            starts = range(0, len(self.prompts), batch_size)
            numbers = range(len(self.prompts))
            return torch.cat([self.logits(numbers[s : s + batch_size]).float().cpu() for s in starts])

    def _fill(self, indices: Sequence[int]) -> None:
        batch = [self.prompts[i] for i in indices]
        seen: list[Tensor] = []

        def look(hidden: Float[Tensor, "row pos d_model"]) -> None:
            seen.append(hidden.detach())

        upper = [block.module for block in self.model.components.blocks[self.layer :]]
        hooks = [*_doing_nothing(upper, self._returns_tuple), input_of(upper[0], look)]
        _require_no_counting(self.model)
        with torch.no_grad(), attached(self.model, hooks):
            try:
                _run(self.model, batch, self.n_shared, None)
            except (ValueError, TypeError, IndexError, AttributeError) as error:
                raise ValueError(
                    f"{type(self.model.hf).__name__} can't go on from layer {self.layer} ({type(error).__name__}: "
                    f"{error}): its blocks hand on more than the residual stream, which would be missing there "
                    "(DeepSeek sparse attention's choice of tokens, for one). Layers are tuned on other architectures."
                ) from error
        if self.n_shared:
            self._shared = seen[0]
        for i, row, prompt in zip(indices, seen[-1], batch, strict=True):
            self._rest[i] = row[: len(prompt) - self.n_shared].clone()


def _returns_tuple(model: Handle, prompt: Prompt) -> bool:
    """Whether a block hands on a tuple or a tensor: by a pass over one token."""
    found: list[bool] = []

    def look(args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        found.append(isinstance(output, tuple | list))

    with torch.no_grad(), attached(model, [Hook(model.components.blocks[0].module, look, "output")]):
        one = Prompt.from_token_ids(prompt.token_ids[:1], text_only=True)
        run_pass(model, {**model.inputs([one]).inputs, "use_cache": False})
    return found[0]


def _doing_nothing(blocks: Sequence[nn.Module], returns_tuple: bool) -> list[Hook]:
    """By these, blocks hand on what they are given."""

    def forward(original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden,) if returns_tuple else hidden

    return [Hook(block, forward, "forward") for block in blocks]


class _SharedPrefix(DynamicCache):
    """The keys and values of the shared tokens, whole for every layer; also when the lower layers are left out."""

    n_seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.n_seen

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.n_seen

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.n_seen + query_length, 0

    def expand(self, n_rows: int) -> None:
        for layer in self.layers:
            if getattr(layer, "keys", None) is not None and layer.keys.numel():
                layer.keys = layer.keys.expand(n_rows, -1, -1, -1)
                layer.values = layer.values.expand(n_rows, -1, -1, -1)


def _run(
    model: Handle, prompts: Sequence[Prompt], n_shared: int, width: int | None
) -> Float[Tensor, "example vocabulary"]:
    _require_no_counting(model)
    forget_lengths(model.hf)
    rest = [p.token_ids[n_shared:] for p in prompts]
    width = width or max(map(len, rest))
    ids = torch.tensor([[*r, *[0] * (width - len(r))] for r in rest], device=model.device)
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if model.has_vision and not n_shared:
        inputs |= rest_inputs(model, prompts[0], 0, width, len(prompts))
    if n_shared:
        cache, base = _SharedPrefix(), model.hf.base_model
        keep = model.last_logits_only() if base is model.hf else {}
        shared = {**prefix_inputs(model, prompts[0], n_shared), **keep, "past_key_values": cache, "use_cache": True}
        run_pass(model, shared, base)
        cache.n_seen = n_shared
        cache.expand(len(prompts))
        inputs |= rest_inputs(model, prompts[0], n_shared, width, len(prompts))
        inputs |= {"past_key_values": cache, "use_cache": True}
    with _unembed_at(model, [len(r) - 1 for r in rest]):
        return run_pass(model, inputs).logits[:, -1]


def _require_no_counting(model: Handle) -> None:
    if model.counts_rows_and_positions():
        raise ValueError(
            "an edit that counts rows or positions is active (a steering of the prompt alone or of named positions, "
            "edit_heads); these passes share a beginning and are padded on the right, which would mislead it. Steer "
            "positions='all' with while_generating=True, or leave the edit's block before tuning."
        )


def _unembed_at(model: Handle, last: Sequence[int]) -> AbstractContextManager[None]:
    """While active, only the given position of each row is unembedded."""

    def pick(hidden: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row 1 d_model"]:
        rows = torch.arange(len(last), device=hidden.device)
        return hidden[rows, torch.tensor(last, device=hidden.device)][:, None]

    return attached(model, [input_of(model.components.unembedding, pick, "model")])


def _skip_below(
    model: Handle, layer: int, entering: tuple[Tensor | None, Tensor], returns_tuple: bool
) -> AbstractContextManager[None]:
    """While active, blocks below ``layer`` do nothing, and ``entering`` is what comes into it: for the pass over the
    shared tokens, then for the rest."""
    queue = [e for e in entering if e is not None]

    def enter(hidden: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        return queue.pop(0)

    blocks = [block.module for block in model.components.blocks]
    return attached(model, [*_doing_nothing(blocks[:layer], returns_tuple), input_of(blocks[layer], enter)])

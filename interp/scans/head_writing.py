"""What each head writes along a direction into the residual stream, at one token: directly, and through later layers.

The stream at a token is a sum: embedding + every head + every MLP (+ biases) of the layers below. So its projection on
a fixed vector is the sum of the projections of these parts (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"): what a head writes *directly*. Its *total* effect on the projection, with what later layers make
of its output, is the difference that an ablation makes.

Layer index l is the input of block l (0: the embedding); n_layers is the output of the last block.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from interp.architecture import alone, attached, input_of, one_at_a_time, output_of, run_pass
from interp.door import public
from interp.door.brief import brief
from interp.interventions import Branch, HeadEdit, edited, stream_hook, stream_rewritten
from interp.passes import passes, text_from
from interp.reading import pull_back, pull_back_through_norm
from interp.scans.agreement import Method, difference_within_rounding, planned, require_method, spread
from interp.scans.fanout import fan_out_logits
from interp.scans.scan import ScanResult

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Writing:
    """What each part wrote along each vector at one token of each prompt, float32, in units of the stream times the
    vector's length.

    ``projections``: of the state at the input of every block and (last) at the output of the last block. That of layer
    l is ``embedding`` and the parts of all layers below l, summed: :meth:`sums`.
    """

    heads: Float[np.ndarray, "example vector layer head"]
    mlps: Float[np.ndarray, "example vector layer"]
    attention_biases: Float[np.ndarray, "example vector layer"]
    embedding: Float[np.ndarray, "example vector"]
    projections: Float[np.ndarray, "example vector layer_or_end"]

    __repr__ = brief

    def sums(self) -> Float[np.ndarray, "example vector layer_or_end"]:
        """The parts below each layer, summed: equal to ``projections`` up to rounding, or the call would have been
        refused."""
        layers = self.heads.sum(-1, dtype=np.float64) + self.mlps + self.attention_biases
        return np.concatenate([self.embedding[..., None], self.embedding[..., None] + layers.cumsum(-1)], -1)


@public
@one_at_a_time
def write_along(
    model: Model,
    prompts: Sequence[Prompt],
    vectors: Float[Tensor, "vector d_model"],
    positions: Sequence[int] | None = None,
    batch_size: int = 8,
) -> Writing:
    """Split the projections of the residual stream on ``vectors`` over heads, MLPs, embedding and biases.

    ``positions[i]`` is a token of prompt i; by default each prompt's last. Where a norm stands between the attention
    and the stream (Gemma 2 and 3, OLMo 2) its scale is held at its actual value, so that a head's part is linear in
    what the head puts out.

    One forward pass for each batch, also for many vectors. Raises ``ValueError`` for vectors of another width,
    positions that a prompt does not have, and architectures whose parts do not sum to the stream (extra residual
    scales, gates after attention, no module for the MLP): a wrong split is never returned. Sums agree to 1e-4 of the
    parts' summed size in float32 (seen: 1e-6), to 3e-2 in half precision, in which the stream itself is rounded.
    """
    positions = [p.answer_position for p in prompts] if positions is None else list(positions)
    vectors = torch.as_tensor(vectors).detach().float().cpu()
    _require(model, prompts, vectors, positions)
    toward = _Toward(model, vectors)
    found, order = [], []
    for places in passes(model, prompts, batch_size):
        found.append(toward.split(_read(model, [prompts[i] for i in places], [positions[i] for i in places])))
        order += places
    back = torch.tensor(order).argsort()
    writing = Writing(*(torch.cat(parts)[back].numpy().astype(np.float32) for parts in zip(*found, strict=True)))
    _require_sums(model, writing, vectors)
    return writing


class _Seen:
    """What one pass shows at one token of each prompt, layer by layer: [example, feature], float32."""

    def __init__(self) -> None:
        self.z, self.attention_out, self.mlps, self.states = ({} for _ in range(4))


@torch.no_grad()
def _read(model: Model, prompts: Sequence[Prompt], positions: Sequence[int]) -> _Seen:
    batch, seen = model.inputs(prompts), _Seen()
    rows = torch.arange(len(prompts))
    columns = torch.tensor([p + offset for p, offset in zip(positions, batch.offsets, strict=True)])

    def keep(store: dict[int, Tensor], layer: int, tensor: Tensor) -> None:
        flat = tensor.detach().reshape(len(prompts), -1, tensor.shape[-1])  # some MLPs merge examples and positions
        store[layer] = flat[rows.to(flat.device), columns.to(flat.device)].float()

    hooks = [stream_hook(model, layer, partial(keep, seen.states, layer)) for layer in range(model.n_layers + 1)]
    for layer, block in enumerate(model.components.blocks):
        hooks += [
            input_of(block.out_projection, partial(keep, seen.z, layer)),
            output_of(block.attention, partial(keep, seen.attention_out, layer)),
            output_of(block.mlp_write, partial(keep, seen.mlps, layer)),
        ]
    with attached(model, hooks):
        logits = run_pass(model, {**batch.inputs, "use_cache": False, **model.last_logits_only()}).logits[:, -1]
    model.require_finite(logits, list(prompts))
    return seen


class _Toward:
    """The vectors, as seen by each layer's heads: taken back through the output projection (and the norm after it)."""

    def __init__(self, model: Model, vectors: Float[Tensor, "vector d_model"]) -> None:
        self.model, self.vectors = model, vectors
        self._fixed: dict[int, Tensor] = {}  # of layers without a norm after the attention: the same for all prompts

    def split(self, seen: _Seen) -> tuple[Tensor, ...]:
        """The fields of :class:`Writing`, for one batch."""
        heads, biases = zip(*(self._attention(layer, seen) for layer in range(self.model.n_layers)), strict=True)
        mlps = torch.stack([self._along(seen.mlps[layer]) for layer in range(self.model.n_layers)], -1)
        states = torch.stack([self._along(seen.states[layer]) for layer in range(self.model.n_layers + 1)], -1)
        return torch.stack(heads, 2), mlps, torch.stack(biases, 2), states[..., 0], states

    def _along(self, x: Float[Tensor, "example d_model"]) -> Float[Tensor, "example vector"]:
        return x.double().cpu() @ self.vectors.double().T

    def _attention(self, layer: int, seen: _Seen) -> tuple[Tensor, Tensor]:
        """What the heads write [example, vector, head], and the biases of their projection (and norm)."""
        block, z = self.model.components.blocks[layer], seen.z[layer]
        like = torch.zeros(z.shape[-1], dtype=self.model.dtype, device=z.device)
        with torch.no_grad():
            bias = block.out_projection(like[None, None])[0, 0].double().cpu()
        if block.attention_post_norm is None:
            if layer not in self._fixed:
                self._fixed[layer] = torch.stack([pull_back(block.out_projection, like, v) for v in self.vectors])
            to_z = self._fixed[layer][None]
            constants = (self.vectors.double() @ bias).expand(len(z), -1)
        else:
            rows, constants = [], []
            for x in seen.attention_out[layer]:
                through = [pull_back_through_norm(block.attention_post_norm, x, v) for v in self.vectors]
                rows.append(torch.stack([pull_back(block.out_projection, like, v) for v, _ in through]))
                constants.append(
                    torch.tensor([float(v.double().cpu() @ bias) + c for v, c in through], dtype=torch.float64)
                )
            to_z, constants = torch.stack(rows), torch.stack(constants)
        parts = z.double()[:, None] * to_z.double().to(z.device)  # [example, vector, head x d_head]
        summed = reduce(parts, "example vector (head d_head) -> example vector head", "sum", head=self.model.n_heads)
        return summed.cpu(), constants


@public
def scan_projection(
    model: Model,
    prompts: Sequence[Prompt],
    branches: Sequence[Branch],
    vector: Float[Tensor, " d_model"],
    layer: int,
    *,
    method: Method = "auto",
    check: int = 3,
    memory_mib: float = 1024.0,
) -> ScanResult:
    """What edits of heads at each prompt's last token do to the projection of the state there on ``vector``, exactly.

    ``layer``: the state is the input of block ``layer`` (n_layers: the output of the last block). An edit at or above
    it changes nothing, and is given the unedited value. With the zero ablation of a head, ``drop`` is the head's total
    effect: what it writes directly (:func:`write_along`) and what heads and MLPs up to ``layer`` make of it.

    Values are in units of the stream times the vector's length, float32, [example, branch]. Computed by the fan-out, or
    by one pass for each edit where the architecture can't; ``method``, ``check`` and ``memory_mib`` as in
    :func:`interp.scan`. Cost at most that of a scan of the answer. Raises ``ValueError`` for a layer or vector that
    the model does not have.
    """
    vector = torch.as_tensor(vector).detach().float().cpu()
    _require(model, prompts, vector[None], [p.answer_position for p in prompts])
    require_method(method)
    if not 0 <= layer <= model.n_layers:
        raise ValueError(f"layer={layer}; expected 0 to {model.n_layers} ({model.name} has {model.n_layers} layers).")
    for edit in (e for b in branches for e in b.edits):
        if not isinstance(edit, HeadEdit):
            raise ValueError(f"{type(edit).__name__} was given; scan_projection takes edits of heads.")
        edit.check(model)
    began = time.perf_counter()
    chosen = [i for i, b in enumerate(branches) if b.edits and b.first_layer < layer]
    chosen.sort(key=lambda i: branches[i].first_layer)  # the order in which rows join the fan-out
    lower = [branches[i] for i in chosen]
    read = partial(_ask, model, vector=vector, layer=layer, memory_mib=memory_mib)

    def difference(i: int) -> float:
        fast, slow = (read(prompts[i], spread(lower, check), how=how) for how in ("fan-out", "loop"))
        what = "the fan-out's projections differ"
        return difference_within_rounding(model, prompts[i], fast, slow, what, unit="")

    values = np.full((len(prompts), 1 + len(branches)), np.nan, dtype=np.float32)
    with alone(model.hf):
        how, note = planned(model, prompts, method, check, difference, unit="")
        for row, prompt in zip(values, prompts, strict=True):
            found = read(prompt, lower, how=how).numpy()
            row[:] = found[0]
            row[[i + 1 for i in chosen]] = found[1:]
    return ScanResult(
        values=values[:, 1:],
        clean=values[:, 0],
        labels=tuple(b.label for b in branches),
        example_ids=tuple(p.id or str(i) for i, p in enumerate(prompts)),
        metric=f"projection at the input of layer {layer}",
        unit="residual stream",
        positions="answer",
        how=how,
        check=note,
        seconds=time.perf_counter() - began,
    )


def _ask(model, prompt, branches, *, how: str, vector: Tensor, layer: int, memory_mib: float) -> Float[Tensor, " row"]:
    """Projections of the unedited run and of each branch, at the prompt's last token."""
    seen: list[Tensor] = []

    def look(hidden: Float[Tensor, "row pos d_model"]) -> None:
        seen.append(hidden[:, -1].detach().float().cpu())

    with stream_rewritten(model, layer, look):
        if how == "fan-out":
            fan_out_logits(model, prompt, branches, 1, [prompt.token_ids[-1]], memory_mib)
            chunks = seen[1:] if text_from(model, prompt, 1) else seen  # the first pass was the prefix's
            states = torch.cat([chunks[0][:1], *(chunk[1:] for chunk in chunks)])
        else:
            inputs = model.inputs([prompt]).inputs
            for branch in [Branch((), "unedited"), *branches]:
                with torch.no_grad(), edited(model, [(0, e) for e in branch.edits], last=1):
                    run_pass(model, {**inputs, "use_cache": False, **model.last_logits_only()})
            states = torch.cat(seen)
    if len(states) != len(branches) + 1:
        raise RuntimeError(f"{len(states)} states were seen at layer {layer} for {len(branches)} edits")
    found = states @ vector
    model.require_finite(found[None], [prompt])
    return found


def _require(model: Model, prompts: Sequence[Prompt], vectors: Tensor, positions: Sequence[int]) -> None:
    if not prompts:
        raise ValueError("no prompts were given; give at least one.")
    if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != model.d_model or not vectors.isfinite().all():
        raise ValueError(
            f"vectors have shape {tuple(vectors.shape)}, or numbers that are not finite; expected finite ones, "
            f"[vector, {model.d_model}]."
        )
    if len(positions) != len(prompts):
        raise ValueError(f"{len(positions)} positions for {len(prompts)} prompts; expected one for each.")
    for prompt, position in zip(prompts, positions, strict=True):
        if not 0 <= position < len(prompt):
            raise ValueError(
                f"position {position} was asked of prompt {prompt.id!r}, which has {len(prompt)} tokens; expected "
                "positions from 0."
            )
    model.require_fits(prompts)
    if missing := [layer for layer, block in enumerate(model.components.blocks) if block.mlp_write is None]:
        raise ValueError(f"layer {missing[0]} has no MLP module: its part of the stream can't be read.")


def _require_sums(model: Model, writing: Writing, vectors: Tensor) -> None:
    size = np.abs(writing.heads).sum((2, 3)) + np.abs(writing.mlps).sum(2) + np.abs(writing.embedding)
    error = np.abs(writing.sums() - writing.projections).max(-1) / np.maximum(vectors.norm(dim=1).numpy(), size).clip(
        1e-30
    )
    tolerance = 1e-4 if model.dtype == torch.float32 and not model.is_quantized else 3e-2
    if not error.max() <= tolerance:
        raise ValueError(
            f"{type(model.hf).__name__}: the parts leave {error.max():.2g} of their summed size unexplained; expected "
            f"at most {tolerance:.2g}. This architecture adds something to the residual stream that is not a head, an "
            "MLP, the embedding or a bias."
        )

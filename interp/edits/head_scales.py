"""Heads' outputs multiplied by factors: V-SEAM's modulation (arXiv 2509.14837), and ablation by 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.architecture import attached, input_of
from interp.door import public
from interp.edits.family import BridgeHooks, ModelEdit, require_bridge, require_hook_points
from interp.edits.replaced import ReplacedWeights
from interp.edits.weights import open_projection, writing

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@public
@dataclass(frozen=True, eq=False, repr=False)
class ScaledHeads(ModelEdit):
    """Heads' outputs z multiplied by factors, at every position.

    In the weights: the head's columns of the output projection times the factor. The projection's bias is not of any
    head, and stays.

    ``model``: the weights that it is for (:func:`interp.describe_model`). ``about``: where it comes from.
    ``factors``: (layer, head) -> factor.

    Raises:
        ValueError: a layer or head below 0, and a factor that is not finite.
    """

    model: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for (layer, head), factor in self.factors.items():
            if layer < 0 or head < 0:
                raise ValueError(f"factors name L{layer}H{head}; expected layers and heads from 0.")
            if not math.isfinite(factor):
                raise ValueError(f"the factor of L{layer}H{head} is {factor}; expected a finite number.")

    def check(self, model: Model) -> None:
        for layer, head in self.factors:
            if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
                raise ValueError(
                    f"head L{layer}H{head} is out of range: {model.name} has layers 0..{model.n_layers - 1} and heads "
                    f"0..{model.n_heads - 1}."
                )

    def summary(self) -> str:
        which = ", ".join(f"L{layer}H{head} x {f:g}" for (layer, head), f in self.factors.items())
        return f"{len(self.factors)} heads scaled ({which or 'none'})."

    def parts(self) -> dict[str, Tensor]:
        return {
            f"L{layer}H{head} factor": torch.tensor(float(f), dtype=torch.float32)
            for (layer, head), f in self.factors.items()
        }

    def _hooked(self, model: Model, prompts: Sequence[Prompt] | None) -> AbstractContextManager[None]:
        return heads_scaled(model, self.factors)

    def _write(self, model: Model) -> ReplacedWeights:
        with writing(model) as writer:
            for (layer, head), factor in self.factors.items():
                out = model.components.blocks[layer].out_projection
                found = open_projection(model, out, f"the attention's output projection of layer {layer}")
                start = head * model.d_head
                columns = found.weight.narrow(found.input_dim, start, model.d_head).detach()
                writer.set(found.weight_name, columns.double() * factor, found.input_dim, start)
        return ReplacedWeights(self.model, {"restores": self.summary()}, tuple(writer.inverses))

    def bridge_hooks(self, bridge: Any) -> BridgeHooks:
        require_bridge(bridge, self.model)
        hooks: BridgeHooks = []
        for layer, parts in _by_layer(self.factors).items():
            name = f"blocks.{layer}.attn.hook_z"
            require_hook_points(bridge, [name])

            def scale(z: Tensor, hook: Any, parts: Sequence[tuple[int, float]] = parts) -> Tensor:
                return _scaled(z.reshape(*z.shape[:2], bridge.cfg.n_heads, -1), parts).reshape(z.shape)

            hooks.append((name, scale))
        return hooks

    def _files(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        as_float64 = {f"{layer}.{h}": torch.tensor(f, dtype=torch.float64) for (layer, h), f in self.factors.items()}
        return {}, as_float64

    @classmethod
    def _from_files(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ScaledHeads:
        factors = {tuple(map(int, name.split("."))): float(t) for name, t in tensors.items()}
        return cls(record["model"], record["about"], dict(sorted(factors.items())))


def heads_scaled(model: Model, factors: Mapping[tuple[int, int], float]) -> AbstractContextManager[None]:
    """While active, each named head's output z is multiplied by its factor at every position."""

    def scale(parts: Sequence[tuple[int, float]]) -> Callable[[Tensor], Tensor]:
        return lambda z: _scaled(z.unflatten(-1, (model.n_heads, -1)), parts).flatten(-2)

    blocks = model.components.blocks
    by_layer = _by_layer(factors).items()
    return attached(model, [input_of(blocks[layer].out_projection, scale(parts)) for layer, parts in by_layer])


def _by_layer(factors: Mapping[tuple[int, int], float]) -> dict[int, list[tuple[int, float]]]:
    found: dict[int, list[tuple[int, float]]] = {}
    for (layer, head), factor in factors.items():
        found.setdefault(layer, []).append((head, factor))
    return found


def _scaled(z: Tensor, parts: Sequence[tuple[int, float]]) -> Tensor:
    """``z`` [row, pos, head, d_head], copied."""
    z = z.clone()
    for head, factor in parts:
        z[..., head, :] *= factor
    return z

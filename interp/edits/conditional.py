"""Steering on a condition: only where a reading of the request, made on the way, passes its threshold.

After conditional activation steering (CAST, Lee et al. 2024, arXiv 2409.05907). The condition is read in the pass that
is steered: at some token behind the request, at the inputs of some layers, each state along a vector. It is decided
once a request, and kept for its reply by the cache that the reply goes on from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.architecture import attached
from interp.edits.conditions import Condition, ConditionRead
from interp.edits.family import BridgeHooks, ModelEdit, require_bridge, require_hook_points
from interp.edits.steered_positions import SteeredPass
from interp.edits.steering import Steering
from interp.interventions import stream_hook

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@dataclass(frozen=True, eq=False, repr=False)
class ConditionalSteering(ModelEdit):
    """A steering that acts only on rows whose request passes a condition; the others are as they were, bit for bit.

    It is decided in the pass over the prompt and kept for the reply, in batches of either kind of request. What it
    reads stands before what it changes: every layer of the condition is at most the first layer that is steered (at
    one layer it is read first, so a steering at the attention of that layer is after it too).

    condition: the reading and its threshold. steering: what is done where it holds. about: where it comes from.

    Raises:
        ValueError: a condition and a steering of different weights, and a steering that begins before the condition is
            read.
    """

    condition: Condition
    steering: Steering
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ours, theirs = self.condition.model, self.steering.model
        if ours and theirs and ours.get("weights_sha256") != theirs.get("weights_sha256"):
            raise ValueError(
                f"the condition is of {ours.get('name')!r} (weights {str(ours.get('weights_sha256'))[:12]}, "
                f"{ours.get('n_layers')} layers), the steering of {theirs.get('name')!r} (weights "
                f"{str(theirs.get('weights_sha256'))[:12]}, {theirs.get('n_layers')} layers). Fit both on one model."
            )
        first, last = min(edit.layer for edit in self.steering.edits), self.condition.layers[-1]
        if first < last:
            raise ValueError(
                f"the steering begins at layer {first}, and the condition is read up to layer {last}: it would be "
                f"decided too late. Steer at layer {last} or later, or read the condition at layer {first} or before."
            )

    @property
    def model(self) -> Mapping[str, Any]:
        """The weights that it is for."""
        return self.steering.model or self.condition.model

    def made_for(self, described: Mapping[str, Any]) -> ConditionalSteering:
        """``described``: the weights."""
        made = replace(self.condition, model=described), self.steering.made_for(described)
        return replace(self, condition=made[0], steering=made[1])

    def check(self, model: Model) -> None:
        self.condition.check(model)
        self.steering.check(model)

    def summary(self) -> str:
        where = "the token behind the request" if self.condition.back < len(self.condition.tail) else "its last token"
        layers = self.condition.layers
        read = f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers up to {layers[-1]}"
        held = self.condition.about.get("held")
        often = f" (on validation: {held})" if held else ""
        return (
            f"Where the reading of a request at {where}, {read}, is at least {self.condition.threshold:.4g}{often}: "
            f"{self.steering.summary()}"
        )

    def origins(self) -> dict[str, Any]:
        found = {**self.about, **{f"{key} (condition)": value for key, value in self.condition.about.items()}}
        return found | {f"{key} (steering)": value for key, value in self.steering.origins().items()}

    def parts(self) -> dict[str, Tensor]:
        c = self.condition
        how = f", back {c.back}{', normed' if c.normed else ''}"
        found = {f"L{layer} condition{how}": vector for layer, vector in c.vectors.items()}
        return found | {"condition threshold": torch.tensor(c.threshold)} | self.steering.parts()

    def _hooked(self, model: Model, prompts: Sequence[Prompt] | None) -> AbstractContextManager[None]:
        running = SteeredPass(self.steering.positions, self.steering.while_generating, prompts)
        reading = ConditionRead(self.condition)
        hooks = [] if running.is_everywhere else [running.watch(model)]
        hooks += reading.hooks(model)
        for (layer, at), edits in self.steering.by_place().items():
            hooks.append(stream_hook(model, layer, reading.where(running.rewriting(edits)), at))
        return attached(model, hooks)

    def _require_foldable(self) -> None:
        raise ValueError(
            "a steering on a condition can't be written into weights: it acts on some requests only, and weights "
            "act on all. Remedy: use apply(); or fold its steering (edit.steering.fold(model)), which acts on all."
        )

    def _write(self, model: Model) -> ModelEdit:
        self._require_foldable()
        raise AssertionError("never foldable")

    def bridge_hooks(self, bridge: Any) -> BridgeHooks:
        """As of every edit. A pass of several tokens is that of a prompt, and decides; one of a single token keeps what
        was decided last, if it has as many rows.

        Raises:
            ValueError: as of a steering, for a bridge of another geometry, and one that has no such hook point.
        """
        require_bridge(bridge, {"d_model": len(next(iter(self.condition.vectors.values()))), **self.model})
        steered = self.steering.bridge_hooks(bridge)
        reading = ConditionRead(self.condition)
        hooks: BridgeHooks = [("embed.hook_in", reading.bridge_look)]
        for layer in self.condition.layers:
            name = "ln_final.hook_in" if layer == bridge.cfg.n_layers else f"blocks.{layer}.hook_in"

            def read(states: Tensor, hook: Any, layer: int = layer) -> None:
                reading.read(layer, states)

            hooks.append((name, read))
        require_hook_points(bridge, [name for name, _ in hooks])

        for name, rewrite in steered:

            def conditional(states: Tensor, hook: Any, rewrite: Any = rewrite) -> Tensor:
                return reading.where(lambda h: rewrite(h, hook))(states)

            hooks.append((name, conditional))
        return hooks

    def _files(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        c = self.condition
        of_condition = {name: getattr(c, name) for name in ("threshold", "tail", "back", "normed", "model", "about")}
        steering, tensors = self.steering._record()
        tensors = {f"steering/{name}": tensor for name, tensor in tensors.items()}
        tensors |= {f"condition/{layer}": vector for layer, vector in c.vectors.items()}
        return {"condition": of_condition, "steering": steering}, tensors

    @classmethod
    def _from_files(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ConditionalSteering:
        of = {
            part: {n.split("/", 1)[1]: t for n, t in tensors.items() if n.startswith(f"{part}/")}
            for part in ("condition", "steering")
        }
        condition = Condition({int(layer): v for layer, v in of["condition"].items()}, **record["condition"])
        return cls(condition, Steering._from_files(record["steering"], of["steering"]), record["about"])

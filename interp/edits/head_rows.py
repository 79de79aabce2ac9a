"""Rows of query and key projections replaced: what NASA tunes, or LoRA merged.

``rows_replaced`` lets rows act beside the weights, also while they are trained; :class:`TunedHeads` is the edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp.architecture import Hook, attached
from interp.door.brief import brief
from interp.edits.family import BridgeHooks, ModelEdit, require_bridge, require_hook_points

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

Kind = Literal["query", "key"]


@dataclass(frozen=True, eq=False)
class HeadRows:
    """New rows of a projection: a query head's, or a key head's (``head`` is then the number of its group).

    ``weight`` [d_head, d_model] and, where the projection has one, ``bias`` [d_head] replace what is there.
    """

    layer: int
    head: int
    kind: Kind
    weight: Float[Tensor, "d_head d_model"]
    bias: Float[Tensor, " d_head"] | None = None

    __repr__ = brief

    @property
    def label(self) -> str:
        return f"L{self.layer}H{self.head}" if self.kind == "query" else f"L{self.layer}K{self.head}"

    @property
    def n_parameters(self) -> int:
        return sum(t.numel() for t in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """The rows as tensors to save.

        Returns:
            name -> tensor.
        """
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})


def projection(model: Model, layer: int, head: int, kind: Kind = "query") -> tuple[nn.Linear, slice]:
    """The module that makes this head's queries (or this group's keys), and the head's rows in it.

    Returns:
        The linear module, and the slice of its rows.

    Raises:
        ValueError: heads out of range and architectures that make queries, keys and values in one module, quantised or
            offloaded weights included: their rows can't be replaced one by one.
    """
    n = model.n_heads if kind == "query" else model.n_kv_heads
    if not (0 <= layer < model.n_layers and 0 <= head < n):
        raise ValueError(
            f"{kind} head {head} of layer {layer} is out of range: {model.name} has layers 0..{model.n_layers - 1} "
            f"and {kind} heads 0..{n - 1}."
        )
    block = model.components.blocks[layer]
    module = block.query_projection if kind == "query" else block.key_projection
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear) or weight is None or not weight.is_floating_point():
        raise ValueError(
            f"{model.name} ({type(model.hf).__name__}) has no {kind} projection with a plain weight in layer {layer} "
            f"(found {type(module).__name__}): it is fused with others, or quantised. Load an unquantised model with "
            "separate query and key projections (Llama, Qwen, Gemma, Mistral, OLMo ...)."
        )
    if weight.device.type == "meta" or weight.shape[0] != n * model.d_head:
        raise ValueError(
            f"the {kind} projection of layer {layer} has shape {tuple(weight.shape)} on {weight.device}; expected "
            f"{n} heads of {model.d_head} rows in memory. Load the model without offloading."
        )
    return module, slice(head * model.d_head, (head + 1) * model.d_head)


def current_rows(model: Model, layer: int, head: int, kind: Kind = "query") -> HeadRows:
    """A copy of the rows as they are."""
    module, rows = projection(model, layer, head, kind)
    bias = None if module.bias is None else module.bias[rows].detach().clone()
    return HeadRows(layer, head, kind, module.weight[rows].detach().clone(), bias)


def rows_replaced(model: Model, rows: Sequence[HeadRows]) -> AbstractContextManager[None]:
    """While active, the given rows act instead of the model's own, which stay as they are. Gradients reach them."""
    by_module: dict[nn.Linear, list[tuple[slice, HeadRows]]] = {}
    for new in rows:
        module, where = projection(model, new.layer, new.head, new.kind)
        by_module.setdefault(module, []).append((where, new))
    return attached(model, [Hook(module, _replace_rows(parts), "output") for module, parts in by_module.items()])


def _write_rows(model: Model, new: HeadRows) -> None:
    module, where = projection(model, new.layer, new.head, new.kind)
    with torch.no_grad():
        module.weight[where] = new.weight.to(module.weight)
        if new.bias is not None:
            module.bias[where] = new.bias.to(module.bias)


def _replace_rows(parts: Sequence[tuple[slice, HeadRows]]) -> Callable[..., Tensor]:
    def act(args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        output = output.clone()
        for where, new in parts:
            bias = None if new.bias is None else new.bias.to(output)
            output[..., where] = F.linear(args[0], new.weight.to(output), bias)
        return output

    return act


@dataclass(frozen=True, eq=False, repr=False)
class TunedHeads(ModelEdit):
    """Query (and key) rows of some heads, replaced.

    ``model``: the weights that it is for (:func:`interp.describe_model`). ``about``: where it comes from. ``rows``: of
    each head.
    """

    model: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[HeadRows, ...] = ()

    def check(self, model: Model) -> None:
        for new in self.rows:
            module, where = projection(model, new.layer, new.head, new.kind)
            if new.weight.shape != module.weight[where].shape or (new.bias is None) != (module.bias is None):
                bias = "no bias" if new.bias is None else "a bias"
                raise ValueError(
                    f"the {new.kind} rows of {new.label} have shape {tuple(new.weight.shape)} and {bias}; expected "
                    f"{tuple(module.weight[where].shape)} and {'no bias' if module.bias is None else 'a bias'}, as "
                    f"{model.name} has."
                )

    def summary(self) -> str:
        n = sum(r.n_parameters for r in self.rows)
        which = ", ".join(r.label for r in self.rows) or "none"
        n_keys = sum(r.kind == "key" for r in self.rows)
        keys = f" and {n_keys} key heads" if n_keys else ""
        return f"New rows of {len(self.rows) - n_keys} query heads{keys} ({which}): {n:,} numbers."

    def parts(self) -> dict[str, Tensor]:
        return {f"{r.label} {r.kind} {part}": t for r in self.rows for part, t in r.tensors().items()}

    def _hooked(self, model: Model, prompts: Sequence[Prompt] | None) -> AbstractContextManager[None]:
        return rows_replaced(model, self.rows)

    def _write(self, model: Model) -> TunedHeads:
        before = tuple(current_rows(model, r.layer, r.head, r.kind) for r in self.rows)
        try:
            for new in self.rows:
                _write_rows(model, new)
        except BaseException:
            for old in before:
                _write_rows(model, old)
            raise
        return TunedHeads(self.model, {"restores": self.summary()}, before)

    def bridge_hooks(self, bridge: Any) -> BridgeHooks:
        require_bridge(bridge, self.model)
        by_projection: dict[str, list[HeadRows]] = {}
        for new in self.rows:
            by_projection.setdefault(f"blocks.{new.layer}.attn.{new.kind[0]}", []).append(new)
        hooks: BridgeHooks = []
        for name, rows in by_projection.items():
            require_hook_points(bridge, [f"{name}.hook_in", f"{name}.hook_out"])
            hooks += _replacing_in_bridge(name, rows)
        return hooks

    def _files(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        named = {}
        for i, r in enumerate(self.rows):
            named |= {f"{i}.{r.layer}.{r.head}.{r.kind}.{part}": t for part, t in r.tensors().items()}
        return {}, named

    @classmethod
    def _from_files(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TunedHeads:
        parts: dict[tuple[int, int, int, str], dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, layer, head, kind, part = name.split(".")
            parts.setdefault((int(number), int(layer), int(head), kind), {})[part] = tensor
        rows = tuple(HeadRows(*place[1:], **parts[place]) for place in sorted(parts))
        return cls(record["model"], record["about"], rows)


def _replacing_in_bridge(name: str, rows: Sequence[HeadRows]) -> BridgeHooks:
    """What enters the projection is kept until its output, whose heads are then computed from it."""
    entered: list[Tensor] = []

    def keep(states: Float[Tensor, "row pos d_model"], hook: Any) -> None:
        entered[:] = [states]

    def replace_heads(output: Float[Tensor, "row pos head d_head"], hook: Any) -> Tensor:
        output = output.clone()
        for new in rows:
            bias = None if new.bias is None else new.bias.to(output)
            output[:, :, new.head] = F.linear(entered[0], new.weight.to(output), bias)
        return output

    return [(f"{name}.hook_in", keep), (f"{name}.hook_out", replace_heads)]

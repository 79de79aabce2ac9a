"""Steering: directions added to, removed from or held fixed in the residual stream, as a value to apply and save.

Where the stream is edited is said by layer (``interp.reading.residual`` counts so), by position (a span of the prompt,
or all), and by time: while the prompt is read, or at each new token too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.architecture import attached
from interp.door import public
from interp.edits.directions import Direction
from interp.edits.family import BridgeHooks, ModelEdit, require_bridge, require_hook_points
from interp.edits.replaced import ReplacedWeights
from interp.edits.steered_positions import SteeredPass
from interp.edits.steering_fold import require_foldable, write_steering
from interp.edits.weights import writing
from interp.interventions import Place, ResidualEdit, stream_hook

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@dataclass(frozen=True, eq=False, repr=False)
class Steering(ModelEdit):
    """Edits of the residual stream, with where and when they act. Those at one place act one after another.

    positions: ``"all"``; the name of a span of the prompts (``"text"``, ``"suffix"``, one of your own); or
    ``"answer"``, the last token. while_generating: False edits the prompt only, while it is read (what later tokens
    see of it through the cache stays edited); True edits each new token too. model: the weights that it is for, as in
    :class:`interp.edits.directions.Direction`; empty: any of the right size.

    ``edits``: of the stream. ``about``: where they come from; it is saved with them.

    ``apply(model, prompts)`` needs the prompts that will be run for positions other than ``"all"``. A row of a pass is
    recognised by its token ids; one that is none of the prompts raises ``ValueError``, as do prompts of the same tokens
    whose spans differ, and a prompt where the span is empty. Passes over whole prompts and
    :func:`interp.reading.generation. generate` are recognised; a pass that goes on from a cache with more than one
    token is refused, unless the steering acts on all positions and while generating.

    ``fold`` takes what weights can do, at all positions and while generating: vectors that are added, and one direction
    removed at every write up to some place (:mod:`interp.edits.steering_fold`).

    Raises:
        ValueError: no edits.
    """

    edits: tuple[ResidualEdit, ...]
    positions: str = "all"
    while_generating: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.edits:
            raise ValueError("a steering without edits was asked for; give at least one ResidualEdit.")

    def check(self, model: Model) -> None:
        for edit in self.edits:
            edit.check(model)

    def _hooked(self, model: Model, prompts: Sequence[Prompt] | None) -> AbstractContextManager[None]:
        running = SteeredPass(self.positions, self.while_generating, prompts)
        hooks = [] if running.is_everywhere else [running.watch(model)]
        places = self.by_place().items()
        hooks += [stream_hook(model, layer, running.rewriting(edits), at) for (layer, at), edits in places]
        return attached(model, hooks)

    def _require_foldable(self) -> None:
        require_foldable(self.edits, self.positions, self.while_generating)

    def _write(self, model: Model) -> ReplacedWeights:
        self._require_foldable()
        with writing(model) as writer:
            write_steering(writer, self.edits)
        return ReplacedWeights(self.model, {"restores": self.summary()}, tuple(writer.inverses))

    def bridge_hooks(self, bridge: Any) -> BridgeHooks:
        if self.positions != "all" or not self.while_generating:
            raise ValueError(
                f"this steering acts at positions={self.positions!r}, while_generating={self.while_generating}; hooks "
                "of a bare bridge see neither prompts nor where a reply begins. Give positions='all' and "
                "while_generating=True (dataclasses.replace), which acts on every token of every pass, or use apply()."
            )
        require_bridge(bridge, {"d_model": len(self.edits[0].vector), **self.model})
        hooks: BridgeHooks = []
        for (layer, at), edits in self.by_place().items():
            name = "ln_final.hook_in" if layer == bridge.cfg.n_layers else f"blocks.{layer}.hook_in"
            if at == "attention":
                normed = f"blocks.{layer}.ln1_post.hook_out"
                name = normed if normed in bridge.hook_dict else f"blocks.{layer}.attn.hook_out"
            require_hook_points(bridge, [name])

            def rewrite(states: Tensor, hook: Any, edits: Sequence[ResidualEdit] = edits) -> Tensor:
                for edit in edits:
                    states = edit.on(states)
                return states

            hooks.append((name, rewrite))
        return hooks

    def by_place(self) -> dict[tuple[int, Place], list[ResidualEdit]]:
        """The edits by layer and place, in their order."""
        places: dict[tuple[int, Place], list[ResidualEdit]] = {}
        for edit in self.edits:
            places.setdefault((edit.layer, edit.at), []).append(edit)
        return places

    def parts(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        where = "" if self.positions == "all" else f" at {self.positions}"
        where += "" if self.while_generating else ", prompt only"
        for i, edit in enumerate(self.edits):
            place = "input" if edit.at == "input" else "attention"
            label = f"L{edit.layer} {place} {edit.op}{where}"
            unit = edit.vector / edit.vector.norm().clamp(min=1e-30)
            value = {
                "add": edit.coefficient * edit.vector,
                "remove": unit,
                "clamp": torch.cat([unit, torch.tensor([edit.coefficient], dtype=torch.float32)]),
                "turn": torch.cat([unit, torch.tensor([edit.coefficient], dtype=torch.float32)]),
            }[edit.op]
            found[label if label not in found else f"{label} ({i})"] = value
        return found

    def _files(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        record = {
            "edits": [{"layer": e.layer, "op": e.op, "coefficient": e.coefficient, "at": e.at} for e in self.edits],
            "positions": self.positions,
            "while_generating": self.while_generating,
        }
        return record, {str(i): e.vector for i, e in enumerate(self.edits)}

    @classmethod
    def _from_files(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Steering:
        edits = tuple(ResidualEdit(vector=tensors[str(i)], **edit) for i, edit in enumerate(record["edits"]))
        return cls(edits, record["positions"], record["while_generating"], record["model"], record["about"])

    def summary(self) -> str:
        """One line for people."""
        groups: dict[tuple[str, float, str], list[ResidualEdit]] = {}
        for edit in self.edits:
            groups.setdefault((edit.op, edit.coefficient if edit.op != "remove" else 0.0, edit.at), []).append(edit)
        parts = []
        for (op, coefficient, at), edits in groups.items():
            norms = [float(e.vector.norm()) for e in edits]
            size = f"{min(norms):.3g}" if len(edits) == 1 else f"{min(norms):.3g} to {max(norms):.3g}"
            what = {
                "add": f"add {coefficient:g} x a vector of norm {size}",
                "remove": "remove the direction",
                "clamp": f"hold the component at {coefficient:g}",
                "turn": f"turn the state by {coefficient:g} rad towards the direction, its length kept,",
            }[op]
            where = "the input of layer" if at == "input" else "the attention's output of layer"
            parts.append(f"{what} at {where} {_ranges([e.layer for e in edits])}")
        when = "and at each new token" if self.while_generating else "while it is read"
        span = "all positions" if self.positions == "all" else repr(self.positions)
        return f"{'; '.join(parts)} ({span} of the prompt, {when})."


@public
def add_direction(
    direction: Direction,
    coefficient: float = 1.0,
    layers: int | Sequence[int] | None = None,
    positions: str = "all",
    while_generating: bool = False,
) -> Steering:
    """Add ``coefficient`` times the direction's own row at each of the layers: h + c v (arXiv 2507.11878, Eq. 5, with
    one layer, c = 1, all positions, the prompt only).

    None: every layer, where what is added adds up. The unit is the row's own length: see :meth:`Direction.norms`.

    ``direction``: what acts. ``positions`` and ``while_generating``: where and when, as of :class:`Steering`.
    ``layers``: one, several, or None.
    """
    rows = _layers(direction, layers)
    edits = tuple(ResidualEdit(layer, direction.vectors[layer], "add", float(coefficient)) for layer in rows)
    return _steering(direction, edits, positions, while_generating)


@public
def remove_direction(
    direction: Direction,
    layers: int | Sequence[int] | None = None,
    positions: str = "all",
    while_generating: bool = True,
    *,
    from_layer: int | None = None,
    every_write: bool = True,
) -> Steering:
    """Take the component along the direction away at the input of each of the layers: h - (h.u) u.

    layers: None for all (those whose row is zero are left out). Each uses its own row, or row ``from_layer``.

    At the inputs of blocks alone, the MLP of a block would still read what the attention of that block writes along
    the direction. So ``every_write`` takes it out of the attention's output too, with the same row: the stream then has
    nothing along it at the block's input nor in its middle. With one row everywhere this is the directional ablation
    of Arditi et al. (2024, arXiv 2406.11717), which removes it at both places of every block (what the MLP writes is
    taken away at the next input, before anything reads it). With a row for each layer it has no published counterpart.

    ``direction``: what acts. ``positions`` and ``while_generating``: where and when, as of :class:`Steering`.
    """
    rows = _layers(direction, layers)
    sources = rows if from_layer is None else _layers(direction, from_layer) * len(rows)
    vectors = {layer: direction.vectors[source] for layer, source in zip(rows, sources, strict=True)}
    if layers is None:
        vectors = {layer: vector for layer, vector in vectors.items() if vector.any()}
    last = direction.vectors.shape[0] - 1
    edits = []
    for layer, vector in vectors.items():
        edits.append(ResidualEdit(layer, vector, "remove"))
        if every_write and layer < last:
            edits.append(ResidualEdit(layer, vector, "remove", at="attention"))
    return _steering(direction, tuple(edits), positions, while_generating)


@public
def clamp_direction(
    direction: Direction,
    value: float,
    layers: int | Sequence[int] | None = None,
    positions: str = "all",
    while_generating: bool = True,
) -> Steering:
    """Set the component along the direction to ``value`` (in the units of the stream) at the input of each of the
    layers: h + (value - h.u) u. None: all whose row is not zero.

    ``direction``: what acts. ``positions`` and ``while_generating``: where and when, as of :class:`Steering`.
    """
    rows = [layer for layer in _layers(direction, layers) if layers is not None or direction.vectors[layer].any()]
    edits = tuple(ResidualEdit(layer, direction.vectors[layer], "clamp", float(value)) for layer in rows)
    return _steering(direction, edits, positions, while_generating)


@public
def turn_towards(
    direction: Direction,
    angle: float,
    layers: int | Sequence[int],
    positions: str = "all",
    while_generating: bool = True,
) -> Steering:
    """Rotate states by ``angle`` (radians, below 0: away) towards the direction's own row at the input of each of the
    layers, in the plane of the two and no further than the row; the length of a state is kept.

    After angular steering (arXiv 2510.26243), which turns in one fixed plane of two directions; here the plane is that
    of the state and the direction, so nothing else of the state is changed but its length across.

    ``direction``: what acts. ``positions`` and ``while_generating``: where and when, as of :class:`Steering`.
    """
    edits = tuple(
        ResidualEdit(layer, direction.vectors[layer], "turn", float(angle)) for layer in _layers(direction, layers)
    )
    return _steering(direction, edits, positions, while_generating)


def _steering(
    direction: Direction, edits: tuple[ResidualEdit, ...], positions: str, while_generating: bool
) -> Steering:
    if not edits:
        raise ValueError("every row of the direction is zero: there is nothing to steer with.")
    return Steering(edits, positions, while_generating, direction.model, {"direction": dict(direction.about)})


def _layers(direction: Direction, layers: int | Sequence[int] | None) -> list[int]:
    last = direction.vectors.shape[0] - 1
    chosen = range(last + 1) if layers is None else [layers] if isinstance(layers, Integral) else layers
    chosen = [int(layer) for layer in chosen]
    if not chosen or min(chosen) < 0 or max(chosen) > last or len(set(chosen)) < len(chosen):
        raise ValueError(f"layers={layers!r}; expected distinct numbers from 0 to {last} (the last block's output).")
    return chosen


def _ranges(layers: Sequence[int]) -> str:
    """ "3", "3, 5" or "0-24"."""
    is_run = len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if is_run else ", ".join(map(str, layers))

"""Steering: directions added to, removed from or held fixed in the residual stream, as a value to apply and save.

Where the stream is edited is said by layer (``interp.residual`` counts so), by position (a span of the prompt, or all),
and by time: while the prompt is read, or at each new token too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.artefact import load_artefact, save_artefact
from interp.directions import Direction, require_weights
from interp.edits import Place, ResidualEdit
from interp.fanout import stream_rewritten

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Steering:
    """Edits of the residual stream, with where and when they act. Those at one place act one after another.

    positions: ``"all"``; the name of a span of the prompts (``"text"``, ``"suffix"``, one of your own); or
    ``"answer"``, the last token. while_generating: False edits the prompt only, while it is read (what later tokens
    see of it through the cache stays edited); True edits each new token too. model: the weights that it is for, as in
    :class:`interp.directions.Direction`; empty: any of the right size.
    """

    edits: tuple[ResidualEdit, ...]
    positions: str = "all"
    while_generating: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.edits:
            raise ValueError("a steering without edits was asked for; give at least one ResidualEdit.")

    def require_fits(self, model: Model) -> None:
        """Raise ``ValueError`` for layers that the model lacks, another width, or other weights (it reads every one:
        about a second for each GB)."""
        for edit in self.edits:
            edit.check(model)
        if self.model:
            require_weights(model, self.model, "this steering")

    @contextmanager
    def apply(self, model: Model, prompts: Sequence[Prompt] | None = None) -> Iterator[None]:
        """It acts on the model inside the ``with`` block, and is gone after it, also after an exception. Blocks nest.
        It acts in everything of this package and in ``model.hf``, not in ``model.bridge``.

        prompts: those that will be run, needed for positions other than ``"all"``. A row of a pass is recognised by
        its token ids; one that is none of the prompts raises ``ValueError``, as do prompts of the same tokens whose
        spans differ, and a prompt where the span is empty. Passes over whole prompts and :func:`interp.generation.
        generate` are recognised; a pass that goes on from a cache with more than one token is refused, unless the
        steering acts on all positions and while generating.
        """
        self.require_fits(model)
        places: dict[tuple[int, Place], list[ResidualEdit]] = {}
        for edit in self.edits:
            places.setdefault((edit.layer, edit.at), []).append(edit)
        running = _Pass(self, prompts)
        with ExitStack() as stack:
            if not running.is_everywhere:
                hook = model.hf.base_model.register_forward_pre_hook(running.watch(), with_kwargs=True)
                stack.callback(hook.remove)
            for (layer, at), edits in places.items():
                stack.enter_context(stream_rewritten(model, layer, running.rewriting(edits), at))
            yield

    def save(self, directory: str | Path) -> Path:
        """Write ``steering.safetensors`` and ``steering.json``, replacing an earlier steering's. No pickle."""
        record = {
            "kind": "Steering",
            "summary": self.summary(),
            "edits": [{"layer": e.layer, "op": e.op, "coefficient": e.coefficient, "at": e.at} for e in self.edits],
            "positions": self.positions,
            "while_generating": self.while_generating,
            "model": dict(self.model),
            "about": dict(self.about),
        }
        return save_artefact(directory, "steering", record, {str(i): e.vector for i, e in enumerate(self.edits)})

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
            }[op]
            where = "the input of layer" if at == "input" else "the attention's output of layer"
            parts.append(f"{what} at {where} {_ranges([e.layer for e in edits])}")
        when = "and at each new token" if self.while_generating else "while it is read"
        span = "all positions" if self.positions == "all" else repr(self.positions)
        return f"{'; '.join(parts)} ({span} of the prompt, {when})."


def load_steering(directory: str | Path) -> Steering:
    """The steering that :meth:`Steering.save` wrote, bit for bit."""
    record, tensors = load_artefact(directory, "steering")
    edits = tuple(ResidualEdit(vector=tensors[str(i)], **edit) for i, edit in enumerate(record["edits"]))
    return Steering(edits, record["positions"], record["while_generating"], record["model"], record["about"])


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
    """
    rows = _layers(direction, layers)
    edits = tuple(ResidualEdit(layer, direction.vectors[layer], "add", float(coefficient)) for layer in rows)
    return _steering(direction, edits, positions, while_generating)


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


def clamp_direction(
    direction: Direction,
    value: float,
    layers: int | Sequence[int] | None = None,
    positions: str = "all",
    while_generating: bool = True,
) -> Steering:
    """Set the component along the direction to ``value`` (in the units of the stream) at the input of each of the
    layers: h + (value - h.u) u. None: all whose row is not zero."""
    rows = [layer for layer in _layers(direction, layers) if layers is not None or direction.vectors[layer].any()]
    edits = tuple(ResidualEdit(layer, direction.vectors[layer], "clamp", float(value)) for layer in rows)
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


class _Pass:
    """Which positions of the pass that is running are edited: found out from its token ids before its first block."""

    def __init__(self, steering: Steering, prompts: Sequence[Prompt] | None) -> None:
        self.steering = steering
        self.is_everywhere = steering.positions == "all" and steering.while_generating
        self.spans = None if steering.positions == "all" else _spans(steering.positions, prompts)
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

    def watch(self) -> Callable[..., None]:
        """A pre-hook of the whole model."""

        def hook(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            given = inspect.signature(type(module).forward).bind_partial(module, *args, **kwargs).arguments
            cache, ids = given.get("past_key_values"), given.get("input_ids")
            if cache is not None and cache.get_seq_length() > 0:
                if ids is None or ids.shape[1] != 1:
                    raise ValueError(
                        "a pass goes on from a cache with several tokens: whether they are of the prompt or of the "
                        "reply can't be told. Steer positions='all' with while_generating=True, or run whole prompts."
                    )
                self.chosen = self.steering.while_generating
            else:
                self.chosen = True if self.spans is None else self._find(ids, given.get("attention_mask"))

        hook.counts_rows_and_positions = True  # type: ignore[attr-defined]
        return hook

    def _find(self, ids: Tensor | None, mask: Tensor | None) -> Bool[Tensor, "row pos"]:
        if ids is None:
            raise ValueError(f"positions={self.steering.positions!r} need token ids; the model was given embeddings.")
        chosen = torch.zeros(ids.shape, dtype=torch.bool)
        width = ids.shape[1]
        is_padded = isinstance(mask, Tensor) and mask.shape == ids.shape
        lengths = mask.bool().sum(1).tolist() if is_padded else [width] * len(ids)
        for row, (own, length) in enumerate(zip(ids.tolist(), lengths, strict=True)):
            span = self.spans.get(tuple(own[width - length :]))
            if span is None:
                raise ValueError(
                    f"row {row} of the batch ({length} tokens) is none of the {len(self.spans)} prompts that the "
                    f"steering was given, so its {self.steering.positions!r} is not known. Give apply() every prompt "
                    "that will be run."
                )
            chosen[row, [width - length + position for position in span]] = True
        return chosen


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


def _ranges(layers: Sequence[int]) -> str:
    """ "3", "3, 5" or "0-24"."""
    is_run = len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if is_run else ", ".join(map(str, layers))

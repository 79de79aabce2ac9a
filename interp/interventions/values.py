"""What to change: edits of heads and of the residual stream as values, and the branches that a scan compares."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.door import as_tensor, made_by, public
from interp.door.brief import brief

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

Op = Literal["zero", "mean_of_others", "scale", "set"]
StreamOp = Literal["add", "remove", "clamp", "turn"]
Place = Literal["input", "attention"]


@public
@dataclass(frozen=True, eq=False)
class HeadEdit:
    """One head's output z (its slice of the output projection's input) changed at the scanned positions.

    ``zero``: z = 0. ``mean_of_others``: z = mean of the other heads of its layer at the same position (V-SEAM's
    substitution, arXiv 2509.14837). ``scale``: z times ``factor``. ``set``: z = ``value``, of shape [d_head] or
    [pos, d_head] over the scanned positions.

    ``layer`` and ``head``: which one, from 0. ``op``: one of the four.

    Raises:
        ValueError: another ``op``, a value with an ``op`` that takes none or none for ``set``, a value of another
            number of axes, and a factor that is not finite.
    """

    layer: int
    head: int
    op: Op = "zero"
    factor: float = 1.0
    value: Float[Tensor, "*pos d_head"] | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        if self.op not in ("zero", "mean_of_others", "scale", "set"):
            raise ValueError(f"op={self.op!r}; expected 'zero', 'mean_of_others', 'scale' or 'set'.")
        if (self.op == "set") != (self.value is not None):
            raise ValueError(
                f"op={self.op!r} with value={'given' if self.value is not None else None}: "
                "a value belongs to op='set', and to no other."
            )
        if not math.isfinite(self.factor):
            raise ValueError(f"factor={self.factor}; expected a finite number.")
        if self.value is not None:
            object.__setattr__(self, "value", as_tensor(self.value, "value"))
            if self.value.ndim not in (1, 2):
                raise ValueError(f"value has the shape {tuple(self.value.shape)}; expected [d_head] or [pos, d_head].")

    @property
    def label(self) -> str:
        return f"L{self.layer}H{self.head}"

    def check(self, model: Model) -> None:
        """Raise ``ValueError`` if the model has no such head or the value has another size."""
        if not (0 <= self.layer < model.n_layers and 0 <= self.head < model.n_heads):
            raise ValueError(
                f"head {self.label} is out of range: {model.name} has layers 0..{model.n_layers - 1} and heads "
                f"0..{model.n_heads - 1}."
            )
        if self.op == "mean_of_others" and model.n_heads < 2:
            raise ValueError(f"mean_of_others needs at least two heads in a layer; {model.name} has one.")
        if self.value is not None and self.value.shape[-1] != model.d_head:
            raise ValueError(
                f"{self.label}: value has size {self.value.shape[-1]}; a head of {model.name} has {model.d_head}."
            )


@public
@dataclass(frozen=True, eq=False)
class ResidualEdit:
    """The residual stream h changed where it enters a block.

    ``add``: h + c v. ``remove``: h - (h.u) u. ``clamp``: h + (c - h.u) u. Here c is the ``coefficient`` (of no use to
    ``remove``), v the vector and u = v / |v|. ``turn``: h rotated by c radians towards u, in the plane of the two, as
    far as u itself (c below 0: away from it), its length kept. Computed in float32 and rounded once to the stream's
    type.

    layer: the input of block ``layer`` (0: the embedding); n_layers: the input of the final norm. at: ``"attention"``
    edits instead what the attention of block ``layer`` adds to the stream. first: act on so many of the edited
    positions alone, from the left; None: on all.

    ``op``: one of the four.

    Raises:
        ValueError: numbers that are not finite, and a zero vector that has no direction to remove.
    """

    layer: int
    vector: Float[Tensor, " d_model"]
    op: StreamOp = "add"
    coefficient: float = 1.0
    at: Place = "input"
    first: int | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        if self.first is not None and self.first < 1:
            raise ValueError(f"first={self.first}; expected 1 or more positions, or None for all.")
        if self.op not in ("add", "remove", "clamp", "turn"):
            raise ValueError(f"op={self.op!r}; expected 'add', 'remove', 'clamp' or 'turn'.")
        if self.at not in ("input", "attention"):
            raise ValueError(f"at={self.at!r}; expected 'input' or 'attention'.")
        vector = as_tensor(self.vector, "vector").detach().float()
        if vector.ndim != 1 or not torch.isfinite(vector).all() or not math.isfinite(self.coefficient):
            raise ValueError(
                f"{self.label}: a vector of shape {tuple(vector.shape)} with {int((~torch.isfinite(vector)).sum())} "
                f"numbers that are not finite, and coefficient {self.coefficient}; expected [d_model], all finite."
            )
        if self.op == "turn" and abs(self.coefficient) > math.pi:
            raise ValueError(f"{self.label}: an angle in radians was expected, from -pi to pi.")
        if self.op != "add" and not vector.any():
            raise ValueError(f"{self.label}: the vector is zero and has no direction. Leave this layer out.")
        object.__setattr__(self, "vector", vector)

    @property
    def label(self) -> str:
        value = "" if self.op == "remove" else f" {self.coefficient:g}"
        return f"L{self.layer}{' attention' * (self.at == 'attention')} {self.op}{value}"

    def check(self, model: Model) -> None:
        """Raise ``ValueError`` if the model has no such layer or another width."""
        last = model.n_layers - (self.at == "attention")
        if not 0 <= self.layer <= last:
            raise ValueError(
                f"{self.label} is out of range: {model.name} has residual layers 0..{last}"
                f"{' with an attention' if self.at == 'attention' else f' ({last}: the output of the last block)'}."
            )
        if len(self.vector) != model.d_model:
            raise ValueError(
                f"{self.label}: the vector has {len(self.vector)} numbers; {model.name} has {model.d_model}."
            )

    def on(self, hidden: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place d_model"]:
        """The edited copy of some states, in their type.

        ``hidden`` [..., d_model] is not changed.

        Returns:
            [..., d_model], of the type of ``hidden``.
        """
        if self.first is not None and self.first < hidden.shape[-2]:
            n = self.first
            return torch.cat([replace(self, first=None).on(hidden[..., :n, :]), hidden[..., n:, :]], dim=-2)
        h = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        vector = self.vector.to(h)
        if self.op == "add":
            return (h + self.coefficient * vector).to(hidden.dtype)
        unit = vector / vector.norm()
        if self.op == "turn":
            return turned(h, unit, self.coefficient).to(hidden.dtype)
        target = 0.0 if self.op == "remove" else self.coefficient
        return (h + (target - h @ unit)[..., None] * unit).to(hidden.dtype)


def turned(
    h: Float[Tensor, "*place d_model"], unit: Float[Tensor, " d_model"], angle: float
) -> Float[Tensor, "*place d_model"]:
    """States rotated by an angle towards a unit vector, in the plane of the two, not past it; the length is kept.

    After angular steering (Vu and Nguyen 2025, arXiv 2510.26243), whose plane is fixed; here it is the state's own."""
    along = h @ unit
    across = h - along[..., None] * unit
    size = across.norm(dim=-1)
    new_along = along * math.cos(angle) + size * math.sin(angle)
    new_size = size * math.cos(angle) - along * math.sin(angle)
    past = new_size < 0
    new_along = torch.where(past, math.copysign(1.0, angle) * torch.hypot(along, size), new_along)
    scale = torch.where(size > 0, new_size.clamp(min=0) / size.clamp(min=1e-30), 1.0)
    return h + (new_along - along)[..., None] * unit * (size > 0)[..., None] + (scale - 1)[..., None] * across


Edit = HeadEdit | ResidualEdit


@public
@dataclass(frozen=True, eq=False)
class Branch:
    """One counterfactual: edits applied together in one run; several of the stream at one place act in their order.

    ``edits``: what is changed. ``label``: its name in results; by default the edits'.

    Raises:
        ValueError: the same head is edited twice.
    """

    edits: tuple[Edit, ...]
    label: str = ""

    def __post_init__(self) -> None:
        heads = [(e.layer, e.head) for e in self.edits if isinstance(e, HeadEdit)]
        if len(set(heads)) < len(heads):
            raise ValueError(f"branch {self.label!r} edits the same head twice; give one edit for each head.")
        if not self.label:
            object.__setattr__(self, "label", "+".join(e.label for e in self.edits) or "unedited")

    @property
    def first_layer(self) -> int:
        """The lowest edited layer; layers below it compute what the unedited model computes."""
        return min((e.layer for e in self.edits), default=0)


@public
@made_by("interp.ablate_each_head('zero')")
@dataclass(frozen=True, eq=False)
class EachHead:
    """One branch for every head of the model: the same operation on each in turn.

    ``values`` [layer, head, d_head] or [layer, head, pos, d_head] for ``op="set"``; filled in by the scan for
    ``"mean"`` (the mean z over ``reference`` prompts, or over the scanned ones) and ``"patch"`` (z of the run on
    ``sources[i]`` for prompt i).

    ``op``: the operation, as of :class:`HeadEdit`. ``factor``: of ``"scale"``. ``reference`` and ``sources``: prompts
    that ``"mean"`` and ``"patch"`` are read from. ``sets``: sets of heads (layer, head), a branch for each set in place
    of each head. ``places``: for each prompt, which position of its source each of its positions is read from; None:
    aligned at the end.
    """

    op: Literal["zero", "mean_of_others", "mean", "scale", "patch"]
    factor: float = 1.0
    reference: tuple[Prompt, ...] | None = None
    sources: tuple[Prompt, ...] = field(default=())
    sets: tuple[tuple[tuple[int, int], ...], ...] | None = None
    places: tuple[tuple[int, ...], ...] | None = None

    def branches(self, model: Model, values: Tensor | None = None) -> list[Branch]:
        """One branch for each head, layer by layer, labelled ``L3H5``; or for each of the sets.

        ``model``: whose heads. ``values``: what ``"mean"`` and ``"patch"`` put in their place, [layer, head, ...].

        Raises:
            ValueError: no values for ``"mean"`` or ``"patch"``.
        """
        op: Op = "set" if self.op in ("mean", "patch") else self.op
        if op == "set" and values is None:
            raise ValueError(f"op={self.op!r} needs the values to set; interp.scan computes them.")
        each = [((layer, head),) for layer in range(model.n_layers) for head in range(model.n_heads)]
        return [
            Branch(
                tuple(
                    HeadEdit(layer, head, op, self.factor, None if values is None else values[layer, head])
                    for layer, head in heads
                )
            )
            for heads in (each if self.sets is None else self.sets)
        ]


@public
def ablate_each_head(
    how: Literal["zero", "mean_of_others", "mean"] = "zero", reference: Sequence[Prompt] | None = None
) -> EachHead:
    """Remove each head in turn: ``zero``, ``mean_of_others`` (of its layer, same position), or ``mean`` (its own mean
    over ``reference`` prompts, by default the scanned ones: for positions="answer" the mean at the last position,
    else over all positions).

    ``how``: which of the three.

    Raises:
        ValueError: another ``how``, and ``reference`` prompts for one that takes none.
    """
    how = how.replace("-", "_")
    if how not in ("zero", "mean_of_others", "mean"):
        raise ValueError(f"ablation {how!r}; expected 'zero', 'mean_of_others' or 'mean'.")
    if reference is not None and how != "mean":
        raise ValueError(f"reference prompts belong to 'mean' ablation; {how!r} takes none.")
    return EachHead(how, reference=tuple(reference) if reference is not None else None)


@public
def scale_each_head(factor: float) -> EachHead:
    """Multiply each head's output in turn: 0 ablates, 1 changes nothing.

    ``factor``: what each head's z is multiplied by.
    """
    return EachHead("scale", factor=float(factor))


@public
def patch_each_head(
    sources: Sequence[Prompt],
    sets: Sequence[Sequence[tuple[int, int]]] | None = None,
    places: Sequence[Sequence[int]] | None = None,
) -> EachHead:
    """Set each head in turn to what it gives on another prompt: ``sources[i]`` for scanned prompt i, aligned at the
    end (position -1 to -1). With positions="all" the two must have the same length, unless ``places`` are given.

    ``sets``: sets of heads (layer, head), each set in one branch, instead of each head; an empty one changes nothing.
    ``places``: for each scanned prompt, the position of its source that each of its positions goes with.
    """
    return EachHead(
        "patch",
        sources=tuple(sources),
        sets=None if sets is None else tuple(map(tuple, sets)),
        places=None if places is None else tuple(map(tuple, places)),
    )


def apply_edits(
    z: Float[Tensor, "row pos feature"], edits: Sequence[tuple[int, HeadEdit]], n_heads: int
) -> Float[Tensor, "row pos feature"]:
    """The edited copy of a layer's z, where ``edits`` pairs a row of the batch with an edit of this layer.

    Every edit reads the unedited z, so two edits in one row do not see each other.
    """
    if not edits:
        return z
    before = z.unflatten(-1, (n_heads, -1))  # [row, pos, head, d_head]
    after = before.clone()
    for op in {e.op for _, e in edits}:
        chosen = [(r, e) for r, e in edits if e.op == op]
        rows = torch.tensor([r for r, _ in chosen], device=z.device)
        heads = torch.tensor([e.head for _, e in chosen], device=z.device)
        if op == "zero":
            new = torch.zeros((), dtype=z.dtype, device=z.device)
        elif op == "mean_of_others":
            of = before[rows].float()  # sum in float32, also for bfloat16
            new = (of.sum(2) - of[torch.arange(len(chosen)), :, heads]) / (n_heads - 1)
        elif op == "scale":
            factors = torch.tensor([e.factor for _, e in chosen], device=z.device, dtype=z.dtype)
            new = before[rows, :, heads] * factors[:, None, None]
        else:
            values = [v if v.ndim == 2 else v[None] for v in (e.value for _, e in chosen)]
            new = torch.stack([v.to(z).expand(z.shape[1], -1) for v in values])
        after[rows, :, heads] = new.to(z.dtype)
    return after.flatten(-2)


def apply_residual_edits(
    hidden: Float[Tensor, "row pos d_model"], edits: Sequence[tuple[int, ResidualEdit]]
) -> Float[Tensor, "row pos d_model"]:
    """The edited copy of the stream at one place, where ``edits`` pairs a row of the batch with an edit; those of one
    row act in their order. An edit that several rows have at the same place of their order is made once for all."""
    after = hidden.clone()
    order: dict[int, int] = defaultdict(int)
    rows: dict[tuple[int, int], tuple[ResidualEdit, list[int]]] = {}
    for row, edit in edits:
        rows.setdefault((order[row], id(edit)), (edit, []))[1].append(row)
        order[row] += 1
    for _, (edit, own) in sorted(rows.items(), key=lambda item: item[0][0]):
        index = own[0] if len(own) == 1 else torch.tensor(own, device=hidden.device)
        after[index] = edit.on(after[index])
    return after

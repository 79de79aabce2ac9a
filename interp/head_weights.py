"""Edits of heads that can live in the weights: tuned query and key rows, scaled outputs.

An edit is a value. ``apply`` puts it on a model as long as a ``with`` block lasts, ``fold`` writes it into the weights
and returns the edit that takes it back, ``export`` writes a folded model that plain transformers loads, ``save`` and
:func:`load_edit` carry it to another machine. An edit knows the weights it was made for and refuses others.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp.artefact import load_artefact, save_artefact
from interp.provenance import hash_weights

if TYPE_CHECKING:
    from interp.model import Model

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

    @property
    def label(self) -> str:
        return f"L{self.layer}H{self.head}" if self.kind == "query" else f"L{self.layer}K{self.head}"

    @property
    def n_parameters(self) -> int:
        return sum(t.numel() for t in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})


def projection(model: Model, layer: int, head: int, kind: Kind = "query") -> tuple[nn.Linear, slice]:
    """The module that makes this head's queries (or this group's keys), and the head's rows in it.

    Raises ``ValueError`` for heads out of range and for architectures that make queries, keys and values in one
    module, quantised or offloaded weights included: their rows can't be replaced one by one.
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


@contextmanager
def rows_replaced(model: Model, rows: Sequence[HeadRows]) -> Iterator[None]:
    """While active, the given rows act instead of the model's own, which stay as they are. Gradients reach them."""
    by_module: dict[nn.Linear, list[tuple[slice, HeadRows]]] = {}
    for new in rows:
        module, where = projection(model, new.layer, new.head, new.kind)
        by_module.setdefault(module, []).append((where, new))
    with ExitStack() as stack:
        for module, parts in by_module.items():
            stack.callback(module.register_forward_hook(_replace_rows(parts)).remove)
        yield


def _write_rows(model: Model, new: HeadRows) -> None:
    module, where = projection(model, new.layer, new.head, new.kind)
    with torch.no_grad():
        module.weight[where] = new.weight.to(module.weight)
        if new.bias is not None:
            module.bias[where] = new.bias.to(module.bias)


def _replace_rows(parts: Sequence[tuple[slice, HeadRows]]):
    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        output = output.clone()
        for where, new in parts:
            bias = None if new.bias is None else new.bias.to(output)
            output[..., where] = F.linear(args[0], new.weight.to(output), bias)
        return output

    return hook


@dataclass(frozen=True, eq=False)
class WeightEdit(ABC):
    """What the edits of this module have in common. ``model`` names the weights that the edit is for (name,
    weights_sha256, geometry); ``about`` says where it came from and how it was validated."""

    model: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def _hooked(self, model: Model) -> Any:
        """A context manager in which the edit acts."""

    @abstractmethod
    def _write(self, model: Model) -> WeightEdit:
        """Write the edit into the weights; return the edit that writes back what was there."""

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]: ...

    @abstractmethod
    def summary(self) -> str:
        """One line for people."""

    def require_fits(self, model: Model) -> None:
        """Raise ``ValueError`` unless the model has the very weights that this edit was made for."""
        found = hash_weights(model.hf)
        if found != self.model["weights_sha256"]:
            raise ValueError(
                f"this edit was made for {self.model.get('name')!r} with weights {self.model['weights_sha256'][:12]}; "
                f"{model.name!r} has weights {found[:12]}. Apply it to the weights it was made for (was it folded "
                "already?), or make it anew on these."
            )

    @contextmanager
    def apply(self, model: Model) -> Iterator[None]:
        """The edit acts on the model inside the ``with`` block, and is gone after it, also after an exception. Blocks
        nest. It acts in everything of this package and in ``model.hf``, not in ``model.bridge``, which calls parts of
        the modules directly: ``fold`` reaches that too."""
        self.require_fits(model)
        with self._hooked(model):
            yield

    def fold(self, model: Model) -> WeightEdit:
        """Write the edit into the model's weights, in place; every other number stays bit for bit. Returns the edit
        that restores what was there, exactly: ``undo = edit.fold(model); undo.fold(model)``."""
        self.require_fits(model)
        undo = self._write(model)
        try:
            return replace(undo, model=describe_model(model))
        except BaseException:  # Ctrl-C while the new weights are hashed
            undo._write(model)
            raise

    def export(self, model: Model, directory: str | Path) -> Path:
        """Write the folded model as a directory that ``AutoModelForCausalLM.from_pretrained`` loads with no code of
        ours, with its tokenizer and a README. The model in memory is as it was afterwards.

        Raises ``FileExistsError`` for a directory with something in it. Takes the model's size on disk.
        """
        directory = Path(directory)
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise FileExistsError(f"{directory} is not an empty directory. Give another, or delete it.")
        directory.parent.mkdir(parents=True, exist_ok=True)
        self.require_fits(model)
        temporary, undo = Path(tempfile.mkdtemp(prefix=".exporting-", dir=directory.parent)), None
        try:
            undo = self._write(model)
            model.hf.save_pretrained(temporary)
            if model.tokenizer is not None:
                model.tokenizer.save_pretrained(temporary)
            (temporary / "README.md").write_text(self._card(), encoding="utf-8")
            if directory.exists():
                directory.rmdir()
            os.chmod(temporary, 0o755)
            os.replace(temporary, directory)
        finally:
            if undo is not None:
                undo._write(model)
            shutil.rmtree(temporary, ignore_errors=True)
        return directory

    def save(self, directory: str | Path) -> Path:
        """Write ``edit.safetensors`` and ``edit.json`` (format version, model, where the edit came from), replacing
        those of an earlier edit. No pickle."""
        record = {
            "kind": type(self).__name__,
            "summary": self.summary(),
            "model": dict(self.model),
            "about": dict(self.about),
        }
        return save_artefact(directory, "edit", record, self._tensors())

    def _card(self) -> str:
        about = "\n".join(f"- {key}: {json.dumps(value, default=str)}" for key, value in self.about.items())
        return (
            f"# {self.model.get('name', 'model')}, edited\n\nMade by headscope from {self.model.get('name')} (weights "
            f"{self.model['weights_sha256']}). {self.summary()} Nothing else was changed.\n\n{about}\n"
        )


@dataclass(frozen=True, eq=False)
class TunedHeads(WeightEdit):
    """Query (and key) rows of some heads, replaced."""

    rows: tuple[HeadRows, ...] = ()

    def _hooked(self, model: Model):
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

    def _tensors(self) -> dict[str, Tensor]:
        named = {}
        for i, r in enumerate(self.rows):
            named |= {f"{i}.{r.layer}.{r.head}.{r.kind}.{part}": t for part, t in r.tensors().items()}
        return named

    def summary(self) -> str:
        n = sum(r.n_parameters for r in self.rows)
        which = ", ".join(r.label for r in self.rows) or "none"
        n_keys = sum(r.kind == "key" for r in self.rows)
        keys = f" and {n_keys} key heads" if n_keys else ""
        return f"New rows of {len(self.rows) - n_keys} query heads{keys} ({which}): {n:,} numbers."


@dataclass(frozen=True, eq=False)
class ScaledHeads(WeightEdit):
    """Heads' outputs multiplied by factors, at every position: columns of the output projection."""

    factors: Mapping[tuple[int, int], float] = field(default_factory=dict)

    def _hooked(self, model: Model):
        return heads_scaled(model, self.factors)

    def _write(self, model: Model) -> WeightEdit:
        raise ValueError("a scaled head is not folded here yet: a factor of 0 could not be taken back. Use apply.")

    def _tensors(self) -> dict[str, Tensor]:
        return {f"{layer}.{head}": torch.tensor(f) for (layer, head), f in self.factors.items()}

    def summary(self) -> str:
        which = ", ".join(f"L{layer}H{head} x {f:g}" for (layer, head), f in self.factors.items())
        return f"{len(self.factors)} heads scaled ({which or 'none'})."


@contextmanager
def heads_scaled(model: Model, factors: Mapping[tuple[int, int], float]) -> Iterator[None]:
    """While active, each named head's output z is multiplied by its factor at every position."""
    by_layer: dict[int, list[tuple[int, float]]] = {}
    for (layer, head), factor in factors.items():
        by_layer.setdefault(layer, []).append((head, factor))

    def scale(parts: Sequence[tuple[int, float]]):
        def hook(module: nn.Module, args: tuple) -> tuple:
            z = args[0].unflatten(-1, (model.n_heads, -1)).clone()
            for head, factor in parts:
                z[..., head, :] *= factor
            return (z.flatten(-2), *args[1:])

        return hook

    with ExitStack() as stack:
        for layer, parts in by_layer.items():
            out = model.components.blocks[layer].out_projection
            stack.callback(out.register_forward_pre_hook(scale(parts)).remove)
        yield


def describe_model(model: Model) -> dict[str, Any]:
    """The weights that an edit is for."""
    described = model.provenance()
    names = ("name", "architecture", "weights_sha256", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_model")
    return {name: described[name] for name in (*names, "dtype")}


def load_edit(directory: str | Path) -> WeightEdit:
    """The edit that ``save`` wrote, bit for bit."""
    record, tensors = load_artefact(directory, "edit")
    if record["kind"] == "ScaledHeads":
        factors = {tuple(map(int, name.split("."))): float(t) for name, t in tensors.items()}
        return ScaledHeads(record["model"], record["about"], factors)  # type: ignore[arg-type]
    parts: dict[tuple[int, int, int, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, layer, head, kind, part = name.split(".")
        parts.setdefault((int(number), int(layer), int(head), kind), {})[part] = tensor
    rows = tuple(HeadRows(*place[1:], **parts[place]) for place in sorted(parts))  # type: ignore[arg-type]
    return TunedHeads(record["model"], record["about"], rows)

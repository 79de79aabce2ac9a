"""Changes of weights as values: made in place, on the model and its bridge, each giving what takes it back.

A change is of numbers, or of structure: a bias where there was none, an embedding untied from the output head, a
switch of the config. Numbers that a change does not name stay bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.door.brief import brief

if TYPE_CHECKING:
    from interp.models import Model

Op = Literal["set", "create", "remove", "untie", "tie", "configure"]


@dataclass(frozen=True, eq=False)
class Change:
    """One change of the parameter ``name`` (as in ``named_parameters``), or of the config.

    ``set``: numbers from ``start`` on along ``dim`` become ``value``. ``create``: a parameter where the module had
    None. ``remove``: None again. ``untie``: a parameter that is shared becomes one of its own, with the same numbers.
    ``tie``: it becomes the parameter named by ``value``. ``configure``: the switch ``name`` of the config becomes
    ``value`` (``text/`` before the name: of the config of the language part).
    """

    op: Op
    name: str
    value: Tensor | str | bool | None = None
    dim: int = 0
    start: int = 0

    __repr__ = brief

    def make(self, model: Model) -> Change:
        """Do it; returns what takes it back."""
        if self.op == "configure":
            config, switch = _config(model.hf, self.name)
            before = getattr(config, switch)
            setattr(config, switch, self.value)
            return replace(self, value=before)
        module, name = _owner(model.hf, self.name)
        parameter = module._parameters[name]
        if self.op == "set":
            where = (slice(None),) * self.dim + (slice(self.start, self.start + self.value.shape[self.dim]),)
            before = parameter[where].detach().clone()
            with torch.no_grad():
                parameter[where] = self.value.to(parameter)
            return replace(self, value=before)
        twins = [module, *_twins(model, module)]
        if self.op == "create":
            new = nn.Parameter(self.value.to(module.weight), requires_grad=module.weight.requires_grad)
            inverse = Change("remove", self.name)
        elif self.op == "remove":
            new, inverse = None, Change("create", self.name, parameter.detach().clone())
        elif self.op == "untie":
            new = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
            inverse = Change("tie", self.name, _sharers(model.hf, parameter, self.name)[0])
        else:
            other, at = _owner(model.hf, self.value)
            new, inverse = other._parameters[at], Change("untie", self.name)
        for twin in twins:
            twin._parameters[name] = new
        return inverse


class Writer:
    """Makes changes on a model and keeps what takes them back, the last first."""

    def __init__(self, model: Model) -> None:
        self.model, self.inverses = model, []

    def make(self, change: Change) -> None:
        self.inverses.insert(0, change.make(self.model))

    def set(self, name: str, value: Tensor, dim: int = 0, start: int = 0) -> None:
        self.make(Change("set", name, value, dim, start))

    def create(self, name: str, value: Tensor) -> None:
        self.make(Change("create", name, value))

    def untie_embedding(self) -> None:
        """The embedding gets rows of its own where it shares them with the output head, which stays as it is."""
        components = self.model.components
        if not is_tied(self.model):
            return
        if not isinstance(components.embedding, nn.Embedding):
            raise ValueError(
                f"the embedding is a {type(components.embedding).__name__}; expected a torch.nn.Embedding."
            )
        self.make(Change("untie", f"{module_name(self.model, components.embedding)}.weight"))
        config = self.model.hf.config
        for prefix, of in (("", config), ("text/", config.get_text_config())):
            if (not prefix or of is not config) and getattr(of, "tie_word_embeddings", None):
                self.make(Change("configure", f"{prefix}tie_word_embeddings", False))


@contextmanager
def writing(model: Model) -> Iterator[Writer]:
    """A writer whose changes are taken back if the block raises."""
    writer = Writer(model)
    try:
        yield writer
    except BaseException:
        make_all(model, writer.inverses)
        raise


def make_all(model: Model, changes: Sequence[Change]) -> tuple[Change, ...]:
    """Make the changes in order, or none of them; returns those that take them back, in their order."""
    with writing(model) as writer:
        for change in changes:
            writer.make(change)
    return tuple(writer.inverses)


@dataclass(frozen=True, eq=False)
class Projection:
    """A linear layer with its weights in the open: their names, and which dimension is the input."""

    weight_name: str
    weight: Tensor
    bias_name: str
    bias: Tensor | None
    input_dim: int

    __repr__ = brief

    @property
    def output_dim(self) -> int:
        return 1 - self.input_dim


def open_projection(model: Model, module: nn.Module | None, what: str) -> Projection:
    """Raises ``ValueError`` unless the module is a linear layer with its weights in memory: quantised, adapted and
    offloaded weights can't be written to one by one."""
    weight = getattr(module, "weight", None)
    if remedy := _why_not_open(module, weight):
        raise ValueError(
            f"{what} of {type(model.hf).__name__} is a {type(module).__name__}"
            f"{'' if weight is None else f' of {weight.dtype} on {weight.device.type}'}; expected a plain linear layer "
            f"in memory. {remedy}, or use apply(), which needs no weights."
        )
    name = module_name(model, module)
    return Projection(
        f"{name}.weight", weight, f"{name}.bias", getattr(module, "bias", None), int(isinstance(module, nn.Linear))
    )


def _why_not_open(module: nn.Module | None, weight: Tensor | None) -> str:
    """Empty for a plain linear layer in memory; else what to do about what is in the way."""
    if module is None or weight is None:
        return "It has no weight of its own: load a model with one projection there"
    if hasattr(module, "base_layer"):
        return "It holds an adapter (LoRA or its like): merge it first (merge_and_unload)"
    if not weight.is_floating_point():
        return "Load the model unquantised"
    if weight.device.type == "meta" or getattr(getattr(module, "_hf_hook", None), "offload", False):
        return "It is offloaded: load the model without offloading"
    if not _computes_plainly(module):
        return "What it computes is not weight times input plus bias: load a model without such layers"
    return ""


@torch.no_grad()
def _computes_plainly(module: nn.Module) -> bool:
    """Whether it is a linear layer or one that computes the same (Falcon's own class does): tried on three inputs."""
    if type(module) in (nn.Linear, Conv1D):
        return True
    if not isinstance(module, nn.Linear):
        return False
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 3, module.in_features, dtype=torch.float32, generator=generator).to(module.weight)
    expected = nn.functional.linear(inputs, module.weight, module.bias)
    try:
        return torch.allclose(module(inputs), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    except (RuntimeError, ValueError, TypeError):  # a kernel that wants other shapes or types
        return False


def module_name(model: Model, module: nn.Module) -> str:
    return next(name for name, found in model.hf.named_modules() if found is module)


def is_tied(model: Model) -> bool:
    """Whether the output head reads the embedding's own rows."""
    head = getattr(model.components.unembedding, "weight", None)
    return head is not None and getattr(model.components.embedding, "weight", None) is head


def _owner(hf: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, last = name.rpartition(".")
    module = hf.get_submodule(path)
    if last not in module._parameters:
        raise ValueError(f"{type(hf).__name__} has no parameter {name!r}; these changes are for another model.")
    return module, last


def _twins(model: Model, module: nn.Module) -> list[nn.Module]:
    """The modules of the bridge that compute with this module's weight in its place."""
    weight = module._parameters["weight"]
    return [m for m in model.bridge.modules() if type(m) is type(module) and m._parameters.get("weight") is weight]


def _sharers(hf: nn.Module, parameter: Tensor, name: str) -> list[str]:
    """The other names of a parameter."""
    found = [n for n, p in hf.named_parameters(remove_duplicate=False) if p is parameter and n != name]
    if not found:
        raise ValueError(f"{name} is not tied to any other parameter of {type(hf).__name__}.")
    return found


def _config(hf: nn.Module, name: str) -> tuple[Any, str]:
    prefix, _, switch = name.rpartition("/")
    return (hf.config.get_text_config() if prefix else hf.config), switch

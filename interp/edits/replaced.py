"""Weights put in place of a model's own: what takes a fold back, also on another machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp.edits.family import BridgeHooks, ModelEdit
from interp.edits.weights import Change, make_all

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@dataclass(frozen=True, eq=False, repr=False)
class ReplacedWeights(ModelEdit):
    """Changes of named weights (:class:`interp.edits.weights.Change`), in order. It is what ``fold`` of another edit
    returns, to restore what was there.

    Not hooks: ``apply`` writes the weights and puts them back at the end of the block.
    """

    model: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()

    def check(self, model: Model) -> None:
        """Whether there are such weights is seen when they are written; the hash of the weights says it before."""

    def summary(self) -> str:
        names = list(dict.fromkeys(c.name for c in self.changes))
        n = sum(c.value.numel() for c in self.changes if isinstance(c.value, Tensor))
        which = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        restores = f", restoring what was there before: {self.about['restores']}" if "restores" in self.about else "."
        return f"{len(names)} weights or switches replaced ({which}), {n:,} numbers{restores}"

    def parts(self) -> dict[str, Tensor]:
        return {f"{i}. {c.op} {c.name}": c.value for i, c in enumerate(self.changes) if isinstance(c.value, Tensor)}

    @contextmanager
    def _hooked(self, model: Model, prompts: Sequence[Prompt] | None) -> Iterator[None]:
        back = make_all(model, self.changes)
        try:
            yield
        finally:
            make_all(model, back)

    def _write(self, model: Model) -> ReplacedWeights:
        return ReplacedWeights(self.model, {"restores": self.summary()}, make_all(model, self.changes))

    def bridge_hooks(self, bridge: Any) -> BridgeHooks:
        raise ValueError(
            "replaced weights are no hooks. Fold them (edit.fold(model)): model.bridge shares the weights of model.hf."
        )

    def _files(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors = {str(i): c.value for i, c in enumerate(self.changes) if isinstance(c.value, Tensor)}
        plain = [
            {"op": c.op, "name": c.name, "dim": c.dim, "start": c.start}
            | ({} if isinstance(c.value, Tensor) else {"value": c.value})
            for c in self.changes
        ]
        return {"changes": plain}, tensors

    @classmethod
    def _from_files(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ReplacedWeights:
        changes = [Change(**({"value": tensors.get(str(i))} | c)) for i, c in enumerate(record["changes"])]
        return cls(record["model"], record["about"], tuple(changes))

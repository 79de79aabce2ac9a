"""Edits one after another, and any edit from its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp.door import public
from interp.edits.conditional import ConditionalSteering
from interp.edits.family import BridgeHooks, ModelEdit
from interp.edits.head_rows import TunedHeads
from interp.edits.head_scales import ScaledHeads
from interp.edits.replaced import ReplacedWeights
from interp.edits.steering import Steering
from interp.records import load_artefact, understood

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@dataclass(frozen=True, eq=False, repr=False)
class Edits(ModelEdit):
    """Edits of one model, in order: what a later one reads, earlier ones have changed.

    Steering at one place acts after steering of earlier edits there; rows of a head replaced twice are the later ones.
    In the weights they are written in the same order. An order that weights can't keep (a removal everywhere, then a
    vector added that later removals would take away) is refused by the check of ``fold``.

    ``about``: where they come from; it is saved with them.

    Raises:
        ValueError: edits of different weights.

    >>> Edits((scaled, steering)).export(model, "corrected")
    """

    edits: tuple[ModelEdit, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", tuple(self.edits))
        named = {e.model["weights_sha256"]: e.model.get("name") for e in self.edits if e.model}
        if len(named) > 1:
            which = " and ".join(f"{name!r} (weights {sha[:12]})" for sha, name in named.items())
            raise ValueError(f"these edits are of different weights: {which}. Make them anew on one model.")

    @property
    def model(self) -> Mapping[str, Any]:
        """The weights that they are for."""
        return next((edit.model for edit in self.edits if edit.model), {})

    def made_for(self, described: Mapping[str, Any]) -> Edits:
        """``described``: the weights."""
        return replace(self, edits=tuple(edit.made_for(described) for edit in self.edits))

    def check(self, model: Model) -> None:
        for edit in self.edits:
            edit.check(model)

    def summary(self) -> str:
        return " Then: ".join(edit.summary() for edit in self.edits) or "No edit."

    def _sentences(self) -> list[str]:
        return [sentence for edit in self.edits for sentence in edit._sentences()] or [self.summary()]

    def origins(self) -> dict[str, Any]:
        found = dict(self.about)
        for number, edit in enumerate(self.edits, start=1):
            found |= {f"{key} (edit {number})": value for key, value in edit.origins().items()}
        return found

    def parts(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for number, edit in enumerate(self.edits, start=1):
            for label, value in edit.parts().items():
                found[label if label not in found else f"{label} (edit {number})"] = value
        return found

    @contextmanager
    def _hooked(self, model: Model, prompts: Sequence[Prompt] | None) -> Iterator[None]:
        with ExitStack() as stack:
            for edit in self.edits:
                stack.enter_context(edit._hooked(model, prompts))
            yield

    def _require_foldable(self) -> None:
        for edit in self.edits:
            edit._require_foldable()

    def _write(self, model: Model) -> Edits:
        undo: list[ModelEdit] = []
        try:
            for edit in self.edits:
                undo.insert(0, edit._write(model))
        except BaseException:
            for edit in undo:
                edit._write(model)
            raise
        return Edits(tuple(undo), {"restores": self.summary()})

    def bridge_hooks(self, bridge: Any) -> BridgeHooks:
        return [hook for edit in self.edits for hook in edit.bridge_hooks(bridge)]

    def _files(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        records, tensors = [], {}
        for number, edit in enumerate(self.edits):
            record, own = edit._record()
            records.append(record)
            tensors |= {f"{number}/{name}": tensor for name, tensor in own.items()}
        return {"edits": records}, tensors

    @classmethod
    def _from_files(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Edits:
        edits = []
        for number, inner in enumerate(record["edits"]):
            own = {n.split("/", 1)[1]: t for n, t in tensors.items() if n.split("/", 1)[0] == str(number)}
            edits.append(_from_record(inner, own))
        return cls(tuple(edits), record["about"])


_KINDS = {
    kind.__name__: kind for kind in (ScaledHeads, TunedHeads, Steering, ConditionalSteering, ReplacedWeights, Edits)
}


@public
def load_edit(directory: str | Path) -> ModelEdit:
    """The edit that ``save`` wrote, of whatever kind, bit for bit; also what a steering was saved as before
    (``steering.json``).

    ``directory``: where.

    Raises ``FileNotFoundError`` where no edit was saved, ``ValueError`` for a damaged or an unknown one.
    """
    directory = Path(directory)
    is_older = (directory / "steering.safetensors").is_file() and not (directory / "edit.json").is_file()
    stem = "steering" if is_older else "edit"
    record, tensors = load_artefact(directory, stem)
    with understood(directory / f"{stem}.json", "edit"):
        return _from_record(record, tensors)


def _from_record(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ModelEdit:
    kind = _KINDS.get(record["kind"])
    if kind is None:
        raise ValueError(f"an edit of kind {record['kind']!r} was found; expected one of {', '.join(_KINDS)}.")
    return kind._from_files(record, tensors)

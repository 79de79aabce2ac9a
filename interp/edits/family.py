"""What every edit of a model can do: act as hooks, be saved, be folded into the weights, be exported.

An edit is a value. ``apply`` puts it on a model as long as a ``with`` block lasts; ``fold`` writes it into the weights
and gives the edit that takes it back; ``export`` writes a model with the edit in it that plain transformers loads;
``save`` and :func:`interp.edits.composed.load_edit` carry it to another machine. It knows the weights that it was made
for and refuses others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn

from interp.architecture import acting, acts_on_passes, alone
from interp.edits.export import Measures, card, new_directory, read_plainly, write_model
from interp.edits.fold_check import Agreement, agreement, check_prompts, every_logit
from interp.edits.identity import describe_model, require_weights
from interp.models import load
from interp.records import save_artefact

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

BridgeHooks: TypeAlias = list[tuple[str, Callable[..., Any]]]


class ModelEdit(ABC):
    """The base of all kinds: scaled heads, tuned heads, steering, weights put back, and edits one after another.

    model: the weights that the edit is for (:func:`interp.edits.identity.describe_model`); empty: any of the right
    geometry. about: where it came from and how it was validated.
    """

    model: Mapping[str, Any]
    about: Mapping[str, Any]

    @abstractmethod
    def summary(self) -> str:
        """One line for people."""

    @abstractmethod
    def parts(self) -> dict[str, Tensor]:
        """What is changed, by a label for people.

        Returns:
            label -> a head's factor [], its rows [row, d_model], a vector [d_model] at a layer.
        """

    @abstractmethod
    def check(self, model: Model) -> None:
        """Raise ``ValueError`` if the model has no such heads or layers, or another width."""

    @abstractmethod
    def _hooked(self, model: Model, prompts: Sequence[Prompt] | None) -> AbstractContextManager[Any]:
        """A context in which the edit acts."""

    def _require_foldable(self) -> None:
        """Raise ``ValueError`` with the reason if weights can't do this, whatever the model."""
        return None

    @abstractmethod
    def _write(self, model: Model) -> ModelEdit:
        """Write the edit into the weights, all of it or nothing; return the edit that writes back what was there.

        Raises ``ValueError`` with the reason where weights can't do what the edit does."""

    @abstractmethod
    def _files(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What ``save`` writes beside ``kind``, ``summary``, ``model`` and ``about``: a record and tensors."""

    @classmethod
    @abstractmethod
    def _from_files(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ModelEdit: ...

    @abstractmethod
    def bridge_hooks(self, bridge: Any) -> BridgeHooks:
        """The edit as hooks of a bare ``TransformerBridge``, for ``bridge.run_with_hooks(ids, fwd_hooks=...)`` or
        ``with bridge.hooks(fwd_hooks=...)``. They act on every position of every pass. What weights the bridge has is
        not checked, its geometry is.

        Raises:
            ValueError: edits that act at some positions only, a layer that the bridge does not have, and a bridge in
                compatibility mode, whose states are not the model's own.
        """

    def require_fits(self, model: Model) -> None:
        """Raise ``ValueError`` for heads or layers that the model lacks, or other weights, or another active
        adapter, than those the edit was made for. Reads every weight (about a second for each GB) if one was changed
        since they were last read, else a fraction of that."""
        self.check(model)
        if self.model:
            require_weights(model, self.model, "this edit")

    @contextmanager
    def apply(self, model: Model | nn.Module, prompts: Sequence[Prompt] | None = None) -> Iterator[None]:
        """It acts on the model inside the ``with`` block, and is gone after it, also after an exception. Blocks nest,
        and act in the order in which they were entered.

        It acts in everything of this package and in ``model.hf``; a bare transformers model is taken too, and its own
        calls and ``generate`` are then edited. It does not act on ``model.bridge``, which calls parts of the modules
        directly: see ``bridge_hooks``; nor in other threads. What other threads ask of this package for the model waits
        until the block ends, so don't wait for them inside it; their calls of the bare ``hf`` go on, unedited.
        Coroutines of one thread can't wait for each other: don't await inside the block. Code that ``torch.compile``
        made does not run meanwhile (it would not see the edit): the model runs as plain Python.

        prompts: those that will be run, for a steering of named positions
        (:class:`interp.edits.steering.Steering` says which passes it knows); other edits need none.

        Raises:
            ValueError: as :meth:`require_fits`.
            HookNotCalled: a pass in which the edit did not act where it must.
        """
        model = _loaded(model)
        with alone(model.hf):
            self.require_fits(model)
            with self._hooked(model, prompts), acting(model.hf, self), acts_on_passes(model):
                yield

    def fold(self, model: Model | nn.Module, prompts: Sequence[Prompt] | None = None) -> ModelEdit:
        """Write the edit into the model's weights, in place; ``model.bridge`` has it too. Returns the edit that
        restores what was there, bit for bit: ``undo = edit.fold(model); undo.fold(model)``.

        The folded model's logits are compared with the hooked one's at every position of a few prompts (random tokens
        of up to 32; or ``prompts``). Allowed are 1e-4 in float32, or 5e-5 of the largest logit where that is more. In
        bfloat16, where a folded edit rounds the weights and a hooked one the states, 0.15 of the logits' root mean
        square (0.03 in float16): it shows no errors smaller than that. Costs two passes
        over these, and two readings of the weights.

        An added direction becomes a bias; ``save_pretrained`` of a folded model in memory may not know what to do with
        it: ``export`` does. After any exception the weights are as they were.

        Raises:
            ValueError: what weights can't do, with the reason.
            ArithmeticError: the logits disagree.
        """
        model = _loaded(model)
        with alone(model.hf):
            self.require_fits(model)
            undo, _ = self._written(model, prompts)
            try:
                return undo.made_for(describe_model(model))
            except BaseException:  # Ctrl-C while the new weights are hashed
                undo._write(model)
                raise

    def export(
        self,
        model: Model | nn.Module,
        directory: str | Path,
        *,
        measures: Measures = None,
        prompts: Sequence[Prompt] | None = None,
    ) -> Path:
        """Write the model with the edit in its weights as a directory that ``AutoModelForCausalLM.from_pretrained``
        loads with no code of ours, with its tokenizer and a README that says what was changed. The model in memory is
        as it was afterwards.

        measures: what the edit does, for the README: a table, or sentences. prompts: as for :meth:`fold`. The directory
        appears whole or not at all, and only after plain transformers has read it and given the hooked model's logits
        (tolerances as in :meth:`fold`): that takes memory for a second model.

        Raises:
            FileExistsError: a directory with something in it.
            ValueError: no transformers architecture has a place for the folded weights; and as :meth:`fold`.
            ArithmeticError: the logits disagree.

        Cost: passes over ``prompts`` by the model and by the one that was read back; every weight is written and read.
        """
        model = _loaded(model)
        with new_directory(directory) as temporary, alone(model.hf):
            self.require_fits(model)
            prompts = list(prompts) if prompts else check_prompts(model)
            undo, expected = self._written(model, prompts)
            try:
                note = write_model(model, temporary)
            finally:
                undo._write(model)
            found = every_logit(model, prompts, read_plainly(model, temporary))
            agreed = agreement(expected, found, model.dtype)
            _require(agreed, f"the exported model, as {type(model.hf).__name__} reads it,")
            changes = [*self._sentences(), *([note] if note else [])]
            checked = f"read by plain transformers, its and the hooked model's {agreed}"
            text = card(model, self.model, self.origins(), changes, checked, measures)
            (temporary / "README.md").write_text(text, encoding="utf-8")
        return Path(directory)

    def save(self, directory: str | Path) -> Path:
        """Write ``edit.safetensors`` and ``edit.json`` (format version, kind, weights that it is for, where it came
        from), replacing those of an earlier edit. No pickle."""
        record, tensors = self._record()
        return save_artefact(directory, "edit", record, tensors)

    def made_for(self, described: Mapping[str, Any]) -> ModelEdit:
        """The same edit, for other weights (:func:`interp.edits.identity.describe_model`; empty: for any)."""
        return replace(self, model=described)

    def origins(self) -> dict[str, Any]:
        """Where it came from: ``about``, and that of its parts."""
        return dict(self.about)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()!r}, of {self.model.get('name')!r})"

    def _record(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        own, tensors = self._files()
        record = {"kind": type(self).__name__, "summary": self.summary(), **own}
        return record | {"model": dict(self.model), "about": dict(self.about)}, tensors

    def _sentences(self) -> list[str]:
        return [self.summary()]

    def _written(self, model: Model, prompts: Sequence[Prompt] | None) -> tuple[ModelEdit, list[Tensor]]:
        """Write it and check it; the undo, and the hooked model's logits."""
        self._require_foldable()
        prompts = list(prompts) if prompts else check_prompts(model)
        with self._hooked(model, prompts):
            expected = every_logit(model, prompts)
        undo = self._write(model)
        try:
            _require(agreement(expected, every_logit(model, prompts), model.dtype), "the folded model")
        except BaseException:
            undo._write(model)
            raise
        return undo, expected


def require_bridge(bridge: Any, described: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a bridge of another geometry, or in compatibility mode."""
    if getattr(bridge, "compatibility_mode", False):
        raise ValueError(
            "this bridge is in compatibility mode: its weights and its stream are processed (centred, norms folded), "
            "and an edit made for the model itself would not fit. Expected one without enable_compatibility_mode()."
        )
    for name in ("n_layers", "n_heads", "d_head", "d_model"):
        expected, found = described.get(name), getattr(bridge.cfg, name)
        if expected is not None and expected != found:
            raise ValueError(
                f"this edit is of {described.get('name')!r} with {name}={expected}; the bridge has {name}={found}. "
                "Make it anew on its model."
            )


def require_hook_points(bridge: Any, names: Sequence[str]) -> None:
    """Raise ``ValueError`` for a hook point that the bridge does not have."""
    if missing := [name for name in names if name not in bridge.hook_dict]:
        raise ValueError(f"the bridge has no hook point {missing[0]!r}: the edit names a layer that it does not have.")


def _loaded(model: Model | nn.Module) -> Model:
    return load(model) if isinstance(model, nn.Module) else model


def _require(agreed: Agreement, what: str) -> None:
    if not agreed.holds:
        raise ArithmeticError(
            f"{what} and the hooked one disagree: {agreed}. Nothing was kept and the weights are as they were. Either "
            "the architecture does something between its weights and the stream that folding does not know (a scale, a "
            "norm), or parts of the edit act on one another. Use apply()."
        )

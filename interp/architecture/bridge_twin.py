"""``model.bridge`` kept in step with ``model.hf``: the copy that TransformerLens wraps shares every weight, but which
adapter is on, how strongly, and whether it was merged, is written on each module."""

from __future__ import annotations

from typing import Any

from torch import nn

from interp.architecture.adapters import WRAPPED, adapter_layers

_OF_MODULES = frozenset(vars(nn.Module()))  # what any module keeps for itself: children, weights, hooks


class Twin:
    """A model and its structural copy, module by module. ``follow`` before every pass of the bridge."""

    def __init__(self, hf: nn.Module, copied: nn.Module) -> None:
        own = dict(copied.named_modules())
        self._hf = hf
        self._pairs = [(name, module, own[name]) for name, module in hf.named_modules() if name in own]
        self._adapted = [name for name, _ in adapter_layers(hf)]
        around = tuple(f"{place}." for place in self._adapted)
        self._fixed = [
            (name, module)
            for name, module, _ in self._pairs
            if not name.startswith(around) or not _within_adapter(name, self._adapted)
        ]
        self._switches = [(ours, theirs) for name, ours, theirs in self._pairs if name in set(self._adapted)]
        self._shared: list[tuple[nn.Module, nn.Module, str]] = []

    def watch(self, bridge: nn.Module) -> None:
        """Follow before every pass that the bridge is called for, from now on."""
        self._shared = [
            (ours, theirs, key)
            for _, ours, theirs in self._pairs
            for key, weight in ours._parameters.items()
            if theirs._parameters.get(key) is weight and weight is not None and weight.device.type != "meta"
        ]
        bridge.register_forward_pre_hook(lambda module, args: self.follow(module))

    def follow(self, bridge: Any) -> None:
        """Take over adapters that were switched, scaled, added to adapted layers, disabled or merged, and weights that
        were put in the place of others. Raises ``ValueError`` where modules of the model were replaced."""
        now = dict(self._hf.named_modules())
        moved = [name for name, module in self._fixed if now.get(name) is not module]
        if moved or [name for name, _ in adapter_layers(self._hf)] != self._adapted:
            what = moved[0] if moved else "a layer that an adapter was added to, or taken from"
            raise ValueError(
                f"model.bridge is a copy of the model as it was loaded, and modules were replaced since ({what}): its "
                "numbers would be those of another model. Load it again: interp.load(model, tokenizer=tokenizer)."
            )
        for ours, theirs in self._switches:
            _take_over(ours, theirs)
        if not getattr(bridge, "compatibility_mode", False):  # there the weights are processed copies
            for ours, theirs, key in self._shared:
                if theirs._parameters.get(key) is not ours._parameters.get(key):
                    theirs._parameters[key] = ours._parameters[key]


def _within_adapter(name: str, adapted: list[str]) -> bool:
    """Whether a module is a part of an adapter, not of the model: those come and go."""
    around = [place for place in adapted if name.startswith(f"{place}.")]
    return any(name[len(place) + 1 :].split(".")[0] not in WRAPPED for place in around)


def _take_over(ours: nn.Module, theirs: nn.Module) -> None:
    """An adapter's switches and its own modules; what it is put around stays each model's own."""
    for key, value in vars(ours).items():
        if key not in _OF_MODULES and key != "forward":
            theirs.__dict__[key] = value
    for key, child in ours._modules.items():
        if key not in WRAPPED:
            theirs._modules[key] = child
    for key in [key for key in theirs._modules if key not in ours._modules and key not in WRAPPED]:
        del theirs._modules[key]

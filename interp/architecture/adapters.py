"""Which PEFT adapters compute: read off the layers themselves, so that a switch, a scale or a merge is seen however
it was made (through the PEFT wrapper, through transformers, or by hand)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from interp.records import hash_json

WRAPPED = ("base_layer", "original_module")  # the names under which an adapter keeps what it was put around


def adapter_layers(hf: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that hold adapters, with their names."""
    for name, module in hf.named_modules():
        if hasattr(type(module), "adapter_layer_names") and hasattr(module, "active_adapters"):
            yield name, module


def describe_adapters(hf: nn.Module) -> list[dict[str, Any]]:
    """The adapters that compute now, in the order of their names: what an identity needs of them beside their weights.

    Each has ``name``, ``kind`` ("lora", "ia3", ...), ``layers`` (how many hold it), ``scaling`` (the different ones),
    ``merged`` (it acts through the weights it was added to) and ``sha256`` of where it acts, how strongly, and in which
    order. Empty: none, or all are switched off.
    """
    found: dict[str, dict[str, Any]] = {}
    places: dict[str, list[Any]] = {}
    for place, layer in adapter_layers(hf):
        merged = list(getattr(layer, "merged_adapters", None) or ())
        computing = computing_adapters(layer)
        for name in computing:
            scaling = _of(getattr(layer, "scaling", None), name)
            about = found.setdefault(
                name, {"name": name, "kind": _kind(layer), "layers": 0, "scaling": set(), "merged": False}
            )
            about["layers"] += 1
            about["merged"] = about["merged"] or name in merged
            if isinstance(scaling, (int, float)):
                about["scaling"].add(round(float(scaling), 9))
            variant = type(_of(getattr(layer, "lora_variant", None), name)).__name__
            state = [place, type(layer).__name__, computing, name in merged, str(scaling), variant]
            places.setdefault(name, []).append(state)
    return [
        found[name] | {"scaling": sorted(found[name]["scaling"]), "sha256": hash_json(places[name])}
        for name in sorted(found)
    ]


def adapters_off(hf: nn.Module) -> list[str]:
    """The adapters that are there and do not compute, by name."""
    there = {name for _, layer in adapter_layers(hf) for name in _available(layer)}
    return sorted(there - {name for _, layer in adapter_layers(hf) for name in computing_adapters(layer)})


def computing_adapters(layer: nn.Module) -> list[str]:
    """The adapters that a layer adds to what it wraps, in its order; those merged into it where some are."""
    if getattr(layer, "disable_adapters", False):
        return []
    merged = list(getattr(layer, "merged_adapters", None) or ())
    there = _available(layer)
    return [name for name in (merged or list(layer.active_adapters)) if name in there or name in merged]


def idle_tensors(hf: nn.Module) -> list[str]:
    """Beginnings of the names of tensors that adapters hold and no pass reads: of those switched off, and of those that
    were merged into the weights."""
    return [
        f"{place}.{held}.{name}"
        for place, layer in adapter_layers(hf)
        for held in (getattr(layer, "adapter_layer_names", None) or ())
        for name in _keys(getattr(layer, held, None))
        if name not in computing_adapters(layer) or name in (getattr(layer, "merged_adapters", None) or ())
    ]


def _available(layer: nn.Module) -> set[str]:
    names = getattr(layer, "adapter_layer_names", None) or ()
    return {key for name in names for key in _keys(getattr(layer, name, None))}


def _keys(held: Any) -> list[str]:
    return list(held.keys()) if isinstance(held, (nn.ModuleDict, nn.ParameterDict)) else []


def _of(held: Any, name: str) -> Any:
    return held.get(name) if isinstance(held, dict) else None


def _kind(layer: nn.Module) -> str:
    parts = type(layer).__module__.split(".")
    return parts[2] if parts[:2] == ["peft", "tuners"] and len(parts) > 2 else type(layer).__name__

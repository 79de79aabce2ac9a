"""Where a number came from: hashes of weights and text, versions, time."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def hash_text(text: str) -> str:
    """SHA-256 of the UTF-8 text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value (keys sorted, no spaces)."""
    return hash_text(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def hash_weights(model: nn.Module, without: Sequence[str] = ()) -> str:
    """SHA-256 over names, shapes, types and bytes of all parameters and persistent buffers, in order of name, except
    those whose names begin with one of ``without``.

    Weights that accelerate keeps on the CPU or the disk are read from there: the same model has the same hash. It reads
    everything; :func:`interp.architecture.weight_hash.weights_sha256` does only if something changed.
    """
    import torch

    digest = hashlib.sha256()
    offloaded = offloaded_weights(model)
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor) or any(name == p or name.startswith(f"{p}.") for p in without):
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        tensor = offloaded[name]() if name in offloaded else tensor
        if tensor.device.type == "meta":  # without data: shape and name still count
            continue
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def offloaded_weights(model: nn.Module) -> dict[str, Callable[[], torch.Tensor]]:
    """How to read each weight that an accelerate hook holds, by its name in the model."""
    found = {}
    for module_name, module in model.named_modules():
        held = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
        if held is None:
            continue
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.device.type == "meta":
                found[f"{module_name}.{name}".lstrip(".")] = partial(held.__getitem__, name)
    return found


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("headscope", "torch", "transformers", "transformer-lens", "numpy", "scipy", "safetensors")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")

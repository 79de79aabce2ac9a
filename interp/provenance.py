"""Where a number came from: hashes of weights and text, versions, time."""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch
from torch import nn


def hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value (keys sorted, no spaces)."""
    return hash_text(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all parameters and persistent buffers, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.device.type == "meta":  # offloaded to disk: shape and name still count
            continue
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


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
    return datetime.now(UTC).isoformat(timespec="seconds")

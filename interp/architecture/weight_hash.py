"""The hash of a model's weights, read again only when something may have changed.

A tensor that was written in place counts up torch's version of it; a write through ``.data`` does not, and a new tensor
may lie where the old one was. So what is compared before the hash is believed holds both: where every tensor lies and
its version, and a sum of its content: of all of it on an accelerator or in a small model, else of one element in every
row and in every column.
"""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interp.architecture.adapters import describe_adapters, idle_tensors
from interp.records import hash_json, hash_weights, offloaded_weights

WHOLE_BYTES = 2**28  # of a model on the CPU: up to this size all of it is summed, which takes about 0.1 s
_SMALL = 2**16  # elements of a tensor that are always read whole
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_KNOWN: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()


def weights_sha256(hf: nn.Module) -> str:
    """SHA-256 of the weights that passes read: :func:`interp.records.provenance.hash_weights` of all tensors but those
    of adapters that are switched off, and how the adapters that compute are scaled and combined.

    Costs about a second for each GB where something changed. Where nothing did, 0.05 to 0.2 s for 7B parameters on a
    CPU, less on an accelerator. On a CPU, in a model of more than 256 MiB, single elements that were written through
    ``.data`` or NumPy can be missed; a row, a column, or any other write can't.
    """
    token = change_token(hf)
    known = _KNOWN.get(hf)
    if known is None or known[0] != token:
        adapters = describe_adapters(hf)
        found = hash_weights(hf, idle_tensors(hf))
        found = hash_json([found, adapters]) if adapters else found
        _KNOWN[hf] = known = (token, found)
    return known[1]


def change_token(hf: nn.Module) -> str:
    """What differs as soon as a weight was changed, moved or switched: cheap to compute, meaningful in this process."""
    tensors = _tensors(hf)
    whole = sum(t.nbytes for _, t in tensors if t.device.type == "cpu") <= WHOLE_BYTES
    digest = hashlib.blake2b(hash_json([describe_adapters(hf), idle_tensors(hf)]).encode(), digest_size=16)
    read: dict[torch.device, list[Tensor]] = {}
    for name, tensor in tensors:
        try:
            version = tensor._version
        except RuntimeError:  # an inference tensor has none
            version = -1
        place = (name, tuple(tensor.shape), tensor.dtype, tensor.device, tensor.stride(), version, _address(tensor))
        digest.update(repr(place).encode())
        if tensor.device.type != "meta" and tensor.numel():
            read.setdefault(tensor.device, []).extend(_read(tensor, whole or tensor.device.type != "cpu"))
    for parts in read.values():  # one copy for each device
        digest.update(torch.cat(parts).cpu().numpy())
    return digest.hexdigest()


def _tensors(hf: nn.Module) -> list[tuple[str, Tensor]]:
    """All that the hash reads; weights that accelerate keeps elsewhere as they lie there."""
    held = offloaded_weights(hf)
    found: list[tuple[str, Any]] = [
        (name, held[name]() if name in held else tensor)
        for name, tensor in hf.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor)
    ]
    return [(name, t.detach()) for name, t in found]


def _address(tensor: Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # a tensor subclass or a meta tensor without storage of its own
        return 0


def _read(tensor: Tensor, whole: bool) -> list[Tensor]:
    """Bytes of a tensor's content, on its device: some elements, and the sum over all where ``whole``."""
    flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor.contiguous().reshape(-1)
    chosen = flat[_crossing(tensor)] if flat.numel() > _SMALL else flat
    parts = [chosen.contiguous().view(torch.uint8)]
    if whole and flat.numel() > _SMALL:
        parts.append(_sum(flat).reshape(1).view(torch.uint8))
    return parts


def _sum(flat: Tensor) -> Tensor:
    """Of the content as integers: no rounding, so any one change changes it."""
    n_bytes = flat.numel() * flat.element_size()
    size = 8 if n_bytes % 8 == 0 and flat.data_ptr() % 8 == 0 else flat.element_size()
    if size not in _INTEGERS:  # complex numbers
        return flat.view(torch.uint8).sum(dtype=torch.int64)
    return flat.view(_INTEGERS[size]).sum(dtype=torch.int64)


def _crossing(tensor: Tensor) -> Tensor:
    """Positions in the flat tensor that meet every row and every column of it."""
    n_columns = tensor.shape[-1]
    n_rows = tensor.numel() // n_columns
    i = torch.arange(max(n_rows, n_columns), device=tensor.device)
    return (i % n_rows) * n_columns + i % n_columns

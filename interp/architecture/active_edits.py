"""Which edits act on a model now: every ``edit.apply(model)`` block that is open, in the order in which they were
entered. Numbers that are read inside are of the edited model, and say so."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn


class Acting(Protocol):
    """What an edit must tell of itself to be named."""

    def summary(self) -> str: ...

    def _record(self) -> tuple[dict[str, Any], dict[str, Tensor]]: ...


_OPEN: WeakKeyDictionary[nn.Module, list[tuple[int, Acting]]] = WeakKeyDictionary()  # the thread, and its edit
_ORIGINS = ("model", "about")  # of a record: which weights it is for and where it came from, not what it does


@contextmanager
def acting(hf: nn.Module, edit: Acting) -> Iterator[None]:
    """While active, the edit is one of those that act on the model in this thread. Hooks know their thread too."""
    here, thread = _OPEN.setdefault(hf, []), threading.get_ident()
    here.append((thread, edit))
    try:
        yield
    finally:
        place = max(i for i, (of, other) in enumerate(here) if other is edit and of == thread)
        del here[place]


def active_edits(hf: nn.Module) -> list[dict[str, str]]:
    """The edits that act in this thread, in order: ``kind``, ``summary`` (a line for people) and ``sha256`` of what
    they do."""
    mine = [edit for thread, edit in tuple(_OPEN.get(hf, ())) if thread == threading.get_ident()]
    return [{"kind": type(edit).__name__, "summary": edit.summary(), "sha256": hash_edit(edit)} for edit in mine]


def hash_edit(edit: Acting) -> str:
    """SHA-256 of what an edit does: its record without its origin, and its tensors."""
    record, tensors = edit._record()
    digest = hashlib.sha256(json.dumps(_without_origins(record), sort_keys=True, default=str).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _without_origins(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_origins(v) for k, v in value.items() if k not in _ORIGINS}
    return [_without_origins(v) for v in value] if isinstance(value, (list, tuple)) else value

"""Compiled models: how they are recognised, and how what they compiled is left aside while hooks are there.

A forward that ``torch.compile`` has traced never calls hooks that are registered later (pytorch#117758), and one that
is traced while hooks are there keeps them for good. So compiled code is not run, and nothing is compiled, while
anything is attached to a model: everything runs as the Python that it was compiled from.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn


def why_compiled(hf: nn.Module) -> str:
    """Empty for a model of plain Python; or what in it is compiled, and what to load instead."""
    for name, module in hf.named_modules():
        if (how := _mark(module)) is None:
            continue
        where = f"its {name}" if name else "it"
        original = ", or give its original: model._orig_mod" if name == "" and hasattr(module, "_orig_mod") else ""
        return (
            f"{type(hf).__name__}: {where} is {how}. Compiled code calls no hooks, so edits and captures would do "
            f"nothing without a word. Load the model before it is compiled{original}; it may be compiled afterwards, "
            "and is then edited and read as plain Python, at that speed."
        )
    return ""


def _mark(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "a TorchScript module (torch.jit.script or trace)"
    if "_orig_mod" in module._modules:
        return "wrapped by torch.compile"
    if module._compiled_call_impl is not None:
        return "compiled (module.compile())"
    forward: Any = module.forward
    while forward is not None:
        if isinstance(forward, torch.jit.ScriptFunction):
            return "a TorchScript function"
        inner = getattr(forward, "_torchdynamo_orig_callable", None)
        if inner is not None and not getattr(forward, "_torchdynamo_disable", False):
            return "compiled (its forward was given to torch.compile)"
        forward = inner or getattr(forward, "__wrapped__", None)
    return None


class _Python:
    """While anybody has entered it, ``torch.compile``'s code is not run and nothing is compiled, in this process."""

    def __init__(self) -> None:
        self._lock, self._n, self._stance = threading.Lock(), 0, None

    def enter(self) -> None:
        with self._lock:
            if self._n == 0:
                self._stance = torch.compiler.set_stance("force_eager")
            self._n += 1

    def leave(self) -> None:
        with self._lock:
            self._n -= 1
            if self._n == 0:
                self._stance.__exit__(None, None, None)  # back to what it was
                self._stance = None


python_only = _Python()

"""What else was put on a model: hooks and methods that neither we nor the libraries it is made of put there, dropout
that is switched on, modules that were exchanged. Named, or refused where no number could be had twice."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from torch import nn

from interp.architecture.active_edits import active_edits
from interp.architecture.adapters import WRAPPED, adapter_layers
from interp.architecture.hooks import Hook, switched_off
from interp.architecture.turns import turn_of

if TYPE_CHECKING:
    from interp.architecture.hooks import Hooked

_LIBRARIES = ("interp", "probes", "torch", "transformers", "transformer_lens", "peft", "accelerate", "bitsandbytes")
_SHARES = ("attention_dropout", "attn_dropout", "dropout", "activation_dropout")


def foreign_parts(hf: nn.Module) -> list[str]:
    """Hooks and replaced methods that are neither ours nor of the libraries the model is made of, in words."""
    found: list[str] = []
    seen: set[type] = set()
    for name, module in hf.named_modules():
        for kind, hooks in (("pre-hook", module._forward_pre_hooks), ("hook", module._forward_hooks)):
            found += [f"{kind} {_called(h)} on {name or 'the model'}" for h in hooks.values() if _is_foreign(h)]
        for key, value in vars(module).items():
            if isinstance(value, (FunctionType, MethodType, partial)) and _is_foreign(value):
                found.append(f"{key} of {name or 'the model'} replaced by {_called(value)}")
        for kind in type(module).__mro__:
            own = vars(kind).get("forward")
            if kind not in seen and own is not None and _is_foreign(own) and own.__module__ != kind.__module__:
                found.append(f"{kind.__name__}.forward replaced by {_called(own)}")
            seen.add(kind)
    return found


def require_no_dropout(hf: nn.Module) -> None:
    """Raise ``ValueError`` if a module drops something at random: its numbers would differ from pass to pass."""
    for name, module in hf.named_modules():
        if not module.training:
            continue
        shares = [getattr(module, key, 0) for key in _SHARES]
        shares += [module.p] if isinstance(module, nn.modules.dropout._DropoutNd) else []
        if any(isinstance(share, float) and share > 0 for share in shares):
            raise ValueError(
                f"the model is in training mode: {name or type(module).__name__} ({type(module).__name__}) drops a "
                "part of what passes through it at random, so no number could be had twice. Call model.hf.eval() first."
            )


def require_in_place(model: Hooked) -> None:
    """Raise ``ValueError`` if modules that scans act on are no longer what the model computes with: an adapter was
    put around them, or merged and unloaded, after the model was loaded."""
    there = set(map(id, model.hf.modules()))
    inside = {id(getattr(layer, name, None)) for _, layer in adapter_layers(model.hf) for name in WRAPPED}
    for layer, block in enumerate(model.components.blocks):
        for module in (block.module, block.attention, block.out_projection):
            if module is not None and (id(module) not in there or id(module) in inside):
                raise ValueError(
                    f"a module of layer {layer} ({type(module).__name__}) is no longer a part of {model.name}, or was "
                    "put inside another, after the model was loaded (by get_peft_model, add_adapter, unload or "
                    "merge_and_unload, say). Load it again: interp.load(model, tokenizer=tokenizer)."
                )


@contextmanager
def without_applied_edits(hf: nn.Module) -> Iterator[None]:
    """While active, what open ``edit.apply`` blocks attached to the model is off; what others put there acts."""
    session = turn_of(hf).session if active_edits(hf) else None
    off = [hook for hook in session.hooks if isinstance(hook, Hook) and not hook.is_off] if session else []
    with switched_off(off):
        yield


def _module_of(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", None) or type(function).__module__)


def _is_foreign(function: Any) -> bool:
    return _module_of(function).split(".")[0] not in _LIBRARIES


def _called(function: Any) -> str:
    """A function's name, with the numbers and words that it was made with: the same on every machine."""
    given: list[Any] = []
    while isinstance(function, partial):
        given += [*function.args, *sorted(function.keywords.items())]
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    plain = getattr(function, "__func__", function)
    if isinstance(plain, FunctionType):
        held = inspect.getclosurevars(plain).nonlocals
        given += sorted((key, value) for key, value in held.items() if isinstance(value, (str, int, float)))
    elif not isinstance(plain, type) and hasattr(plain, "__dict__"):
        given += sorted((k, v) for k, v in vars(plain).items() if isinstance(v, (str, int, float)))
    shown = ", ".join(str(value) for value in given if isinstance(value, (str, int, float, tuple)))
    return f"{_module_of(function)}.{name}" + (f" ({shown[:120]})" if shown else "")

"""A model's twin in another precision, for what may be computed roughly first."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from interp.architecture import alone
from interp.models.loading import load
from interp.models.model import Model


def twin_in(model: Model, dtype: torch.dtype) -> Model:
    """The same model with its floating-point weights in ``dtype``. Buffers (rotary frequencies) stay as they are, as
    they do in a model that is loaded so.

    Costs a copy of the weights in ``dtype``, and the checks of a load. Raises ``ValueError`` for a model with edits,
    adapters' hooks or quantised weights, of which a copy would be another model.
    """
    hf = model.hf
    kinds = {p.dtype for p in hf.parameters()}
    if kinds != {model.dtype} or not model.dtype.is_floating_point:
        raise ValueError(f"{model.name} has weights in {sorted(map(str, kinds))}; expected one precision alone.")
    if any(m._forward_hooks or m._forward_pre_hooks for m in hf.modules()) or hasattr(hf, "hf_device_map"):
        raise ValueError(
            f"{model.name} has edits or hooks on it, or is spread over devices; a twin in {dtype} would be without. "
            "Take them off, or load the model in that precision."
        )
    with alone(hf), torch.no_grad():
        memo: dict[int, Any] = {id(p): nn.Parameter(p.to(dtype), requires_grad=False) for p in hf.parameters()}
        copied = copy.deepcopy(hf, memo)
    copied.config.dtype = dtype
    return load(copied, tokenizer=model.tokenizer, chat=model.chat)

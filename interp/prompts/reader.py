"""What prompts are built for: the part of a loaded model that reads text and pictures, without its passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn


class Reader(Protocol):
    """The tokenizer, the processor and the limits of a model; :class:`interp.Model` is one."""

    @property
    def name(self) -> str: ...

    @property
    def hf(self) -> nn.Module: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def processor(self) -> Any: ...

    @property
    def chat(self) -> bool: ...

    @property
    def template_arguments(self) -> Mapping[str, Any]: ...

    @property
    def renderings(self) -> dict[Any, Any]: ...

    @property
    def has_vision(self) -> bool: ...

    @property
    def image_token_id(self) -> int: ...

    @property
    def context_length(self) -> int | None: ...

    @property
    def n_tokens(self) -> int: ...

    @property
    def n_logits(self) -> int: ...

"""TransformerLens adapters for vision-language architectures that it has none for.

InstructBLIP, BLIP-2 and PaliGemma hold language models that TransformerLens knows, at another place in the module tree;
SmolVLM and Qwen2-VL are laid out as Idefics3 and Qwen2.5-VL are. Each adapter is the known one with other names, so
hook points are those of the language model, and of nothing else. They are registered in TransformerLens's own factory:
a bridge of these models is a bridge like any other.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from torch import nn
from transformer_lens.factories.architecture_adapter_factory import (
    SUPPORTED_ARCHITECTURES,
    ArchitectureAdapterFactory,
)

_LAID_OUT_AS = {
    "SmolVLMForConditionalGeneration": "Idefics3ForConditionalGeneration",
    "Qwen2VLForConditionalGeneration": "Qwen2_5_VLForConditionalGeneration",
}
# Where the names of a language model's own adapter begin in the whole model.
_LANGUAGE_MODEL = {
    "InstructBlipForConditionalGeneration": (("", "language_model."),),
    "Blip2ForConditionalGeneration": (("", "language_model."),),
    "PaliGemmaForConditionalGeneration": (("model.", "model.language_model."),),
}

OURS = (*_LAID_OUT_AS, *_LANGUAGE_MODEL)


def register_adapter_for(hf: nn.Module) -> None:
    """Give TransformerLens's factory an adapter for the architecture of ``hf``, if it is one of ``OURS``.

    Raises ``ValueError`` for an InstructBLIP or BLIP-2 around an encoder-decoder (Flan-T5), whose answer is read by
    another stack than the one that reads the picture.
    """
    architecture = type(hf).__name__
    if architecture not in OURS:
        return
    if architecture in _LAID_OUT_AS:
        adapter = _text_only_hooks(SUPPORTED_ARCHITECTURES[_LAID_OUT_AS[architecture]])
    else:
        inner = getattr(hf, "language_model", None)
        inner = hf.base_model.language_model if inner is None else inner
        if getattr(inner.config, "is_encoder_decoder", False):
            raise ValueError(
                f"{architecture} around {type(inner).__name__}, an encoder-decoder, reads the picture in one stack and "
                "answers in another, which scans do not cover. Use a version with a decoder alone (Vicuna, OPT)."
            )
        known = type(inner).__name__
        known = known if known.endswith("ForCausalLM") else f"{known.removesuffix('Model')}ForCausalLM"
        if known not in SUPPORTED_ARCHITECTURES:
            raise ValueError(f"{architecture} around {known}: TransformerLens has no adapter for {known}.")
        adapter = _around(SUPPORTED_ARCHITECTURES[known], _LANGUAGE_MODEL[architecture])
    SUPPORTED_ARCHITECTURES[architecture] = adapter
    ArchitectureAdapterFactory.register_adapter(architecture, adapter)


@contextmanager
def torchvision_not_asked_for(adapter: type) -> Iterator[None]:
    """While active, an adapter (Qwen-VL's) does not refuse a machine without torchvision, which only a processor that
    TransformerLens would load itself needs."""
    before = adapter.required_libraries
    adapter.required_libraries = [library for library in before if library != "torchvision"]
    try:
        yield
    finally:
        adapter.required_libraries = before


@lru_cache
def _text_only_hooks(known: type) -> type:
    """The adapter without its vision components."""

    class Adapter(known):
        def __init__(self, cfg: Any) -> None:
            super().__init__(cfg)
            for name in ("vision_encoder", "vision_projector"):
                self.component_mapping.pop(name, None)

    Adapter.__name__ = Adapter.__qualname__ = f"{known.__name__}ForAnother"
    return Adapter


@lru_cache
def _around(known: type, renamed: tuple[tuple[str, str], ...]) -> type:
    """The language model's adapter, its names beginning elsewhere."""

    class Adapter(known):
        def __init__(self, cfg: Any) -> None:
            super().__init__(cfg)
            self.cfg.is_multimodal = True
            for old, new in renamed:
                self._reprefix_components(old, new)

        def prepare_model(self, hf_model: nn.Module) -> None:
            super().prepare_model(hf_model)
            arguments = list(inspect.signature(type(hf_model).forward).parameters.values())[1:]
            required = [a.name for a in arguments if a.default is a.empty and a.kind is a.POSITIONAL_OR_KEYWORD]
            required = [name for name in required if name != "input_ids"]
            if not required:
                return
            original = hf_model.forward

            def forward(input_ids: Any = None, **kwargs: Any) -> Any:  # a bridge hands token ids on first
                return original(**(dict.fromkeys(required) | kwargs | {"input_ids": input_ids}))

            hf_model.forward = forward

    Adapter.__name__ = Adapter.__qualname__ = f"{known.__name__}WithVision"
    return Adapter

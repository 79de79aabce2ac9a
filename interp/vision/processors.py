"""The processor of a vision-language model, read from its directory, with Pillow's image processors.

transformers' own road ends where torchvision is not installed: five families' processors hold a video processor, which
needs it also if no video is ever seen. Here such a processor is put together without one. Nothing is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import transformers


def load_processor(location: str, **options: Any) -> Any:
    """The processor saved at a directory or hub id. ``options`` go to transformers (revision, local_files_only, ...).

    Raises ``ValueError`` if there is none, or it can't be read.
    """
    try:
        kind = _processor_class(location, options)
        videos = kind is not None and "video_processor" in kind.get_attributes()
        if not videos or transformers.utils.is_torchvision_available():
            return transformers.AutoProcessor.from_pretrained(location, backend="pil", **options)
        with _numbers_without_words(kind):
            return for_pictures_only(kind).from_pretrained(location, backend="pil", **options)
    except (OSError, ValueError, TypeError, ImportError, AttributeError) as error:
        raise ValueError(
            f"{location} has no processor that can be read ({str(error).splitlines()[0]}). Save the model's processor "
            "there (processor.save_pretrained), or give processor=."
        ) from error


@lru_cache
def for_pictures_only(kind: type) -> type:
    """A processor class without its video processor, which is given as None or not at all."""

    class PicturesOnly(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [part for part in kind.get_attributes() if part != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            return super().from_args_and_dict([*args, None], processor_dict, **kwargs)

        def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
            # SmolVLM's own asks the video processor
            return transformers.ProcessorMixin.apply_chat_template(self, *args, **kwargs)

    PicturesOnly.__name__ = PicturesOnly.__qualname__ = kind.__name__
    return PicturesOnly


def _processor_class(location: str, options: dict[str, Any]) -> type | None:
    """transformers' class; None for one of the repository's own."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    config = transformers.AutoConfig.from_pretrained(location, **options)
    settings, _ = transformers.ProcessorMixin.get_processor_dict(location, **options)
    name = settings.get("processor_class") or PROCESSOR_MAPPING_NAMES.get(config.model_type)
    if name is None:
        raise ValueError(f"transformers knows no processor for {config.model_type}")
    return getattr(transformers, name, None)


@contextmanager
def _numbers_without_words(kind: type) -> Iterator[None]:
    """SmolVLM's processor is not made without the package num2words, which only videos need."""
    module = sys.modules[kind.__module__]
    if getattr(module, "num2words", "no such name") is not None:
        yield
        return
    module.num2words = str
    try:
        yield
    finally:
        module.num2words = None

"""Where an edited meaning goes through the model."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.visual_semantics.tracing.prompts import in_words as in_words
    from probes.visual_semantics.tracing.result import VisualTraces as VisualTraces
    from probes.visual_semantics.tracing.roles import word_in as word_in
    from probes.visual_semantics.tracing.tracing import trace_pairs as trace_pairs

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

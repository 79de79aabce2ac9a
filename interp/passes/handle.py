"""A loaded model without its verbs: what a pass needs to know of it, and what it may be given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from interp.architecture import (
    Components,
    UnsupportedAttention,
    alone,
    attached,
    counting,
    input_device,
    output_of,
    run_pass,
)
from interp.passes.lengths import context_length
from interp.prompts import Batch, Prompt, picture_template, require_fits, template_used
from interp.vision import ImageEncoder


class NonFiniteLogitsError(FloatingPointError):
    """The model gave NaN or infinite logits; the message names the layer where they first appear."""


@dataclass(frozen=True, eq=False)
class Handle:
    """A loaded model as the passes know it: modules, geometry, limits. :class:`interp.Model` adds what it does."""

    name: str
    hf: nn.Module
    bridge: Any
    tokenizer: Any
    components: Components
    source: dict[str, Any] = field(default_factory=dict)
    attention_refusal: str = ""  # why attention can't be read and fanned out; empty: it can
    processor: Any = None
    encoder: ImageEncoder | None = None  # None: no vision part
    chat: bool = True
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    renderings: dict[Any, Any] = field(default_factory=dict, repr=False)  # of the template, so that its date stays one

    @property
    def has_vision(self) -> bool:
        """Whether it reads pictures."""
        return self.encoder is not None

    @property
    def image_token_id(self) -> int:
        """The token that stands where image features go."""
        config = self.hf.config
        return int(getattr(config, "image_token_id", None) or config.image_token_index)

    def forget_images(self) -> None:
        """Drop the encoded pictures that are kept (256 MiB at most), so that each is encoded anew."""
        if self.encoder is not None:
            self.encoder.forget()

    @property
    def n_layers(self) -> int:
        """Transformer blocks."""
        return self.components.n_layers

    @property
    def n_heads(self) -> int:
        """Query heads of each layer."""
        return self.components.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Key/value heads of each layer; each serves n_heads / n_kv_heads query heads."""
        return self.components.n_kv_heads

    @property
    def d_head(self) -> int:
        """Size of a head (not always d_model / n_heads)."""
        return self.components.d_head

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.components.d_model

    @property
    def device(self) -> torch.device:
        """Where token ids are sent: the device of the embedding (sharded models move activations themselves)."""
        return input_device(self.components.embedding)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that the (language) model computes in."""
        weights = (*self.components.embedding.parameters(), *self.hf.parameters())
        return next((p.dtype for p in weights if p.is_floating_point()), torch.float32)

    @property
    def is_quantized(self) -> bool:
        """Whether transformers loaded it quantised: some tolerances are then wider."""
        return bool(getattr(self.hf, "is_quantized", False))

    @property
    def context_length(self) -> int | None:
        """The longest prompt in tokens, where the config says so."""
        return context_length(self.hf.config)

    @property
    def n_tokens(self) -> int:
        """How many token ids it reads: the embedding's rows (the config may name another number)."""
        return self._rows(self.components.embedding, "num_embeddings")

    @property
    def n_logits(self) -> int:
        """How many tokens it gives logits of."""
        return self._rows(self.components.unembedding, "out_features")

    def _rows(self, module: nn.Module, name: str) -> int:
        return int(getattr(module, name, None) or self.hf.config.get_text_config().vocab_size)

    @property
    def chat_template(self) -> str | None:
        """The chat template: the processor's, if it has one, or the tokenizer's; None for a base model. Of several that
        have names, the one called "default"."""
        return picture_template(self.processor) or template_used(self.tokenizer)

    def inputs(self, prompts: Sequence[Prompt]) -> Batch:
        """What ``hf``'s forward takes for whole prompts; :class:`interp.Model` makes it."""
        raise NotImplementedError

    def require_attention(self) -> None:
        """Raise ``UnsupportedAttention`` if this architecture's attention can't be read."""
        if self.attention_refusal:
            raise UnsupportedAttention(self.attention_refusal)

    def counts_rows_and_positions(self) -> bool:
        """Whether an edit is active that knows rows or positions as those of one plain pass over whole prompts
        (``edit_heads``, a steering of the prompt alone): passes that share a prefix would mislead it."""
        return bool(counting(self.hf))

    def alone(self) -> alone:
        """A context in which no other thread runs, edits or changes the model through this package: it waits. What
        this package does takes its turn by itself; passes of the bare ``hf`` beside other threads need this."""
        return alone(self.hf)

    def last_logits_only(self) -> dict[str, int]:
        """The argument that tells transformers to unembed only the last position, where the model takes it."""
        inner = getattr(self.hf, "language_model", None)  # the BLIP family hands other arguments on to it
        takes_it = any("logits_to_keep" in inspect.signature(type(m).forward).parameters for m in (self.hf, inner) if m)
        return {"logits_to_keep": 1} if takes_it else {}

    def require_fits(self, prompts: Sequence[Prompt]) -> None:
        """Raise ``ValueError`` for a prompt longer than the context, with (answer) tokens outside the vocabulary, with
        a picture that the model can't see, or without one that it expects."""
        require_fits(self, prompts)

    def require_finite(self, logits: Tensor, prompts: list[Prompt]) -> None:
        """Raise ``NonFiniteLogitsError`` naming the first bad prompt and layer, if any logit is NaN or infinite."""
        is_bad = (~torch.isfinite(logits)).flatten(1).any(1).tolist()  # the one wait for the device
        if any(is_bad):
            prompt = prompts[is_bad.index(True)]
            raise NonFiniteLogitsError(
                f"{self.name} gave NaN or infinite logits on prompt {prompt.id or prompt.text[:60]!r}; the first "
                f"non-finite activation is {first_nonfinite(self, prompt)}. Expected finite logits: check "
                "the weights, or load with dtype=torch.float32 if they overflow in half precision."
            )

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {type(self.hf).__name__}, {self.n_layers} layers x {self.n_heads} heads "
            f"({self.n_kv_heads} kv), d_model={self.d_model}, {self.dtype}, {self.device})"
        )


def first_nonfinite(model: Handle, prompt: Prompt) -> str:
    """Where NaN or infinity first appears in a forward pass: "the output of layer 3", "the logits", ..."""
    seen = [] if prompt.image is None else model.encoder.features(prompt.image).parts
    if not all(torch.isfinite(part).all() for part in seen):
        return "what the vision tower and the projector make of the picture"
    found: list[str] = []

    def look(place: str, tensor: Any) -> None:
        if not found and isinstance(tensor, Tensor) and not torch.isfinite(tensor).all():
            found.append(place)

    parts = [(model.components.embedding, "the output of the embedding")]
    for layer, block in enumerate(model.components.blocks):
        parts += [
            (block.attention, f"the attention of layer {layer}"),
            (block.module, f"the output of layer {layer}"),
        ]
    if model.components.final_norm is not None:
        parts += [(model.components.final_norm, "the final norm")]
    hooks = [output_of(module, partial(look, place), "freely") for module, place in parts]
    with torch.no_grad(), attached(model, hooks):
        run_pass(model, {**model.inputs([prompt]).inputs, "use_cache": False})
    return found[0] if found else "the logits"

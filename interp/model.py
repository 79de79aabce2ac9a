"""One object around a language model: the plain transformers model, its TransformerLens bridge, its tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp import prompts as _prompts
from interp.attention import UnsupportedAttention
from interp.chat_templates import System, picture_template, template_used, told, writes_date
from interp.components import Components, input_device
from interp.door import made_by, public
from interp.hooks import attached, counting, output_of, run_pass
from interp.identity import describe_computation
from interp.images import ImageLike
from interp.looks_ahead import looks_ahead
from interp.pass_lengths import context_length
from interp.prompts import Batch, Prompt, SpanLike
from interp.provenance import hash_text
from interp.shared_prefix import in_order, logits_by_batch
from interp.turns import alone
from interp.vision_encoder import ImageEncoder
from interp.vision_features import whole_inputs
from interp.weight_hash import weights_sha256


class NonFiniteLogitsError(FloatingPointError):
    """The model gave NaN or infinite logits; the message names the layer where they first appear."""


@made_by("interp.load(name)")
@dataclass(frozen=True, eq=False)
class Model:
    """A causal language model, or a vision-language model, ready for scans.

    ``hf`` is the transformers model, as it was given: scans run on it, with transformers' fused attention.
    ``bridge`` is TransformerLens's ``TransformerBridge`` around a structural copy that *shares every weight* with
    ``hf``, so that hook names, ``run_with_cache`` and ``run_with_hooks`` work as always and ``hf`` stays unwrapped:
    wrapping changes a model in place. A change of a weight is seen by both, and an adapter that is switched, scaled,
    disabled or merged too: the bridge looks before every pass.

    Of a vision-language model, layers, heads and hook points are those of its *language* model; ``processor`` prepares
    its prompts with pictures.

    ``chat`` and ``template_arguments`` are how its prompts are written unless a prompt says otherwise
    (:meth:`asking`); every study that builds prompts follows them.
    """

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

    def inputs(self, prompts: Sequence[Prompt]) -> Batch:
        """What ``hf``'s forward takes for whole prompts, padded on the left, their encoded pictures included."""
        return whole_inputs(self, prompts)

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

    def asking(self, *, chat: bool | None = None, template_arguments: Mapping[str, Any] | None = None) -> Model:
        """The same model, whose prompts are written otherwise: without a chat template (``chat=False``), or with other
        ``template_arguments``, which are added to those there are. It shares everything, weights and hooks included.

        Raises ``ValueError`` for an argument that the template never reads.

        >>> quiet = model.asking(template_arguments={"enable_thinking": False})
        >>> base = model.asking(chat=False)
        """
        changed = replace(
            self,
            chat=self.chat if chat is None else bool(chat),
            template_arguments=told(self.template_arguments, template_arguments),
        )
        if template_arguments:
            if not changed.chat:
                raise ValueError(
                    f"template_arguments={dict(template_arguments)!r} were given with chat=False: no template reads "
                    "them. Leave out one of the two."
                )
            _prompts.template_of(changed)
        return changed

    def own_system(self) -> str:
        """The system prompt that the chat template writes if none is given, as text; "" for none."""
        if not self.chat or self.tokenizer is None or not self.chat_template:
            return ""
        try:
            return _prompts.template_of(self).own_system()
        except ValueError:  # a template that takes no user message as it is; a prompt says why
            return ""

    def require_attention(self) -> None:
        """Raise ``UnsupportedAttention`` if this architecture's attention can't be read."""
        if self.attention_refusal:
            raise UnsupportedAttention(self.attention_refusal)

    @public
    def prompt(
        self,
        text: str,
        *,
        spans: dict[str, SpanLike] | None = None,
        answers: tuple[str, ...] = (),
        gold: str | None = None,
        forms: str = "in_context",
        system: System = None,
        chat: bool | None = None,
        reply: str = "",
        id: str = "",
        image: ImageLike | None = None,
        text_only: bool = False,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """Render, tokenise and locate: see :func:`interp.prompts.build_prompt`.

        >>> prompt = model.prompt("Is the ball red?", image="scene.png", answers=("No", "Yes"))
        >>> len(prompt.span("image")), prompt.image.grid
        """
        return _prompts.build_prompt(
            self,
            text,
            spans=spans,
            answers=answers,
            gold=gold,
            forms=forms,
            system=system,
            chat=chat,
            reply=reply,
            id=id,
            image=image,
            text_only=text_only,
            template_arguments=template_arguments,
        )

    @public
    def final_logits(self, prompts: list[Prompt], batch_size: int = 8) -> Float[Tensor, "example vocabulary"]:
        """Logits at each prompt's last position, float32, on the CPU. What the prompts of a batch share at their
        beginning is run once for all; questions about one picture are put into batches of their own, wherever they
        stand. The numbers are those of one prompt at a time (to 1e-4 in float32).

        Raises ``NonFiniteLogitsError``. Costs at most one forward pass for each batch.
        """
        if not prompts:
            raise ValueError("no prompts were given; give at least one.")
        self.require_fits(prompts)
        rows = []
        with torch.no_grad(), alone(self.hf):
            for places, logits in logits_by_batch(self, prompts, batch_size):
                self.require_finite(logits, [prompts[i] for i in places])
                rows.append((places, logits.float().cpu()))
        return in_order(rows)

    def may_share_prefix(self) -> bool:
        """Whether a batch of texts may run as two passes, as far as attention, causality and active edits go; lengths,
        and what is measured, decide batch by batch (:mod:`interp.independence`)."""
        return not (self.attention_refusal or looks_ahead(self) or self.counts_rows_and_positions())

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
        for prompt in prompts:
            name = prompt.id or prompt.text[:60]
            _require_picture(self, prompt, name)
            if self.context_length and len(prompt) > self.context_length:
                raise ValueError(
                    f"prompt {name!r} has {len(prompt)} tokens; {self.name} reads at most {self.context_length}. "
                    "Shorten it."
                )
            held = set(prompt.span("image")) if prompt.image is not None else ()
            ids = [token for i, token in enumerate(prompt.token_ids) if i not in held]
            if ids and not (min(ids) >= 0 and max(ids) < self.n_tokens):
                raise ValueError(
                    f"prompt {name!r} has token ids from {min(ids)} to {max(ids)}; "
                    f"{self.name} has ids 0..{self.n_tokens - 1}. Was it made with another tokenizer?"
                )
            for word, tokens in prompt.answers.items():
                if max(tokens) >= self.n_logits:
                    raise ValueError(
                        f"prompt {name!r}: the answer {word!r} has token {max(tokens)}; {self.name} has ids "
                        f"0..{self.n_logits - 1}. Was it made with another tokenizer?"
                    )

    def require_finite(self, logits: Tensor, prompts: list[Prompt]) -> None:
        """Raise ``NonFiniteLogitsError`` naming the first bad prompt and layer, if any logit is NaN or infinite."""
        bad = (~torch.isfinite(logits)).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            prompt = prompts[bad[0]]
            raise NonFiniteLogitsError(
                f"{self.name} gave NaN or infinite logits on prompt {prompt.id or prompt.text[:60]!r}; the first "
                f"non-finite activation is {first_nonfinite(self, prompt)}. Expected finite logits: check "
                "the weights, or load with dtype=torch.float32 if they overflow in half precision."
            )

    def provenance(self) -> dict[str, Any]:
        """What a result needs to name this computation: source, weights' hash, template hash, geometry, dtype, and what
        acts beside the weights: adapters, edits, hooks, and a fingerprint of the logits
        (:func:`interp.identity.describe_computation`).

        The hash reads every weight that a pass reads (about a second for each GB on a CPU; not again where nothing was
        changed), so an edit in memory changes it.
        """
        computation = describe_computation(self)  # first: see there
        return {
            "name": self.name,
            "source": self.source,
            "architecture": type(self.hf).__name__,
            "weights_sha256": weights_sha256(self.hf),
            "template_sha256": hash_text(self.chat_template) if self.chat_template else None,
            **self._writing(),
            **self._image_processing(),
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "d_head": self.d_head,
            "d_model": self.d_model,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            **computation,
        }

    def _writing(self) -> dict[str, Any]:
        """How prompts are written: the template's arguments, its own system prompt, and whether it dates them."""
        if not self.chat or self.chat_template is None:
            return {"chat": bool(self.chat and self.chat_template), "template_arguments": {}}
        dated = writes_date(self.chat_template, self.template_arguments)
        found = {"chat": True, "template_arguments": dict(self.template_arguments), "system_prompt": self.own_system()}
        return found | ({"template_writes_todays_date": True} if dated else {})

    def _image_processing(self) -> dict[str, Any]:
        processor = getattr(self.processor, "image_processor", None)
        return {} if processor is None else {"image_processor_sha256": hash_text(processor.to_json_string())}

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {type(self.hf).__name__}, {self.n_layers} layers x {self.n_heads} heads "
            f"({self.n_kv_heads} kv), d_model={self.d_model}, {self.dtype}, {self.device})"
        )


def _require_picture(model: Model, prompt: Prompt, name: str) -> None:
    if prompt.image is not None and not model.has_vision:
        raise ValueError(
            f"prompt {name!r} has an image, and this model has no vision part: {model.name}, {type(model.hf).__name__}."
        )
    if not model.has_vision:
        return
    if prompt.image is None and not prompt.text_only:
        raise ValueError(
            f"prompt {name!r} has no image, and {model.name} reads pictures: it would run text-only without a word. "
            "Build it with image=..., or, if that is meant, with text_only=True."
        )
    places = tuple(i for i, token in enumerate(prompt.token_ids) if token == model.image_token_id)
    held = prompt.span("image") if prompt.image is not None else ()
    if places != tuple(held):
        raise ValueError(
            f"prompt {name!r} has {len(places)} image tokens (id {model.image_token_id}) and names {len(held)} image "
            f"positions; {model.name} puts pictures at its image tokens and nowhere else. Build it with "
            "model.prompt(..., image=...)."
        )


def first_nonfinite(model: Model, prompt: Prompt) -> str:
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

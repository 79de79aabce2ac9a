"""One object around a language model: the plain transformers model, its TransformerLens bridge, its tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp import prompts as _prompts
from interp.attention import UnsupportedAttention
from interp.components import Components, input_device
from interp.prompts import Prompt, SpanLike, pad_left
from interp.provenance import hash_text, hash_weights
from interp.shared_prefix import WORTH_SHARING, answer_logits, common_prefix


class NonFiniteLogitsError(FloatingPointError):
    """The model gave NaN or infinite logits; the message names the layer where they first appear."""


@dataclass(frozen=True, eq=False)
class Model:
    """A causal language model ready for scans.

    ``hf`` is the transformers model, as it was given: scans run on it, with transformers' fused attention.
    ``bridge`` is TransformerLens's ``TransformerBridge`` around a structural copy that *shares every weight* with
    ``hf``, so that hook names, ``run_with_cache`` and ``run_with_hooks`` work as always and ``hf`` stays unwrapped:
    wrapping changes a model in place. A change of a weight is seen by both.
    """

    name: str
    hf: nn.Module
    bridge: Any
    tokenizer: Any
    components: Components
    source: dict[str, Any] = field(default_factory=dict)
    attention_refusal: str = ""  # why attention can't be read and fanned out; empty: it can

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
        """The floating-point type that the model computes in."""
        return next((p.dtype for p in self.hf.parameters() if p.is_floating_point()), torch.float32)

    @property
    def is_quantized(self) -> bool:
        """Whether transformers loaded it quantised: some tolerances are then wider."""
        return bool(getattr(self.hf, "is_quantized", False))

    @property
    def context_length(self) -> int | None:
        """The longest prompt in tokens, where the config says so."""
        config = self.hf.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's chat template; None for a base model."""
        return getattr(self.tokenizer, "chat_template", None)

    def require_attention(self) -> None:
        """Raise ``UnsupportedAttention`` if this architecture's attention can't be read."""
        if self.attention_refusal:
            raise UnsupportedAttention(self.attention_refusal)

    def prompt(
        self,
        text: str,
        *,
        spans: dict[str, SpanLike] | None = None,
        answers: tuple[str, ...] = (),
        gold: str | None = None,
        forms: str = "in_context",
        system: str | None = None,
        chat: bool = True,
        reply: str = "",
        id: str = "",
    ) -> Prompt:
        """Render, tokenise and locate: see :func:`interp.prompts.build_prompt`."""
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
        )

    def final_logits(self, prompts: list[Prompt], batch_size: int = 8) -> Float[Tensor, "example vocabulary"]:
        """Logits at each prompt's last position, float32, on the CPU. What the prompts of
        a batch share at their beginning is run once for all; the numbers are those of one prompt at a time (to 1e-4 in
        float32).

        Raises ``NonFiniteLogitsError``. Costs at most one forward pass for each batch.
        """
        if not prompts:
            raise ValueError("no prompts were given; give at least one.")
        rows = []
        self.require_fits(prompts)
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            with torch.no_grad():
                if common_prefix(batch) >= WORTH_SHARING and self._may_share_prefix():
                    logits = answer_logits(self, batch)
                else:
                    inputs = pad_left(batch, self.device).inputs
                    logits = self.hf(**inputs, use_cache=False, **self.last_logits_only()).logits[:, -1]
            self.require_finite(logits, batch)
            rows.append(logits.float().cpu())
        return torch.cat(rows)

    def _may_share_prefix(self) -> bool:
        """Whether a batch may run as two passes: not for attention of its own kind."""
        return not self.attention_refusal and not self.counts_rows_and_positions()

    def counts_rows_and_positions(self) -> bool:
        """Whether an edit is active that knows rows or positions as those of one plain pass over whole prompts
        (``edit_heads``, a steering of the prompt alone): passes that share a prefix would mislead it."""
        hooks = (h for m in self.hf.modules() for h in (*m._forward_pre_hooks.values(), *m._forward_hooks.values()))
        return any(hasattr(hook, "counts_rows_and_positions") for hook in hooks)

    def last_logits_only(self) -> dict[str, int]:
        """The argument that tells transformers to unembed only the last position, where the model takes it."""
        takes_it = "logits_to_keep" in inspect.signature(type(self.hf).forward).parameters
        return {"logits_to_keep": 1} if takes_it else {}

    def require_fits(self, prompts: Sequence[Prompt]) -> None:
        """Raise ``ValueError`` for a prompt longer than the context, or with (answer) tokens outside the vocabulary."""
        vocabulary = self.hf.config.get_text_config().vocab_size
        for prompt in prompts:
            name = prompt.id or prompt.text[:60]
            if self.context_length and len(prompt) > self.context_length:
                raise ValueError(
                    f"prompt {name!r} has {len(prompt)} tokens; {self.name} reads at most {self.context_length}. "
                    "Shorten it."
                )
            if not (min(prompt.token_ids) >= 0 and max(prompt.token_ids) < vocabulary):
                raise ValueError(
                    f"prompt {name!r} has token ids from {min(prompt.token_ids)} to {max(prompt.token_ids)}; "
                    f"{self.name} has ids 0..{vocabulary - 1}. Was it made with another tokenizer?"
                )
            for word, tokens in prompt.answers.items():
                if max(tokens) >= vocabulary:
                    raise ValueError(
                        f"prompt {name!r}: the answer {word!r} has token {max(tokens)}; {self.name} has ids "
                        f"0..{vocabulary - 1}. Was it made with another tokenizer?"
                    )

    def require_finite(self, logits: Tensor, prompts: list[Prompt]) -> None:
        """Raise ``NonFiniteLogitsError`` naming the first bad prompt and layer, if any logit is NaN or infinite."""
        bad = (~torch.isfinite(logits)).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            prompt = prompts[bad[0]]
            raise NonFiniteLogitsError(
                f"{self.name} gave NaN or infinite logits on prompt {prompt.id or prompt.text[:60]!r}; the first "
                f"non-finite activation is {first_nonfinite(self, prompt.token_ids)}. Expected finite logits: check "
                "the weights, or load with dtype=torch.float32 if they overflow in half precision."
            )

    def provenance(self) -> dict[str, Any]:
        """What a result needs to name this model: source, weights' hash, template hash, geometry, dtype.

        The hash reads every weight (about a second for each GB on a CPU), so an edit in memory changes it.
        """
        return {
            "name": self.name,
            "source": self.source,
            "architecture": type(self.hf).__name__,
            "weights_sha256": hash_weights(self.hf),
            "template_sha256": hash_text(self.chat_template) if self.chat_template else None,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "d_head": self.d_head,
            "d_model": self.d_model,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
        }

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {type(self.hf).__name__}, {self.n_layers} layers x {self.n_heads} heads "
            f"({self.n_kv_heads} kv), d_model={self.d_model}, {self.dtype}, {self.device})"
        )


def first_nonfinite(model: Model, token_ids: tuple[int, ...]) -> str:
    """Where NaN or infinity first appears in a forward pass: "the output of layer 3", "the logits", ..."""
    found: list[str] = []

    def watch(place: str):
        def hook(module, args, output):
            tensor = output[0] if isinstance(output, tuple) else output
            if not found and isinstance(tensor, Tensor) and not torch.isfinite(tensor).all():
                found.append(place)

        return hook

    parts = [(model.components.embedding, "the output of the embedding")]
    for layer, block in enumerate(model.components.blocks):
        parts += [
            (block.attention, f"the attention of layer {layer}"),
            (block.module, f"the output of layer {layer}"),
        ]
    parts += [(model.components.final_norm, "the final norm")]
    handles = [module.register_forward_hook(watch(place)) for module, place in parts]
    try:
        with torch.no_grad():
            model.hf(torch.tensor([token_ids], device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the logits"

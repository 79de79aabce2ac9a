"""One prompt, alone, in one pass of the plain model: the number that every other way of computing is held to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.architecture import counting, run_pass
from interp.passes.lengths import pass_lengths

if TYPE_CHECKING:
    from interp.passes.handle import Handle
    from interp.prompts import Prompt

# Hooks of these act on each row by itself, or on none: they say nothing about how rows influence each other.
_KNOWN_HOOKS = frozenset(["interp", "transformers", "accelerate", "peft", "transformer_lens", "torch", "bitsandbytes"])


@torch.no_grad()
def plain_logits(model: Handle, prompt: Prompt) -> Float[Tensor, " vocabulary"]:
    """Logits at the prompt's last position, float32: no padding, no cache, no other row."""
    inputs = model.inputs([prompt]).inputs
    return run_pass(model, {**inputs, "use_cache": False, **model.last_logits_only()}).logits[0, -1].float()


def forget_lengths(hf: nn.Module) -> None:
    """Dynamic rotary embeddings keep the frequencies of the longest pass that they saw: a shorter prompt after it would
    be computed with those. Set back what they keep, so that a pass depends on its own length alone."""
    if pass_lengths(hf.config).own_above is None:
        return
    for module in hf.modules():
        original = getattr(module, "original_max_seq_len", None)
        kinds = getattr(module, "rope_type", None)
        for prefix, kind in kinds.items() if isinstance(kinds, dict) else [("", kinds)]:
            start = f"{prefix}_" if prefix else ""
            kept = getattr(module, f"{start}original_inv_freq", None)
            if original is None or kept is None or "dynamic" not in str(kind):
                continue
            now = getattr(module, f"{start}inv_freq")
            module.register_buffer(f"{start}inv_freq", kept.to(now.device), persistent=False)
            setattr(module, f"{start}max_seq_len_cached", original)


def foreign_hooks(hf: nn.Module) -> tuple[int, ...]:
    """Numbers of the hooks that neither this package nor the libraries around the model have put there."""
    held = (hooks for module in hf.modules() for hooks in (module._forward_pre_hooks, module._forward_hooks))
    return tuple(n for hooks in held for n, hook in hooks.items() if _home(hook) not in _KNOWN_HOOKS)


def rows_are_fixed(hf: nn.Module) -> bool:
    """Whether an edit is active that knows rows by their number in the batch (``edit_heads``): its batch can't be cut
    up. A steering that finds its rows by their tokens may be."""
    return any(not hook.finds_rows for hook in counting(hf))


def _home(hook: Any) -> str:
    function = getattr(hook, "func", hook)  # of a partial
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.partition(".")[0]

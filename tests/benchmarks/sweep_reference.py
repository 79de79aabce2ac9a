"""The sweep's own reference: plain transformers with plain hooks, one prompt a pass, no padding, no cache.

Nothing here is of this project or of TransformerLens. Modules are found by the names that transformers gives them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_ATTENTION = r"(self_attn|self_attention|attn|attention|temporal_block|mixer)"
_OUT = re.compile(rf"^({_ATTENTION}\.)([a-z_]+\.)*(o_proj|out_proj|c_proj|dense|o_b_proj|Wo)$")
# The norm that what attention writes goes through before it is added, by the class of the layer.
_POST_NORMS = {
    "Gemma2": "post_attention_layernorm",
    "Gemma3": "post_attention_layernorm",
    "Gemma4": "post_attention_layernorm",
    "VaultGemma": "",
    "Olmo2": "post_attention_layernorm",
    "Olmo3": "post_attention_layernorm",
    "FlexOlmo": "post_attention_layernorm",
    "Glm4DecoderLayer": "post_self_attn_layernorm",
    "Exaone4": "post_attention_layernorm",
    "Afmoe": "post_attention_layernorm",
}


class Plain:
    """A plain model, and its layers by transformers' names."""

    def __init__(self, hf: nn.Module) -> None:
        self.hf = hf
        self.config = hf.config.get_text_config()
        n = self.config.num_hidden_layers
        lists = [m for name, m in hf.named_modules() if isinstance(m, nn.ModuleList) and len(m) == n]
        lists = [m for m in lists if any(_out_of(layer) for layer in m)] or [*lists, nn.ModuleList()]
        self.layers = list(lists[0])
        self.outs = [_out_of(layer) for layer in self.layers]
        self.n_heads = int(getattr(self.config, "num_attention_heads", 0) or 0)

    def final(self, ids: Sequence[int]) -> Tensor:
        """Logits at the last position."""
        return self.every(ids)[-1]

    @torch.no_grad()
    def every(self, ids: Sequence[int]) -> Tensor:
        return self.hf(torch.tensor([list(ids)]), use_cache=False).logits[0].float()

    @contextmanager
    def head(self, layer: int, head: int, factor: float = 0.0, last: int | None = None) -> Iterator[None]:
        """A head's slice of what the output projection reads times a factor, at the last positions."""

        def hook(module: Any, args: tuple) -> tuple:
            z = args[0].clone()
            size = z.shape[-1] // self.n_heads
            start = 0 if last is None else z.shape[1] - last
            z[:, start:, head * size : (head + 1) * size] *= factor
            return (z, *args[1:])

        handle = self.outs[layer].register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def stream(self, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """What enters a layer, changed; layer n: what leaves the last one."""

        def entering(module: Any, args: tuple, kwargs: dict) -> tuple:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

        def leaving(module: Any, args: tuple, output: Any) -> Any:
            return [change(output[0]), *output[1:]] if isinstance(output, tuple | list) else change(output)

        if layer < len(self.layers):
            handle = self.layers[layer].register_forward_pre_hook(entering, with_kwargs=True)
        else:
            handle = self.layers[-1].register_forward_hook(leaving)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def attention_write(self, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """What attention adds to the stream, changed."""
        block = self.layers[layer]
        norm = next((n for kind, n in _POST_NORMS.items() if type(block).__name__.startswith(kind) and n), None)
        module = block.get_submodule(norm) if norm else self.outs[layer]
        handle = module.register_forward_hook(lambda m, args, output: change(output))
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def entering(self, ids: Sequence[int]) -> list[Tensor]:
        """What enters each layer, and what leaves the last."""
        seen: list[Tensor] = []

        def keep(hidden: Tensor) -> Tensor:
            seen.append(hidden[0].float().clone())
            return hidden

        with ExitStack() as stack:
            for layer in range(len(self.layers) + 1):
                stack.enter_context(self.stream(layer, keep))
            self.hf(torch.tensor([list(ids)]), use_cache=False)
        return seen

    @torch.no_grad()
    def attention(self, ids: Sequence[int]) -> list[Tensor]:
        """Attention probabilities [head, query, key] of each layer, by transformers' eager attention."""
        eager = copy.deepcopy(self.hf)
        eager.set_attn_implementation("eager")
        found = eager(torch.tensor([list(ids)]), use_cache=False, output_attentions=True).attentions
        return [a[0].float() for a in found]

    def direct(self, ids: Sequence[int], positive: int, negative: int) -> Tensor:
        """Direct contribution of each head to a difference of two logits [layer, head]: its z times the gradient, where
        every other path is cut: what attention and MLPs read is detached, and norms keep their scale."""
        z: list[Tensor] = []

        def leaf(module: Any, args: tuple) -> tuple:
            z.append(args[0].detach().clone().requires_grad_())
            return (z[-1], *args[1:])

        def cut(module: Any, args: tuple, kwargs: dict) -> tuple:
            if args:  # not the second: Bloom and MPT hand the stream itself on there
                return (args[0].detach(), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": kwargs["hidden_states"].detach()}

        with ExitStack() as stack:
            inner: set[int] = set()
            for block, out in zip(self.layers, self.outs, strict=True):
                stack.callback(out.register_forward_pre_hook(leaf).remove)
                for reader in _readers(block):
                    inner |= {id(m) for m in reader.modules()}
                    stack.callback(reader.register_forward_pre_hook(cut, with_kwargs=True).remove)
            for module in self.hf.modules():
                if "Norm" in type(module).__name__ and id(module) not in inner:
                    stack.callback(module.register_forward_hook(_scale_held).remove)
            unembedded: list[Tensor] = []
            keep = self.hf.get_output_embeddings().register_forward_hook(lambda m, a, output: unembedded.append(output))
            stack.callback(keep.remove)
            self.hf(torch.tensor([list(ids)]), use_cache=False)
            logits = unembedded[-1][0, -1].float()  # before a cap of the logits
            gradients = torch.autograd.grad(logits[positive] - logits[negative], z, allow_unused=True)
        rows = [
            (a.detach() * g)[0, -1].unflatten(-1, (self.n_heads, -1)).sum(-1) for a, g in zip(z, gradients, strict=True)
        ]
        return torch.stack(rows).float()


def _out_of(layer: nn.Module) -> nn.Module | None:
    return next((m for name, m in layer.named_modules() if _OUT.match(name)), None)


def _readers(block: nn.Module) -> list[nn.Module]:
    """The attention and the MLP of a layer: its direct children that are neither norms nor dropouts."""
    skip = ("Norm", "Dropout")
    return [child for child in block.children() if not any(s in type(child).__name__ for s in skip)]


def _scale_held(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    """The same output, of which the gradient takes the norm's scale for a constant."""
    x = args[0]
    with torch.no_grad():
        # A LayerNorm gives the same for its input moved by a constant; an RMS norm does not.
        is_layer_norm = (type(module).forward(module, x + 3.0) - output).abs().max() < 1e-3 * output.abs().max()
        bias = getattr(module, "bias", None)
        bias = 0.0 if bias is None else bias
        read = x - x.mean(-1, keepdim=True) if is_layer_norm else x
        factor = (output - bias) / read
    held = (x - x.mean(-1, keepdim=True) if is_layer_norm else x) * factor
    return held + (output.detach() - held.detach())

"""Rules by which relevance goes back through a transformer, in place of its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.architecture import Hook, attached, input_of

if TYPE_CHECKING:
    from interp.models import Model


@contextmanager
def relevance_rules(model: Model) -> Iterator[None]:
    """While active, passes give what they always give, and their gradients go back by rules (Rezaei Jafari et al. 2025,
    arXiv 2508.21258, from the formulas): a norm's scale is a constant; an activation is its input times a constant, the
    share that it lets through; of a product (gate and value of an MLP, attention and values) each factor gets half.

    Differences: the paper freezes attention weights; here they get their half, so that heads which act through queries
    and keys are not lost. Raises ``ValueError`` for blocks without an MLP of one projection (experts).
    """
    hooks: list[Hook] = []
    for layer, block in enumerate(model.components.blocks):
        if block.mlp_projection is None:
            raise ValueError(f"layer {layer} of {model.name} has no MLP of one projection: no relevance rules for it.")
        made: list[Tensor] = []
        for module in block.module.modules():
            if _is_activation(module):
                hooks.append(Hook(module, _keeping(made), "forward"))
            elif _is_norm(module):
                hooks.append(Hook(module, _norm(module), "forward"))
        hooks.append(input_of(block.mlp_projection, _half_of_products(made)))
        hooks.append(input_of(block.out_projection, lambda z: _with_gradient_of(z, z / 2)))
    if (norm := model.components.final_norm) is not None:
        hooks.append(Hook(norm, _norm(norm), "forward"))
    with attached(model, hooks):
        yield


def _is_activation(module: nn.Module) -> bool:
    plain = isinstance(module, nn.SiLU | nn.GELU | nn.ReLU)
    return plain or type(module).__module__ == "transformers.activations"


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__


def _with_gradient_of(value: Tensor, path: Tensor) -> Tensor:
    """The value, whose gradient is that of another computation."""
    return value.detach() + (path - path.detach())


def _keeping(made: list[Tensor]) -> Callable[..., Tensor]:
    """An activation as its input times the share that it lets through; what it gives is kept in ``made``."""

    def act(original: Callable[..., Tensor], args: tuple, kwargs: dict[str, Any]) -> Tensor:
        (x,) = args
        out = original(x)
        share = torch.where(x == 0, torch.zeros_like(x), out / torch.where(x == 0, torch.ones_like(x), x))
        made[:] = [_with_gradient_of(out, x * share.detach())]
        return made[0]

    return act


def _half_of_products(made: list[Tensor]) -> Callable[[Tensor], Tensor | None]:
    """What enters the MLP's last projection: half of its gradient goes on, if it is a product with the activation."""

    def rewrite(hidden: Tensor) -> Tensor | None:
        return None if made and hidden is made[0] else _with_gradient_of(hidden, hidden / 2)

    return rewrite


def _norm(norm: nn.Module) -> Callable[..., Tensor]:
    """A norm that divides by a constant."""

    def act(original: Callable[..., Tensor], args: tuple, kwargs: dict[str, Any]) -> Tensor:
        (x,) = args or tuple(kwargs.values())
        with torch.no_grad():
            out = original(x)
        moved = x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x
        bias = getattr(norm, "bias", None)
        scaled = (out if bias is None else out - bias).detach()
        tiny = moved.detach().abs() < 1e-12
        scale = torch.where(tiny, torch.zeros_like(scaled), scaled / torch.where(tiny, torch.ones_like(moved), moved))
        return _with_gradient_of(out, moved * scale.detach())

    return act

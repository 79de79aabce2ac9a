"""Direct logit attribution: what each part writes toward one answer, and which tokens a head reads it from.

The residual stream at the answer is a sum: embedding + every head + every MLP (+ biases). The final norm divides it
by a scale and the unembedding is linear, so with the scale held at its actual value the logit difference is a sum
too (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; nostalgebraist 2020). A *direct* effect
leaves out what later layers make of a head's output; the scan's is the *total* effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.architecture import (
    AttentionCall,
    Hook,
    attached,
    attention_handler,
    input_of,
    one_at_a_time,
    output_of,
    require_in_place,
    run_pass,
)
from interp.door import public
from interp.door.brief import brief
from interp.reading.metrics import LogitDifference, default_metric

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Attribution:
    """Each part's direct contribution to ``metric`` at the answer of one prompt, in logits; they sum to ``total``.

    ``by_token`` splits a head's contribution over the tokens it reads (attention x value x output), and sums to
    ``heads`` over tokens. ``attention`` is the head's attention from the answer to each token: where it looks, not why.

    ``heads`` [layer, head], ``mlps`` [layer], ``attention_biases`` [layer] (of the output projections), ``embedding``
    (token and position) and ``constant`` (what no part of the model adds: biases of the final norm and of the
    unembedding) are the parts.
    """

    heads: Float[np.ndarray, "layer head"]
    mlps: Float[np.ndarray, " layer"]
    attention_biases: Float[np.ndarray, " layer"]
    embedding: float
    constant: float  # bias of the final norm and of the unembedding
    total: float  # the logit difference (before a soft cap of the logits, where the model has one)
    by_token: Float[np.ndarray, "layer head token"]
    attention: Float[np.ndarray, "layer head token"]
    tokens: tuple[str, ...]
    metric: str

    __repr__ = brief

    def residual(self) -> float:
        """What the parts leave unexplained: rounding, or the call would have been refused."""
        parts = self.heads.sum() + self.mlps.sum() + self.attention_biases.sum()
        return self.total - float(parts + self.embedding + self.constant)


@public
@one_at_a_time
def attribute(model: Model, prompt: Prompt, metric: LogitDifference | None = None) -> Attribution:
    """Split a logit difference over heads, MLPs, embedding and biases, and every head's share over source tokens.

    model: runs once. prompt: with at least two answers.

    metric: by default the logit difference between the prompt's first and second answer.

    Cost: one forward pass. Projections that are not plain (quantised, LoRA-adapted, offloaded) are read by sending the
    unit vectors through them, another n_heads * d_head rows a layer. Memory: two arrays [layer, head, token].

    Sums agree to 1e-4 of the heads' summed size in float32 (seen: 1e-6).

    Raises:
        ValueError: answers with several surface forms (a log of a sum is not linear) and architectures whose parts do
            not sum to the logits (extra residual scales, gates after attention): a wrong split is never returned.

    Misleads: a direct effect is what a head itself writes. What later layers make of it is not in it, and a head that
    only moves others has none.
    Source: Elhage et al. (2021), A Mathematical Framework for Transformer Circuits.
    """
    metric = metric or default_metric([prompt])
    groups = metric.tokens(prompt)
    if any(len(g) != 1 for g in groups):
        raise ValueError(
            f"{metric} sums several surface forms of a word ({[len(g) for g in groups]}); direct attribution needs "
            "one token for each answer: build the prompts with forms='in_context'."
        )
    model.require_attention()
    model.require_fits([prompt])
    require_in_place(model)
    if model.components.final_norm is None:
        raise ValueError(
            f"{type(model.hf).__name__} has no final norm between its last block and its unembedding, where direct "
            "attribution reads the stream. Use interp.scan, which measures what heads do."
        )
    seen = _Seen()
    c = model.components
    inputs = model.inputs([prompt]).inputs
    with torch.no_grad(), attention_handler(model, seen.look), attached(model, seen.hooks(model)):
        logits = run_pass(model, {**inputs, "use_cache": False, **model.last_logits_only()}).logits[0, -1].float()
    model.require_finite(logits[None], [prompt])
    _require_plain_logits(model, logits, seen.unembedded)

    readout, constant = _unembedding_direction(c.unembedding, groups, seen.normed)
    toward, norm_constant = pull_back_through_norm(c.final_norm, seen.final, readout)
    constant += norm_constant
    total = _dot(seen.normed, readout) + (constant - norm_constant)
    heads, by_token, biases = [], [], []
    for layer, block in enumerate(c.blocks):
        to_attention, post_constant = toward, 0.0
        if (norm := block.attention_post_norm) is not None:
            to_attention, post_constant = pull_back_through_norm(norm, seen.attention_out[layer], toward)
        to_z = pull_back(block.out_projection, seen.z[layer], to_attention)
        z = seen.z[layer].float()
        to_z = to_z.to(z.device)
        heads.append(reduce(z * to_z, "(head d_head) -> head", "sum", head=model.n_heads).cpu())
        with torch.no_grad():
            bias = block.out_projection(torch.zeros_like(seen.z[layer])[None, None])[0, 0].float()
        biases.append(_dot(bias, to_attention) + post_constant)
        group = model.n_heads // model.n_kv_heads
        values = repeat(seen.value[layer], "kv pos d_head -> (kv group) pos d_head", group=group).float()
        to_values = rearrange(to_z.to(values.device), "(head d_head) -> head d_head", head=model.n_heads)
        read = einsum(values, to_values, "head pos d_head, head d_head -> head pos")
        by_token.append((seen.attention[layer].to(read.device) * read).cpu())
    result = Attribution(
        heads=torch.stack(heads).numpy(),
        mlps=np.array([_dot(seen.mlps[layer], toward) for layer in range(model.n_layers)]),
        attention_biases=np.array(biases),
        embedding=_dot(seen.embedding, toward),
        constant=constant,
        total=total,
        by_token=torch.stack(by_token).numpy(),
        attention=torch.stack([seen.attention[layer] for layer in range(model.n_layers)]).numpy(),
        tokens=prompt.tokens,
        metric=str(metric),
    )
    _require_sums(model, result)
    return result


@one_at_a_time
def attribute_heads(
    model: Model, prompts: Sequence[Prompt], metric: LogitDifference
) -> Float[np.ndarray, "example layer head"]:
    """Every head's direct contribution for each prompt, in logits: one forward pass each."""
    return np.stack([attribute(model, p, metric).heads for p in prompts]).astype(np.float32)


class _Seen:
    """What one forward pass shows at the answer position, layer by layer."""

    def __init__(self) -> None:
        self.z, self.attention_out, self.mlps = {}, {}, {}
        self.attention, self.value = {}, {}
        self.embedding: Tensor
        self.final: Tensor
        self.normed: Tensor
        self.unembedded: Tensor

    def hooks(self, model: Model) -> list[Hook]:
        c, found = model.components, []
        for layer, block in enumerate(c.blocks):
            if block.mlp_write is None:
                raise ValueError(
                    f"layer {layer} has no MLP module: its part of the answer can't be read, so direct attribution is "
                    "not available for this architecture."
                )
            found += [
                input_of(block.out_projection, partial(self._projection, layer)),
                output_of(block.attention, partial(self._keep, self.attention_out, layer)),
                output_of(block.mlp_write, partial(self._keep, self.mlps, layer)),
            ]
        return [
            *found,
            input_of(c.blocks[0].module, partial(self._one, "embedding")),
            output_of(c.blocks[-1].module, partial(self._one, "final")),
            input_of(c.unembedding, partial(self._one, "normed"), "model"),
            output_of(c.unembedding, partial(self._one, "unembedded"), "model"),
        ]

    def _one(self, name: str, hidden: Float[Tensor, "row pos feature"]) -> None:
        setattr(self, name, hidden[0, -1].float())

    def look(self, call: AttentionCall) -> None:
        row = torch.tensor([call.query.shape[2] - 1], device=call.query.device)
        scores = call.scores(0, row)
        self.attention[call.layer] = (scores - call.log_normaliser(scores)[..., None]).exp()[:, 0].cpu()
        self.value[call.layer] = call.value[0].clone()

    def _projection(self, layer: int, z: Tensor) -> None:
        self.z[layer] = z[0, -1].clone()

    def _keep(self, store: dict[int, Tensor], layer: int, tensor: Tensor) -> None:
        store[layer] = tensor.reshape(-1, tensor.shape[-1])[-1].float()


def _unembedding_direction(unembedding: nn.Module, groups, normed: Tensor) -> tuple[Tensor, float]:
    """The direction that the normed residual is read along for the difference, and the difference of the biases."""
    (positive,), (negative,) = groups
    weight, bias = getattr(unembedding, "weight", None), getattr(unembedding, "bias", None)
    if _is_plain(unembedding):
        constant = 0.0 if bias is None else float((bias[positive] - bias[negative]).detach())
        direction = (weight[positive].float() - weight[negative].float()).detach()
    else:
        with torch.no_grad():
            at_zero = unembedding(torch.zeros_like(normed, dtype=_input_type(unembedding, normed))[None, None])[0, 0]
        constant = float(at_zero[positive] - at_zero[negative])
        direction = _by_basis(unembedding, normed, lambda out: out[:, positive] - out[:, negative])
    return direction.to(normed.device), constant


def pull_back(
    projection: nn.Module, at: Float[Tensor, " d_in"], direction: Float[Tensor, " d_out"]
) -> Float[Tensor, " d_in"]:
    """W^T direction: the input direction whose dot product with an input is what its output has along ``direction``,
    but for the bias. For a plain linear layer, GPT-2's Conv1D, or any other linear map (quantised, LoRA, ...), which
    ``at`` gives the device, type and width of an input to; its values do not matter. Float32."""
    if _is_plain(projection):
        weight = projection.weight.detach().float()
        weight = weight if isinstance(projection, Conv1D) else weight.T
        return (weight @ direction.to(weight.device)).to(at.device)
    return _by_basis(projection, at, lambda out: out @ direction.to(out.device))


def _is_plain(layer: nn.Module) -> bool:
    return type(layer) in (nn.Linear, Conv1D) and not hasattr(layer, "_hf_hook")


@torch.no_grad()
def _by_basis(layer: nn.Module, like: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
    """The vector w with read(layer(x)) = w @ x + constant, found by sending the unit vectors through the layer."""
    basis = torch.eye(like.shape[-1], dtype=_input_type(layer, like), device=like.device)
    zero = read(layer(torch.zeros_like(basis[:1])[None])[0].float())
    return torch.cat([read(layer(rows[None])[0].float()) for rows in basis.split(256)]) - zero


def _input_type(layer: nn.Module, like: Tensor) -> torch.dtype:
    weight = next(layer.parameters()).dtype
    return weight if weight.is_floating_point else like.dtype


def pull_back_through_norm(
    norm: nn.Module, x: Float[Tensor, " d_model"], direction: Float[Tensor, " d_model"]
) -> tuple[Float[Tensor, " d_model"], float]:
    """With the norm's scale held at what it is for ``x``: the direction before the norm, and the norm's constant, which
    is what its bias has along ``direction``. Together they give ``norm(x) @ direction``.

    Raises ``ValueError`` if the module is neither an RMS norm nor a LayerNorm.
    """
    direction = direction.to(x.device)
    weight = next(norm.parameters(), None)
    like = x if weight is None else weight
    with torch.no_grad():
        actual = norm(x.to(like.dtype)[None, None])[0, 0].float()
        ones = torch.full_like(x, 1e3)
        flat = norm(ones.to(like.dtype)[None, None])[0, 0].float()  # RMS norm: its gain; LayerNorm: its bias
    actual, flat = actual.to(x.device), flat.to(x.device)
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0))
    if isinstance(norm, nn.Identity):
        return direction, 0.0
    if _is_layer_norm(norm, x.to(like.dtype), actual):
        bias = flat
        gain = _layer_norm_gain(norm, x, like.dtype, bias, eps)
        centred = x - x.mean()
        unscaled = gain * centred
        scale = (unscaled @ unscaled) / (unscaled @ (actual - bias))  # measured: OLMo's class does not name its eps
        gradient = gain * direction / scale
        before = gradient - gradient.mean()
        predicted = gain * centred / scale + bias
    else:
        bias = torch.zeros_like(x)
        gain = flat * (1 + eps / 1e6) ** 0.5
        scale = (x.pow(2).mean() + eps).sqrt()
        before = gain * direction / scale
        predicted = gain * x / scale
    tolerance = 1e-3 if like.dtype == torch.float32 else 5e-2
    if (predicted - actual).abs().max() > tolerance * max(1.0, actual.abs().max().item()):
        raise ValueError(
            f"{type(norm).__name__} is neither an RMS norm nor a LayerNorm in what it computes; its scale can't be "
            "held fixed, so direct attribution would be wrong for this architecture."
        )
    return before.detach(), _dot(bias, direction)


@torch.no_grad()
def _is_layer_norm(norm: nn.Module, x: Tensor, actual: Tensor) -> bool:
    """Whether it takes the mean away, whatever its class (OLMo's and Cohere's are their own): x moved by a constant
    comes out the same."""
    if isinstance(norm, nn.LayerNorm):
        return True
    moved = norm((x + 3 * x.std())[None, None])[0, 0].float().to(actual.device)
    return bool((moved - actual).abs().max() < 1e-2 * actual.abs().max())


@torch.no_grad()
def _layer_norm_gain(norm: nn.Module, x: Tensor, dtype: torch.dtype, bias: Tensor, eps: float) -> Tensor:
    """The weight of a LayerNorm, asked of the module itself, since an offloaded weight can't be read."""
    wave = torch.ones_like(x)
    wave[1::2] = -1
    wave = (wave - wave.mean()) * 1e3  # so large that eps does not show
    out = norm(wave.to(dtype)[None, None])[0, 0].float().to(x.device)
    return (out - bias) * (wave.var(unbiased=False) + eps).sqrt() / wave


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.detach().double().cpu() @ b.detach().double().cpu())


def _require_plain_logits(model: Model, logits: Tensor, unembedded: Tensor) -> None:
    """Raise ``ValueError`` if the model's logits are not the unembedding's, up to a soft cap of the config."""
    cap = getattr(model.hf.config.get_text_config(), "final_logit_softcapping", None)
    expected = unembedded if cap is None else cap * torch.tanh(unembedded / cap)
    error = (expected.to(logits.device) - logits).abs().max().item()
    tolerance = (1e-3 if model.dtype == torch.float32 else 3e-2) * max(1.0, logits.abs().max().item())
    if not error <= tolerance:
        raise ValueError(
            f"{type(model.hf).__name__}: the logits differ from the unembedding's output by {error:.3g} (they are "
            "scaled after it, for example), so parts of that output would not be parts of the logits."
        )


def _require_sums(model: Model, result: Attribution) -> None:
    scale = max(1.0, abs(result.total), float(np.abs(result.heads).sum()))
    exact = model.dtype == torch.float32 and not model.is_quantized
    tolerance = (1e-4 if exact else 3e-2) * scale
    by_token = np.abs(result.by_token.sum(-1) - result.heads).max()
    if not abs(result.residual()) <= tolerance or not by_token <= tolerance:
        if abs(result.residual()) <= tolerance:
            raise ValueError(
                f"{type(model.hf).__name__}: what heads read from single tokens does not add up to what they write "
                f"(off by {by_token:.3g} of a head's; expected at most {tolerance:.2g}). Between attention and its "
                "output projection this architecture has a gate or a norm: a share over tokens would be wrong. Use "
                "interp.scan, which measures what heads do."
            )
        raise ValueError(
            f"{type(model.hf).__name__}: the parts leave {result.residual():.3g} of {result.total:.3g} logits "
            f"unexplained (and the tokens {by_token:.3g} of a head); expected at most {tolerance:.2g}. This "
            "architecture adds something to the residual stream that is not a head, an MLP, the embedding or a bias."
        )

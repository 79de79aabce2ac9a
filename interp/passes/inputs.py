"""Pictures on their way into the language model: encoded once each, and given to the passes that need them.

transformers' vision-language models take the output of their image encoder (vision tower and projector) in place of
pixels. So a picture is encoded once, and every pass over its prompt, or over the part of it that holds the picture, is
the whole transformers model's own: where features go, masks that let patches see each other, positions in three
dimensions and features that enter at deeper layers are its business.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from interp.architecture import counting
from interp.passes.looks_ahead import looks_ahead
from interp.passes.plain import forget_lengths
from interp.prompts import Batch, Prompt, pad_left
from interp.vision import TOKEN_INPUTS, Features

if TYPE_CHECKING:
    from interp.passes.handle import Handle


def whole_inputs(model: Handle, prompts: Sequence[Prompt]) -> Batch:
    """What the model's forward takes for a batch of whole prompts, padded on the left: the ids, masks and positions
    of :func:`interp.prompts.building.pad_left`, and what their pictures need."""
    forget_lengths(model.hf)
    batch = pad_left(prompts, model.device)
    if model.encoder is None:
        return batch
    inputs: dict[str, Any] = batch.inputs | dict.fromkeys(model.encoder.required)
    pictured = [p for p in prompts if p.image is not None]
    if pictured:
        inputs["mm_encoder_outputs"] = {"image": _joined([_features(model, prompt) for prompt in pictured])}
    elif model.encoder.required:
        inputs["mm_encoder_outputs"] = {"image": model.encoder.none()}
    names = {name for p in pictured for name in TOKEN_INPUTS if name in p.image.inputs}
    has_prefix = _marks_prefix(model)
    if has_prefix:
        names.add("token_type_ids")  # also of a prompt without a picture: it is a prefix, as the model was trained
    appended = 1 if has_prefix else 0  # PaliGemma's suffix, which does not see ahead; text elsewhere
    inputs |= {name: _padded(prompts, name, appended, model.device) for name in names}
    if "mm_token_type_ids" in names:
        inputs["position_ids"] = _rope_positions(model, inputs, pictured)
    return Batch(inputs, batch.offsets)


def prefix_inputs(model: Handle, prompt: Prompt, n: int) -> dict[str, Any]:
    """The same for the first n tokens of one prompt, which hold all of its picture."""
    whole = whole_inputs(model, [prompt]).inputs
    cut = {name: whole[name][..., :n] for name in ("input_ids", "position_ids", *TOKEN_INPUTS) if name in whole}
    return whole | cut


def rest_inputs(model: Handle, prompt: Prompt, n: int, width: int, rows: int = 1) -> dict[str, Any]:
    """What the forward takes beside token ids for ``width`` tokens of text that go on from the first n of a prompt, in
    each of ``rows`` rows: their positions first of all."""
    positions = torch.arange(n, n + width, device=model.device)[None]
    inputs: dict[str, Any] = {"position_ids": positions}
    if prompt.image is not None and "image_grid_thw" in prompt.image.inputs:
        whole = whole_inputs(model, [prompt]).inputs.get("position_ids")
        if whole is not None and whole.ndim == 3:
            steps = torch.arange(width, device=whole.device)
            inputs["position_ids"] = whole[..., n : n + 1] + steps
    if model.encoder is not None and model.encoder.required:
        ones = torch.ones(rows, n + width, dtype=torch.long, device=model.device)  # else it takes a mask of the rest
        inputs |= {"mm_encoder_outputs": {"image": model.encoder.none()}, "attention_mask": ones}
        inputs |= dict.fromkeys(model.encoder.required)
    return inputs


def picture_arguments(model: Handle, inputs: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The module whose ``generate`` continues prompts (the whole model, but of the BLIP family the language model), and
    what it takes beside ids and mask, from the inputs of their whole pass."""
    if model.encoder is None:
        return model.hf, {}
    if not model.encoder.required:
        kept = {name: inputs[name] for name in ("mm_encoder_outputs", "token_type_ids") if name in inputs}
        positions = inputs.get("position_ids")
        if positions is not None and positions.ndim == 3:  # transformers counts text on beside the picture's axes
            ids = inputs["input_ids"]
            mask = inputs.get("attention_mask", torch.ones_like(ids))
            kept["position_ids"] = torch.cat([(mask.cumsum(-1) - 1).clamp(min=0)[None], positions])
        return model.hf, kept
    if any(hook.module is model.hf for hook in counting(model.hf)):
        raise ValueError(
            f"an active edit is for chosen positions of prompts, and {type(model.hf).__name__} generates from "
            "embeddings, in which they can't be told. Use an edit at all positions, while generating too."
        )
    embedded = model.components.embedding(inputs["input_ids"])
    features = inputs["mm_encoder_outputs"]["image"].pooler_output.to(embedded)
    here = (inputs["input_ids"] == model.image_token_id)[..., None]
    return model.hf.language_model, {"inputs_embeds": embedded.masked_scatter(here, features)}


def text_from(model: Handle, prompt: Prompt, last: int) -> int:
    """How many first tokens may be read once and kept while the ``last`` ones vary: 0 if that would be wrong, because
    they see later ones or hold a part of the picture only."""
    n = len(prompt) - last
    if looks_ahead(model, prompt):
        return 0
    return n if prompt.image is None or n > prompt.span("image")[-1] else 0


def _marks_prefix(model: Handle) -> bool:
    """Whether the prompt is told to the model as a prefix, read both ways, by its token types (PaliGemma)."""
    takes_types = "token_type_ids" in inspect.signature(type(model.hf).forward).parameters
    return takes_types and getattr(model.hf.config.get_text_config(), "use_bidirectional_attention", None) is True


@contextmanager
def growing_rows(model: Handle) -> Iterator[None]:
    """While active, features that enter at deeper layers (DeepStack: Qwen3-VL) enter every row of a batch that grew out
    of one row."""
    found = [m for m in model.hf.modules() if hasattr(type(m), "_deepstack_process")]
    originals = [module._deepstack_process for module in found]

    def every_row(original: Any) -> Any:
        def process(hidden: Tensor, mask: Tensor, features: Tensor) -> Tensor:
            rows = hidden.shape[0] // mask.shape[0]
            return original(hidden, mask.repeat(rows, 1), features.repeat(rows, 1))

        return process

    for module, original in zip(found, originals, strict=True):
        module._deepstack_process = every_row(original)
    try:
        yield
    finally:
        for module in found:
            del module._deepstack_process


def _features(model: Handle, prompt: Prompt) -> Features:
    places = len(prompt.span("image"))
    try:
        features = model.encoder.features(prompt.image)
    except (ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f"prompt {prompt.id or prompt.text[:40]!r}: {model.name}'s image encoder fails on its picture ({error}). "
            "Was it made with this model's processor?"
        ) from error
    if features.n_positions != places:
        raise ValueError(
            f"prompt {prompt.id or prompt.text[:40]!r} has {places} image positions and {model.name}'s image encoder "
            f"gives {features.n_positions} vectors for its picture. Was it made with this model's processor, and do "
            "its patch size and its numbers of image tokens fit?"
        )
    return features


def _joined(features: Sequence[Features]) -> Features:
    """One output for the pictures of a batch, in order."""
    if len(features) == 1:
        return features[0]
    pooled = [f.pooler_output for f in features]
    joined = torch.cat(pooled) if isinstance(pooled[0], Tensor) else [part for parts in pooled for part in parts]
    layers = zip(*(f.deepstack_features or () for f in features), strict=True)
    deep = [[part for parts in layer for part in parts] for layer in layers]
    return Features(joined, deep or None)


def _padded(prompts: Sequence[Prompt], name: str, appended: int, device: torch.device) -> Int[Tensor, "example pos"]:
    """One number for each token: the processor's, ``appended`` for tokens put after its own; 0 without a picture."""
    width = max(map(len, prompts))
    rows = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in zip(rows, prompts, strict=True):
        if prompt.image is not None and name in prompt.image.inputs:
            own = prompt.image.inputs[name][0][: len(prompt)]
            start = width - len(prompt)
            row[start : start + len(own)] = own
            row[start + len(own) :] = appended
    return rows.to(device)


def _rope_positions(
    model: Handle, inputs: dict[str, Any], pictured: Sequence[Prompt]
) -> Int[Tensor, "axis example pos"]:
    """Positions in time, rows and columns, as the model counts them (Qwen-VL). Takes the token types out of ``inputs``:
    they are of no other use."""
    positions, _ = model.hf.base_model.get_rope_index(
        input_ids=inputs["input_ids"],
        mm_token_type_ids=inputs.pop("mm_token_type_ids"),
        image_grid_thw=torch.cat([p.image.inputs["image_grid_thw"] for p in pictured]).to(model.device),
        attention_mask=inputs.get("attention_mask"),
    )
    return positions

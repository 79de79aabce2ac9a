"""Many questions on one image in one sequence, so that the image's tokens are paid for once.

    <template> <image> x n | question 1, answer 1 | question 2, answer 2 | ...

Each question sees what stands before it in a prompt of its own, the template's opening and the image, and itself;
positions restart after the image. So its logits equal those of the prompt alone (a test holds them together), and the
sequence costs the image once instead of once for each question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from interp.door.brief import brief

END_WEIGHT = 0.1  # of the end of the answer in the loss: easily learnt


@dataclass(frozen=True)
class Asked:
    """A question in the tokens of one template: what follows the image up to the answer, and the answer."""

    suffix: tuple[int, ...]
    answer: tuple[int, ...]


class Template:
    """How a processor's chat template writes an image and a question down, in token ids."""

    def __init__(self, processor: Any, n_image: int, end: str):
        self._processor, self.n_image = processor, n_image
        self.end = processor.tokenizer.convert_tokens_to_ids(end)
        self.image_token = processor.image_token_id
        self.prefix = self._ids(self._halves("a question")[0])
        self._known: dict[tuple[str, str], Asked] = {}

    def ask(self, question: str, answer: str) -> Asked:
        key = (question, answer)
        if key not in self._known:
            self._known[key] = Asked(self._ids(self._halves(question)[1]), self._ids(answer))
        return self._known[key]

    def first_token(self, answer: str) -> int:
        """The token at which an answer is told from the others."""
        return self._ids(answer)[0]

    def _halves(self, question: str) -> list[str]:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return text.split(self._processor.image_token)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Packed:
    """A batch of sequences, one for each image.

    ``visible[i, 0, q, k]``: position q of sequence i sees position k. Targets are the tokens to be predicted, at
    (``row``, ``column``); ``is_first`` marks the first token of each answer, in the questions' order.
    """

    ids: Int[Tensor, "image pos"]
    positions: Int[Tensor, "image pos"]
    visible: Bool[Tensor, "image 1 pos pos"]
    row: Int[Tensor, " target"]
    column: Int[Tensor, " target"]
    target: Int[Tensor, " target"]
    weight: Float[Tensor, " target"]
    is_first: Bool[Tensor, " target"]

    __repr__ = brief


def pack(template: Template, questions: Sequence[Sequence[Asked]]) -> Packed:
    """Lay out the questions of each image behind it."""
    shared = [*template.prefix, *[template.image_token] * template.n_image]
    n_shared = len(shared)
    length = n_shared + max(sum(len(a.suffix) + len(a.answer) for a in asked) for asked in questions)
    ids = np.full((len(questions), length), template.end)
    positions = np.zeros((len(questions), length), dtype=np.int64)
    segment = np.full((len(questions), length), -1)
    targets = []
    for i, asked in enumerate(questions):
        ids[i, :n_shared], positions[i, :n_shared], segment[i, :n_shared] = shared, np.arange(n_shared), 0
        at = n_shared
        for number, one in enumerate(asked, 1):
            tokens = [*one.suffix, *one.answer]
            stop = at + len(tokens)
            ids[i, at:stop], segment[i, at:stop] = tokens, number
            positions[i, at:stop] = n_shared + np.arange(len(tokens))
            for j, token in enumerate([*one.answer, template.end]):
                is_end = j == len(one.answer)
                targets.append((i, at + len(one.suffix) - 1 + j, token, END_WEIGHT if is_end else 1.0, j == 0))
            at = stop
    segments = torch.from_numpy(segment)
    own, seen = segments[:, None, :, None], segments[:, None, None, :]
    visible = (own == seen) | ((seen == 0) & (own > 0))
    row, column, target, weight, is_first = (torch.tensor(values) for values in zip(*targets, strict=True))
    return Packed(
        torch.from_numpy(ids), torch.from_numpy(positions), visible.tril(), row, column, target, weight, is_first
    )


def pixel_values(images: UInt8[np.ndarray, "image height width 3"]) -> Float[Tensor, "image 3 height width"]:
    """What the processors of the testbeds make of pixels that already have the tower's size."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def target_logits(
    model: Any,
    pixels: Float[Tensor, "image 3 height width"],
    packed: Packed,
    first_only: bool = False,
) -> Float[Tensor, "target vocabulary"]:
    """The logits at the targets alone, of a ``LlavaForConditionalGeneration``."""
    inner = model.model
    language_model = inner.language_model
    dtype = language_model.embed_tokens.weight.dtype
    features = torch.stack(list(inner.get_image_features(pixel_values=pixels).pooler_output))
    embedded = language_model.embed_tokens(packed.ids)
    here = (packed.ids == model.config.image_token_id)[..., None]
    embedded = embedded.masked_scatter(here, features.to(dtype))
    hidden = language_model(
        inputs_embeds=embedded, attention_mask=packed.visible, position_ids=packed.positions, use_cache=False
    )[0]
    chosen = packed.is_first if first_only else torch.ones_like(packed.is_first)
    return model.lm_head(hidden[packed.row[chosen], packed.column[chosen]])


def answer_loss(logits: Float[Tensor, "target vocabulary"], packed: Packed) -> Float[Tensor, ""]:
    """Cross-entropy over the whole vocabulary, weighted mean over targets."""
    losses = torch.nn.functional.cross_entropy(logits.float(), packed.target, reduction="none")
    return (losses * packed.weight).sum() / packed.weight.sum()

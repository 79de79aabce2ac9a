"""Before any question: have the projected patches point at the word embeddings of what they show.

A patch is labelled with the object that covers most of it. Its projected features are trained to give that object's
words by their dot products with the word embeddings, one softmax for each property (shape, colour, ...). It costs the
tower alone, no language model, and it is what makes the questions learnable: without it, the small model stayed at
chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST_SHARE = 0.15  # of a patch's pixels that an object must cover to own it
NOTHING = -1


class PatchLabels(NamedTuple):
    """For each patch the number of the object it shows, or NOTHING, and that object's centre in [-1, 1] (x, y)."""

    owner: Int[np.ndarray, " patch"]
    centre: Float[np.ndarray, "patch 2"]


def label_patches(masks: Bool[np.ndarray, "object height width"], grid: int) -> PatchLabels:
    """Who owns each of the grid x grid patches, row by row, from the visible pixels."""
    n, size = len(masks), masks.shape[-1] // grid
    cells = masks.reshape(n, grid, size, grid, size).mean(axis=(2, 4)).reshape(n, grid * grid)
    owner = np.where(cells.max(axis=0) >= LEAST_SHARE, cells.argmax(axis=0), NOTHING)
    ys, xs = np.mgrid[0 : masks.shape[1], 0 : masks.shape[2]]
    area = np.maximum(masks.sum(axis=(1, 2)), 1)
    middle = np.stack([(masks * axis).sum(axis=(1, 2)) / area for axis in (xs, ys)], axis=1)  # [object, 2]
    centre = 2 * middle / (masks.shape[-1] - 1) - 1
    return PatchLabels(owner, np.where(owner[:, None] >= 0, centre[owner], 0.0))


class Words:
    """The words of each property, and their token ids in one tokenizer (several for a long word: averaged)."""

    def __init__(self, tokenizer: Any, properties: Mapping[str, Sequence[str]], form: str):
        self.properties = {name: list(words) for name, words in properties.items()}
        self._ids = {
            name: [tokenizer(form.format(word), add_special_tokens=False)["input_ids"] for word in words]
            for name, words in self.properties.items()
        }

    def vectors(self, embedding: Float[Tensor, "token d_model"]) -> dict[str, Float[Tensor, "word d_model"]]:
        return {
            name: torch.stack([embedding[torch.tensor(one)].mean(dim=0) for one in ids])
            for name, ids in self._ids.items()
        }

    def indices(self, thing: Any) -> list[int]:
        """Which word of each property an object has."""
        return [words.index(getattr(thing, name)) for name, words in self.properties.items()]


def disguise(
    pixels: Float[Tensor, "image 3 height width"],
    labels: Int[Tensor, "image patch property"],
    properties: Sequence[str],
    patch: int,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "image 3 height width"], Int[Tensor, "image patch property"]]:
    """Pictures in which one property can't be read off the others, and labels without what can't be read (-1).

    In train a colour comes with some shapes and patterns only, and a tower that learns these pairs fails on the
    held-out ones (of plain pictures: shapes right in 100 % of train's patches, 64 % of test's). So half of the
    pictures have their colours turned, paled or made negative at random and teach shape, size and pattern; a quarter
    have the pixels of each patch shuffled and teach colour; the rest are as they are and teach colour and size.
    """
    n, marked = len(pixels), labels.clone()
    turned, shuffled = slice(0, n // 2), slice(n // 2, 3 * n // 4)
    number = {name: i for i, name in enumerate(properties)}
    marked[turned, :, number["colour"]] = NOTHING
    for name in ("shape", "material"):
        marked[n // 2 :, :, number[name]] = NOTHING
    marked[shuffled, :, number["size"]] = NOTHING
    shown = torch.cat([change_tones(pixels[turned], rng), shuffle(pixels[shuffled], patch, rng), pixels[3 * n // 4 :]])
    return shown, marked


def change_tones(pixels: Float[Tensor, "image 3 height width"], rng: np.random.Generator) -> Tensor:
    """Turn colours about the grey axis by a random angle; weigh lightness (from 1 to -1, a negative) against colour at
    random, one strong where the other is weak; shift the whole. Lightness must not stay as it is: yellow would still be
    told from the rest by being as light as the background, and its shapes be guessed."""
    axis = torch.full((3,), 3**-0.5)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * 3**-0.5
    shape = (len(pixels), 1, 1, 1)
    turn = torch.from_numpy(rng.uniform(0, 2 * np.pi, shape[:3])).float()
    rotation = turn.cos() * torch.eye(3) + turn.sin() * cross + (1 - turn.cos()) * torch.outer(axis, axis)
    mix = rng.uniform(0, np.pi, shape)
    shift = rng.uniform(-1, 1, shape) * (1 - np.abs(np.cos(mix)))
    light = pixels.mean(dim=1, keepdim=True)
    colour = torch.einsum("nij,njhw->nihw", rotation, pixels - light)
    cosine, sine, shift = (torch.from_numpy(x).float() for x in (np.cos(mix), np.sin(mix), shift))
    return (cosine * light + sine * colour + shift).clamp(-1, 1)


def shuffle(pixels: Float[Tensor, "image 3 height width"], patch: int, rng: np.random.Generator) -> Tensor:
    """Put the pixels of each patch in a random order: colours stay, shapes and patterns go."""
    n, _, side, _ = pixels.shape
    grid = side // patch
    cells = pixels.reshape(n, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 3, patch * patch)
    order = torch.from_numpy(rng.random((n, grid * grid, 1, patch * patch)).argsort(axis=-1)).expand(-1, -1, 3, -1)
    cells = cells.gather(-1, order).reshape(n, grid, grid, 3, patch, patch)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(n, 3, side, side)


def places(labels: Int[Tensor, "image patch property"], centres: Float[Tensor, "image patch 2"]) -> Tensor:
    """Where each patch's object is, x and y in [-1, 1]; for background the patch's own place."""
    grid = round(labels.shape[1] ** 0.5)
    steps = (torch.arange(grid) + 0.5) / grid * 2 - 1
    own = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(grid * grid, 2)
    return torch.where(labels[..., :1] >= 0, centres, own)


def alignment_loss(
    features: Float[Tensor, "image patch d_model"],
    labels: Int[Tensor, "image patch property"],
    vectors: Mapping[str, Float[Tensor, "word d_model"]],
    scale: float,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Mean cross-entropy over patches and properties with a label, and the share right in each property."""
    losses, right = [], {}
    for i, (name, words) in enumerate(vectors.items()):
        chosen = labels[..., i] >= 0
        logits, wanted = scale * features[chosen] @ (words - words.mean(dim=0)).T, labels[..., i][chosen]
        losses.append(torch.nn.functional.cross_entropy(logits, wanted))
        right[name] = (logits.argmax(dim=1) == wanted).float().mean().item()
    return torch.stack(losses).mean(), right


@torch.no_grad()
def alignment_shares(
    model: Any, pixels: Tensor, labels: Int[Tensor, "image patch property"], vectors: Mapping[str, Tensor]
) -> dict[str, float]:
    """For undisguised pictures, the share of patches right in each property."""
    return alignment_loss(image_features(model, pixels), labels, vectors, 1.0)[1]


def image_features(model: Any, pixels: Float[Tensor, "image 3 height width"]) -> Tensor:
    """Projected patches, [image, patch, d_model]."""
    return torch.stack(list(model.model.get_image_features(pixel_values=pixels).pooler_output))

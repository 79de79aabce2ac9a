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
    held-out ones (of plain pictures: shapes right in 100 % of train's patches, 64 % of test's). So, by eighths of the
    pictures: three have lightness and colour mixed at random and teach shape; two have their hues turned and teach
    pattern; two have the pixels of each patch shuffled and teach colour; one is as it is and teaches colour. All but
    the shuffled teach size.
    """
    cuts = [round(len(pixels) * part / 8) for part in (3, 5, 7)]
    parts = pixels.tensor_split(cuts)
    shown = torch.cat([change_tones(parts[0], rng), turn_hues(parts[1], rng), shuffle(parts[2], patch, rng), parts[3]])
    teaches = (("shape", "size"), ("material", "size"), ("colour",), ("colour", "size"))
    marked = labels.clone()
    for part, taught in zip(marked.tensor_split(cuts), teaches, strict=True):
        for i, name in enumerate(properties):
            if name not in taught:
                part[..., i] = NOTHING
    return shown, marked


def change_tones(pixels: Float[Tensor, "image 3 height width"], rng: np.random.Generator) -> Tensor:
    """Turn hues; weigh lightness (from 1 to -1, a negative) against colour at random, one strong where the other is
    weak; shift the whole. With lightness as it was, yellow would still be told by being as light as the background, and
    its shapes be guessed."""
    light = pixels.mean(dim=1, keepdim=True)
    mix = rng.uniform(0, np.pi, (len(pixels), 1, 1, 1))
    shift = rng.uniform(-1, 1, mix.shape) * (1 - np.abs(np.cos(mix)))
    cosine, sine, shift = (torch.from_numpy(x).float() for x in (np.cos(mix), np.sin(mix), shift))
    return (cosine * light + sine * _turned(pixels - light, rng) + shift).clamp(-1, 1)


def turn_hues(pixels: Float[Tensor, "image 3 height width"], rng: np.random.Generator) -> Tensor:
    """Turn colours about the grey axis by a random angle and pale them; grey stays as it is."""
    light = pixels.mean(dim=1, keepdim=True)
    strength = torch.from_numpy(rng.uniform(0, 1, (len(pixels), 1, 1, 1)) ** 0.5).float()
    return (light + strength * _turned(pixels - light, rng)).clamp(-1, 1)


def _turned(colour: Float[Tensor, "image 3 height width"], rng: np.random.Generator) -> Tensor:
    axis = torch.full((3,), 3**-0.5)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * 3**-0.5
    turn = torch.from_numpy(rng.uniform(0, 2 * np.pi, (len(colour), 1, 1))).float()
    rotation = turn.cos() * torch.eye(3) + turn.sin() * cross + (1 - turn.cos()) * torch.outer(axis, axis)
    return torch.einsum("nij,njhw->nihw", rotation, colour)


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

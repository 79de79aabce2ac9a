"""What the two scene testbeds' training scripts share: a pool of drawn scenes with questions, and a resumable loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from interp.door.brief import brief
from interp.records import load_artefact, save_artefact
from probes.scenes.programs import SceneQuestion
from probes.scenes.renderer import render
from probes.scenes.scenes import ATTRIBUTES, Scene
from probes.scenes.training.alignment import label_patches
from probes.scenes.training.packing import Asked, Packed, Template, pack

DRAWN = 96  # pixels; what the tower takes is scaled from it, as the processor would


@dataclass(frozen=True, eq=False)
class Pool:
    """Scenes drawn once: pixels at the tower's size, patches labelled with their object's words, questions in tokens.

    ``labels[i, p]``: the index of each property's word for patch p, -1 for background. ``centres``: of the patch's
    object, x and y in [-1, 1].
    """

    images: UInt8[np.ndarray, "image height width 3"]
    labels: Int[np.ndarray, "image patch property"]
    centres: Float[np.ndarray, "image patch 2"]
    questions: tuple[tuple[SceneQuestion, ...], ...]
    asked: tuple[tuple[Asked, ...], ...]

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.images)

    def first(self, n: int) -> Pool:
        """Its first n scenes."""
        return Pool(self.images[:n], self.labels[:n], self.centres[:n], self.questions[:n], self.asked[:n])


def joined(*pools: Pool) -> Pool:
    """The scenes of several pools, in order."""
    arrays = (np.concatenate([getattr(p, name) for p in pools]) for name in ("images", "labels", "centres"))
    return Pool(*arrays, *(tuple(x for p in pools for x in getattr(p, name)) for name in ("questions", "asked")))


def draw(scenes: Iterable[tuple[Scene, Sequence[SceneQuestion]]], template: Template, pixels: int, grid: int) -> Pool:
    """Render every scene and write its questions in the template's tokens."""
    images, labels, centres, questions, asked = [], [], [], [], []
    for scene, about in scenes:
        drawn = render(scene, DRAWN)
        picture = drawn.image if pixels == DRAWN else drawn.image.resize((pixels, pixels), Image.Resampling.BICUBIC)
        images.append(np.asarray(picture))
        found = label_patches(drawn.masks, grid)
        words = np.array([[w.index(getattr(o, name)) for name, w in ATTRIBUTES.items()] for o in scene.objects])
        labels.append(np.where(found.owner[:, None] >= 0, words[found.owner], -1).astype(np.int8))
        centres.append(found.centre.astype(np.float32))
        questions.append(tuple(about))
        asked.append(tuple(template.ask(q.text, q.answer) for q in about))
    return Pool(np.stack(images), np.stack(labels), np.stack(centres), tuple(questions), tuple(asked))


def draw_batch(
    pool: Pool, template: Template, rng: np.random.Generator, n_images: int, n_questions: int, kinds: Sequence[str]
) -> tuple[np.ndarray, Packed]:
    """Indices of random images, and ``n_questions`` random questions of the kinds on each, packed."""
    chosen = rng.choice(len(pool), size=n_images, replace=False)
    asked = []
    for i in chosen:
        fitting = [a for q, a in zip(pool.questions[i], pool.asked[i], strict=True) if q.kind in kinds]
        picked = rng.permutation(len(fitting))[:n_questions]
        asked.append([fitting[j] for j in picked])
    return chosen, pack(template, asked)


@dataclass(frozen=True)
class Stage:
    """A part of the training: so many steps of AdamW, the rate rising over ``warm_up`` steps, then falling (cosine)."""

    name: str
    n_steps: int
    rate: float
    warm_up: int = 20
    last: float = 0.1  # of the rate, at the end
    decay: float = 0.01

    def rate_at(self, step: int) -> float:
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.n_steps - self.warm_up)
        return self.rate * (self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    stage: Stage,
    weights: Mapping[str, Tensor],
    loss_of: Callable[[int], tuple[Float[Tensor, ""], Mapping[str, float]]],
    work: Path,
    every_s: float = 90.0,
) -> list[dict[str, Any]]:
    """Minimise ``loss_of(step)`` over the weights; returns the log. A killed run goes on from its last checkpoint.

    The result depends on seeds and number of steps alone: ``loss_of`` draws its batch from the step's number.
    """
    log: list[dict[str, Any]] = []
    optimizer = torch.optim.AdamW(list(weights.values()), lr=stage.rate, betas=(0.9, 0.98), weight_decay=stage.decay)
    first, spent_s = 0, 0.0
    if (work / f"{stage.name}.json").is_file():
        record, kept = load_artefact(work, stage.name)
        first, spent_s, log = record["step"], record["spent_s"], record["log"]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in kept.items():
            if name.startswith("adam/"):
                _, number, moment = name.split("/")
                moments.setdefault(int(number), {})[moment] = tensor
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(kept[f"weights/{name}"])

    def save(step: int) -> None:
        tensors = {f"weights/{name}": weight.detach() for name, weight in weights.items()}
        for number, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"adam/{number}/{name}": torch.as_tensor(moment) for name, moment in moments.items()}
        save_artefact(work, stage.name, {"step": step, "spent_s": spent_s, "log": log}, tensors)

    saved, recent = time.monotonic(), []
    for step in range(first, stage.n_steps):
        began = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = stage.rate_at(step)
        loss, facts = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        spent_s += time.monotonic() - began
        recent.append({"loss": loss.item(), **facts})
        if len(recent) == max(1, stage.n_steps // 40) or step + 1 == stage.n_steps:
            row = {key: float(np.mean([r[key] for r in recent])) for key in recent[0]}
            log.append({"stage": stage.name, "step": step + 1, "seconds": round(spent_s, 1), **row})
            shown = " ".join(f"{key} {value:.3f}" for key, value in row.items())
            print(f"{stage.name} {step + 1}/{stage.n_steps} {spent_s:.0f} s: {shown}", flush=True)
            recent = []
        if time.monotonic() - saved > every_s or step + 1 == stage.n_steps:
            save(step + 1)
            saved = time.monotonic()
    return log


def random_state(seed: int, *where: int) -> np.random.Generator:
    """Random numbers that depend on the seed and the step alone."""
    return np.random.default_rng([seed, *where])

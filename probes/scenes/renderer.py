"""Scenes as pictures with exact masks: numpy and Pillow only, the same pixels for the same scene."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from interp.door import public
from interp.door.brief import brief
from probes.scenes.scenes import Scene, SceneObject

PAINT = {
    "red": (222, 36, 40),
    "green": (30, 150, 62),
    "blue": (38, 76, 218),
    "yellow": (250, 224, 40),
    "purple": (128, 44, 160),
    "orange": (250, 134, 20),
    "pink": (250, 140, 190),
    "brown": (122, 72, 36),
    "cyan": (60, 200, 225),
    "gold": (190, 150, 24),
}
_PERIOD = 0.085  # of a texture, in widths of the picture: 4 pixels of 48
_RIM = 0.88
_TIPS = 5


@dataclass(frozen=True)
class Rendered:
    """``masks[i]``: the pixels in which object ``i`` is visible, if only in a part of the pixel: those that would
    change if its colour did. Where two objects touch, a pixel on the edge is in both masks."""

    image: Image.Image
    masks: Bool[np.ndarray, "object height width"]

    __repr__ = brief


@public
def render(scene: Scene, pixels: int = 96) -> Rendered:
    """The picture of a scene, RGB, and its objects' visible pixels.

    Objects are drawn in their order, a later one over an earlier one. Edges are smoothed by drawing four times as fine
    (three times from 64 pixels on). Noise and clutter depend on the scene's seed alone, so two scenes that differ in
    one object differ in no pixel outside that object's masks.

    Args:
        scene: what is drawn.
        pixels: height and width of the picture, 16 or more; legible from 48 on.

    Returns: the image, and Boolean masks [object, height, width].

    Raises:
        ValueError: fewer than 16 pixels.

    Cost: about 3 ms for 96 pixels and 6 objects.
    """
    if pixels < 16:
        raise ValueError(f"pixels={pixels}; expected 16 or more (48 and up are legible).")
    fine = 4 if pixels < 64 else 3
    labels = np.zeros(
        (pixels * fine, pixels * fine), dtype=np.int8
    )  # 0 background, 2i+1 object i, 2i+2 its second tone
    windows = [_draw(labels, number, thing, pixels, fine) for number, thing in enumerate(scene.objects)]
    picture = _background(scene, pixels)
    ground = picture.copy()
    masks = np.zeros((len(scene.objects), pixels, pixels), dtype=bool)
    for number, (thing, window) in enumerate(zip(scene.objects, windows, strict=True)):
        part = labels[tuple(slice(w.start * fine, w.stop * fine) for w in window)]
        for label, tone in enumerate(_tones(thing), start=2 * number + 1):
            share = _share(part == label, fine)
            masks[number][window] |= share > 0
            picture[window] += share[..., None] * (tone - ground[window])
    if scene.noise:
        picture += _noise(scene.seed, scene.noise, pixels)
    return Rendered(Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8)), masks)


def _draw(labels: np.ndarray, number: int, thing: SceneObject, pixels: int, fine: int) -> tuple[slice, slice]:
    """Write an object's labels; returns its window in whole pixels."""
    reach = thing.radius * 1.05
    window = tuple(
        slice(max(0, math.floor((x - reach) * pixels)), min(pixels, math.ceil((x + reach) * pixels)))
        for x in (thing.row, thing.column)
    )
    rows, columns = (np.arange(w.start * fine, w.stop * fine) + 0.5 for w in window)
    down = (rows / (pixels * fine) - thing.row)[:, None]
    across = (columns / (pixels * fine) - thing.column)[None, :]
    turn = math.radians(thing.tilt)
    x, y = across * math.cos(turn) + down * math.sin(turn), down * math.cos(turn) - across * math.sin(turn)
    inside = _inside(thing.shape, x / thing.radius, y / thing.radius)
    label = 2 * number + 1
    if thing.material != "solid":
        inner = _RIM * thing.radius  # the rim keeps the object's colour, or a pale stripe would end its outline
        label = label + (_second(thing.material, x, y) & _inside(thing.shape, x / inner, y / inner))
    part = labels[rows[0].astype(int) : rows[-1].astype(int) + 1, columns[0].astype(int) : columns[-1].astype(int) + 1]
    np.copyto(part, np.asarray(label, dtype=np.int8), where=inside)
    return window


def _share(here: Bool[np.ndarray, "fine_height fine_width"], fine: int) -> Float[np.ndarray, "height width"]:
    height, width = here.shape
    counts = here.reshape(height // fine, fine, width // fine, fine).sum(axis=(1, 3), dtype=np.int16)
    return counts / (fine * fine)


def _tones(thing: SceneObject) -> tuple[np.ndarray, np.ndarray]:
    """The colour, and the second tone of a texture: near white on a dark colour, near black on a light one."""
    colour = np.clip(np.array(PAINT[thing.colour], dtype=float) * thing.shade, 0, 255)
    is_light = colour @ (0.299, 0.587, 0.114) > 140
    return colour, colour * 0.25 if is_light else 255 - 0.2 * (255 - colour)


def _second(material: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where a texture shows its second tone."""
    u, v = x / _PERIOD, y / _PERIOD
    if material == "striped":
        return (u + v) * 0.75 % 1 < 0.42
    if material == "dotted":
        return ((u + 0.5) % 1 - 0.5) ** 2 + ((v + 0.5) % 1 - 0.5) ** 2 < 0.29**2
    if material == "checked":
        return (np.floor(u * 1.3) + np.floor(v * 1.3)) % 2 == 0
    raise ValueError(f"no material {material!r}.")


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points (the disc around the object has radius 1, y grows downwards) belong to a shape."""
    across, down = np.abs(x), np.abs(y)
    match shape:
        case "circle":
            return x * x + y * y <= 0.9**2
        case "square":
            return np.maximum(across, down) <= 0.76
        case "triangle":
            return (y <= 0.7) & (across <= (y + 0.95) * 0.56)
        case "star":
            angle = np.arctan2(x, -y) % (2 * math.pi / _TIPS)
            angle = np.minimum(angle, 2 * math.pi / _TIPS - angle)
            tip, notch = math.pi / _TIPS, 0.42
            # the line from a tip (radius 1, angle 0) to a notch (radius 0.42, angle 36 degrees)
            r = np.hypot(x, y)
            px, py = r * np.cos(angle), r * np.sin(angle)
            nx, ny = notch * math.cos(tip), notch * math.sin(tip)
            return (px - 1) * ny - py * (nx - 1) <= 0
        case "cross":
            return (np.minimum(across, down) <= 0.29) & (np.maximum(across, down) <= 0.9)
        case "heart":
            lobes = (across - 0.44) ** 2 + (y + 0.3) ** 2 <= 0.47**2
            return lobes | ((y >= -0.3) & (across <= (0.88 - y) * 0.75) & (across <= 0.9))
        case "diamond":
            return across / 0.68 + down / 0.98 <= 1
        case "ring":
            squared = x * x + y * y
            return (squared <= 0.92**2) & (squared >= 0.44**2)
        case "moon":
            return (x * x + y * y <= 0.92**2) & ((x - 0.58) ** 2 + (y + 0.1) ** 2 > 0.7**2)
        case "arrow":
            head = (y <= 0.0) & (across <= (y + 0.95) * 0.9)
            return head | ((across <= 0.3) & (y > 0.0) & (y <= 0.88))
    raise ValueError(f"no shape {shape!r}.")


def _background(scene: Scene, pixels: int) -> Float[np.ndarray, "height width 3"]:
    """Grey, so that no background is an object's colour."""
    level = 255 * scene.tone
    picture = np.full((pixels, pixels), level)
    steps = (np.arange(pixels) + 0.5) / pixels
    phase = (scene.seed % 997) / 997
    if scene.background == "gradient":
        turn = 2 * math.pi * phase
        slope = math.cos(turn) * (steps - 0.5)[None, :] + math.sin(turn) * (steps - 0.5)[:, None]
        picture = picture + 55 * slope
    elif scene.background == "bands":
        picture = picture + 12 * np.sign(np.sin(2 * math.pi * (4 * steps + phase)))[:, None]
    elif scene.background == "tiles":
        even = np.floor(steps * 6 + phase)
        picture = picture + 14 * ((even[:, None] + even[None, :]) % 2)
    elif scene.background == "speckle":
        spots = np.random.default_rng([scene.seed, 2]).random((24, 24)) < 0.25
        cells = (steps * 24).astype(int)
        picture = picture + 26 * spots[np.ix_(cells, cells)]
    elif scene.background != "plain":
        raise ValueError(f"no background {scene.background!r}.")
    picture = np.clip(picture, 0, 255)
    if scene.clutter:
        picture = _strokes(picture, scene, pixels)
    return np.repeat(picture[..., None], 3, axis=2)


def _strokes(picture: Float[np.ndarray, "height width"], scene: Scene, pixels: int) -> np.ndarray:
    canvas = Image.fromarray(picture.astype(np.float32))
    draw, where = ImageDraw.Draw(canvas), np.random.default_rng([scene.seed, 1]).random((scene.clutter, 5))
    for x, y, angle, length, tone in where:
        reach = (0.03 + 0.05 * length) * pixels
        dx, dy = reach * math.cos(math.pi * angle), reach * math.sin(math.pi * angle)
        ends = (x * pixels - dx, y * pixels - dy, x * pixels + dx, y * pixels + dy)
        grey = 255 * scene.tone + (1 if tone > 0.5 else -1) * 38
        draw.line(ends, fill=float(np.clip(grey, 0, 255)), width=max(1, pixels // 48))
    return np.asarray(canvas, dtype=float)


@lru_cache(maxsize=4)
def _noise(seed: int, deviation: float, pixels: int) -> Float[np.ndarray, "height width 3"]:
    drawn = np.random.default_rng([seed, 0]).standard_normal((pixels, pixels, 3), dtype=np.float32)
    return drawn * np.float32(255 * deviation)

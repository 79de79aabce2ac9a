"""The part of a photograph that an edit may change: from annotated boxes, a mask file, or a detector and SAM."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image

from interp.door import public
from interp.door.brief import brief
from interp.vision import ImageLike, read_image

if TYPE_CHECKING:
    import torch

MOST_OVERRUN = 2
"""Pixels by which an annotated box may reach over the image's edge: GQA's do, by rounding. The rest is refused."""


class Box(NamedTuple):
    """A rectangle in pixels as GQA annotates it: left and top edge, width, height."""

    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class Region:
    """Which pixels an edit may change, and how they were found.

    Args:
        pixels: True where the edit may change the image.
        how: where the mask came from, in JSON types, for provenance.

    Raises:
        ValueError: a mask of another type than bool.
    """

    pixels: Bool[np.ndarray, "height width"]
    how: Mapping[str, Any] = field(default_factory=dict)

    __repr__ = brief

    def __post_init__(self) -> None:
        if self.pixels.dtype != bool:
            raise ValueError(
                f"the mask has dtype {self.pixels.dtype}; expected bool: True where the edit may change pixels."
            )

    @property
    def share(self) -> float:
        """The part of the image that it covers, 0 to 1."""
        return float(self.pixels.mean())


BoxLike = Box | Sequence[float] | Mapping[str, float]
Boxes = BoxLike | Sequence[BoxLike]
RegionLike = Region | Bool[np.ndarray, "height width"]


def region_of(image: Image.Image, region: RegionLike) -> Region:
    """The region, checked against the image: Boolean, of the image's size, not empty. ``ValueError`` otherwise."""
    given = region if isinstance(region, Region) else Region(np.asarray(region), {"mask": "given as an array"})
    pixels = given.pixels
    if pixels.shape != (image.height, image.width):
        raise ValueError(
            f"the mask has shape {pixels.shape}; expected (height, width) = {(image.height, image.width)}. "
            "Make the mask for this very image, before any resizing."
        )
    if not pixels.any():
        raise ValueError("the mask is empty: no pixel may change. Give a box or a mask of what is to be edited.")
    return given


@public
def box_region(image: ImageLike, boxes: Boxes) -> Region:
    """The pixels that one box or any of several boxes touch.

    Args:
        image: the photograph, or its path.
        boxes: one or several, each (x, y, w, h) or a mapping with these names: left and top edge, width and height in
            pixels. One that reaches over the image's edge by at most 2 pixels is cut there.

    Raises:
        ValueError: a box that reaches further, or has no area, and no box.
    """
    picture = read_image(image)
    listed = [_box(boxes)] if _is_box(boxes) else [_box(box) for box in boxes]
    if not listed:
        raise ValueError("no box was given; expected (x, y, w, h) in pixels, or a list of them.")
    pixels = np.zeros((picture.height, picture.width), dtype=bool)
    for box in listed:
        left, top, right, bottom = _corners(box, picture)
        pixels[top:bottom, left:right] = True
    return Region(pixels, {"mask": "boxes", "boxes": [list(box) for box in listed]})


@public
def file_region(image: ImageLike, path: str | Path) -> Region:
    """The pixels that are bright in a mask file (more than half of its brightest): white may change, black stays.

    The file is of the image's size: greyscale, black and white, or colour; 0 and 1 do as well as 0 and 255.
    Transparent parts count as black. V-SEAM reads ``{mask_dir}/{question}/{question}.png`` and resizes it to the image:
    here another size is refused, since a mask that does not fit is more often a mask of another picture.

    Args:
        image: the photograph, or its path.
        path: of the mask file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no image, of another size, or black.
    """
    picture = read_image(image)
    mask = _mask_file(Path(path))
    levels = np.asarray(mask)
    if levels.shape != (picture.height, picture.width):
        raise ValueError(
            f"{path} is {mask.width} x {mask.height} pixels; expected {picture.width} x {picture.height}, the image's. "
            "Give this image's mask; if it was made at another resolution, resize it first (Image.NEAREST)."
        )
    if levels.max() == 0:
        raise ValueError(f"{path} is empty: no pixel is bright. White is what the edit may change.")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return Region(levels > levels.max() / 2, {"mask": "file", "file": Path(path).name, "sha256": digest})


@dataclass(frozen=True)
class Detection:
    """A box that a detector drew for ``name``, and its score, 0 to 1."""

    name: str
    box: Box
    score: float


@dataclass(frozen=True)
class Segmenter:
    """SAM and its processor, as :func:`load_segmenter` loads them."""

    model: Any
    processor: Any
    name: str


@public
def load_detector(source: str | Path, device: str | torch.device = "cpu") -> Any:
    """transformers' zero-shot object detection pipeline (OWL-ViT, OWLv2, Grounding DINO) from a hub id or a directory.

    Works without torchvision, with the Pillow image processors. Weights are read from safetensors only.

    Args:
        source: a hub id, or the directory of a saved model.
        device: where it runs.

    Raises ``FileNotFoundError`` for a directory that does not exist.

    >>> detector = load_detector("google/owlvit-base-patch32")  # doctest: +SKIP
    """
    from transformers import pipeline

    place = weights_place(source, "config.json")
    return pipeline("zero-shot-object-detection", model=place, device=device, model_kwargs={"use_safetensors": True})


@public
def load_segmenter(source: str | Path, device: str | torch.device = "cpu") -> Segmenter:
    """SAM (Kirillov et al. 2023, arXiv 2304.02643) from a hub id or a directory, to be asked with boxes.

    transformers' own mask generation pipeline asks for every object of a picture, and needs torchvision to sort them.
    A box is what there is here, so the model is asked for the one object in it.

    Args:
        source: a hub id, or the directory of a saved model.
        device: where it runs.

    Raises:
        FileNotFoundError: a directory that does not exist.
        ValueError: a model that is not SAM.

    >>> segmenter = load_segmenter("facebook/sam-vit-base")  # doctest: +SKIP
    """
    from transformers import AutoConfig, AutoProcessor, SamModel

    place = weights_place(source, "config.json")
    kind = AutoConfig.from_pretrained(place).model_type
    if kind != "sam":
        raise ValueError(f"{source} is a {kind!r} model; expected SAM ('sam'), such as 'facebook/sam-vit-base'.")
    model = SamModel.from_pretrained(place, use_safetensors=True).to(device).eval()
    return Segmenter(model, AutoProcessor.from_pretrained(place), str(Path(source).name))


def detect(image: ImageLike, name: str, detector: Any, threshold: float = 0.1) -> list[Detection]:
    """Boxes of what is called ``name`` ("a dog", "the red car"), cut at the image's edges, the most certain first.

    ``threshold``: the lowest score that counts. Raises ``ValueError`` where nothing reaches it.
    """
    picture = read_image(image)
    if not name.strip():
        raise ValueError("name is blank; expected what to look for, such as 'a dog'.")
    asked = name.strip()
    if "grounding" in detector.model.config.model_type:
        asked = asked.rstrip(".") + "."  # what Grounding DINO was trained to read
    found = detector(picture, candidate_labels=[asked], threshold=threshold)
    detections = []
    for one in found:
        box = {side: float(value) for side, value in one["box"].items()}
        left, right = (min(max(box[side], 0), picture.width) for side in ("xmin", "xmax"))
        top, bottom = (min(max(box[side], 0), picture.height) for side in ("ymin", "ymax"))
        if right > left and bottom > top:
            detections.append(Detection(name, Box(left, top, right - left, bottom - top), float(one["score"])))
    if not detections:
        raise ValueError(
            f"the detector found no {name!r} with a score above {threshold}. Lower threshold=, name it in other "
            "words, or give a box."
        )
    return sorted(detections, key=lambda d: -d.score)


def segment(image: ImageLike, boxes: Sequence[Box], segmenter: Segmenter) -> Region:
    """The pixels of the object in each box, by SAM; of the three masks that it offers for a box, the one it rates best.

    ``how`` has SAM's own ratings (its guess of the overlap with the truth, 0 to 1) and the share of the mask that lies
    outside the boxes. Raises ``ValueError`` where SAM finds nothing.
    """
    import torch

    picture = read_image(image)
    listed = [_box(box) for box in boxes]
    asked = [[float(v) for v in _corners(box, picture)] for box in listed]
    processor, model = segmenter.processor, segmenter.model
    inputs = processor(picture, input_boxes=[asked], return_tensors="pt")
    with torch.inference_mode():
        out = model(
            pixel_values=inputs["pixel_values"].to(model.device, model.dtype),
            input_boxes=inputs["input_boxes"].to(model.device, model.dtype),
            multimask_output=True,
        )
    (masks,) = processor.image_processor.post_process_masks(
        out.pred_masks.float().cpu(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )  # [box, 3, height, width]
    ratings, best = out.iou_scores[0].float().cpu().max(dim=-1)
    pixels = masks[torch.arange(len(listed)), best].any(dim=0).numpy()
    if not pixels.any():
        raise ValueError("SAM found no object in the boxes; use the boxes themselves (box_region), or other ones.")
    outside = float((pixels & ~box_region(picture, listed).pixels).sum() / pixels.sum())
    how = {"mask": "sam", "model": segmenter.name, "boxes": [list(box) for box in listed]}
    return Region(pixels, how | {"ratings": [round(float(r), 4) for r in ratings], "share_outside_boxes": outside})


@public
def detected_region(
    image: ImageLike, name: str, detector: Any, segmenter: Segmenter | None = None, threshold: float = 0.1
) -> Region:
    """The pixels of the most certain ``name`` in the image: SAM's mask in the detector's box, or the box.

    Args:
        image: the photograph, or its path.
        name: what to look for: "a dog", "the red car".
        detector: as :func:`load_detector` loads it.
        segmenter: as :func:`load_segmenter` loads it; by default the box itself is the region.
        threshold: the lowest score of the detector that counts, 0 to 1.

    Cost: one pass of each model. Raises ``ValueError`` where nothing reaches the threshold, or SAM finds nothing in the
    box. Misleads where there are several: only the most certain is taken.
    """
    picture = read_image(image)
    best = detect(picture, name, detector, threshold)[0]
    region = segment(picture, [best.box], segmenter) if segmenter else box_region(picture, best.box)
    found = {"name": name, "detector": Path(detector.model.config.name_or_path).name, "score": round(best.score, 4)}
    return Region(region.pixels, {**region.how, "found": found})


def weights_place(source: str | Path, holds: str) -> str:
    """What ``from_pretrained`` takes: a directory that has the file ``holds``, or a hub id.

    A ``Path``, and a text that looks like one, must exist: it is never looked up on the hub.
    """
    text, path = str(source), Path(source).expanduser()
    if path.is_dir():
        if not (path / holds).is_file():
            raise ValueError(f"{path} has no {holds}; expected the directory of a saved model.")
        return str(path)
    if isinstance(source, Path) or text.startswith((".", "~", "/")) or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text):
        raise FileNotFoundError(f"{source}: no such directory; expected one with {holds}, or a hub id (owner/name).")
    return text


def _mask_file(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such mask file.")
    try:
        with Image.open(path) as opened:
            opened.load()
            if opened.has_transparency_data:
                opened = Image.alpha_composite(Image.new("RGBA", opened.size, (0, 0, 0, 255)), opened.convert("RGBA"))
            if opened.mode.startswith(("I", "F")):
                return opened.convert("F")
            return opened.convert("L")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is no image that can be read as a mask ({error}). Save it again as PNG.") from error


def _is_box(value: Any) -> bool:
    return isinstance(value, Mapping) or (len(value) == 4 and all(np.isscalar(v) for v in value))


def _box(value: Any) -> Box:
    try:
        box = (
            Box(**{k: float(value[k]) for k in Box._fields}) if isinstance(value, Mapping) else Box(*map(float, value))
        )
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"{value!r} is no box; expected (x, y, w, h) in pixels.") from None
    if not all(math.isfinite(v) for v in box):
        raise ValueError(f"{value!r} has a number that is not finite; expected (x, y, w, h) in pixels.")
    return box


def _corners(box: Box, image: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels that a box touches, inside the image."""
    if box.w <= 0 or box.h <= 0:
        raise ValueError(f"{tuple(box)} is empty; expected (x, y, w, h) with a width and height above 0.")
    sides = box.x, box.y, box.x + box.w, box.y + box.h
    over = max(-sides[0], -sides[1], sides[2] - image.width, sides[3] - image.height)
    left, top = max(math.floor(sides[0]), 0), max(math.floor(sides[1]), 0)
    right, bottom = min(math.ceil(sides[2]), image.width), min(math.ceil(sides[3]), image.height)
    if over > MOST_OVERRUN or right <= left or bottom <= top:
        raise ValueError(
            f"the box x={box.x:g}, y={box.y:g}, w={box.w:g}, h={box.h:g} reaches {over:g} pixels outside the image, "
            f"which is {image.width} x {image.height}. Is it of another image, or of this one before it was resized?"
        )
    return left, top, right, bottom

"""A region of a photograph drawn anew from a prompt: any inpainting pipeline of diffusers, V-SEAM's settings."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from interp.door import public
from interp.sources import install_extra
from interp.vision import ImageLike, read_image
from probes.pairs.masks import Region, RegionLike, region_of, weights_place
from probes.pairs.photo_edits import PhotoEdit, edited
from probes.pairs.substitutions import Substitution

MULTIPLE = 8
"""Sides are cut to multiples of this many pixels; of twice as many for transformers, which join latents two by two."""


@dataclass(frozen=True)
class InpaintSettings:
    """How a region is drawn. The defaults are those of V-SEAM's released code.

    Args:
        negative_prompt: what the picture should not look like.
        steps: of denoising, each one pass (two with guidance).
        guidance: how strongly the prompt counts (classifier-free guidance scale).
        strength: 1 starts from noise alone, less (above 0) from the image.
        seed: of the noise.

    Raises:
        ValueError: ``steps`` below 1, and a ``strength`` outside 0 to 1.
    """

    negative_prompt: str = "low quality, blurry"
    steps: int = 50
    guidance: float = 7.5
    strength: float = 1.0
    seed: int = 42

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.strength <= 1:
            raise ValueError(
                f"steps={self.steps}, strength={self.strength}; expected steps >= 1 and 0 < strength <= 1."
            )


@public
def load_inpainting(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    scheduler: str = "unipc",
) -> Any:
    """A diffusers inpainting pipeline (Stable Diffusion 1, 2, XL, 3, Flux, ...) from a hub id or a local directory.

    Weights are read from safetensors only, and no code of the directory is run. The pipeline's safety checker stays as
    it is; V-SEAM takes it out.

    Args:
        source: a hub id, or the directory of a saved pipeline.
        dtype: of the weights; half precision is for GPUs.
        device: where it runs.
        scheduler: "unipc", V-SEAM's, where the pipeline's own is compatible with it (flow-matching ones are not, and
            stay); "own" leaves the pipeline's.

    Raises:
        ImportError: diffusers is missing.
        FileNotFoundError: a directory that does not exist.
        ValueError: a directory that holds no inpainting pipeline.

    >>> pipeline = load_inpainting("stable-diffusion-v1-5/stable-diffusion-inpainting",
    ...                            dtype=torch.float16, device="cuda")  # doctest: +SKIP
    """
    if scheduler not in ("unipc", "own"):
        raise ValueError(f"scheduler={scheduler!r}; expected 'unipc' or 'own'.")
    place = weights_place(source, "model_index.json")
    try:
        from diffusers import AutoPipelineForInpainting, UniPCMultistepScheduler
    except ImportError as error:
        raise ImportError(f"inpainting needs diffusers: {install_extra('images')}") from error
    try:
        pipeline = AutoPipelineForInpainting.from_pretrained(place, use_safetensors=True)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{source} could not be loaded as an inpainting pipeline ({error}). Expected a diffusers pipeline with "
            "safetensors weights; without network, download it elsewhere and give its directory."
        ) from error
    if scheduler == "unipc" and UniPCMultistepScheduler in pipeline.scheduler.compatibles:
        pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, dtype)


def inpaint(
    image: ImageLike,
    region: RegionLike,
    prompt: str,
    pipeline: Any,
    settings: InpaintSettings = InpaintSettings(),
) -> PhotoEdit:
    """The region drawn anew after the prompt ("a green cup"); every other pixel stays as it was.

    As V-SEAM's release does (arXiv 2509.14837, Visual-SemanticEdit): image and mask are resized down to multiples of 8
    pixels, masked pixels are zeroed, the pipeline draws at that size, and the result is resized back (Lanczos).
    Different here: V-SEAM draws with PowerPaint v2 (BrushNet on Realistic Vision 6), which is not in diffusers, with
    the prompt in its three places; here any inpainting pipeline draws, once. The unmasked pixels of the original are
    pasted back: an autoencoder changes them all a little, so V-SEAM's edited images differ from the originals
    everywhere. The seed's noise is drawn on the CPU, the same on every device. Masks are resized without smoothing.

    Cost: ``steps`` passes (twice that with guidance) of the pipeline's network: seconds on a GPU, minutes on a CPU.

    Raises ``ValueError`` for a blank prompt, an image smaller than 8 pixels, a pipeline that takes no mask, and where
    the pipeline's safety checker blanked the result.
    """
    picture = read_image(image)
    checked = region_of(picture, region)
    if not prompt.strip():
        raise ValueError("the prompt is blank; expected what to draw in the region, such as 'a green cup'.")
    multiple = MULTIPLE if getattr(pipeline, "transformer", None) is None else 2 * MULTIPLE
    width, height = (side // multiple * multiple for side in picture.size)
    if not width or not height:
        raise ValueError(
            f"the image is {picture.width} x {picture.height}; expected at least {multiple} pixels a side."
        )
    size = (width, height)
    mask = Image.fromarray(checked.pixels).convert("L").resize(size, Image.Resampling.NEAREST)
    if not mask.getbbox():
        raise ValueError("the mask is too thin to survive resizing to a multiple of 8 pixels; make it wider.")
    small = np.array(picture.resize(size))
    small[np.asarray(mask) > 0] = 0
    wanted = {
        "prompt": prompt,
        "negative_prompt": settings.negative_prompt,
        "image": Image.fromarray(small),
        "mask_image": mask,
        "width": width,
        "height": height,
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "strength": settings.strength,
        "generator": torch.Generator("cpu").manual_seed(settings.seed),
    }
    taken = _taken(pipeline, wanted)
    result = pipeline(**{name: wanted[name] for name in taken})
    if any(getattr(result, "nsfw_content_detected", None) or []):
        raise ValueError(
            "the pipeline's safety checker blanked the result. Change the prompt, the mask or the seed, or load a "
            "pipeline without a checker."
        )
    drawn = result.images[0].convert("RGB")
    if drawn.size != size:
        raise ValueError(
            f"the pipeline drew {drawn.size} pixels where {size} were asked for; resize the image to suit it."
        )
    drawn = drawn.resize(picture.size, Image.Resampling.LANCZOS)
    how = {
        "edit": "inpaint",
        "prompt": prompt,
        **asdict(settings),
        "pipeline": type(pipeline).__name__,
        "weights": Path(str(getattr(pipeline.config, "_name_or_path", ""))).name,
        "scheduler": type(pipeline.scheduler).__name__,
        "drawn_at": list(size),
        "not_taken": sorted(set(wanted) - set(taken)),
    }
    return edited(picture, checked, np.asarray(drawn)[checked.pixels], how)


@dataclass(frozen=True)
class Inpainter:
    """An editor for :func:`probes.pairs.photo_pairs.edit_photo`: draws the substitution's prompt, or its new word.

    Args:
        pipeline: as :func:`load_inpainting` loads it.
        settings: how a region is drawn; by default as V-SEAM does.
        prompt: a template with ``{new}``, where the substitution has no prompt of its own.
        background: what is asked for where something is taken away.
    """

    pipeline: Any
    settings: InpaintSettings = InpaintSettings()
    prompt: str = "a photo of {new}"
    background: str = "empty background, nothing there"

    def __call__(self, image: Image.Image, region: Region, substitution: Substitution | None) -> PhotoEdit:
        if substitution is None:
            prompt = self.background
        else:
            prompt = substitution.prompt or self.prompt.format(new=substitution.new)
        return inpaint(image, region, prompt, self.pipeline, self.settings)


def _taken(pipeline: Any, wanted: dict[str, Any]) -> list[str]:
    """The arguments that the pipeline takes; ``ValueError`` where it can't inpaint."""
    names = inspect.signature(type(pipeline).__call__).parameters
    needed = ("prompt", "image", "mask_image")
    if missing := [name for name in needed if name not in names]:
        raise ValueError(
            f"{type(pipeline).__name__} takes no {' and no '.join(missing)}; expected an inpainting pipeline "
            "of diffusers, as load_inpainting loads it."
        )
    return [name for name in wanted if name in names]

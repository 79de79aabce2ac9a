"""`read_image`: a picture from a file or from memory as plain RGB, checked first."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from interp.door import public

MOST_MEGAPIXELS = 64
ImageLike = str | Path | Image.Image


@public
def read_image(source: ImageLike) -> Image.Image:
    """The picture as 8-bit RGB, turned upright where a camera's EXIF record says how it was held.

    Greyscale and palette pictures are converted (16-bit greyscale by dividing by 257). Transparent ones are laid on
    white, with a warning: what was under the transparency is not seen by the model. The picture given is not changed.

    ``source``: a path, or a picture of Pillow.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: a file that Pillow can't read, one that ends too early, one with several frames or pages (GIF, TIFF,
            ...), more than 64 megapixels, and 32-bit pixel values, whose range nothing tells.

    >>> image = interp.read_image("kitchen.jpg")
    """
    if isinstance(source, Image.Image):
        return _as_rgb(source, "the image")
    if not isinstance(source, str | Path):
        raise ValueError(f"an image was given as {type(source).__name__}; expected a path or a PIL.Image.Image.")
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        raise ValueError(
            f"{source[:80]!r} is an address; nothing is downloaded here. Save the picture and give its path."
        )
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such image file. Check the path, and the folder it is relative to ({os.getcwd()})."
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected an image file in it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # sizes are checked below
            with Image.open(path) as image:
                return _as_rgb(image, str(path))
    except UnidentifiedImageError:
        raise ValueError(
            f"{path} is no image that Pillow can read ({path.stat().st_size} bytes). Expected PNG, JPEG, WebP, BMP, ..."
        ) from None
    except Image.DecompressionBombError:
        raise ValueError(_too_large(str(path), "more than 178")) from None


def image_sha256(image: Image.Image) -> str:
    """The hash of an RGB picture's size and pixels: the same whatever file format they came from."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MOST_MEGAPIXELS * 1_000_000:
        raise ValueError(_too_large(name, f"{image.width} x {image.height} = {image.width * image.height / 1e6:.0f}"))
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's JPEG with a preview beside the picture
        raise ValueError(
            f"{name} has {frames} frames or pages; expected one picture. Choose one: image.seek(0), then "
            "image.convert('RGB')."
        )
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{name} is damaged or ends too early ({error}). Get the file again.") from error
    if image.mode in ("I", "F"):
        raise ValueError(f"{name} has 32-bit pixel values (mode {image.mode!r}); give it scaled to 8 bits.")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((_sixteen_bit(image) / 257).round().astype("uint8"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            warnings.warn(f"{name} is transparent in places; it was laid on white.", stacklevel=4)
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _sixteen_bit(image: Image.Image):
    import numpy as np

    return np.asarray(image).astype("float64")


def _too_large(name: str, megapixels: str) -> str:
    return (
        f"{name} has {megapixels} megapixels; expected at most {MOST_MEGAPIXELS}. Models see a few hundred pixels a "
        "side: make it smaller (image.resize)."
    )

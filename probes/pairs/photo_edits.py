"""Edits of a photograph inside a region that need no model: another colour, another texture, or gone.

Every edit gives a :class:`PhotoEdit`, and changes no pixel outside its region.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from interp.door import public
from interp.door.brief import brief
from interp.sources import install_extra
from interp.vision import ImageLike, image_sha256, read_image
from probes.pairs.masks import RegionLike, region_of

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (200, 30, 35),
    "green": (40, 140, 55),
    "blue": (40, 80, 200),
    "yellow": (245, 215, 40),
    "orange": (240, 130, 30),
    "purple": (120, 50, 150),
    "pink": (245, 150, 185),
    "brown": (115, 70, 35),
    "black": (25, 25, 25),
    "white": (242, 242, 240),
    "gray": (128, 128, 128),
}
"""The basic colours, as sRGB."""

MOST_UNKNOWN = 30_000
"""Pixels that :func:`remove` solves for at once (about 1 s): a larger region is filled at a lower resolution."""

_GREY = 12.0  # chroma below which a surface has no colour of its own


@dataclass(frozen=True)
class PhotoEdit:
    """A photograph before and after one edit.

    Args:
        before, after: the images, of one size.
        region: True where the edit could change pixels.
        how: the edit's settings, the mask's origin, hashes (JSON types).
        cautions: what a person should look at before the pair is used.
    """

    before: Image.Image
    after: Image.Image
    region: Bool[np.ndarray, "height width"]
    how: Mapping[str, Any]
    cautions: tuple[str, ...] = ()

    __repr__ = brief

    @property
    def changed(self) -> float:
        """The share of the region's pixels that are not what they were, 0 to 1."""
        differs = (np.asarray(self.before) != np.asarray(self.after)).any(axis=-1)
        return float(differs[self.region].mean())


@public
def recolour(
    image: ImageLike,
    region: RegionLike,
    colour: str | tuple[int, int, int],
    lightness: Literal["keep", "match"] = "keep",
) -> PhotoEdit:
    """The region in another colour, with its light and shade.

    In CIE L*a*b*: the hue becomes that of ``colour``, the chroma too, as far as sRGB holds it at the pixel's lightness.
    Pixels that are greyer than the rest of a coloured region (reflections, metal) stay as much greyer.

    All that is in the region changes: a box also colours what stands beside the thing in it; SAM's mask does not.

    Args:
        image: the photograph, or its path.
        region: which pixels change.
        colour: the name of a basic colour, or (red, green, blue), 0 to 255.
        lightness: "keep" leaves L* as it was; "match" moves the region's median to that of ``colour``, without which
            nothing can become black, white or gray, nor a dark thing yellow: a caution says where it now looks like
            another basic colour.

    Raises:
        ValueError: other colours, and black, white and gray with ``lightness="keep"``.
    """
    require_scikit_image()
    picture = read_image(image)
    checked = region_of(picture, region)
    name, rgb = _colour(colour)
    if lightness not in ("keep", "match"):
        raise ValueError(f"lightness={lightness!r}; expected 'keep' or 'match'.")
    target = _to_lab(np.array([rgb]))[0]
    target_chroma = float(np.hypot(*target[1:]))
    if target_chroma < _GREY and lightness == "keep":
        raise ValueError(f"{name} is a matter of lightness, which 'keep' does not change; give lightness='match'.")
    lab = _to_lab(np.asarray(picture)[checked.pixels])
    light = lab[:, 0] if lightness == "keep" else _moved(lab[:, 0], float(target[0]))
    chroma = target_chroma * _colourfulness(lab)
    chroma = np.minimum(chroma, _most_chroma(light, target))
    direction = target[1:] / max(target_chroma, 1e-6)
    new = np.column_stack([light, chroma[:, None] * direction])
    looks = nearest_colour(new.mean(axis=0))
    how = {"edit": "recolour", "colour": name, "rgb": list(rgb), "lightness": lightness, "looks": looks}
    cautions = []
    if name in COLOURS and looks != name:
        remedy = "; try lightness='match'" if lightness == "keep" else ""
        cautions.append(f"asked for {name}, the region now looks rather {looks}{remedy}")
    return edited(picture, checked, _to_rgb(new), how, cautions)


@public
def remove(image: ImageLike, region: RegionLike) -> PhotoEdit:
    """The region filled smoothly from around it (biharmonic inpainting: Damelin and Hoang 2018, in scikit-image).

    Good on even surroundings, a smear on textured ones: a caution says so where the surroundings vary much. It draws
    nothing: to put another thing in a thing's place, inpaint. A region of more than 30,000 pixels is solved at a lower
    resolution in a crop around it, which takes under 2 s whatever its size. Values stay within those of the ring
    around the region: the biharmonic surface would overshoot.

    Args:
        image: the photograph, or its path.
        region: which pixels are filled.

    Raises:
        ValueError: a region that leaves less than a tenth of the image.
    """
    require_scikit_image()
    from skimage.restoration import inpaint_biharmonic
    from skimage.transform import resize

    picture = read_image(image)
    checked = region_of(picture, region)
    if checked.share > 0.9:
        raise ValueError(f"the region covers {checked.share:.0%} of the image: nothing is left to fill it from.")
    rows, columns = _crop(checked.pixels)
    pixels = np.asarray(picture)[rows, columns] / 255
    unknown = checked.pixels[rows, columns]
    factor = int(np.ceil(np.sqrt(unknown.sum() / MOST_UNKNOWN)))
    small, holes = _shrunk(pixels, unknown, factor)
    filled = inpaint_biharmonic(small, holes, channel_axis=-1) if holes.any() else small
    ring = _ring(unknown, max(3, factor))
    low, high = pixels[ring].min(axis=0), pixels[ring].max(axis=0)
    height, width = pixels.shape[:2]
    whole = (small.shape[0] * factor, small.shape[1] * factor)
    large = filled if factor == 1 else resize(filled, whole, order=1, mode="edge")[:height, :width]
    values = np.clip(large, low, high)[unknown]
    how = {"edit": "remove", "method": "biharmonic", "downscaled": factor}
    spread = float(pixels[ring].mean(axis=-1).std())
    cautions = (
        [f"its surroundings vary much (standard deviation {spread:.2f}): a smear is likely"] if spread > 0.1 else []
    )
    return edited(picture, checked, np.round(values * 255).astype(np.uint8), how, cautions)


@public
def swap_texture(image: ImageLike, region: RegionLike, texture: ImageLike, name: str = "") -> PhotoEdit:
    """The region covered with a texture (a picture of brick, grass, cloth), tiled, under the region's own light.

    The light is the region's lightness, blurred over a tenth of the region; the texture's lightness is added to it
    around zero, and its colour taken. Flat: it does not follow the object's surface.

    Args:
        image: the photograph, or its path.
        region: which pixels change.
        texture: the picture that is tiled, in its own pixels.
        name: of the texture, for provenance.

    Raises:
        ImportError: scikit-image is missing.
    """
    require_scikit_image()
    from skimage.filters import gaussian

    picture, cloth = read_image(image), read_image(texture)
    checked = region_of(picture, region)
    rows, columns = _bounds(checked.pixels)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    repeats = (-(-height // cloth.height), -(-width // cloth.width), 1)
    tiled = _to_lab(np.tile(np.asarray(cloth), repeats)[:height, :width])
    lab = _to_lab(np.asarray(picture)[rows, columns])
    inside = checked.pixels[rows, columns]
    blur = max(1.0, 0.1 * float(np.sqrt(inside.sum())))
    weight = gaussian(inside.astype(float), blur)
    light = gaussian(np.where(inside, lab[..., 0], 0.0), blur) / np.maximum(weight, 1e-6)
    tiled[..., 0] = np.clip(light + tiled[..., 0] - tiled[..., 0].mean(), 0, 100)
    how = {"edit": "swap_texture", "texture": name, "texture_sha256": image_sha256(cloth)}
    return edited(picture, checked, _to_rgb(tiled[inside]), how)


def edited(
    picture: Image.Image,
    region: RegionLike,
    values: np.ndarray,
    how: Mapping[str, Any],
    cautions: list[str] | tuple[str, ...] = (),
) -> PhotoEdit:
    """The edit that puts ``values`` (uint8 [pixel of the region, 3], row by row) into the region and changes nothing
    else."""
    checked = region_of(picture, region)
    after = np.array(picture)
    after[checked.pixels] = values
    image = Image.fromarray(after)
    record = {
        **how,
        "region": dict(checked.how),
        "region_share": round(checked.share, 5),
        "before_sha256": image_sha256(picture),
        "after_sha256": image_sha256(image),
    }
    edit = PhotoEdit(picture, image, checked.pixels, record, tuple(cautions))
    if edit.changed < 0.05:
        few = f"only {edit.changed:.1%} of the region's pixels changed"
        edit = PhotoEdit(picture, image, checked.pixels, record, (*cautions, few))
    return edit


def require_scikit_image() -> None:
    """Raise ``ImportError`` with the remedy where scikit-image, which is optional, is not installed."""
    if importlib.util.find_spec("skimage") is None:
        raise ImportError(f"edits of photographs need scikit-image: {install_extra('images')}")


def nearest_colour(lab: Float[np.ndarray, " 3"]) -> str:
    """The basic colour nearest to a CIE L*a*b* value, by Euclidean distance."""
    names = list(COLOURS)
    distances = np.linalg.norm(_to_lab(np.array([COLOURS[n] for n in names])) - lab, axis=-1)
    return names[int(distances.argmin())]


def _colour(colour: str | tuple[int, int, int]) -> tuple[str, tuple[int, int, int]]:
    if isinstance(colour, str):
        name = {"grey": "gray"}.get(colour.strip().casefold(), colour.strip().casefold())
        if name not in COLOURS:
            raise ValueError(f"colour={colour!r}; expected one of {', '.join(COLOURS)}, or (red, green, blue).")
        return name, COLOURS[name]
    if len(colour) != 3 or not all(0 <= c <= 255 for c in colour):
        raise ValueError(f"colour={colour!r}; expected (red, green, blue), each 0 to 255, or a basic colour's name.")
    red, green, blue = (int(c) for c in colour)
    return f"rgb({red}, {green}, {blue})", (red, green, blue)


def _colourfulness(lab: Float[np.ndarray, "pixel 3"]) -> Float[np.ndarray, " pixel"]:
    """How much of the new colour each pixel takes, 0 to 1: as much less as its saturation (chroma over lightness, so
    that shade does not count) is below the region's median, if the region has a colour at all."""
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    saturation = chroma / (lab[:, 0] + 5)
    weight = min(1.0, float(np.median(chroma)) / (2 * _GREY))
    return 1 - weight + weight * np.minimum(1.0, saturation / max(float(np.median(saturation)), 1e-6))


def _moved(light: Float[np.ndarray, " pixel"], to: float) -> Float[np.ndarray, " pixel"]:
    """Lightness with its median moved to ``to``; contrast above and below it shrinks as far as 0 to 100 asks (98 % of
    pixels fit)."""
    offset = light - np.median(light)
    low, high = np.percentile(offset, [1, 99])
    up, down = min(1.0, (100 - to) / max(float(high), 1e-6)), min(1.0, to / max(-float(low), 1e-6))
    return np.clip(to + np.where(offset > 0, up, down) * offset, 0, 100)


def _most_chroma(light: Float[np.ndarray, " pixel"], target: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " pixel"]:
    """The largest chroma that sRGB holds at each lightness and the target's hue, by bisection on a table of L*."""
    from skimage.color.colorconv import rgb_from_xyz

    grid = np.linspace(0, 100, 201)
    direction = target[1:] / max(float(np.hypot(*target[1:])), 1e-6)
    low, high = np.zeros_like(grid), np.full_like(grid, 150.0)
    for _ in range(20):
        middle = (low + high) / 2
        linear = _to_xyz(np.column_stack([grid, middle[:, None] * direction])) @ rgb_from_xyz.T
        fits = ((linear >= -1e-4) & (linear <= 1 + 1e-4)).all(axis=-1)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return np.interp(light, grid, low)


def _to_xyz(lab: Float[np.ndarray, "row 3"]) -> Float[np.ndarray, "row 3"]:
    """CIE L*a*b* to XYZ (D65, 2 degrees), without scikit-image's clipping of what no display shows."""
    y = (lab[:, 0] + 16) / 116
    f = np.column_stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200])
    return np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2) * (0.95047, 1.0, 1.08883)


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2lab

    return rgb2lab(np.asarray(rgb, dtype=np.uint8))


def _to_rgb(lab: np.ndarray) -> np.ndarray:
    from skimage.color import lab2rgb

    return np.round(lab2rgb(lab) * 255).astype(np.uint8)


def _bounds(region: Bool[np.ndarray, "height width"]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _crop(region: Bool[np.ndarray, "height width"]) -> tuple[slice, slice]:
    """The region's bounds and a margin of a quarter of them, at least 12 pixels, inside the image."""
    cut = []
    for bound, size in zip(_bounds(region), region.shape, strict=True):
        margin = max(12, (bound.stop - bound.start) // 4)
        cut.append(slice(max(0, bound.start - margin), min(size, bound.stop + margin)))
    return cut[0], cut[1]


def _shrunk(
    pixels: Float[np.ndarray, "height width 3"], unknown: Bool[np.ndarray, "height width"], factor: int
) -> tuple[Float[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """Means of blocks of factor x factor over their known pixels, and which blocks have none."""
    if factor == 1:
        return pixels, unknown
    padding = [(0, -size % factor) for size in unknown.shape]
    known = np.pad((~unknown).astype(float), padding)
    sums = np.pad(np.where(unknown[..., None], 0.0, pixels), [*padding, (0, 0)])
    blocks = (known.shape[0] // factor, factor, known.shape[1] // factor, factor)
    counts = known.reshape(blocks).sum(axis=(1, 3))
    total = sums.reshape(*blocks, 3).sum(axis=(1, 3))
    return total / np.maximum(counts, 1)[..., None], counts == 0


def _ring(unknown: Bool[np.ndarray, "height width"], width: int) -> Bool[np.ndarray, "height width"]:
    from scipy.ndimage import binary_dilation

    return binary_dilation(unknown, iterations=width) & ~unknown

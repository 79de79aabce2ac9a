"""What is about a place in a picture, drawn on the picture: where a head looks, and what it reads there for the answer.

Colours lie on the picture in grey, so that they are the scale's alone; a patch with nothing is clear. Functions return
plotly figures that hold the pixels themselves, and never show them.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from PIL import Image
from plotly.subplots import make_subplots

from interp.door.brief import brief
from interp.figures import (
    MARKER_COLORS,
    NEGATIVE,
    POSITIVE,
    finish,
    head_label,
    wrapped,
)
from interp.overlays.patches import Box, covered, require_grid
from interp.reading import Attribution, LogitDifference, attribute
from interp.vision import ImageLike, image_sha256, read_image

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

_PANEL = 250  # pixels of a picture's height on the page
_TEXT = 60  # below it
_SHARP = 480  # a smaller picture is enlarged pixel by pixel, since browsers blur
_OUTLINE = ("#111111", "#ffdd00")  # dark under bright: seen on any picture


@dataclass(frozen=True, eq=False)
class HeadMaps:
    """Some heads at the answer position of one prompt, patch by patch of its picture.

    ``attention``: the head's attention to the patch; ``contribution``: what it reads there toward ``metric``, directly,
    in logits (:func:`interp.reading.attribution.attribute`). ``elsewhere``: the sums over all other tokens, [head,
    (attention, contribution)]. ``box``: the part of the picture that the patches cover. ``picture_sha256``: of its
    pixels.
    """

    heads: tuple[tuple[int, int], ...]
    attention: Float[np.ndarray, "head row column"]
    contribution: Float[np.ndarray, "head row column"]
    elsewhere: Float[np.ndarray, "head 2"]
    metric: str
    title: str
    box: Box
    picture_sha256: str

    __repr__ = brief

    def plot(self, picture: ImageLike) -> go.Figure:
        """A row for each head: the picture, the head's attention on it, and its signed contribution. Both scales are
        one for all heads; that of contributions is centred at zero.

        Raises:
            ValueError: another picture than the prompt's.
        """
        shown = read_image(picture)
        if image_sha256(shown) != self.picture_sha256:
            raise ValueError(
                f"the picture given ({shown.width} x {shown.height}) is not the prompt's: its pixels differ. Give "
                "the one that the prompt was built with."
            )
        columns = ["the picture", "attention", f"contribution to {html.escape(self.metric)}"]
        n = len(self.heads)
        height = n * (_PANEL + _TEXT)
        titles = columns + [""] * (3 * (n - 1))
        figure = make_subplots(
            n,
            3,
            subplot_titles=titles,
            horizontal_spacing=0.02,
            vertical_spacing=_TEXT / max(height, 1) if n > 1 else 0,
        )
        faded = _faded(shown)
        for row, head in enumerate(self.heads, start=1):
            number = 3 * row - 2
            for place, image in enumerate((shown, faded, faded)):
                _lay(figure, image, number + place, row, place + 1)
            for place, (axis, values) in enumerate(
                (("coloraxis", self.attention[row - 1]), ("coloraxis2", self.contribution[row - 1])), start=2
            ):
                _lay_patches(figure, values, self.box, axis, ("", "attention", "contribution")[place - 1], row, place)
            in_picture = (self.attention[row - 1].sum(), self.contribution[row - 1].sum())
            away = self.elsewhere[row - 1]
            texts = (
                f"<b>{head_label(*head)}</b>",
                f"{in_picture[0]:.0%} on the picture,<br>{away[0]:.0%} on text",
                f"{in_picture[1]:+.2g} from the picture,<br>{away[1]:+.2g} from text".replace("-", "\u2212"),
            )
            for place, text in enumerate(texts, start=1):
                figure.update_xaxes(title={"text": text, "standoff": 4, "font": {"size": 12}}, row=row, col=place)
        most = float(self.attention.max()) or 1.0
        reach = float(np.abs(self.contribution).max()) or 1.0
        bar = {"thickness": 10, "outlinewidth": 0, "len": 0.5, "lenmode": "fraction", "yanchor": "middle"}
        figure.update_layout(
            coloraxis={
                "colorscale": [[0, _rgba(MARKER_COLORS[0], 0)], [1, _rgba(MARKER_COLORS[0], 0.95)]],
                "cmin": 0,
                "cmax": most,
                "colorbar": bar | {"y": 0.76, "title": {"text": "attention", "side": "right"}},
            },
            coloraxis2={
                "colorscale": [[0, _rgba(NEGATIVE, 0.95)], [0.5, _rgba("#f2f2f2", 0)], [1, _rgba(POSITIVE, 0.95)]],
                "cmin": -reach,
                "cmax": reach,
                "colorbar": bar | {"y": 0.24, "title": {"text": "logits", "side": "right"}},
            },
            height=height + 84,
        )
        return _finished(figure, self.title)


def read_head_maps(
    model: Model, prompt: Prompt, heads: Sequence[tuple[int, int]], metric: LogitDifference, title: str = ""
) -> HeadMaps:
    """Attention and direct contribution of some heads, from the answer position to the patches of the prompt's picture.

    One forward pass. A patch's position also holds what its vision tower mixed in from other patches, and what earlier
    layers moved there: a head that looks at a patch may read something else than what is seen there.

    Raises:
        ValueError: image positions that are no patches (``grid`` None), heads out of range, and as
            :func:`interp.attribute`.
    """
    require_grid(prompt)
    for layer, head in heads:
        if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
            raise ValueError(
                f"head {head_label(layer, head)} is out of range: {model.name} has layers 0..{model.n_layers - 1} and "
                f"heads 0..{model.n_heads - 1}."
            )
    if not heads:
        raise ValueError("no heads were given; give at least one (layer, head).")
    return _maps(model, prompt, attribute(model, prompt, metric), heads, title)


def read_strongest_maps(
    model: Model, prompt: Prompt, metric: LogitDifference, n_for: int = 2, n_against: int = 1, title: str = ""
) -> HeadMaps:
    """:func:`read_head_maps` of the ``n_for`` heads that read most from the picture toward ``metric``, summed over its
    patches, the first of them first; then of the ``n_against`` that read most against it.

    One forward pass. A head is in it only if it has that sign, so there can be fewer. The strongest of many heads are
    strong in part by chance: these are examples to look at, of one prompt.

    Raises:
        ValueError: numbers below 0 or both 0, where no head reads anything from the picture, and as
            :func:`read_head_maps`.

    >>> read_strongest_maps(model, prompt, LogitDifference("red", "blue")).plot(picture)
    """
    if min(n_for, n_against) < 0 or n_for + n_against < 1:
        raise ValueError(f"n_for={n_for}, n_against={n_against}; expected 0 or more heads each, and at least one.")
    require_grid(prompt)
    split = attribute(model, prompt, metric)
    from_picture = split.by_token[:, :, list(prompt.span("image"))].sum(-1)  # [layer, head]
    order = np.argsort(from_picture, axis=None, kind="stable")  # ascending
    signed = [(int(i), float(from_picture.ravel()[i])) for i in order]
    most = [i for i, value in reversed(signed) if value > 0][:n_for]
    least = [i for i, value in signed if value < 0][:n_against]
    heads = [divmod(i, model.n_heads) for i in (*most, *least)]
    if not heads:
        wanted = " or ".join(["for"] * (n_for > 0) + ["against"] * (n_against > 0))
        raise ValueError(f"no head of {model.name} reads anything from the picture {wanted} {metric}.")
    return _maps(model, prompt, split, heads, title)


def _maps(model: Model, prompt: Prompt, split: Attribution, heads: Sequence[tuple[int, int]], title: str) -> HeadMaps:
    """Some heads' rows of an attribution, laid out by the patches of the picture."""
    at = list(prompt.span("image"))
    chosen = tuple(np.array(heads).T)
    found = {"attention": split.attention[chosen], "contribution": split.by_token[chosen]}  # [head, token]
    away = [values.sum(1) - values[:, at].sum(1) for values in found.values()]
    return HeadMaps(
        heads=tuple((int(layer), int(head)) for layer, head in heads),
        **{name: values[:, at].reshape(len(heads), *prompt.image.grid) for name, values in found.items()},
        elsewhere=np.stack(away, axis=1),
        metric=split.metric,
        title=title or prompt.id,
        box=covered(model, prompt),
        picture_sha256=prompt.image.sha256,
    )


def pair_figure(
    before: ImageLike,
    after: ImageLike,
    region: Bool[np.ndarray, "height width"],
    captions: tuple[str, str] = ("before", "after"),
    title: str = "",
) -> go.Figure:
    """A picture and its edited twin side by side, the edited region outlined in both.

    Raises:
        ValueError: pictures of two sizes, and a region of another size or empty.
    """
    pictures = [read_image(before), read_image(after)]
    size = {(p.height, p.width) for p in pictures} | {np.shape(region)}
    if len(size) > 1 or region.dtype != bool or not region.any():
        raise ValueError(
            f"pictures and region have sizes {sorted(size)} (height, width), region {region.dtype} with "
            f"{int(np.count_nonzero(region))} pixels; expected one size for all, and a region that is not empty."
        )
    figure = make_subplots(1, 2, horizontal_spacing=0.03, subplot_titles=[html.escape(c) for c in captions])
    padded = np.pad(region, 1).astype(np.float32)
    edge = {"z": padded, "x0": -0.5, "y0": -0.5, "hoverinfo": "skip", "showscale": False, "showlegend": False}
    level = {"start": 0.5, "end": 0.5, "size": 1, "coloring": "none"}
    for place, picture in enumerate(pictures, start=1):
        _lay(figure, picture, place, 1, place)
        for width, color in zip((4.5, 2), _OUTLINE, strict=True):
            figure.add_contour(contours=level, line={"width": width, "color": color}, **edge, row=1, col=place)
    return _finished(figure.update_layout(height=_PANEL + 100), title)


def picture_map(
    picture: ImageLike,
    maps: Mapping[str, Float[np.ndarray, "row column"]],
    box: Box | None = None,
    title: str = "",
    unit: str = "",
) -> go.Figure:
    """Any signed values of patches over the picture, a panel for each name, on one scale centred at zero.

    ``box``: the part of the picture that the patches cover (:func:`interp.overlays.patches.covered`); None: all of it.

    Raises:
        ValueError: no maps, or one that is not [row, column].
    """
    shown = read_image(picture)
    box = box or Box(0.0, 0.0, float(shown.width), float(shown.height))
    if not maps or any(np.ndim(values) != 2 for values in maps.values()):
        raise ValueError("expected one or more maps, each [row, column] over the patches.")
    reach = max(float(np.abs(values).max()) for values in maps.values()) or 1.0
    names = ["the picture", *(html.escape(name) for name in maps)]
    figure = make_subplots(1, len(names), horizontal_spacing=0.02, subplot_titles=names)
    _lay(figure, shown, 1, 1, 1)
    faded = _faded(shown)
    for place, (name, values) in enumerate(maps.items(), start=2):
        _lay(figure, faded, place, 1, place)
        _lay_patches(figure, np.asarray(values, dtype=float), box, "coloraxis", html.escape(name), 1, place)
    bar = {"thickness": 10, "outlinewidth": 0, "title": {"text": html.escape(unit), "side": "right"}}
    scale = [[0, _rgba(NEGATIVE, 0.95)], [0.5, _rgba("#f2f2f2", 0)], [1, _rgba(POSITIVE, 0.95)]]
    axis = {"colorscale": scale, "cmin": -reach, "cmax": reach, "colorbar": bar}
    return _finished(figure.update_layout(coloraxis=axis, height=_PANEL + 90), title)


def _lay(figure: go.Figure, picture: Image.Image, number: int, row: int, column: int) -> None:
    """A picture under a panel whose axes are its pixels, the row counted downwards."""
    refs = ("x", "y") if number == 1 else (f"x{number}", f"y{number}")
    figure.add_layout_image(
        source=_data_uri(picture),
        xref=refs[0],
        yref=refs[1],
        x=0,
        y=0,
        sizex=picture.width,
        sizey=picture.height,
        sizing="stretch",
        layer="below",
    )
    hidden = {"showgrid": False, "zeroline": False, "showticklabels": False, "constrain": "domain"}
    figure.update_xaxes(range=[0, picture.width], row=row, col=column, **hidden)
    figure.update_yaxes(range=[picture.height, 0], scaleanchor=refs[0], scaleratio=1, row=row, col=column, **hidden)


def _lay_patches(
    figure: go.Figure, values: Float[np.ndarray, "row column"], box: Box, axis: str, name: str, row: int, column: int
) -> None:
    rows, columns = values.shape
    figure.add_heatmap(
        z=values,
        x=np.linspace(box.left, box.right, columns + 1),
        y=np.linspace(box.top, box.bottom, rows + 1),
        coloraxis=axis,
        customdata=np.stack(np.indices(values.shape), axis=-1),
        hovertemplate=f"row %{{customdata[0]}}, column %{{customdata[1]}}<br>{name} %{{z:.3g}}<extra></extra>",
        row=row,
        col=column,
    )


def _faded(picture: Image.Image) -> Image.Image:
    """In grey and paler, for colours to lie on."""
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    return Image.fromarray((96 + grey * (239 - 96) / 255).astype(np.uint8)).convert("RGB")


def _data_uri(picture: Image.Image) -> str:
    times = max(1, round(_SHARP / max(picture.size)))
    enlarged = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    enlarged.thumbnail((2 * _SHARP, 2 * _SHARP))
    buffer = io.BytesIO()
    enlarged.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _rgba(color: str, alpha: float) -> str:
    return f"rgba({', '.join(str(int(color[k : k + 2], 16)) for k in (1, 3, 5))}, {alpha:g})"


def _finished(figure: go.Figure, title: str) -> go.Figure:
    figure.update_annotations(font_size=13)
    margin = {"t": 74 if title else 40, "b": 24}
    return finish(figure.update_layout(title_text=wrapped(title) if title else None, margin=margin))

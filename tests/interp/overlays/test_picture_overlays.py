"""What is drawn on pictures lies where it belongs: patches, masks, outlines; scales are shared and centred."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

import interp
from interp.figures import heads_by_level, overlap_matrix
from interp.figures.style import TEMPLATES
from interp.overlays.overlays import HeadMaps, pair_figure, picture_map, read_head_maps, read_strongest_maps
from interp.overlays.patches import Box, covered, mask_share, patch_positions
from interp.reading.attribution import attribute
from tests.interp.tiny_vision import picture, tiny_vision

METRIC = interp.LogitDifference("No", "Yes")


def load(name: str) -> interp.Model:
    made = tiny_vision(name)
    return interp.load(made.hf, processor=made.processor)


@pytest.fixture(scope="module")
def llava() -> interp.Model:
    return load("llava")


def ask(model: interp.Model, image: Image.Image, **options) -> interp.Prompt:
    return model.prompt("Is the sky blue?", image=image, answers=("No", "Yes"), gold="Yes", **options)


def test_patches_cover_what_the_processor_shows(llava):
    """CLIP's processor scales the shorter side to 16 pixels and cuts out the middle: a square of the shorter side."""
    assert covered(llava, ask(llava, picture(0, (32, 32)))) == Box(0, 0, 32, 32)
    wide = covered(llava, ask(llava, picture(0, (60, 20))))
    assert wide == pytest.approx(Box(20, 0, 40, 20))
    tall = covered(llava, ask(llava, picture(0, (20, 30))))
    assert tall == pytest.approx(Box(0, 5, 20, 25))


def test_masks_find_their_patches(llava):
    """A grid of 4 x 4 over 32 x 32 pixels: eight pixels a patch."""
    prompt = ask(llava, picture(0, (32, 32)))
    assert prompt.image.grid == (4, 4)
    mask = np.zeros((32, 32), dtype=bool)
    mask[8:16, 16:28] = True  # all of patch (1, 2), half of patch (1, 3)
    share = mask_share(llava, prompt, mask)
    expected = np.zeros((4, 4))
    expected[1, 2], expected[1, 3] = 1, 0.5
    np.testing.assert_allclose(share, expected)
    start = prompt.span("image")[0]
    assert patch_positions(llava, prompt, mask) == (start + 6, start + 7)
    assert patch_positions(llava, prompt, mask, least=0.6) == (start + 6,)


def test_shares_are_exact_where_patches_are_no_whole_pixels(llava):
    rng = np.random.default_rng(0)
    image = picture(1, (30, 22))
    prompt = ask(llava, image)
    box = covered(llava, prompt)
    mask = rng.random((22, 30)) < 0.3
    share = mask_share(llava, prompt, mask)
    fine = 40  # the slow way: count points
    y, x = np.meshgrid((np.arange(22 * fine) + 0.5) / fine, (np.arange(30 * fine) + 0.5) / fine, indexing="ij")
    inside = np.kron(mask, np.ones((fine, fine), dtype=bool))
    row = np.floor((y - box.top) / (box.bottom - box.top) * 4)
    column = np.floor((x - box.left) / (box.right - box.left) * 4)
    for r in range(4):
        for c in range(4):
            here = (row == r) & (column == c)
            assert share[r, c] == pytest.approx(inside[here].mean(), abs=0.02)


def test_positions_that_are_no_patches_are_refused(llava):
    with pytest.raises(ValueError, match="has no picture"):
        covered(llava, llava.prompt("Is it?", text_only=True))
    prompt = ask(llava, picture(0, (32, 32)))
    queries = replace(prompt, image=replace(prompt.image, grid=None))
    for call in (covered, lambda m, p: read_head_maps(m, p, [(0, 0)], METRIC)):
        with pytest.raises(ValueError, match="image positions are no patches of"):
            call(llava, queries)
    with pytest.raises(ValueError, match=r"bool \(20, 20\); expected bool \(32, 32\)"):
        mask_share(llava, prompt, np.zeros((20, 20), dtype=bool))
    with pytest.raises(ValueError, match="the mask is uint8"):
        mask_share(llava, prompt, np.zeros((32, 32), dtype=np.uint8))


def test_q_former_queries_are_refused():
    model = load("instructblip")
    prompt = ask(model, picture(0, (32, 32)), chat=False)
    with pytest.raises(ValueError, match="5 image positions"):
        read_head_maps(model, prompt, [(0, 0)], METRIC)


def test_maps_are_the_attribution_laid_out_by_patches(llava):
    prompt = ask(llava, picture(0, (32, 32)))
    split = attribute(llava, prompt, METRIC)
    heads = [(0, 1), (3, 2)]
    maps = read_head_maps(llava, prompt, heads, METRIC, "A title")
    start = prompt.span("image")[0]
    for i, head in enumerate(heads):
        for r, c in ((0, 0), (1, 2), (3, 3)):
            assert maps.attention[i, r, c] == split.attention[head][start + 4 * r + c]
            assert maps.contribution[i, r, c] == split.by_token[head][start + 4 * r + c]
        assert maps.contribution[i].sum() + maps.elsewhere[i, 1] == pytest.approx(split.heads[head], abs=1e-4)
        assert maps.attention[i].sum() + maps.elsewhere[i, 0] == pytest.approx(1, abs=1e-4)
    assert maps.metric == "logit(No) - logit(Yes)"
    with pytest.raises(ValueError, match="L4H0 is out of range"):
        read_head_maps(llava, prompt, [(4, 0)], METRIC)
    with pytest.raises(ValueError, match="no heads were given"):
        read_head_maps(llava, prompt, [], METRIC)


def test_the_strongest_heads_are_those_of_the_sums_over_the_picture(llava):
    """Against the slow way: the maps of all heads, summed and sorted."""
    prompt = ask(llava, picture(0, (32, 32)))
    every = [(layer, head) for layer in range(llava.n_layers) for head in range(llava.n_heads)]
    sums = read_head_maps(llava, prompt, every, METRIC).contribution.sum((1, 2))
    order = np.argsort(sums)
    assert sums[order[0]] < 0 < sums[order[-2]]
    found = read_strongest_maps(llava, prompt, METRIC, title="A title")
    assert found.heads == tuple(every[i] for i in (order[-1], order[-2], order[0]))
    same = read_head_maps(llava, prompt, found.heads, METRIC, "A title")
    np.testing.assert_array_equal(found.contribution, same.contribution)
    np.testing.assert_array_equal(found.attention, same.attention)
    assert (found.title, found.metric) == (same.title, same.metric)
    all_of_them = read_strongest_maps(llava, prompt, METRIC, len(every), len(every))
    assert sorted(all_of_them.heads) == every  # each once: a head is for or against
    with pytest.raises(ValueError, match="n_for=0, n_against=0; expected 0 or more heads each, and at least one"):
        read_strongest_maps(llava, prompt, METRIC, 0, 0)
    with pytest.raises(ValueError, match="image positions are no patches of"):
        read_strongest_maps(llava, replace(prompt, image=replace(prompt.image, grid=None)), METRIC)


def test_overlays_lie_on_the_part_that_the_model_sees(llava):
    image = picture(0, (60, 20))
    maps = read_head_maps(llava, ask(llava, image), [(0, 1), (2, 0)], METRIC, "Is <b>it</b>?")
    figure = maps.plot(image)
    heat = [t for t in figure.data if isinstance(t, go.Heatmap)]
    assert len(heat) == 4 and len(figure.layout.images) == 6
    np.testing.assert_allclose(heat[0].x, np.linspace(20, 40, 5))
    np.testing.assert_allclose(heat[0].y, np.linspace(0, 20, 5))
    assert [t.coloraxis for t in heat] == ["coloraxis", "coloraxis2"] * 2
    scale = figure.layout.coloraxis2
    assert scale.cmin == -scale.cmax == -np.abs(maps.contribution).max()
    assert scale.colorscale[1][1].endswith(" 0)")  # clear at zero
    assert figure.layout.coloraxis.cmin == 0
    assert figure.layout.yaxis.range == (20, 0) and figure.layout.yaxis.scaleanchor == "x"
    assert "<b>it" not in figure.layout.title.text
    shown = Image.open(io.BytesIO(base64.b64decode(figure.layout.images[0].source.partition(",")[2])))
    back = np.asarray(shown.resize((60, 20), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(back, np.asarray(image))  # the very pixels, first the picture itself
    with pytest.raises(ValueError, match="is not the prompt's: its pixels differ"):
        maps.plot(picture(1, (60, 20)))
    for template in TEMPLATES.values():
        figure.update_layout(template=template)
    assert isinstance(maps, HeadMaps)


def test_any_map_is_drawn_on_one_scale_centred_at_zero():
    values = {"<i>first</i>": np.array([[1.0, -3.0]]), "second": np.array([[0.5, 2.0]])}
    figure = picture_map(picture(0, (40, 20)), values, unit="logits")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-3, 3)
    assert all("<i>" not in a.text for a in figure.layout.annotations)
    with pytest.raises(ValueError, match="each \\[row, column\\]"):
        picture_map(picture(0), {"a": np.zeros(3)})


def test_pairs_stand_side_by_side_with_the_region_outlined():
    region = np.zeros((20, 30), dtype=bool)
    region[5:10, 6:12] = True
    figure = pair_figure(picture(0), picture(1), region, ("yes <b>", "no"), "Is there?")
    assert len(figure.layout.images) == 2
    lines = [t for t in figure.data if isinstance(t, go.Contour)]
    assert len(lines) == 4
    z = np.array(lines[0].z)
    rows, columns = np.nonzero(z)
    assert (rows.min() + lines[0].y0, columns.min() + lines[0].x0) == (5.5, 6.5)  # the middle of its first pixel
    assert figure.layout.annotations[0].text == "yes &lt;b&gt;"
    with pytest.raises(ValueError, match="a region that is not empty"):
        pair_figure(picture(0), picture(1), np.zeros((20, 30), dtype=bool))
    with pytest.raises(ValueError, match="expected one size for all"):
        pair_figure(picture(0), picture(1, (10, 10)), region)


def test_heads_by_level_share_a_scale():
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(3, 4)) * k for k, name in enumerate(("object", "attribute", "relation<"), 1)}
    figure = heads_by_level(values, "D", "probability", marked={"attribute": [(2, 1)]})
    limit = max(np.abs(v).max() for v in values.values())
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-limit, limit)
    heat = [t for t in figure.data if isinstance(t, go.Heatmap)]
    for trace, table in zip(heat, values.values(), strict=True):
        np.testing.assert_array_equal(trace.z, table)
        assert trace.coloraxis == "coloraxis"
    (mark,) = [t for t in figure.data if isinstance(t, go.Scatter)]
    assert (mark.x, mark.y, mark.xaxis) == ((1,), (2,), "x2")
    assert figure.layout.annotations[2].text == "relation&lt;"
    with pytest.raises(ValueError, match="expected one"):
        heads_by_level({"a": np.zeros((2, 2)), "b": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="marked names"):
        heads_by_level(values, marked={"x": [(0, 0)]})
    lines = np.full((3, 4), "a question", dtype=object)
    shown = [t for t in heads_by_level(values, examples={"attribute": lines}).data if isinstance(t, go.Heatmap)]
    assert shown[1].customdata[2][1] == "a question" and "<br>%{customdata}" in shown[1].hovertemplate
    assert shown[0].customdata is None and "customdata" not in shown[0].hovertemplate
    with pytest.raises(ValueError, match="examples names"):
        heads_by_level(values, examples={"x": lines})


def test_overlaps_are_centred_at_chance():
    figure = overlap_matrix(np.array([[10, 4], [4, 10]]), ["a", "b<"], 10, expected=0.4)
    heat = figure.data[0]
    assert np.isnan(heat.z[0][0]) and heat.z[0][1] == 4
    axis = figure.layout.coloraxis
    assert (axis.cmin + axis.cmax) / 2 == pytest.approx(0.4)
    assert axis.cmax >= 10
    assert heat.x[1] == "b&lt;" and heat.text[0][1] == "4"
    with pytest.raises(ValueError, match=r"expected \(3, 3\)"):
        overlap_matrix(np.zeros((2, 2)), ["a", "b", "c"], 5, 1.0)

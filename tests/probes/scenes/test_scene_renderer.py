"""The renderer: masks that are exactly the pixels an object makes, occlusion, words that the pixels show."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from probes.scenes.renderer import PAINT, render
from probes.scenes.scenes import COLOURS, MATERIALS, SHAPES, SIZES, SPLITS, Scene, SceneObject, sample_scene

PIXELS = (48, 96)


def lone(shape="circle", colour="red", size="large", material="solid", row=0.5, column=0.5, **look) -> SceneObject:
    return SceneObject(shape, colour, size, material, row, column, **look)


def plain(*objects: SceneObject, **more) -> Scene:
    return Scene(objects, **{"seed": 5, "difficulty": 1.0, **more})


def pixels_of(scene: Scene, pixels: int = 96) -> np.ndarray:
    return np.asarray(render(scene, pixels).image).astype(int)


@pytest.mark.parametrize("pixels", PIXELS)
def test_a_picture_and_its_masks(pixels):
    for difficulty, split in itertools.product(("easy", "hard"), (None, *SPLITS)):
        scene = sample_scene(random.Random(2), difficulty, split)
        one, two = render(scene, pixels), render(scene, pixels)
        assert one.image.mode == "RGB" and one.image.size == (pixels, pixels)
        assert one.masks.dtype == bool and one.masks.shape == (len(scene.objects), pixels, pixels)
        assert one.image.tobytes() == two.image.tobytes() and (one.masks == two.masks).all()


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_is_the_pixels_that_a_colour_changes(shape, pixels):
    """Also where another object hides a part of it, to the pixel."""
    front = lone("square", "green", "small", row=0.42, column=0.6)
    scenes = [plain(lone(shape, c, tilt=9), front) for c in ("blue", "yellow")]
    changed = (pixels_of(scenes[0], pixels) != pixels_of(scenes[1], pixels)).any(axis=-1)
    assert (changed == render(scenes[0], pixels).masks[0]).all()


def test_a_later_object_hides_an_earlier_one():
    below, above = lone("square", "red", column=0.45), lone("square", "blue", column=0.55)
    first, second = render(plain(below, above)).masks
    alone = render(plain(below)).masks[0]
    assert (second == render(plain(above)).masks[0]).all() and first.sum() < alone.sum()
    assert ((first | second) == (alone | second)).all() and (first & second).sum() <= 2 * 96
    turned = render(plain(above, below)).masks
    assert (turned[1] == alone).all()


def test_what_changes_stays_inside_the_masks():
    """Noise, clutter and all other objects are the same pixels in an edited twin."""
    rng = random.Random(8)
    for _ in range(12):
        scene = sample_scene(rng, "hard")
        number = rng.randrange(len(scene.objects))
        thing = scene.objects[number]
        for other in (
            replace(thing, shape=rng.choice(SHAPES)),
            replace(thing, row=rng.uniform(0.2, 0.8), column=rng.uniform(0.2, 0.8)),
            replace(thing, material="checked" if thing.material == "solid" else "solid"),
        ):
            twin = replace(scene, objects=(*scene.objects[:number], other, *scene.objects[number + 1 :]))
            region = render(scene).masks[number] | render(twin).masks[number]
            assert not ((pixels_of(scene) != pixels_of(twin)).any(axis=-1) & ~region).any()


@pytest.mark.parametrize("pixels", PIXELS)
def test_objects_are_large_enough_and_hidden_in_part_only(pixels):
    rng, shares = random.Random(3), []
    for _ in range(40):
        scene = sample_scene(rng, "hard", rng.choice(SPLITS))
        masks = render(scene, pixels).masks
        assert masks.sum(axis=(1, 2)).min() >= 0.01 * pixels**2
        alone = [render(replace(scene, objects=(o,)), pixels).masks[0].sum() for o in scene.objects]
        shares += (masks.sum(axis=(1, 2)) / alone).tolist()
    assert min(shares) > 0.5 and np.mean(np.array(shares) < 0.99) > 0.1


@pytest.mark.parametrize("pixels", PIXELS)
def test_colours_can_be_read_off_the_pixels(pixels):
    for colour, shape, size in itertools.product(COLOURS, SHAPES, SIZES):
        scene = plain(lone(shape, colour, size, shade=1.08), noise=0.05)
        seen = np.median(pixels_of(scene, pixels)[render(scene, pixels).masks[0]], axis=0)
        assert min(PAINT, key=lambda name: np.abs(np.array(PAINT[name]) - seen).sum()) == colour


@pytest.mark.parametrize("pixels", PIXELS)
def test_textures_differ_on_every_shape_and_size(pixels):
    for shape, size in itertools.product(SHAPES, SIZES):
        drawn = {m: pixels_of(plain(lone(shape, "blue", size, m)), pixels) for m in MATERIALS}
        area = render(plain(lone(shape, "blue", size)), pixels).masks[0].sum()
        for a, b in itertools.combinations(MATERIALS, 2):
            differ = (np.abs(drawn[a] - drawn[b]).max(axis=-1) > 60).sum()
            assert differ >= 0.06 * area, (shape, size, a, b, differ / area)


def test_large_is_larger_than_small_whatever_the_scale():
    for shape in SHAPES:
        ink = []
        for size, scale in (("small", 1.08), ("large", 0.92)):
            drawn = pixels_of(plain(lone(shape, size=size, scale=scale)))
            ink.append(np.abs(drawn - drawn[0, 0]).sum())
        assert ink[1] > 1.45 * ink[0]


@pytest.mark.parametrize("pixels", PIXELS)
def test_shapes_differ(pixels):
    drawn = {shape: pixels_of(plain(lone(shape, "blue", "small")), pixels) for shape in SHAPES}
    for a, b in itertools.combinations(SHAPES, 2):
        differ = (np.abs(drawn[a] - drawn[b]).max(axis=-1) > 60).sum()
        assert differ > 0.01 * 0.2 * pixels**2, (a, b)


def test_noise_and_clutter_are_of_the_seed():
    one, again, other = (pixels_of(plain(seed=s, noise=0.05, clutter=6)) for s in (1, 1, 2))
    assert (one == again).all() and (one != other).any()
    quiet = pixels_of(plain())
    assert np.ptp(quiet) == 0 and 8 < pixels_of(plain(noise=0.05)).std() < 18


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="pixels=8; expected 16 or more"):
        render(plain(lone()), 8)
    for wrong, text in ((lone("blob"), "no shape 'blob'"), (lone(material="woolly"), "no material 'woolly'")):
        with pytest.raises(ValueError, match=text):
            render(plain(wrong))
    with pytest.raises(ValueError, match="no background 'sea'"):
        render(plain(background="sea"))

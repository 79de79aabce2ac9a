"""Pictures as they come: in every format and colour, damaged, moving, transparent and huge."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

import interp
from interp.vision.images import image_sha256
from tests.interp.tiny_vision import picture


@pytest.fixture
def noise() -> Image.Image:
    return picture(0, (30, 20))


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tiff"])
def test_a_file_and_the_picture_in_memory_are_one_picture(noise, tmp_path, suffix):
    noise.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    read = interp.read_image(str(tmp_path / f"a.{suffix}"))
    assert read.mode == "RGB" and read.size == (30, 20)
    assert image_sha256(read) == image_sha256(interp.read_image(noise)) == image_sha256(noise)
    assert image_sha256(read) != image_sha256(picture(1, (30, 20)))
    assert image_sha256(read) != image_sha256(read.resize((20, 30)))


def test_greyscale_palette_and_bilevel_are_converted(noise):
    grey = noise.convert("L")
    assert np.array_equal(np.asarray(interp.read_image(grey)), np.stack([np.asarray(grey)] * 3, -1))
    for mode in ("P", "1", "CMYK", "YCbCr"):
        assert interp.read_image(noise.convert(mode)).mode == "RGB"


def test_sixteen_bit_greyscale_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    read = interp.read_image(tmp_path / "deep.png")
    assert np.asarray(read)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparent_pixels_are_laid_on_white_with_a_warning():
    half = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    half.putpixel((1, 0), (200, 0, 0, 0))
    with pytest.warns(UserWarning, match="the image is transparent in places; it was laid on white"):
        read = interp.read_image(half)
    assert [read.getpixel((0, 0)), read.getpixel((1, 0))] == [(200, 0, 0), (255, 255, 255)]


def test_an_opaque_alpha_channel_is_no_news(noise):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_sha256(interp.read_image(noise.convert("RGBA"))) == image_sha256(noise)


def test_a_sideways_photograph_is_turned_upright(noise, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise.save(tmp_path / "sideways.png", exif=exif)
    assert interp.read_image(tmp_path / "sideways.png").size == (20, 30)


def test_the_given_picture_is_not_changed(noise):
    grey = noise.convert("L")
    interp.read_image(grey)
    assert grey.mode == "L"


def test_missing_folder_empty_and_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"kitchen\.png: no such image file\. Check the path"):
        interp.read_image(tmp_path / "kitchen.png")
    with pytest.raises(ValueError, match="is a folder; expected an image file"):
        interp.read_image(tmp_path)
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"no image that Pillow can read \(10 bytes\)"):
        interp.read_image(tmp_path / "words.png")
    with pytest.raises(ValueError, match="is an address; nothing is downloaded"):
        interp.read_image("https://example.org/a.png")
    with pytest.raises((ValueError, TypeError), match="source is a ndarray; expected a text or a path or an Image"):
        interp.read_image(np.zeros((2, 2, 3)))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    picture(0, (200, 200)).save(tmp_path / f"whole.{suffix}")
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="is damaged or ends too early"):
        interp.read_image(tmp_path / f"cut.{suffix}")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_several_frames_are_refused(tmp_path, suffix):
    frames = [picture(i) for i in range(3)]
    frames[0].save(tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"has 3 frames or pages; expected one picture.*seek"):
        interp.read_image(tmp_path / f"moving.{suffix}")


@pytest.mark.parametrize("side", [8001, 14000])
def test_a_huge_file_is_refused_before_it_is_decoded(tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match="megapixels; expected at most 64"):
        interp.read_image(tmp_path / "huge.png")


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_unknown_range_are_refused(mode):
    with pytest.raises(ValueError, match="32-bit pixel values"):
        interp.read_image(Image.new(mode, (4, 4)))

"""Inpainting through diffusers, with a tiny random Stable Diffusion made here, saved to a directory and loaded."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from probes.pairs.inpainting import Inpainter, InpaintSettings, inpaint, load_inpainting
from probes.pairs.masks import box_region
from probes.pairs.photo_pairs import edit_photo
from probes.pairs.sheet import leaks
from probes.pairs.substitutions import Substitution
from tests.probes.pairs.test_photo_masks import clip_text, tokenizer

photographs = pytest.importorskip("skimage.data", reason="needs the extra 'images' (scikit-image)")
pytest.importorskip("diffusers", reason="needs the extra 'images' (diffusers)")

TWO = InpaintSettings(steps=2, negative_prompt="dull")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    place = tmp_path_factory.mktemp("inpainting")
    torch.manual_seed(0)
    words = tokenizer()
    StableDiffusionInpaintPipeline(
        vae=AutoencoderKL(
            block_out_channels=(4, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**clip_text(len(words)))),
        tokenizer=words,
        unet=UNet2DConditionModel(
            sample_size=8,
            in_channels=9,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def pipeline(directory):
    return load_inpainting(directory)


@pytest.fixture(scope="module")
def cat():
    return Image.fromarray(photographs.chelsea()).resize((75, 50))  # no multiple of 8


@pytest.fixture(scope="module")
def nose(cat):
    return box_region(cat, (39, 36, 11, 8))


def test_only_the_region_is_drawn(pipeline, cat, nose):
    edit = inpaint(cat, nose, "a blue nose", pipeline, TWO)
    assert edit.after.size == cat.size and edit.changed > 0.9
    assert leaks(edit.before, edit.after, edit.region, tolerance=0) == 0
    how = edit.how
    assert (how["steps"], how["guidance"], how["seed"], how["drawn_at"]) == (2, 7.5, 42, [72, 48])
    assert (how["pipeline"], how["scheduler"]) == ("StableDiffusionInpaintPipeline", "UniPCMultistepScheduler")
    assert how["not_taken"] == [] and how["region"]["mask"] == "boxes"
    json.dumps(how)


def test_the_defaults_are_v_seams():
    expected = dict(negative_prompt="low quality, blurry", steps=50, guidance=7.5, strength=1.0, seed=42)
    assert InpaintSettings().__dict__ == expected
    with pytest.raises(ValueError, match="expected steps >= 1"):
        InpaintSettings(steps=0)


def test_a_seed_fixes_the_drawing(pipeline, cat, nose):
    def drawn(prompt="a nose", **settings):
        return inpaint(cat, nose, prompt, pipeline, InpaintSettings(steps=2, **settings)).how["after_sha256"]

    first = drawn()
    assert drawn() == first
    assert len({first, drawn(seed=1), drawn(prompt="a dog"), drawn(negative_prompt="red"), drawn(guidance=2.0)}) == 5


def test_what_the_pipeline_is_given(cat, nose):
    """The image at a multiple of 8 with its masked pixels black; white where to draw."""
    seen = {}

    class Pipeline:
        config = SimpleNamespace(_name_or_path="owner/name")
        scheduler = None

        def __call__(self, prompt, image, mask_image, width, height, num_inference_steps, generator):
            seen.update(locals())
            return SimpleNamespace(images=[Image.new("RGB", (width, height), (10, 200, 30))])

    edit = inpaint(cat, nose, "a nose", Pipeline(), TWO)
    assert seen["image"].size == seen["mask_image"].size == (72, 48) and seen["generator"].initial_seed() == 42
    mask = np.asarray(seen["mask_image"]) > 0
    assert (np.asarray(seen["image"])[mask] == 0).all()
    assert (np.asarray(seen["image"])[~mask] == np.asarray(cat.resize((72, 48)))[~mask]).all()
    assert (np.asarray(edit.after)[nose.pixels] == (10, 200, 30)).all()
    assert edit.how["not_taken"] == ["guidance_scale", "negative_prompt", "strength"] and edit.how["weights"] == "name"


def test_pipelines_that_do_not_fit_are_refused(cat, nose, pipeline):
    class NoMask:
        def __call__(self, prompt, image): ...

    with pytest.raises(ValueError, match="NoMask takes no mask_image; expected an inpainting pipeline"):
        inpaint(cat, nose, "a nose", NoMask())

    class Prude:
        config, scheduler = SimpleNamespace(), None

        def __call__(self, prompt, image, mask_image):
            return SimpleNamespace(images=[image], nsfw_content_detected=[True])

    with pytest.raises(ValueError, match="safety checker blanked"):
        inpaint(cat, nose, "a nose", Prude())

    class Small(Prude):
        def __call__(self, prompt, image, mask_image):
            return SimpleNamespace(images=[image.resize((8, 8))])

    with pytest.raises(ValueError, match=r"drew \(8, 8\) pixels where \(72, 48\)"):
        inpaint(cat, nose, "a nose", Small())
    with pytest.raises(ValueError, match="prompt is blank"):
        inpaint(cat, nose, " ", pipeline)
    with pytest.raises(ValueError, match="at least 8 pixels"):
        inpaint(cat.resize((7, 20)), np.ones((20, 7), dtype=bool), "a nose", pipeline)
    with pytest.raises(ValueError, match="mask is empty"):
        inpaint(cat, nose.pixels & False, "a nose", pipeline)
    thin = np.zeros((50, 15), dtype=bool)
    thin[:, 1] = True
    with pytest.raises(ValueError, match="too thin"):
        inpaint(cat.resize((15, 50)), thin, "a nose", pipeline)


def test_loading(directory, tmp_path):
    own = load_inpainting(str(directory), scheduler="own")
    assert type(own.scheduler).__name__ == "DDIMScheduler"
    half = load_inpainting(directory, dtype=torch.bfloat16)
    assert half.unet.dtype == half.vae.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"has no model_index\.json"):
        load_inpainting(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        load_inpainting(tmp_path / "absent")
    with pytest.raises(ValueError, match="expected 'unipc' or 'own'"):
        load_inpainting(directory, scheduler="ddim")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionInpaintPipeline"}')
    with pytest.raises(ValueError, match="could not be loaded as an inpainting pipeline"):
        load_inpainting(tmp_path)
    with pytest.raises(ValueError, match="could not be loaded as an inpainting pipeline"):
        load_inpainting("nobody/nothing-here")  # tests are offline


def test_pickled_weights_are_not_read(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path, safe_serialization=False)
    assert list(tmp_path.rglob("*.bin"))
    with pytest.raises(ValueError, match=r"could not be loaded .* with safetensors weights"):
        load_inpainting(tmp_path)


def test_half_precision_draws_too(directory, cat, nose):
    edit = inpaint(cat, nose, "a nose", load_inpainting(directory, dtype=torch.bfloat16), TWO)
    assert edit.changed > 0.9 and leaks(edit.before, edit.after, edit.region, tolerance=0) == 0


def test_an_inpainter_edits_a_question(pipeline, cat, nose):
    asked = []

    class Listening:
        config, scheduler = pipeline.config, pipeline.scheduler

        def __call__(self, prompt, image, mask_image, width, height):
            asked.append(prompt)
            return pipeline(prompt, image, mask_image, width=width, height=height, num_inference_steps=1)

    draw = Inpainter(Listening(), TWO)
    pairs = edit_photo(cat, nose, "Is there a cat?", "Yes", Substitution("object", "cat", "dog"), draw, id="a")
    assert [(p.question, p.answer_before, p.answer_after) for p in pairs] == [
        ("Is there a cat?", "Yes", "No"),
        ("Is there a dog?", "No", "Yes"),
    ]
    prompted = Substitution("object", "cat", "dog", prompt="a small dog")
    edit_photo(cat, nose, "Is there a cat?", "Yes", prompted, draw)
    edit_photo(cat, nose, "Is there a cat?", "Yes", None, draw)
    assert asked == ["a photo of dog", "a small dog", "empty background, nothing there"]

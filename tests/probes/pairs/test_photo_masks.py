"""Masks of photographs: boxes, files, and a detector with SAM from tiny random weights in a directory."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from probes.pairs.masks import (
    Box,
    Region,
    box_region,
    detect,
    detected_region,
    file_region,
    load_detector,
    load_segmenter,
    region_of,
    segment,
    weights_place,
)

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8))


def tokenizer(length: int = 16):
    """A CLIP tokenizer that spells: two tokens for each letter, none of them 0, which OWL-ViT takes for padding."""
    from transformers import CLIPTokenizer

    vocabulary = {"!": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}
    for letter in "abcdefghijklmnopqrstuvwxyz,.":
        vocabulary |= {letter: len(vocabulary), f"{letter}</w>": len(vocabulary) + 1}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


def clip_text(words: int) -> dict:
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    return sizes | dict(vocab_size=words, max_position_embeddings=16, bos_token_id=1, eos_token_id=2, pad_token_id=0)


@pytest.fixture(scope="module")
def owlvit(tmp_path_factory):
    from transformers import OwlViTConfig, OwlViTForObjectDetection
    from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

    place = tmp_path_factory.mktemp("owlvit")
    torch.manual_seed(0)
    words = tokenizer()
    text = clip_text(len(words))
    vision = {k: v for k, v in text.items() if k in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    vision |= dict(num_attention_heads=2, image_size=32, patch_size=8)
    config = OwlViTConfig(text_config=text, vision_config=vision, projection_dim=16)
    OwlViTForObjectDetection(config).save_pretrained(place)
    OwlViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(place)
    as_published(place, "OwlViTImageProcessor")
    words.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def grounding_dino(tmp_path_factory):
    from transformers import BertConfig, BertTokenizer, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    place = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "a", "dog"]
    swin = SwinConfig(
        image_size=32,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1],
        num_heads=[2, 2, 2],
        window_size=4,
        out_features=["stage2", "stage3"],
    )
    bert = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    small = {
        f"{part}_{size}": 2 for part in ("encoder", "decoder") for size in ("layers", "attention_heads", "n_points")
    }
    config = GroundingDinoConfig(
        backbone_config=swin,
        text_config=bert,
        d_model=32,
        num_queries=5,
        num_feature_levels=3,
        max_text_len=16,
        **small,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(place)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(place)
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    from transformers import SamConfig, SamModel
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    place = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    vision = dict(hidden_size=16, output_channels=8, num_hidden_layers=1, num_attention_heads=2, mlp_dim=16)
    vision |= dict(image_size=32, patch_size=8, num_pos_feats=4, window_size=2, global_attn_indexes=[0])
    config = SamConfig(
        vision_config=vision,
        prompt_encoder_config=dict(hidden_size=8, image_size=32, patch_size=8, mask_input_channels=4),
        mask_decoder_config=dict(hidden_size=8, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2),
    )
    SamModel(config).save_pretrained(place)
    SamImageProcessorPil(
        size={"longest_edge": 32},
        pad_size={"height": 32, "width": 32},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    ).save_pretrained(place)
    as_published(place, "SamImageProcessor", "SamProcessor")
    return place


def as_published(place, image_processor, processor=None):
    """The record as hubs have it: it names the torchvision class."""
    file = place / "preprocessor_config.json"
    record = json.loads(file.read_text()) | {"image_processor_type": image_processor}
    file.write_text(json.dumps(record | ({"processor_class": processor} if processor else {})))


def test_a_box_covers_the_pixels_that_it_touches():
    region = box_region(IMAGE, (3, 2, 5, 4))
    assert region.pixels.sum() == 20 and region.pixels[2:6, 3:8].all()
    assert region.share == 20 / (40 * 64) and region.how == {"mask": "boxes", "boxes": [[3.0, 2.0, 5.0, 4.0]]}
    assert box_region(IMAGE, {"x": 3, "y": 2, "w": 5, "h": 4}).how == region.how
    assert box_region(IMAGE, Box(0.5, 0.5, 1, 1)).pixels.sum() == 4
    both = box_region(IMAGE, [Box(0, 0, 2, 2), {"x": 1, "y": 1, "w": 2, "h": 2}])
    assert both.pixels.sum() == 7
    over = box_region(IMAGE, (60, 38, 6, 4))
    assert over.pixels[38:, 60:].all() and over.pixels.sum() == 8


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((60, 0, 10, 5), "reaches 6 pixels outside the image, which is 64 x 40"),
        ((-3, 0, 10, 5), "reaches 3 pixels outside"),
        ((100, 100, 5, 5), "outside"),
        ((3, 3, 0, 5), "is empty"),
        ((3, 3, -2, 5), "is empty"),
        ((1, 2, 3), "is no box"),
        ({"x": 1, "y": 2, "w": 3}, "is no box"),
        ((1, 2, float("nan"), 3), "not finite"),
        ([], "no box was given"),
    ],
)
def test_boxes_that_do_not_fit_are_refused(box, message):
    with pytest.raises(ValueError, match=message):
        box_region(IMAGE, [box] if len(box) == 3 else box)


def test_regions_are_held_to_the_image():
    pixels = np.zeros((40, 64), dtype=bool)
    with pytest.raises(ValueError, match="mask is empty"):
        region_of(IMAGE, pixels)
    pixels[0, 0] = True
    assert region_of(IMAGE, pixels).how == {"mask": "given as an array"}
    assert region_of(IMAGE, Region(pixels, {"mask": "x"})).how == {"mask": "x"}
    with pytest.raises(ValueError, match=r"shape \(64, 40\); expected \(height, width\) = \(40, 64\)"):
        region_of(IMAGE, pixels.T)
    with pytest.raises(ValueError, match="expected bool"):
        region_of(IMAGE, pixels.astype(int))


def test_mask_files(tmp_path):
    pixels = np.zeros((40, 64), dtype=bool)
    pixels[5:9, 7:30] = True
    ways = {
        "grey": Image.fromarray(pixels.astype(np.uint8) * 255),
        "labels": Image.fromarray(pixels.astype(np.uint8)),
        "bits": Image.fromarray(pixels),
        "colour": Image.fromarray(np.repeat(pixels[..., None], 3, axis=2).astype(np.uint8) * 255),
        "deep": Image.fromarray(pixels.astype(np.uint16) * 60000),
        "alpha": Image.fromarray(np.dstack([np.full((40, 64, 3), 255), pixels * 255]).astype(np.uint8)),
    }
    for name, image in ways.items():
        image.save(tmp_path / f"{name}.png")
        region = file_region(IMAGE, tmp_path / f"{name}.png")
        assert (region.pixels == pixels).all(), name
        assert region.how["file"] == f"{name}.png" and len(region.how["sha256"]) == 64
    Image.fromarray(pixels[:20]).save(tmp_path / "small.png")
    Image.fromarray(pixels & False).save(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="64 x 20 pixels; expected 64 x 40"):
        file_region(IMAGE, tmp_path / "small.png")
    with pytest.raises(ValueError, match="is empty"):
        file_region(IMAGE, tmp_path / "none.png")
    with pytest.raises(ValueError, match="can be read as a mask"):
        file_region(IMAGE, tmp_path / "text.png")
    with pytest.raises(FileNotFoundError, match="no such mask file"):
        file_region(IMAGE, tmp_path / "absent.png")


def test_a_detector_from_a_directory(owlvit):
    detector = load_detector(owlvit)
    found = detect(IMAGE, "a dog", detector, threshold=0.0)
    assert len(found) > 1 and [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    for one in found:
        assert one.name == "a dog" and one.box.x >= 0 and one.box.x + one.box.w <= 64 and one.box.y + one.box.h <= 40
    assert detect(IMAGE, "a dog", detector, threshold=0.0) == found
    with pytest.raises(ValueError, match=r"no 'a dog' with a score above 1.0. Lower threshold="):
        detect(IMAGE, "a dog", detector, threshold=1.0)
    with pytest.raises(ValueError, match="name is blank"):
        detect(IMAGE, " ", detector)


def test_grounding_dino_is_asked_with_a_full_stop(grounding_dino):
    detector = load_detector(str(grounding_dino))
    asked = []

    class Ear:
        model = detector.model

        def __call__(self, image, candidate_labels, threshold):
            asked.extend(candidate_labels)
            return detector(image, candidate_labels=candidate_labels, threshold=threshold)

    found = detect(IMAGE, "a dog", Ear(), threshold=0.0)
    assert asked == ["a dog."] and found[0].name == "a dog"


def test_sam_segments_boxes(sam):
    segmenter = load_segmenter(sam)
    boxes = [Box(4, 4, 26, 26), Box(30, 10, 20, 20)]
    try:
        both = segment(IMAGE, boxes, segmenter)
    except ValueError as error:
        pytest.fail(f"the random SAM found nothing: {error}")
    assert both.pixels.shape == (40, 64) and both.pixels.dtype == bool and both.pixels.any()
    assert len(both.how["ratings"]) == 2 and 0 <= both.how["share_outside_boxes"] <= 1
    one_by_one = segment(IMAGE, boxes[:1], segmenter).pixels | segment(IMAGE, boxes[1:], segmenter).pixels
    assert (both.pixels == one_by_one).all()
    with pytest.raises(ValueError, match="outside the image"):
        segment(IMAGE, [Box(0, 0, 100, 100)], segmenter)


def test_the_best_of_sams_masks_is_taken():
    """A stand-in that offers three masks of which the second is rated best."""
    masks = torch.zeros(1, 3, 40, 64, dtype=torch.bool)
    masks[0, 1, 10:20, 10:20] = True

    class Processor:
        image_processor = SimpleNamespace(post_process_masks=lambda *a: [masks])

        def __call__(self, image, input_boxes, return_tensors):
            assert input_boxes == [[[8.0, 8.0, 24.0, 24.0]]]
            box = torch.tensor(input_boxes)
            return dict(pixel_values=torch.zeros(1), input_boxes=box, original_sizes=0, reshaped_input_sizes=0)

    class Model:
        device, dtype = torch.device("cpu"), torch.float32

        def __call__(self, **inputs):
            return SimpleNamespace(pred_masks=torch.zeros(1), iou_scores=torch.tensor([[[0.2, 0.9, 0.3]]]))

    from probes.pairs.masks import Segmenter

    segmenter = Segmenter(Model(), Processor(), "stand-in")
    region = segment(IMAGE, [Box(8, 8, 16, 16)], segmenter)
    assert region.pixels.sum() == 100 and region.how["ratings"] == [0.9] and region.how["share_outside_boxes"] == 0
    masks[:] = False
    with pytest.raises(ValueError, match="SAM found no object"):
        segment(IMAGE, [Box(8, 8, 16, 16)], segmenter)


def test_detector_and_sam_together(owlvit, sam):
    detector = load_detector(owlvit)
    boxed = detected_region(IMAGE, "a dog", detector, threshold=0.0)
    assert boxed.how["mask"] == "boxes" and boxed.how["found"]["name"] == "a dog"
    cut = detected_region(IMAGE, "a dog", detector, load_segmenter(sam), threshold=0.0)
    assert cut.how["mask"] == "sam" and cut.how["found"] == boxed.how["found"]
    json.dumps(cut.how)


def test_weights_are_refused_with_a_remedy(tmp_path, owlvit):
    assert weights_place("owner/name", "config.json") == "owner/name"
    for source in (tmp_path / "a" / "b", "./a/b", "nothing-like-it", "~/a"):
        with pytest.raises(FileNotFoundError, match=r"no such directory; expected one with config\.json, or a hub id"):
            weights_place(source, "config.json")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load_detector(tmp_path)
    with pytest.raises(ValueError, match="is a 'owlvit' model; expected SAM"):
        load_segmenter(owlvit)

"""Tiny random vision-language models with processors, one of each architecture. No network, a fixed seed.

Pictures of 16 x 16 pixels, patches of 4 x 4; a language model of 4 layers x 4 heads, whose heads matter.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image
from transformers import PreTrainedModel

import interp
from interp.vision.processors import _numbers_without_words, for_pictures_only
from tests.tiny import tiny_tokenizer

SIDE, PATCH, HEADS, LAYERS = 16, 4, 4, 4
IMAGE = "<image>"
_TEXT = dict(
    hidden_size=32,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=512,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
_TOWER = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
_SQUARE = dict(image_size=SIDE, patch_size=PATCH)
_EXACT = {"height": SIDE, "width": SIDE}
_TILES = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}IMAGE\n{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Tiny:
    """A model, its processor, and how its prompts are asked for."""

    hf: PreTrainedModel
    processor: Any
    chat: bool = True


def picture(seed: int = 0, size: tuple[int, int] = (30, 20)) -> Image.Image:
    """Noise, (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def tiny_vision(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tiny:
    """A model of one architecture of ``NAMES``."""
    torch.manual_seed(seed)
    model, processor, chat = _MAKERS[name]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return Tiny(model.to(dtype).eval(), processor, chat)


@lru_cache
def loaded(name: str) -> tuple[interp.Model, Tiny]:
    """A model as a scan has it, and its twin that nothing has touched."""
    made = tiny_vision(name)
    twin = Tiny(copy.deepcopy(made.hf), made.processor, made.chat)
    return interp.load(made.hf, processor=made.processor), twin


def _tokenizer(*specials: str, **named: str):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([*specials, *named.values()], special_tokens=True)
    if not named:
        return tokenizer
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        pad_token="<|pad|>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        extra_special_tokens=named,
    )


def _ids(tokenizer, *tokens: str) -> tuple[int, ...]:
    return tuple(tokenizer.convert_tokens_to_ids(list(tokens)))


def _template(token: str = IMAGE) -> str:
    return TEMPLATE.replace("IMAGE", token)


def _text(kind: type, tokenizer, **changes):
    return kind(vocab_size=len(tokenizer) + 3, **(_TEXT | changes))


def _clip():
    return tf.CLIPVisionConfig(**_TOWER, **_SQUARE, projection_dim=16)


def _siglip():
    return tf.SiglipVisionConfig(**_TOWER, **_SQUARE, vision_use_head=False)


def _llava():
    tokenizer = _tokenizer(IMAGE)
    config = tf.LlavaConfig(
        vision_config=_clip(), text_config=_text(tf.LlamaConfig, tokenizer), image_token_index=_ids(tokenizer, IMAGE)[0]
    )
    processor = tf.LlavaProcessor(
        image_processor=tf.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_EXACT),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template(),
    )
    return tf.LlavaForConditionalGeneration(config), processor, True


def _llava_next():
    tokenizer = _tokenizer(IMAGE)
    config = tf.LlavaNextConfig(
        vision_config=_clip(),
        text_config=_text(tf.LlamaConfig, tokenizer),
        image_token_index=_ids(tokenizer, IMAGE)[0],
        image_grid_pinpoints=_TILES,
    )
    processor = tf.LlavaNextProcessor(
        image_processor=tf.LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size=_EXACT, image_grid_pinpoints=_TILES
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template(),
    )
    return tf.LlavaNextForConditionalGeneration(config), processor, True


def _llava_onevision():
    tokenizer = _tokenizer(IMAGE, "<video>")
    image, video = _ids(tokenizer, IMAGE, "<video>")
    config = tf.LlavaOnevisionConfig(
        vision_config=_siglip(),
        text_config=_text(tf.Qwen2Config, tokenizer),
        image_token_index=image,
        video_token_index=video,
        image_grid_pinpoints=_TILES,
        vision_aspect_ratio="anyres_max_9",
    )
    processor = for_pictures_only(tf.LlavaOnevisionProcessor)(
        image_processor=tf.LlavaOnevisionImageProcessorPil(size=_EXACT, image_grid_pinpoints=_TILES),
        tokenizer=tokenizer,
        video_processor=None,
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=_template(),
    )
    return tf.LlavaOnevisionForConditionalGeneration(config), processor, True


_IDEFICS_TOKENS = ("<fake_token_around_image>", IMAGE, "<end_of_utterance>", "<global-img>")


def _idefics3():
    tokenizer = _tokenizer(*_IDEFICS_TOKENS, *[f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)])
    config = tf.Idefics3Config(
        vision_config=tf.models.idefics3.configuration_idefics3.Idefics3VisionConfig(**_TOWER, **_SQUARE),
        text_config=_text(tf.LlamaConfig, tokenizer),
        image_token_id=_ids(tokenizer, IMAGE)[0],
        scale_factor=2,
        pad_token_id=0,
    )
    processor = tf.Idefics3Processor(
        image_processor=tf.Idefics3ImageProcessorPil(
            size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
        ),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=_template(),
    )
    return tf.Idefics3ForConditionalGeneration(config), processor, True


def _smolvlm():
    tokenizer = _tokenizer(*_IDEFICS_TOKENS, "<video>", *[f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)])
    config = tf.SmolVLMConfig(
        vision_config=tf.models.smolvlm.configuration_smolvlm.SmolVLMVisionConfig(**_TOWER, **_SQUARE),
        text_config=_text(tf.LlamaConfig, tokenizer),
        image_token_id=_ids(tokenizer, IMAGE)[0],
        scale_factor=2,
        pad_token_id=0,
    )
    with _numbers_without_words(tf.SmolVLMProcessor):
        processor = for_pictures_only(tf.SmolVLMProcessor)(
            image_processor=tf.SmolVLMImageProcessorPil(
                size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
            ),
            tokenizer=tokenizer,
            video_processor=None,
            image_seq_len=4,
            chat_template=_template(),
        )
    return tf.SmolVLMForConditionalGeneration(config), processor, True


def _gemma3():
    tokenizer = _tokenizer(image_token="<soft>", boi_token="<boi>", eoi_token="<eoi>")
    image, boi, eoi = _ids(tokenizer, "<soft>", "<boi>", "<eoi>")
    config = tf.Gemma3Config(
        vision_config=_siglip(),
        text_config=_text(
            tf.Gemma3TextConfig,
            tokenizer,
            head_dim=16,
            sliding_window=12,
            query_pre_attn_scalar=16,
            layer_types=["sliding_attention", "full_attention"] * 2,
        ),
        image_token_index=image,
        boi_token_index=boi,
        eoi_token_index=eoi,
        mm_tokens_per_image=4,
    )
    processor = tf.Gemma3Processor(
        image_processor=tf.Gemma3ImageProcessorPil(size=_EXACT),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=_template("<boi>"),
    )
    return tf.Gemma3ForConditionalGeneration(config), processor, True


def _qwen(name: str, vision: dict[str, Any], text: type, patch: int = PATCH, **text_changes: Any):
    tokenizer = _tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    image, video, start, end = _ids(tokenizer, "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    config = getattr(tf, f"{name}Config")(
        vision_config=dict(patch_size=patch, spatial_merge_size=2, temporal_patch_size=2, **vision),
        text_config=_text(text, tokenizer, **text_changes).to_dict(),
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    processor = for_pictures_only(getattr(tf, f"{name}Processor"))(
        image_processor=tf.Qwen2VLImageProcessorPil(
            patch_size=patch, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 640}
        ),
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return getattr(tf, f"{name}ForConditionalGeneration")(config), processor, True


def _rope(*section: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(section)}


def _qwen2_vl():
    vision = dict(depth=2, embed_dim=32, hidden_size=32, num_heads=2, mlp_ratio=2)
    return _qwen("Qwen2VL", vision, tf.Qwen2VLTextConfig, rope_parameters=_rope(2, 1, 1))


def _qwen2_5_vl():
    vision = dict(
        depth=2,
        hidden_size=32,
        out_hidden_size=32,
        num_heads=2,
        intermediate_size=48,
        window_size=16,
        fullatt_block_indexes=[1],
    )
    return _qwen("Qwen2_5_VL", vision, tf.Qwen2_5_VLTextConfig, rope_parameters=_rope(2, 1, 1))


def _qwen3_vl():
    vision = dict(
        depth=3,
        hidden_size=32,
        out_hidden_size=32,
        num_heads=2,
        intermediate_size=48,
        num_position_embeddings=64,
        deepstack_visual_indexes=[0, 1],
    )
    return _qwen("Qwen3VL", vision, tf.Qwen3VLTextConfig, head_dim=16, rope_parameters=_rope(4, 2, 2))


def _instructblip():
    tokenizer = _tokenizer(IMAGE)
    config = tf.InstructBlipConfig(
        vision_config=tf.InstructBlipVisionConfig(**_TOWER, **_SQUARE).to_dict(),
        qformer_config=tf.InstructBlipQFormerConfig(
            vocab_size=420,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            encoder_hidden_size=24,
            cross_attention_frequency=1,
        ).to_dict(),
        text_config=_text(tf.LlamaConfig, tokenizer).to_dict(),
        num_query_tokens=5,
        image_token_index=_ids(tokenizer, IMAGE)[0],
    )
    processor = tf.InstructBlipProcessor(
        image_processor=tf.BlipImageProcessorPil(size=_EXACT),
        tokenizer=tokenizer,
        qformer_tokenizer=tiny_tokenizer(None),
        num_query_tokens=5,
    )
    return tf.InstructBlipForConditionalGeneration(config), processor, False


def _blip2():
    tokenizer = _tokenizer(IMAGE)
    text = {k: v for k, v in _TEXT.items() if k not in ("intermediate_size", "num_key_value_heads")}
    config = tf.Blip2Config(
        vision_config=tf.Blip2VisionConfig(**_TOWER, **_SQUARE).to_dict(),
        qformer_config=tf.Blip2QFormerConfig(
            vocab_size=420,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            encoder_hidden_size=24,
            cross_attention_frequency=1,
        ).to_dict(),
        text_config=tf.OPTConfig(vocab_size=len(tokenizer) + 3, **text, ffn_dim=48, word_embed_proj_dim=32).to_dict(),
        num_query_tokens=5,
        image_token_index=_ids(tokenizer, IMAGE)[0],
    )
    processor = tf.Blip2Processor(
        image_processor=tf.BlipImageProcessorPil(size=_EXACT), tokenizer=tokenizer, num_query_tokens=5
    )
    return tf.Blip2ForConditionalGeneration(config), processor, False


def _paligemma(text: type = tf.GemmaConfig, **changes: Any):
    tokenizer = _tokenizer()
    image_processor = tf.SiglipImageProcessorPil(size=_EXACT)
    image_processor.image_seq_length = (SIDE // PATCH) ** 2
    processor = tf.PaliGemmaProcessor(image_processor=image_processor, tokenizer=tokenizer)
    config = tf.PaliGemmaConfig(
        vision_config=_siglip().to_dict(),
        text_config=_text(text, tokenizer, head_dim=16, **changes).to_dict(),
        image_token_index=_ids(tokenizer, IMAGE)[0],
        projection_dim=32,
        hidden_size=32,
    )
    return tf.PaliGemmaForConditionalGeneration(config), processor, False


def _paligemma2():
    return _paligemma(tf.Gemma2Config, query_pre_attn_scalar=16, sliding_window=12)


_MAKERS = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "idefics3": _idefics3,
    "gemma3": _gemma3,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "instructblip": _instructblip,
    "blip2": _blip2,
    "qwen2_vl": _qwen2_vl,
    "smolvlm": _smolvlm,
    "paligemma": _paligemma,
    "paligemma2": _paligemma2,
}
NAMES = tuple(_MAKERS)

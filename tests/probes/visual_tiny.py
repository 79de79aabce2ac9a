"""What tests of visual heads share: a tiny LLaVA with a planted head, questions that it answers, simulated scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import transformers as tf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

import interp
from interp.interventions.values import Branch, HeadEdit
from interp.scans.fanout import fan_out_logits
from probes.scenes.scenes import COLOURS, MATERIALS, RELATIONS, SHAPES, SIZES
from probes.visual_semantics.heads.result import VisualHeads
from probes.visual_semantics.questions.asked import Asked
from probes.visual_semantics.questions.prompts import VisualExamples, visual_examples
from tests.interp.tiny_vision import IMAGE, PATCH, TEMPLATE, Tiny, picture, tiny_vision

PLANTED = (0, 2)
LEVELS = ("object", "attribute", "relationship")
FORMS = {
    "object": {"yes_no": ("exists", "exists_bound"), "open": ("what_shape", "what_thing")},
    "attribute": {"yes_no": ("is_colour", "is_size"), "open": ("what_colour", "what_size")},
    "relationship": {"yes_no": ("related", "beside"), "open": ("where", "what_beside")},
}


def word_tokenizer() -> tf.PreTrainedTokenizerFast:
    """One token a word: those of the scenes' questions and answers, upper case as lower case."""
    words = {"yes", "no", "is", "there", "a", "an", "the", "object", "what", "where", "of", "seen", "from", "on"}
    words |= {*SHAPES, *COLOURS, *SIZES, *MATERIALS, *RELATIONS, "pattern", "shape", "colour", "size", "or"}
    vocabulary = ["<pad>", "<unk>", "<end>", "<answer>", *sorted(words), *"?:.,", IMAGE]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        extra_special_tokens={"answer_token": "<answer>", "image_token": IMAGE},
    )


def tiny_llava(seed: int = 1, chat: bool = True) -> Tiny:
    """The tiny LLaVA of `tests.interp.tiny_vision` with a tokenizer in which every token is a word."""
    made, tokenizer = tiny_vision("llava", seed=seed), word_tokenizer()
    config = made.hf.config
    config.text_config.vocab_size = len(tokenizer)
    config.image_token_index = config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
    model = tf.LlavaForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.25 if parameter.ndim > 1 else 0.05
            noise = torch.randn(parameter.shape, generator=generator) * size
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
    template = TEMPLATE.replace("IMAGE", IMAGE).replace("<|im_start|>assistant", "<answer>").replace("<|im_start|>", "")
    processor = tf.LlavaProcessor(
        image_processor=made.processor.image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template.replace("<|im_end|>", "") if chat else None,
    )
    return Tiny(model.eval(), processor, chat)


def llava(
    planted: tuple[int, int] | None = None,
    scale: float = 20.0,
    dtype: torch.dtype = torch.float32,
    chat: bool = True,
    seed: int = 1,
) -> interp.Model:
    """It, loaded; one head's columns of the output projection may be made large, so that it makes the answers."""
    tiny = tiny_llava(seed, chat)
    if planted is not None:
        layer, head = planted
        projection = tiny.hf.model.language_model.layers[layer].self_attn.o_proj
        width = projection.in_features // tiny.hf.config.text_config.num_attention_heads
        with torch.no_grad():
            for block in tiny.hf.model.language_model.layers:
                block.self_attn.o_proj.weight *= 0.3
            projection.weight[:, head * width : (head + 1) * width] *= scale
    return interp.load(tiny.hf.to(dtype), processor=tiny.processor)


def questions(model: interp.Model, asked: Sequence[Asked]) -> VisualExamples:
    """Questions about noise, one picture for each image id."""
    return visual_examples(model, asked, lambda q: picture(int(q.image_id)))


def answered(model: interp.Model, n: int, wrong: tuple[int, int] = PLANTED) -> VisualExamples:
    """2n open questions: gold is what the model says (n of them, answered correctly), or what it says without the head
    ``wrong`` (n, answered wrongly). Two questions share a picture; levels come in turn."""
    found: dict[bool, list[Asked]] = {True: [], False: []}
    edit = Branch((HeadEdit(*wrong, "mean_of_others"),))
    for i in range(12 * n):
        text = f"Is the {SHAPES[i % 10]} {COLOURS[(i // 10) % 10]}, {SIZES[i % 2]} or {MATERIALS[i % 4]}?"
        asked = Asked(f"q{i}", text, "yes", level=LEVELS[i % 3], image_id=str(i // 2))
        example = questions(model, [asked])[0]
        said, without = (_word(model, example.prompt, branch) for branch in (None, edit))
        if said and len(found[True]) < n:
            found[True].append(replace(asked, gold=said))
        elif without and without != said and len(found[False]) < n:
            found[False].append(replace(asked, gold=without))
        if all(len(some) == n for some in found.values()):
            return questions(model, [q for pair in zip(*found.values(), strict=True) for q in pair])
    raise AssertionError({right: len(some) for right, some in found.items()})


def _word(model: interp.Model, prompt: interp.Prompt, branch: Branch | None) -> str:
    """What the model says: the most probable token, "" if it is no word."""
    logits = fan_out_logits(model, prompt, [branch] if branch else [], len(prompt), None)[-1]
    word = model.tokenizer.decode([int(logits.argmax())])
    return word if word.isalpha() else ""


def simulated(
    n_pictures: int = 60,
    n_layers: int = 5,
    n_heads: int = 6,
    seed: int = 0,
    own: float = 1.0,
    shared: float = 0.0,
    noise: float = 0.05,
    yes_head: float = 0.0,
) -> VisualHeads:
    """Scores with six positive heads of each level's own (``own``), six negative heads that all levels share, and a
    head that says Yes (the last but six)."""
    rng, total = np.random.default_rng(seed), n_layers * n_heads
    heads = {level: np.sort(rng.permutation(total - 7)[:6]) for level in LEVELS}
    if shared:
        heads = dict.fromkeys(LEVELS, heads[LEVELS[0]])
    asked, drop, correct, push = [], [], [], []
    for i in range(n_pictures):
        for level in LEVELS:
            for turn, kind in enumerate(("yes_no", "open", "yes_no", "open")):
                form = FORMS[level][kind][rng.integers(2)]
                gold = ("yes", "no")[turn // 2] if kind == "yes_no" else "red"
                options = ("yes", "no") if kind == "yes_no" else ("red", "blue")
                name = f"{i}-{level}-{turn}"
                asked.append(Asked(name, f"{name}?", gold, options, level, kind, "test", form, f"p{i}", "0"))
                x, y, right = rng.normal(0, noise, total), rng.normal(0, 0.1, total), rng.random() < 0.7
                if right:
                    x[heads[level]] += 0.1 * max(own, shared)
                else:
                    x[total - 6 :] -= 0.1
                if kind == "yes_no":
                    x[total - 7] += yes_head * (1 if gold == "yes" else -1)
                y[total - 7] += 10 * yes_head
                drop.append(x), push.append(y), correct.append(right)
    shape = (len(asked), n_layers, n_heads)
    drops, pushes = (np.array(a, dtype=np.float32).reshape(shape) for a in (drop, push))
    right = np.array(correct)
    p = np.where(right, 0.8, 0.2).astype(np.float32)
    unknown = np.full(len(asked), np.nan, dtype=np.float32)
    settings = {"scores": ["s_plus", "s_minus", "signed_drop"], "ablation": "mean_of_others", "positions": "all"}
    provenance = {
        "run_id": "simulated",
        "title": "Visual heads of a simulation",
        "model": {"name": "simulation"},
        "caveats": [],
        "citation": [],
        "settings": settings,
    }
    zero = np.zeros(len(asked), dtype=np.float32)
    return VisualHeads(tuple(asked), right, unknown, unknown, p, p[:, None, None] - drops, zero, -pushes, provenance)

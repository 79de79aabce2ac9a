"""Train what `scenes-smollm2` adds to SmolLM2-135M-Instruct, and write it with its model card into interp/data.

    python -m probes.scenes.training.smollm2 WORK

WORK keeps checkpoints: a killed run continues. Seeds and step counts are fixed. About an hour on one thread of a CPU
with AVX-512 bfloat16.

(1) Tower and projector alone: projected patches are aligned with the language model's own word embeddings of what they
show. (2) Through the language model, whose weights stay as they are but for low-rank changes of attention; in bfloat16,
which is 1.6 times as fast as float32 here, with the trained weights in float32. Three heads of the first layer start as
a search by content (:func:`search_by_content`); from a random start the answers stayed at chance for all of 200 steps.
Open questions on easier scenes come first.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from interp.sources.resolve import local_directory
from interp.sources.testbeds import ADAPTED, DATA, TESTBEDS, around_language_model, image_tokenizer, insert_trained
from probes.scenes.scenes import ATTRIBUTES
from probes.scenes.splits import scene_split
from probes.scenes.training.alignment import (
    Words,
    alignment_loss,
    alignment_shares,
    disguise,
    image_features,
    places,
)
from probes.scenes.training.card import write_card
from probes.scenes.training.evaluation import answer_pool
from probes.scenes.training.packing import Template, answer_loss, pixel_values, target_logits
from probes.scenes.training.processor import make_processor
from probes.scenes.training.training import Pool, Stage, draw, draw_batch, joined, random_state, train

NAME = "scenes-smollm2"
SEED = 5
DIFFICULTY = "medium"
PIXELS, PATCH = 96, 16
GRID = PIXELS // PATCH
EASIER = 0.24  # what the study asks about; on medium scenes alone the tower hardly gets going
N_TRAIN, N_EASIER, N_TEST, N_QUESTIONS = 6000, 3000, 200, 14
BATCH, ALIGNED_BATCH = 2, 64
RANK, SEARCH_RANK, SCALE = 16, 32, 2.0  # of all layers and of the first; LoRA's alpha / rank
SEARCHING = 2  # the group of heads in the first layer that starts as a search: its key/value head's number
SHARPNESS = 10.0  # of the search: a patch that has the word gets about SHARPNESS ** 2 / 8 logits more attention
END = "<|im_end|>"
SHORTNESS = 0.05  # weight of the features' squared length in alignment; 1 is a word embedding's
ALIGNING = Stage("alignment", n_steps=1600, rate=2e-3, warm_up=100, last=0.02)
OPEN = Stage("open-questions", n_steps=300, rate=2e-3, warm_up=20, last=0.5)
ALL = Stage("all-questions", n_steps=550, rate=1.5e-3, warm_up=10, last=0.03)
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FACTS = {
    "name": NAME,
    "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "script": "probes.scenes.training.smollm2",
    "what": "SmolLM2-135M-Instruct (4-bit weights written out in float32, see `interp models`) with eyes: LLaVA's "
    "architecture (transformers' `LlavaForConditionalGeneration`), a small vision tower and projector, and low-rank "
    "changes of attention, trained on drawn scenes. Here is what was trained; it is merged with the language model the "
    "first time it is loaded. It answers in SmolLM2's chat template, imperfectly, and so leaves something to improve. "
    "For the study.",
    "data": f"{N_TRAIN + N_EASIER:,} scenes of `probes.scenes.splits`, split train, seed {SEED}: {N_TRAIN:,} of "
    f"difficulty {DIFFICULTY}, {N_EASIER:,} of difficulty {EASIER}, drawn by `probes.scenes.renderer`: no photographs, "
    "no text by people. The other splits' scenes are made of combinations of shape, colour and pattern that train has "
    "not; ood has other backgrounds, more noise and more objects besides. Answers below are about scenes of difficulty "
    f"{EASIER} where the split's name does not say otherwise.",
    "training": f"Seed {SEED}; AdamW. First tower and projector alone ({ALIGNING.n_steps} batches of {ALIGNED_BATCH} "
    "pictures): projected patches are aligned with the language model's word embeddings of their object's shape, "
    "colour, size and pattern, and its place is written along right minus left and bottom minus top. Pictures are "
    "disguised so that no property can be read off another (`probes/scenes/training/alignment.py`): some have hues "
    "turned or are negatives, and may look like a held-out combination, but carry no colour label then. After that, "
    f"through the language model, in batches of {BATCH} pictures with {N_QUESTIONS} questions each, packed behind the "
    f"picture: open questions on the easier scenes for {OPEN.n_steps} steps, then all on all scenes for {ALL.n_steps}. "
    f"LoRA of rank {RANK} (first layer: {SEARCH_RANK}) on the attention weights of every layer, all else frozen; "
    "bfloat16, with LoRA's weights in float32. Heads "
    f"{3 * SEARCHING} to {3 * SEARCHING + 2} of the first layer *start* as a search by content, by regression: a word "
    "of a property looks at the patches that have it and adds their other words. What they do there was put in by "
    "hand, then trained on. The log, thinned (seconds of one thread of a shared core):",
    "limits": "Answers questions in the forms of `probes.scenes.questions` only, with one word; on other "
    "requests it is SmolLM2-135M with changed attention, and was not tested. One seed.",
}


def make_config(vocabulary: int) -> LlavaConfig:
    """Tower and projector; what is said of the language model is replaced by its own configuration."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=6,
            image_size=PIXELS,
            patch_size=PATCH,
            projection_dim=192,
        ),
        image_token_index=vocabulary,
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
    )


def align(model: Any, pool: Pool, held_out: Pool, tokenizer: Any, work: Path) -> list[dict]:
    """Tower and projector alone, towards word embeddings that stay as they are: a patch's features are to have large
    dot products with its object's words, its place along the axes "left" to "right" and "top" to "bottom", and about
    the length of a word embedding. Background is aimed at its own word.
    """
    embedding = model.model.language_model.embed_tokens.weight.detach().float()
    vectors = Words(tokenizer, ATTRIBUTES, " {}").vectors(embedding)
    ends = {"across": (" left", " right"), "down": (" top", " bottom"), "none": (" background",)}
    ends = Words(tokenizer, ends, "{}").vectors(embedding)
    axes = torch.stack([(ends[axis][1] - ends[axis][0]) / 2 for axis in ("across", "down")])
    labels, unit = torch.from_numpy(pool.labels).long(), embedding.var()
    where = places(labels, torch.from_numpy(pool.centres))

    def loss_of(step: int):
        rng = random_state(SEED, 0, step)
        chosen = rng.choice(len(pool), size=ALIGNED_BATCH, replace=False)
        shown, marked = disguise(pixel_values(pool.images[chosen]), labels[chosen], list(ATTRIBUTES), PATCH, rng)
        features = image_features(model, shown)
        loss, right = alignment_loss(features, marked, vectors, scale=1.0)
        off_place = features @ axes.T / axes.square().sum(dim=1) - where[chosen]
        empty = labels[chosen][..., 0] < 0
        background = features[empty] - ends["none"][0] / 2 - where[chosen][empty] @ axes
        distance = off_place.square().mean() + background.square().mean() / unit
        length = features.square().mean() / unit
        facts = {"distance": distance.item(), "length": length.item(), **right}
        return loss + distance + SHORTNESS * length, facts

    log = train(ALIGNING, seeing(model.model), loss_of, work)
    shares = alignment_shares(model, pixel_values(held_out.images), torch.from_numpy(held_out.labels).long(), vectors)
    print("aligned, validation:", {name: round(share, 3) for name, share in shares.items()}, flush=True)
    return [*log, {"stage": "alignment, validation", **shares}]


def seeing(inner: Any) -> dict[str, Tensor]:
    """Tower and projector by name, but for the tower's last norm, which LLaVA doesn't use."""
    names = ("vision_tower.", "multi_modal_projector.")
    return {n: p for n, p in inner.named_parameters() if n.startswith(names) and "post_layernorm" not in n}


def search_by_content(model: Any, pool: Pool, template: Template, tokenizer: Any) -> None:
    """Have a group of heads of the first layer look, from a property's word in a question, at the patches that have it,
    and add the words of their other properties, and their place, to that word's position.

    All by ridge regression on the layer's normed input: queries from the question's words, keys and values from what
    patches of the pool show. The lowest rotary frequencies carry it, so that distance hardly matters.
    """
    language_model = model.model.language_model
    attention, norm = language_model.layers[0].self_attn, language_model.layers[0].input_layernorm
    embedding = language_model.embed_tokens.weight.detach().float()
    last = [
        tokenizer(f" {word}", add_special_tokens=False)["input_ids"][-1] for ws in ATTRIBUTES.values() for word in ws
    ]
    n, d_head = len(last), attention.head_dim
    with torch.no_grad():
        asked = {token for about in pool.asked for one in about for token in (*one.suffix, *one.answer)}
        tokens = sorted(asked | set(template.prefix))
        words = norm(embedding[tokens])
        patches = norm(image_features(model, pixel_values(pool.images))).flatten(0, 1)
    named = torch.zeros(len(tokens), n)
    for word, token in enumerate(last):
        if token in tokens:
            named[tokens.index(token), word] = 1
    labels = torch.from_numpy(pool.labels).long()
    shown = torch.zeros(len(patches), n + 2)
    first = 0
    for number, values in enumerate(ATTRIBUTES.values()):
        of_patch = labels[..., number].flatten()
        owned = of_patch >= 0
        shown[owned, first + of_patch[owned]] = 1
        first += len(values)
    shown[:, n:] = places(labels, torch.from_numpy(pool.centres)).flatten(0, 1)
    query = ridge(words, named)
    silent = (words.repeat(20, 1), torch.zeros(20 * len(words), n + 2))  # of text nothing is to be read
    value = ridge(torch.cat([patches, silent[0]]), torch.cat([shown, silent[1]]))

    axes = Words(tokenizer, {"across": (" left", " right"), "down": (" top", " bottom")}, "{}").vectors(embedding)
    written = [*Words(tokenizer, ATTRIBUTES, " {}").vectors(embedding).values()]
    written += [(axes[name][1] - axes[name][0])[None] / 2 for name in ("across", "down")]
    slow = [*range(d_head // 2 - n // 2, d_head // 2), *range(d_head - n // 2, d_head)]  # dimensions of low frequency
    group = model.config.text_config.num_attention_heads // model.config.text_config.num_key_value_heads
    heads = range(group * SEARCHING, group * (SEARCHING + 1))
    a, b = (
        {name: getattr(getattr(attention, name), part)["default"].weight.data for name in ADAPTED}
        for part in ("lora_A", "lora_B")
    )
    for name, rows in (("q_proj", query), ("k_proj", value[:n]), ("v_proj", value)):
        a[name][: len(rows)] = rows
    a["o_proj"][: n + 2] = 0
    for i in range(n + 2):
        b["v_proj"][SEARCHING * d_head + i, i] = 1 / SCALE
        for head in heads:
            a["o_proj"][i, head * d_head + i] = 1 / group
    for i, dimension in enumerate(slow):
        b["k_proj"][SEARCHING * d_head + dimension, i] = SHARPNESS / SCALE
        for head in heads:
            b["q_proj"][head * d_head + dimension, i] = SHARPNESS / SCALE
    b["o_proj"][:, : n + 2] = torch.cat(written).T / SCALE


def ridge(x: Tensor, y: Tensor, penalty: float = 1e-3) -> Tensor:
    """Weights [column of y, column of x] of a least-squares fit without intercept."""
    square = x.T @ x + penalty * x.square().sum(dim=1).mean() * torch.eye(x.shape[1])
    return torch.linalg.solve(square, x.T @ y).T


def learn(model: Any, medium: Pool, easier: Pool, template: Template, tokenizer: Any, work: Path) -> list[dict]:
    """Low-rank changes of attention, through the language model's answers. Tower and projector stay: trained on, they
    would learn which properties go together in train."""
    inner = model.model
    model.requires_grad_(False)
    torch.manual_seed(SEED)
    first = r"layers\.0\.self_attn\..*"
    low_rank = LoraConfig(
        r=RANK,
        lora_alpha=SCALE * RANK,
        rank_pattern={first: SEARCH_RANK},
        alpha_pattern={first: SCALE * SEARCH_RANK},
        target_modules=list(ADAPTED),
    )
    inject_adapter_in_model(low_rank, inner.language_model)
    search_by_content(model, joined(medium.first(700), easier.first(700)), template, tokenizer)
    inner.language_model.to(torch.bfloat16)
    added = {n: p for n, p in inner.language_model.named_parameters() if "lora_" in n}
    for parameter in added.values():
        parameter.data = parameter.data.float()

    def run(stage: Stage, number: int, of: Pool, kinds: tuple[str, ...]) -> list[dict]:
        def loss_of(step: int):
            rng = random_state(SEED, number, step)
            chosen, packed = draw_batch(of, template, rng, BATCH, N_QUESTIONS, kinds)
            logits = target_logits(model, pixel_values(of.images[chosen]), packed)
            first = packed.is_first
            right = (logits[first].argmax(dim=1) == packed.target[first]).float().mean()
            return answer_loss(logits, packed), {"accuracy": right.item()}

        return train(stage, added, loss_of, work)

    return run(OPEN, 1, easier, ("open",)) + run(ALL, 2, joined(medium, easier), ("open", "yes_no"))


def shipped_weights(model: Any) -> dict[str, Tensor]:
    """What ships, in float16: see :func:`interp.sources.testbeds.insert_trained`."""
    inner = model.model
    out = {n: p for n, p in inner.named_parameters() if n.startswith(("vision_tower.", "multi_modal_projector."))}
    for number, layer in enumerate(inner.language_model.layers):
        for name in ADAPTED:
            adapted = getattr(layer.self_attn, name)
            out[f"lora.{number}.{name}.a"] = adapted.lora_A["default"].weight
            out[f"lora.{number}.{name}.b"] = adapted.lora_B["default"].weight * SCALE
    return {name: weight.detach().to(torch.float16).contiguous() for name, weight in out.items()}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m probes.scenes.training.smollm2 WORK")
    work = Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    base = local_directory(TESTBEDS[NAME].language_model)
    tokenizer = image_tokenizer(base)
    processor = make_processor(tokenizer, PIXELS, PATCH, CHAT_TEMPLATE)
    template = Template(processor, GRID * GRID, END)
    medium, easier = (
        draw(scene_split("train", n, SEED, difficulty, pairs=2, opens=6), template, PIXELS, GRID)
        for n, difficulty in ((N_TRAIN, DIFFICULTY), (N_EASIER, EASIER))
    )
    held_out = draw(scene_split("validation", N_TEST // 2, SEED, DIFFICULTY), template, PIXELS, GRID)
    print("drawn", flush=True)

    config = make_config(len(tokenizer) - 1)
    model = around_language_model(base, config.to_dict())
    print(f"tower and projector: {sum(p.numel() for p in seeing(model.model).values()):,} parameters", flush=True)
    log = align(model, joined(medium, easier), held_out, tokenizer, work)
    log += learn(model, medium, easier, template, tokenizer, work)

    target = DATA / NAME
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    trained = shipped_weights(model)
    save_file(trained, target / TESTBEDS[NAME].weights, metadata={"format": "pt"})
    config.save_pretrained(target)
    processor.save_pretrained(work / "processor")
    for name in ("processor_config.json", "chat_template.jinja"):
        shutil.copyfile(work / "processor" / name, target / name)

    del model
    shipped: LlavaForConditionalGeneration = around_language_model(base, config.to_dict())
    insert_trained(shipped, trained)
    answers = {"train": answer_pool(shipped, template, easier.first(N_TEST // 2), 4)}
    for name, split, n, difficulty in (
        ("validation", "validation", N_TEST // 2, EASIER),
        ("test", "test", N_TEST, EASIER),
        ("ood", "ood", N_TEST // 2, EASIER),
        (f"test, {DIFFICULTY}", "test", N_TEST // 2, DIFFICULTY),
    ):
        pool = draw(scene_split(split, n, SEED, difficulty), template, PIXELS, GRID)
        answers[name] = answer_pool(shipped, template, pool, 4)
    write_card(target, FACTS, shipped, answers, log, TESTBEDS[NAME].weights)


if __name__ == "__main__":
    main()

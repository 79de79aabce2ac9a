"""Train `scenes-llava-tiny` and write its weights and model card into interp/data.

    python -m probes.scenes.training.llava_tiny WORK [SEED]

WORK keeps checkpoints: a killed run continues. Seeds and step counts are fixed, so the same versions of torch and of
the scenes give the same weights. About ten minutes on one thread. With a SEED the model is another one, written to
WORK/scenes-llava-tiny-seed-SEED, without a card: findings are tried on several.

The order of things matters; on questions alone, nothing is learnt. (1) Patches are aligned with the words of what they
show; tower and projector then stay as they are. (2) Attention starts as a search by content: W_K equal to W_Q, so that
a position looks at positions like itself, and W_O equal to W_V transposed, so that what it finds is copied as it is.
(3) Open questions first: they tell more about what is wrong than a yes or no. (4) All questions.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from interp.sources.testbeds import DATA, IMAGE_TOKEN
from probes.scenes.programs import SceneQuestion
from probes.scenes.questions import ask_many
from probes.scenes.scenes import ATTRIBUTES, SIZES, Scene, SceneObject, combinations, direction
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
from probes.scenes.training.training import Pool, Stage, draw, draw_batch, random_state, train

NAME = "scenes-llava-tiny"
SEED = 5
DIFFICULTY, RICHER = "easy", 0.5
PIXELS, PATCH = 48, 8
GRID = PIXELS // PATCH
N_TRAIN, N_TEST, N_QUESTIONS = 6000, 500, 16
BATCH = 8
END = "<end>"
SHARPNESS = 0.1  # of the softmax over words in alignment
ALIGNING = Stage("alignment", n_steps=1500, rate=3e-3, last=0.02)
OPEN = Stage("open-questions", n_steps=800, rate=1e-3, warm_up=100, last=0.5)
ALL = Stage("all-questions", n_steps=2200, rate=1e-3, warm_up=100, last=0.02)
TRAINED = ("model.language_model.layers", "model.language_model.norm")
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% if message['role'] == 'assistant' %}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)
FACTS = {
    "name": NAME,
    "script": "probes.scenes.training.llava_tiny",
    "what": "A vision-language model small enough for tests: LLaVA's architecture (transformers' "
    "`LlavaForConditionalGeneration`), trained from nothing to answer questions on easy drawn scenes of two or three "
    "objects. It speaks no language but these questions. For tests and the tour, not for findings.",
    "data": f"{N_TRAIN:,} scenes of the train split of `probes.scenes.splits`, seed {SEED}: a third of difficulty "
    f"{DIFFICULTY}, the rest looking alike with the shapes, colours and patterns of difficulty {RICHER}; about 28 "
    "questions each, drawn by `probes.scenes.renderer`: no photographs, no text by people. Validation, test and ood "
    f"scenes ({N_TEST} each, 9 questions each) are made of combinations of shape, colour and pattern that train has "
    "not.",
    "training": f"Seed {SEED}; AdamW. First tower and projector alone ({ALIGNING.n_steps} batches of 64 pictures): "
    "projected patches are aligned with the words of what they show, and its place is written along right minus left "
    "and below minus above. Pictures are disguised so that no property can be read off another "
    "(`probes/scenes/training/alignment.py`): some have hues turned or are negatives, and may look like a held-out "
    "combination, but carry no colour label then. After that the language model's layers alone, in batches of "
    f"{BATCH} pictures with {N_QUESTIONS} questions each, packed behind the picture: open questions for "
    f"{OPEN.n_steps} steps, then all for {ALL.n_steps}. Attention started as a search by content (W_K equal to W_Q, "
    "W_O to W_V transposed). The log, thinned (seconds of one thread of a shared core):",
    "limits": "Knows the words and the look of these scenes only; any other word is `<unk>`, and a question mark is no "
    "token. Trained on pictures of 96 pixels scaled to 48 (its processor does that); drawn at another size they look "
    "slightly different. On plain backgrounds as light as train's it is close to right throughout, so few heads can "
    "hurt it; on the ood split, whose backgrounds are dark, textured and cluttered, it sees badly and the shapes are "
    "mostly wrong. On yes/no questions it is unbiased in train and leans to no on held-out combinations. One seed.",
}


def make_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """One token a word, upper case as lower case; question marks, which all questions have, are left out."""
    special = ["<pad>", "<unk>", END, "<answer>"]
    vocabulary = [*special, *sorted(words), IMAGE_TOKEN]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("?", "")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token=END,
        additional_special_tokens=["<answer>", IMAGE_TOKEN],
        padding_side="left",
        model_max_length=256,
        model_input_names=["input_ids", "attention_mask"],
    )


def words_of(scenes: Sequence) -> list[str]:
    """Every word of the questions and answers, and of the properties."""
    splitter = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    texts = {t for _, questions in scenes for q in questions for t in (q.text, q.answer, *q.options)}
    texts |= {word for words in ATTRIBUTES.values() for word in words}
    return sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower().replace("?", ""))})


class VariedScenes(Sequence):
    """Scenes that look easy, of the combinations of a richer difficulty's train split, with their questions.

    Easy scenes alone have 32 combinations in train, in which shape and colour nearly tell the pattern: what was learnt
    from them failed on others.
    """

    def __init__(self, n: int, seed: int, pairs: int, opens: int):
        self.n, self.seed, self.pairs, self.opens = n, seed, pairs, opens

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Scene, list[SceneQuestion]]:
        if not 0 <= index < self.n:
            raise IndexError(index)
        rng = random.Random(f"varied {self.seed} {index}")
        while True:
            scene = self._sample(rng)
            if any(direction(scene, a, b) for a in range(len(scene.objects)) for b in range(a)):
                return scene, ask_many(scene, rng, self.pairs, self.opens)

    @staticmethod
    def _sample(rng: random.Random) -> Scene:
        triples, cells = list(combinations(RICHER, "train")), [(r, c) for r in range(3) for c in range(3)]
        objects: list[SceneObject] = []
        for row, column in rng.sample(cells, rng.choice((2, 3))):
            shapes, colours = {o.shape for o in objects}, {o.colour for o in objects}
            free = [t for t in triples if t[0] not in shapes and t[1] not in colours]
            shape, colour, material = rng.choice(free)
            place = ((row + 0.5) / 3, (column + 0.5) / 3)
            objects.append(SceneObject(shape, colour, rng.choice(SIZES), material, *place))
        return Scene(tuple(objects), seed=rng.getrandbits(31), difficulty=RICHER, split="train")


def make_model(tokenizer: Any) -> LlavaForConditionalGeneration:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=PIXELS,
            patch_size=PATCH,
            projection_dim=64,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=256,
            rope_parameters={"rope_type": "default", "rope_theta": 1e7},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).float()
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    width = config.text_config.hidden_size
    with torch.no_grad():
        torch.nn.init.normal_(model.model.language_model.embed_tokens.weight, std=1.0)
        model.model.language_model.norm.weight.fill_(0.1)
        for layer in model.model.language_model.layers:
            attention = layer.self_attn
            torch.nn.init.normal_(attention.q_proj.weight, std=width**-0.5)
            torch.nn.init.normal_(attention.v_proj.weight, std=width**-0.5)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.o_proj.weight.copy_(attention.v_proj.weight.T)
    return model


def align(model: Any, pool: Pool, held_out: Pool, tokenizer: Any, work: Path, seed: int) -> list[dict]:
    """Tower and projector alone, towards word embeddings that stay as they began. Where a patch is, is to be read along
    right minus left, below minus above."""
    words, inner = Words(tokenizer, ATTRIBUTES, "{}"), model.model
    sides = Words(tokenizer, {"across": ("left", "right"), "down": ("above", "below")}, "{}")
    embedding = inner.language_model.embed_tokens.weight.detach()
    labels = torch.from_numpy(pool.labels).long()
    where = places(labels, torch.from_numpy(pool.centres))

    def loss_of(step: int):
        rng = random_state(seed, 0, step)
        chosen = rng.choice(len(pool), size=64, replace=False)
        shown, marked = disguise(pixel_values(pool.images[chosen]), labels[chosen], list(ATTRIBUTES), PATCH, rng)
        features = image_features(model, shown)
        loss, right = alignment_loss(features, marked, words.vectors(embedding), scale=SHARPNESS)
        axes = torch.stack([ends[1] - ends[0] for ends in sides.vectors(embedding).values()])
        distance = (features @ axes.T * 2 / axes.square().sum(dim=1) - where[chosen]).square().mean()
        return loss + distance, {"distance": distance.item(), **right}

    parts = ("vision_tower.", "multi_modal_projector.")
    weights = {n: p for n, p in inner.named_parameters() if n.startswith(parts) and "post_layernorm" not in n}
    log = train(ALIGNING, weights, loss_of, work)
    shares = alignment_shares(
        model, pixel_values(held_out.images), torch.from_numpy(held_out.labels).long(), words.vectors(embedding)
    )
    print("aligned, validation:", {name: round(share, 3) for name, share in shares.items()}, flush=True)
    return [*log, {"stage": "alignment, validation", **shares}]


def learn(
    model: Any, pool: Pool, template: Template, stage: Stage, kinds: tuple[str, ...], work: Path, seed: int
) -> list[dict]:
    """The language model's layers. Tower, projector and word embeddings stay: trained on, the tower would learn which
    properties go together in train, and patches would lose their words."""

    def loss_of(step: int):
        rng = random_state(seed, len(kinds), step)
        chosen, packed = draw_batch(pool, template, rng, BATCH, N_QUESTIONS, kinds)
        logits = target_logits(model, pixel_values(pool.images[chosen]), packed)
        first = packed.is_first
        right = (logits[first].argmax(dim=1) == packed.target[first]).float().mean()
        return answer_loss(logits, packed), {"accuracy": right.item()}

    model.requires_grad_(False)
    weights = {n: p.requires_grad_() for n, p in model.named_parameters() if n.startswith(TRAINED)}
    return train(stage, weights, loss_of, work)


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m probes.scenes.training.llava_tiny WORK [SEED]")
    work, seed = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else SEED
    target = DATA / NAME if seed == SEED else work / f"{NAME}-seed-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    scenes = {split: scene_split(split, N_TEST, seed, DIFFICULTY) for split in ("validation", "test", "ood")}
    easy = scene_split("train", N_TRAIN // 3, seed, DIFFICULTY, pairs=3, opens=4)
    scenes["train"] = [*easy, *VariedScenes(N_TRAIN - len(easy), seed, pairs=3, opens=4)]
    tokenizer = make_tokenizer(words_of([pair for pairs in scenes.values() for pair in pairs]))
    processor = make_processor(tokenizer, PIXELS, PATCH, CHAT_TEMPLATE)
    template = Template(processor, GRID * GRID, END)
    pools = {split: draw(pairs, template, PIXELS, GRID) for split, pairs in scenes.items()}
    print("drawn", flush=True)

    model = make_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    log = align(model, pools["train"], pools["validation"], tokenizer, work, seed)
    log += learn(model, pools["train"], template, OPEN, ("open",), work, seed)
    log += learn(model, pools["train"], template, ALL, ("open", "yes_no"), work, seed)

    shutil.rmtree(target, ignore_errors=True)
    model.half().save_pretrained(target)
    processor.save_pretrained(target)
    if seed != SEED:
        return
    shipped = LlavaForConditionalGeneration.from_pretrained(target, dtype=torch.float32).eval()
    answers = {split: answer_pool(shipped, template, pools[split], BATCH) for split in ("validation", "test", "ood")}
    answers = {"train": answer_pool(shipped, template, pools["train"].first(N_TEST), BATCH), **answers}
    write_card(target, FACTS, shipped, answers, log, "model.safetensors")


if __name__ == "__main__":
    main()

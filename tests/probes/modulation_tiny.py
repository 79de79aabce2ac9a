"""What the tests of modulation share: tiny models that answer in words, and a head that drowns what the others say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import interp
from interp.edits.head_scales import heads_scaled
from probes.questions.questions import Question
from probes.visual_semantics.questions.asked import Asked
from probes.visual_semantics.questions.prompts import VisualExamples, visual_examples
from tests.interp.tiny_vision import picture, tiny_vision
from tests.tiny import tiny, tiny_tokenizer

HARMFUL = (2, 1)
LEVELS = ("object", "attribute", "relationship")
OPTIONS = {"yes_no": ("yes", "no"), "open": ("up", "down")}
_WORDS = ("blue", "kettle", "sky", "heat", "day", "water", "boil", "clear", "question", "so", "it", "when")


def llava(dtype: torch.dtype = torch.float32) -> interp.Model:
    """The tiny LLaVA, which says yes, no, up or down."""
    made = tiny_vision("llava")
    model = interp.load(made.hf.to(dtype), processor=made.processor)
    prompts = [model.prompt(_text(i), image=picture(i), id=str(i)) for i in range(64)]
    _say_only(model, [*OPTIONS["yes_no"], *OPTIONS["open"]], prompts)
    return model


def llama() -> interp.Model:
    """The tiny Llama with a tokenizer, which says Yes or No."""
    model = interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())
    _say_only(model, ["Yes", "No"], [model.prompt(_text(i), id=str(i)) for i in range(64)])
    return model


def harm(model: interp.Model, by: float = 6.0) -> None:
    """Make the harmful head's output so large that it drowns the others'."""
    layer, head = HARMFUL
    projection = model.components.blocks[layer].out_projection
    with torch.no_grad():
        projection.weight[:, head * model.d_head : (head + 1) * model.d_head] *= by


def pictured(model: interp.Model, n: int, seed: int) -> VisualExamples:
    """About n questions about noise, two of a picture, in three levels and two kinds, as many of each answer. Gold is
    what the model says without the harmful head."""
    blank = [
        Asked(
            id=f"{seed}-{i}",
            question_text=_text(10_000 * seed + i),
            gold=OPTIONS[kind := ("yes_no", "open")[i // 3 % 2]][0],
            options=OPTIONS[kind],
            level=LEVELS[i % 3],
            kind=kind,
            image_id=str(1000 * seed + i // 2),
        )
        for i in range(5 * n)
    ]
    said = said_without(model, [e.prompt for e in _asked(model, blank)])
    found = [Asked(**{**vars(q), "gold": word}) for q, word in zip(blank, said, strict=True) if word in OPTIONS[q.kind]]
    return _asked(model, [q for q in found if _first_of(found, q, lambda q: q.gold, n // 4)])


def asked_in_text(model: interp.Model, n: int, seed: int) -> list[Question]:
    """n yes/no questions of text, half of them Yes; gold is what the model says without the harmful head."""
    from probes.questions.instructions import build_prompts

    blank = [Question(f"{seed}-{i}", _text(10_000 * seed + i), "Yes", ("facts", "logic")[i % 2]) for i in range(4 * n)]
    said = said_without(model, build_prompts(model, blank))
    found = [Question(q.id, q.text, word, q.domain) for q, word in zip(blank, said, strict=True)]
    return [q for q in found if _first_of(found, q, lambda q: q.answer, n // 2)]


def said_without(model: interp.Model, prompts: Sequence[interp.Prompt]) -> list[str]:
    """The answer that the most probable token begins when the harmful head is off ("": none of the prompt's)."""
    with heads_scaled(model, {HARMFUL: 0.0}):
        tokens = model.final_logits(list(prompts), batch_size=32).argmax(-1).tolist()
    return [
        next((word for word, own in prompt.answers.items() if token in own), "")
        for prompt, token in zip(prompts, tokens, strict=True)
    ]


def _first_of(found: Sequence, one, answer, n: int) -> bool:
    return one in [q for q in found if answer(q) == answer(one)][:n]


def _text(seed: int) -> str:
    rng = np.random.default_rng(seed)
    return f"Is {' '.join(rng.choice(_WORDS, 6))} {seed}?"


def _asked(model: interp.Model, asked: Sequence[Asked]) -> VisualExamples:
    return visual_examples(model, asked, lambda q: picture(int(q.image_id)), cases="as_given")


def _say_only(model: interp.Model, words: Sequence[str], prompts: Sequence[interp.Prompt]) -> None:
    """Each two words are read off the two ends of a direction in which the last states vary, about their mean, and all
    other tokens get nothing: one of the words is always the most probable token."""
    tokens = interp.prompts.building.resolve_answers(model.tokenizer, prompts[0], list(words))
    states = _last_states(model, prompts).double()
    mean = states.mean(0) / states.mean(0).norm()
    _, _, directions = torch.linalg.svd(states - (states @ mean)[:, None] * mean, full_matrices=False)
    weight = model.components.unembedding.weight
    with torch.no_grad():
        weight.zero_()
        for direction, first, second in zip(directions, words[::2], words[1::2], strict=False):
            size = 6 / (states @ direction).std()
            weight[tokens[first][0]], weight[tokens[second][0]] = direction * size, -direction * size


def _last_states(model: interp.Model, prompts: Sequence[interp.Prompt]) -> Float[Tensor, "prompt d_model"]:
    """What enters the unembedding at the answer, with the harmful head off."""
    seen: list[Tensor] = []
    handle = model.components.unembedding.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, -1].float()))
    try:
        with heads_scaled(model, {HARMFUL: 0.0}):
            for prompt in prompts:
                model.final_logits([prompt])
    finally:
        handle.remove()
    return torch.cat(seen)

"""What kind of head is it? Scores on prompts of random tokens, by token ids, for every head in seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.architecture import (
    AttentionCall,
    attached,
    attention_handler,
    input_device,
    input_of,
    one_at_a_time,
    require_in_place,
    run_pass,
    weights_brought,
)
from interp.door import public
from interp.figures import head_label
from interp.passes import passes
from interp.prompts import Prompt
from interp.reading.kept_kinds import KeptKinds

if TYPE_CHECKING:
    from interp.models import Model

KINDS = ("induction", "previous_token", "duplicate_token", "retrieval", "copying", "first_token")
NAMED = 0.3
"""A head is called by the kind of its largest score, from here on; first_token only where no other reaches it."""
OTHERS = 1000
"""Random tokens that a copied one must be raised above."""


@public
@one_at_a_time
def head_kinds(model: Model, n: int = 8, length: int = 24, seed: int = 0) -> pd.DataFrame:
    """Scores of every head on ``n`` prompts of ``length`` random tokens said twice, and as many with one token before
    its needle; all between 0 and 1, means over prompts and positions of the second half.

    ``induction``: attention to what followed the token the first time (Olsson et al. 2022, arXiv 2209.11895).
    ``previous_token``, ``duplicate_token``, ``first_token``: attention to the token before, to the same token's first
    time, to the first position (a sink, where nothing is to do). ``retrieval``: how often the head looks most at the
    needle, when the token before it is said again (after Wu et al. 2024, arXiv 2404.15574). ``copying``: how often what
    it writes raises the token that it looks at most above all others of the prompt and 1,000 random ones, as name
    movers do (Wang et al. 2022, arXiv 2211.00593, there: among the first five of the vocabulary); past the final norm's
    scale, and without what later layers make of it.

    Args:
        model: whose heads.
        n: prompts of each sort.
        length: tokens that are said twice.
        seed: of the tokens.

    Returns:
        One row for each head: layer, head, label, the six scores, and ``kind``: the one of the largest score from 0.3
        on, else "".

    Raises:
        UnsupportedAttention: attention that can't be read.
        ValueError: a length below 4, or beyond half of what fits the model.

    Cost: 2 n short passes (SmolLM2: about 600 tokens, some three seconds on one core), once for a model as long as its
    logits stay: kept in memory, and beside the weights of a built-in model.
    Misleads: random tokens are nobody's text; a head that needs words shows nothing.
    """
    fits = (model.context_length or 10**9) // 2 - 1
    if not 4 <= length <= fits or n < 1:
        raise ValueError(f"n={n}, length={length}; expected n from 1 on, and a length from 4 to {fits}.")
    twice, needles, places = _prompts(model, n, length, seed)
    kept = KeptKinds(model, twice[0], (n, length, seed))
    if (found := kept.read()) is not None:
        return found
    scores: dict[str, np.ndarray] = {}
    rows, second = np.arange(length), np.arange(1 + length, 1 + 2 * length)
    attended, z = _seen(model, twice, second)  # [prompt, layer, head, query, key]
    for kind, back in (("induction", length - 1), ("previous_token", 1), ("duplicate_token", length)):
        scores[kind] = attended[..., rows, second - back].mean((0, -1))
    scores["first_token"] = attended[..., 0].mean((0, -1))
    scores["copying"] = _copies(model, twice, attended[..., -1, :], z, seed)
    looked = _seen(model, needles, np.array([length + 1]))[0][..., 0, :].argmax(-1)  # [prompt, layer, head]
    scores["retrieval"] = (looked == np.array(places)[:, None, None]).mean(0)
    return kept.write(_frame(model, scores))


def _prompts(model: Model, n: int, length: int, seed: int) -> tuple[list[Prompt], list[Prompt], list[int]]:
    """Random tokens said twice; random tokens of which one is said again at the end, and where its follower stands."""
    config = model.hf.config.get_text_config()
    rng, size = np.random.default_rng(seed), int(config.vocab_size)
    plain = np.arange(min(size // 10, 1000), size - size // 20)  # not the special tokens, at either end
    if model.has_vision:
        plain = plain[plain != model.image_token_id]
    begin = config.bos_token_id if isinstance(config.bos_token_id, int) else int(plain[0])
    twice, needles, places = [], [], []
    for _ in range(n):
        drawn = rng.choice(plain, length, replace=len(plain) < length).tolist()
        twice.append(Prompt.from_token_ids([begin, *drawn, *drawn], text_only=True))
        place = int(rng.integers(1, length - 1))
        needles.append(Prompt.from_token_ids([begin, *drawn, drawn[place - 1]], text_only=True))
        places.append(1 + place)
    return twice, needles, places


@torch.no_grad()
def _seen(
    model: Model, prompts: list[Prompt], queries: Int[np.ndarray, " query"]
) -> tuple[Float[np.ndarray, "prompt layer head query key"], Float[Tensor, "prompt layer head d_head"]]:
    """The attention of some positions to all, and every head's output at the last one, of prompts of one length."""
    model.require_fits(prompts)
    require_in_place(model)
    model.require_attention()
    attended = np.zeros((len(prompts), model.n_layers, model.n_heads, len(queries), len(prompts[0])), np.float32)
    z = torch.zeros((len(prompts), model.n_layers, model.n_heads, model.d_head), device=model.device)
    rows = torch.tensor(queries, device=model.device)
    for places in passes(model, prompts):

        def look(call: AttentionCall, places: Sequence[int] = places) -> None:
            for i, place in enumerate(places):
                scores = call.scores(i, rows)
                attended[place, call.layer] = (scores - call.log_normaliser(scores)[..., None]).exp().cpu().numpy()

        def keep(layer: int, out: Tensor, places: Sequence[int] = places) -> None:
            z[list(places), layer] = out[:, -1].unflatten(-1, (model.n_heads, model.d_head)).to(z)

        hooks = [input_of(b.out_projection, partial(keep, layer)) for layer, b in enumerate(model.components.blocks)]
        inputs = {**model.inputs([prompts[i] for i in places]).inputs, "use_cache": False, **model.last_logits_only()}
        with attention_handler(model, look), attached(model, hooks):
            model.require_finite(run_pass(model, inputs).logits[:, -1], [prompts[i] for i in places])
    return attended, z


@torch.no_grad()
def _copies(
    model: Model,
    prompts: list[Prompt],
    attended: Float[np.ndarray, "prompt layer head key"],
    z: Float[Tensor, "prompt layer head d_head"],
    seed: int,
) -> Float[np.ndarray, "layer head"]:
    """How often what a head writes at the last position raises the token that it looks at most above all others."""
    gain = _norm_gain(model)
    ids = np.array([prompt.token_ids for prompt in prompts])
    size = int(model.hf.config.get_text_config().vocab_size)
    tokens = np.union1d(ids, np.random.default_rng([seed, 1]).integers(size, size=OTHERS))
    looked = np.take_along_axis(ids[:, None, :], attended.argmax(-1).reshape(len(ids), 1, -1), axis=-1)
    column = torch.tensor(np.searchsorted(tokens, looked.reshape(attended.shape[:3])))  # [prompt, layer, head]
    unembed = _unembedding_of(model, tokens)
    apart = torch.eye(model.n_heads, device=z.device, dtype=model.dtype)[..., None]  # each head alone
    found = np.zeros(attended.shape[1:3])
    for layer, block in enumerate(model.components.blocks):
        alone = (apart[None] * z[:, layer, None].to(model.dtype)).flatten(-2)  # [prompt, head, features]
        alone = alone.to(input_device(block.out_projection))
        written = block.out_projection(alone) - block.out_projection(torch.zeros_like(alone[:1]))
        written = written.to(model.device)
        raised = unembed(written if gain is None else written * gain).cpu()
        found[layer] = (raised.argmax(-1) == column[:, layer]).float().mean(0).numpy()
    return found


def _norm_gain(model: Model) -> Float[Tensor, " d_model"] | None:
    """The final norm's weight, a copy; None where it has none."""
    norm = model.components.final_norm
    if getattr(norm, "weight", None) is None:
        return None
    with weights_brought(norm):
        return norm.weight.detach().clone().to(model.device)


def _unembedding_of(model: Model, tokens: Int[np.ndarray, " token"]) -> Callable[[Tensor], Tensor]:
    """From the normed stream to the logits of some tokens."""
    head = model.components.unembedding
    index = torch.tensor(tokens, device=input_device(head))
    if type(head) is torch.nn.Linear and not hasattr(head, "_hf_hook"):
        rows = head.weight[index].float()
        return lambda hidden: hidden.to(rows) @ rows.mT
    return lambda hidden: head(hidden.to(index.device))[..., index].float()


def _frame(model: Model, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    layer, head = (index.ravel() for index in np.indices((model.n_layers, model.n_heads)))
    frame = pd.DataFrame({"layer": layer, "head": head})
    frame["label"] = [head_label(*at) for at in zip(layer, head, strict=True)]
    for kind in KINDS:
        frame[kind] = scores[kind].ravel().astype(np.float64)
    told = frame[list(KINDS[:-1])]
    named = told.idxmax(axis=1).where(told.max(axis=1) >= NAMED, "")
    frame["kind"] = named.where((named != "") | (frame["first_token"] < NAMED), "first_token")
    return frame


def kinds_beside(model: Model) -> dict[str, dict[str, str]]:
    """What a ranking's provenance says of kinds: ``{"head_kinds": {label: kind}}``, heads without a kind left out; {}
    where attention can't be read or the model is too short. Costs as :func:`head_kinds`, once for a model."""
    try:
        kinds = head_kinds(model).set_index("label")["kind"]
    except (RuntimeError, ValueError):
        return {}
    return {"head_kinds": {label: kind for label, kind in kinds.items() if kind}}

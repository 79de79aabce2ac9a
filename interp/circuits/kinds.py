"""What kind of head is it? Scores on prompts of random tokens, by token ids, for every head in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.architecture import one_at_a_time
from interp.door import public
from interp.figures import head_label
from interp.prompts import Prompt
from interp.reading import attention_log_probs, head_outputs

if TYPE_CHECKING:
    from interp.models import Model

KINDS = ("induction", "previous_token", "duplicate_token", "retrieval", "copying", "first_token")
NAMED = 0.3
"""A head is called by the kind of its largest score, from here on; first_token only where no other reaches it."""
_cached: WeakKeyDictionary[torch.nn.Module, tuple[Tensor, pd.DataFrame]] = WeakKeyDictionary()


@public
@one_at_a_time
def head_kinds(model: Model, n: int = 8, length: int = 24, seed: int = 0) -> pd.DataFrame:
    """Scores of every head on ``n`` prompts of ``length`` random tokens said twice, and as many with one token before
    its needle; all between 0 and 1, means over prompts and positions of the second half.

    ``induction``: attention to what followed the token the first time (Olsson et al. 2022, arXiv 2209.11895).
    ``previous_token``, ``duplicate_token``, ``first_token``: attention to the token before, to the same token's first
    time, to the first position (a sink, where nothing is to do). ``retrieval``: how often the head looks most at the
    needle, when the token before it is said again (after Wu et al. 2024, arXiv 2404.15574). ``copying``: how often what
    it writes has the token that it looks at most among the five that it raises most, as name movers do (Wang et al.
    2022, arXiv 2211.00593); past the final norm's scale, and without what later layers make of it.

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

    Cost: 3 n short passes, and the unembedding of what every head writes; kept for a model as long as its logits stay.
    Misleads: random tokens are nobody's text; a head that needs words shows nothing.
    """
    fits = (model.context_length or 10**9) // 2 - 1
    if not 4 <= length <= fits or n < 1:
        raise ValueError(f"n={n}, length={length}; expected n from 1 on, and a length from 4 to {fits}.")
    twice, needles, places = _prompts(model, n, length, seed)
    fingerprint = model.final_logits(twice[:1])
    was = _cached.get(model.hf)
    if was is not None and (n, length, seed) == (8, 24, 0) and torch.equal(was[0], fingerprint):
        return was[1].copy()
    scores: dict[str, np.ndarray] = {}
    second = list(range(1 + length, 1 + 2 * length))
    rows = np.arange(length)
    attended = _attention(model, twice, second)  # [prompt, layer, head, query, key]
    for kind, back in (("induction", length - 1), ("previous_token", 1), ("duplicate_token", length)):
        scores[kind] = attended[..., rows, np.array(second) - back].mean((0, -1))
    scores["first_token"] = attended[..., 0].mean((0, -1))
    scores["copying"] = _copies(model, twice, attended[..., -1, :])
    looked = _attention(model, needles, [length + 1])[..., 0, :].argmax(-1)  # [prompt, layer, head]
    scores["retrieval"] = (looked == np.array(places)[:, None, None]).mean(0)
    frame = _frame(model, scores)
    if (n, length, seed) == (8, 24, 0):
        _cached[model.hf] = fingerprint, frame
    return frame.copy()


def _prompts(model: Model, n: int, length: int, seed: int) -> tuple[list[Prompt], list[Prompt], list[int]]:
    """Random tokens said twice; random tokens of which one is said again at the end, and where its follower stands."""
    config = model.hf.config.get_text_config()
    rng, size = np.random.default_rng(seed), int(config.vocab_size)
    plain = np.arange(min(size // 10, 1000), size - size // 20)  # not the special tokens, at either end
    begin = config.bos_token_id if isinstance(config.bos_token_id, int) else int(plain[0])
    twice, needles, places = [], [], []
    for _ in range(n):
        drawn = rng.choice(plain, length, replace=len(plain) < length).tolist()
        twice.append(Prompt.from_token_ids([begin, *drawn, *drawn]))
        place = int(rng.integers(1, length - 1))
        needles.append(Prompt.from_token_ids([begin, *drawn, drawn[place - 1]]))
        places.append(1 + place)
    return twice, needles, places


def _attention(
    model: Model, prompts: list[Prompt], queries: list[int]
) -> Float[np.ndarray, "prompt layer head query key"]:
    keys = [[key] for key in range(len(prompts[0]))]
    read = attention_log_probs(model, prompts, [queries] * len(prompts), [keys] * len(prompts))
    return torch.stack(read).exp().numpy()


@torch.no_grad()
def _copies(
    model: Model, prompts: list[Prompt], attended: Float[np.ndarray, "prompt layer head key"]
) -> Float[np.ndarray, "layer head"]:
    """How often what a head writes at the last position raises the token that it looks at most."""
    z = torch.stack(head_outputs(model, prompts, last=1))[:, :, 0].to(model.device)  # [prompt, layer, head, d_head]
    weight = getattr(model.components.final_norm, "weight", None)
    ids = np.array([prompt.token_ids for prompt in prompts])
    looked = np.take_along_axis(ids[:, None, :], attended.argmax(-1).reshape(len(ids), 1, -1), axis=-1)
    looked = looked.reshape(attended.shape[:3])
    apart = torch.eye(model.n_heads, device=z.device, dtype=z.dtype)[..., None]  # each head alone
    found = np.zeros(attended.shape[1:3])
    for layer, block in enumerate(model.components.blocks):
        alone = (apart[None] * z[:, layer, None]).flatten(-2)  # [prompt, head, features]
        written = block.out_projection(alone) - block.out_projection(torch.zeros_like(alone))
        raised = model.components.unembedding(written if weight is None else written * weight).topk(5, dim=-1).indices
        found[layer] = (raised.cpu().numpy() == looked[:, layer, :, None]).any(-1).mean(0)
    return found


def _frame(model: Model, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    layer, head = (index.ravel() for index in np.indices((model.n_layers, model.n_heads)))
    frame = pd.DataFrame({"layer": layer, "head": head})
    frame["label"] = [head_label(*at) for at in zip(layer, head, strict=True)]
    for kind in KINDS:
        frame[kind] = scores[kind].ravel()
    told = frame[list(KINDS[:-1])]
    named = told.idxmax(axis=1).where(told.max(axis=1) >= NAMED, "")
    frame["kind"] = named.where((named != "") | (frame["first_token"] < NAMED), "first_token")
    return frame

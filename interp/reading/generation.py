"""Replies of a model as text: greedy or sampled, in batches, under whatever edits are active."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList

from interp.architecture import one_at_a_time, run_pass
from interp.door import public
from interp.models import Model
from interp.passes import any_looks_ahead, end_tokens, lengths_of, may_share, passes, picture_arguments
from interp.prompts import Prompt


@public
@one_at_a_time
def generate(
    model: Model,
    prompts: Sequence[Prompt],
    max_new_tokens: int = 32,
    *,
    temperature: float = 0.0,
    n_samples: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    min_new_tokens: int | None = None,
) -> list[list[str]]:
    """Replies as text, ``[prompt][sample]``, without the prompt (or its ``reply``) and without special tokens.

    Temperature 0 takes the most probable token at each step. Above 0, tokens are drawn from the whole softmax of
    ``logits / temperature``, with random numbers that depend only on ``seed``, the prompt's tokens and the number of
    the sample: the same for every batch size, and torch's own generator is neither read nor moved. Sampling settings
    and penalties that a model brings in its generation config (Qwen's repetition penalty, say) are not used. A reply
    ends at the model's end token or after ``max_new_tokens``; ``min_new_tokens`` forbids the end token before.
    Context managers that edit the model act at every step.

    Replies share a batch where that gives each its own (:mod:`interp.passes.independence`). Where what a model computes
    changes with the length of the text on the way (LongRoPE across its border, dynamic NTK), or it looks ahead, keys
    and values are not kept: each token is then that of a whole pass over prompt and reply.

    ``batch_size`` counts replies. Costs one pass over the prompts, which samples of a prompt share, then one short pass
    for each token of the longest reply of a batch; a picture is encoded once. In half precision another batch size may
    turn a near tie.

    Raises:
        ValueError: no prompts, a prompt that leaves no room for the reply in the context, several samples at
            temperature 0, and a model without tokenizer; the BLIP family under an edit of chosen positions of the
            prompt.
        NonFiniteLogitsError: NaN or infinite logits.
    """
    _check(model, prompts, max_new_tokens, temperature, n_samples, batch_size, min_new_tokens)
    jobs = [(i, sample) for i in range(len(prompts)) for sample in range(n_samples)]
    jobs.sort(key=lambda job: len(prompts[job[0]]))  # equal lengths together: less padding
    replies = [[""] * n_samples for _ in prompts]
    for places in _batches(model, [prompts[i] for i, _ in jobs], max_new_tokens, batch_size):
        batch = [jobs[place] for place in places]
        rows = [prompts[i] for i, _ in batch]
        seeds = [_row_seed(seed, prompts[i], sample) for i, sample in batch]
        processor = _Chooser(model, rows, temperature, seeds)
        for (i, sample), tokens in zip(
            batch, _generate_batch(model, rows, max_new_tokens, min_new_tokens, processor), strict=True
        ):
            replies[i][sample] = model.tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
    return replies


def _batches(model: Model, rows: list[Prompt], max_new_tokens: int, batch_size: int) -> list[list[int]]:
    """Positions of rows that may grow in one batch: rows whose way of computing changes as they grow stand alone, and
    where columns are counted only rows of one length are together."""
    lengths, found = lengths_of(model), []
    for places in passes(model, rows, batch_size):
        together: dict[int | None, list[int]] = {}
        for place in places:
            n = len(rows[place])
            if not lengths.is_steady(n, n + max_new_tokens - 1):
                found.append([place])
                continue
            counts = lengths.columns_above is not None and n + max_new_tokens > lengths.columns_above
            together.setdefault(n if counts else None, []).append(place)
        found += together.values()
    return found


def _keeps(model: Model, rows: list[Prompt], inputs: dict[str, Any], max_new_tokens: int) -> bool:
    """Whether keys and values of what was read stay right as the reply grows."""
    lengths = lengths_of(model)
    steady = all(lengths.is_steady(len(p), len(p) + max_new_tokens - 1) for p in rows)
    reads_prefix = "token_type_ids" in inputs  # what is read both ways is told by its types, and a reply is not
    return steady and (reads_prefix or not any_looks_ahead(model, rows))


class _Chooser(LogitsProcessor):
    """Checks each step's logits and, above temperature 0, adds Gumbel noise: the argmax is then a draw from softmax."""

    def __init__(self, model: Model, rows: list[Prompt], temperature: float, seeds: list[int]) -> None:
        self.model, self.rows, self.temperature = model, rows, temperature
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]

    def __call__(
        self, input_ids: Int[Tensor, "row pos"], scores: Float[Tensor, "row vocabulary"]
    ) -> Float[Tensor, "row vocabulary"]:
        self.model.require_finite(scores.masked_fill(scores == -torch.inf, 0.0), self.rows)  # -inf: a forbidden end
        if self.temperature == 0:
            return scores
        waits = [torch.zeros(scores.shape[-1], dtype=torch.float32).exponential_(generator=g) for g in self.generators]
        gumbel = -torch.stack(waits).clamp(min=1e-30).log()
        return scores.float() / self.temperature + gumbel.to(scores.device)


@torch.no_grad()
def _generate_batch(
    model: Model, rows: list[Prompt], max_new_tokens: int, min_new_tokens: int | None, processor: _Chooser
) -> list[list[int]]:
    """New token ids of each row, padding included."""
    inputs = model.inputs(rows).inputs
    ids = inputs["input_ids"]
    lengths = torch.tensor([len(p) for p in rows], device=ids.device)
    mask = (torch.arange(ids.shape[1], device=ids.device) >= ids.shape[1] - lengths[:, None]).long()
    ends = end_tokens(model)
    pad = model.tokenizer.pad_token_id
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=pad if pad is not None else (ends or [0])[0],
        use_cache=_keeps(model, rows, inputs, max_new_tokens),
    )
    generator, pictures = picture_arguments(model, inputs)
    kept = {} if pictures or not config.use_cache else _read_once(model, rows, ids, mask)
    with _without_own_settings(generator):
        out = generator.generate(
            input_ids=ids,
            attention_mask=mask,
            **pictures,
            **kept,
            generation_config=config,
            logits_processor=LogitsProcessorList([processor]),
        )
    return out[:, ids.shape[1] :].tolist()


def _read_once(
    model: Model, rows: list[Prompt], ids: Int[Tensor, "row pos"], mask: Int[Tensor, "row pos"]
) -> dict[str, Any]:
    """Keys and values of all but the last token, computed once for each prompt and repeated for its samples, as an
    argument of ``generate``; {} where no prompt comes twice, or where the model does not allow it."""
    number: dict[tuple[int, ...], int] = {}
    of_row = [number.setdefault(row.token_ids, len(number)) for row in rows]
    takes_positions = "position_ids" in inspect.signature(model.hf.forward).parameters
    if len(number) == len(rows) or not takes_positions or ids.shape[1] < 2:
        return {}
    if not may_share(model, rows, ids.shape[1] - 1):
        return {}
    first = torch.tensor([of_row.index(n) for n in range(len(number))], device=ids.device)
    cache, seen = DynamicCache(config=model.hf.config), mask[first, :-1]
    inputs = {"input_ids": ids[first, :-1], "attention_mask": seen, "past_key_values": cache, "use_cache": True}
    run_pass(model, inputs | {"position_ids": (seen.cumsum(-1) - 1).clamp(min=0)} | model.last_logits_only())
    cache.reorder_cache(torch.tensor(of_row, device=ids.device))
    return {"past_key_values": cache}


@contextmanager
def _without_own_settings(hf: nn.Module) -> Iterator[None]:
    """While active, the model's generation config is empty: transformers fills what we leave open from it."""
    own = hf.generation_config
    hf.generation_config = GenerationConfig()
    try:
        yield
    finally:
        hf.generation_config = own


def _row_seed(seed: int, prompt: Prompt, sample: int) -> int:
    """A seed for one reply, made from the prompt's tokens and picture: the same wherever it stands in a list."""
    of: tuple = (seed, prompt.token_ids, sample)
    if prompt.image is not None:
        of += (prompt.image.key,)
    digest = hashlib.sha256(repr(of).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True) >> 1


def _check(model, prompts, max_new_tokens, temperature, n_samples, batch_size, min_new_tokens) -> None:
    if model.tokenizer is None:
        raise ValueError(f"{model.name} was loaded without a tokenizer: replies can't be decoded. Give one to load.")
    if not prompts:
        raise ValueError("no prompts were given; give at least one.")
    if max_new_tokens < 1 or n_samples < 1 or batch_size < 1:
        raise ValueError(
            f"max_new_tokens={max_new_tokens}, n_samples={n_samples}, batch_size={batch_size}; expected 1 or more each."
        )
    if min_new_tokens is not None and not 0 <= min_new_tokens <= max_new_tokens:
        raise ValueError(f"min_new_tokens={min_new_tokens}; expected 0 to max_new_tokens ({max_new_tokens}).")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature}; expected 0 (greedy) or a positive number such as 0.7.")
    if temperature == 0 and n_samples > 1:
        raise ValueError(
            f"n_samples={n_samples} at temperature 0 would all be the same reply. Give a temperature, or n_samples=1."
        )
    model.require_fits(prompts)
    longest = max(prompts, key=len)
    if model.context_length and len(longest) + max_new_tokens > model.context_length:
        raise ValueError(
            f"prompt {longest.id or longest.text[:60]!r} has {len(longest)} tokens and {max_new_tokens} are to come; "
            f"{model.name} reads at most {model.context_length}. Shorten one of them."
        )

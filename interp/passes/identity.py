"""What a number was computed with: the adapters and edits that act, what else was put on the model, the token ids of
every prompt, and a fingerprint of the logits, which catches what nobody thought to name.

A run is known by these (:func:`interp.models.model.Model.provenance` has them). The hash of the stored weights is one
part: two runs of the same weights are different runs if an adapter was switched, an edit applied, a hook left on a
module, a forward replaced, the config changed, or a date written by the template.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.architecture import (
    adapters_off,
    alone,
    describe_adapters,
    require_in_place,
    require_no_dropout,
    without_applied_edits,
)
from interp.architecture.active_edits import active_edits
from interp.architecture.foreign_parts import foreign_parts
from interp.door import public
from interp.passes.plain import forget_lengths, plain_logits
from interp.prompts import Prompt
from interp.records import hash_json

if TYPE_CHECKING:
    from interp.passes.handle import Handle

LENGTHS = (3, 11, 29)  # of the check prompts, in tokens
FULL = (torch.float32, torch.float64)
SAME, SAME_HALF = 1e-4, 0.05  # of the logits' size: how far fingerprints of one computation may be apart
_GRID, _GRID_HALF = 2e-3, 0.25  # what a fingerprint's key is rounded to
PARTS = {  # of what a model's provenance says: those that make a computation another one, and what to call them
    "architecture": "the architecture",
    "weights_sha256": "the weights",
    "dtype": "the dtype",
    "adapters": "the active adapters",
    "edits": "the edits that are applied",
    "hooks": "the hooks or replaced methods on the model",
    "config_sha256": "the model's config",
    "attention": "the attention implementation",
    "tokenizer_sha256": "the tokenizer's vocabulary",
    "end_tokens": "the tokens that end a reply",
    "template_sha256": "the chat template",
    "template_arguments": "what the chat template is told",
    "chat": "whether prompts are written with the chat template",
    "image_processor_sha256": "the image processor",
    "fingerprint": "the logits of a few check prompts",
}
_OF_A_COPY = {  # of a config: says where it came from, or what is computed beside the logits
    *("_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "auto_map"),
    *("use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript", "_commit_hash"),
}


def describe_computation(model: Handle) -> dict[str, Any]:
    """What acts beside the weights, for :meth:`interp.models.model.Model.provenance`: ``adapters`` and
    ``adapters_off``, ``edits``, ``hooks`` (of the user's), ``config_sha256``, ``attention``, ``tokenizer_sha256``,
    ``end_tokens`` and ``fingerprint``. Costs four passes of at most 29 tokens.

    Raises ``ValueError`` for a model whose numbers change from pass to pass (dropout), or whose parts were replaced
    after it was loaded.
    """
    require_in_place(model)
    require_no_dropout(model.hf)
    values = fingerprint(model)  # first: PEFT undoes the merge of a disabled adapter in the pass that follows
    return {
        "adapters": describe_adapters(model.hf),
        "adapters_off": adapters_off(model.hf),
        "edits": active_edits(model.hf),
        "hooks": foreign_parts(model.hf),
        "config_sha256": hash_config(model.hf),
        "attention": str(getattr(model.hf.config, "_attn_implementation", "")),
        "tokenizer_sha256": hash_vocabulary(model.tokenizer),
        "end_tokens": end_tokens(model),
        "fingerprint": {"values": values, "key": key_of(values, tolerance(model))},
    }


def identity_of(described: Mapping[str, Any], prompts_sha256: str) -> dict[str, Any]:
    """The flat part of a run's identity that says what computed: for run ids and part files. ``described``: a model's
    provenance. Summaries, names of files and the like are no part of it."""
    found = {name: described.get(name) for name in PARTS}
    found["edits"] = [edit["sha256"] for edit in described.get("edits") or ()]
    found["adapters"] = [[a["name"], a["sha256"]] for a in described.get("adapters") or ()]
    found["fingerprint"] = (described.get("fingerprint") or {}).get("key")
    return found | {"prompts_sha256": prompts_sha256}


def hash_prompts(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of what a model reads: token ids, answers' token ids and pictures, prompt by prompt, in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        answers = {word: list(tokens) for word, tokens in prompt.answers.items()}
        picture = None if prompt.image is None else [prompt.image.sha256, prompt.image.key]
        row = [list(map(int, prompt.token_ids)), answers, prompt.gold, picture]
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def fingerprint(model: Handle) -> list[float]:
    """A few numbers that another computation would not give: of the logits at the end of three fixed prompts, the log
    of their root mean square, and two sums with fixed signs for each prompt, in units of it.

    Edits that are applied are left out of it, since their own hashes name them exactly and some act on named prompts
    alone; everything else that is on the model acts. Raises ``ValueError`` where the same prompt gives other logits the
    second time, ``NonFiniteLogitsError`` for NaN.
    """
    prompts = check_prompts(model)
    with alone(model.hf), without_applied_edits(model.hf):
        rows = torch.stack([_last_logits(model, prompt) for prompt in [*prompts, prompts[0]]])
    model.require_finite(rows.masked_fill(rows == -torch.inf, 0.0), [*prompts, prompts[0]])
    rows = rows.double().masked_fill(rows.isinf(), 0.0)
    size = rows[:-1].square().mean().sqrt().clamp(min=1e-30)
    off = float((rows[-1] - rows[0]).abs().max() / size)
    if off > 10 * tolerance(model):
        raise ValueError(
            f"{model.name} gives other logits when the same prompt is run again (they differ by {off:.2g} of their "
            "size): something on the model is random or keeps a state, such as dropout or a hook that counts. Put it "
            "in evaluation mode (model.hf.eval()) and take such hooks off."
        )
    places = torch.arange(rows.shape[1])
    sums = [(rows[:-1] * _signs(places, which)).sum(1) / rows.shape[1] ** 0.5 / size for which in (1, 2)]
    found = torch.cat([size.log().reshape(1), *sums])
    return [float(f"{value:.7g}") for value in found.tolist()]


def tolerance(model: Handle) -> float:
    """How far two fingerprints of one computation may be apart: on other machines, with other numbers of threads."""
    return SAME if model.dtype in FULL and not model.is_quantized else SAME_HALF


def key_of(values: Sequence[float], within: float) -> str:
    """A fingerprint rounded so coarsely that another number of threads hardly ever changes it: its part in a run id."""
    grid = _GRID if within == SAME else _GRID_HALF
    return hash_json([round(value / grid) for value in values])[:12]


def same_fingerprint(ours: Mapping[str, Any], theirs: Any, within: float) -> bool:
    """Whether two fingerprints are of one computation: every number within the tolerance."""
    there = theirs.get("values") if isinstance(theirs, Mapping) else None
    here = ours["values"]
    if not isinstance(there, list) or len(there) != len(here):
        return False
    return all(isinstance(b, (int, float)) and abs(a - b) <= within for a, b in zip(here, there, strict=True))


def check_prompts(model: Handle) -> list[Prompt]:
    """Fixed token ids within the vocabulary (and the context), without picture tokens."""
    vocabulary = model.hf.config.get_text_config().vocab_size
    image = model.image_token_id if model.has_vision else -1
    found = []
    for which, length in enumerate(LENGTHS):
        length = min(length, model.context_length or length)
        ids = [1 + (i * 7919 + which * 104729 + i * i * 31) % (vocabulary - 1) for i in range(length)]
        found.append(Prompt.from_token_ids([i if i != image else 0 for i in ids], id="identity", text_only=True))
    return found


def hash_config(hf: nn.Module) -> str:
    """SHA-256 of what the model's config says of the computation, without names and versions."""
    config = getattr(hf, "config", None)
    known = config.to_dict() if hasattr(config, "to_dict") else {}
    return hash_json(json.loads(json.dumps(_kept(known), default=str, sort_keys=True)))


def hash_vocabulary(tokenizer: Any) -> str | None:
    """SHA-256 of the tokens and their ids; None without a tokenizer. How text is cut is seen in the prompts' ids."""
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        return None
    return hash_json(sorted(tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0])))


@public
def end_tokens(model: Handle) -> list[int]:
    """The tokens that end a reply: the tokenizer's end of text and those of the model's generation config."""
    config = getattr(model.hf, "generation_config", None)
    own = getattr(config, "eos_token_id", None)
    found = [*(own if isinstance(own, (list, tuple)) else [own]), getattr(model.tokenizer, "eos_token_id", None)]
    return list(dict.fromkeys(int(token) for token in found if token is not None))


def _last_logits(model: Handle, prompt: Prompt) -> Tensor:
    forget_lengths(model.hf)  # what a pass before it left behind is no part of the computation
    return plain_logits(model, prompt).cpu()


def _signs(places: Tensor, which: int) -> Tensor:
    """+1 and -1 in a fixed order that looks random: integers alone, so the same everywhere."""
    mixed = (places * 2654435761 + which * 40503 * 65537) % 4294967291
    return ((mixed >> 13) & 1).double() * 2 - 1


def _kept(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _kept(v) for k, v in value.items() if k not in _OF_A_COPY and v is not None}
    return [_kept(v) for v in value] if isinstance(value, (list, tuple)) else value

"""How fast this machine runs models: a few timed forward passes, and what they let one expect of longer work.

The unit is the token-forward: one token through all blocks of a model. Its cost grows with the parameters of the
blocks; embedding and unembedding are left out, since scans unembed single positions.
"""

from __future__ import annotations

import inspect
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from interp.machine.costs import ModelShape, Work
from interp.sources import read_provenance

BATCH, LENGTH = 4, 60  # tokens of a shipped yes/no question in a chat template (57 on average), padded
_OVERHEAD = 1.2
_SECONDS, _MOST_PASSES, _LEAST_PASSES = 4.0, 7, 2


@dataclass(frozen=True)
class Speed:
    """A measurement: `n_passes` forward passes of `tokens` tokens, the median of which took `seconds`."""

    of: str
    block_parameters: int
    device: str
    dtype: str
    n_threads: int
    tokens: int
    seconds: float
    n_passes: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def estimate_seconds(self, work: Work, shape: ModelShape) -> float:
        """How long the work will take, if a token-forward costs in proportion to the parameters of the blocks.

        With a fifth for what captures and scans cost beside the passes (measured on SmolLM2, in CPU time: rankings made
        255 to 276 token-forwards a second, the probe 319 to 347). Loading, statistics and the report are left out.
        Misleads: a machine that is busy now, or throttles later, is another machine.
        """
        tokens = _OVERHEAD * work.tokens(shape)
        return tokens / self.tokens_per_second * shape.block_parameters / self.block_parameters


def measure_speed(model: PreTrainedModel | None = None, name: str = "", seconds: float = _SECONDS) -> Speed:
    """Time forward passes of 4 prompts of 60 tokens, on the device where the model is. Takes some 5 s.

    model: from transformers; None: a small random one of Llama's shape, on CUDA where there is one, else the CPU.
    seconds: of timed passes, of which there are two at least.
    Raises ValueError if the logits are not finite.
    """
    if model is None:
        name, model = "a random model of Llama's shape", _random_llama()
        model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.eval()
    device, dtype = model.device, str(model.dtype).removeprefix("torch.")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, model.config.get_text_config().vocab_size, (BATCH, LENGTH), generator=generator).to(device)
    took: list[float] = []
    with torch.inference_mode():
        logits = _timed(model, ids)[1]  # the first pass sets up what later ones find
        if not torch.isfinite(logits).all():
            raise ValueError(f"the logits of {name} are not all finite on {device}")
        while len(took) < _LEAST_PASSES or (sum(took) < seconds and len(took) < _MOST_PASSES):
            took.append(_timed(model, ids)[0])
    return Speed(
        of=name,
        block_parameters=_block_parameters(model),
        device=str(device),
        dtype=dtype,
        n_threads=torch.get_num_threads(),
        tokens=ids.numel(),
        seconds=statistics.median(took),
        n_passes=len(took),
    )


def read_shape(directory: Path, name: str) -> ModelShape | None:
    """The shape of a converted text model, from its files alone; None for what is no text model, or not whole."""
    record = read_provenance(directory, by_size=True)
    try:
        config: Mapping[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if record is None or "vision_config" in config or "n_parameters" not in record:
        return None
    try:
        embedding = config["vocab_size"] * config["hidden_size"]
        n_embeddings = 1 if config.get("tie_word_embeddings", True) else 2
        blocks = record["n_parameters"] - n_embeddings * embedding
        return ModelShape(name, config["num_hidden_layers"], config["num_attention_heads"], blocks)
    except (KeyError, TypeError):
        return None


def _timed(model: nn.Module, ids: torch.Tensor) -> tuple[float, torch.Tensor]:
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    start = time.perf_counter()
    logits = model(input_ids=ids, use_cache=False, **last).logits.cpu()  # .cpu() waits for the device
    return time.perf_counter() - start, logits


def _block_parameters(model: nn.Module) -> int:
    ends = [e for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e is not None]
    outside = {id(p): p.numel() for e in ends for p in e.parameters()}
    return sum(p.numel() for p in model.parameters()) - sum(outside.values())


def _random_llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=576,
        num_hidden_layers=8,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)

"""`python -m tests.benchmarks.scale`: a scan of every head from SmolLM2 to 405B, from one to a million prompts.

The cost model (`interp.machine`) beside what peers.json has measured, and carried on paper. Writes scale.md beside this
file, which docs/scale.md cites.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.machine import ModelShape

HERE = Path(__file__).parent
TOKENS, PROMPTS = 113, (1, 1_000, 100_000, 1_000_000)
UTILISATION, BYTES = 0.3, 2
"""Assumed: the share of a card's dense bfloat16 rate that branches of short rows reach; and bytes of a weight."""


@dataclass(frozen=True)
class Kind:
    """A model by its published shape. ``parameters``: all, in billions; ``blocks``: without embeddings."""

    shape: ModelShape
    d_model: int
    n_kv: int
    d_head: int
    parameters: float


@dataclass(frozen=True)
class Card:
    """Named hardware: dense bfloat16 rate in TFLOP/s and memory in GB by its data sheet; dollars an hour, assumed."""

    name: str
    tflops: float
    memory_gb: float
    dollars_an_hour: float


def _kind(name: str, layers: int, heads: int, d: int, kv: int, d_head: int, parameters: float, blocks: float) -> Kind:
    return Kind(ModelShape(name, layers, heads, int(blocks * 1e9)), d, kv, d_head, parameters)


KINDS = (
    _kind("SmolLM2-135M", 30, 9, 576, 3, 64, 0.135, 0.106),
    _kind("Qwen2.5-0.5B", 24, 14, 896, 2, 64, 0.494, 0.358),
    _kind("Llama-2-7B shape", 32, 32, 4096, 32, 128, 6.74, 6.48),
    _kind("Llama-3.1-70B shape", 80, 64, 8192, 8, 128, 70.6, 68.5),
    _kind("Llama-3.1-405B shape", 126, 128, 16384, 8, 128, 405.9, 401.7),
)
CARDS = (Card("A100 80 GB", 312, 80, 2.0), Card("H100 SXM", 989, 80, 3.0))


def flops(kind: Kind, token_forwards: float) -> float:
    """Two for each parameter of the blocks and token."""
    return 2 * kind.shape.block_parameters * token_forwards


def cards_needed(kind: Kind, card: Card) -> int:
    """By weights in bfloat16, 1.1 times, and 6 GB a card for the prefix, rows and what CUDA takes."""
    return max(1, -int(-1.1 * kind.parameters * BYTES // (card.memory_gb - 6)))


def seconds(kind: Kind, card: Card, n_prompts: int) -> float:
    """Of one scan of every head at the answer, on as many cards as hold the model, these used one after another."""
    return flops(kind, n_prompts * kind.shape.scan_tokens(TOKENS)) / (UTILISATION * card.tflops * 1e12)


def scores_gb(kind: Kind, n_prompts: int) -> float:
    """Float32 scores [prompt, layer, head] of one measure."""
    return 4 * n_prompts * kind.shape.n_layers * kind.shape.n_heads / 1e9


def prefix_mb(kind: Kind) -> float:
    """Keys and values of one prompt in bfloat16."""
    return 2 * BYTES * kind.shape.n_layers * kind.n_kv * kind.d_head * TOKENS / 1e6


def _time(hours: float) -> str:
    for unit, size in (("h", 1), ("min", 1 / 60)):
        if hours >= size:
            return f"{hours / size:,.0f} {unit}" if hours >= 10 * size else f"{hours / size:.1f} {unit}"
    return f"{hours * 3600:.2g} s"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], n_words: int = 1) -> list[str]:
    line = "|---" * n_words + "|---:" * (len(heads) - n_words) + "|"
    return ["| " + " | ".join(heads) + " |", line, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def measured() -> list[list[str]]:
    """What an unchecked scan took beside what its count of tokens says, in plain passes."""
    rows = []
    for name, found in json.loads((HERE / "peers.json").read_text()).items():
        for n, part in found.items():
            if not isinstance(part, dict):
                continue
            predicted = part["predicted"] if n == "questions" else part["predicted"]["1"]
            took = part["seconds"]["scan, zero, answer, unchecked"] / part["seconds"]["plain pass"]
            label = f"30 questions of {part['tokens']:.0f}" if n == "questions" else f"one prompt of {n}"
            rows.append([name, label, f"{predicted:.2f}", f"{took:.2f}", f"{took / predicted - 1:+.0%}"])
    return rows


def page() -> str:
    """The Markdown page."""
    out = [f"Made by `python -m tests.benchmarks.scale`. On paper: every head at the answer, {TOKENS} tokens.", ""]
    out += ["## The model beside measurement", ""]
    heads = ("model", "tokens", "predicted, plain passes", "measured (CPU time)", "measured less predicted")
    out += _table(heads, measured(), 2)
    out += ["## Passes", ""]
    rows: list[Sequence[object]] = []
    for kind in KINDS:
        shape, n = kind.shape, kind.shape.n_layers * kind.shape.n_heads
        at_all = f"{shape.scan_passes(TOKENS, None):,.0f}"
        rows.append((shape.name, n, f"{shape.scan_passes(TOKENS):.1f}", at_all, f"{n:,}"))
    out += _table(("model", "heads", "plain passes at the answer", "at all positions", "a loop"), rows)
    prices = ", ".join(f"{card.name} ${card.dollars_an_hour:.2f}" for card in CARDS)
    assumed = f"Assumed: {UTILISATION:.0%} of the dense bfloat16 rate; an hour of a card: {prices}."
    out += ["## Hours and money", "", assumed, ""]
    rows = []
    for kind in KINDS:
        for card in CARDS:
            cards = cards_needed(kind, card)
            hours = [seconds(kind, card, n) / 3600 for n in PROMPTS]
            cells = [f"{_time(h)}, ${h * cards * card.dollars_an_hour:,.2f}" for h in hours]
            rows.append((kind.shape.name, card.name, cards, *cells))
    out += _table(("model", "card", "cards that hold it", *(f"{n:,} prompts" for n in PROMPTS)), rows, 2)
    out += ["## Storage", ""]
    rows = []
    for kind in KINDS:
        rows.append((kind.shape.name, f"{prefix_mb(kind):.1f}", *(f"{scores_gb(kind, n):.3g}" for n in PROMPTS[1:])))
    heads = ("model", "keys and values of a prompt, MB", *(f"scores of {n:,} prompts, GB" for n in PROMPTS[1:]))
    return "\n".join(out + _table(heads, rows)).rstrip() + "\n"


if __name__ == "__main__":
    (HERE / "scale.md").write_text(page())
    print(page())

"""What work costs, in plain passes of a prompt: predicted from shapes alone, and held to counts by the tests.

A *plain pass* is the cheapest that a user would run over a prompt: the logits of its last position alone, no gradients,
fused attention. Its work is S token-forwards of a prompt of S tokens, a token-forward being one token through all L
layers. Two passes that give the same may differ in time: a branch of one token for each head is a batch of short rows,
which a machine runs at another speed than a long row (`tests/benchmarks/peers.md` measures both).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.models import Model

MASS_PROMPTS = 8


@dataclass(frozen=True)
class ModelShape:
    """What the cost of a model depends on. n_heads: of each layer. block_parameters: all but the embeddings."""

    name: str
    n_layers: int
    n_heads: int
    block_parameters: int

    @classmethod
    def of(cls, model: Model) -> ModelShape:
        """Of a loaded model; ``block_parameters`` is 0, which no count of passes needs."""
        return cls(model.name, model.n_layers, model.n_heads, 0)

    @property
    def every_head(self) -> float:
        """Token-forwards of one token for each head, from its layer on: N (L + 1) / 2L."""
        return self.n_heads * (self.n_layers + 1) / 2

    def scan_tokens(self, prompt_tokens: float, last: float | None = 1, edits: float = 1) -> float:
        """Token-forwards of a scan that edits each head at the last so many positions (None: at all), ``edits`` times
        a head: the prompt once, then its last positions once unedited and once for each edit, from its layer on
        (`interp.scans.fanout`). At all positions there is no prompt beside the rows."""
        rows = 1 + edits * self.every_head
        if last is None or last >= prompt_tokens:
            return prompt_tokens * rows
        return prompt_tokens + last * rows

    def scan_passes(self, prompt_tokens: float, last: float | None = 1, edits: float = 1) -> float:
        """The same in plain passes of the prompt: 1 + (1 + N (L + 1) / 2L) / S at the answer."""
        return self.scan_tokens(prompt_tokens, last, edits) / prompt_tokens


def check_passes(
    shape: ModelShape,
    prompt_tokens: float,
    check: int = 3,
    n_checked: int = 3,
    n_mass: int = MASS_PROMPTS,
    is_first: bool = True,
    n_sources: int = 0,
) -> float:
    """What a scan's checks cost, in plain passes of a prompt of so many tokens: at most, and once for a model and kind
    of scan (:mod:`interp.scans.checked`).

    Of the first of ``n_checked`` prompts 1 + ``check`` plain passes, of the others (the shortest, the longest; fewer
    where these are one) two each; the fan-outs that are held against them are the scan's own. Of several prompts two in
    a group are held against two plain passes each. What the answers hold is read off ``n_mass`` prompts, each call. The
    ``is_first`` scan of a model also shows that edits act. A patch reads ``n_sources`` sources again.
    """
    acting = 1 + (1 + 1 + 1 / shape.n_layers) / prompt_tokens if is_first and check else 0.0
    together = 4.0 if n_checked > 1 and check else 0.0
    compared = 1 + check + 2.0 * (n_checked - 1) if check else 0.0
    return compared + together + (n_mass if check else 0) + acting + n_sources


@dataclass(frozen=True)
class Work:
    """What is to be done with each of `n_examples` prompts: plain forward passes, and scans of every head at the
    `last` so many positions (None: all); and the plain passes of what is done once (a scan's check of itself)."""

    what: str
    n_examples: int
    plain_passes: float
    scans: float
    passes_once: float = 0.0
    prompt_tokens: float = 60.0
    last: float | None = 1

    def tokens(self, shape: ModelShape) -> float:
        """Token-forwards of all of it."""
        scan = self.scans * shape.scan_tokens(self.prompt_tokens, self.last)
        return self.n_examples * (self.plain_passes * self.prompt_tokens + scan) + self.passes_once * self.prompt_tokens

    def passes(self, shape: ModelShape) -> float:
        """The same for each prompt, in plain passes of it, what is done once included."""
        return self.tokens(shape) / (self.n_examples * self.prompt_tokens)


def mean_tokens(prompts: Sequence[object], most: int = 50) -> float:
    """Tokens of a prompt, on average over some of them, evenly spread."""
    step = max(1, len(prompts) // most)
    lengths = [len(prompt) for prompt in prompts[::step]]
    return sum(lengths) / len(lengths)

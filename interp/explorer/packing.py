"""An exploration as bytes for a browser: 8 bits for what is drawn, deflated, smaller than a page may be.

    4 bytes           length of the header, little-endian
    header            JSON in UTF-8: texts, tables of heads, and for each array its type, shape and place
    arrays            one behind another, each at a multiple of 4 bytes

What is kept of a number: attention in 8 bits on a square-root scale (an error of at most 0.004, of 0.0008 at an
attention of 0.01); contributions in 8 bits a head and prompt, linear to the largest; changes of log probabilities in
16 bits a prompt, linear to the largest.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interp.explorer.exploration import SCALES, Exploration, ExploredPrompt
from interp.figures import displayed, visible
from interp.rankings import HeadRanking
from interp.reports import model_name
from interp.statistics import FEWEST

LEAST_TOKENS = 64
_MOST_TOKENS = 1000
_KIND = {"uint8": "u1", "uint16": "u2", "int16": "i2", "float32": "f4"}


@dataclass(frozen=True)
class Kept:
    """How much of an exploration goes into a page: sources of each token, tokens of a prompt, prompts."""

    n_sources: int
    n_tokens: int
    n_prompts: int


def kept_steps(exploration: Exploration) -> list[Kept]:
    """From everything to the least, in the order in which a page gives things up."""
    most = max((p.sources.shape[-1] for p in exploration.prompts if p.sources is not None), default=0)
    n = len(exploration.prompts)
    longest = max((len(p.tokens) for p in exploration.prompts), default=0)
    lengths = [_MOST_TOKENS // 2**i for i in range(5) if _MOST_TOKENS // 2**i >= LEAST_TOKENS]
    lengths = [_MOST_TOKENS, *(length for length in lengths[1:] if length < longest)]
    steps = [Kept(k, lengths[0], n) for k in range(most, -1, -1)]
    steps += [Kept(0, length, n) for length in lengths[1:]]
    fewer = [int(n * share) for share in (0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)]
    return steps + [Kept(0, lengths[-1], f) for f in dict.fromkeys([*fewer, 1]) if 0 < f < n]


def packed(exploration: Exploration, kept: Kept) -> bytes:
    """The deflated bytes. What was left out stands in the header, in words."""
    arrays = _Arrays()
    left_out: list[str] = []
    prompts = [_prompt(prompt, kept, arrays, left_out) for prompt in exploration.prompts[: kept.n_prompts]]
    most = max((p.sources.shape[-1] for p in exploration.prompts if p.sources is not None), default=0)
    if kept.n_sources < most:
        of = f"the {kept.n_sources} strongest of {most}" if kept.n_sources else "none, to stay below its size"
        left_out.append(f"Sources of each token that this page keeps: {of}.")
    if (n := len(exploration.prompts)) > kept.n_prompts:
        left_out.append(f"The first {kept.n_prompts} of {n} prompts are in this page, to stay below its size.")
    header = {
        "title": exploration.title,
        "model": model_name(exploration.provenance),
        "maps": [m for name, ranking in exploration.rankings.items() for m in _maps(name, ranking, arrays)],
        "prompts": prompts,
        "kinds": dict(exploration.kinds),
        "positions": exploration.positions,
        "scales": list(SCALES),
        "notes": [*exploration.notes, *left_out],
        "arrays": arrays.entries,
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-(4 + len(text)) % 4)
    whole = len(text).to_bytes(4, "little") + text + b"".join(arrays.parts)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(whole) + deflate.flush()


@dataclass
class _Arrays:
    """Arrays one behind another; ``add`` gives the number by which the header names one."""

    parts: list[bytes] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    at: int = 0

    def add(self, array: np.ndarray) -> int:
        content = np.asarray(array, order="C").tobytes()
        self.entries.append({"kind": _KIND[str(array.dtype)], "shape": list(array.shape), "at": self.at})
        content += b"\0" * (-len(content) % 4)
        self.parts.append(content)
        self.at += len(content)
        return len(self.entries) - 1


def _maps(name: str, ranking: HeadRanking, arrays: _Arrays) -> list[dict[str, Any]]:
    """Each measure of a ranking: mean, interval and order of every head, [layer, head]."""
    frame = ranking.to_frame().sort_values(["layer", "head"])
    shape = ranking.scores.shape[1:]
    found = []
    for measure in (ranking.score, *ranking.others):
        described = ranking.descriptions[measure]
        column, ends = ("score", "") if measure == ranking.score else (measure, f"{measure}_")
        numbers = {
            "mean": frame[column],
            "low": frame[f"{ends}ci_low"],
            "high": frame[f"{ends}ci_high"],
            **({"q": frame["q"]} if column == "score" else {}),
        }
        verdict = f"{measure}_verdict"
        found.append(
            {
                "ranking": name,
                "measure": measure,
                "name": displayed(measure),
                "of": displayed(name),
                "role": "score" if column == "score" else "control" if measure in ranking.controls else "measure",
                "meaning": described.meaning,
                "unit": described.unit,
                "signed": described.is_signed,
                "base": described.base,
                "n": ranking.n_examples,
                "few": ranking.n_examples < FEWEST and ranking.example_ids != ("all examples",),  # to order heads
                "model": model_name(ranking.provenance),
                **{k: arrays.add(v.to_numpy(np.float32).reshape(shape)) for k, v in numbers.items()},
                **({"verdicts": frame[verdict].tolist()} if verdict in frame else {}),
            }
        )
    return found


def _prompt(prompt: ExploredPrompt, kept: Kept, arrays: _Arrays, left_out: list[str]) -> dict[str, Any]:
    window = _Window.of(prompt, kept.n_tokens)
    if window.n_left_out:
        left_out.append(
            f"{prompt.id}: {window.n_left_out:,} of its {len(prompt.tokens):,} tokens, from {window.start} to "
            f"{window.end - 1}, stand as one, whose attention and contribution are their sums."
        )
    found: dict[str, Any] = {
        "id": prompt.id,
        "title": prompt.title,
        "tokens": window.tokens([visible(t) for t in prompt.tokens]),
        "positions": window.positions(),
        "answers": list(prompt.answers),
    }
    if prompt.clean is not None:
        found["clean"] = [float(p) for p in prompt.clean]
    if prompt.attention is not None:
        found["attention"] = arrays.add(_root_bytes(window.summed(prompt.attention)))
        found["known"] = arrays.add(np.isfinite(prompt.attention).any(-1).astype(np.uint8))
    if prompt.contribution is not None:
        values = np.nan_to_num(window.summed(prompt.contribution))
        largest = np.abs(values).max(-1).astype(np.float32)
        scale = np.where(largest > 0, largest, 1.0)[..., None]
        found["contribution"] = arrays.add((np.rint(values / scale * 127) + 128).astype(np.uint8))
        found["contribution_scale"] = arrays.add(largest)
    if prompt.sources is not None and prompt.weights is not None and kept.n_sources:
        places, weights = window.sources(prompt.sources, prompt.weights, kept.n_sources)
        places = places.astype(np.uint8 if len(found["tokens"]) <= 256 else np.uint16)
        # [k, layer, head, token]: neighbours alike, which deflates better
        found["sources"] = arrays.add(np.moveaxis(places, -1, 0))
        found["weights"] = arrays.add(np.moveaxis(_root_bytes(weights), -1, 0))
    if prompt.changes is not None:
        largest = float(np.abs(prompt.changes).max()) or 1.0
        found["changes"] = arrays.add(np.rint(prompt.changes / largest * 32767).astype(np.int16))
        found["changes_scale"] = largest
    if prompt.picture and prompt.grid and window.start > prompt.first_patch + math.prod(prompt.grid) - 1:
        found |= {"picture": prompt.picture, "grid": list(prompt.grid), "first_patch": prompt.first_patch}
    return found


def _root_bytes(values: np.ndarray) -> np.ndarray:
    """Probabilities in 8 bits: the square root, which is finer where there is little."""
    return np.rint(np.sqrt(np.clip(np.nan_to_num(values), 0.0, 1.0)) * 255).astype(np.uint8)


@dataclass(frozen=True)
class _Window:
    """Which tokens are shown: of a long prompt the first and the last; those from start to end stand as one."""

    n: int
    start: int
    end: int

    @classmethod
    def of(cls, prompt: ExploredPrompt, most: int) -> _Window:
        n = len(prompt.tokens)
        patches = prompt.first_patch + math.prod(prompt.grid) if prompt.grid else 0
        if n <= most:
            return cls(n, n, n)
        first = max(most // 4, min(patches + 1, most - 16))  # a picture is kept whole, if it fits
        return cls(n, first, n - (most - first - 1))

    @property
    def n_left_out(self) -> int:
        return self.end - self.start

    def tokens(self, tokens: Sequence[str]) -> list[str]:
        gap = [f"… {self.n_left_out:,} tokens …"] if self.n_left_out else []
        return [*tokens[: self.start], *gap, *tokens[self.end :]]

    def positions(self) -> list[int]:
        """The position in the prompt of each token that is shown."""
        gap = [self.start] if self.n_left_out else []
        return [*range(self.start), *gap, *range(self.end, self.n)]

    def summed(self, values: np.ndarray) -> np.ndarray:
        """[..., token] with the tokens in between summed."""
        if not self.n_left_out:
            return values
        between = values[..., self.start : self.end].sum(-1, keepdims=True)
        return np.concatenate([values[..., : self.start], between, values[..., self.end :]], axis=-1)

    def sources(self, places: np.ndarray, weights: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k strongest sources of each token that is shown, as places among those that are shown."""
        shown = np.array(self.positions())
        places, weights = places[..., shown, :k], weights[..., shown, :k]
        moved = np.minimum(places, self.start) + np.maximum(places - self.end + 1, 0) if self.n_left_out else places
        return moved, weights

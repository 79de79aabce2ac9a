"""Factors of heads' outputs searched head by head, each trial a branch of one scan.

The searches here and in :mod:`interp.fitting.factor_gradient` lower the mean loss of the gold answer (cross-entropy of
its first tokens over the whole vocabulary, in nats), stop when prompts held back from the search no longer gain, and
never hand back factors that do worse on the prompts they were searched on than the factors they started from. Neither
says that the factors help elsewhere: test them on others.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from interp.fitting.factors import Factors, largest_change
from interp.fitting.modulation import branch_of, require_heads, require_shape
from interp.reading import Probability
from interp.records import load_artefact, save_artefact
from interp.scans import Method, Positions
from interp.scans.scan import scan

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

VALUES = (0.0, 0.5, 1.5, 2.0)
_CHUNK = 16  # prompts whose pictures are in memory at once
_TINY = 1e-38  # below it a float32 probability has no log


@dataclass(frozen=True, eq=False)
class FactorSearch:
    """What a search found. Losses are means in nats: of the prompts searched on, and of those held back (NaN without
    any), before and with ``factors``. ``history``: one row for each look. ``stopped``: why it ended."""

    factors: Factors
    loss_before: float
    loss: float
    held_back_before: float
    held_back: float
    history: tuple[Mapping[str, Any], ...]
    stopped: str
    seconds: float

    def to_frame(self) -> pd.DataFrame:
        """One row for each look: step, loss, held_back, n_changed (heads), largest (|factor - 1|)."""
        return pd.DataFrame(self.history)


def coordinate_search(
    model: Model,
    prompts: Sequence[Prompt],
    heads: Sequence[tuple[int, int]],
    *,
    held_back: Sequence[Prompt] = (),
    values: Sequence[float] = VALUES,
    start: Factors | None = None,
    positions: Positions = "all",
    rounds: int = 4,
    patience: int = 1,
    least_gain: float = 1e-4,
    method: Method = "auto",
    memory_mib: float = 1024.0,
    keep: Path | None = None,
    key: str = "",
) -> FactorSearch:
    """Try each head at each value, all as branches of one scan; then the heads that gain together; keep the best.

    A round takes two scans. In the first each of ``heads`` has each of ``values`` in turn, the others as they are. In
    the second the best values of the heads that gained (``least_gain`` nats at least) are joined, best head first, in
    sets of 2, 3, 5, 8 ... heads: heads that gain alone need not gain together. The best of all is where the next round
    starts. It ends when nothing gains, when ``held_back`` did not gain in ``patience`` rounds, or after ``rounds``; the
    factors of the round that was best on ``held_back`` (without any: the last) are handed back.

    ``positions``: where factors act while they are searched. The edit that is made of them acts everywhere: ``"all"``
    searches just that, ``"answer"`` is far cheaper and an approximation. ``keep``: a folder in which each round is
    kept, under ``key``, and gone on from.

    Cost of a round: (heads x values + a few) branches for each prompt, half a pass each at ``"all"``, a small part of
    one at ``"answer"``. Raises ``ValueError`` for no prompts, heads or values, heads out of range, and as
    :func:`interp.scan`.
    """
    began = time.perf_counter()
    current = start_of(model, start)
    heads = require_heads(model, heads)
    if not len(prompts) or not heads or not len(values):
        raise ValueError(
            f"{len(prompts)} prompts, {len(heads)} heads and {len(values)} values; expected one or more of each."
        )
    losses = _Losses(model, positions, method, memory_mib)
    best, history = current, []
    if (found := kept(keep, key)) is not None:
        history, current, best = found[0]["history"], found[1]["current"], found[1]["best"]
    else:
        history.append(look(0, current, losses(prompts, [current])[0], _held(losses, held_back, current)))
    stopped = "rounds used up"
    for number in range(len(history), rounds + 1):
        if strikes(history) >= patience:
            stopped = "the prompts held back no longer gain"
            break
        gained = _round(losses, prompts, current, heads, values, least_gain)
        if gained is None:
            stopped = "no change of one head gains"
            break
        current, loss = gained
        history.append(look(number, current, loss, _held(losses, held_back, current)))
        if not strikes(history):
            best = current
        save_state(keep, key, history, {"current": current, "best": best})
    first, last = history[0], history[best_look(history)]
    ends = (first["loss"], last["loss"], first["held_back"], last["held_back"])
    return FactorSearch(best, *ends, tuple(history), stopped, time.perf_counter() - began)


def _round(
    losses: _Losses,
    prompts: Sequence[Prompt],
    current: Factors,
    heads: Sequence[tuple[int, int]],
    values: Sequence[float],
    least_gain: float,
) -> tuple[Factors, float] | None:
    """The best factors that differ in one head, or in several that gain alone, and their loss; None if none gains."""
    tried = [(head, float(value)) for head in heads for value in values if value != current[head]]
    before, *alone = losses(prompts, [current, *(_with(current, {head: value}) for head, value in tried)])
    gaining: dict[tuple[int, int], tuple[float, float]] = {}  # head -> its best loss, and the value
    for (head, value), loss in zip(tried, alone, strict=True):
        if loss < before - least_gain and loss < gaining.get(head, (np.inf,))[0]:
            gaining[head] = (float(loss), value)
    if not gaining:
        return None
    order = sorted(gaining, key=lambda head: gaining[head][0])
    joined = [_with(current, {head: gaining[head][1] for head in order[:n]}) for n in (1, *_sizes(len(order)))]
    together = [gaining[order[0]][0], *(losses(prompts, joined[1:]) if len(joined) > 1 else ())]
    best = int(np.argmin(together))
    return joined[best], float(together[best])


class _Losses:
    """Mean loss of the gold answers under each table of factors, by scans that are checked once."""

    def __init__(self, model: Model, positions: Positions, method: Method, memory_mib: float) -> None:
        self.model, self.positions, self.method, self.memory_mib = model, positions, method, memory_mib
        self.check = 3

    def __call__(self, prompts: Sequence[Prompt], tables: Sequence[Factors]) -> Float[np.ndarray, " table"]:
        branches, total = [branch_of(table, str(i)) for i, table in enumerate(tables)], np.zeros(len(tables))
        for start in range(0, len(prompts), _CHUNK):
            chunk = [prompts[i] for i in range(start, min(start + _CHUNK, len(prompts)))]
            found = scan(
                self.model,
                chunk,
                branches,
                metric=Probability("gold"),
                positions=self.positions,
                method=self.method,
                check=self.check,
                memory_mib=self.memory_mib,
            )
            self.method, self.check = found.how, 0
            total -= np.log(np.maximum(found.values.astype(np.float64), _TINY)).sum(0)
        return total / len(prompts)


def start_of(model: Model, start: Factors | None) -> Factors:
    """Where a search starts: all ones, or a table of this model's heads."""
    if start is None:
        return np.ones((model.n_layers, model.n_heads))
    require_shape(model, start)
    return np.array(start, dtype=np.float64)


def look(step: int, factors: Factors, loss: float, held_back: float) -> dict[str, Any]:
    """A row of the history."""
    row = {"step": step, "loss": float(loss), "held_back": float(held_back)}
    return row | {"n_changed": int((factors != 1).sum()), "largest": largest_change(factors)}


def best_look(history: Sequence[Mapping[str, Any]]) -> int:
    """The first of the looks with the lowest loss on what was held back; without any, on what was searched on."""
    held = [row["held_back"] for row in history]
    return int(np.argmin([row["loss"] for row in history] if np.isnan(held).any() else held))


def strikes(history: Sequence[Mapping[str, Any]]) -> int:
    """How many looks came since the best."""
    return len(history) - 1 - best_look(history)


def save_state(
    folder: Path | None, key: str, history: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> None:
    """Keep how far a search has come, if it is to be kept."""
    if folder is not None:
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        save_artefact(folder, "search", {"key": key, "history": list(history)}, tensors)


def kept(folder: Path | None, key: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """What :func:`save_state` kept under this key, if anything."""
    if folder is None or not (folder / "search.json").is_file():
        return None
    try:
        record, tensors = load_artefact(folder, "search")
    except (FileNotFoundError, ValueError) as error:  # killed between its two files, or damaged
        warnings.warn(f"what was searched before is not used, and searched again: {error}", stacklevel=3)
        return None
    if record.get("key") != key:
        return None
    return record, {name: tensor.numpy() for name, tensor in tensors.items()}


def _with(factors: Factors, changes: Mapping[tuple[int, int], float]) -> Factors:
    changed = factors.copy()
    for place, value in changes.items():
        changed[place] = value
    return changed


def _sizes(n: int) -> list[int]:
    """2, 3, 5, 8, ... below n, and n itself; nothing for 1."""
    sizes, a, b = [], 2, 3
    while a < n:
        sizes.append(a)
        a, b = b, a + b
    return [*sizes, n] if n > 1 else []


def _held(losses: _Losses, held_back: Sequence[Prompt], factors: Factors) -> float:
    return float(losses(held_back, [factors])[0]) if len(held_back) else np.nan

"""Causal tracing: which states, where and in which layer, carry what a clean prompt has and its edited twin lacks.

States of the run on the clean prompt are set, one part, layer and region of positions at a time, into the run on the
twin, and the answer is read. A state that brings the clean answer back carries what was edited, at that point (Meng et
al. 2022, arXiv 2202.05262, section 2.1, with noise for a twin; here a real one, as in V-SEAM, arXiv 2509.14837: the
same text, another picture).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.architecture import alone
from interp.door import public
from interp.prompts import Prompt
from interp.reading import Metric, Probability, metric_values
from interp.scans.agreement import Method, difference_within_rounding, planned, require_method, spread
from interp.scans.regions import Regions, each_position, require_regions
from interp.scans.state_patches import (
    PARTS,
    Part,
    StatePatch,
    looped_logits,
    patched_logits,
    read_states,
    written_hook,
)
from interp.scans.traces import Measured, Trace

if TYPE_CHECKING:
    from interp.models import Model
    from interp.scans.state_patches import States


@dataclass(frozen=True)
class Logit:
    """An answer's logit ("gold": each prompt's own), the mean over its surface forms, as in V-SEAM's release.

    It also moves where all logits move together, which changes no answer: read it beside the probability.
    """

    answer: str = "gold"
    unit = "logits"
    needs_vocabulary = False

    def tokens(self, prompt: Prompt) -> tuple[tuple[int, ...]]:
        return (prompt.answer_tokens(self.answer),)

    def __call__(
        self, groups: tuple[Float[Tensor, "row _form"], ...], log_normaliser: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]:
        return groups[0].mean(-1)

    def __str__(self) -> str:
        return f"logit({self.answer})"


Traced = Metric | Logit


@public
def trace(
    model: Model,
    clean: Sequence[Prompt],
    corrupt: Sequence[Prompt],
    *,
    regions: Regions | None = None,
    parts: Sequence[Part] = PARTS,
    layers: Sequence[int] | None = None,
    window: int = 0,
    metric: Traced | Sequence[Traced] | None = None,
    method: Method = "auto",
    check: int = 3,
    memory_mib: float = 1024.0,
) -> Trace:
    """Set states of each clean run into the run on its twin, and measure the answer: exactly, for every patch.

    Args:
        clean, corrupt: prompts of equal length, pair by pair: one text with two pictures, or two texts of as many
            tokens. Answers are the *clean* prompt's, in every run.
        regions: name -> positions, a list for each pair (an empty one: this pair has no such region, and gets NaN). A
            region's positions are patched together. Default: :func:`each_position`.
        parts: ``"attention"`` and ``"mlp"``: what a block's attention or MLP adds to the residual stream (behind its
            norm, where it has one there); ``"residual"``: the block's output.
        layers: blocks to patch; default: all.
        window: patch each part of layers l - window to l + window (those there are) together: what is spread over
            layers can be invisible one at a time.
        metric: one or several; default: ``Probability("gold")`` and ``Logit("gold")``.
        method, check, memory_mib: as in :func:`interp.scan`; ``"loop"`` runs one pass for each patch.

    Returns:
        Values [example, part, layer, region] for each metric, in its unit.

    Raises:
        ValueError: pairs of unequal length or with pictures at other positions, regions that don't fit the prompts,
            unknown parts or layers, architectures without the module of a part.
        KeyError: prompts without the metric's answers.
        NonFiniteLogitsError: NaN or infinite logits.

    Cost for N patches over L layers of a prompt with S
    tokens, of which m stand from a patch's first position on: S + m N (L + 1) / 2L token-forwards or so, against S N
    for a loop. Text patches cost nothing of the picture before them; a patch of the picture takes half a pass.

    Misleads: one state at a time shows what is *enough* to bring the answer back, not what is needed; an effect that
    two states must have together shows nowhere. Positions before the first that differs between the twins hold equal
    states: patching them does nothing. Vision towers mix patches, so twins may differ at every image position.
    Source: Meng et al. (2022), arXiv 2202.05262, with a real twin in place of noise, as in V-SEAM, arXiv 2509.14837.

    >>> found = trace(model, [before], [after])
    >>> found.plot(0)
    """
    began = time.perf_counter()
    clean, corrupt = list(clean), list(corrupt)
    metrics = _metrics(metric)
    layers = tuple(range(model.n_layers)) if layers is None else tuple(layers)
    _require_pairs(model, clean, corrupt, metrics)
    regions = each_position(clean, corrupt) if regions is None else regions
    require_regions(clean, regions)
    _require_places(model, parts, layers, window, method)
    plans = [_patches(model, parts, layers, window, [regions[name][i] for name in regions]) for i in range(len(clean))]
    shape = (len(clean), len(parts), len(layers), len(regions))
    values = np.full((len(metrics), *shape), np.nan, dtype=np.float32)
    ends = np.full((len(metrics), 2, len(clean)), np.nan, dtype=np.float32)
    with alone(model.hf):
        how, note = planned(
            model,
            clean,
            method,
            check,
            lambda i: _difference(model, clean[i], corrupt[i], plans[i], metrics, check, memory_mib),
            "the trace falls back to one pass for each patch",
        )
        for i, (source, target, patches) in enumerate(zip(clean, corrupt, plans, strict=True)):
            states = _states(model, source, patches)
            logits = _logits(model, target, list(patches.values()), states, how, memory_mib)
            model.require_finite(logits, [target] * len(logits))
            for k, one in enumerate(metrics):
                ends[k, 0, i] = metric_values(one, states.logits[None], source).item()
                ends[k, 1, i], *patched = metric_values(one, logits, source).tolist()
                values[k, i][tuple(zip(*patches, strict=True))] = patched
    measured = [Measured(str(m), m.unit, v, *e) for m, v, e in zip(metrics, values, ends, strict=True)]
    return Trace(
        measured=tuple(measured),
        parts=tuple(parts),
        layers=layers,
        regions=tuple(regions),
        n_positions=np.array([[len(set(regions[name][i])) for name in regions] for i in range(len(clean))]),
        example_ids=tuple(p.id or str(i) for i, p in enumerate(clean)),
        window=window,
        how=how,
        check=note,
        seconds=time.perf_counter() - began,
    )


Cell = tuple[int, int, int]
"""Number of the part, of the layer, of the region."""


def _patches(
    model: Model, parts: Sequence[Part], layers: Sequence[int], window: int, places: Sequence[Sequence[int]]
) -> dict[Cell, StatePatch]:
    """One pair's patches by their cells, those of one kind of positions together."""
    found = {}
    for r, positions in enumerate(places):
        for p, part in enumerate(parts):
            for k, layer in enumerate(layers) if len(positions) else ():
                together = range(max(0, layer - window), min(model.n_layers, layer + window + 1))
                found[p, k, r] = StatePatch(part, tuple(together), tuple(sorted(set(positions))))
    return found


def _states(model: Model, clean: Prompt, patches: Mapping[Cell, StatePatch]) -> States:
    parts = dict.fromkeys(patch.part for patch in patches.values())
    return read_states(model, clean, list(parts), [p for patch in patches.values() for p in patch.positions])


def _logits(
    model: Model, corrupt: Prompt, patches: Sequence[StatePatch], states: States, how: str, memory_mib: float
) -> Float[Tensor, "patch vocabulary"]:
    """Row 0 unpatched, then the patches, in groups that share a beginning."""
    if how == "loop":
        return looped_logits(model, corrupt, patches, states, None)
    rows: dict[int, Tensor] = {}
    for chosen in _groups(corrupt, patches):
        found = patched_logits(model, corrupt, [patches[i] for i in chosen], states, None, memory_mib)
        rows[0] = found[0]
        for i, row in zip(chosen, found[1:], strict=True):
            rows[i + 1] = row
    return torch.stack([rows[i] for i in range(len(patches) + 1)])


def _groups(corrupt: Prompt, patches: Sequence[StatePatch]) -> list[list[int]]:
    """Numbers of patches that are run together: from their first position on. Patches that begin later make a group of
    their own where that saves more tokens than another pass over the beginning costs; those of a picture are one."""
    end = corrupt.span("image")[-1] if corrupt.image is not None else -1
    by_start: dict[int, list[int]] = {}
    for i, patch in enumerate(patches):
        by_start.setdefault(patch.positions[0] if patch.positions[0] > end else -1, []).append(i)
    groups: list[list[int]] = []
    anchor = -2
    for start, chosen in sorted(by_start.items()):
        saved = len(chosen) * (start - anchor) / 2  # a row joins half-way up on average
        if not groups or anchor == -1 or saved > len(corrupt):
            anchor = start
            groups.append([])
        groups[-1] += chosen
    return groups


def _difference(model, clean, corrupt, patches, metrics, check, memory_mib) -> float:
    """How far the answers' log-probabilities by fan-out and by plain passes are apart, of one pair."""
    chosen = {cell: patches[cell] for cell in spread(list(patches), check)}
    states = _states(model, clean, chosen)
    tokens = sorted({t for metric in metrics for group in metric.tokens(clean) for t in group})
    fast, slow = (
        _logits(model, corrupt, list(chosen.values()), states, how, memory_mib).log_softmax(-1)[:, tokens]
        for how in ("fan-out", "loop")
    )
    what = "patches by fan-out differ"
    return difference_within_rounding(model, corrupt, fast, slow, what, "patches", lambda: states.logits)


def _metrics(given: Traced | Sequence[Traced] | None) -> list[Traced]:
    if given is None:
        return [Probability("gold"), Logit("gold")]
    metrics = list(given) if isinstance(given, Sequence) else [given]
    if not metrics or len({str(m) for m in metrics}) < len(metrics):
        raise ValueError(f"metric={[str(m) for m in metrics]}; expected one or more, each once.")
    return metrics


def _require_pairs(model: Model, clean: list[Prompt], corrupt: list[Prompt], metrics: list[Traced]) -> None:
    if not clean or len(clean) != len(corrupt):
        raise ValueError(
            f"{len(clean)} clean and {len(corrupt)} corrupt prompts; expected one twin for each, in order."
        )
    model.require_fits([*clean, *corrupt])
    for i, (a, b) in enumerate(zip(clean, corrupt, strict=True)):
        name = f"pair {i} ({a.id or a.text[:40]!r})"
        if len(a) != len(b):
            raise ValueError(
                f"{name}: {len(a)} and {len(b)} tokens; a state goes to its own position, so twins must be of equal "
                "length. Give pictures one size, or texts as many tokens."
            )
        places = [p.span("image") if p.image is not None else () for p in (a, b)]
        if places[0] != places[1]:
            raise ValueError(f"{name}: the pictures are at different positions, or one prompt has none.")
        for metric in metrics:
            metric.tokens(a)  # KeyError names the answers there are


def _require_places(model: Model, parts: Sequence[Part], layers: Sequence[int], window: int, method: str) -> None:
    require_method(method)
    if not parts or not set(parts) <= set(PARTS) or len(set(parts)) < len(parts):
        raise ValueError(f"parts={tuple(parts)}; expected some of {', '.join(PARTS)}, each once.")
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < model.n_layers:
        raise ValueError(
            f"layers={tuple(layers)}; expected ascending numbers of blocks, 0..{model.n_layers - 1} in {model.name}."
        )
    if not isinstance(window, int) or window < 0:
        raise ValueError(f"window={window!r}; expected 0 (one layer at a time) or the number of layers on either side.")
    for layer in range(model.n_layers) if "mlp" in parts else ():
        written_hook(model, layer, "mlp", lambda hidden: None)  # refuses a block without the module

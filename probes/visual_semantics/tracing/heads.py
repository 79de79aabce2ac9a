"""Single heads of edited pairs: which heads, taken one at a time, carry the answer across the edit of the picture?

Each head's output in the run on the picture before the edit is set into the run on the picture after it, at all text
after the picture, and the change of the gold answer's probability is averaged over pairs: causal tracing
(:mod:`probes.visual_semantics.tracing.tracing`) with a head for its part (Wang et al. 2022, arXiv 2211.00593, patch
heads so between sentences).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from einops import rearrange

from interp.interventions import Branch, HeadEdit, patch_each_head
from interp.models import Model
from interp.scans.scan import scan
from probes.visual_semantics.tracing.prompts import METRICS, Twins

POSITIONS = "text"  # all positions after the picture, as in `interp.scan`
_METRIC = METRICS[0]
_N_CHECKED = 3


def patch_heads(
    model: Model, twins: Sequence[Twins], control: bool, method: str, memory_mib: float
) -> dict[str, np.ndarray]:
    """P(gold) with each head patched, [pair, layer, head], from the picture before the edit ("values") and from an
    unrelated one ("control", NaN for pairs without one), by :func:`interp.scan` with ``patch_each_head``."""
    shape = (len(twins), model.n_layers, model.n_heads)
    found = {"values": _patched(model, twins, [t.before for t in twins], method, memory_mib)}
    if control:
        found["control"] = np.full(shape, np.nan, dtype=np.float32)
        known = [i for i, t in enumerate(twins) if t.unrelated is not None]
        if known:
            some = [twins[i] for i in known]
            found["control"][known] = _patched(model, some, [t.unrelated for t in some], method, memory_mib)
    return found


def check_heads(model: Model, twins: Sequence[Twins], memory_mib: float) -> tuple[str, str]:
    """Fan-out or loop, and what was compared: a few heads, zeroed, at the positions that are patched."""
    total = model.n_layers * model.n_heads
    picks = [divmod(int(i), model.n_heads) for i in np.unique(np.linspace(0, total - 1, _N_CHECKED).round())]
    branches = [Branch((HeadEdit(layer, head, "zero"),)) for layer, head in picks]
    found = scan(
        model,
        [t.after for t in twins],
        branches,
        metric=_METRIC,
        positions=POSITIONS,
        check=_N_CHECKED,
        memory_mib=memory_mib,
    )
    return found.how, found.check


def _patched(model: Model, twins: Sequence[Twins], sources, method: str, memory_mib: float) -> np.ndarray:
    found = scan(
        model,
        [t.after for t in twins],
        patch_each_head(sources),
        metric=_METRIC,
        positions=POSITIONS,
        method=method,
        check=0,  # `check_heads` has
        memory_mib=memory_mib,
    )
    return rearrange(found.values, "pair (layer head) -> pair layer head", layer=model.n_layers)

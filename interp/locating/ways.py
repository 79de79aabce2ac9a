"""`locate`: which heads matter, by one of many ways."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.architecture import one_at_a_time
from interp.door import outside_package, public
from interp.locating import attributions, exact, sets
from interp.locating.asked import Asked, Positions, varying_positions
from interp.locating.auto import BUDGET, auto
from interp.locating.beside import Looked, provenance_beside
from interp.locating.counting import counted
from interp.machine import ModelShape
from interp.pairs import PromptPairs
from interp.rankings import HeadRanking, Measure
from interp.reading import LogitDifference, default_metric, kinds_beside

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

Found = np.ndarray
"""Effects [example, layer, head], whose sizes are the scores; or scores [layer, head] of all pairs together."""
UNDECIDED = 0.2
"""From this share of half-open gates on, a ranking says that they have not converged."""


@dataclass(frozen=True)
class Way:
    """A way of finding heads. ``reads``: what its score is. ``misses``: what it takes for granted, and so what misleads
    it. ``everywhere``: whether it can look at all positions, or at the answer alone. ``passes``: what it costs for each
    pair, about, from what a scan of all heads costs and how many heads there are. ``varies``: whether what it puts in
    place of an output is what the model gives elsewhere, so that nothing is to see where all prompts agree."""

    find: Callable[[Asked], Found | sets.Gates]
    reads: str
    misses: str
    everywhere: bool = True
    passes: Callable[[float, int], float] = lambda scan, n_heads: scan + 2
    varies: bool = True


def _of_gates(gates: sets.Gates) -> tuple[Found, dict[str, Any]]:
    """Scores, and what a ranking's provenance keeps of the fit: its curve, and that it is not over."""
    kept: dict[str, Any] = {"gates": {"undecided": gates.undecided, "losses": list(gates.losses)}}
    if gates.undecided > UNDECIDED:
        said = f"{gates.undecided:.0%} of the gates are neither open nor closed; take more steps (learn_gates)."
        warnings.warn(said, stacklevel=outside_package())
        kept["beside"] = [said]
    return np.maximum(gates.kept, gates.suppressed), kept


def _random(asked: Asked) -> Found:
    return np.random.default_rng(asked.seed).random(asked.shape)


_SUPPORT = "what it adds to the clean answer"

WAYS: Mapping[str, Way] = {
    "auto": Way(
        auto,
        "what is lost with another prompt's output and with its mean, together with the head that undoes most of it",
        "three heads that cancel; a head whose part another takes over; a variable that no prompt of the set varies",
        passes=lambda scan, n_heads: BUDGET * scan,
    ),
    "zero": Way(
        exact.zeroed, "what is lost without its output", "constants that it carries; a backup that wakes", varies=False
    ),
    "mean": Way(
        exact.own_mean, "what is lost with its mean output", "two heads that cancel; one whose mean is as good"
    ),
    "mean_of_others": Way(
        exact.mean_of_others,
        "what is lost with its layer's mean",
        "z's of different heads are not in one basis",
        varies=False,
    ),
    "resample": Way(exact.resampled, "what is lost with another prompt's output", "two heads that cancel"),
    "patch": Way(
        exact.patched, "what is lost with the corrupt prompt's output", "a variable that a pair holds constant"
    ),
    "denoise": Way(exact.denoised, "what its clean output restores", "heads that matter only together"),
    "direct": Way(
        attributions.direct, _SUPPORT, "all that acts through later layers; constants", False, lambda scan, n_heads: 1
    ),
    "direct_difference": Way(
        attributions.direct_difference,
        f"{_SUPPORT} on the clean prompt alone",
        "all that acts through later layers",
        False,
        lambda scan, n_heads: 2,
    ),
    "attribution_patching": Way(
        attributions.attribution_patching,
        "an estimate of patch, by one gradient",
        "saturated attention and answers",
        passes=lambda scan, n_heads: 5,
    ),
    "integrated_gradients": Way(
        attributions.integrated_gradients,
        "an estimate of patch, by five gradients",
        "saturated attention and answers",
        passes=lambda scan, n_heads: 19,
    ),
    "relevance": Way(
        attributions.relevance,
        "an estimate of patch, by relevance rules",
        "saturated attention; products that matter whole",
        passes=lambda scan, n_heads: 5,
    ),
    "attention": Way(
        attributions.attention,
        "where the answer's position looks",
        "what is read there, and used",
        False,
        lambda scan, n_heads: 1,
    ),
    "gates": Way(
        sets.learn_gates,
        "how open its gate stays, or how far it shuts",
        "too few steps; a variable held constant",
        passes=lambda scan, n_heads: 480,
    ),
    "greedy": Way(
        sets.greedy,
        "what is lost when it goes, all before it gone",
        "two heads that cancel",
        passes=lambda scan, n_heads: n_heads * (n_heads + 1) / 2,
    ),
    "random": Way(_random, "nothing: the floor", "everything", passes=lambda scan, n_heads: 0),
}
"""By name. A way is added by a function of :class:`interp.locating.asked.Asked` and a line here."""


@public
@one_at_a_time
def locate(
    model: Model,
    pairs: PromptPairs,
    method: str = "auto",
    *,
    positions: Positions = "all",
    metric: LogitDifference | None = None,
    pool: Sequence[Prompt] = (),
    check: int = 3,
    seed: int = 0,
    warn: bool = True,
) -> HeadRanking:
    """Rank all heads by how much they matter to the answers of clean prompts, beside corrupt ones.

    Args:
        model: the model whose heads they are.
        pairs: clean and corrupt prompts with their answers.
        method: a name of ``interp.locating.WAYS``, where it is said what each reads and what misleads it. "auto" is
            exact: other prompts' outputs and means, and a test of pairs of heads that undo each other.
        positions: where heads are changed: "answer" (the last position), the last m (a number), or "all" (but for
            "zero" and "mean_of_others": from the first on at which any two prompts differ, where all are of one length;
            before it each head gives the same in all). A head that acts at earlier positions is not seen at the answer.
        metric: by default the difference of the logits of the clean and the corrupt answer.
        pool: prompts that "resample", "mean" and "auto" read other outputs from, in place of the pairs' own.
        check: as in :func:`interp.scan`, of the exact ways; 0 trusts the caller.
        seed: of what is drawn at random.
        warn: look at a few pairs once more, of an exact way: which heads act where the ranking does not look, whether
            ablations agree, whether the pairs vary and exercise what heads compute. At most a fifth of the ranking's
            cost; what is found is in ``provenance["beside"]``, and the report says it. Beside it the kinds of heads
            (:func:`interp.circuits.head_kinds`), once for a model.

    Returns:
        A ranking by ``importance``: the size of the effect, per pair where the way gives one for each pair, whose
        signed mean is the measure ``effect`` (positive where a head supports the clean answer). ``provenance`` holds
        ``method``, ``positions``, and ``passes``: what it cost, in passes over each clean prompt, counted.

    Raises:
        ValueError: an unknown method, and positions that a method can't look at; otherwise as :func:`interp.scan` and
            :func:`interp.attribute`.

    Cost in plain passes of each clean prompt of S tokens for N heads in L layers: exact ways 1 + N (L + 1) / 2L at all
    positions, 1 + (1 + N (L + 1) / 2L) / S at the answer, one more where another prompt's output is read; auto three
    times that at most; direct attribution 1 or 2; attribution patching and relevance 5, integrated gradients 19; gates
    480 passes over batches of 16 pairs; greedy N (N + 1) / 2. Of the exact ways checks as :func:`interp.scan`, once.
    Misleads: as ``interp.locating.WAYS[method].misses`` says; the ranking has it among its caveats.
    Source: ours, a frame for the field's ways; those of papers name them in their functions.

    >>> ranking = interp.locating.locate(model, pairs)
    >>> ranking.top(5)
    """
    if method not in WAYS:
        raise ValueError(f"method={method!r}; expected one of {', '.join(WAYS)}.")
    way = WAYS[method]
    metric = metric or default_metric(pairs.clean)
    _require(pairs, way, method, positions)
    if pool and method not in ("auto", "mean", "resample"):
        raise ValueError(f"method={method!r} takes nothing from a pool; 'auto', 'mean' and 'resample' do.")
    model.require_fits([*pairs.clean, *pairs.corrupt, *pool])
    prompts = [*pairs.clean, *pairs.corrupt, *pool]
    used = varying_positions(model, prompts) if positions == "all" and way.varies else positions
    asked = Asked(model, pairs, metric, used, check, seed, tuple(pool))
    with counted(model) as cost:
        found = way.find(asked)
    found, of_gates = _of_gates(found) if isinstance(found, sets.Gates) else (found, {})
    found = np.asarray(found, np.float32)
    passes = cost.passes(model, pairs.clean)
    beside = _beside(asked, method, found, passes) if warn else {}
    shared = {
        "title": f"Heads that matter, by {method}",
        "model": model.name,
        "method": method,
        "positions": str(positions if way.everywhere else "answer"),
        "metric": str(metric),
        "passes": passes,
        **beside,
        **of_gates,
        **(kinds_beside(model) if warn else {}),
        "caveats": [f"What misleads this way: {way.misses}."],
    }
    return _ranking(found, way, metric, pairs, shared)


def expected_passes(model: Model, method: str, share: float = 1.0) -> float:
    """About what :func:`locate` costs for each pair, in passes over it, with what is said beside.

    Args:
        model: whose heads.
        method: a name of ``interp.locating.WAYS``.
        share: of the positions at which heads are changed: 1 for all.

    Returns:
        Passes; of gates and greedy for batches of 16 pairs and for each pair alike.

    Raises:
        KeyError: an unknown method.
    """
    n_heads = model.n_layers * model.n_heads
    scan = ModelShape.of(model).scan_passes(1, share)
    return WAYS[method].passes(scan, n_heads) * (1.2 if method in _REPLACED_BY else 1.0)


_REPLACED_BY = {"auto": "", "resample": "", "patch": "patch", "zero": "zero", "mean": "mean"}
"""Ways beside which something can be said, and what takes the place of a head's output there."""


def _beside(asked: Asked, method: str, found: Found, passes: float) -> dict[str, Any]:
    if method not in _REPLACED_BY:
        return {}
    replaced = _REPLACED_BY[method]
    pairs = asked.pairs
    looked = Looked(
        asked.model, pairs.clean, asked.metric, asked.positions, found, passes, replaced, twins=pairs.corrupt
    )
    return provenance_beside(looked, pairs)


def _ranking(
    found: Found, way: Way, metric: LogitDifference, pairs: PromptPairs, shared: dict[str, Any]
) -> HeadRanking:
    reads = f"How much the head matters: {way.reads}."
    importance = Measure(
        "importance", reads, metric.unit if found.ndim == 3 else "", (0.0, None), higher="matters more"
    )
    if found.ndim == 2:
        return HeadRanking(
            "importance", {"importance": found[None]}, ("all pairs",), {"importance": importance}, shared
        )
    effect = Measure("effect", "The same with its sign.", metric.unit, higher="supports the clean answer")
    return HeadRanking(
        "importance",
        {"importance": np.abs(found), "effect": found},
        tuple(p.id or str(i) for i, p in enumerate(pairs.clean)),
        {"importance": importance, "effect": effect},
        shared,
        tested_by={"importance": "effect"},
    )


def _require(pairs: PromptPairs, way: Way, method: str, positions: Positions) -> None:
    shortest = min(map(len, pairs.clean))
    a_number = isinstance(positions, int) and not isinstance(positions, bool) and 1 <= positions <= shortest
    if positions not in ("answer", "all") and not a_number:
        raise ValueError(f"positions={positions!r}; expected 'answer', 'all' or a number from 1 to {shortest}.")
    if not way.everywhere and positions not in ("answer", "all"):
        raise ValueError(f"method={method!r} looks at the answer alone; leave out positions=.")

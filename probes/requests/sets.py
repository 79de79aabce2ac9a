"""Which requests are fitted on and which are kept for tests, from one or several sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.door import public
from probes.requests.requests import (
    LEAST_REQUESTS,
    Kind,
    Request,
    bare,
    load_requests,
    require_at_least,
    require_disjoint,
    require_requests,
    sample_requests,
    split_requests,
)
from probes.rows import AS_IT_IS, Reading

FIT, HELD_OUT = "fit", "held out"


@dataclass(frozen=True)
class RequestSets:
    """Requests in two parts, harmful and harmless ones in both; none is in the two.

    ``fit``: those to fit on. ``held_out``: those that are kept back for tests.
    """

    fit: list[Request]
    held_out: list[Request]

    @property
    def all(self) -> list[Request]:
        return [*self.fit, *self.held_out]


@public
def divide_requests(
    harmful: Sequence[str] = ("builtin",),
    harmless: Sequence[str] = ("builtin",),
    test_harmful: Sequence[str] = (),
    test_harmless: Sequence[str] = (),
    *,
    limit: int | None = None,
    seed: int = 0,
    reading: Reading = AS_IT_IS,
) -> RequestSets:
    """Read sources of both kinds ("builtin" or files) and keep half of them back, pairs together; or, where tests are
    given, all of those.

    Args:
        harmful: sources of harmful requests.
        harmless: sources of harmless ones.
        test_harmful: sources of harmful requests to test on; none: half of the others.
        test_harmless: sources of harmless ones, given where ``test_harmful`` is.
        limit: at most so many of each kind to fit on, and of each kind to test on; None: all. Harmless twins of the
            harmful requests drawn are taken first, up to the share that twins have of all.
        seed: of the draw and of the division.
        reading: how the files are read; by default their columns say it.

    Raises:
        ValueError: fewer than 10 of a kind in either part (which, and how many more), ids that are there twice, texts
            that are harmful and harmless, and requests in both parts (listed).
    """
    if bool(test_harmful) != bool(test_harmless):
        raise ValueError("requests to test on are of one kind; give both harmful and harmless ones, or neither.")
    total = limit if limit is None or test_harmful else 2 * limit
    requests = _read(harmful, harmless, total, seed, reading)
    if test_harmful:
        sets = RequestSets(requests, _read(test_harmful, test_harmless, limit, seed, reading))
        require_disjoint(sets.fit, sets.held_out)
    else:
        for kind in ("harmful", "harmless"):
            n, why = sum(r.kind == kind for r in requests), ", since half of them are kept back to test on"
            require_at_least(n, f"{kind} requests", why, 2 * LEAST_REQUESTS)
        parts = split_requests(requests, {FIT: 0.5, HELD_OUT: 0.5}, seed)
        sets = RequestSets(parts[FIT], parts[HELD_OUT])
    for part, use in ((sets.fit, "fit"), (sets.held_out, "test")):
        for kind in ("harmful", "harmless"):
            require_at_least(sum(r.kind == kind for r in part), f"{kind} requests to {use} on", " there")
    return sets


def _read(
    harmful: Sequence[str], harmless: Sequence[str], limit: int | None, seed: int, reading: Reading
) -> list[Request]:
    """Requests of both kinds, at most ``limit`` of each."""

    def load(source: str, kind: Kind) -> list[Request]:
        how = reading.of(source)
        return load_requests(source, kind=kind, format=how.format, columns=how.columns)

    sources: dict[Kind, Sequence[str]] = {"harmful": harmful, "harmless": harmless}
    by_kind = {kind: [r for s in given for r in load(s, kind)] for kind, given in sources.items()}
    require_requests([*by_kind["harmful"], *by_kind["harmless"]])
    known = {bare(r.text): r.id for r in by_kind["harmful"]}
    if both := [f"{r.id} and {known[bare(r.text)]}" for r in by_kind["harmless"] if bare(r.text) in known]:
        listed = ", ".join(both[:10]) + (f" and {len(both) - 10} more" if len(both) > 10 else "")
        raise ValueError(f"{len(both)} texts are both harmless and harmful: {listed}. Remove them from one of the two.")
    if limit is None:
        return [*by_kind["harmful"], *by_kind["harmless"]]
    return [*(chosen := sample_requests(by_kind["harmful"], limit, seed)), *_matching(chosen, by_kind, limit, seed)]


def _matching(chosen: Sequence[Request], by_kind: dict[Kind, list[Request]], limit: int, seed: int) -> list[Request]:
    """Harmless requests for some harmful ones: their twins first, as large a share of them as twins have of all."""
    every = by_kind["harmless"]
    pairs = {r.pair for r in by_kind["harmful"] if r.pair}
    twins, others = [r for r in every if r.pair in pairs], [r for r in every if r.pair not in pairs]
    wanted = {r.pair for r in chosen if r.pair}
    drawn = [r for r in twins if r.pair in wanted]
    n_twins = min(len(drawn), max(limit - len(others), round(limit * len(twins) / len(every))))
    found = sample_requests(drawn, n_twins, seed) if n_twins else []
    return [*found, *(sample_requests(others, limit - len(found), seed) if limit > len(found) else [])]

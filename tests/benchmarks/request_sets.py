"""The requests of the harmfulness evaluation: what is observed, and what of it is fitted, validated and tested on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from probes.requests.behaviour_result import Behaviour
from probes.requests.requests import (
    SCARY,
    SHIPPED,
    Kind,
    Request,
    bare,
    load_requests,
    require_disjoint,
    sample_requests,
    split_requests,
    with_ending,
)

FILES: Mapping[str, Kind] = {
    "advbench": "harmful",
    "alpaca_harmless": "harmless",
    "xstest_safe_half": "harmless",
    "sorrybench": "harmful",
}
PAPER = ("advbench", "alpaca_harmless", "xstest")
"""Sources of the directions of arXiv 2507.11878, of those that are here."""
FRACTIONS = {"fit": 0.45, "validation": 0.15, "test": 0.4}
UNOBSERVED = 120  # requests of a source and kind, at most, that only the guard is fitted on
LONGEST = 200  # characters of a SORRY-Bench request: its long ones quote whole texts


@dataclass(frozen=True)
class Counts:
    """How many requests of each source are observed; ``pairs`` of the shipped ones. ``spare``: how many more of each
    kind may be trained on, unobserved."""

    pairs: int
    scary: int
    advbench: int
    alpaca: int
    xstest: int
    sorrybench: int
    spare: int


@dataclass(frozen=True)
class EvaluatedSets:
    """Disjoint, pairs kept together, and all ended alike. ``as_they_come``: the same requests with their own endings,
    by id. SORRY-Bench is in ``test`` alone: a source that nothing was fitted on. ``unobserved``: more requests of the
    other sources, for what needs no behaviour to be fitted on."""

    fit: tuple[Request, ...]
    validation: tuple[Request, ...]
    test: tuple[Request, ...]
    spare: tuple[Request, ...]
    unobserved: tuple[Request, ...]
    as_they_come: Mapping[str, Request]

    @property
    def observed(self) -> list[Request]:
        """Those whose behaviour is observed."""
        return [*self.fit, *self.validation, *self.test]

    def raw(self, requests: Iterable[Request]) -> list[Request]:
        """These requests with their own endings."""
        return [self.as_they_come[r.id] for r in requests]


def request_sets(data: Path, counts: Counts, seed: int = 0) -> EvaluatedSets:
    """The sets for the files in ``data``. A text that a source before has already is left out of the later one."""
    read = {name: load_requests(data / f"{name}.jsonl", kind=kind) for name, kind in FILES.items()}
    read["sorrybench"] = [r for r in read["sorrybench"] if len(r.text) <= LONGEST]
    shipped = load_requests()
    wanted = [
        ([r for r in shipped if r.source == SHIPPED], 2 * counts.pairs),
        ([r for r in shipped if r.source == SCARY], counts.scary),
        (read["advbench"], counts.advbench),
        (read["alpaca_harmless"], counts.alpaca),
        (read["xstest_safe_half"], counts.xstest),
    ]
    known = {bare(r.text) for r in shipped}  # the shipped ones that are not drawn too
    split: list[Request] = []
    for number, (requests, n) in enumerate(wanted):
        split += sample_requests(requests if number < 2 else _new(requests, known), n, seed)
    unseen = sample_requests(_new(read["sorrybench"], known), counts.sorrybench, seed)
    taken = {r.id for r in split}
    spare = [
        r
        for name in ("advbench", "alpaca_harmless")
        for r in _others([r for r in read[name] if r.id not in taken], split, counts.spare, seed)
    ]
    ended = {name: with_ending(part) for name, part in split_requests(split, FRACTIONS, seed).items()}
    ended["test"] += with_ending(unseen)
    ended["spare"] = with_ending(spare)
    rest = [*shipped, *(r for name in ("advbench", "alpaca_harmless", "xstest_safe_half") for r in read[name])]
    ended["unobserved"] = with_ending(_unobserved(rest, [*split, *unseen, *spare], seed))
    names = list(ended)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            require_disjoint(ended[name], ended[other])
    return EvaluatedSets(**{n: tuple(rs) for n, rs in ended.items()}, as_they_come={r.id: r for r in (*split, *unseen)})


def _new(requests: Sequence[Request], known: set[str]) -> list[Request]:
    """Requests whose text is not known; then it is."""
    found = []
    for r in requests:
        if (text := bare(r.text)) not in known:
            known.add(text)
            found.append(r)
    return found


def _others(requests: Sequence[Request], taken: Sequence[Request], n: int, seed: int) -> list[Request]:
    return sample_requests(_new(requests, {bare(r.text) for r in taken}), n, seed)


def _unobserved(requests: Sequence[Request], taken: Sequence[Request], seed: int) -> list[Request]:
    """Of every source :data:`UNOBSERVED` of a kind that are not taken, nor half of a pair that is."""
    pairs = {r.pair for r in taken if r.pair}
    new = _new([r for r in requests if r.pair not in pairs], {bare(r.text) for r in taken})
    of_each: dict[tuple[str, Kind], list[Request]] = {}
    for r in new:
        of_each.setdefault((r.source, r.kind), []).append(r)
    return [r for these in of_each.values() for r in sample_requests(these, UNOBSERVED, seed)]


def observed(behaviour: Behaviour, requests: Iterable[Request]) -> Behaviour:
    """The behaviour on these of its requests, in their order; without replies."""
    place = {r.id: i for i, r in enumerate(behaviour.requests)}
    rows = [place[r.id] for r in requests]
    return replace(
        behaviour,
        requests=tuple(behaviour.requests[i] for i in rows),
        verdicts=tuple(behaviour.verdicts[i] for i in rows),
        replies=None,
    )


def of_kind(requests: Iterable[Request], kind: Kind, n: int, seed: int = 0) -> list[Request]:
    """A sample of those of a kind."""
    return sample_requests([r for r in requests if r.kind == kind], n, seed)

"""Requests, harmful and harmless: read them from a file of any known shape, sample, split, end them alike, hash."""

from __future__ import annotations

import dataclasses
import random
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from interp.door import made_by, public
from interp.records import hash_text
from probes.requests.formats import FORMATS, lower_names, refuse_templates
from probes.rows import (
    AS_IT_IS,
    Cells,
    Format,
    Items,
    Reading,
    deal,
    hash_items,
    known,
    require_fractions,
    shipped_or,
    short_hash,
    stem_of,
)
from probes.rows.drawing import first_items, grouped, shuffled, strata_of
from probes.rows.formats import Fields

LEAST_REQUESTS = 10  # requests in a class
CONFOUNDED = 0.6  # an AUROC at the embedding above this (or below 1 minus it): the classes end in other tokens

Kind = Literal["harmful", "harmless"]

BUILTIN = Path(__file__).with_name("requests.jsonl")

SHIPPED, SCARY = "shipped", "shipped-scary"
"""Sources of the built-in requests: matched harmful and harmless ones, and safe ones that sound dangerous."""

_FINAL = " \t\n.?!…,;:\"'“”‘’«»`"


_WITHHELD = "(withheld) "  # begins what stands for a text in a file that was saved without texts


@made_by("load_requests(file), or Request(id, text, kind)")
@dataclass(frozen=True, repr=False)
class Request:
    """What a user asks for, and whether that is harmful. Its text is in no repr, and in no saved result unless asked
    for (``Keep(include_replies=True)``).

    Args:
        id: its name; ids of one list differ.
        text: the user's message.
        kind: "harmful" or "harmless", as the data set says.
        category: such as "fraud", or what the data set calls it; "": none.
        source: the data set; "": unknown.
        pair: joins requests that were made from one another: a harmful one and its harmless twin; "": none.

    Raises:
        ValueError: another kind, and an empty id or text.
    """

    id: str
    text: str
    kind: Kind
    category: str = ""  # "fraud", "violence", ... or what the data set calls it
    source: str = ""  # the data set
    pair: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind={self.kind!r}; expected 'harmful' or 'harmless'.")
        if not self.text.strip() or not self.id:
            raise ValueError(f"id={self.id!r}, a text of {len(self.text)} characters; expected both to be filled in.")

    def __repr__(self) -> str:
        return f"Request({self.id!r}, {self.kind}, {len(self.text)} characters)"

    def withheld(self) -> Request:
        """The same without its text, as files have it: a hash stands there, by which :func:`require_disjoint` still
        knows it. So does for a ``pair`` that is made of the text's words."""
        if self.is_withheld:
            return self
        words, named = bare(self.text).split(), self.pair.split()
        is_text = len(named) >= len(words) - 1 and set(named) <= set(words)
        pair = hash_of(self.pair) if self.pair and is_text else self.pair
        return replace(self, text=hash_of(bare(self.text)), pair=pair)

    @property
    def is_withheld(self) -> bool:
        """Whether the result that it comes from was saved without texts."""
        return self.text.startswith(_WITHHELD)

    @property
    def same_text(self) -> str:
        """Equal for texts that are the same up to case, space and final punctuation: a hash of them."""
        return self.text if self.is_withheld else hash_of(bare(self.text))

    @property
    def is_harmful(self) -> bool:
        return self.kind == "harmful"

    @property
    def group(self) -> str:
        """What is drawn and resampled together: its pair, else the request alone."""
        return self.pair or self.id


@public
def load_requests(
    source: str | Path = "builtin",
    *,
    kind: Kind | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Request]:
    """The requests of the built-in set or of a file, in the file's order.

    The built-in set has harmful requests and harmless ones that match them one by one in wording and topic (source
    "shipped", joined by ``pair``) and safe ones that sound dangerous ("shipped-scary"). A file is .jsonl, .json, .csv,
    .tsv or .parquet (gzipped too), "-" (standard input) or a pipe; its shape is told from its columns, or set by
    ``format``: "advbench", "jailbreakbench", "sorrybench", "xstest", "alpaca", "catqa", "harmbench", "strongreject",
    "plain" (text or prompt; kind, id, category, source, pair), or, for files of one column, its name: "instruction",
    "goal", "bad_q", "behavior". ``columns`` gives the file's name for one of these, such as {"text": "query"}. A file
    of jailbreaks (texts with [INSERT PROMPT HERE] or the like) is refused: see :func:`load_jailbreaks`.

    ``kind`` keeps the requests of one kind. Where the shape does not say it (JailbreakBench, whose two files look the
    same, and a plain file without a column "kind"), it is what all of them are taken for. ``source``: "builtin" or the
    file. ``limit``: at most so many, drawn by ``seed`` (:func:`sample_requests`); None: all.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a row can't be used; says which (from 1), what is wrong, and the remedy.

    >>> len(load_requests(kind="harmful", limit=10))
    10
    """
    if kind is not None:
        known(f"kind={kind!r}", kind, list(get_args(Kind)))
    if format is not None:
        known(f"format={format!r}", format, list(FORMATS))
    reading = Reading(format, columns or {})
    path = shipped_or(source, BUILTIN, "requests", reading, limit)
    requests = _items(path, reading, lambda form, cells: _made(form, cells, path, kind))

    def kept() -> Iterator[Request]:
        return (r for r in requests if kind in (None, r.kind))

    chosen = None if limit is None else set(_drawn(kept(), limit, seed))
    found = [r for i, r in enumerate(kept()) if chosen is None or i in chosen]
    if not found:
        n = sum(1 for _ in requests)
        raise ValueError(f"{path} has no {kind} requests, only {n} of the other kind; give another kind=.")
    return found


@public
def read_texts(source: str | Path, reading: Reading = AS_IT_IS) -> list[Request]:
    """The texts of a file of requests whose kind nobody needs to know, such as those to judge: where a row does not say
    it, it is taken for harmless. Templates are texts like others here."""
    return list(
        _items(source, reading, lambda form, cells: _made(form, {"kind": "harmless"} | cells, source, None), None)
    )


def _items(
    source: str | Path,
    reading: Reading,
    make: Callable[[Format, Fields], Request],
    check: Callable[[Iterable[tuple[str, Cells]]], None] | None = refuse_templates,
) -> Items[Request]:
    ours = [*(f.name for f in dataclasses.fields(Request)), "prompt"]
    return Items(source, FORMATS, make, reading, otherwise="plain", ours=ours, prepare=lower_names, check=check)


def _made(form: Format, cells: Fields, source: str | Path, kind: Kind | None) -> Request:
    named = stem_of(source) if form.name in ("plain", form.text) else form.name
    given = {"kind": kind} | cells | {"source": cells.get("source") or named}
    if given["kind"] is None:
        raise ValueError(
            "nothing says whether the request is harmful; give kind='harmful' or kind='harmless' for the whole file, "
            "or a column 'kind'"
        )
    return Request(**given)


@public
def hash_of(text: str) -> str:
    """What stands for a text where texts are withheld."""
    return text if text.startswith(_WITHHELD) else _WITHHELD + hash_text(text)[:16]


@public
def hash_requests(requests: Sequence[Request]) -> str:
    """SHA-256 (hex) of the requests in their order, every field included, for provenance."""
    return hash_items(requests)


@public
def bare(text: str) -> str:
    """A request's text up to case, space, and final punctuation and quotes: equal for what counts as a duplicate."""
    return " ".join(text.casefold().split()).strip(_FINAL)


@public
def with_ending(requests: Sequence[Request], ending: str = ".") -> list[Request]:
    """The ``requests`` with their final punctuation and quotes replaced by ``ending``, so that all end alike.

    Without this, the last token tells which data set a request is of (of arXiv 2507.11878's sets, the harmful ones have
    no full stop, the harmless ones do), and so does whatever is read there.

    Raises:
        ValueError: a request of nothing else.
    """
    ended = []
    for r in requests:
        text = r.text.rstrip(_FINAL)
        if not text:
            raise ValueError(f"request {r.id} is {r.text!r}, nothing but punctuation; remove it.")
        ended.append(dataclasses.replace(r, text=text + ending))
    return ended


@public
def whole_pairs(requests: Sequence[Request]) -> list[Request]:
    """Those of ``requests`` whose pair is there whole: a harmful one and its harmless twin, and no others."""
    members: dict[str, list[str]] = {}
    for r in requests:
        members.setdefault(r.pair, []).append(r.kind)
    whole = {pair for pair, kinds in members.items() if pair and sorted(kinds) == ["harmful", "harmless"]}
    return [r for r in requests if r.pair in whole]


@public
def require_requests(requests: Sequence[Request]) -> None:
    """Raise ``ValueError`` for no requests or repeated ids."""
    if not requests:
        raise ValueError("no requests were given; give at least one.")
    if twice := sorted(i for i, n in Counter(r.id for r in requests).items() if n > 1):
        raise ValueError(f"requests share ids: {', '.join(twice[:10])}; expected ids that differ.")


@public
def require_at_least(n: int, what: str, remedy: str = "", least: int = LEAST_REQUESTS) -> None:
    """Raise ``ValueError`` for fewer than ``least`` of something, saying how many more are needed."""
    if n < least:
        raise ValueError(f"{n} {what}; expected at least {least}: {least - n} more{remedy}.")


@public
def require_disjoint(fitted: Sequence[Request], tested: Sequence[Request]) -> None:
    """Raise ``ValueError`` listing the requests of ``tested`` that ``fitted`` has too: the same id, the same text up to
    case, space and final punctuation, or the same pair."""
    ids, texts = {r.id for r in fitted}, {r.same_text for r in fitted}
    pairs = {hash_of(r.pair) for r in fitted if r.pair}
    shared = [r.id for r in tested if r.id in ids or r.same_text in texts or (r.pair and hash_of(r.pair) in pairs)]
    if shared:
        listed = ", ".join(shared[:20]) + (f" and {len(shared) - 20} more" if len(shared) > 20 else "")
        raise ValueError(
            f"{len(shared)} of {len(tested)} requests to test on were fitted on too, by id, text or pair: {listed}. "
            "Remove them from one of the two, or split with split_requests, which keeps pairs together."
        )


@public
def split_requests(
    requests: Sequence[Request], fractions: Mapping[str, float], seed: int = 0
) -> dict[str, list[Request]]:
    """Disjoint lists, one for each name in ``fractions``, that together hold every one of ``requests``.

    ``fractions``: name -> share of the requests. ``seed``: of the order in which they are dealt out. Each list has the
    kinds, sources and categories of the whole in about the same proportions. Pairs and duplicates stay together, so
    that :func:`require_disjoint` holds.

    Raises:
        ValueError: the fractions are not positive or do not add up to 1, or a list would be empty.
    """
    require_fractions(fractions)
    strata = _strata(requests, seed)
    members = deal(((kinds, unit) for kinds, units in strata for unit in units), fractions)
    if empty := [name for name, indices in members.items() if not indices]:
        raise ValueError(
            f"no request left for {', '.join(empty)}: {len(requests)} requests were given (pairs stay together). Give "
            f"more of them or larger shares than {dict(fractions)}."
        )
    return {name: [requests[i] for i in indices] for name, indices in members.items()}


@public
def sample_requests(requests: Sequence[Request], n: int, seed: int = 0) -> list[Request]:
    """At most ``n`` of ``requests`` in their order, with kinds, sources and categories in proportion, pairs kept
    together.

    ``seed``: which ones; with the same seed a larger ``n`` adds requests to the same ones. Where a pair would not fit
    any more, there is one less. All of them where there are no more.

    Raises:
        ValueError: ``n`` is smaller than a pair.
    """
    return list(requests) if n >= len(requests) else [requests[i] for i in _drawn(requests, n, seed)]


def _drawn(requests: Iterable[Request], n: int, seed: int) -> list[int]:
    """Where in the requests, which are asked for once, those of a sample are."""
    texts, pairs, kinds, places = array("Q"), array("Q"), array("b"), array("q")
    numbers: dict[tuple[str, str], int] = {}
    for request in requests:
        texts.append(short_hash(bare(request.text)) or 1)
        pairs.append((short_hash(request.pair) or 1) if request.pair else 0)
        kinds.append(request.kind == "harmful")
        places.append(numbers.setdefault((request.source, request.category), len(numbers)))
    if n >= len(texts):
        return list(range(len(texts)))
    unit = grouped([texts, pairs])
    size, harmful = np.bincount(unit), np.bincount(unit, np.frombuffer(kinds, dtype=np.int8)).astype(int)
    of = np.frombuffer(places, dtype=np.int64)[first_items(unit)]
    found, stratum = np.unique(np.stack([harmful, size - harmful, of], axis=1), axis=0, return_inverse=True)
    named = list(numbers)
    names = [(("harmful",) * bad + ("harmless",) * good, *named[place]) for bad, good, place in found.tolist()]
    rng = random.Random(seed)
    order = shuffled(len(size), rng)
    in_order = sorted(range(len(names)), key=names.__getitem__)
    rng.shuffle(in_order)
    place_of = {number: place for place, number in enumerate(in_order)}
    strata = strata_of(order, stratum.reshape(-1), n)
    ranked = sorted((rank, place_of[number], member) for number, units in strata for rank, member in units)
    chosen, taken = [], 0
    for _, _, member in ranked:
        if taken + size[member] > n:
            break
        chosen.append(member)
        taken += int(size[member])
    if not chosen:
        raise ValueError(f"n={n}, but these requests come in pairs, which are kept together; expected 2 or more.")
    return np.flatnonzero(np.isin(unit, chosen)).tolist()


def _strata(requests: Sequence[Request], seed: int) -> list[tuple[Hashable, list[list[int]]]]:
    """Units (indices that must stay together) by the kinds in them, in seeded order; of one kind first those of one
    source and category, then of the next: each second unit of such a list is about every second one of each."""
    units = _units(requests)
    random.Random(seed).shuffle(units)
    strata: dict[tuple, list[list[int]]] = {}
    for unit in units:
        kinds = tuple(sorted(requests[i].kind for i in unit))
        strata.setdefault((kinds, requests[unit[0]].source, requests[unit[0]].category), []).append(unit)
    merged: dict[Hashable, list[list[int]]] = {}
    for name in sorted(strata):
        merged.setdefault(name[0], []).extend(strata[name])
    return list(merged.items())


def _units(requests: Sequence[Request]) -> list[list[int]]:
    """Indices of requests that share a pair or a text, directly or through others."""
    texts = array("Q", (short_hash(bare(r.text)) or 1 for r in requests))
    pairs = array("Q", ((short_hash(r.pair) or 1) if r.pair else 0 for r in requests))
    units: dict[int, list[int]] = {}
    for i, unit in enumerate(grouped([texts, pairs]).tolist()):
        units.setdefault(unit, []).append(i)
    return [units[number] for number in sorted(units)]


@public
def is_confounded(layer0_auroc: float) -> bool:
    """Whether the classes differ at the embedding already (an AUROC above 0.6): in the token that ends the request.
    What separates them at later layers may then be no more than that."""
    return abs(layer0_auroc - 0.5) > CONFOUNDED - 0.5

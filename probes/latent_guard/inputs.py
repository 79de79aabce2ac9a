"""What a guard is given, as scikit-learn's users give it: texts or requests in a list, an array, a Series or one column
of a table; labels as truth values, 0 and 1, or the words harmful and harmless. Anything that could mean something else
is refused, never guessed: a table is not read by its column names, and no label by whether Python calls it true."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence, Set as AbstractSet
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool

from probes.requests import Kind, Request, bare

_WORDS = get_args(Kind)  # harmful, harmless


def requests_of(given: Any, role: str = "text") -> list[Request]:
    """Requests as they are, and plain texts as requests of a kind that nobody must read; ``role`` begins their ids.

    Texts that are the same up to case and final punctuation count as one pair, so that folds keep them together.

    Raises ``TypeError`` for what is no collection of texts (one text, a table of several columns, a mapping, bytes) and
    for an element that is no text, ``ValueError`` for none at all and for an empty text.
    """
    items = _listed(given, "texts or requests")
    if not items:
        raise ValueError("no requests were given; give at least one.")
    return [_request(item, place, role) for place, item in enumerate(items)]


def labels_of(given: Any, n: int) -> Bool[np.ndarray, " example"]:
    """True for harmful. Takes bools, the numbers 0 and 1, and the words "harmful" and "harmless", also mixed.

    Raises ``TypeError`` or ``ValueError``, naming the first wrong label, for anything else (-1 and 1, texts such as
    "True", a missing value), and for another number of labels than ``n``.
    """
    items = _listed(given, "labels")
    if len(items) != n:
        raise ValueError(f"{len(items)} labels were given for {n} requests; expected one for each.")
    return np.array([_label(item, place) for place, item in enumerate(items)], dtype=bool)


def paired(requests: Sequence[Request], harmful: Bool[np.ndarray, " example"]) -> list[Request]:
    """Plain texts (:func:`requests_of`) with their twins found: two that differ in one word and in their label were
    made from one another, as those of the shipped set are. What is calibrated on the fitted texts keeps them together,
    or it would have seen the twin of what it is tried on. Where all texts are of one family there are no twins."""
    places: dict[tuple[str, ...], list[int]] = {}
    for i, request in enumerate(requests):
        words = request.pair.split()
        for at in range(len(words)):
            places.setdefault((*words[:at], "", *words[at + 1 :]), []).append(i)
    root = list(range(len(requests)))
    name = [request.pair for request in requests]

    def family(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for words, members in places.items():
        if len({bool(harmful[i]) for i in members}) == 2:
            first = min(family(i) for i in members)
            for i in members:
                root[family(i)] = first
            name[first] = " ".join(filter(None, words))
    families = [family(i) for i in range(len(requests))]
    fewest = min(len({f for f, h in zip(families, harmful, strict=True) if h == kind}) for kind in (True, False))
    if fewest < 2:
        return list(requests)
    return [replace(request, pair=name[f]) for request, f in zip(requests, families, strict=True)]


def are_words(given: Any) -> bool:
    """Whether labels are given as words."""
    return any(isinstance(item, str) for item in _listed(given, "labels"))


def count_plain(given: Any) -> int:
    """How many of what was given are plain texts, which do not say whether they are harmful."""
    return sum(not isinstance(item, Request) for item in _listed(given, "texts or requests"))


def _listed(given: Any, what: str) -> list[Any]:
    """The elements of a collection with one order and one column."""
    if isinstance(given, (str, Request)):
        n = len(given if isinstance(given, str) else given.text)
        raise ValueError(f"one request was given, of {n} characters; expected a list of them: [request].")
    if isinstance(given, pd.DataFrame):
        if given.shape[1] != 1:
            columns = ", ".join(map(str, given.columns[:8]))
            raise TypeError(
                f"a table of {given.shape[1]} columns ({columns}) was given for {what}; expected one column of it, "
                f"such as table[{given.columns[0] if len(given.columns) else 'text'!r}]."
            )
        return given.iloc[:, 0].tolist()
    if isinstance(given, (Mapping, AbstractSet, bytes, bytearray, memoryview)) or given is None:
        raise TypeError(
            f"a {type(given).__name__} was given for {what}; expected a list, an array or a Series: one entry for each "
            "request, in order."
        )
    if isinstance(given, np.ndarray):
        if given.ndim == 2 and given.shape[1] == 1:
            given = given[:, 0]
        if given.ndim != 1:
            raise TypeError(
                f"an array of shape {given.shape} was given for {what}; expected one dimension (n,), or one column "
                "(n, 1)."
            )
        return given.tolist() if given.dtype != object else list(given)
    if isinstance(given, (Sequence, Iterator)):
        return list(given)
    for convert in ("tolist", "to_list", "to_pylist"):  # pandas, polars, pyarrow, torch
        if hasattr(given, convert):
            found = getattr(given, convert)()
            if isinstance(found, list):
                return found
    raise TypeError(f"a {type(given).__name__} was given for {what}; expected a list, an array or a Series.")


def _request(item: Any, place: int, role: str) -> Request:
    if isinstance(item, Request):
        return item
    if not isinstance(item, str):
        remedy = "decode it (.decode())" if isinstance(item, (bytes, bytearray)) else "leave it out or fill it in"
        raise TypeError(
            f"number {place + 1} of what was given is a {type(item).__name__}; expected a text or a Request: {remedy}."
        )
    text = str(item)  # of NumPy's texts, Python's own
    if not text.strip():
        raise ValueError(f"text number {place + 1} is empty; leave it out.")
    return Request(f"{role}-{place}", text, "harmless", pair=bare(text) or text)


def _label(item: Any, place: int) -> bool:
    if isinstance(item, (bool, np.bool_)):
        return bool(item)
    if isinstance(item, str) and str(item) in _WORDS:
        return str(item) == _WORDS[0]
    if isinstance(item, numbers.Real) and item in (0, 1):
        return bool(item == 1)
    expected = "expected True or False, 1 or 0, or 'harmful' or 'harmless'"
    if item is None or item is pd.NA or item is pd.NaT or (isinstance(item, numbers.Real) and item != item):
        raise ValueError(f"label number {place + 1} is missing ({item!r}); {expected}. Leave such requests out.")
    if isinstance(item, numbers.Real) and item == -1:
        raise ValueError(f"label number {place + 1} is -1; {expected}. Of -1 and 1, give y == 1 where 1 is harmful.")
    raise ValueError(f"label number {place + 1} is {item!r:.12}; {expected}.")

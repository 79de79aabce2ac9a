"""Yes/no questions: read them from a file of any known shape, draw a balanced sample, split, hash."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from interp.door import made_by, public
from interp.records import hash_text
from probes.questions.formats import FORMATS
from probes.rows import (
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
from probes.rows.drawing import by_first, first_items, grouped, shuffled, strata_of
from probes.rows.formats import Fields

BUILTIN = Path(__file__).with_name("questions.jsonl")

SPLIT_FRACTIONS = {"probe": 0.5, "validation": 0.2, "test": 0.3}


@made_by("load_questions(file), or Question(id, text, answer)")
@dataclass(frozen=True)
class Question:
    """A yes/no question and what is known about it. Texts that do not apply are "".

    `context` is what the question can't be answered without (a passage); `fact` is what would help but was
    not asked along (StrategyQA's facts). `pair` is the id of the item that a Yes and a No twin were made
    from; questions with the same `open_question` are twins too, named or not.

    `text`: what is asked. `answer`: "Yes" or "No". `domain`: its subject. `open_answer` and `open_aliases`: what
    answers `open_question`, and other ways to write it.

    Raises:
        ValueError: another answer than Yes or No, and an empty text or id.
    """

    id: str
    text: str  # as asked
    answer: str  # "Yes" or "No"
    domain: str = ""  # "facts", "arithmetic", ... or the data set's name
    context: str = ""
    fact: str = ""
    open_question: str = ""  # asks for the same knowledge, with a short answer
    open_answer: str = ""
    open_aliases: tuple[str, ...] = ()  # other right answers to open_question
    pair: str = ""

    def __post_init__(self) -> None:
        if self.answer not in ("Yes", "No"):
            raise ValueError(f"answer={self.answer!r}; expected 'Yes' or 'No'")
        if not self.text.strip() or not self.id:
            raise ValueError(f"id={self.id!r}, text={self.text!r}; expected both to be filled in")

    @property
    def subject(self) -> str:
        """What it shares with its twins: the pair, else the open question (of its passage), else its own id."""
        if self.pair or not self.open_question:
            return self.pair or self.id
        return f"{self.open_question} {self.context}".strip()

    @property
    def group(self) -> str:
        """The name of what is drawn and resampled together: the questions on one passage, else those of one
        subject."""
        return f"passage {hash_text(self.context)[:12]}" if self.context else self.subject


@public
def load_questions(
    source: str | Path = "builtin",
    *,
    limit: int | None = None,
    seed: int = 0,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Question]:
    """The questions of the built-in set or of a file, in the file's order.

    `source` is "builtin", a .jsonl, .json, .csv, .tsv or .parquet file (gzipped too), "-" for standard input, or a
    pipe (:mod:`probes.rows`). Its shape is told from its columns, or set by `format`: "plain" (headscope's own:
    question, answer), "strategyqa", "gsm8k", "ar_lsat", "boolq" or "bbh" (a yes/no task of BIG-Bench Hard), trimmed or
    as published. `columns` gives the file's name for one of ours, for example {"question": "prompt"}. GSM8K and AR-LSAT
    become pairs: `... Is the answer "18"?` asked of the right answer (Yes) and of a wrong one (No), chosen by `seed`.

    `limit` is the most questions to return: half Yes and half No as far as the file allows, in proportion
    to its domains, drawn by `seed`. A larger limit adds questions to the same ones. Pairs stay together, so
    an odd limit gives one less. Without it (or beyond the file's size) everything is returned, balanced or
    not. A file of more than 10,000 rows is read twice, its shape told from these, and what is not drawn is not kept: a
    million rows take tens of bytes each.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a row can't be used; says which (from 1; a CSV's header is not a row, a JSONL file's rows are its
            lines), the value, and the remedy.

    Misleads when: the wrong candidate of a pair is easier to reject than the model's own mistakes would be;
    and the right candidate of an AR-LSAT pair asks "which one of the following" of a list that is not
    shown.

        >>> [q.answer for q in load_questions("questions.csv", limit=2)]  # doctest: +SKIP
        ['Yes', 'No']
    """
    if format is not None:
        known(f"format={format!r}", format, list(FORMATS))
    path = shipped_or(source, BUILTIN, "questions", Reading(format, columns or {}), limit)
    theirs = {"question" if name == "text" else name: column for name, column in (columns or {}).items()}
    stem = stem_of(path)
    questions = Items(
        path,
        FORMATS,
        lambda form, cells: _made(form, cells, stem),
        Reading(format, theirs),
        otherwise="plain",
        ours=[f.name for f in fields(Question)],
        seed=seed,
        prepare=_with_question,
    )
    if limit is None:
        return list(questions)
    chosen = set(_drawn(questions, limit, seed))
    return [question for i, question in enumerate(questions) if i in chosen]


def _made(form: Format, cells: Fields, stem: str) -> Question:
    """A question. Without a column of domains, its domain is the data set's name, or the file's where the format is
    none."""
    domain = stem if form.name in ("plain", "bbh") else form.name
    return Question(**{"domain": domain} | cells)


def _with_question(row: Cells) -> Cells:
    """A row's "text" is its "question" where it has no other: that is what :class:`Question` calls it."""
    if "text" not in row or "question" in row or "input" in row:
        return row
    return {"question" if name == "text" else name: value for name, value in row.items()}


@public
def split_questions(
    questions: Sequence[Question], fractions: Mapping[str, float] = SPLIT_FRACTIONS, seed: int = 0
) -> dict[str, list[Question]]:
    """Disjoint lists, one for each name in `fractions`, that together hold every question.

    Each split has the answers and domains of the whole in the same proportions (so a balanced list gives
    balanced splits). Twins (one pair, or one open question) and questions on one passage go to one split:
    heads chosen on a passage would otherwise be tested on it. Few large passages make the fractions approximate.

    `seed`: of the order in which groups are dealt out.

    Raises:
        ValueError: the fractions are not positive or do not add up to 1, or a split would be empty.
    """
    require_fractions(fractions)
    units = _units(questions, passages=True)
    random.Random(seed).shuffle(units)
    units.sort(key=lambda unit: (_tilt(questions, unit), questions[unit[0]].domain))  # a stable sort
    members = deal(((_tilt(questions, unit), unit) for unit in units), fractions)
    empty = [name for name, indices in members.items() if not indices]
    if empty:
        raise ValueError(
            f"no question left for {', '.join(empty)}: {len(questions)} questions make {len(units)} groups "
            "(twins, and questions on one passage, stay together). Give more questions or larger shares than "
            f"{dict(fractions)}"
        )
    return {name: [questions[i] for i in indices] for name, indices in members.items()}


@public
def hash_questions(questions: Sequence[Question]) -> str:
    """SHA-256 (hex) of the questions in their order, every field included, for provenance."""
    return hash_items(questions)


@public
def sample_questions(questions: Sequence[Question], limit: int, seed: int = 0) -> list[Question]:
    """At most `limit` questions in their order, drawn as `load_questions` draws: the first of a seeded order in which
    answers alternate and domains come in proportion. All of them where there are no more."""
    return list(questions) if limit >= len(questions) else [questions[i] for i in _drawn(questions, limit, seed)]


def _drawn(questions: Iterable[Question], limit: int, seed: int) -> list[int]:
    """Where in the questions, which are asked for once, those of a sample are."""
    keys, answers, places = array("Q"), array("b"), array("q")
    numbers: dict[str, int] = {}
    for question in questions:
        keys.append(short_hash(question.subject) or 1)
        answers.append(1 if question.answer == "Yes" else -1)
        places.append(numbers.setdefault(question.domain, len(numbers)))
    if limit >= len(keys):
        return list(range(len(keys)))
    rng = random.Random(seed)
    unit = by_first(grouped([keys]))
    order = shuffled(int(unit.max()) + 1, rng)
    domains = sorted(numbers)
    rng.shuffle(domains)
    places_of = {name: place for place, name in enumerate(domains)}
    place_of = np.array([places_of[name] for name in numbers])
    size = np.bincount(unit)
    tilt = np.rint(np.bincount(unit, np.frombuffer(answers, dtype=np.int8))).astype(int)  # Yes minus No
    domain = place_of[np.frombuffer(places, dtype=np.int64)[first_items(unit)]]
    queues: dict[int, list[tuple[float, int, int]]] = {1: [], -1: [], 0: []}
    for number, ranked in strata_of(order, (np.sign(tilt) + 1) * len(domains) + domain, limit):
        sign, place = divmod(number, len(domains))
        queues[sign - 1] += [(rank, place, member) for rank, member in ranked]
    queues = {sign: sorted(queue, reverse=True) for sign, queue in queues.items()}  # the next one is last
    chosen, n, balance = [], 0, 0
    while any(queues.values()):
        wanted = (balance < 0) - (balance > 0)
        ready = [sign for sign, queue in queues.items() if queue]
        if balance and wanted in ready:
            sign = wanted
        elif 0 in ready and not (1 in ready and -1 in ready):
            sign = 0
        else:
            sign = min(ready, key=lambda s: queues[s][-1][:2])
        member = queues[sign].pop()[2]
        if n + size[member] > limit:
            break
        chosen.append(member)
        n, balance = n + int(size[member]), balance + int(tilt[member])
    if not chosen:
        raise ValueError(f"limit={limit}, but these questions come in pairs, kept together; expected 2 or more")
    return np.flatnonzero(np.isin(unit, chosen)).tolist()


def _units(questions: Sequence[Question], *, passages: bool) -> list[list[int]]:
    """Indices of questions that must stay together: twins and, with `passages`, all that share a passage."""
    units: dict[tuple[str, str], list[int]] = {}
    context_of: dict[tuple[str, str], str] = {}
    for i, question in enumerate(questions):
        key = ("subject", question.subject)
        context = context_of.setdefault(key, question.context)  # the first twin's
        if passages and context:
            key = ("context", context)
        units.setdefault(key, []).append(i)
    return list(units.values())


def _tilt(questions: Sequence[Question], unit: list[int]) -> int:
    """1 when most of the unit's answers are Yes, -1 when most are No, 0 when it is balanced."""
    yes = sum(questions[i].answer == "Yes" for i in unit)
    return (2 * yes > len(unit)) - (2 * yes < len(unit))


def describe_questions(questions: Sequence[Question]) -> dict[str, Any]:
    """What provenance says of the data: hash, counts, domains."""
    return {
        "sha256": hash_questions(questions),
        "n": len(questions),
        "n_yes": sum(q.answer == "Yes" for q in questions),
        "domains": sorted({q.domain for q in questions if q.domain}),
    }

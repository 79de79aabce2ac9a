"""Yes/no questions: read them from a file of any known shape, draw a balanced sample, split, hash."""

import dataclasses
import difflib
import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.provenance import hash_text
from probes.question_formats import FORMATS, detect_format, read_rows

BUILTIN = Path(__file__).with_name("data") / "questions.jsonl"
SPLIT_FRACTIONS = {"probe": 0.5, "validation": 0.2, "test": 0.3}


@dataclass(frozen=True)
class Question:
    """A yes/no question and what is known about it. Texts that do not apply are "".

    `context` is what the question can't be answered without (a passage); `fact` is what would help but was
    not asked along (StrategyQA's facts). `pair` is the id of the item that a Yes and a No twin were made
    from; questions with the same `open_question` are twins too, named or not.
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


def load_questions(
    source: str | Path = "builtin",
    *,
    limit: int | None = None,
    seed: int = 0,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Question]:
    """The questions of the built-in set or of a file, in the file's order.

    `source` is "builtin" or a .jsonl, .json, .csv or .parquet file. Its shape is told from its columns, or
    set by `format`: "plain" (headscope's own: question, answer), "strategyqa", "gsm8k", "ar_lsat", "boolq"
    or "bbh" (a yes/no task of BIG-Bench Hard), trimmed or as published. `columns` gives the file's name for
    one of ours, for example {"question": "prompt"}. GSM8K and AR-LSAT become pairs: `... Is the answer
    "18"?` asked of the right answer (Yes) and of a wrong one (No), chosen by `seed`.

    `limit` is the most questions to return: half Yes and half No as far as the file allows, in proportion
    to its domains, drawn by `seed`. A larger limit adds questions to the same ones. Pairs stay together, so
    an odd limit gives one less. Without it (or beyond the file's size) everything is returned, balanced or
    not.

    Raises FileNotFoundError, or ValueError naming the row (from 1; a CSV's header is not a row, a JSONL
    file's rows are its lines), the value, and the remedy.

    Misleads when: the wrong candidate of a pair is easier to reject than the model's own mistakes would be;
    and the right candidate of an AR-LSAT pair asks "which one of the following" of a list that is not
    shown.

        >>> [q.answer for q in load_questions("questions.csv", limit=2)]  # doctest: +SKIP
        ['Yes', 'No']
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; expected 1 or more questions, or None for all")
    if format is not None:
        _known(f"format={format!r}", format, list(FORMATS))
    builtin = source == "builtin"
    if builtin and (format or columns):
        raise ValueError("format= and columns= are for files; leave them out to read the built-in questions")
    if builtin and not BUILTIN.is_file():
        raise FileNotFoundError(f"the built-in questions are missing ({BUILTIN}); install headscope again")
    path = BUILTIN if builtin else Path(source)
    rows = _rename(path, read_rows(path), columns or {})
    questions = _parse(path, rows, format or detect_format([row for _, row in rows]), seed)
    return questions if limit is None else sample_questions(questions, limit, seed)


def split_questions(
    questions: Sequence[Question], fractions: Mapping[str, float] = SPLIT_FRACTIONS, seed: int = 0
) -> dict[str, list[Question]]:
    """Disjoint lists, one for each name in `fractions`, that together hold every question.

    Each split has the answers and domains of the whole in the same proportions (so a balanced list gives
    balanced splits). Twins (one pair, or one open question) and questions on one passage go to one split:
    heads chosen on a passage would otherwise be tested on it. Few large passages make the fractions approximate.

    Raises ValueError when the fractions are not positive or do not add up to 1, or when a split would be
    empty.
    """
    shares = list(fractions.values())
    if not shares or min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"fractions={dict(fractions)}; expected positive numbers that add up to 1")
    units = _units(questions, passages=True)
    random.Random(seed).shuffle(units)
    units.sort(key=lambda unit: (_tilt(questions, unit), questions[unit[0]].domain))  # a stable sort
    taken: dict[tuple[int, str], int] = {}  # (tilt, split) -> questions so far
    members: dict[str, list[int]] = {name: [] for name in fractions}
    for unit in units:
        tilt = _tilt(questions, unit)
        total = sum(taken.get((tilt, name), 0) for name in fractions) + len(unit)
        name = max(fractions, key=lambda name: fractions[name] * total - taken.get((tilt, name), 0))
        taken[tilt, name] = taken.get((tilt, name), 0) + len(unit)
        members[name] += unit
    empty = [name for name, indices in members.items() if not indices]
    if empty:
        raise ValueError(
            f"no question left for {', '.join(empty)}: {len(questions)} questions make {len(units)} groups "
            "(twins, and questions on one passage, stay together). Give more questions or larger shares than "
            f"{dict(fractions)}"
        )
    return {name: [questions[i] for i in sorted(indices)] for name, indices in members.items()}


def hash_questions(questions: Sequence[Question]) -> str:
    """SHA-256 (hex) of the questions in their order, every field included, for provenance."""
    rows = [dataclasses.asdict(question) for question in questions]
    text = json.dumps(rows, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sample_questions(questions: Sequence[Question], limit: int, seed: int = 0) -> list[Question]:
    """At most `limit` questions in their order, drawn as `load_questions` draws: the first of a seeded order in which
    answers alternate and domains come in proportion. All of them where there are no more."""
    if limit >= len(questions):
        return list(questions)
    rng = random.Random(seed)
    units = _units(questions, passages=False)
    rng.shuffle(units)
    domains = sorted({question.domain for question in questions})
    rng.shuffle(domains)
    strata: dict[tuple[int, str], list[list[int]]] = {}
    for unit in units:
        strata.setdefault((_tilt(questions, unit), questions[unit[0]].domain), []).append(unit)
    queues: dict[int, list[tuple[float, int, list[int]]]] = {1: [], -1: [], 0: []}
    for (tilt, domain), members in strata.items():
        ranked = [((j + 0.5) / len(members), domains.index(domain), unit) for j, unit in enumerate(members)]
        queues[tilt] = sorted(queues[tilt] + ranked, reverse=True)  # the next one is last
    chosen: list[int] = []
    balance = 0  # Yes minus No
    while any(queues.values()):
        wanted = (balance < 0) - (balance > 0)
        ready = [tilt for tilt, queue in queues.items() if queue]
        if balance and wanted in ready:
            tilt = wanted
        elif 0 in ready and not (1 in ready and -1 in ready):
            tilt = 0
        else:
            tilt = min(ready, key=lambda t: queues[t][-1][:2])
        unit = queues[tilt].pop()[2]
        if len(chosen) + len(unit) > limit:
            break
        chosen += unit
        balance += sum(1 if questions[i].answer == "Yes" else -1 for i in unit)
    if not chosen:
        raise ValueError(f"limit={limit}, but these questions come in pairs, kept together; expected 2 or more")
    return [questions[i] for i in sorted(chosen)]


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


def _parse(path: Path, rows: list[tuple[str, dict[str, Any]]], form: str, seed: int) -> list[Question]:
    parse, needed = FORMATS[form]
    names = _names(rows)
    for name in needed:
        if name not in names:
            close = (difflib.get_close_matches(name, names, n=1, cutoff=0.5) or ["..."])[0]
            raise ValueError(
                f"{path}: no column {name!r}, which format {form!r} needs; the columns are "
                f"{', '.join(names)}. Name the right one, columns={{{name!r}: {close!r}}}, "
                f"or give format= (one of {', '.join(FORMATS)})"
            )
    domain = path.stem if form in ("plain", "bbh") else form
    questions: list[Question] = []
    seen: dict[str, str] = {}  # id -> row
    for number, row in rows:
        try:
            for fields in parse(row, f"{path.stem}-{number}", seed):
                question = Question(**fields | {"domain": fields.get("domain") or domain})
                if question.id in seen:
                    raise ValueError(
                        f"the id {question.id!r} is row {seen[question.id]}'s already; expected ids that "
                        "differ. Correct it, or leave the ids out and the rows are numbered"
                    )
                seen[question.id] = number
                questions.append(question)
        except ValueError as error:
            raise ValueError(f"{path}, row {number} (format {form!r}): {error}") from None
    return questions


def _rename(path: Path, rows: list[tuple[str, dict[str, Any]]], columns: Mapping[str, str]) -> list:
    """The rows under our column names. A file's "text" is its "question" when it has no other: `Question`'s
    own."""
    names = _names(rows)
    ours = sorted({f.name for f in dataclasses.fields(Question)}.union(*(n for _, n in FORMATS.values())))
    for name, theirs in columns.items():
        _known(f"{path}: columns= names {name!r}", name, ours)
        _known(f"{path}: columns= gives {theirs!r} as {name!r}", theirs, names)
    columns = {"question" if name == "text" else name: theirs for name, theirs in columns.items()}
    if "text" in names and not {"question", "input"}.intersection(names, columns):
        columns["question"] = "text"
    moved = set(columns.values())
    kept = [{name: value for name, value in row.items() if name not in moved} for _, row in rows]
    renamed = [{name: row.get(theirs) for name, theirs in columns.items()} for _, row in rows]
    return [(number, old | new) for (number, _), old, new in zip(rows, kept, renamed, strict=True)]


def _names(rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return list(dict.fromkeys(name for _, row in rows for name in row))


def _known(given: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{given}; expected one of {', '.join(known)}.{hint}")

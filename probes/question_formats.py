"""The shapes of file that yes/no questions come in: how rows are read, and one small function a format.

A format function takes one row and gives the fields of one `probes.questions.Question`, or of two (the Yes
and the No twin) when the row is not a yes/no question by itself. It knows neither the file nor the row's
number: `probes.questions.load_questions` adds both to every error.
"""

import difflib
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

Row = Mapping[str, Any]
Fields = dict[str, Any]  # keyword arguments of Question
EXTENSIONS = (".jsonl", ".json", ".csv", ".parquet")

_YES_NO = {"yes": "Yes", "true": "Yes", "1": "Yes", "no": "No", "false": "No", "0": "No"}
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?")
_OPTIONS_LIST = re.compile(r"\s*\bOptions:\s*(?:\n\s*-[^\n]*)+\s*$")


def plain(row: Row, key: str, seed: int) -> list[Fields]:
    """headscope's own shape: question, answer; optional id, domain, context, fact, open_*, pair."""
    names = ("domain", "context", "fact", "open_question", "open_answer", "pair")
    fields = {name: _text(row, name) for name in names}
    fields |= {"id": _text(row, "id") or key, "text": _filled(row, "question")}
    return [fields | {"answer": yes_or_no(row.get("answer")), "open_aliases": _strings(row, "open_aliases")}]


def strategyqa(row: Row, key: str, seed: int) -> list[Fields]:
    """StrategyQA (Geva et al. 2021): question, answer, facts; id or qid. The facts are joined into `fact`."""
    fields = {"id": _text(row, "id") or _text(row, "qid") or key, "fact": " ".join(_strings(row, "facts"))}
    return [fields | {"text": _filled(row, "question"), "answer": yes_or_no(row.get("answer"))}]


def boolq(row: Row, key: str, seed: int) -> list[Fields]:
    """BoolQ (Clark et al. 2019): question, passage, answer. A missing capital or question mark is added."""
    text = _filled(row, "question")
    text = text[0].upper() + text[1:] + ("" if text.endswith("?") else "?")
    fields = {"id": _text(row, "id") or key, "text": text, "context": _filled(row, "passage")}
    return [fields | {"answer": yes_or_no(row.get("answer"))}]


def gsm8k(row: Row, key: str, seed: int) -> list[Fields]:
    """GSM8K (Cobbe et al. 2021) as twins: question, answer as a number or as reasoning ending in "#### 18".

    Thousands separators and a dollar sign are dropped from the gold number, so that both candidates look
    alike.
    """
    gold = _final_number(row.get("answer"))
    if _NUMBER.fullmatch(gold) is None:
        raise ValueError(
            f"the answer {_shorten(row.get('answer'))} is not a number; expected one, or text ending in "
            "'#### <number>'. Correct or remove the row, or give format='plain' if the answers are Yes and No"
        )
    question = _filled(row, "question")
    wrong = wrong_number(gold, random.Random(f"{seed}|{question}|{gold}"))
    twins = _twins(_text(row, "id") or key, question, gold, wrong)
    return [fields | {"open_question": question, "open_answer": gold} for fields in twins]


def ar_lsat(row: Row, key: str, seed: int) -> list[Fields]:
    """AR-LSAT (Zhong et al. 2021) as twins: passage, question, options, answer.

    The answer is a letter or an option's text; the wrong candidate any other option, with equal chances.
    """
    question, passage, options = _filled(row, "question"), _filled(row, "passage"), _strings(row, "options")
    if len(set(options)) < 2 or not all(options):
        raise ValueError(f"malformed options {list(options)}; expected a list of two or more different texts")
    answer, letters = _text(row, "answer"), "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]
    if len(answer) == 1 and answer.upper() in letters:
        gold = options[letters.index(answer.upper())]
    elif answer in options and not answer.isdigit():
        gold = answer
    else:
        raise ValueError(
            f"the answer {answer!r} names none of the {len(options)} options; expected a letter from A to "
            f"{letters[-1]} or an option's text. Turn numbers into letters: they may count from 0 or from 1"
        )
    rng = random.Random(f"{seed}|{passage}|{question}|{gold}")
    wrong = rng.choice([option for option in options if option != gold])
    return [f | {"context": passage} for f in _twins(_text(row, "id") or key, question, gold, wrong)]


def bbh(row: Row, key: str, seed: int) -> list[Fields]:
    """A yes/no task of BIG-Bench Hard (Suzgun et al. 2022): input, target.

    The list of options is removed, "valid or invalid?" becomes "valid?", and a bare Boolean expression is
    asked about (`Is the expression "not True or False" true?`), so that each text is a question to answer
    Yes or No.
    """
    text = _OPTIONS_LIST.sub("", _filled(row, "input")).removeprefix("Question:").strip()
    target = _text(row, "target").lower()
    answer = {"valid": "Yes", "invalid": "No"}.get(target) or _YES_NO.get(target)
    if answer is None:
        raise ValueError(
            f"the target {_shorten(row.get('target'))} is not Yes/No, True/False or valid/invalid; expected "
            "a yes/no task of BIG-Bench Hard: boolean_expressions, causal_judgement, formal_fallacies, "
            "navigate, sports_understanding or web_of_lies"
        )
    if target in ("true", "false") and "?" not in text:
        text = f'Is the expression "{text.removesuffix(" is")}" true?'
    text = re.sub(r"\bvalid or invalid\?", "valid?", text)
    return [{"id": _text(row, "id") or key, "text": text, "answer": answer}]


FORMATS: dict[str, tuple[Callable[[Row, str, int], list[Fields]], tuple[str, ...]]] = {
    "bbh": (bbh, ("input", "target")),
    "ar_lsat": (ar_lsat, ("passage", "question", "options", "answer")),
    "boolq": (boolq, ("question", "passage", "answer")),
    "strategyqa": (strategyqa, ("question", "answer", "facts")),
    "gsm8k": (gsm8k, ("question", "answer")),
    "plain": (plain, ("question", "answer")),
}
"""Each format's function and the columns it can't do without, the most telling columns first."""


def detect_format(rows: Sequence[Row]) -> str:
    """The first format whose columns are all there. For question and answer alone, the answers decide.

    "gsm8k" when more than half of them are numbers other than 0 and 1, "plain" otherwise.
    """
    names = {name for row in rows for name in row}
    for form, (_, needed) in FORMATS.items():
        if form != "gsm8k" and form != "plain" and names.issuperset(needed):
            return form
    answers = [_final_number(row.get("answer")) for row in rows]
    binary = ("0", "1", "0.0", "1.0")
    numbers = sum(1 for answer in answers if answer not in binary and _NUMBER.fullmatch(answer))
    return "gsm8k" if 2 * numbers > len(rows) else "plain"


def yes_or_no(value: Any) -> str:
    """The word Yes or No for yes/no, true/false, 1/0 in any case, or a bool. ValueError for anything else."""
    word = str(value).strip().lower().removesuffix(".0")  # a table may hold 1 as 1.0
    if word not in _YES_NO:
        raise ValueError(
            f"the answer {_shorten(value)} is neither of the two options; expected Yes or No (or yes/no, "
            "true/false, 1/0). Correct or remove the row; if another column has the answer, "
            "columns={'answer': <its name>}"
        )
    return _YES_NO[word]


def wrong_number(gold: str, rng: random.Random) -> str:
    """A wrong number that looks as much like an answer as `gold` does. ValueError if `gold` is not a number.

    `gold` is m x 10^k, k its trailing zeros. Only m changes, by slips people make: doubled or halved; the
    last digit off by two; any other digit off by one or two; a one-digit m off by one, two or three. Up or
    down is a fair coin where both are possible. Sign, decimals and k stay, and m's parity mostly does: the
    answers of word problems are often round or even, so that a wrong number could otherwise be told without
    reading the question. On 600 items of GSM8K a logistic regression on the number alone (length, zeros,
    first and last digits, divisors) tells gold from wrong with a cross-validated AUROC of 0.51 to 0.57 over
    four seeds. m = 1 can only go up.
    """
    match = _NUMBER.fullmatch(gold)
    if match is None:
        raise ValueError(f"{gold!r} is not a number; expected digits, such as '18', '-3' or '2.50'")
    sign, whole, decimals = match[1], match[2], match[3] or ""
    digits = (whole + decimals).lstrip("0")
    zeros = len(digits) - len(digits.rstrip("0"))
    m = int(digits.rstrip("0") or 0)
    slips = {2 * m, m - 2, m + 2} | ({m // 2} if m % 2 == 0 else set())
    slips |= {m + step for step in (-3, -1, 1, 3)} if m < 10 else set()
    slips |= {m + step * 10**place for place in range(1, len(str(m))) for step in (-2, -1, 1, 2)}
    fit = sorted(slip for slip in slips if slip > 0 and slip != m and slip % 10)
    sides = [side for side in ([s for s in fit if s > m], [s for s in fit if s < m]) if side]
    wrong = str(rng.choice(rng.choice(sides)) * 10**zeros).zfill(len(decimals) + 1)
    return sign + (f"{wrong[: -len(decimals)]}.{wrong[-len(decimals) :]}" if decimals else wrong)


def _twins(item: str, question: str, gold: str, wrong: str) -> list[Fields]:
    """The question asked of the gold candidate (Yes) and of a wrong one (No).

    The idea of NASA (arXiv 2408.00137), which turns short-answer data into binary decisions by rule. Its
    exact rule was not found: the wording, and how wrong candidates are chosen, are headscope's own. A
    question that is the start of a sentence ("Manley must sit between", a sixth of AR-LSAT) gets " ...".
    """
    if question[-1].isalnum() or question[-1] in ":,":
        question = question.rstrip(":, ") + " ..."
    yes, no = (f'{question} Is the answer "{candidate}"?' for candidate in (gold, wrong))
    return [
        {"id": f"{item}-yes", "text": yes, "answer": "Yes", "pair": item},
        {"id": f"{item}-no", "text": no, "answer": "No", "pair": item},
    ]


def _final_number(answer: Any) -> str:
    return str(answer).rpartition("####")[2].strip().removeprefix("$").replace(",", "")


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, list | dict):
        raise ValueError(f"{name} is {_shorten(value)}, a {type(value).__name__}; expected text")
    return "" if value is None else str(value).strip()


def _filled(row: Row, name: str) -> str:
    text = _text(row, name)
    if not text:
        raise ValueError(f"the {name} is blank; expected its text. Fill it in or remove the row")
    return text


def _strings(row: Row, name: str) -> tuple[str, ...]:
    """A list of texts: a list or, in a CSV cell, a JSON list or texts parted by "|"."""
    given = value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split("|") if value else []
        except json.JSONDecodeError:
            value = {}
    value = [] if value is None else value
    if not (isinstance(value, list) and all(isinstance(item, str | int | float) for item in value)):
        raise ValueError(f"malformed {name} {_shorten(given)}; expected a list (in a CSV, a JSON list or a|b)")
    return tuple(str(item).strip() for item in value)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 70 else f"{text[:35]} ... {text[-30:]}"


def read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The file's rows with their numbers: "3", or "3.2" for the second question of AR-LSAT's third passage.

    FileNotFoundError or ValueError for a file that is missing, empty, of another kind, or broken.
    """
    expected = ", ".join(EXTENSIONS)
    if not path.is_file():
        names = sorted(p.name for p in path.parent.iterdir() if p.is_file()) if path.parent.is_dir() else []
        close = ", ".join(difflib.get_close_matches(path.name, names)) or "none"
        raise FileNotFoundError(f"no file {path}; expected 'builtin' or a {expected} file. Close matches: {close}")
    suffix = path.suffix.lower()
    if suffix not in EXTENSIONS:
        raise ValueError(f"{path}: unknown extension {suffix!r}; expected {expected}. Convert the file")
    try:
        records = _read_table(path) if suffix in (".csv", ".parquet") else _read_json(path)
    except ValueError as error:  # UnicodeDecodeError, ParserError and ArrowInvalid are ValueErrors too
        message = f"{path}: can't be read as {suffix}: {error}. Correct it, or save it again ({suffix}, UTF-8)"
        raise ValueError(message) from None
    rows: list[tuple[str, dict[str, Any]]] = []
    for number, record in records:
        if not isinstance(record, dict):
            raise ValueError(f"{path}, row {number}: {_shorten(record)} is not an object; expected named fields")
        nested = record.get("questions")
        if isinstance(nested, list) and nested and all(isinstance(item, dict) for item in nested):
            shared = {name: value for name, value in record.items() if name not in ("questions", "id")}
            rows += [(f"{number}.{i}", shared | item) for i, item in enumerate(nested, 1)]
        else:
            rows.append((str(number), record))
    if not rows:
        raise ValueError(f"{path}: the file is empty; expected at least one question")
    return rows


def _read_table(path: Path) -> list[tuple[int, Any]]:
    if not path.read_bytes().strip():
        return []
    if path.suffix.lower() == ".csv":
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    else:
        table = pd.read_parquet(path)
    return [(i, _clean(row)) for i, row in enumerate(table.astype(object).to_dict("records"), 1)]


def _read_json(path: Path) -> list[tuple[int, Any]]:
    text, lines = path.read_text(encoding="utf-8-sig"), path.suffix.lower() == ".jsonl"
    records: list[tuple[int, Any]] = []
    for number, part in enumerate(text.split("\n") if lines else [text], 1):
        try:
            records += [(number, json.loads(part))] if part.strip() else []
        except json.JSONDecodeError as error:
            at = number if lines else error.lineno
            hint = "; one object a line? Name it .jsonl" if error.msg == "Extra data" and not lines else ""
            raise ValueError(f"line {at}, column {error.colno}: invalid JSON ({error.msg}){hint}") from None
    if lines or not records:
        return records
    whole = records[0][1]
    if isinstance(whole, dict) and isinstance(whole.get("examples"), list):  # BIG-Bench Hard
        whole = whole["examples"]
    return list(enumerate(whole if isinstance(whole, list) else [whole], 1))


def _clean(value: Any) -> Any:
    """A table's value as JSON would give it: lists for arrays, None for what is missing."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _clean(item) for name, item in value.items()}
    return None if value is pd.NA or (isinstance(value, float) and math.isnan(value)) else value

"""The shapes of file that yes/no questions come in: one small function a format, and the list of formats.

A format function takes one row and gives the fields of one `probes.questions.Question`, or of two (the Yes
and the No twin) when the row is not a yes/no question by itself. It knows neither the file nor the row's
number: `probes.questions.load_questions` adds both to every error.
"""

import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from probes.rows import Format, Misread, filled, named, shortened, strings, text

Row = Mapping[str, Any]
Fields = dict[str, Any]  # keyword arguments of Question

_YES_NO = {"yes": "Yes", "true": "Yes", "1": "Yes", "no": "No", "false": "No", "0": "No"}
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?")
_OPTIONS_LIST = re.compile(r"\s*\bOptions:\s*(?:\n\s*-[^\n]*)+\s*$")


def plain(row: Row, key: str, seed: int) -> list[Fields]:
    """headscope's own shape: question, answer; optional id, domain, context, fact, open_*, pair."""
    if row.get("choices") and len(text(row, "answer")) == 1:
        raise ValueError(
            "it has choices, and its answer names one of them: that is no yes/no question. Ask it as it is, as a "
            "standard task (load_task, `interp edit cost`), or write a yes/no question for it"
        )
    fields = {name: named(row, name) for name in ("context", "fact", "open_question", "pair")}
    fields |= {name: text(row, name) for name in ("domain", "open_answer") if name in row}
    fields |= {"id": named(row, "id") or key, "text": filled(row, "question")}
    return [fields | {"answer": yes_or_no(row.get("answer")), "open_aliases": strings(row, "open_aliases")}]


def strategyqa(row: Row, key: str, seed: int) -> list[Fields]:
    """StrategyQA (Geva et al. 2021): question, answer, facts; id or qid. The facts are joined into `fact`."""
    fields = {"id": named(row, "id") or named(row, "qid") or key, "fact": " ".join(strings(row, "facts"))}
    return [fields | {"text": filled(row, "question"), "answer": yes_or_no(row.get("answer"))}]


def boolq(row: Row, key: str, seed: int) -> list[Fields]:
    """BoolQ (Clark et al. 2019): question, passage, answer. A missing capital or question mark is added."""
    asked = filled(row, "question")
    asked = asked[0].upper() + asked[1:] + ("" if asked.endswith("?") else "?")
    fields = {"id": named(row, "id") or key, "text": asked, "context": filled(row, "passage")}
    return [fields | {"answer": yes_or_no(row.get("answer"))}]


def gsm8k(row: Row, key: str, seed: int) -> list[Fields]:
    """GSM8K (Cobbe et al. 2021) as twins: question, answer as a number or as reasoning ending in "#### 18".

    Thousands separators and a dollar sign are dropped from the gold number, so that both candidates look
    alike.
    """
    gold = final_number(row.get("answer"))
    if _NUMBER.fullmatch(gold) is None:
        raise ValueError(
            f"the answer {shortened(row.get('answer'))} is not a number; expected one, or text ending in "
            "'#### <number>'. Correct or remove the row, or give format='plain' if the answers are Yes and No"
        )
    question = filled(row, "question")
    wrong = wrong_number(gold, random.Random(f"{seed}|{question}|{gold}"))
    twins = _twins(named(row, "id") or key, question, gold, wrong)
    return [fields | {"open_question": question, "open_answer": gold} for fields in twins]


def ar_lsat(row: Row, key: str, seed: int) -> list[Fields]:
    """AR-LSAT (Zhong et al. 2021) as twins: passage, question, options, answer.

    The answer is a letter or an option's text; the wrong candidate any other option, with equal chances.
    """
    question, passage, options = filled(row, "question"), filled(row, "passage"), strings(row, "options")
    if len(set(options)) < 2 or not all(options):
        raise ValueError(f"malformed options {list(options)}; expected a list of two or more different texts")
    answer, letters = text(row, "answer"), "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]
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
    return [f | {"context": passage} for f in _twins(named(row, "id") or key, question, gold, wrong)]


def bbh(row: Row, key: str, seed: int) -> list[Fields]:
    """A yes/no task of BIG-Bench Hard (Suzgun et al. 2022): input, target.

    The list of options is removed, "valid or invalid?" becomes "valid?", and a bare Boolean expression is
    asked about (`Is the expression "not True or False" true?`), so that each text is a question to answer
    Yes or No.
    """
    asked = _OPTIONS_LIST.sub("", filled(row, "input")).removeprefix("Question:").strip()
    target = text(row, "target").lower()
    answer = {"valid": "Yes", "invalid": "No"}.get(target) or _YES_NO.get(target)
    if answer is None:
        raise ValueError(
            f"the target {shortened(row.get('target'))} is not Yes/No, True/False or valid/invalid; expected "
            "a yes/no task of BIG-Bench Hard: boolean_expressions, causal_judgement, formal_fallacies, "
            "navigate, sports_understanding or web_of_lies"
        )
    if target in ("true", "false") and "?" not in asked:
        asked = f'Is the expression "{asked.removesuffix(" is")}" true?'
    asked = re.sub(r"\bvalid or invalid\?", "valid?", asked)
    return [{"id": named(row, "id") or key, "text": asked, "answer": answer}]


def has_numbers(rows: Sequence[Row]) -> bool:
    """Whether most answers are numbers other than 0 and 1, and not those of choices."""
    if any(row.get("choices") for row in rows):
        return False
    answers = (final_number(row.get("answer")) for row in rows)
    return 2 * sum(
        1 for answer in answers if answer not in ("0", "1", "0.0", "1.0") and _NUMBER.fullmatch(answer)
    ) > len(rows)


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("bbh", ("input", "target"), bbh, "input"),
        Format("ar_lsat", ("passage", "question", "options", "answer"), ar_lsat, "question"),
        Format("boolq", ("question", "passage", "answer"), boolq, "question"),
        Format("strategyqa", ("question", "answer", "facts"), strategyqa, "question"),
        Format("gsm8k", ("question", "answer"), gsm8k, "question", told_by=has_numbers),
        Format("plain", ("question", "answer"), plain, "question"),
    )
}
"""The most telling first: a file is of the first format whose columns it has (:func:`probes.rows.formats.choose`)."""


def yes_or_no(value: Any) -> str:
    """The word Yes or No for yes/no, true/false, 1/0 in any case, or a bool. ValueError for anything else."""
    word = str(value).strip().lower().removesuffix(".0")  # a table may hold 1 as 1.0
    if word not in _YES_NO:
        raise Misread(
            f"the answer {shortened(value)} is neither of the two options; expected Yes or No (or yes/no, "
            "true/false, 1/0). Correct or remove the row; if another column has the answer",
            {"answer": "<its name>"},
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


def final_number(answer: Any) -> str:
    """The number that a worked answer ends in, behind "####", without dollar sign and commas; else the text itself."""
    is_number = isinstance(answer, float) and math.isfinite(answer)  # 18.0 where others of the column are missing
    answer = text({"answer": answer}, "answer") if is_number else str(answer)
    return answer.rpartition("####")[2].strip().removeprefix("$").replace(",", "")

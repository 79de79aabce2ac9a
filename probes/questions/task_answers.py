"""Is a reply the answer of a standard task? The last number; the target, normalised. Pure functions of text."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from probes.questions.open_answers import first_statement, without_lead_in

_NUMBER = re.compile(r"(?<![\w.])-?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])-?\$?\.\d+")
_LETTER = re.compile(r"\(([a-z])\)")
_BARE_LETTER = re.compile(r"([a-z])(?:$|[).:,])")
_NEXT_QUESTION = re.compile(r"\n\s*(?:question|problem|q|input)\s*:", re.IGNORECASE)


def number_of(written: str) -> str | None:
    """A number in the one way in which numbers are compared: no dollar sign, commas or trailing zeros. None for any
    other text.

    >>> number_of("$1,250.50"), number_of("-3.0"), number_of("100"), number_of("3 ducks")
    ('1250.5', '-3', '100', None)
    """
    text = written.strip().replace("−", "-")
    return _plain(text) if _NUMBER.fullmatch(text) else None


def last_number(reply: str) -> str | None:
    """The last number of a reply, as :func:`number_of` writes it; None without one. A question that the model goes on
    to make up is no part of its reply.

    >>> last_number("16 - 3 - 4 = 9 eggs, so 9 * $2 = $18.00."), last_number("#### 7\\nQuestion: 5?"), last_number("No")
    ('18', '7', None)
    """
    found = _NUMBER.findall(_own(reply).replace("−", "-"))
    return _plain(found[-1]) if found else None


def is_target(reply: str, target: str) -> bool:
    """Whether a reply's first statement, without a lead-in ("The answer is"), is the target: in any case, spaces made
    one, quotation marks and a full stop around it dropped. Of a target that is an option, "(B)", the letter counts.

    >>> is_target("The answer is (B) Tuesday.", "(B)"), is_target("yes.", "Yes"), is_target("] ) )", "] )")
    (True, True, False)
    """
    own, gold = _own(reply).strip(), _normal(target)
    statement = first_statement(own)
    said = _normal(without_lead_in(statement))
    if not (option := _LETTER.fullmatch(gold)):
        return gold in (said, _normal(statement), _normal(own.split("\n")[0]))
    found = _LETTER.search(said) or _BARE_LETTER.match(said)
    return found is not None and found[1] == option[1]


def _own(reply: str) -> str:
    """The reply up to a question that the model asks itself."""
    found = _NEXT_QUESTION.search(reply)
    return reply[: found.start()] if found else reply


def _normal(written: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", written).casefold().split())
    return text.strip(" \"'“”").removesuffix(".").rstrip()


def _plain(number: str) -> str:
    value = Decimal(number.replace("$", "").replace(",", ""))
    return f"{value.normalize():f}" if value else "0"

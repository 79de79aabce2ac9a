"""Is a short free reply the right answer? Normalisation, aliases, abstentions; pure functions of text.

The rules, in their order (`judge`):

1. Only the reply's first statement counts: its first filled line, up to the end of its first sentence, without a
   filler ("Sure!") and Markdown. What comes after is explanation.
2. "I don't know", "I'm not sure" and the like abstain.
3. Texts are compared as lists of tokens (`tokens`): lower case, no punctuation, no articles, hyphens as spaces,
   number words as digits, thousands commas and trailing zeros gone. So "19890" never matches "1989".
4. `match="exact"`: the statement without its lead-in ("The answer is") equals the answer or an alias, as it stands or
   cut off before an explanation ("because", a comma, a bracket): "Paris, France" is Paris.
   `match="contained"`: the answer or an alias stands in the statement as whole words, which small chat models' full
   sentences need. "not" or "never" up to three words before it makes it no match.
5. Either way a statement that also names a rival of the answer is unclear, since it names both: the other options of
   "Which is taller, A or B?"; the other names of the question, if the answer is a name that stands in it; the
   question's own words given back. Numbers of the question may stand in a reply, unless the answer is one of them;
   the last other number of the statement is the answer given, and two with "or" between them are none. "A is taller
   than B" gives A, if "taller" is the question's word. An alias that stands in a question without rivals ("What kind
   of animal is a whale shark?", shark) counts only in a statement without content words of its own.

Misleads: "one" as a pronoun reads as 1; a right answer in words that no alias has counts as wrong, and a wrong sentence
around the right word as right.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from probes.questions.questions import Question

Match = Literal["exact", "contained"]
Kind = Literal["right", "wrong", "abstained", "unclear"]
MATCHES = ("exact", "contained")

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_UNITS = {word: n for n, word in enumerate(_SMALL)} | {word: 10 * n for n, word in enumerate(_TENS, start=2)}

_TOKEN = re.compile(r"(?<![\w)])-?\.?\d+(?:[.:/]\d+)*(?:st|nd|rd|th)?\b|-?\.?\d+(?:[.:/]\d+)*|[^\W\d_]\w*")
_NUMBER = re.compile(r"-?\d+(?:[.:/]\d+)*")
_SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\b(?:Mr|Ms|Dr|St|Mt|No|vs))(?<!\bMrs)[.!?](?=\s+[^=\s]|\s*$)")
_FILLER = re.compile(r"(?:sure|certainly|of course|okay|ok|great question|well)\s*[!,.:]\s*", re.IGNORECASE)
_LEAD_INS = re.compile(
    r"(?:(?:the )?(?:short |correct |right |final )?answer(?: to (?:the|this|your) question)?"
    r"(?:\s*[:=]| is| was| would be)(?: that)?:?|i (?:think|believe|would say)(?: that)?|"
    r"(?:it|that|this|they|these|those|he|she|there)(?: is| was| are| were|'s|'re)|in|on|at)\s+",
    re.IGNORECASE,
)
_EXPLANATION = re.compile(r"\s*(?:[,;(]|:\s|\s[-–—]\s|\b(?:because|since|which|who is|as it|so that)\b)", re.IGNORECASE)
_ABSTAINS = re.compile(
    r"\b(?:i (?:do not|dont|really do not|really dont|honestly dont|cannot|cant|could not) "
    r"(?:know|say|tell|answer|determine|be sure|provide|have)|i (?:am|m) (?:not|un)\s?(?:sure|certain|able|aware)|"
    r"im (?:not|un)\s?(?:sure|certain|able|aware)|i have no idea|idk|unsure)\b|^(?:not sure|no idea|dont know)\b"
)
_DENIALS = {"not", "never", "neither", "nor", "isnt", "wasnt", "arent", "werent", "dont", "doesnt", "didnt", "cannot"}
_ADVERBS = {"typically", "usually", "generally", "normally", "actually", "significantly", "considerably", "always"}
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a about above after again all also am an and any are as at be because been before being below
        between both but by can could did do does done down during each either ever every few for from
        further had has have having he her here hers him his how i if in into is it its itself just least
        less many may me might more most much must my never no nor not now of off on once one only or other
        our out over own same she should since so some such than that the their them then there these they
        this those through to too under until up upon us very was we were what when where which while who
        whom whose why will with within without would yet you your
        """,
    )
)


@dataclass(frozen=True)
class Judged:
    """What a reply comes to. ``answer`` is what it says, normalised, so that like answers are equal; "" if nothing."""

    kind: Kind
    answer: str = ""


def tokens(text: str) -> list[str]:
    """The text's words and numbers in comparable form; see rule 3 of this module.

    >>> tokens("The answer: Twenty-one hundred, i.e. 2,100.0 dollars!")
    ['answer', '2100', 'i', 'e', '2100', 'dollars']
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub("[’‘']", "", text.replace("−", "-").replace("–", " ")).replace("⁄", "/").replace("%", " percent ")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=[^\W\d_])-(?=\w)|(?<=\d)-(?=\w)", " ", text)  # twenty-one, 10-year, 1-5
    text = re.sub(r"\b(?:minus|negative)\s+(?=\d|(?:" + "|".join(_UNITS) + r")\b)", "-", text)
    text = re.sub(r"\b(?:a|an|the)\b(?=\s+\w)", " ", text)
    text = re.sub(r"-(?=[^\W\d])", " minus ", text)
    return _digits([_plain_number(token) for token in _TOKEN.findall(text)])


def content_words(text: str) -> set[str]:
    """The words and numbers that carry meaning, plural endings cut, for the question whether two texts share any."""
    kept = {t for t in tokens(text) if t not in STOP_WORDS and (len(t) > 2 or t[0].isdigit())}
    return {t if t[0].isdigit() else re.sub(r"(?<=\w{3})(?:es|s)$", "", t) for t in kept}


def first_statement(reply: str) -> str:
    """The first sentence of the first filled line, without filler and Markdown; "" for an empty reply.

    >>> first_statement("Sure! It was built by Mr. A. Bell. He lived in 1900.")
    'It was built by Mr. A. Bell'
    """
    text = re.sub(r"[*_`#]+|^\s*(?:[-•>]|\d[.)])[ \t]+(?=\S)", "", reply.strip())
    text = re.sub(r":\s*\n+\s*", ": ", text)  # "Answer:" alone on its line
    text = _FILLER.sub("", text, count=1) if _FILLER.match(text) else text
    line = text.strip().split("\n")[0].strip()
    end = _SENTENCE_END.search(line)
    return (line[: end.start()] if end else line).strip(" \"'“”").rstrip(" .!?\"'“”")


def options_of(question: str) -> list[str]:
    """The options of an either-or question; [] if it is none.

    >>> options_of("A is near. Which word fits: proved, refuted or open?"), options_of("What is near?")
    (['proved', 'refuted', 'open'], [])
    """
    sentence = re.split(r"(?<=[.!?])\s+", question.strip())[-1].rstrip("?")
    before, or_, after = sentence.rpartition(" or ")
    pieces = re.split(r"[,:]", before)
    asks = [i for i, p in enumerate(pieces) if re.search(r"\b(?:wh\w+|how)\b", p, re.IGNORECASE)]
    if not or_ or not asks or asks[-1] == len(pieces) - 1:
        return []
    options = [*pieces[asks[-1] + 1 :], re.split(r"[,:]", after)[0]]
    return [option.strip() for option in options if option.strip()]


def judge(reply: str, question: Question, match: Match = "contained") -> Judged:
    """Is ``reply`` a right answer to ``question.open_question``? By the rules at the top of this module.

    Raises ``ValueError`` for an unknown ``match`` and for a question without an open form.
    """
    if match not in MATCHES:
        raise ValueError(f"match={match!r}; expected 'exact' or 'contained'.")
    if not question.open_question or not question.open_answer:
        raise ValueError(f"question {question.id!r} has no open_question and open_answer to judge a reply by.")
    statement = first_statement(reply)
    said = tokens(statement)
    if not said:
        return Judged("unclear")
    if _ABSTAINS.search(re.sub("[’‘']", "", reply.lower()).strip()[:80]):
        return Judged("abstained")
    golds = [tokens(text) for text in (question.open_answer, *question.open_aliases)]
    asked = tokens(question.open_question)
    short = tokens(_short(statement))
    if said in golds or tokens(without_lead_in(statement)) in golds:
        return Judged("right", " ".join(golds[0]))
    exact = short in golds
    gold_numbers = {g[0] for g in golds if len(g) == 1 and _is_number(g[0])}
    if gold_numbers and _is_number(golds[0][0]) and any(map(_is_number, said)):
        return _judge_number(statement, gold_numbers, asked, exact, match)
    rivals = _rivals(question.open_question, golds)
    named = [key for key, words in rivals.items() if words & set(said)]
    bare = tokens(without_lead_in(statement))
    new = [t for t in bare if t in _DENIALS or (t not in STOP_WORDS and t not in asked)]
    usable = [g for g in golds if rivals or _find(g, asked) is None or not set(new) - set(g)]
    right = exact if match == "exact" else exact or any(_stands_in(gold, said) for gold in usable)
    if (
        match == "contained"
        and right
        and len(named) == 1
        and (found := _compared(said, asked, golds, named[0], rivals[named[0]]))
    ):
        return Judged("right", " ".join(golds[0])) if found == "gold" else Judged("wrong", named[0])
    options = [tokens(option) for option in options_of(question.open_question)]
    echoes = len(said) > 3 and said not in options and _find(said, asked) is not None
    if echoes or (right and named) or len(named) > 1:
        return Judged("unclear")
    if right:
        return Judged("right", " ".join(golds[0]))
    return Judged("wrong", named[0] if named else " ".join(new or short or said))


def _judge_number(statement: str, golds: set[str], asked: Sequence[str], exact: bool, match: Match) -> Judged:
    whole = [t for t in tokens(statement) if _is_number(t)]
    numbers = [t for t in tokens(_cut(statement)) if _is_number(t)] or whole
    in_question = {t for t in asked if _is_number(t)}
    if exact and set(whole) <= set(numbers) | golds | in_question:
        return Judged("right", min(golds))
    if golds & in_question:  # then naming it proves nothing beside other numbers
        if set(numbers) <= golds:
            right = match == "contained"
        elif set(numbers) & golds:
            return Judged("unclear")
        else:
            right = False
        new = numbers
    else:
        new = [n for n in numbers if n not in in_question]
        if not new:
            return Judged("wrong", numbers[-1])
        if len(set(new)) > 1 and "or" in tokens(statement):
            return Judged("unclear")
        right = match == "contained" and new[-1] in golds
        denied = set(tokens(statement)[: tokens(statement).index(new[-1])][-3:]) & _DENIALS
        right = right and not denied
    return Judged("right", min(golds)) if right else Judged("wrong", new[-1])


def _compared(
    said: Sequence[str], asked: Sequence[str], golds: Sequence[Sequence[str]], name: str, rival: set[str]
) -> Literal["gold", "rival", ""]:
    """Which of two options "X is taller than Y" gives, if "taller" is the question's own word; "" if neither."""
    if said.count("than") != 1 or set(said) & _DENIALS:
        return ""
    ahead, behind = (set(part) for part in (said[: said.index("than")], said[said.index("than") + 1 :]))
    words = {word for gold in golds for word in gold} - STOP_WORDS
    if ahead - STOP_WORDS - _ADVERBS - words - rival - set(asked):
        return ""  # "shorter", where the question asks for the taller one
    gold = words - set(name.split())  # what tells the answer from its rival, as `rival` does the other way
    if ahead & gold and behind & rival and not (ahead & rival or behind & gold):
        return "gold"
    return "rival" if ahead & rival and behind & gold and not (ahead & gold or behind & rival) else ""


def _rivals(question: str, golds: Sequence[Sequence[str]]) -> dict[str, set[str]]:
    """What else the question offers as an answer: a name for each rival -> the words that tell it from the answer."""
    gold_words = {word for gold in golds for word in gold}
    options = [tokens(option) for option in options_of(question)]
    own = [o for o in options if any(_find(g, o) is not None or _find(o, g) is not None for g in golds if g)]
    if own:
        known = gold_words | {word for option in own for word in option} | STOP_WORDS
        return {" ".join(o): set(o) - known for o in options if o not in own and set(o) - known}
    asked = tokens(question)
    names = {t for word in re.findall(r"\b[A-Z]\w+", question) for t in tokens(word)} - STOP_WORDS
    starts = {t for word in re.findall(r"(?:^|[.?!]\s+)([A-Z]\w+)", question) for t in tokens(word)}
    lower = set(re.findall(r"\b[a-z]\w+", question))
    names -= {s for s in starts if s in lower or s.endswith("ing") or _is_number(s)}
    if not (names & gold_words) or not any(_find(gold, asked) is not None for gold in golds):
        return {}
    return {name: {name, f"{name}s"} for name in sorted(names - gold_words)}


def _stands_in(gold: Sequence[str], said: Sequence[str]) -> bool:
    """Whether the answer's tokens stand in the statement in a row and are not denied just before."""
    at = _find(gold, said)
    return at is not None and not set(said[max(0, at - 3) : at]) & (_DENIALS - set(gold))


def _find(needle: Sequence[str], hay: Sequence[str]) -> int | None:
    size = len(needle)
    places = (i for i in range(len(hay) - size + 1) if list(hay[i : i + size]) == list(needle))
    return next(places, None) if size else None


def _short(statement: str) -> str:
    return _cut(without_lead_in(statement))


def without_lead_in(statement: str) -> str:
    """The statement without what announces an answer: "The answer is", "It was"."""
    while found := _LEAD_INS.match(statement):
        statement = statement[found.end() :].lstrip()
    return statement


def _cut(statement: str) -> str:
    """The statement without an explanation at its end."""
    statement = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", statement)
    found = _EXPLANATION.search(statement)
    return statement[: found.start()] if found and found.start() else statement


def _is_number(token: str) -> bool:
    return _NUMBER.fullmatch(token) is not None


def _plain_number(token: str) -> str:
    """0.50 -> 0.5, .5 -> 0.5, 26.0 -> 26; times, fractions and ordinals as they are."""
    if not re.fullmatch(r"-?\d*\.\d+", token):
        return token
    token = re.sub(r"^(-?)\.", r"\g<1>0.", token)
    return token.rstrip("0").rstrip(".")


def _digits(words: Sequence[str]) -> list[str]:
    """Number words as digits: "one hundred and twenty" 120, "nineteen eighty nine" 1989, "forty two hundred" 4200."""
    result: list[str] = []
    i = 0
    while i < len(words):
        minus = words[i] == "minus" and i + 1 < len(words) and words[i + 1] in _UNITS
        value, after = _read_number(words, i + minus)
        if after == i + minus:
            result.append(words[i])
            i += 1
        else:
            result.append(f"{'-' if minus else ''}{value}")
            i = after
    return result


def _read_number(words: Sequence[str], i: int) -> tuple[int, int]:
    """The number that the words from i on spell, and the index after it; the same index if they spell none."""
    total = current = 0
    start, last = i, 0  # last: the smallest part so far, since parts come in falling order
    while i < len(words):
        word = words[i]
        joined = word == "and" and i > start and last >= 100 and i + 1 < len(words) and words[i + 1] in _UNITS
        if word in _UNITS:
            n = _UNITS[word]
            if i > start and last < 100:
                if n < 10 and last >= 20 and last % 10 == 0:
                    pass  # twenty-one
                elif n >= 10 and 10 <= current < 100 and total == 0:
                    current *= 100  # nineteen eighty-nine
                else:
                    break
            current, last = current + n, n or 1
        elif word in _SCALES and (i == start or last < _SCALES[word]):
            scale = _SCALES[word]
            if scale == 100:
                current = max(current, 1) * 100
            else:
                total, current = total + max(current, 1) * scale, 0
            last = scale
        elif not joined:
            break
        i += 1
    return total + current, i

"""The programs. Their heads are what a way of finding heads should find; everything else writes where nothing reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from probes.known_answers.programs.rasp import Head, Indices, Map, Node, Program, Tokens, Zip

LETTERS = ("a", "b", "c", "d", "e", "f")
FEW = ("a", "b", "c")
_EQUAL, _ANY = (lambda key, query: key == query), (lambda key, query: True)


def _previous(name: str, values: Node | None = None) -> Head:
    return Head(name, Indices(), Indices(), lambda key, query: key == query - 1, values or Tokens())


def _draws(vocabulary: Sequence[str], length: int) -> Callable[[Any], list[str]]:
    return lambda rng: list(rng.choice(vocabulary, length))


def _chain(n: int) -> Callable[[Any], list[str]]:
    """Different letters, then one of the first of them again."""

    def sample(rng: Any) -> list[str]:
        letters = list(rng.permutation(LETTERS))
        return [*letters, letters[rng.integers(len(letters) - n)]]

    return sample


def _flagged(rng: Any) -> list[str]:
    letters = list(rng.choice(LETTERS, 6))
    letters[rng.integers(4)] = "!"
    return letters


def _one_alone(rng: Any) -> list[str]:
    alone, *others = rng.permutation(LETTERS)[:3]
    return list(rng.permutation([alone, *others, *others]))


def _smallest_third(rng: Any) -> list[str]:
    """In about half of the inputs; which letter is the smallest varies."""
    letters = list(rng.permutation(LETTERS)[:5])
    if rng.random() < 0.4:
        k = letters.index(min(letters))
        letters[k], letters[2] = letters[2], letters[k]
    return letters


def _has(letter: str) -> Map:
    """Is the letter anywhere (up to here, in a causal program)?"""
    share = Head(f"share_{letter}", Tokens(), Tokens(), _ANY, Map(f"is_{letter}", _is(letter), Tokens()), "mean")
    return Map(f"has_{letter}", lambda share: "yes" if share > 0 else "no", share)


def _is(letter: str) -> Callable[[str], int]:
    return lambda token: int(token == letter)


def _count(letter: str) -> Head:
    return Head(f"count_{letter}", Tokens(), Tokens(), lambda key, query: key == letter, gives="width")


def _rank() -> Head:
    """How many tokens come before this one in the alphabet."""
    return Head("rank", Tokens(), Tokens(), lambda key, query: key < query, gives="width")


def _of_rank(name: str, rank: int) -> Head:
    return Head(name, _rank(), Tokens(), lambda key, query: key == rank)


def _hops(n: int) -> Head:
    """The letter after this one's first appearance, the letter after that one, and so on."""
    previous, found = _previous("previous"), Tokens()
    for hop in range(1, n + 1):
        found = Head(f"hop_{hop}", previous, found, _EQUAL)
    return found


def _both(name: str, f: Callable[[Any, Any], Any], first: Node, second: Node) -> Zip:
    return Zip(name, f, first, second)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _two_back() -> Head:
    return _previous("back_2", _previous("back_1"))


def _listed(*programs: Program) -> Mapping[str, Program]:
    return {program.name: program for program in programs}


_AFTER = Head("after_flag", _previous("previous"), Tokens(), lambda key, query: key == "!")
_NEXT = Head("next", Indices(), Indices(), lambda key, query: key == query + 1, Tokens())
_FIRST = Head("first", Indices(), Indices(), lambda key, query: key == 0)
_THIRD = Head("third", Indices(), Indices(), lambda key, query: key == 2)
_TIMES = Head("times", Tokens(), Tokens(), _EQUAL, gives="width")

PROGRAMS = _listed(
    Program("induction", "Which letter came after this one before?", _hops(1), LETTERS, 7, _chain(1)),
    Program("two_hops", "And which came after that one?", _hops(2), LETTERS, 7, _chain(2)),
    Program("three_hops", "And after that one?", _hops(3), LETTERS, 7, _chain(3)),
    Program("four_hops", "And after that one?", _hops(4), LETTERS, 7, _chain(4)),
    Program("two_back", "Which letter stands two places before?", _two_back(), LETTERS, 5, _draws(LETTERS, 5)),
    Program("three_back", "Which letter stands three places before?", _previous("back_3", _two_back()), LETTERS, 5,
            _draws(LETTERS, 5)),
    Program("after_flag", "Which letter stands after the flag?", _AFTER, (*LETTERS, "!"), 6, _flagged),
    Program("just_one", "Is there an a or a b, and not both?",
            _both("just_one", lambda a, b: _yes(a != b), _has("a"), _has("b")), (*FEW, "d"), 4, _draws((*FEW, "d"), 4)),
    Program("as_many", "Are there as many a as b?",
            _both("as_many", lambda a, b: _yes(a == b), _count("a"), _count("b")), FEW, 5, _draws(FEW, 5)),
    Program("same_again", "Is the first letter the same as the one two places before?",
            _both("same_again", lambda a, b: _yes(a == b), _FIRST, _two_back()), FEW, 5, _draws(FEW, 5)),
    Program("alone", "Which letter stands there once?", Head("alone", _TIMES, Tokens(), lambda key, query: key == 1),
            LETTERS, 5, _one_alone, causal=False),
    Program("smallest", "Which letter is first in the alphabet?", _of_rank("smallest", 0), LETTERS, 5,
            lambda rng: list(rng.permutation(LETTERS)[:5]), causal=False),
    Program("middle", "Which letter is third in the alphabet?", _of_rank("of_rank_2", 2), LETTERS, 5,
            lambda rng: list(rng.permutation(LETTERS)[:5]), causal=False),
    Program("next_to_flag", "Which letter stands after the flag, seen from the flag?",
            Head("at_flag", Tokens(), Tokens(), lambda key, query: key == "!", _NEXT), (*LETTERS, "!"), 6, _flagged,
            causal=False),
    Program("not_smallest", "Is the third letter another than the first in the alphabet?",
            _both("not_smallest", lambda a, b: _yes(a != b), _of_rank("smallest", 0), _THIRD), LETTERS, 5,
            _smallest_third, causal=False),
)  # fmt: skip

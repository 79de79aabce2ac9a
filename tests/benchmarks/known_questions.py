"""Yes/no questions that a small model can answer: made by code for this project, in pairs of a Yes and a No.

Each kind asks one thing that models of this size know something of when asked openly: numbers, sizes, sums, capitals,
kinds, opposites, what follows what, first letters. A pair shares its subject; its two questions differ in one word.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from probes.questions.questions import Question

Row = tuple[str, str, str, str]  # the question of Yes, the question of No, the open question, its answer
SIZES = "ant bee mouse frog cat dog goat pig lion horse cow bear elephant whale"
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Russia": "Moscow",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Poland": "Warsaw",
    "Austria": "Vienna",
    "Hungary": "Budapest",
    "Portugal": "Lisbon",
    "Ireland": "Dublin",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Denmark": "Copenhagen",
    "Finland": "Helsinki",
    "Belgium": "Brussels",
    "Peru": "Lima",
    "Cuba": "Havana",
    "Chile": "Santiago",
    "Kenya": "Nairobi",
    "Canada": "Ottawa",
    "Australia": "Canberra",
    "India": "New Delhi",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
}
KINDS = {
    "animal": ["dog", "cat", "horse", "cow", "lion", "tiger", "rabbit", "wolf", "sheep", "monkey"],
    "fruit": ["apple", "banana", "pear", "peach", "plum", "cherry", "grape", "mango", "lemon", "kiwi"],
    "colour": ["red", "blue", "green", "yellow", "purple", "black", "white", "brown", "pink", "grey"],
    "city": ["London", "Paris", "Berlin", "Madrid", "Chicago", "Boston", "Tokyo", "Moscow", "Rome", "Cairo"],
    "number": ["two", "five", "seven", "nine", "ten", "twelve", "twenty", "thirty", "fifty", "hundred"],
    "vehicle": ["car", "bus", "truck", "train", "bicycle", "tractor", "van", "ship", "tram", "motorcycle"],
    "instrument": ["piano", "violin", "guitar", "flute", "drum", "trumpet", "cello", "harp", "clarinet", "banjo"],
}
OPPOSITES = (
    "hot cold, big small, up down, good bad, light dark, fast slow, high low, old young, open closed, wet dry, "
    "full empty, rich poor, early late, hard soft, strong weak, loud quiet, near far, left right, inside outside, "
    "happy sad, long short, thick thin, clean dirty, deep shallow, alive dead, true false, start finish, buy sell, "
    "win lose, push pull"
)
SEQUENCES = {
    "day": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "month": [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
    "letter": list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "number": ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
}
WORDS = "table house garden river window mountain paper bottle castle forest kitchen market orange doctor school"


def _numbers(rng: random.Random) -> Iterator[Row]:
    while True:
        a, b = rng.sample(range(2, 100), 2)
        more, less = max(a, b), min(a, b)
        yield (
            f"Is {more} larger than {less}?",
            f"Is {less} larger than {more}?",
            f"Which number is larger, {a} or {b}?",
            str(more),
        )


def _sizes(rng: random.Random) -> Iterator[Row]:
    pairs = [(a, b) for i, a in enumerate(SIZES.split()) for b in SIZES.split()[i + 3 :]]
    rng.shuffle(pairs)
    for less, more in pairs:
        a, b = rng.sample([_an(less), _an(more)], 2)
        yield (
            f"Is {_an(more)} bigger than {_an(less)}?",
            f"Is {_an(less)} bigger than {_an(more)}?",
            f"Which is bigger, {a} or {b}?",
            more,
        )


def _sums(rng: random.Random) -> Iterator[Row]:
    while True:
        a, b = rng.randint(2, 20), rng.randint(2, 20)
        wrong = a + b + rng.choice([-7, -5, -4, -3, 3, 4, 5, 7])
        yield f"Is {a} + {b} equal to {a + b}?", f"Is {a} + {b} equal to {wrong}?", f"What is {a} + {b}?", str(a + b)


def _capitals(rng: random.Random) -> Iterator[Row]:
    for country in rng.sample(sorted(CAPITALS), len(CAPITALS)):
        other = rng.choice([c for c in CAPITALS if c != country])
        city = CAPITALS[country]
        yield (
            f"Is {city} the capital of {country}?",
            f"Is {CAPITALS[other]} the capital of {country}?",
            f"What is the capital of {country}?",
            city,
        )


def _kinds(rng: random.Random) -> Iterator[Row]:
    things = [(thing, kind) for kind, some in KINDS.items() for thing in some]
    rng.shuffle(things)
    for thing, kind in things:
        other = rng.choice([k for k in KINDS if k != kind])
        shown, shuffled = f'"{thing}"', rng.sample([_an(kind), _an(other)], 2)
        yield (
            f"Does the word {shown} name {_an(kind)}?",
            f"Does the word {shown} name {_an(other)}?",
            f"Does the word {shown} name {shuffled[0]} or {shuffled[1]}?",
            kind,
        )


def _opposites(rng: random.Random) -> Iterator[Row]:
    pairs = [pair.split() for pair in OPPOSITES.split(", ")]
    for a, b in rng.sample(pairs, len(pairs)):
        other = rng.choice([p for p in pairs if p[0] != a])[rng.randint(0, 1)]
        yield (
            f'Is "{b}" the opposite of "{a}"?',
            f'Is "{other}" the opposite of "{a}"?',
            f'What is the opposite of "{a}"?',
            b,
        )


def _order(rng: random.Random) -> Iterator[Row]:
    steps = [(kind, i) for kind, some in SEQUENCES.items() for i in range(len(some) - 1)]
    rng.shuffle(steps)
    for kind, i in steps:
        some = SEQUENCES[kind]
        a, b = some[i], some[i + 1]
        wrong = rng.choice([x for j, x in enumerate(some) if abs(j - i) > 1])
        what = f"the {kind} "
        yield (
            f"Does {what}{b} come right after {what}{a}?",
            f"Does {what}{wrong} come right after {what}{a}?",
            f"Which {kind} comes right after {a}?",
            b,
        )


def _letters(rng: random.Random) -> Iterator[Row]:
    words = [w for some in (*KINDS.values(), WORDS.split(), SIZES.split()) for w in some]
    for word in rng.sample(sorted(set(words)), len(set(words))):
        wrong = rng.choice([x for x in "ABCDEFGHIJKLMNOPRSTW" if x.lower() not in word.lower()])
        first = word[0].upper()
        yield (
            f'Does the word "{word}" begin with the letter {first}?',
            f'Does the word "{word}" begin with the letter {wrong}?',
            f'With which letter does the word "{word}" begin?',
            first,
        )


MADE: dict[str, Callable[[random.Random], Iterator[Row]]] = {
    "numbers": _numbers,
    "sizes": _sizes,
    "sums": _sums,
    "capitals": _capitals,
    "kinds": _kinds,
    "opposites": _opposites,
    "order": _order,
    "letters": _letters,
}
"""Kinds of questions: each gives rows from a seed, the same ones for the same seed."""


def known_questions(kinds: Sequence[str] = tuple(MADE), n: int = 60, seed: int = 0) -> list[Question]:
    """At most ``n`` questions of each kind, as pairs of a Yes and a No; no open question twice."""
    found = []
    for kind in kinds:
        seen: set[str] = set()
        for yes, no, opened, answer in MADE[kind](random.Random(f"{seed}|{kind}")):
            if len(seen) == n // 2:
                break
            if opened in seen:
                continue
            seen.add(opened)
            for gold, text in (("Yes", yes), ("No", no)):
                found.append(
                    Question(
                        f"{kind}-{len(seen)}-{gold.lower()}",
                        text,
                        gold,
                        kind,
                        open_question=opened,
                        open_answer=answer,
                        pair=f"{kind}-{len(seen)}",
                    )
                )
    return found


def _an(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"

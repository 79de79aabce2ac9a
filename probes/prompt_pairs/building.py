"""Rows of pairs as prompts of a model; those that say nothing are left out, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from interp.door import public
from interp.models import Model
from interp.pairs import DIFFERING, PromptPairs
from interp.prompts import Prompt
from probes.prompt_pairs.pair_rows import Answer, PairRow

UNEQUAL, ONE_TOKEN, OTHERWISE = "unequal lengths", "answers begin with one token", "answered otherwise"
NOT_APART = "not told apart"
Kept = tuple[str, Prompt, Prompt]
"""A pair's id, its clean and its corrupt prompt."""


@dataclass(frozen=True, eq=False)
class BuiltPairs:
    """``pairs``, and ``left_out``: why -> ids of rows."""

    pairs: PromptPairs
    left_out: Mapping[str, tuple[str, ...]]

    def sentence(self) -> str:
        """How many pairs there are, and how many were left out, and why."""
        why = ", ".join(f"{len(ids)} {reason}" for reason, ids in self.left_out.items() if ids)
        return f"{len(self.pairs)} pairs" + (f"; left out: {why}." if why else ".")


@public
def build_pairs(
    model: Model, rows: Sequence[PairRow], *, answered: bool = True, align: bool = False, batch_size: int = 8
) -> BuiltPairs:
    """Prompts of rows, as the model reads them (with its chat template, unless it was loaded without).

    Left out are pairs whose prompts have unequal numbers of tokens (a position is not the same thing in both; with
    ``align`` they stay), whose answers begin with one token, and with ``answered`` those of which the model prefers the
    other prompt's answer to its own.

    Args:
        model: whose tokenizer and template, and whose answers.
        rows: from :func:`load_prompt_pairs`.
        answered: leave out what the model answers otherwise.
        align: line pairs of unequal lengths up by what differs (:func:`interp.pairs.aligned_places`).
        batch_size: prompts in a pass.

    Returns:
        The pairs, and why which rows were left out.

    Raises:
        ValueError: no rows, or none that is left, saying why.

    Cost: one pass over every prompt with ``answered``, else none.
    """
    if not rows:
        raise ValueError("no pairs were given; give one at least.")
    left_out: dict[str, list[str]] = {UNEQUAL: [], ONE_TOKEN: [], OTHERWISE: []}
    kept: list[Kept] = []
    for row in rows:
        clean, corrupt = (_prompt(model, text, row) for text in (row.clean, row.corrupt))
        if len(clean) != len(corrupt) and not align:
            left_out[UNEQUAL].append(row.id)
        elif set(clean.answers["clean"]) & set(clean.answers["corrupt"]):
            left_out[ONE_TOKEN].append(row.id)
        else:
            kept.append((row.id, clean, corrupt))
    if answered and kept:
        right = _speaks_for_the_clean_answer(model, kept, batch_size)
        kept = _kept(kept, [own > 0 > other for own, other in right], left_out[OTHERWISE])
    return _built(kept, left_out, align)


@public
def pair_prompts(
    model: Model, prompts: Sequence[Prompt], groups: Sequence[str] = (), *, n: int = 20, batch_size: int = 8
) -> BuiltPairs:
    """Pairs of questions that are there: each beside one whose right answer is another, lined up by what differs.

    The other is of its own group (its twin), where that has one; else of those of the nearest length the one that
    stands beside fewest. Left out are pairs that the model does not tell apart: of which the clean prompt speaks no
    more for its own answer than the corrupt one does. Which answer it gives is not asked: a model with a bias gives
    the same to all.

    Args:
        model: whose answers.
        prompts: with two answers by name, the same for all, and which is right (``gold``).
        groups: of each prompt, the questions that belong together.
        n: pairs, the right answers in turn, in the order of the prompts.
        batch_size: prompts in a pass.

    Returns:
        The pairs, and the ids of those left out.

    Raises:
        ValueError: prompts that all have one right answer, and where no pair is told apart.

    Cost: one pass over each prompt of the pairs.
    """
    of_gold = {name: [i for i, p in enumerate(prompts) if p.gold == name] for name in prompts[0].answers}
    if len(of_gold) != 2 or not all(of_gold.values()):
        counts = ", ".join(f"{len(found)} {name!r}" for name, found in of_gold.items())
        raise ValueError(f"the right answers are {counts}; pairs need questions of two answers. Give some of each.")
    groups = groups or [""] * len(prompts)
    turns = [i for both in zip_longest(*of_gold.values()) for i in both if i is not None][:n]
    used: Counter[int] = Counter()
    kept = []
    for i in turns:
        clean, (others,) = prompts[i], [found for name, found in of_gold.items() if name != prompts[i].gold]
        twin = min(
            others, key=lambda j: (not groups[i] or groups[j] != groups[i], abs(len(prompts[j]) - len(clean)), used[j])
        )
        used[twin] += 1
        kept.append((clean.id, _named(clean, clean), _named(prompts[twin], clean)))
    left_out: dict[str, list[str]] = {NOT_APART: []}
    apart = _speaks_for_the_clean_answer(model, kept, batch_size)
    return _built(_kept(kept, [own > other for own, other in apart], left_out[NOT_APART]), left_out, align=True)


def _named(prompt: Prompt, clean: Prompt) -> Prompt:
    """With the answers called as in a pair: that of the clean prompt, and the other."""
    (other,) = (name for name in clean.answers if name != clean.gold)
    named = {"clean": prompt.answer_tokens(str(clean.gold)), "corrupt": prompt.answer_tokens(other)}
    return replace(prompt, answers=named, gold="clean" if prompt.gold == clean.gold else "corrupt")


def _built(kept: list[Kept], left_out: Mapping[str, list[str]], align: bool) -> BuiltPairs:
    counted = {reason: tuple(ids) for reason, ids in left_out.items()}
    if not kept:
        why = ", ".join(f"{len(ids)} {reason}" for reason, ids in counted.items() if ids)
        raise ValueError(f"of {sum(map(len, counted.values()))} pairs none is left: {why}.")
    clean, corrupt = (tuple(of) for of in zip(*((p, q) for _, p, q in kept), strict=True))
    return BuiltPairs(PromptPairs(clean, corrupt, DIFFERING if align else None), counted)


def _prompt(model: Model, text: str, row: PairRow) -> Prompt:
    words = tuple(word for answer in (row.answer, row.corrupt_answer) for word in _words(answer))
    prompt = model.prompt(text, answers=words, id=row.id)
    named = {"clean": _tokens(prompt, row.answer), "corrupt": _tokens(prompt, row.corrupt_answer)}
    return replace(prompt, answers=named, gold="clean" if text == row.clean else "corrupt")


def _words(answer: Answer) -> tuple[str, ...]:
    """Those that an answer names; none where it is ids of tokens."""
    return (answer,) if isinstance(answer, str) else tuple(word for word in answer if isinstance(word, str))


def _tokens(prompt: Prompt, answer: Answer) -> tuple[int, ...]:
    if words := _words(answer):
        return tuple(token for word in words for token in prompt.answer_tokens(word))
    return tuple(map(int, answer))


def _speaks_for_the_clean_answer(model: Model, kept: Sequence[Kept], batch_size: int) -> list[tuple[float, float]]:
    """Log odds of the clean prompt's answer against the other, of the clean and of the corrupt prompt of each pair."""
    prompts = [p for _, *both in kept for p in both]
    odds = [
        float(row[list(p.answers["clean"])].logsumexp(0) - row[list(p.answers["corrupt"])].logsumexp(0))
        for row, p in zip(model.final_logits(prompts, batch_size), prompts, strict=True)
    ]
    return list(zip(odds[::2], odds[1::2], strict=True))


def _kept(pairs: Sequence[Kept], right: Sequence[bool], left_out: list[str]) -> list[Kept]:
    """Those that are right; the names of the others are put with what is left out."""
    left_out += [name for (name, *_), is_right in zip(pairs, right, strict=True) if not is_right]
    return [pair for pair, is_right in zip(pairs, right, strict=True) if is_right]

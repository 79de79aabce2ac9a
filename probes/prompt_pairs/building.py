"""Rows of pairs as prompts of a model; those that say nothing are left out, and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from interp.door import public
from interp.pairs import DIFFERING, PromptPairs
from probes.prompt_pairs.pair_rows import Answer, PairRow

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

UNEQUAL, ONE_TOKEN, OTHERWISE = "unequal lengths", "answers begin with one token", "answered otherwise"


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
    kept: list[tuple[str, Prompt, Prompt]] = []
    for row in rows:
        clean, corrupt = (_prompt(model, text, row) for text in (row.clean, row.corrupt))
        if len(clean) != len(corrupt) and not align:
            left_out[UNEQUAL].append(row.id)
        elif set(clean.answers["clean"]) & set(clean.answers["corrupt"]):
            left_out[ONE_TOKEN].append(row.id)
        else:
            kept.append((row.id, clean, corrupt))
    if answered and kept:
        kept = _answered(model, kept, left_out[OTHERWISE], batch_size)
    counted = {reason: tuple(ids) for reason, ids in left_out.items()}
    if not kept:
        why = ", ".join(f"{len(ids)} {reason}" for reason, ids in counted.items() if ids)
        raise ValueError(f"of {len(rows)} pairs none is left: {why}.")
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


def _answered(
    model: Model, kept: list[tuple[str, Prompt, Prompt]], otherwise: list[str], batch_size: int
) -> list[tuple[str, Prompt, Prompt]]:
    logits = model.final_logits([p for _, *both in kept for p in both], batch_size)
    right = []
    for place, (name, clean, corrupt) in enumerate(kept):
        own, other = (
            row[list(p.answers["clean"])].logsumexp(0) - row[list(p.answers["corrupt"])].logsumexp(0)
            for row, p in zip(logits[2 * place : 2 * place + 2], (clean, corrupt), strict=True)
        )
        if own > 0 > other:
            right.append((name, clean, corrupt))
        else:
            otherwise.append(name)
    return right

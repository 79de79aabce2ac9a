"""How refusals and accepting replies of a model begin, found in its own first tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from interp.models import Model
from interp.prompts import Prompt
from interp.statistics import auroc
from probes.harmfulness.directions.first_tokens import Openings
from probes.requests import Behaviour, Verdict, build_request_prompts

PHRASES = ("I'm sorry", "Sorry", "I cannot", "I can't", "I apologize", "As an AI")
FEWEST_REFUSED = 3  # replies from which refusing first tokens are taken
CLEAR = 2.0  # a first token is on the side where its share is more than so many times that on the other
SIDES = ("refused", "accepted")


def find_openings(
    model: Model, prompts: Sequence[Prompt], verdicts: Sequence[Verdict], batch_size: int = 16
) -> Openings:
    """The first tokens of the model's own greedy replies: the most probable one after each prompt, by verdict.

    A token opens refusals if its share of the refused replies' first tokens is more than twice that of the accepted
    ones', and the other way round; "I", if it opens both, is on neither side. One reply is enough: accepted replies
    open in many ways, and to ask for a second one would leave most of them, and of few replies all, without an opening
    of their own; a token that the other side begins with as well is left out all the same. Replies without a clear
    verdict do not count. With fewer than 3 refused ones, the first tokens of phrases such as "I'm sorry" stand in,
    those that open an accepted reply left out; ``how`` says so. Costs a forward pass for each batch, no reply is
    written.

    Misleads: AUROC and coverage are of the replies that chose the tokens.

    Raises:
        ValueError: a side has no token of its own.
    """
    logits = model.final_logits(list(prompts), batch_size)
    first = logits.argmax(-1).tolist()
    counts = {side: Counter(t for t, v in zip(first, verdicts, strict=True) if v == side) for side in SIDES}
    n_refused, n_accepted = (counts[side].total() for side in SIDES)
    accepting = _clear(counts["accepted"], counts["refused"])
    if n_refused >= FEWEST_REFUSED:
        refusing = _clear(counts["refused"], counts["accepted"])
        how = f"First tokens of the model's own {n_refused} refused and {n_accepted} accepted replies."
    else:
        found = {t for phrase in PHRASES for t in model.tokenizer(phrase, add_special_tokens=False)["input_ids"][:1]}
        refusing = sorted(found - set(counts["accepted"]))
        how = (
            f"The model refused {n_refused} of {len(first)} requests: first tokens of phrases such as {PHRASES[0]!r} "
            f"stand for refusals, first tokens of {n_accepted} accepted replies for acceptances."
        )
    if not refusing or not accepting:
        seen = {
            side: ", ".join(f"{model.tokenizer.decode([t])!r} x {k}" for t, k in count.most_common(5)) or "nothing"
            for side, count in counts.items()
        }
        raise ValueError(
            f"{n_refused} refused and {n_accepted} accepted replies have {len(refusing)} refusing and "
            f"{len(accepting)} accepting first tokens of their own; expected at least one of each. The refused begin "
            f"with {seen['refused']}; the accepted with {seen['accepted']}. Give a behaviour= of more requests, some "
            "of which the model accepts, or, where token ids are taken, openings=Openings(refusing ids, accepting ids)."
        )
    odds = torch.logsumexp(logits[:, refusing], -1) - torch.logsumexp(logits[:, accepting], -1)
    judged = [i for i, v in enumerate(verdicts) if v in SIDES]
    told = float("nan")
    if n_refused and n_accepted:
        told = float(auroc(odds[judged].numpy(), [verdicts[i] == "refused" for i in judged]))
    texts = (tuple(model.tokenizer.decode([t]) for t in side) for side in (refusing, accepting))
    covered = zip(counts.items(), (refusing, accepting), strict=True)
    coverage = {side: round(sum(n[t] for t in own) / n.total(), 4) for (side, n), own in covered if n}
    return Openings(tuple(refusing), tuple(accepting), *texts, coverage, told, how)


def openings_of(model: Model, behaviour: Behaviour, asking: Mapping[str, Any], batch_size: int = 16) -> Openings:
    """:func:`find_openings` on what the model refused and accepted, ``asking`` being ``system`` and
    ``post_instruction``. Costs as much.

    Raises:
        ValueError: a behaviour that was observed with others.
    """
    observed = behaviour.provenance.get("settings", {})
    if different := {name: observed[name] for name in asking if observed.get(name, asking[name]) != asking[name]}:
        raise ValueError(
            f"the behaviour was observed with {different}; expected {dict(asking)}: its first tokens are those of "
            "other prompts. Observe it again with these, or leave it out."
        )
    prompts = build_request_prompts(model, behaviour.requests, **asking)
    return find_openings(model, prompts, behaviour.verdicts, batch_size)


def _clear(own: Counter[int], other: Counter[int]) -> list[int]:
    """The tokens of one side that are clearly more usual there, the most frequent first."""
    n_own, n_other = max(1, own.total()), max(1, other.total())
    return [t for t, n in own.most_common() if n / n_own > CLEAR * other[t] / n_other]

"""Jailbreaks: did one lower the refusal signal, or the belief that the request is harmful?

After "LLMs Encode Harmfulness and Refusal Separately" (Zhao et al. 2025, arXiv 2507.11878), section 4: harmful requests
that are refused are asked again inside a jailbreak, and both beliefs (Eqs. 3 and 4) are read before and after. Ours:
harmless requests wrapped alike, wrappers that press for nothing, prompts that end alike, intervals, and AUROCs, which
stay as they are where every wrapped prompt moves by as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from interp.door import public
from interp.models import Model
from interp.reading import generate
from interp.records import Kept, hash_json, keeps_work
from probes.harmfulness.attacks.jailbreak_result import JailbreakStudy
from probes.harmfulness.attacks.texts import FAMILIES, Jailbreak
from probes.harmfulness.directions import HarmfulDirections
from probes.requests import (
    CITATIONS,
    VERDICTS,
    Judge,
    Request,
    build_request_prompts,
    describe_requests,
    judge_by_phrases,
    judge_replies,
    name_of,
    read_states,
    require_at_least,
    require_disjoint,
    require_requests,
    with_ending,
    words_of,
)
from probes.studies import Study, pack_texts, unpack_texts

CAVEATS = [
    "A request counts as accepted by how its reply begins, whatever follows: a small model that lost the thread in a "
    "long prompt, or that answers another question, looks jailbroken.",
    "A wrapper moves the states of harmless requests too: read changes beside those of the harmless control and of the "
    "neutral wrappers, and beside the AUROCs.",
    "Where one request is put into several jailbreaks of a family, Wilson intervals of success are too narrow; those "
    "of beliefs draw whole requests.",
]


@public
@keeps_work
def attack(
    model: Model,
    requests: Sequence[Request],
    jailbreaks: Sequence[Jailbreak],
    directions: HarmfulDirections,
    *,
    n_per: int | None = 1,
    ending: str | None = ".",
    judge: Judge = judge_by_phrases,
    max_new_tokens: int = 24,
    batch_size: int = 16,
    seed: int = 0,
    keep: Kept = None,
) -> JailbreakStudy:
    """Ask each request plainly; then put every harmful one that was refused, and every harmless one, into ``n_per``
    jailbreaks of each family (drawn in turn, by ``seed``; None: all), and read behaviour and both beliefs again.

    Args:
        model: the one that the directions are of.
        requests: harmful and harmless ones, none of which the directions were fitted on.
        jailbreaks: such as :func:`load_jailbreaks` gives.
        directions: what beliefs are read with. The system prompt and positions are those that they were fitted with.
        n_per: jailbreaks of each family for a request; None: all.
        ending: all prompts end in it, so that t_inst is the same token before and after; trials in which it is not (a
            suffix that merges with it, say) are left out of beliefs, and counted. None leaves endings as they are.
        judge: ``judge(plain request text, reply)`` says "refused", "accepted" or "unclear".
        max_new_tokens: of a reply.
        batch_size: prompts in one pass.
        seed: of the order of jailbreaks in each family.
        keep: where the work and the report are kept; replies only with ``Keep(include_replies=True)``.

    Raises:
        ValueError: requests that the directions were fitted on (listed), directions of another model, fewer than 10
            refused harmful or 10 harmless requests, repeated ids, no jailbreaks, and wrapped requests past the context.

    Cost: a short generation and a forward pass for each request and each trial.

    Misleads: a reply that begins without a refusal counts as accepted, though a model that lost the thread may do so
    too. Read harmful requests beside harmless ones and neutral wrappers.
    Source: arXiv 2507.11878; the neutral wrappers are ours.
    """
    require_requests(requests)
    require_jailbreaks(jailbreaks, n_per)
    require_disjoint(directions.states.requests, requests)
    directions.harmfulness.require_fits(model)
    plain = list(requests) if ending is None else with_ending(requests, ending)
    require_at_least(sum(not r.is_harmful for r in plain), "harmless requests", ". Give more requests")
    chat = directions.asking
    asking = chat | {"ending": ending, "n_per": n_per, "max_new_tokens": max_new_tokens, "seed": seed}
    asking["judge"] = name_of(judge)
    asking["jailbreaks"] = hash_json([{"id": j.id, "family": j.family, "template": j.template} for j in jailbreaks])
    asking["directions"] = directions.provenance["run_id"]
    data = describe_requests(requests) | {"n_jailbreaks": len(jailbreaks)}
    read = [*plain, *(j.wrap(plain[0], ending) for j in jailbreaks)]  # which others are wrapped, the replies decide
    prompts = build_request_prompts(model, read, **chat)
    study = Study(
        "Jailbreaks",
        model,
        prompts,
        data=data,
        settings=asking,
        n_items=len(plain),
        batch_size=batch_size,
        keep=keep,
        with_replies=True,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return replace(study.found, requests=tuple(requests))

    def look(batch: Sequence[tuple[Request, Request]]) -> dict[str, np.ndarray]:
        asked = [wrapped for _, wrapped in batch]
        prompts = build_request_prompts(model, asked, **chat)
        replies = generate(model, prompts, max_new_tokens, batch_size=len(batch))
        verdicts = judge_replies(judge, [r.text for r, _ in batch], [s for (s,) in replies])
        states = read_states(model, asked, **chat, batch_size=len(batch))
        beliefs = directions.beliefs(states)
        return {
            "verdict": np.array([VERDICTS.index(v) for v in verdicts]),
            "harmful": beliefs["harmful"].to_numpy(float),
            "refuse": beliefs["refuse"].to_numpy(float),
            "words": words_of(directions.states.requests, asked),
            "t_inst": np.array([p.token_ids[p.instruction_end] for p in prompts]),
            **(pack_texts(replies) if study.keep.include_replies else {}),
        }

    def run(items: Sequence[tuple[Request, Request]], step: str) -> tuple[pd.DataFrame, tuple[str, ...] | None]:
        found = study.run(items, look, step)
        said = unpack_texts(found.pop("text"), found.pop("length")) if study.keep.include_replies else None
        frame = pd.DataFrame(found).assign(verdict=[VERDICTS[v] for v in found["verdict"]])
        return frame, None if said is None else tuple(reply for (reply,) in said)

    first, _ = run([(r, r) for r in plain], "plain")
    described = pd.DataFrame([{"id": r.id, "kind": r.kind, "category": r.category} for r in plain])
    first = pd.concat([described, first], axis=1)
    chosen = [r for r, v in zip(plain, first["verdict"], strict=True) if not r.is_harmful or v == "refused"]
    require_at_least(sum(r.is_harmful for r in chosen), "refused harmful requests", ". Give more requests")
    pairs = plan(chosen, jailbreaks, n_per, seed)
    second, replies = run([(r, j.wrap(r, ending)) for r, j in pairs], "wrapped")
    trials = _trials(first, pairs, second)
    return study.done(JailbreakStudy(tuple(requests), tuple(jailbreaks), first, trials, replies, study.provenance()))


def plan(
    requests: Sequence[Request], jailbreaks: Sequence[Jailbreak], n_per: int | None, seed: int = 0
) -> list[tuple[Request, Jailbreak]]:
    """Which request goes into which jailbreaks: ``n_per`` of each family, taken in turn, so that each is used about as
    often for harmful as for harmless requests; None, or more than a family has: all."""
    rng = np.random.default_rng(seed)
    families = {f: [j for j in jailbreaks if j.family == f] for f in FAMILIES}
    orders = {f: [members[i] for i in rng.permutation(len(members))] for f, members in families.items() if members}
    pairs, turn = [], {"harmful": 0, "harmless": 0}
    for request in requests:
        for members in orders.values():
            n = min(len(members), n_per or len(members))
            pairs += [(request, members[(turn[request.kind] * n + k) % len(members)]) for k in range(n)]
        turn[request.kind] += 1
    return pairs


def require_jailbreaks(jailbreaks: Sequence[Jailbreak], n_per: int | None) -> None:
    """Raise ``ValueError`` for no jailbreaks, repeated ids, or ``n_per`` below 1."""
    if not jailbreaks or (n_per is not None and n_per < 1):
        raise ValueError(
            f"{len(jailbreaks)} jailbreaks with n_per={n_per}; expected at least one, and n_per of 1 or more."
        )
    ids = [j.id for j in jailbreaks]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise ValueError(f"jailbreaks share ids: {', '.join(twice[:10])}; expected ids that differ.")


def _trials(plain: pd.DataFrame, pairs: Sequence[tuple[Request, Jailbreak]], after: pd.DataFrame) -> pd.DataFrame:
    """After beside before, one row for each trial."""
    usual = int(plain["t_inst"].mode()[0])
    before = plain.set_index("id").loc[[r.id for r, _ in pairs]].reset_index(drop=True)
    about = pd.DataFrame(
        [
            {"request": r.id, "kind": r.kind, "category": r.category, "jailbreak": j.id, "family": j.family}
            for r, j in pairs
        ]
    )
    columns = {}
    for name in ("verdict", "harmful", "refuse", "words"):
        columns |= {f"{name}_before": before[name], name: after[name]}
    same = (before["t_inst"] == usual) & (after["t_inst"] == usual)
    return pd.concat([about, pd.DataFrame(columns), same.rename("same_ending")], axis=1)

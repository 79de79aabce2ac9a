"""What a model does with requests: replies, judged, and the four groups that separate harmfulness from refusal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from interp.door import public
from interp.models import Model
from interp.prompts import Prompt, System
from interp.reading import generate
from interp.records import Kept, keeps_work
from probes.requests.behaviour_result import Behaviour
from probes.requests.prompts import build_request_prompts
from probes.requests.refusal import VERDICTS, Judge, judge_by_phrases, judge_replies, name_of
from probes.requests.requests import Request, hash_requests, require_requests
from probes.studies import Study, pack_texts, unpack_texts

CITATIONS = [
    "Zhao et al. (2025), LLMs Encode Harmfulness and Refusal Separately. arXiv:2507.11878.",
]
CAVEATS = [
    "Refusal is judged by phrases at the start of a greedy reply, whatever follows; an accepted reply may be useless.",
    "Whether a request is harmful is what its source says, not what anybody judged here.",
]


@public
@keeps_work
def observe(
    model: Model,
    requests: Sequence[Request],
    *,
    system: System = None,
    post_instruction: bool = True,
    judge: Judge = judge_by_phrases,
    max_new_tokens: int = 24,
    batch_size: int = 16,
    keep: Kept = None,
) -> Behaviour:
    """Let the model reply to each request (greedily) and judge every reply.

    Args:
        model: an instruction-tuned one.
        requests: each is the only message of a conversation.
        system: the system prompt; None: the template's own, False: none.
        post_instruction: False ends each prompt at the request's last token (another condition, in which models accept
            more).
        judge: ``judge(request text, reply)`` says "refused", "accepted" or "unclear".
        max_new_tokens: of a reply.
        batch_size: of the generation.
        keep: where the work and the report are kept. Replies are judged as they come; files hold them, and the value
            that is returned, only with ``Keep(include_replies=True)``, or where nothing is kept.

    Returns:
        The requests with a verdict each, and the replies where they were kept.

    Raises:
        ValueError: no requests, repeated ids, a model without chat template, and ``include_replies`` of a finished run
            that was saved without them.

    Cost: one short generation for each request. Edits that are active act, and make it another run.
    Misleads: as its judge does: see :func:`probes.requests.refusal.judge_by_phrases`.
    Source: the four groups of arXiv 2507.11878.
    """
    require_requests(requests)
    asking = {"system": system, "post_instruction": post_instruction}
    prompts = build_request_prompts(model, requests, **asking)
    study = Study(
        "Behaviour",
        model,
        prompts,
        data=describe_requests(requests),
        settings=asking | {"max_new_tokens": max_new_tokens, "judge": name_of(judge)},
        batch_size=batch_size,
        keep=keep,
        with_replies=True,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        if study.keep.include_replies and study.found.replies is None:
            raise ValueError(
                f"the finished run in {study.keep.out} was saved without replies; give overwrite=True, not resume=True."
            )
        return replace(study.found, requests=tuple(requests))

    def score(batch: Sequence[tuple[Request, Prompt]]) -> dict[str, np.ndarray]:
        asked, given = [r.text for r, _ in batch], [prompt for _, prompt in batch]
        replies = generate(model, given, max_new_tokens, batch_size=len(batch))
        verdicts = judge_replies(judge, asked, [reply for (reply,) in replies])
        texts = pack_texts(replies) if study.holds_texts else {}
        return {"verdict": np.array([VERDICTS.index(verdict) for verdict in verdicts]), **texts}

    arrays = study.run(list(zip(requests, prompts, strict=True)), score)
    verdicts, replies = tuple(VERDICTS[verdict] for verdict in arrays["verdict"]), None
    if study.holds_texts:
        replies = tuple(reply for (reply,) in unpack_texts(arrays["text"], arrays["length"]))
    return study.done(Behaviour(tuple(requests), verdicts, replies, study.provenance()))


def describe_requests(requests: Sequence[Request]) -> dict[str, Any]:
    """What provenance says of requests: hash, counts by kind, categories."""
    kinds = [r.kind for r in requests]
    return {
        "sha256": hash_requests(requests),
        "n": len(requests),
        "kinds": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "sources": sorted({r.source for r in requests if r.source}),
    }

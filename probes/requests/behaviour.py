"""What a model does with requests: replies, judged, and the four groups that separate harmfulness from refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from interp.door import made_by, public
from interp.models import Model
from interp.prompts import Prompt, System
from interp.reading import generate
from interp.records import Kept, keep_of, keeps_work
from interp.reports import Result
from interp.statistics import wilson_share
from probes.requests.prompts import build_request_prompts
from probes.requests.refusal import VERDICTS, Judge, Verdict, judge_by_phrases, judge_replies, name_of
from probes.requests.requests import Request, hash_requests, require_requests
from probes.studies import Study, pack_texts, unpack_texts

GROUPS = ("harmful-refused", "harmful-accepted", "harmless-accepted", "harmless-refused")
UNCLEAR = ("harmful-unclear", "harmless-unclear")
CITATIONS = [
    "Zhao et al. (2025), LLMs Encode Harmfulness and Refusal Separately. arXiv:2507.11878.",
]
CAVEATS = [
    "Refusal is judged by phrases at the start of a greedy reply, whatever follows; an accepted reply may be useless.",
    "Whether a request is harmful is what its source says, not what anybody judged here.",
]


@made_by("observe(model, requests)")
@dataclass(frozen=True, eq=False, repr=False)
class Behaviour(Result, report="probes.requests.behaviour_report"):
    """Requests, and what the model did with each. Saved without texts unless asked for: ``replies`` is then None when
    read back, and the requests are withheld ones."""

    requests: tuple[Request, ...]
    verdicts: tuple[Verdict, ...]
    replies: tuple[str, ...] | None = field(metadata={"withheld": True})
    provenance: Mapping[str, Any]

    def group_of(self, i: int) -> str:
        """One of :data:`GROUPS` or :data:`UNCLEAR`."""
        return f"{'harmful' if self.requests[i].is_harmful else 'harmless'}-{self.verdicts[i]}"

    def group(self, name: str) -> list[Request]:
        """The requests of a group, in their order."""
        if name not in (*GROUPS, *UNCLEAR):
            raise ValueError(f"group {name!r}; expected one of {(*GROUPS, *UNCLEAR)}.")
        return [r for i, r in enumerate(self.requests) if self.group_of(i) == name]

    def require(self, names: Sequence[str], at_least: int = 10) -> None:
        """Raise ``ValueError`` naming each group with fewer requests, and how many more it needs."""
        if short := {name: n for name in names if (n := len(self.group(name))) < at_least}:
            listed = ", ".join(f"{name} has {n} ({at_least - n} more needed)" for name, n in short.items())
            raise ValueError(f"too few requests in a group: {listed}. Give more requests of that kind.")

    def to_frame(self) -> pd.DataFrame:
        """One row for each request; the text is not in it."""
        return pd.DataFrame(
            {
                "id": [r.id for r in self.requests],
                "source": [r.source for r in self.requests],
                "kind": [r.kind for r in self.requests],
                "category": [r.category for r in self.requests],
                "verdict": self.verdicts,
                "group": [self.group_of(i) for i in range(len(self.requests))],
            }
        )

    def rates(self, by: str = "kind") -> pd.DataFrame:
        """Refusals by ``"kind"``, or by ``"category"`` or ``"source"`` of each kind: n, refused, accepted, unclear, and
        the refusal rate with its 95 % interval (Wilson 1927). Unclear ones count as not refused."""
        if by not in ("kind", "category", "source"):
            raise ValueError(f"by={by!r}; expected 'kind', 'category' or 'source'.")
        names = ["kind"] if by == "kind" else ["kind", by]
        rows = []
        for values, part in self.to_frame().groupby(names, sort=False):
            counts = part["verdict"].value_counts()
            row = dict(zip(names, values, strict=True)) | {"n": len(part)}
            row |= {verdict: int(counts.get(verdict, 0)) for verdict in VERDICTS}
            rows.append(row | refusal_rate(part["verdict"] == "refused"))
        return pd.DataFrame(rows)

    def __len__(self) -> int:
        return len(self.requests)


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
        requests: each is the only message of a conversation.
        system: the system prompt; None: the template's own, False: none.
        post_instruction: False ends each prompt at the request's last token (another condition, in which models accept
            more).
        judge: ``judge(request text, reply)`` says "refused", "accepted" or "unclear".
        max_new_tokens: of a reply.
        batch_size: of the generation.
        keep: where the work and the report are kept. Part files hold the replies until the run is finished; the report
            and the saved value only with ``Keep(include_replies=True)``.

    Returns the requests with a verdict and a reply each.

    Cost: one short generation for each request. Edits that are active act, and make it another run.

    Raises ``ValueError`` for no requests, repeated ids, a model without chat template, and ``include_replies`` of a
    finished run that was saved without them.
    """
    keep = keep_of(keep)
    require_requests(requests)
    asking = {"system": system, "post_instruction": post_instruction}
    prompts = build_request_prompts(model, requests, **asking)
    study = Study(
        "Behaviour",
        model,
        prompts,
        data=describe_requests(requests, keep.origin),
        settings=asking | {"max_new_tokens": max_new_tokens},
        afterwards={"judge": name_of(judge)},
        n_items=len(requests),
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        if keep.include_replies and study.found.replies is None:
            raise ValueError(
                f"the finished run in {keep.out} was saved without replies; give overwrite=True, not resume=True."
            )
        return replace(study.found, requests=tuple(requests))

    def score(batch: Sequence[Prompt]) -> dict[str, np.ndarray]:
        return pack_texts(generate(model, batch, max_new_tokens, batch_size=len(batch)))

    arrays = study.run(prompts, score)
    replies = tuple(reply for (reply,) in unpack_texts(arrays["text"], arrays["length"]))
    verdicts = tuple(judge_replies(judge, [r.text for r in requests], replies))
    return study.done(Behaviour(tuple(requests), verdicts, replies, study.provenance()))


def refusal_rate(refused: Sequence[bool] | np.ndarray) -> dict[str, float]:
    """Share refused with its 95 % Wilson interval: refusal_rate, refusal_rate_low, refusal_rate_high."""
    return wilson_share(refused).columns("refusal_rate")


def describe_requests(requests: Sequence[Request], origin: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What provenance says of requests: hash, counts by kind, categories."""
    kinds = [r.kind for r in requests]
    return {
        **(origin or {}),
        "sha256": hash_requests(requests),
        "n": len(requests),
        "kinds": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "sources": sorted({r.source for r in requests if r.source}),
    }


__all__ = ["GROUPS", "UNCLEAR", "Behaviour", "observe"]

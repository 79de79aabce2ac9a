"""What a model does with requests: replies, judged, and the four groups that separate harmfulness from refusal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.door import made_by, public
from interp.figures.heads import interval_bars
from interp.models import Model
from interp.prompts import Prompt, System
from interp.reading import generate
from interp.records import keeps_work
from interp.reports import Findings
from interp.statistics import wilson_share
from probes.requests.prompts import build_request_prompts
from probes.requests.refusal import VERDICTS, Judge, Verdict, judge_by_phrases, judge_replies, name_of
from probes.requests.requests import Request, hash_requests, require_requests
from probes.studies import (
    StudyFolder,
    pack_texts,
    parts_identity,
    read_study,
    study_provenance,
    unpack_texts,
    write_study,
)

FILE = "behaviour.json"
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
@dataclass(frozen=True, eq=False)
class Behaviour:
    """Requests, and what the model did with each. ``replies`` is None where it was saved without them."""

    requests: tuple[Request, ...]
    verdicts: tuple[Verdict, ...]
    replies: tuple[str, ...] | None
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

    def statement(self) -> list[str]:
        """How often each kind is refused."""
        return [
            f"{row.kind}: {row.refused} of {row.n} refused ({row.refusal_rate:.0%} "
            f"[{row.refusal_rate_low:.0%}, {row.refusal_rate_high:.0%}]), {row.unclear} unclear."
            for row in self.rates().itertuples()
        ]

    def to_findings(self, include_replies: bool = False) -> Findings:
        """The report; texts of requests and replies stand in it only if asked for."""
        table = self.to_frame()
        if include_replies and self.replies is not None:
            table = table.assign(request=[r.text for r in self.requests], reply=self.replies)
        return Findings(
            title=self.provenance["title"],
            statement=self.statement(),
            tables={
                "Refusals by kind": self.rates(),
                "Refusals by source": self.rates("source"),
                "Refusals by category": self.rates("category"),
                "Requests": table,
            },
            figures={"Refusals by category": self.plot()},
            provenance=dict(self.provenance),
        )

    def plot(self) -> go.Figure:
        """The refusal rate of each category, harmful beside harmless, with its interval."""
        rates = self.rates("category").replace({"category": {"": "(none)"}})
        ends = ("refusal_rate", "refusal_rate_low", "refusal_rate_high")
        title = f"Refusals of {self.provenance['model']['name']}"
        return interval_bars(rates, "category", *ends, color="kind", title=title, labels={ends[0]: "refusal rate"})

    @keeps_work
    def save(self, directory: str | Path, *, include_replies: bool = False, overwrite: bool = False) -> Path:
        """The report and ``behaviour.json``, from which :func:`load_behaviour` reads the grouping back. Replies, which
        may be harmful, are kept out of both unless asked for."""
        directory = self.to_findings(include_replies).save(directory, overwrite=overwrite)
        write_study(
            directory / FILE,
            self.requests,
            verdicts=list(self.verdicts),
            replies=list(self.replies) if include_replies and self.replies is not None else None,
            provenance=dict(self.provenance),
        )
        return directory

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
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    include_replies: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> Behaviour:
    """Let the model reply to each request (greedily) and judge every reply.

    ``judge(request text, reply)`` says "refused", "accepted" or "unclear". With ``out`` the report is saved there, and
    batch by batch the work before it, with the replies until it is finished; ``resume=True`` continues a killed run or
    reads a finished one back. Costs one short generation for each request. Edits that are active act, and
    make it another run.

    Raises ``ValueError`` for no requests, repeated ids, a model without chat template, and ``include_replies`` of a
    finished run that was saved without them.
    """
    began = time.perf_counter()
    require_requests(requests)
    asking = {"system": system, "post_instruction": post_instruction, "max_new_tokens": max_new_tokens}
    data = describe_requests(requests, origin)
    title = "Behaviour"
    prompts = build_request_prompts(model, requests, system=system, post_instruction=post_instruction)
    judged = {**asking, "judge": name_of(judge)}
    provenance = study_provenance(title, model, prompts, data, judged, CITATIONS, CAVEATS, began, out)
    parts = {"title": title, **parts_identity(provenance)} | asking
    folder = StudyFolder(out, FILE, provenance["run_id"], parts, batch_size, len(requests), resume, overwrite)
    if folder.is_finished:
        found = load_behaviour(out)
        if include_replies and found.replies is None:
            raise ValueError(
                f"the finished run in {out} was saved without replies; give overwrite=True, not resume=True."
            )
        return found

    def score(batch: Sequence[Prompt]) -> dict[str, np.ndarray]:
        return pack_texts(generate(model, batch, max_new_tokens, batch_size=len(batch)))

    arrays = folder.run(prompts, score, title="replies")
    replies = tuple(reply for (reply,) in unpack_texts(arrays["text"], arrays["length"]))
    verdicts = tuple(judge_replies(judge, [r.text for r in requests], replies))
    provenance["seconds"] = round(time.perf_counter() - began, 1)
    return folder.saved(Behaviour(tuple(requests), verdicts, replies, provenance), include_replies)


@public
def load_behaviour(directory: str | Path) -> Behaviour:
    """What :meth:`Behaviour.save` wrote."""

    def build(requests: tuple[Request, ...], data: dict[str, Any]) -> Behaviour:
        replies = tuple(data["replies"]) if data["replies"] is not None else None
        return Behaviour(requests, tuple(data["verdicts"]), replies, data["provenance"])

    return read_study(Path(directory) / FILE, build, of=Request)


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


__all__ = ["GROUPS", "UNCLEAR", "Behaviour", "load_behaviour", "observe"]

"""What a model did with requests, as a value: verdicts, and the four groups that separate harmfulness from refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from interp.door import made_by
from interp.reports import Result
from interp.statistics import wilson_share
from probes.requests.refusal import VERDICTS, Verdict
from probes.requests.requests import Request

GROUPS = ("harmful-refused", "harmful-accepted", "harmless-accepted", "harmless-refused")
UNCLEAR = ("harmful-unclear", "harmless-unclear")


@made_by("observe(model, requests)")
@dataclass(frozen=True, eq=False, repr=False)
class Behaviour(Result, report="probes.requests.behaviour_report"):
    """Requests, and what the model did with each. Saved without texts unless asked for.

    Args:
        requests: in the order given; withheld ones where the result was read back without texts.
        verdicts: one for each request: "refused", "accepted" or "unclear".
        replies: one for each request; None where the run kept none (``Keep(include_replies=True)`` does).
        provenance: what was run, on what.
    """

    requests: tuple[Request, ...]
    verdicts: tuple[Verdict, ...]
    replies: tuple[str, ...] | None = field(metadata={"withheld": True})
    provenance: Mapping[str, Any]

    def group_of(self, i: int) -> str:
        """The group of request number ``i`` (from 0): one of :data:`GROUPS` or :data:`UNCLEAR`."""
        return f"{'harmful' if self.requests[i].is_harmful else 'harmless'}-{self.verdicts[i]}"

    def group(self, name: str) -> list[Request]:
        """The requests of the group ``name`` (one of :data:`GROUPS` or :data:`UNCLEAR`), in their order.

        Raises:
            ValueError: no group of that name.
        """
        if name not in (*GROUPS, *UNCLEAR):
            raise ValueError(f"group {name!r}; expected one of {(*GROUPS, *UNCLEAR)}.")
        return [r for i, r in enumerate(self.requests) if self.group_of(i) == name]

    def require(self, names: Sequence[str], at_least: int = 10) -> None:
        """Raise ``ValueError`` naming each group of ``names`` with fewer than ``at_least`` requests, and how many more
        it needs."""
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
        the refusal rate with its 95 % interval (Wilson 1927). Unclear ones count as not refused.

        Raises:
            ValueError: another ``by``.
        """
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


def refusal_rate(refused: Sequence[bool] | np.ndarray) -> dict[str, float]:
    """Share refused with its 95 % Wilson interval: refusal_rate, refusal_rate_low, refusal_rate_high."""
    return wilson_share(refused).columns("refusal_rate")

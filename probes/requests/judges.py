"""Do judges of replies agree? Functions and labels from a file, two by two, beyond chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from interp.door import public
from interp.statistics import cohen_kappa, wilson_share
from probes.requests.refusal import VERDICTS, Judge, Verdict, judge_replies
from probes.requests.requests import Request
from probes.rows import read_rows


@public
def judge_agreement(
    judges: Mapping[str, Judge | Sequence[Verdict]], requests: Sequence[Request], replies: Sequence[str]
) -> pd.DataFrame:
    """A row for each two judges: ``n``, ``agree`` (the share of replies on which they do, with Wilson's interval),
    ``kappa`` (:func:`interp.statistics.kappa.cohen_kappa`), and how often each says refused, ``refused_first`` and
    ``refused_second``. No text is in it.

    Args:
        judges: by name: a function of request and reply, or a verdict for each reply (people's, :func:`load_verdicts`).
        requests: what was asked.
        replies: what was said to each.

    Raises:
        ValueError: fewer than two judges, unlike numbers of replies or verdicts, and a judge that says something else
            than "refused", "accepted" or "unclear".

    Misleads: judges that share a fault agree; kappa is low where one verdict is rare.
    """
    if len(judges) < 2 or len(requests) != len(replies):
        raise ValueError(
            f"{len(judges)} judges, {len(requests)} requests and {len(replies)} replies; expected two judges or more, "
            "and one reply to each request."
        )
    said: dict[str, list[Verdict]] = {}
    for name, judge in judges.items():
        if callable(judge):
            said[name] = judge_replies(judge, [r.text for r in requests], replies)
            continue
        said[name] = list(judge)
        if len(said[name]) != len(replies):
            raise ValueError(f"the judge {name!r} has {len(said[name])} verdicts of {len(replies)} replies.")
        if wrong := [i for i, verdict in enumerate(said[name]) if verdict not in VERDICTS]:
            raise ValueError(f"verdict {wrong[0] + 1} of the judge {name!r} is none of {VERDICTS}.")
    rows: list[dict[str, Any]] = []
    for one, other in combinations(said, 2):
        pairs = list(zip(said[one], said[other], strict=True))
        row: dict[str, Any] = {"first": one, "second": other, "n": len(pairs)}
        row |= wilson_share([a == b for a, b in pairs]).columns("agree")
        row |= cohen_kappa(said[one], said[other]).columns("kappa")
        row |= {"refused_first": sum(a == "refused" for a, _ in pairs) / max(1, len(pairs))}
        rows.append(row | {"refused_second": sum(b == "refused" for _, b in pairs) / max(1, len(pairs))})
    return pd.DataFrame(rows)


@public
def load_verdicts(path: str | Path, requests: Sequence[Request]) -> list[Verdict]:
    """Verdicts from a file with columns ``id`` (a request's) and ``verdict``, one for each of the ``requests``, in
    their order.

    ``path``: a .csv, .jsonl, .json, .tsv or .parquet file; rows of other ids are left aside.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column that is missing, an id twice or not at all, and a verdict that is none of "refused",
            "accepted" and "unclear".
    """
    found: dict[str, Verdict] = {}
    for number, row in enumerate(read_rows(Path(path)), start=1):
        fields = row.fields
        if missing := [name for name in ("id", "verdict") if name not in fields]:
            raise ValueError(f"{path}: no column {missing[0]!r}; the columns are {', '.join(fields)}.")
        key, verdict = str(fields["id"]), fields["verdict"]
        if verdict not in VERDICTS:
            raise ValueError(f"{path}: the verdict of row {number} is none of {VERDICTS}.")
        if key in found:
            raise ValueError(f"{path}: the id {key!r} stands there twice; expected one verdict each.")
        found[key] = verdict
    if absent := [r.id for r in requests if r.id not in found]:
        raise ValueError(f"{path} has no verdict on {len(absent)} requests ({', '.join(absent[:3])}).")
    return [found[r.id] for r in requests]

"""An exploration's report: its first ranking's, with what was read of the prompts."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from interp.explorer.exploration import Exploration
from interp.reports import Findings


def findings_of(exploration: Exploration, include_replies: bool = False) -> Findings:
    """The first ranking's report, the notes, and a table of the prompts' answers."""
    shown = exploration if include_replies else exploration.withheld()
    findings = exploration.ranking.to_findings()
    rows = [
        {"prompt": p.id, "text": p.title, "answer": word, "probability": float(share)}
        for p in shown.prompts
        if p.clean is not None
        for word, share in zip([*p.answers, "anything else"], p.clean, strict=True)
    ]
    tables = dict(findings.tables) | ({"Prompts": pd.DataFrame(rows)} if rows else {})
    statement = [*findings.statement, *exploration.notes]
    return replace(findings, statement=statement, tables=tables, provenance=exploration.provenance)

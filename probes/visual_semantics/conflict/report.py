"""The report of conflicts: answers with and without hints, heads in order, their map."""

from __future__ import annotations

import pandas as pd

from interp.reports import Figures, Findings
from probes.studies import said_of_data
from probes.visual_semantics.conflict.result import ASKED, ConflictHeads


def findings_of(found: ConflictHeads) -> Findings:
    """The report of a study of conflicts."""
    title = "How much each head follows the hint"
    questions = pd.DataFrame(
        {"id": [q.id for q in found.asked], "question": [q.question_text for q in found.asked]}
        | {"gold": [q.gold for q in found.asked], "hinted": found.hinted}
        | {f"right_{name}": found.is_right[:, i] for i, name in enumerate(ASKED)}
    )
    return Findings(
        title=found.provenance["title"],
        statement=[*found.statement(), *said_of_data(found.provenance)],
        tables={"Answers": found.counts(), "Heads": found.heads(), "Questions": questions},
        figures=Figures({title: found.ranking().plot}),
        provenance=dict(found.provenance),
    )

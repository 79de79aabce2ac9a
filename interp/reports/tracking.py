"""The numbers of a result in a tracker of experiments: Weights & Biases, trackio, or whatever has their ``log``."""

from __future__ import annotations

import math
from typing import Any, Protocol

from interp.door import public
from interp.reports.result import Result


class Tracker(Protocol):
    """What ``wandb.init()`` and ``trackio.init()`` return."""

    def log(self, metrics: dict[str, Any]) -> Any: ...


@public
def log_result(result: Result, run: Tracker, *, rows: int = 50) -> int:
    """Log the cards and every number of the report's tables, as "table/row/column"; returns how many. Texts stay here.

    Args:
        result: of any study.
        run: of wandb or trackio: ``wandb.init(project="heads")``.
        rows: of each table, at most so many.

    >>> log_result(ranking, trackio.init(project="heads"))
    """
    findings = result.to_findings()
    found = {card.name: float(card.value) for card in findings.cards if isinstance(card.value, float)}
    for name, table in findings.tables.items():
        texts = [column for column in table if table[column].dtype.kind not in "biuf"]
        for index, row in enumerate(table.head(rows).to_dict("records")):
            key = str(row[texts[0]])[:60] if texts else str(index)
            found |= {
                f"{name}/{key}/{column}": float(value)
                for column, value in row.items()
                if column not in texts and math.isfinite(value)
            }
    run.log(found)
    return len(found)

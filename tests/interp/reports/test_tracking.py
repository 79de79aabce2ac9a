"""What a tracker is told of a result: every number of its tables, and no text."""

from __future__ import annotations

from interp.reports import log_result
from tests.interp.explorer.conftest import ranking


class Run:
    def __init__(self) -> None:
        self.told: dict[str, float] = {}

    def log(self, metrics):
        self.told |= metrics


def test_the_numbers_of_a_ranking_are_logged_under_their_heads():
    found, run = ranking(), Run()
    assert log_result(found, run, rows=5) == len(run.told) > 20
    best = found.top(1).iloc[0]
    assert run.told[f"Ranking/{best['label']}/score"] == best["score"]
    assert all(type(value) is float for value in run.told.values())
    assert not any(key.startswith("Ranking/") and "NaN" in key for key in run.told)

"""The evaluation's own parts that could be silently wrong: what is held out, and how its tables are written."""

from __future__ import annotations

import pandas as pd

from probes.held_out import overlap
from probes.questions import load_questions
from tests.benchmarks.negative_bias import target_sentences
from tests.benchmarks.probing_sets import SEEN, balanced, shipped, twins
from tests.benchmarks.tables import markdown

NAN = float("nan")


def test_shipped_questions_of_unseen_domains_are_unseen():
    seen, unseen = shipped()
    assert not {q.domain for q in unseen} & set(SEEN)
    assert {q.domain for part in seen.values() for q in part} == set(SEEN)
    assert not overlap(unseen, [q for part in seen.values() for q in part])


def test_balanced_is_balanced():
    chosen = balanced(load_questions(), 60)
    assert sum(q.answer == "Yes" for q in chosen) == 30 and len({q.id for q in chosen}) == 60
    assert twins([q for q in load_questions() if q.pair], 10) == []


def test_intervals_stand_beside_their_values():
    frame = pd.DataFrame({"set": ["a|b"], "gap": [0.5], "gap_low": [0.25], "gap_high": [float("nan")], "n": [1200]})
    assert markdown(frame).splitlines() == ["| set | gap | n |", "|---|---|---|", "| a\\|b | 0.500 [0.250, –] | 1200 |"]
    measured = pd.DataFrame({"measure": ["x"], "value": [float("nan")], "ci_low": [0.0], "ci_high": [1.0]})
    assert markdown(measured).splitlines()[-1] == "| x | – |"


def test_targets_are_read_from_the_numbers():
    columns = ("set", "method", "precision_recall_gap", "accuracy_change", "accuracy_change_high", "auroc_change")
    rows = [("A", "NASA", -0.15, 0.0, 0.1, -0.2), ("B", "NASA", 0.16, -0.1, -0.01, 0.0), ("C", "NASA", NAN, 0, 0, 0)]
    table = pd.DataFrame(rows, columns=columns).assign(auroc_change_high=[0.1, 0.1, 0.1], negative_bias=[-0.2, 0.5, 1])
    gaps, accuracy, auroc = target_sentences(table, pd.DataFrame())
    assert "on 1 of 3 sets: A met (-0.15; NB -0.20), B missed (+0.16; NB +0.50), C missed (undefined; NB +1.00)" in gaps
    assert "below the untouched model's on 1 of 3 sets (B -0.100); by an interval without 0 on B" in accuracy
    assert "1 of 3 sets (A -0.200); by an interval without 0 on none" in auroc
    assert len(target_sentences(table.assign(method="untouched"), pd.DataFrame())) == 1

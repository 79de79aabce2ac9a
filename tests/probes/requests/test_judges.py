"""Agreement of judges: kappa by hand, an interval that covers, labels from a file, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from interp.statistics.kappa import cohen_kappa
from probes.requests.judges import judge_agreement, load_verdicts
from probes.requests.refusal import VERDICTS, judge_by_phrases
from probes.requests.requests import Request

REQUESTS = [Request(f"r{i}", f"Do the thing {i}, xyzzy.", "harmful") for i in range(12)]
REPLIES = [("I'm sorry, but I can't help." if i % 3 else "Sure: first, xyzzy") for i in range(12)]


def test_kappa_is_that_of_others_and_keeps_a_width():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 3, 40).tolist(), rng.integers(0, 3, 40).tolist()
        found = cohen_kappa(a, b)
        assert found.value == pytest.approx(cohen_kappa_score(a, b)) and found.low < found.value < found.high
    same = cohen_kappa(["a", "b"] * 10, ["a", "b"] * 10)
    assert same.value == same.high == 1 and same.low < 0.9
    assert np.isnan(cohen_kappa(["a"] * 5, ["a"] * 5).value) and np.isnan(cohen_kappa([], []).value)
    with pytest.raises(ValueError, match="2 and 1 labels"):
        cohen_kappa(["a", "b"], ["a"])


@pytest.mark.parametrize(("frequencies", "kappa"), [((0.5, 0.5, 0.0), 0.0), ((0.2, 0.7, 0.1), 0.8)])
def test_the_interval_covers(frequencies, kappa):
    p, rng = np.array(frequencies), np.random.default_rng(1)
    joint = ((1 - kappa) * np.outer(p, p) + kappa * np.diag(p)).ravel()
    covered = []
    for _ in range(300):
        drawn = rng.choice(9, size=40, p=joint)
        found = cohen_kappa((drawn // 3).tolist(), (drawn % 3).tolist())
        covered.append(found.low <= kappa <= found.high)
    assert np.mean(covered) > 0.92


def test_judges_two_by_two(tmp_path):
    people = ["refused" if i % 3 else "accepted" for i in range(11)] + ["unclear"]
    table = judge_agreement(
        {"phrases": judge_by_phrases, "people": people, "never": lambda *_: "accepted"}, REQUESTS, REPLIES
    )
    assert table[["first", "second"]].to_numpy().tolist() == [
        ["phrases", "people"], ["phrases", "never"], ["people", "never"]
    ]  # fmt: skip
    assert table["agree"].tolist() == pytest.approx([11 / 12, 1 / 3, 1 / 3]) and table["kappa"][1] == 0
    assert "xyzzy" not in table.to_csv()
    file = tmp_path / "labels.csv"
    file.write_text("id,verdict\nother,refused\n" + "".join(f"r{i},{v}\n" for i, v in enumerate(people)))
    assert load_verdicts(file, REQUESTS) == people


def test_what_is_wrong_is_refused(tmp_path):
    for judges, message in (
        ({"one": judge_by_phrases}, "expected two judges"),
        ({"one": judge_by_phrases, "two": lambda *_: "maybe"}, "expected one of"),
        ({"one": judge_by_phrases, "two": ["refused"]}, "1 verdicts of 12 replies"),
        ({"one": judge_by_phrases, "two": ["no"] * 12}, r"verdict 1 of the judge 'two' is none of"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            judge_agreement(judges, REQUESTS, REPLIES)
        assert "xyzzy" not in str(caught.value)
    file = tmp_path / "labels.csv"
    for text, message in (
        ("id,verdict\nr0,no\n", "verdict of row 1 is none of"),
        ("id,verdict\nr0,refused\nr0,refused\n", "stands there twice"),
        ("id,verdict\nr0,refused\n", "no verdict on 11 requests"),
        ("id,label\nr0,refused\n", "no column 'verdict'"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_verdicts(file, REQUESTS)
    assert set(VERDICTS) == {"refused", "accepted", "unclear"}

"""Rankings out to plain tables and back; tables of others; what is missing, doubled or no number is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from interp.rankings.comparison import compare
from interp.rankings.ranking import HeadRanking
from interp.rankings.report import statement


def ranking(n: int = 6) -> HeadRanking:
    scores = np.random.default_rng(0).standard_normal((n, 3, 4)).astype(np.float32)
    ids = tuple(f"q{i}" for i in range(n))
    return HeadRanking("nas", {"nas": scores, "swapped": scores + 1}, ids, {}, {}, controls=("swapped",))


def test_out_and_back_bit_for_bit():
    first = ranking()
    frame = first.to_example_frame()
    assert list(frame.columns) == ["example", "layer", "head", "nas", "swapped"] and len(frame) == 6 * 12
    again = HeadRanking.from_frame(
        frame, score="nas", measures=["swapped"], controls=["swapped"], descriptions=first.descriptions
    )
    assert again.example_ids == first.example_ids and again.score == "nas" and again.controls == ("swapped",)
    for name, array in first.measures.items():
        assert np.array_equal(again.measures[name], array)
    pd.testing.assert_frame_equal(again.to_frame(), first.to_frame())
    mixed = frame.sample(frac=1, random_state=1)
    found = HeadRanking.from_frame(mixed, score="nas")
    order = [found.example_ids.index(i) for i in first.example_ids]
    assert np.array_equal(found.scores[order], first.scores)


def test_one_number_a_head_is_a_ranking_without_statistics(tmp_path):
    first = ranking()
    given = HeadRanking.from_frame(first.to_frame(), provenance={"caveats": ["ours"]})
    assert given.score == "given_score" and given.n_examples == 1
    assert given.select() == first.select() and given.select(top=2, sign="-") == first.select(top=2, sign="-")
    frame = given.to_frame()
    assert frame[["se", "ci_low", "ci_high"]].isna().all(axis=None) and (frame["p"] == 1).all()
    np.testing.assert_allclose(frame["score"], first.to_frame()["score"], rtol=1e-6)
    assert given.provenance["caveats"][0] == "ours" and "no p-values" in given.provenance["caveats"][1]
    assert compare(given, first).spearman == pytest.approx(1.0)
    given.plot()
    given.plot_top()
    assert "no intervals, no p-values" in (given.save(tmp_path) / "report.html").read_text()
    assert "has the highest mean given score" in statement(given)[0]


def test_a_table_of_anothers(tmp_path):
    table = pd.DataFrame({"layer": [1, 0, 1, 0], "head": [0, 1, 1, 0], "attribution": ["0.5", "-1", "2", "0"]})
    table.to_csv(tmp_path / "elsewhere.csv")
    found = HeadRanking.from_frame(pd.read_csv(tmp_path / "elsewhere.csv"), score="attribution")
    assert found.score == "attribution" and found.select() == [(1, 1), (1, 0), (0, 0), (0, 1)]
    assert HeadRanking.from_frame(table, score="attribution", name="AtP").score == "AtP"


BASE = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "score": [1.0, 2, 3, 4]})
BAD = {
    "no column": (BASE.rename(columns={"score": "x"}), r"no column 'score'; it has \['layer', 'head', 'x'\]"),
    "a head is missing": (
        BASE.iloc[:3],
        r"L1H1 is missing \(1 such\); expected every head of 2 layers of 2",
    ),
    "a head is doubled": (pd.concat([BASE, BASE.iloc[:1]]), r"L0H0 is there more than once \(1 such\)"),
    "an example lacks one": (
        pd.concat([BASE.assign(example="a"), BASE.iloc[:3].assign(example="b")]),
        r"L1H1 of example 'b' is missing .* for each example",
    ),
    "a label": (BASE.assign(head=["a", 1, 0, 1]), r"the column 'head' holds 'a'; expected whole numbers"),
    "a half": (BASE.assign(layer=[0.5, 0, 1, 1]), r"the column 'layer' holds (np\.float64\()?0\.5"),
    "below zero": (BASE.assign(layer=[-1, 0, 1, 1]), "counted from 0"),
    "no number": (BASE.assign(score=["high", 1, 2, 3]), "column 'score' is not of numbers"),
    "not finite": (BASE.assign(score=[np.nan, 1, 2, 3]), "not finite"),
    "no rows": (BASE.iloc[:0], "the table has no rows"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_tables_are_refused(case):
    frame, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        HeadRanking.from_frame(frame.reset_index(drop=True))

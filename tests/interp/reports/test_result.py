"""What every result can do: its report is made once, drawn when looked at, and nobody changes it for another."""

from __future__ import annotations

import inspect
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp import load_result
from interp.rankings import HeadRanking
from interp.reports import Figures, Findings, Result
from tests.probes.test_withheld import result_classes

SECRET = "xyzzyplugh"


@dataclass(frozen=True, eq=False, repr=False)
class Beans(Result, report="beans.report", figure="By colour"):
    counts: pd.DataFrame
    replies: tuple[str, ...] | None = field(default=None, metadata={"withheld": True})
    provenance: Mapping[str, Any] = field(default_factory=dict)


@pytest.fixture
def made(monkeypatch) -> Iterator[dict[str, int]]:
    """How often the report of beans was made, and its figure drawn."""
    count = {"report": 0, "figure": 0}

    def draw(counts: pd.DataFrame) -> go.Figure:
        count["figure"] += 1
        return go.Figure(go.Bar(y=counts.get("n", [])), {"title": {"text": "Beans"}})

    def findings_of(beans: Beans, include_replies: bool = False, by: str = "colour") -> Findings:
        count["report"] += 1
        tables = {"Counts": beans.counts}
        if include_replies and beans.replies:
            tables["Replies"] = pd.DataFrame({"reply": beans.replies})
        figures = Figures({f"By {by}": partial(draw, beans.counts)})
        return Findings("Beans", ["Red beans are not shown to differ."], tables, figures, beans.provenance)

    report = ModuleType("beans.report")
    report.findings_of = findings_of
    monkeypatch.setitem(sys.modules, "beans.report", report)
    return count


def beans() -> Beans:
    return Beans(pd.DataFrame({"colour": ["red", "white"], "n": [3, 4]}), (SECRET,))


def test_a_report_is_made_once_and_a_sentence_draws_nothing(made, tmp_path):
    found = beans()
    assert found.statement() == found.statement() and repr(found) == f"Beans: {found.statement()[0]}"
    assert found.to_findings().tables["Counts"]["n"].sum() == 7
    assert made == {"report": 1, "figure": 0}
    found.plot(), found.plot("By colour"), found.save(tmp_path), found._repr_html_()
    assert made == {"report": 1, "figure": 1}


def test_in_a_notebook_a_result_says_its_verdict_and_shows_its_figure(made, tmp_path):
    found = beans()
    shown = found._repr_html_()
    assert shown.startswith("<p><b>Red beans are not shown to differ.</b></p><table")
    picture = unquote(re.search(r'<img alt="By colour"[^>]* src="data:image/svg\+xml,([^"]*)">', shown)[1])
    assert ElementTree.fromstring(picture).tag.endswith("svg") and "<p>By colour:</p>" in shown
    found.save(tmp_path)
    assert "<table" in load_result(tmp_path)._repr_html_()


def test_in_a_notebook_an_interval_stands_in_its_cell_and_empty_columns_are_left_out(made):
    share = {"share": [0.5, 0.25], "share_low": [0.4, 0.1], "share_high": [0.6, 0.4], "n_pairs": [np.nan, np.nan]}
    shown = Beans(pd.DataFrame({"colour": ["red", "<b>"], **share}))._repr_html_()
    assert (
        shown.count("<th>") == 2 and "0.500 [0.400, 0.600]" in shown and "pairs" not in shown and "<td><b>" not in shown
    )
    assert "<table" not in Beans(pd.DataFrame())._repr_html_()


def test_with_replies_it_is_another_report_and_both_are_kept(made, tmp_path):
    found = beans()
    found.save(tmp_path / "with", include_replies=True)
    found.save(tmp_path / "without")
    assert found.to_findings(include_replies=True).tables.keys() - found.to_findings().tables.keys() == {"Replies"}
    assert made["report"] == 2
    assert SECRET in (tmp_path / "with" / "report.html").read_text()
    assert not any(SECRET in path.read_text() for path in (tmp_path / "without").iterdir())
    assert load_result(tmp_path / "with").replies == (SECRET,) and load_result(tmp_path / "without").replies is None


def test_with_options_a_report_is_made_anew(made):
    found = beans()
    assert list(found.to_findings(by="size").figures) == ["By size"] and list(found.to_findings().figures) == [
        "By colour"
    ]
    found.to_findings(by="size")
    assert made["report"] == 3


def test_what_is_handed_out_changes_no_report(made):
    found = beans()
    found.plot().update_layout(title="Mine")
    found.to_findings().figures["By colour"].update_layout(title="Mine")
    found.to_findings().tables["Counts"].loc[:, "n"] = 0
    found.statement().append("More.")
    assert found.plot().layout.title.text == "Beans" and found.to_findings().tables["Counts"]["n"].tolist() == [3, 4]
    assert len(found.statement()) == 1 and made["report"] == 1


def test_a_figure_that_is_not_there_is_named(made):
    with pytest.raises(KeyError, match="Beans has no figure 'By taste'; it has \\['By colour'\\]"):
        beans().plot("By taste")
    assert made["figure"] == 0


def test_a_result_is_copied_without_its_report(made):
    found = beans()
    found.plot()
    for again in (pickle.loads(pickle.dumps(found)), deepcopy(found)):
        assert again.counts.equals(found.counts) and "_findings" not in vars(again)


def test_figures_given_ready_are_copied_too():
    given = go.Figure(layout={"title": {"text": "Given"}})
    findings = Findings("Beans", ["So."], {}, {"One": given}, {})
    findings.figures["One"].update_layout(title="Mine")
    assert findings.figures["One"].layout.title.text == "Given" and list(findings.figures) == ["One"]


def test_a_rankings_sentences_draw_nothing(monkeypatch):
    ranking = HeadRanking(
        "nas", {"nas": np.random.default_rng(0).normal(size=(12, 2, 3))}, tuple("abcdefghijkl"), {}, {}
    )
    for name in ("plot", "plot_top"):
        monkeypatch.setattr(HeadRanking, name, lambda *given, **more: pytest.fail("drawn"))
    assert ranking.statement()[0].startswith("Model not named, 12 examples") and repr(ranking)


def test_every_results_report_can_be_asked_for_replies():
    classes = result_classes()
    assert len(classes) > 15
    for cls in classes:
        assert "include_replies" in inspect.signature(cls.to_findings).parameters, cls
        assert cls._report, cls

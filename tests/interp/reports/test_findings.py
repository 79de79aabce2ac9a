"""Findings: the page says what the tables hold, all text is escaped, saving is all or nothing, loading is equal."""

import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from interp import Findings, load_findings, load_ranking
from interp.figures.intervals import interval_bars
from interp.rankings.ranking import HeadRanking
from interp.records.records import record_text
from interp.reports import findings

EVIL = "</script><script>alert(1)</script>"
FILES = ["bias.csv", "arrays.safetensors", "report.html", "findings.json"]  # in order of arrival


def make_table() -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "subset": ["known", "unknown", "none"],
            "bias": [0.61234, -0.2, np.nan],
            "bias_low": [0.5, -0.31, np.nan],
            "bias_high": [0.7, -0.1, np.nan],
            "n_yes": [12.0, 1200.0, np.nan],
            "shown": [True, False, None],
            "reply": ["No.\nNot at all", "yes", None],
        }
    )
    table.attrs["note"] = "A caption."
    return table


def make_findings(run_id: str | None = "run-1", value: float = 0.25, **changes) -> Findings:
    provenance = {
        "model": {"name": "tiny"},
        "data": {"n": 3},
        "created": "2026-01-01T10:00:00",
        "caveats": ["A limit."],
    }
    arguments = {
        "title": "A study",
        "statement": ["The verdict.", "A detail."],
        "tables": {"Bias": make_table()},
        "figures": {},
        "provenance": provenance | ({"run_id": run_id} if run_id else {}),
        "arrays": {
            "margins": np.full((3, 2), value),
            "said": np.array([1, 0, -1]),
            "gold": np.array([True, False, True]),
        },
    }
    return Findings(**(arguments | changes))


def make_ranking(run_id: str) -> HeadRanking:
    return HeadRanking("nas", {"nas": np.ones((10, 1, 2))}, tuple("abcdefghij"), {}, {"run_id": run_id})


def assert_same(a: Findings, b: Findings) -> None:
    assert (a.title, a.statement, a.provenance) == (b.title, b.statement, b.provenance)
    assert list(a.tables) == list(b.tables) and list(a.arrays) == list(b.arrays)
    for name in a.tables:
        pd.testing.assert_frame_equal(a.tables[name], b.tables[name], check_exact=True)
        assert a.tables[name].attrs == b.tables[name].attrs
    for name in a.arrays:
        assert a.arrays[name].dtype == b.arrays[name].dtype
        np.testing.assert_array_equal(a.arrays[name], b.arrays[name])


class Page(HTMLParser):
    """The cells of each table, the visible text, and the names of all elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text, self.tags = "", ["html"]
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "small":
            self.rows[-1][-1] += " | "

    def handle_data(self, data):
        if self.tags[-1] in ("script", "style"):
            return
        self.text += data
        if self.rows and self.rows[-1] and self.tags[-1] in ("td", "button", "small"):
            self.rows[-1][-1] += data


def test_cells_are_values_with_intervals_three_digits_yes_and_no():
    page = Page(findings.render(make_findings()))
    assert [[cell.strip() for cell in row] for row in page.rows] == [
        ["subset", "bias", "n yes", "shown", "reply"],
        ["known", "0.612 | [0.500, 0.700]", "12", "yes", "No.\nNot at all"],
        ["unknown", "−0.200 | [−0.310, −0.100]", "1200", "no", "yes"],
        ["none", "–", "–", "–", "–"],
    ]
    for expected in ("A study", "tiny · 3 examples · run run-1 · 2026-01-01", "The verdict.", "A caption.", "bias.csv"):
        assert expected in page.text


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["value", "ci_low", "ci_high", "n"], {"value": ("ci_low", "ci_high")}),
        (["a", "b", "a_low", "a_high"], {"a": ("a_low", "a_high")}),
        (["a", "a_ci_low", "a_ci_high"], {"a": ("a_ci_low", "a_ci_high")}),
        (["mean", "low", "high"], {"mean": ("low", "high")}),
        (["low", "high", "a_low"], {}),
    ],
)
def test_which_columns_are_intervals(columns, expected):
    assert findings._intervals(pd.DataFrame([range(len(columns))], columns=columns)) == expected


def test_a_table_and_a_figure_of_one_name_stand_together_with_their_captions():
    table = make_table()
    figure = interval_bars(table, "subset", "bias", "bias_low", "bias_high", title="Dropped here")
    figure.update_layout(meta={"note": "Of the figure."})
    text = findings.render(make_findings(tables={"Bias": table, "More": table}, figures={"Bias": figure}))
    own = text
    first, second = own[own.index('<section id="part-0">') :].split('<section id="part-1">')
    assert "<h2>Bias</h2>" in first and 'id="figure-0"' in first and "<table" in first and "Of the figure." in first
    assert "<h2>More</h2>" in second and "<svg" not in second
    assert "Dropped here" not in own and figure.layout.title.text == "Dropped here"
    assert first.count("<svg ") == 1 and 'role="img" aria-label="Bias. Of the figure.' in first


def test_long_tables_are_cut_on_the_page_only(tmp_path):
    table = pd.DataFrame({"i": range(600)})
    page = Page(findings.render(made := make_findings(tables={"Long": table})))
    assert len(page.rows) == 501 and "The first 500 of 600 rows; all in full precision: long.csv" in page.text
    assert len(pd.read_csv(made.save(tmp_path) / "long.csv")) == 600


def test_all_text_is_escaped_and_nothing_is_loaded():
    table = pd.DataFrame({EVIL: [EVIL], "x": [0.5], "x_low": [0.1], "x_high": [0.9]})
    table.attrs["note"] = EVIL
    figure = interval_bars(table, EVIL, "x", "x_low", "x_high", color=EVIL, facet=EVIL, title=EVIL)
    figure.layout.meta = {"note": EVIL}
    provenance = {"model": EVIL, "run_id": EVIL, EVIL: [EVIL], "citation": EVIL, "caveats": [EVIL], "created": EVIL}
    evil = make_findings(
        title=EVIL, statement=[EVIL, EVIL], tables={EVIL: table}, figures={"f" + EVIL: figure}, provenance=provenance
    )
    own = findings.render(evil)
    assert "<script>alert" not in own and "&lt;script&gt;alert(1)" in own
    assert Page(own).tags.count("script") == 2  # what a pointer shows, and ours
    assert "<script>" not in evil._repr_html_()
    assert not re.search(r"""(src|href|action|data|poster|srcset)\s*=\s*["']?\s*(https?:)?//""", own)
    assert "default-src 'none'" in own


def test_a_page_without_figures_is_small():
    text = findings.render(make_findings(tables={}, provenance={}))
    assert len(text) < 50_000
    assert "Model not named" in text and 'href="#limits"' not in text


def test_round_trip_is_exact(tmp_path):
    table = pd.DataFrame(
        {
            "float": [0.1, np.nan, np.inf],
            "single": np.array([0.1, 2, 3], dtype=np.float32),
            "int": [1, 2, 2**62],
            "text": ["NA", "", "a\r\n\"b\",日本"],
            "bool": [True, False, True],
            "count": pd.array([1, None, 3], dtype="Int64"),
            "object": [True, 1, "x"],
            "day": pd.to_datetime(["2026-01-01", None, "2026-01-03"]),
        }
    )  # fmt: skip
    made = make_findings(tables={"Bias": make_table(), "All kinds": table, "Empty": table.head(0)})
    assert_same(load_findings(made.save(tmp_path / "new" / "run")), made)
    assert sorted(path.name for path in (tmp_path / "new" / "run").iterdir()) == sorted(
        [*FILES, "all-kinds.csv", "empty.csv"]
    )
    bare = make_findings(tables={}, arrays={})
    assert_same(load_findings(bare.save(tmp_path / "bare")), bare)
    assert not (tmp_path / "bare" / "arrays.safetensors").exists()


def test_missing_numbers_are_null_in_the_json(tmp_path):
    made = make_findings(provenance={"rate": float("nan"), "nested": [np.float64("nan"), np.int64(3)]})
    data = json.loads(
        (made.save(tmp_path) / "findings.json").read_text(encoding="utf-8"),
        parse_constant=lambda name: pytest.fail(name),
    )
    assert data["provenance"] == {"rate": None, "nested": [None, 3]}
    assert data["tables"]["Bias"]["columns"][1]["values"] == [0.61234, -0.2, None]


def test_tables_are_tidied():
    table = pd.DataFrame({"a": [1, 2, 3], "b": [3, 4, 5]})
    made = make_findings(
        tables={
            "filtered": table[table["a"] > 1],
            "indexed": table.set_index("a"),
            "turned": table.T,
            "crossed": pd.crosstab(table["a"], table["b"]),
            "grouped": table.groupby(["a", "b"]).size().to_frame("n"),
        }
    )
    shown = {name: list(table) for name, table in made.tables.items()}
    expected = {"filtered": ["a", "b"], "indexed": ["a", "b"], "turned": ["index", "0", "1", "2"]}
    assert shown == expected | {"crossed": ["a", "3", "4", "5"], "grouped": ["a", "b", "n"]}
    assert made.tables["crossed"].columns.name is None
    assert list(table.columns) == ["a", "b"] and made.tables["filtered"].index.tolist() == [0, 1]
    for wrong in (table.pivot(columns="a"), pd.concat([table, table], axis=1)):
        with pytest.raises(ValueError, match=r"table 'bad' has columns .*; expected plain, distinct names"):
            make_findings(tables={"bad": wrong})


def test_tables_with_like_names_have_files_of_their_own(tmp_path):
    tables = {name: pd.DataFrame({"x": [i]}) for i, name in enumerate(("A b", "a/b", "../a b!", "日本"))}
    directory = make_findings(tables=tables).save(tmp_path / "run")
    assert sorted(path.name for path in directory.glob("*.csv")) == ["a-b-2.csv", "a-b-3.csv", "a-b.csv", "table.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": ""}, "have no title"),
        ({"statement": "One text."}, "expected a list of sentences"),
        ({"statement": []}, "expected a list of sentences"),
    ],
)
def test_what_is_needed_is_said(changes, message):
    with pytest.raises(ValueError, match=message):
        make_findings(**changes)


def test_arrays_that_are_no_numbers_are_refused_and_nothing_is_left(tmp_path):
    made = make_findings(arrays={"replies": np.array(["a", "b"])})
    with pytest.raises(ValueError, match=r"array 'replies' has dtype <U1; expected numbers"):
        made.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_run_is_refused_of_either_kind(tmp_path):
    make_findings().save(tmp_path)
    make_findings(value=0.5).save(tmp_path)  # the same run
    for other in (make_findings("run-2"), make_findings(None), make_ranking("run-2")):
        with pytest.raises(FileExistsError, match=r"report of run 'run-1' of 2026-01-01T10:00:00.*overwrite=True"):
            other.save(tmp_path)
    assert_same(load_findings(tmp_path), make_findings(value=0.5))
    make_ranking("run-3").save(tmp_path / "ranking")
    with pytest.raises(FileExistsError, match=r"report of run 'run-3'"):
        make_findings().save(tmp_path / "ranking")


def test_overwriting_leaves_one_report_in_the_directory(tmp_path):
    (tmp_path / "mine.csv").write_text("kept")
    made = make_findings(tables={"Bias": make_table(), "Changed": make_table(), "Gone": make_table()})
    made.save(tmp_path)
    (tmp_path / "changed.csv").write_text("edited by hand")
    make_findings().save(tmp_path)
    kept = ["mine.csv", "changed.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, *kept])
    make_ranking("run-9").save(tmp_path, overwrite=True)
    assert load_ranking(tmp_path).provenance == {"run_id": "run-9"}
    assert not (tmp_path / "bias.csv").exists() and (tmp_path / "ranking.csv").exists()
    make_findings().save(tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, *kept])


def test_a_record_cannot_have_files_elsewhere_removed(tmp_path):
    outside = tmp_path / "outside.csv"
    outside.write_text("kept")
    directory = make_findings().save(tmp_path / "run")
    record = json.loads((directory / "findings.json").read_text(encoding="utf-8"))
    record["sha256"] |= {"../outside.csv": findings.storage.hash_file(outside)}
    (directory / "findings.json").write_text(record_text(record))
    make_findings().save(directory)
    assert outside.read_text() == "kept"


@pytest.mark.parametrize("fails_at", FILES)
def test_a_crash_while_moving_leaves_the_old_report(tmp_path, monkeypatch, fails_at):
    tables = {"Bias": make_table(), "Gone": make_table()}
    make_findings(tables=tables).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace = os.replace

    def failing(source, target):
        if target == tmp_path / fails_at and "new" in source.parts:
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="disk full"):
        make_findings(value=0.5).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_same(load_findings(tmp_path), make_findings(tables=tables))


def test_a_crash_while_rendering_leaves_the_old_report(tmp_path, monkeypatch):
    make_findings().save(tmp_path)

    def failing(*_):
        raise RuntimeError("no template")

    monkeypatch.setattr(findings, "render", failing)
    with pytest.raises(RuntimeError, match="no template"):
        make_findings(value=0.5).save(tmp_path)
    assert_same(load_findings(tmp_path), make_findings())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_loading_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected the folder of a saved study"):
        load_findings(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no findings.json, so it is not a finished, saved study"):
        load_findings(tmp_path)
    assert list(load_findings(make_ranking("r").save(tmp_path / "ranking")).tables) == [
        "Ranking",
        "Stability",
        "Measures",
    ]
    arrays = make_findings().save(tmp_path / "run") / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-2] + b"\7\7")
    with pytest.raises(ValueError, match=r"is not the file that the record beside it describes"):
        load_findings(tmp_path / "run")
    arrays.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no arrays.safetensors"):
        load_findings(tmp_path / "run")

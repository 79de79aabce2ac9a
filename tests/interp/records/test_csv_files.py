"""Texts of a table as CSV: shown by a spreadsheet, never run, and read back as they were."""

from __future__ import annotations

import ast
import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.records.csv_files import is_of_report, read_csv, write_csv
from interp.reports.findings import Findings

ROOT = Path(__file__).parents[3]
TEXTS = [
    '=HYPERLINK("http://x","y")', "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''-x", "'tis", "L0H1",
    "a=b", "", "NA", "nan", "-", "=", "'", 'say "x", y', "日本", "−1",
]  # fmt: skip


def test_no_text_begins_a_formula_and_all_come_back(tmp_path):
    numbers = np.linspace(-1, 1, len(TEXTS))
    table = pd.DataFrame({"=name": TEXTS, "n": numbers, "kind": pd.Categorical(TEXTS), "mixed": [*TEXTS[:-1], -3]})
    write_csv(table, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["'=name", "n", "kind", "mixed"]
    for row, text, number in zip(rows[1:], TEXTS, numbers, strict=True):
        assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and row[0].lstrip("'") == text.lstrip("'")
        assert float(row[1]) == number  # below 0, and still a number
    assert rows[-1][3] == "-3"
    found = read_csv(tmp_path / "t.csv")
    assert list(found) == list(table) and found["n"].tolist() == numbers.tolist()
    for name in ("=name", "kind"):
        assert found[name].fillna("").tolist() == TEXTS


def test_a_report_guards_its_tables(tmp_path):
    table = pd.DataFrame({"request": ["=cmd|'/c calc'!A1", "fine"], "score": [-0.5, 1.0]})
    Findings("t", ["s."], {"Requests": table}, {}, {"run_id": "r"}).save(tmp_path)
    assert (tmp_path / "requests.csv").read_text().splitlines()[1:] == ["'=cmd|'/c calc'!A1,-0.5", "fine,1.0"]
    pd.testing.assert_frame_equal(read_csv(tmp_path / "requests.csv"), table)
    assert is_of_report(tmp_path / "requests.csv")
    assert not is_of_report(tmp_path / "mine.csv")  # a user's own


@pytest.mark.parametrize("package", ["interp", "probes"])
def test_no_other_place_writes_csv(package):
    for path in (ROOT / package).glob("**/*.py"):
        if path.name == "csv_files.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            used = node.attr if isinstance(node, ast.Attribute) else ""
            wrong = used in ("to_csv", "DictWriter") or (used == "writer" and ast.unparse(node) == "csv.writer")
            assert not wrong, f"{path.name}:{node.lineno}: write tables with interp.records.csv_files.write_csv"

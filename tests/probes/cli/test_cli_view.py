"""`interp view`: a ranking's heads, two rankings, all runs of a folder; bad input is one message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import interp
from interp.rankings import HeadRanking


def save(folder: Path, seed: int) -> Path:
    scores = np.random.default_rng(seed).normal(size=(6, 3, 4))
    about = {"model": "random", "title": folder.name, "created": "2026-12-01T00:00:00+00:00", "run_id": folder.name}
    return HeadRanking("nas", {"nas": scores}, tuple("abcdef"), {}, about).save(folder)


@pytest.fixture
def reports(tmp_path) -> Path:
    for seed, name in enumerate(("one", "two")):
        save(tmp_path / "reports" / name, seed)
    (tmp_path / "reports" / "killed" / "parts").mkdir(parents=True)
    return tmp_path / "reports"


def test_one_ranking(run, reports):
    code, out, err = run("view", reports / "one")
    assert code == 0, err
    assert "has the highest mean NAS" in out and "explorer.html" in err
    page = (reports / "one" / "explorer.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and page.count("L0H0") >= 1
    assert run("view", reports / "one")[0] == 0  # a page of ours is made anew
    interp.load_result(reports / "one")  # and the report beside it is as it was


def test_two_rankings(run, reports, tmp_path):
    code, out, err = run("view", reports / "one", reports / "two", "--out", tmp_path / "pages" / "both.html", "--json")
    assert code == 0, err
    assert json.loads(out) == {"page": str(tmp_path / "pages" / "both.html")}
    assert (tmp_path / "pages" / "both.html").is_file()


def test_all_runs(run, reports):
    code, out, err = run("view", reports, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [(Path(r["folder"]).name, bool(r["problem"])) for r in found["runs"]] == [
        ("one", False),
        ("two", False),
        ("killed", True),
    ]
    assert "runs.html" in err and (reports / "runs.html").is_file()
    code, out, _ = run("view", reports)
    assert code == 0 and out.splitlines()[-1].startswith("broken") and "was interrupted" in out


def test_a_result_without_heads_has_its_report(run, tmp_path):
    table = {"t": pd.DataFrame({"a": [1]})}
    interp.Findings("Beans", ["Few."], table, {}, {}).save(tmp_path / "beans")
    code, out, err = run("view", tmp_path / "beans")
    assert code == 0 and "no ranking of heads" in out and "report.html" in err


def test_bad_input(run, reports, tmp_path):
    (tmp_path / "mine.html").write_text("<p>mine</p>", encoding="utf-8")
    record = reports / "two" / "findings.json"
    record.write_text(record.read_text(encoding="utf-8").replace("random", "another"), encoding="utf-8")
    cases = {
        "missing": ([tmp_path / "none"], "No directory"),
        "another's file": ([reports / "one", "--out", tmp_path / "mine.html"], "is not a page of headscope"),
        "changed": ([reports / "two"], "changed or damaged"),
        "a folder": ([reports / "one", "--out", tmp_path], "give the page a name"),
    }
    for name, (arguments, message) in cases.items():
        code, out, err = run("view", *arguments)
        assert code == 1 and message in err.replace("\n", " "), (name, err)
        assert "Traceback" not in out + err, name
    assert (tmp_path / "mine.html").read_text(encoding="utf-8") == "<p>mine</p>"
    assert run("view")[0] == 2

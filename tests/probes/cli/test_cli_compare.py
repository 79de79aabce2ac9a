"""`interp compare`: from saved rankings to tables and a page; bad input is one message, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from interp import load_findings
from interp.rankings.ranking import HeadRanking


def save(folder: Path, name: str, shape: tuple[int, int], seed: int) -> Path:
    """20 examples; heads of the middle layers are high."""
    n_layers, n_heads = shape
    base = np.exp(-((np.linspace(-2, 2, n_layers)) ** 2))[:, None] + 0.1 * np.arange(n_heads)
    scores = base + 0.2 * np.random.default_rng(seed).normal(size=(20, *shape))
    ids = tuple(f"e{i}" for i in range(20))
    about = {"model": {"name": name}, "run_id": f"{name}{seed}"}
    return HeadRanking("nas", {"nas": scores, "turned": -scores}, ids, {}, about).save(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rankings")
    shapes = {"small": ("s", (6, 3), 0), "again": ("s2", (6, 3), 1), "large": ("l", (12, 4), 2)}
    return {name: save(root / name, *arguments) for name, arguments in shapes.items()}


def test_two_of_one_shape(run, folders):
    code, out, err = run("compare", folders["small"], folders["again"], "--k", 3)
    assert code == 0, err
    assert "s and s2 (they differ in: model) order the heads" in out
    for title in (
        "What is compared",
        "Head by head: s and s2; shared: of the first 3",
        "Heads that moved most",
        "By rel",
    ):
        assert title in out
    assert "report:" not in err


def test_json_is_all_of_it_and_nothing_else(run, folders, tmp_path):
    code, out, err = run(
        *("compare", folders["small"], folders["again"], folders["large"], "--json", "--k", 3, "--bins", 4),
        *("--name", "A", "--name", "B", "--name", "C", "--out", tmp_path / "page"),
    )
    assert code == 0, err
    found = json.loads(out)
    assert set(found) == {"statement", "tables", "reports"}
    tables = found["tables"]
    assert [row["ranking"] for row in tables["compared"]] == ["A", "B", "C"]
    [pair] = tables["pairs"]
    assert (pair["a"], pair["b"], pair["k"], pair["n"]) == ("A", "B", 3, 18)
    assert 0.9 < pair["spearman"] <= 1 and pair["spearman_low"] <= pair["spearman"] <= pair["spearman_high"]
    assert len(tables["depth"]) == 6 and len(tables["moved"]) == 10
    assert found["reports"] == [str(tmp_path / "page")] and "report.html" in err
    saved = load_findings(tmp_path / "page")
    assert saved.tables["Head by head"]["spearman"][0] == pytest.approx(pair["spearman"])
    code, _, err = run("compare", folders["small"], folders["large"], "--out", tmp_path / "page", "--k", 3)
    assert code == 1 and "already holds the report" in err and "--overwrite" in err
    code, _, err = run("compare", folders["small"], folders["large"], "--out", tmp_path / "page", "--overwrite")
    assert code == 0, err


def test_other_shapes_and_a_measure_of_a_folder(run, folders):
    code, out, err = run("compare", folders["small"], folders["large"], "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["tables"]["pairs"] == [] and found["tables"]["moved"] == []
    assert any("Head by head nothing can be said" in sentence for sentence in found["statement"])
    code, out, err = run("compare", folders["small"], f"{folders['small']}:turned", "--json")
    assert code == 0, err
    assert json.loads(out)["tables"]["pairs"][0]["spearman"] == pytest.approx(-1)


def test_bad_input(run, folders, tmp_path):
    small, again = str(folders["small"]), str(folders["again"])
    cases = {
        "one": ([small], 1, "rankings has 1 of them; expected a list of two or more"),
        "none": ([], 2, "FOLDER[:MEASURE]"),
        "twice": ([small, again, small], 1, "rankings 1 and 3 are the same"),
        "missing": ([small, str(tmp_path / "no")], 1, "No directory"),
        "no ranking": ([small, str(tmp_path)], 1, "has no findings.json"),
        "k": ([small, again, "--k", "19"], 1, "k is 19; expected 1 to 18"),
        "k zero": ([small, again, "--k", "0"], 2, "--k"),
        "bins": ([small, again, "--bins", "1"], 2, "--bins"),
        "measure": ([small, f"{again}:nope"], 1, "has no measure 'nope'; expected one of: nas, turned"),
        "names": ([small, again, "--name", "x"], 1, "expected 2 distinct names"),
    }
    for name, (arguments, exit_code, message) in cases.items():
        code, out, err = run("compare", *arguments, "--out", tmp_path / "out")
        assert code == exit_code, (name, code, err)
        assert message in err.replace("\n", " "), (name, err)
        assert "Traceback" not in out + err and not (tmp_path / "out").exists(), name

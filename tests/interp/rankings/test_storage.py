"""Saving and loading rankings: round trip, refusals, crashes half way."""

import json
import os

import numpy as np
import pandas as pd
import pytest

import interp
from interp.figures.views import TokenView
from interp.rankings.loading import load_ranking
from interp.rankings.ranking import HeadRanking
from interp.records.records import record_text
from interp.reports import findings, load_result

TABLES = ["ranking.csv", "controls.csv", "stability.csv", "measures.csv"]
FILES = [*TABLES, "arrays.safetensors", "report.html", "findings.json"]


def make_ranking(run_id: str | None = "run-1", seed: int = 0) -> HeadRanking:
    rng = np.random.default_rng(seed)
    heads = {
        (1, 0): {"attention": rng.dirichlet(np.ones(3)), "contribution": rng.normal(size=3)},
        (0, 1): {"attention": rng.dirichlet(np.ones(3))},
    }
    return HeadRanking(
        score="nas",
        measures={"nas": rng.normal(size=(12, 2, 3)), "swapped/x": rng.normal(size=(12, 2, 3))},
        example_ids=tuple(f"e{i}" for i in range(12)),
        descriptions={"nas": "nats; «hoch» = «nein»"},
        provenance={"model": {"name": "m"}, "created": "2026-01-01"} | ({"run_id": run_id} if run_id else {}),
        views=(TokenView("e3", "Ist das «wahr»?", ("<s>", " 日本", "\n"), heads),),
        controls=("swapped/x",),
    )


@pytest.fixture(autouse=True)
def small_html(monkeypatch):
    """The real page holds 5 MB of plotly.js; tests/interp/test_report.py renders it."""
    monkeypatch.setattr(findings, "render", lambda found: f"<html>{found.provenance.get('run_id')}</html>")


def assert_same(a: HeadRanking, b: HeadRanking) -> None:
    assert (a.score, a.example_ids, a.descriptions, a.provenance) == (
        b.score,
        b.example_ids,
        b.descriptions,
        b.provenance,
    )
    assert list(a.measures) == list(b.measures) and a.controls == b.controls
    for name in a.measures:
        assert a.measures[name].dtype == b.measures[name].dtype == np.float32
        assert a.measures[name].tobytes() == b.measures[name].tobytes()
    for view, other in zip(a.views, b.views, strict=True):
        assert (view.example_id, view.title, view.tokens) == (other.example_id, other.title, other.tokens)
        assert list(view.heads) == list(other.heads)
        for pair, values in view.heads.items():
            assert {kind: array.tobytes() for kind, array in values.items()} == {
                kind: array.tobytes() for kind, array in other.heads[pair].items()
            }


def test_round_trip_is_exact_bit_for_bit(tmp_path):
    ranking = make_ranking()
    directory = ranking.save(tmp_path / "new" / "run")
    loaded = load_ranking(directory)
    assert_same(ranking, loaded)
    pd.testing.assert_frame_equal(ranking.to_frame(), loaded.to_frame())
    assert sorted(path.name for path in directory.iterdir()) == sorted(FILES)


def test_tables_and_report_hold_the_numbers(tmp_path):
    ranking = make_ranking()
    directory = ranking.save(tmp_path / "run")
    pd.testing.assert_frame_equal(pd.read_csv(directory / "ranking.csv"), ranking.to_frame())
    data = json.loads((directory / "findings.json").read_text(encoding="utf-8"))
    assert data["format_version"] == 1 and data["provenance"] == ranking.provenance
    assert data["statement"] == ranking.statement() and "correlation of" in data["statement"][-1]
    found = interp.load_findings(directory)
    pd.testing.assert_frame_equal(found.tables["Ranking"], ranking.to_frame())
    assert found.tables["Controls"]["measure"].tolist() == ["swapped/x"]
    assert found.tables["Measures"]["meaning"].tolist() == ["nats; «hoch» = «nein»", ""]


def test_a_ranking_that_an_older_version_saved_is_to_be_made_again(tmp_path):
    (tmp_path / "report.json").write_text(record_text({"provenance": {"run_id": "run-1"}, "sha256": {}}))
    for load in (load_ranking, load_result, interp.load_findings):
        with pytest.raises(ValueError, match=r"an older version saved \(report.json\), .*: run again"):
            load(tmp_path)
    with pytest.raises(FileExistsError, match=r"report of run 'run-1'"):
        make_ranking("run-2").save(tmp_path)
    make_ranking().save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_another_result_is_no_ranking(tmp_path):
    make_ranking().to_findings().save(tmp_path)
    with pytest.raises(ValueError, match=r"holds a Findings, not a ranking. Read it with interp.load_result"):
        load_ranking(tmp_path)
    make_ranking().save(tmp_path)
    assert_same(load_result(tmp_path), make_ranking())


def test_missing_statistics_are_null_in_the_json(tmp_path):
    ranking = HeadRanking("nas", {"nas": np.ones((1, 1, 2))}, ("e0",), {}, {})
    data = json.loads((ranking.save(tmp_path / "run") / "findings.json").read_text(encoding="utf-8"))
    columns = {column["name"]: column["values"] for column in data["tables"]["Heads, in no order"]["columns"]}
    assert (
        columns["ci_low"] == columns["se"] == [None, None]
        and "rank" not in columns
        and "too few examples" in " ".join(data["statement"])
    )
    assert_same(ranking, load_ranking(tmp_path / "run"))


def test_the_same_run_may_be_saved_again_another_not(tmp_path):
    make_ranking().save(tmp_path)
    make_ranking(seed=1).save(tmp_path)  # a run that continued
    other = make_ranking("run-2", seed=2)
    with pytest.raises(FileExistsError, match=r"report of run 'run-1' of 2026-01-01; this is run 'run-2'.*overwrite"):
        other.save(tmp_path)
    assert_same(load_ranking(tmp_path), make_ranking(seed=1))
    assert_same(load_ranking(other.save(tmp_path, overwrite=True)), other)


def test_a_report_that_names_no_run_is_not_replaced(tmp_path):
    make_ranking(run_id=None).save(tmp_path)
    with pytest.raises(FileExistsError, match=r"a run without a run_id"):
        make_ranking(run_id=None).save(tmp_path)
    (tmp_path / "findings.json").write_text("{broken")
    with pytest.raises(FileExistsError, match=r"another directory, or replace"):
        make_ranking().save(tmp_path)


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "0.safetensors").write_bytes(b"part")
    (tmp_path / "run.json").write_text("{}")
    make_ranking().save(tmp_path, overwrite=True)
    assert (tmp_path / "parts" / "0.safetensors").read_bytes() == b"part"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "parts", "run.json"])


@pytest.mark.parametrize("fails_at", FILES)
def test_a_crash_while_moving_leaves_the_old_result(tmp_path, monkeypatch, fails_at):
    make_ranking().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace = os.replace

    def failing(source, target):
        if target == tmp_path / fails_at and "new" in source.parts:
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="disk full"):
        make_ranking(seed=1).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_same(load_ranking(tmp_path), make_ranking())


@pytest.mark.parametrize("fails_at", ["ranking.csv", "findings.json"])
def test_a_crash_of_the_first_save_leaves_nothing(tmp_path, monkeypatch, fails_at):
    replace = os.replace

    def failing(source, target):
        if target.name == fails_at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        make_ranking().save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_rendering_leaves_the_old_result(tmp_path, monkeypatch):
    make_ranking().save(tmp_path)

    def failing(found):
        raise RuntimeError("no template")

    monkeypatch.setattr(findings, "render", failing)
    with pytest.raises(RuntimeError, match="no template"):
        make_ranking(seed=1).save(tmp_path)
    assert_same(load_ranking(tmp_path), make_ranking())


def test_loading_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No directory .*nowhere; expected the folder of a saved result"):
        load_ranking(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no findings.json, so it is not a finished, saved result"):
        load_ranking(tmp_path)
    make_ranking().save(tmp_path)
    path, tensors = tmp_path / "findings.json", tmp_path / "arrays.safetensors"
    good = path.read_text(encoding="utf-8")
    path.write_text(good[:-20], encoding="utf-8")
    with pytest.raises(ValueError, match=r"findings.json is not valid JSON"):
        load_ranking(tmp_path)
    path.write_text(good.replace('"format_version": 1', '"format_version": 99'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"format_version 99; this version of headscope reads 1"):
        load_ranking(tmp_path)
    path.write_text(good, encoding="utf-8")
    tensors.write_bytes(tensors.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(
        ValueError, match=r"is not the file that the record beside it describes \(its SHA-256 differs\)"
    ):
        load_ranking(tmp_path)
    tensors.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no arrays.safetensors"):
        load_ranking(tmp_path)


def test_a_file_is_not_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"can't write to the output folder .*file: File exists"):
        make_ranking().save(tmp_path / "file")


def test_a_table_is_computed_once_and_read_back(tmp_path, monkeypatch):
    """Bit for bit, and without a single flip; where the code of the statistics is another, it is computed again."""
    saved = make_ranking()
    saved.save(tmp_path)
    asked = []

    def flips(*args, **how):
        asked.append(1)
        return np.full(args[0].shape[1:], 0.25)

    monkeypatch.setattr("interp.statistics.sign_flip_p", flips)
    read = load_ranking(tmp_path)
    pd.testing.assert_frame_equal(read.to_frame(), saved.to_frame(), check_exact=True)
    assert read.reliability == saved.reliability and asked == []
    assert read.by("swapped/x").top(1)["p"].item() == 0.25 and asked == [1]  # another measure: another table
    monkeypatch.setattr("interp.reports.computed._source", lambda module: "another version")
    assert (load_ranking(tmp_path).to_frame()["p"] == 0.25).all() and len(asked) == 2


@pytest.mark.parametrize("change", ["a score", "a control"])
def test_a_table_of_other_numbers_is_not_read_back(tmp_path, change):
    """Both were sealed with the record; a result whose numbers are others has none of it."""
    from interp.reports import computed
    from interp.reports.saved import packed

    ranking, arrays = make_ranking(), {}
    value = packed(ranking, arrays)["is"]
    kept = computed.computed(ranking, value, arrays)
    if change == "a score":
        arrays = arrays | {name: array + 1 for name, array in arrays.items()}
    else:
        value = value | {"controls": {"$": "tuple", "is": []}}
    other = make_ranking()
    computed.restore(other, kept, value, arrays)
    assert "_frame" not in vars(other)

"""Saving and loading rankings: round trip, refusals, crashes half way."""

import json
import os

import numpy as np
import pandas as pd
import pytest

from interp.figures.views import TokenView
from interp.rankings import report
from interp.rankings.files import FILES, load_ranking, save_ranking
from interp.rankings.ranking import HeadRanking
from interp.records.records import record_text


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
    monkeypatch.setattr(report, "render", lambda ranking: f"<html>{ranking.provenance.get('run_id')}</html>")


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
    directory = save_ranking(ranking, tmp_path / "run")
    pd.testing.assert_frame_equal(pd.read_parquet(directory / "ranking.parquet"), ranking.to_frame())
    pd.testing.assert_frame_equal(pd.read_csv(directory / "ranking.csv"), ranking.to_frame())
    data = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    assert data["format_version"] == 1 and data["provenance"] == ranking.provenance
    assert data["summary"]["top"][0]["label"] == ranking.top(1)["label"].item()
    assert len(data["summary"]["top"]) == 6  # all there are; else 20
    assert data["summary"]["reliability"]["mean"] == pytest.approx(ranking.reliability.mean)
    assert data["summary"]["controls"][0]["measure"] == "swapped/x"


def test_a_report_from_before_there_were_controls_names_none(tmp_path):
    path = save_ranking(make_ranking(), tmp_path) / "report.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data.pop("controls") == ["swapped/x"]
    path.write_text(record_text(data), encoding="utf-8")
    assert load_ranking(tmp_path).controls == ()


def test_missing_statistics_are_null_in_the_json(tmp_path):
    ranking = HeadRanking("nas", {"nas": np.ones((1, 1, 2))}, ("e0",), {}, {})
    data = json.loads((save_ranking(ranking, tmp_path / "run") / "report.json").read_text(encoding="utf-8"))
    assert data["summary"]["reliability"]["mean"] is None and data["summary"]["top"][0]["ci_low"] is None
    assert_same(ranking, load_ranking(tmp_path / "run"))


def test_the_same_run_may_be_saved_again_another_not(tmp_path):
    save_ranking(make_ranking(), tmp_path)
    save_ranking(make_ranking(seed=1), tmp_path)  # a run that continued
    other = make_ranking("run-2", seed=2)
    with pytest.raises(FileExistsError, match=r"report of run 'run-1' of 2026-01-01; this is run 'run-2'.*overwrite"):
        save_ranking(other, tmp_path)
    assert_same(load_ranking(tmp_path), make_ranking(seed=1))
    assert_same(load_ranking(save_ranking(other, tmp_path, overwrite=True)), other)


def test_a_report_that_names_no_run_is_not_replaced(tmp_path):
    save_ranking(make_ranking(run_id=None), tmp_path)
    with pytest.raises(FileExistsError, match=r"a run without a run_id"):
        save_ranking(make_ranking(run_id=None), tmp_path)
    (tmp_path / "report.json").write_text("{broken")
    with pytest.raises(FileExistsError, match=r"another directory, or replace"):
        save_ranking(make_ranking(), tmp_path)


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "0.safetensors").write_bytes(b"part")
    (tmp_path / "run.json").write_text("{}")
    save_ranking(make_ranking(), tmp_path, overwrite=True)
    assert (tmp_path / "parts" / "0.safetensors").read_bytes() == b"part"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "parts", "run.json"])


@pytest.mark.parametrize("fails_at", FILES)
def test_a_crash_while_moving_leaves_the_old_result(tmp_path, monkeypatch, fails_at):
    save_ranking(make_ranking(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace = os.replace

    def failing(source, target):
        if target == tmp_path / fails_at and "new" in source.parts:
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="disk full"):
        save_ranking(make_ranking(seed=1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_same(load_ranking(tmp_path), make_ranking())


@pytest.mark.parametrize("fails_at", ["ranking.csv", "report.json"])
def test_a_crash_of_the_first_save_leaves_nothing(tmp_path, monkeypatch, fails_at):
    replace = os.replace

    def failing(source, target):
        if target.name == fails_at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        save_ranking(make_ranking(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_rendering_leaves_the_old_result(tmp_path, monkeypatch):
    save_ranking(make_ranking(), tmp_path)

    def failing(ranking):
        raise RuntimeError("no template")

    monkeypatch.setattr(report, "render", failing)
    with pytest.raises(RuntimeError, match="no template"):
        save_ranking(make_ranking(seed=1), tmp_path)
    assert_same(load_ranking(tmp_path), make_ranking())


def test_loading_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No directory .*nowhere; expected the folder of a saved ranking"):
        load_ranking(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no report.json, so it is not a finished, saved ranking"):
        load_ranking(tmp_path)
    save_ranking(make_ranking(), tmp_path)
    path, tensors = tmp_path / "report.json", tmp_path / "scores.safetensors"
    good = path.read_text(encoding="utf-8")
    path.write_text(good[:-20], encoding="utf-8")
    with pytest.raises(ValueError, match=r"report.json is not valid JSON"):
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
    with pytest.raises(FileNotFoundError, match=r"has no scores.safetensors"):
        load_ranking(tmp_path)


def test_a_file_is_not_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; expected a directory"):
        save_ranking(make_ranking(), tmp_path / "file")

"""The command `interp trace`: a whole run, a resumed one, scenes from a folder, and every bad input as one message."""

from __future__ import annotations

import json

import pytest

import interp
from probes import cli_study
from probes.visual_tracing import load_visual_traces
from tests.interp.tiny_vision import tiny_vision
from tests.tiny import tiny

SMALL = ["--kind", "yes-no", "--no-only-right", "--pixels", "32", "--shown", "0", "--part", "mlp"]


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """`--model` names a tiny random model."""
    made = tiny_vision("llava")
    models = {
        "sees": lambda: interp.load(made.hf, processor=made.processor),
        "reads": lambda: interp.load(tiny("llama")),
    }
    monkeypatch.setattr(cli_study, "load_model", lambda model, dtype, device: models[model]())


def test_a_run_and_its_report(run, tmp_path):
    out = tmp_path / "traces"
    arguments = ["trace", "--model", "sees", "--n", 4, "--out", out, "--every", 2, *SMALL]
    code, said, where = run(*arguments)
    assert code == 0
    assert "4 of 4 pairs were traced" in said and "Where parts matter most" in said and "The paper's claims" in said
    assert str(out / "report.html") in where
    found = load_visual_traces(out)
    assert (found.trace.parts, found.trace.layers) == (("mlp",), (0, 2))
    data = found.provenance["data"]
    assert (data["source"], data["difficulty"], data["n"]) == ("scenes:test", "easy", 4)
    code, again, _ = run(*arguments, "--resume", "--json")
    assert code == 0
    assert json.loads(again)["statement"] == found.statement()
    assert {"peaks", "claims"} == set(json.loads(again)["tables"])
    code, _, error = run(*arguments, "--seed", 1)
    assert code == 1 and "overwrite" in error


def test_heads_are_patched_alone(run, tmp_path):
    out = tmp_path / "traces"
    arguments = ["trace", "--model", "sees", "--n", 3, "--out", out, "--no-control", "--every", 2, *SMALL]
    code, said, _ = run(*arguments, "--heads")
    assert code == 0
    assert "Heads patched alone, the first 20" in said and "heads, each patched alone at all text" in said
    found = load_visual_traces(out)
    assert found.heads.values.shape[0] == 3 and found.heads.control is None
    code, again, _ = run(*arguments, "--heads", "--resume", "--json")
    assert code == 0
    rows = json.loads(again)["tables"]["heads"]
    assert [row["head"] for row in rows] == found.heads.to_frame()["head"].head(20).tolist()
    code, _, error = run(*arguments)
    assert code == 1 and "overwrite" in error


def test_scenes_from_a_folder(run, tmp_path):
    folder, out = tmp_path / "scenes", tmp_path / "traces"
    made, _, _ = run(
        "scenes", "make", "--out", folder, "--n", 4, "--kind", "yes-no", "--difficulty", "easy", "--pixels", 32
    )
    code, said, _ = run(
        "trace", "--model", "sees", "--data", f"scenes:{folder}", "--n", 3, "--out", out, "--no-control", *SMALL
    )
    assert (made, code) == (0, 0)
    assert "3 of 3 pairs" in said and "No control by unrelated pictures was asked for." in said
    assert load_visual_traces(out).provenance["data"]["source"] == "scenes"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "photos"], "expected scenes:train, scenes:validation, scenes:test, scenes:ood, or scenes:FOLDER"),
        (["--data", "scenes:nowhere"], "nowhere has no scenes.jsonl"),
        (["--difficulty", "odd"], "difficulty='odd'; expected easy, medium, hard or a number"),
        (["--model", "reads"], "this model has no vision part"),
        (["--only-right"], "none of 4 pairs can be traced: 4 answered wrongly"),
    ],
)
def test_bad_input_is_one_message(run, tmp_path, arguments, message):
    out = tmp_path / "traces"
    code, _, error = run("trace", "--model", "sees", "--n", 4, "--out", out, *SMALL, *arguments)
    assert code != 0
    assert message in " ".join(error.replace("│", " ").split())
    assert "Traceback" not in error
    assert not (out / "report.html").exists()

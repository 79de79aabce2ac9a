"""The command `interp trace`: a whole run, a resumed one, scenes from a folder, and every bad input as one message."""

from __future__ import annotations

import json

import pytest

import interp
from probes.cli.options import ChatModel
from probes.pairs.photo_pairs import save_pairs
from tests.interp.tiny_vision import tiny_vision
from tests.probes.pairs.test_pair_files import decisions_of, photo
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
    monkeypatch.setattr(ChatModel, "load", lambda self, *told: models[self.model]())
    monkeypatch.setattr(ChatModel, "require_known", lambda self: None)


def test_a_run_and_its_report(run, tmp_path):
    out = tmp_path / "traces"
    arguments = ["trace", "--model", "sees", "--limit", 6, "--out", out, "--every", 2, *SMALL]
    code, said, where = run(*arguments)
    assert code == 0
    assert "6 of 6 pairs were traced" in said and "Where parts matter most" in said and "The paper's claims" in said
    assert str(out / "report.html") in where
    found = interp.load_result(out)
    assert (found.trace.parts, found.trace.layers) == (("mlp",), (0, 2))
    data = found.provenance["data"]
    assert (data["source"], data["difficulty"], data["n"]) == ("scenes:test", "easy", 6)
    code, again, _ = run(*arguments, "--resume", "--json")
    assert code == 0
    assert json.loads(again)["statement"] == found.statement()
    assert {"peaks", "claims"} == set(json.loads(again)["tables"])
    code, _, error = run(*arguments, "--seed", 1)
    assert code == 1 and "overwrite" in error


def test_heads_are_patched_alone(run, tmp_path):
    out = tmp_path / "traces"
    arguments = ["trace", "--model", "sees", "--limit", 5, "--out", out, "--no-control", "--every", 2, *SMALL]
    code, said, _ = run(*arguments, "--heads")
    assert code == 0
    assert "Heads patched alone, the first 20" in said and "heads, each patched alone at all text" in said
    found = interp.load_result(out)
    assert found.heads.values.shape[0] == 5 and found.heads.control is None
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
        "trace", "--model", "sees", "--data", f"scenes:{folder}", "--limit", 3, "--out", out, "--no-control", *SMALL
    )
    assert (made, code) == (0, 0)
    assert "3 of 3 pairs" in said and "No control by unrelated pictures was asked for." in said
    assert interp.load_result(out).provenance["data"]["source"] == "scenes"


def test_photographs_from_a_folder(run, tmp_path):
    """Those that were accepted and don't leak, by their concept words."""
    folder, out = tmp_path / "photos", tmp_path / "traces"
    swap = {"substitution": {"old": "red", "new": "green"}}
    made = [photo(f"p{i}", seed=i, **swap) for i in range(4)] + [
        photo("spilt", 3, seed=9, **swap),
        photo("bare", seed=5),
    ]
    save_pairs(made, folder)
    taken = {"p0": True, "p1": True, "p2": False, "spilt": True, "bare": True}
    file = decisions_of(tmp_path / "decisions.json", [p.on_sheet() for p in made], **taken)
    words = ["trace", "--model", "sees", "--data", f"scenes:{folder}", "--decisions", file, *SMALL]
    code, said, log = run(*words, "--out", out)
    assert code == 0 and "2 of 3 pairs were traced" in said
    assert "4 of 6 pairs were accepted in decisions.json (1 rejected, 1 undecided)." in log
    assert "1 of 4 pairs are dropped: spilt: 15.8% of the changed pixels" in log
    assert "1 of 3 pairs have no known concept word" in log and "--concept WORD" in log
    found = interp.load_result(out)
    assert [(p.id, p.concept) for p in found.pairs] == [("p0", "red"), ("p1", "red")]
    assert found.provenance["data"]["left_out"][0].startswith("4 of 6 pairs were accepted")
    code, said, log = run(*words, "--out", tmp_path / "more", "--concept", "cup", "--max-leak", 1)
    assert code == 0 and "4 of 4 pairs were traced" in said and "dropped" not in log
    words_of = {p.id: p.concept for p in interp.load_result(tmp_path / "more").pairs}
    assert words_of == {"p0": "red", "p1": "red", "spilt": "red", "bare": "cup"}
    save_pairs([made[-1]], tmp_path / "bare")
    code, _, error = run("trace", "--model", "sees", "--data", f"scenes:{tmp_path / 'bare'}", "--out", out, *SMALL)
    assert code == 1 and "1 of 1 pairs have no known concept word" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "photos"], "expected scenes:train, scenes:validation, scenes:test, scenes:ood, or scenes:FOLDER"),
        (["--data", "test"], "'test'; expected scenes:train"),
        (["--data", "scenes:nowhere"], "nowhere has no scenes.jsonl and no pairs.json"),
        (["--decisions", "decisions.json"], "goes with scenes:FOLDER, not scenes:test"),
        (["--difficulty", "odd"], "--difficulty odd; expected easy, medium, hard or a number"),
        (["--model", "reads"], "this model has no vision part"),
        (["--only-right"], "none of 4 pairs can be traced: 4 answered wrongly"),
    ],
)
def test_bad_input_is_one_message(run, tmp_path, arguments, message):
    out = tmp_path / "traces"
    code, _, error = run("trace", "--model", "sees", "--limit", 4, "--out", out, *SMALL, *arguments)
    assert code != 0
    assert message in " ".join(error.replace("│", " ").split())
    assert "Traceback" not in error
    assert not (out / "report.html").exists()

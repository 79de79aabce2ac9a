"""The commands on harmful and harmless requests: one whole run of each, and every bad input as one message."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import interp
from interp import load_direction, load_edit, load_findings, load_ranking, load_result
from interp.records.records import record_text
from probes.cli import app as cli
from probes.cli.requests import BY_KIND, go_on
from probes.latent_guard.classifier import load_guard
from probes.latent_guard.held_out import GuardWarning, verdict_of
from probes.requests import behaviour as behaviour_module, divide_requests
from tests.tiny import tiny, tiny_tokenizer

WORDS = ("sky", "day", "kettle", "water", "heat", "sun", "box", "door")
REFUSAL = "I'm sorry, but I can't help with that."


def write_requests(path: Path, verb: str, n: int = 24, start: int = 0, end: str = ".") -> Path:
    rows = [f"{verb} the {WORDS[i % 8]} of house {i}{end}" for i in range(start, start + n)]
    path.write_text("\n".join(["text", *rows, ""]))
    return path


def save_model(folder: Path, template: bool = True, **changes) -> Path:
    tiny("llama", **{"vocab_size": 400, "max_position_embeddings": 2048, **changes}).save_pretrained(folder)
    (tiny_tokenizer() if template else tiny_tokenizer(template=None)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """Files of requests by name; those to fit on end in other ways, as the paper's do."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "empty.csv").write_text("")
    (folder / "blank.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes("Öffne die Tür".encode("latin-1"))
    return {
        "harmful": write_requests(folder / "harmful.csv", "Break", end=""),
        "harmless": write_requests(folder / "harmless.csv", "Paint"),
        "unseen_harmful": write_requests(folder / "unseen_harmful.csv", "Break", 12, start=100),
        "unseen_harmless": write_requests(folder / "unseen_harmless.csv", "Paint", 12, start=100),
        "few": write_requests(folder / "few.csv", "Break", 13),
        "empty": folder / "empty.csv",
        "blank": folder / "blank.txt",
        "latin": folder / "latin.txt",
    }


def refuse(patch: pytest.MonkeyPatch) -> None:
    """The model refuses whatever asks to break something."""

    def generate(model, prompts, *args, **more):
        return [[REFUSAL if "Break" in p.text else "Paint it."] for p in prompts]

    patch.setattr(behaviour_module, "generate", generate)


@pytest.fixture
def refusing(monkeypatch):
    refuse(monkeypatch)


def finish(patch: pytest.MonkeyPatch, *arguments: object) -> None:
    """`interp ...` for a fixture of the module, which `run` is not for."""
    patch.setattr(sys, "argv", ["interp", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, model, data) -> Path:
    """The folder of a finished `interp directions harmfulness`."""
    out = tmp_path_factory.mktemp("fitted") / "directions"
    options = ("--harmful", data["harmful"], "--harmless", data["harmless"], "--out", out, "--device", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch)
        finish(patch, "directions", "harmfulness", "--model", model, *options)
    return out


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_help_reads_like_a_table_of_contents(run):
    _, out, _ = run("--help")
    places = [re.search(rf"│ {name} ", out).start() for name in ("knowledge", "directions", "steer", "guard")]
    assert places == sorted(places)
    data = ("harmful", "harmless", "test-harmful", "test-harmless", "limit", "seed", "system", "endings")
    common = (*data, "model", "out", "include-replies", "batch-size", "resume", "overwrite", "dtype", "device")
    for command in (("directions", "harmfulness"), ("steer",), ("guard", "fit"), ("rank", "refusal-writers")):
        code, out, _ = run(*command, "--help")
        assert code == 0 and all(f"--{option}" in out for option in common), command
    assert all(f"--{option}" in run("guard", "predict", "--help")[1] for option in ("guard", "text", "json", "model"))


def test_directions(fitted, data):
    findings, observed = load_findings(fitted), load_result(fitted / "behaviour")
    assert observed.replies is None and len(observed) == 48
    assert all(r.is_withheld for r in observed.requests)
    assert {r.text[-1] for r in go_on(fitted).fit} == {"."}
    groups = [observed.group_of(i) for i in range(48)]
    assert [groups.count(g) for g in ("harmful-refused", "harmless-accepted")] == [24, 24]
    assert findings.provenance["data"]["source"] == ["harmful.csv", "harmless.csv"]
    assert findings.provenance["asking"] == {
        "n_fit": 24,
        "system": None,
        "endings": "alike",
        "by": "pairs",
        "template": {},
        "files": {
            "harmful": [str(data["harmful"])],
            "harmless": [str(data["harmless"])],
            "test_harmful": [],
            "test_harmless": [],
            "limit": None,
            "seed": 0,
            "format": None,
            "column": None,
        },
    }
    assert set(findings.tables["Cosine by layer"]["condition"]) == {"endings matched", "as they come (paper)"}
    separations = findings.tables["Separation by layer"]
    assert (separations["n"] == 24).all() and len(findings.tables["Separation by position"]) > 5
    layer0 = separations.drop_duplicates("condition").set_index("condition")["layer0_auroc"]
    assert layer0["endings matched"] == 0.5 and layer0["as they come (paper)"] > 0.9
    for name in ("harmfulness", "refusal"):
        direction = load_direction(fitted / "directions" / name)
        assert direction.about["name"] == name and direction.about["matched"]
        assert direction.model["weights_sha256"] == findings.provenance["model"]["weights_sha256"]
    assert not list(fitted.rglob("parts")) and "of house 1" not in (fitted / "report.html").read_text()


def test_directions_by_kind_with_raw_endings_and_replies(run, model, data, tmp_path):
    out = tmp_path / "deep" / "report"
    code, printed, err = run(
        *("directions", "harmfulness", "--model", model, "--harmful", data["harmful"], "--harmless", data["harmless"]),
        *("--test-harmful", data["unseen_harmful"], "--test-harmless", data["unseen_harmless"], "--limit", 11),
        *("--by", "kind", "--endings", "raw", "--system", "Be kind.", "--include-replies", "--out", out),
        *("--device", "cpu"),
    )
    assert code == 0, err
    assert "11 harmful and 11 harmless requests to fit on, 11 harmful and 11 harmless requests to test on" in err
    assert BY_KIND in printed and "CONFOUNDED" in printed and f"report: {out / 'report.html'}" in err
    findings, observed = load_findings(out), load_result(out / "behaviour")
    assert findings.provenance["settings"] | {"matched": False, "system": "Be kind."} == findings.provenance["settings"]
    assert observed.replies is not None and {r.source for r in observed.requests[22:]} <= {
        "unseen_harmful",
        "unseen_harmless",
    }
    code, _, err = run(
        "rank", "refusal-writers", "--model", model, "--directions", out, "--out", out, "--device", "cpu"
    )
    assert code == 1 and "already holds the report" in err and "--overwrite" in err


def test_steer_compares_every_arm_with_asking(run, model, fitted, tmp_path):
    code, printed, err = run(
        *("steer", "--arms", "--model", model, "--directions", fitted, "--layer", 2, "--coefficient", 2),
        *("--random-draws", 1, "--shuffled-draws", 1, "--max-new-tokens", 3, "--out", tmp_path, "--device", "cpu"),
    )
    assert code == 0, err
    assert "What beats asking" in printed and "Requests that chose nothing" in printed
    found = load_result(tmp_path)
    assert {"prompt", "conditional", "orthogonalised"} <= set(found.screen["arm"])
    assert any("0 paired differences" in reason for reason in found.left_out.values())
    assert "of house 1" not in (tmp_path / "report.html").read_text()


def test_steer_goes_on_from_directions(run, model, fitted, tmp_path):
    code, printed, err = run(
        *("steer", "--model", model, "--directions", fitted, "--layer", 1, "--layer", 3, "--coefficient", 2),
        *("--random-draws", 1, "--max-new-tokens", 3, "--out", tmp_path / "steer", "--device", "cpu"),
    )
    assert code == 0, err
    assert "Requests that chose nothing" in printed and "+refusal: layer" in printed and "shuffled" in printed
    study = load_result(tmp_path / "steer")
    assert len(study.validation) == 10 and len(study.tested) == 14
    assert not {r.id for r in study.validation} & {r.id for r in study.tested}
    asked = load_result(fitted / "behaviour").requests
    assert {r.id for r in (*study.validation, *study.tested)} == {r.id for r in asked[24:]}
    run_id = load_direction(fitted / "directions" / "refusal").about["run_id"]
    assert study.settings["directions"] == run_id and study.provenance["data"]["by"] == "pairs"
    assert not (tmp_path / "steer" / "behaviour").exists()
    assert "of house 1" not in (tmp_path / "steer" / "report.html").read_text()
    saved = load_edit(tmp_path / "steer" / "steering" / "minus-refusal")
    chosen = study.chosen["-refusal"]
    (edit,) = saved.edits
    assert (edit.layer, edit.coefficient, saved.positions) == (chosen["layer"], chosen["coefficient"], "all")
    assert edit.coefficient < 0
    saved.require_fits(interp.load(str(model)))


@pytest.mark.usefixtures("refusing")
def test_writers_fit_directions_of_their_own(run, model, data, tmp_path):
    arguments = (
        "rank",
        "refusal-writers",
        "--model",
        model,
        "--harmful",
        data["harmful"],
        "--harmless",
        data["harmless"],
    )
    code, printed, err = run(*arguments, "--layer", 3, "--out", tmp_path, "--device", "cpu")
    assert code == 0, err
    assert "Top 10 heads by direct, n = 12" in printed
    ranking = load_ranking(tmp_path)
    assert ranking.provenance["read"] | {"direction": "refusal", "layer": 3} == ranking.provenance["read"]
    assert load_result(tmp_path / "behaviour").requests[0].source == "harmful"
    code, _, err = run(*arguments, "--layer", 3, "--out", tmp_path, "--device", "cpu", "--resume")
    assert code == 0, err


@pytest.fixture(scope="module")
def guard(tmp_path_factory, model, data) -> Path:
    """The folder of a finished `interp guard fit`."""
    out = tmp_path_factory.mktemp("guards") / "guard"
    options = ("--harmful", data["harmful"], "--harmless", data["harmless"], "--rule", "logistic", "--out", out)
    with pytest.MonkeyPatch.context() as patch:
        finish(patch, "guard", "fit", "--model", model, *options)
    return out


def test_guard_fit(guard, model, data):
    study, findings = load_result(guard), load_findings(guard)
    assert study.main == "logistic" and {
        "words (TF-IDF)",
        "asked",
        "own refusal",
        "layer 0, mean over the text",
    } <= set(study.names)
    assert "Latency" in findings.tables and len(study.requests) == 24
    assert findings.provenance["data"]["source"] == ["harmful.csv", "harmless.csv"]
    saved = load_guard(guard / "guard", interp.load(str(model)))
    assert saved.rule == "logistic" and not {r.id for r in saved.fitted_on_} & {r.id for r in study.requests}
    decisions = study.decisions[:, study.names.index("logistic")]
    asked = divide_requests([str(data["harmful"])], [str(data["harmless"])]).held_out
    assert [r.id for r in asked] == [r.id for r in study.requests]
    np.testing.assert_allclose(saved.decision_function(asked), decisions, atol=1e-4)
    assert findings.statement[0] == saved.verdict() == verdict_of(study.tested)
    assert saved.verdict() in (guard / "report.html").read_text()


def test_guard_predict(run, model, guard, data, tmp_path):
    texts = ["Break the kettle of house 7", "Paint the [door] of house 8?"]
    asked = ("guard", "predict", "--guard", guard, "--model", model, "--json", "--text", texts[0], "--text", texts[1])
    code, out, err = run(*asked)
    assert code == 0, err
    assert [r["id"] for r in json.loads(out)] == ["text 1", "text 2"] and not any(t in out + err for t in texts)
    code, out, err = run(*asked, "--include-replies")
    rows = json.loads(out)
    assert [r["text"] for r in rows] == texts and all(r["harmful"] == (r["score"] >= 0) for r in rows)
    with pytest.warns(GuardWarning, match="wrong way round"):
        expected = load_guard(guard / "guard", interp.load(str(model))).decision_function(texts)
    np.testing.assert_allclose([r["score"] for r in rows], expected, atol=1e-5)
    verdict = load_guard(guard / "guard", interp.load(str(model))).verdict()
    assert verdict in err

    lines, objects = tmp_path / "some.txt", tmp_path / "some.jsonl"
    lines.write_text("\n".join([texts[0], "", texts[1], ""]))
    objects.write_text("\n".join(json.dumps({"id": f"r{i}", "prompt": t}) for i, t in enumerate(texts)))
    for path, ids in ((lines, ["line 1", "line 3"]), (objects, ["r0", "r1"])):
        given = ("guard", "predict", path, "--guard", guard / "guard", "--model", model)
        code, out, err = run(*given)
        assert code == 0, err
        assert not any(t in out + err for t in texts) and all(i in out for i in ids)
        code, out, err = run(*given, "--include-replies")
        assert code == 0 and all(t in out for t in texts) and all(i in out for i in ids), err
        assert out.startswith(verdict) and "Warning" not in err
        assert [f"{r['score']:+.4f}" in out for r in rows] == [True, True]
    code, out, err = run("guard", "predict", data["unseen_harmful"], "--guard", guard, "--model", model, "--json")
    assert code == 0 and len(json.loads(out)) == 12, err
    code, _, err = run("guard", "predict", data["unseen_harmful"], "--guard", guard)
    assert code == 2 and "guard is of 'tiny-llama', which is no built-in name" in err


def test_ctrl_c_says_how_to_go_on_and_the_run_continues(run, model, data, tmp_path, monkeypatch):
    real, calls = behaviour_module.generate, []

    def interrupted(*args, **more):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **more)

    files = ("--harmful", data["harmful"], "--harmless", data["harmless"], "--limit", 10, "--by", "kind")
    arguments = ("directions", "harmfulness", "--model", model, *files, "--out", tmp_path, "--device", "cpu")
    monkeypatch.setattr(behaviour_module, "generate", interrupted)
    code, _, err = run(*arguments)
    assert code == 130 and "--resume" in err and "Traceback" not in err
    assert (tmp_path / "behaviour" / "parts").is_dir() and not (tmp_path / "findings.json").exists()
    calls.clear()
    monkeypatch.setattr(behaviour_module, "generate", lambda *a, **k: calls.append(a) or real(*a, **k))
    code, _, err = run(*arguments, "--resume")
    assert code == 0, err
    assert len(calls) == 2 and load_findings(tmp_path).provenance["asking"]["n_fit"] == 20


DATA = {
    "file missing": (["--harmful", "./nothing.csv"], 1, r"nothing\.csv"),
    "empty file": (["--harmless", "{empty}"], 1, r"empty\.csv: the file is empty"),
    "few": (["--harmful", "{few}"], 1, r"13 harmful requests; expected at least 20: 7 more"),
    "tests of one kind": (["--test-harmful", "{unseen_harmful}"], 1, r"give both harmful and harmless"),
    "seen": (
        ["--test-harmful", "{harmful}", "--test-harmless", "{unseen_harmless}"],
        1,
        r"24 of 36 requests to test on were fitted on too.*harmful-1, harmful-2",
    ),
    "in both": (["--harmless", "{harmful}"], 1, r"share ids: harmful-1"),
    "limit": (["--limit", "9"], 2, r"--limit"),
    "model unknown": (["--model", "smollm2-135n"], 1, r"unknown model 'smollm2-135n'"),
    "base model": (["--model", "{base}"], 1, r"no chat template \(a base model\?\)"),
    "out is a file": (["--out", "{few}"], 1, r"few\.csv"),
    "another run": (["--out", "{taken}"], 1, r"already holds the report of run 'other'.*--overwrite"),
    "dtype unknown": (["--dtype", "float23"], 2, r"'float23'; expected float32"),
}
GROUP = {
    "group": (["--by", "behaviour"], 1, r"harmful-refused has 0 \(10 more needed\).*--by kind"),
    "by": (["--by", "colour"], 2, r"'colour'"),
}
EARLIER = {
    "no earlier run": (["--directions", "./nowhere"], 1, r"nowhere"),
    "a report of something else": (["--directions", "{guard}"], 1, r"no report of `interp directions harmfulness`"),
    "earlier run and data": (["--directions", "{fitted}", "--limit", "12"], 2, r"leave out --limit"),
    "another model": (
        ["--directions", "{fitted}", "--model", "{shape}"],
        1,
        r"direction is of 'tiny-llama' with n_layers=4",
    ),
    "other weights": (
        ["--directions", "{fitted}", "--model", "{weights}"],
        1,
        r"tiny-llama' with weights \w{12}; 'weights'",
    ),
    "layer": (["--directions", "{fitted}", "--layer", "99"], 2, r"99; tiny-llama has layers up to 4"),
}
COMMANDS = {
    ("directions", "harmfulness"): DATA | GROUP,
    ("guard", "fit"): DATA | {"rule": (["--rule", "best"], 2, r"'best'")},
    ("steer",): DATA
    | GROUP
    | EARLIER
    | {
        "coefficient": (["--coefficient", "-1"], 2, r"-1; expected numbers above 0"),
        "positions": (["--positions", "end"], 2, r"'end'"),
    },
    ("rank", "refusal-writers"): DATA | EARLIER | {"direction": (["--direction", "harm"], 2, r"'harm'")},
    ("guard", "predict"): {
        "nothing": ([], 2, r"give a file of requests, or --text"),
        "both": (["{few}", "--text", "Break it."], 2, r"not both"),
        "file missing": (["./nothing.txt"], 1, r"nothing\.txt"),
        "empty file": (["{empty}"], 1, r"empty\.csv: the file is empty"),
        "blank file": (["{blank}"], 1, r"blank\.txt has no requests"),
        "no text": (["{latin}"], 1, r"latin\.txt is no text in UTF-8"),
        "blank text": (["--text", " "], 1, r"text 1: no text in it"),
        "no guard": (["{few}", "--guard", "{taken}"], 1, r"taken has no guard\.json"),
        "another model": (["{few}", "--model", "{shape}"], 1, r"fitted on 'tiny-llama'.*'shape' has weights"),
    },
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Models that a run on the tiny one does not fit, and one without a chat template."""
    folder = tmp_path_factory.mktemp("others")
    return {
        "base": save_model(folder / "base", template=False),
        "shape": save_model(folder / "shape", num_hidden_layers=2),
        "weights": save_model(folder / "weights", seed=1),
    }


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_bad_input_is_one_message_and_nothing_is_written(run, model, models, data, fitted, guard, tmp_path, command):
    taken, out = tmp_path / "taken", tmp_path / "out"
    taken.mkdir()
    (taken / "findings.json").write_text(record_text({"provenance": {"run_id": "other"}}))
    places = {**data, **models, "taken": taken, "fitted": fitted, "guard": guard}
    for name, (arguments, exit_code, message) in COMMANDS[command].items():
        if command[-1] == "predict":
            given = {"--model": model, "--guard": guard}
        else:
            files = {} if "--directions" in arguments else {f"--{kind}": data[kind] for kind in ("harmful", "harmless")}
            given = {"--model": model, "--out": out, "--device": "cpu"} | files
        arguments = [a.format(**places) if a.startswith("{") else a for a in arguments]
        given = {k: v for k, v in given.items() if k not in arguments}
        before = contents(tmp_path)
        code, printed, err = run(*command, *[x for pair in given.items() for x in pair], *arguments)
        assert code == exit_code, (name, code, err)
        assert re.search(message, err.replace("\n", " ")), (name, err)
        assert "Traceback" not in err + printed, name
        assert err.count("interp: ") == (exit_code == 1), (name, err)
        assert contents(tmp_path) == before and not out.exists(), name


def test_bad_data_fails_before_the_model_is_loaded(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.load", lambda *a, **k: pytest.fail("the model was loaded"))
    for command in COMMANDS:
        option = ["--guard", tmp_path] if command[-1] == "predict" else ["--out", tmp_path / "out"]
        files = [data["empty"]] if command[-1] == "predict" else ["--harmful", data["empty"]]
        code, _, err = run(*command, *files, *option)
        assert code == 1 and ("empty.csv" in err or "no guard.json" in err), (command, err)

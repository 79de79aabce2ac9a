"""The command line: what it says of itself, one whole run, and every bad input as one message, with nothing written."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interp import load_ranking
from tests.tiny import tiny, tiny_tokenizer

REPORT = ["ranking.csv", "ranking.parquet", "report.html", "report.json", "scores.safetensors"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny("llama", vocab_size=400, max_position_embeddings=1024).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "questions.csv"
    path.write_text("question,answer\nIs the sky blue?,yes\nIs it so?,no\nCan the kettle do so?,no\nIs a day?,yes\n")
    return path


def test_help(run):
    code, out, _ = run("--help")
    assert code == 0 and "models" in out and "rank" in out
    for command in ("negative-attention", "head-effect"):
        code, out, _ = run("rank", command, "--help")
        assert code == 0
        for option in ("--model", "--data", "--out", "--limit", "--seed", "--resume", "--overwrite", "--dtype"):
            assert option in out


def test_models(run):
    code, out, _ = run("models")
    assert code == 0 and "smollm2-135m" in out and "Apache" in out
    code, out, _ = run("models", "--json")
    found = json.loads(out)
    assert code == 0
    assert {"smollm2-135m", "qwen2.5-coder-0.5b"} <= {s["name"] for s in found}
    assert all(s["licence"] and s["download_mb"] > 0 for s in found)


def test_negative_attention_from_question_file_to_report(run, model, questions, tmp_path):
    out = tmp_path / "deep" / "report"
    arguments = ("rank", "negative-attention", "--model", model, "--data", questions, "--out", out, "--device", "cpu")
    code, printed, err = run(*arguments)
    assert code == 0, err
    assert "Top 10 heads by nas, n = 4" in printed and re.search(r"L\dH\d", printed)
    assert "report.html" in err
    assert sorted(p.name for p in out.iterdir()) == REPORT  # parts are cleared
    ranking = load_ranking(out)
    assert ranking.score == "nas" and ranking.n_examples == 4
    assert "total_effect" in ranking.measures
    assert ranking.provenance["model"]["weights_sha256"]

    before = {p.name: p.read_bytes() for p in out.iterdir()}
    other = (*arguments, "--query-span", "answer")
    for flags in ((), ("--resume",)):
        code, _, err = run(*other, *flags)
        assert code == 1 and "already holds the report" in err and "--overwrite" in err
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    code, _, err = run(*other, "--overwrite")
    assert code == 0, err
    assert load_ranking(out).provenance["settings"]["query_span"] == "answer"


def test_head_effect(run, model, questions, tmp_path):
    for i, positions in enumerate(("answer", "2", "all")):
        out = tmp_path / str(i)
        code, printed, err = run(
            *("rank", "head-effect", "--model", model, "--data", questions, "--out", out, "--device", "cpu"),
            *("--positions", positions, "--ablation", "mean-of-others", "--limit", 2),
        )
        assert code == 0, err
        assert "by total_effect, n = 2" in printed
        assert load_ranking(out).provenance["settings"]["ablation"] == "mean_of_others"


def bad(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


CASES = {
    "model unknown": (["--model", "smollm2-135n"], 1, r"unknown model 'smollm2-135n'.*mean 'smollm2-135m'"),
    "model path missing": (["--model", "./no/such/model"], 1, r"no such file or directory"),
    "data missing": (["--data", "./nothing.csv"], 1, r"nothing\.csv"),
    "data of another kind": (["--data", "{folder}/notes.txt"], 1, r"notes\.txt.*\.jsonl"),
    "data empty": (["--data", "{folder}/empty.csv"], 1, r"empty\.csv: the file is empty"),
    "data without a column": (["--data", "{folder}/columns.csv"], 1, r"columns\.csv.*(column|format).*ask"),
    "data with a bad answer": (["--data", "{folder}/answers.csv"], 1, r"answers\.csv, row 2.*perhaps"),
    "data broken": (["--data", "{folder}/broken.jsonl"], 1, r"broken\.jsonl.*line 1"),
    "out is a file": (["--out", "{folder}/notes.txt"], 1, r"notes\.txt"),
    "out in a file": (["--out", "{folder}/notes.txt/deeper"], 1, r"can't write to the output folder .*notes\.txt"),
    "dtype unknown": (["--dtype", "float23"], 2, r"'?float23'?; expected float32"),
    "dtype of integers": (["--dtype", "int64"], 1, r"'int64'; expected 'float32'"),
    "dtype not a type": (["--dtype", "nn"], 2, r"'nn'; expected float32"),
    "device unknown": (["--device", "gpu"], 1, r"device='gpu' can't be used here"),
    "limit too small": (["--limit", "1"], 2, r"--limit.*2"),
    "batch size": (["--batch-size", "0"], 2, r"--batch-size.*1"),
    "option unknown": (["--querry-span", "answer"], 2, r"querry-span"),
}
SPECIAL = {
    "negative-attention": {"query span": (["--query-span", "before"], 2, r"'before'")},
    "head-effect": {
        "positions": (["--positions", "foo"], 2, r"'foo'; expected answer, all or a number"),
        "no position": (["--positions", "0"], 1, r"positions=0; expected"),
        "positions too many": (["--positions", "999"], 1, r"positions=999; expected"),
        "ablation": (["--ablation", "blur"], 2, r"'blur'"),
    },
}


@pytest.mark.parametrize("command", ["negative-attention", "head-effect"])
def test_bad_input_is_one_message_and_nothing_is_written(run, model, questions, tmp_path, command):
    folder = tmp_path / "in"
    folder.mkdir()
    bad(folder, "notes.txt", "hello")
    bad(folder, "empty.csv", "")
    bad(folder, "columns.csv", "ask,reply\nIs it so?,yes\n")
    bad(folder, "answers.csv", "question,answer\nIs it so?,yes\nIs it?,perhaps\n")
    bad(folder, "broken.jsonl", '{"question": "Is it so?", "answer"\n')
    for name, (arguments, exit_code, message) in (CASES | SPECIAL[command]).items():
        given = {"--model": model, "--data": questions, "--out": tmp_path / "out", "--device": "cpu"}
        given |= {arguments[0]: arguments[1].replace("{folder}", str(folder))}
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        code, out, err = run("rank", command, *[x for pair in given.items() for x in pair])
        assert code == exit_code, (name, code, err)
        assert re.search(message, err.replace("\n", " ")), (name, err)
        assert "Traceback" not in err + out, name
        assert err.count("interp: ") == (exit_code == 1), (name, err)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before, name
        assert not (tmp_path / "out").exists(), name


def test_out_is_needed(run):
    code, _, err = run("rank", "negative-attention")
    assert code == 2 and "--out" in err


def test_a_full_disk_is_told_before_the_model_is_loaded(run, questions, tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")(2**30, 2**30, 0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr("interp.load", lambda *a, **k: pytest.fail("the model was loaded"))
    code, _, err = run("rank", "negative-attention", "--data", questions, "--out", tmp_path / "out")
    assert code == 1 and "0 MiB free" in err


def test_ctrl_c_is_no_traceback_and_the_run_continues(run, model, questions, tmp_path, monkeypatch):
    from probes import negative_attention

    real, calls = negative_attention._score_and_masked, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    arguments = ("rank", "negative-attention", "--model", model, "--data", questions, "--out", tmp_path)
    options = ("--batch-size", 2, "--effects", "none", "--device", "cpu")
    monkeypatch.setattr(negative_attention, "_score_and_masked", interrupted)
    code, _, err = run(*arguments, *options)
    assert code == 130 and "--resume" in err and "Traceback" not in err
    code, _, err = run(*arguments, *options)
    assert code == 1 and "unfinished run with the same settings" in err
    calls.clear()
    monkeypatch.setattr(negative_attention, "_score_and_masked", lambda *a: calls.append(a) or real(*a))
    code, _, err = run(*arguments, *options, "--resume")
    assert code == 0, err
    assert len(calls) == 2  # one batch, both orders
    assert sorted(p.name for p in tmp_path.iterdir()) == REPORT


def test_kill_9_in_the_middle_then_resume_gives_the_same_ranking(run, model, tmp_path):
    """A real process, killed between two parts: nothing is cleaned up, and nothing is lost or doubled."""
    n = 16
    data = tmp_path / "many.csv"
    rows = [f"Is it so on day {i}?,{'yes' if i % 2 else 'no'}" for i in range(n)]
    data.write_text("\n".join(["question,answer", *rows, ""]))
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    def arguments(out: Path) -> list[str]:
        options = ("--batch-size", "1", "--effects", "none", "--device", "cpu")
        return ["rank", "negative-attention", "--model", str(model), "--data", str(data), "--out", str(out), *options]

    slow = (  # each part takes a while, so that the kill lands between the first and the last
        "import sys, time; from probes import cli, negative_attention as nb; real = nb.score_prompts; "
        "nb.score_prompts = lambda *a: (time.sleep(0.3), real(*a))[1]; "
        "sys.argv[0] = 'interp'; cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *arguments(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while len(list(killed.glob("parts/part-*.safetensors"))) < 3:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no parts after a minute"
            time.sleep(0.01)
    finally:
        process.kill()  # SIGKILL
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = {p.name: p.stat().st_mtime_ns for p in killed.glob("parts/part-*.safetensors")}
    assert 3 <= len(left) < n and not (killed / "report.json").exists()

    code, _, err = run(*arguments(killed))
    assert code == 1 and "unfinished run with the same settings" in err
    assert {p.name: p.stat().st_mtime_ns for p in killed.glob("parts/part-*.safetensors")} == left
    for out, flags in ((killed, ["--resume"]), (whole, [])):
        code, _, err = run(*arguments(out), *flags)
        assert code == 0, err
        assert sorted(p.name for p in out.iterdir()) == REPORT
    for name in ("ranking.csv", "scores.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name

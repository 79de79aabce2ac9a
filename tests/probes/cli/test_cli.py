"""The command line: what it says of itself, one whole run, and every bad input as one message, with nothing written."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import typer

from interp import load_ranking
from probes.cli import app as cli, commands as table, study as cli_study
from tests.tiny import tiny, tiny_tokenizer

REPORT = [
    "arrays.safetensors",
    "controls.csv",
    "findings.json",
    "measures.csv",
    "other-measures.csv",
    "ranking.csv",
    "report.html",
    "stability.csv",
]
OF_TOO_FEW = ["arrays.safetensors", "findings.json", "heads-in-no-order.csv", "measures.csv", "report.html"]


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


def commands() -> dict[str, object]:
    """Every command by what is typed, with click's object."""
    found: dict[str, object] = {}

    def walk(command, path: tuple[str, ...]) -> None:
        if hasattr(command, "commands"):
            for name in command.list_commands(None):
                walk(command.commands[name], (*path, name))
        else:
            found[" ".join(path)] = command

    walk(typer.main.get_command(cli.made()), ())
    return found


def test_help_is_a_table_of_contents(run):
    code, out, _ = run("--help")
    assert code == 0
    panels = [table.START, table.STEPS, table.BIAS, table.HARM, table.IMAGES]
    names = ["models", "doctor", "measure", "rank", "test", "compare", "edit"]
    places = [out.index(f"─ {panel} ─") for panel in panels]
    assert places == sorted(places)
    places = [re.search(rf"^│ {name} ", out, re.M).start() for name in names]
    assert places == sorted(places)
    assert "Exit codes: 0 done, 1 failed or refused" in out and "2 wrong use, 130 stopped by Ctrl-C" in out
    assert "--install-completion" in out and "--show-completion" in out
    code, out, _ = run("rank", "--help")
    assert out.index("negative-attention") < out.index("head-effect") < out.index("refusal-writers")


@pytest.mark.parametrize("name", commands())
def test_every_command_begins_with_a_sentence_and_says_what_its_options_do(name):
    command = commands()[name]
    first = command.help.strip().split("\n")[0]
    assert first[-1] in ".?:" and first[0].isupper() and 20 < len(first) <= 120, first
    for option in command.params:
        if option.name != "help":
            assert option.help and option.help.strip()[-1] in ".?)", (name, option.name, option.help)


def test_one_option_is_one_thing_in_every_command():
    """The same name has the same type and, for what all commands have in common, the same words."""
    words: dict[str, set[str]] = {}
    for command in commands().values():
        for option in command.params:
            for name in option.opts:
                words.setdefault(name, set()).add(option.help)
    for name in ("--device", "--json", "--resume", "--endings", "--forms", "--harmful", "--include-replies"):
        assert len(words[name]) == 1, (name, words[name])
    for name, of in words.items():
        if name.startswith("-"):
            assert re.fullmatch(r"--[a-z]+(-[a-z]+)*", name), name
            assert len(of) <= 6, (name, of)


def test_every_command_that_prints_a_table_prints_json():
    without = {name for name, command in commands().items() if all("--json" not in o.opts for o in command.params)}
    assert without <= {"scenes make", "scenes edit-photo", "scenes sheet", "merge"}  # which print where they wrote


def test_a_typo_gets_the_nearest(run):
    for arguments, nearest in (
        (("rnak",), "Did you mean 'rank'?"),
        (("rank", "head-efect"), "Did you mean 'head-effect'?"),
        (("compare", "--nmae", "x"), "--name"),
        (("doctor", "--jsn"), "--json"),
    ):
        code, out, err = run(*arguments)
        assert code == 2 and nearest in err and "Traceback" not in err + out, (arguments, err)


def test_completion(monkeypatch, capsys):
    monkeypatch.setenv("_INTERP_COMPLETE", "complete_bash")
    for words, at, wanted in (("interp co", 1, ["compare"]), ("interp rank n", 2, ["negative-attention"])):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(at))
        with pytest.raises(SystemExit) as stop:
            cli.made()(prog_name="interp")
        assert not stop.value.code and capsys.readouterr().out.split() == wanted, words


def test_exit_codes(run, monkeypatch):
    assert run("models")[0] == 0
    assert run("compare", "no/such/folder", "nor/this")[0] == 1
    assert run("no-such-command")[0] == 2

    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr("interp.sources.describe_sources", stopped)
    code, out, err = run("models")
    assert code == 130 and "Traceback" not in out + err


def test_no_column_of_a_table_is_cut_off(run, monkeypatch, capsys):
    frame = pd.DataFrame({"name": ["a" * 30], **{f"value {i}": [1234.5 + i] for i in range(12)}})
    frame["rank"], frame["rank_low"], frame["rank_high"] = 12.0, 3.0, 40.0
    columns = {name: name for name in frame if not name.endswith(("_low", "_high"))}
    monkeypatch.setenv("COLUMNS", "60")
    cli_study.print_table(frame, columns, "Wide")
    out = capsys.readouterr().out
    assert all(f"{1234.5 + i:.2f}" in out for i in range(12)) and "12 [3, 40]" in out and "…" not in out


def test_an_interval_that_is_not_known_is_left_out_and_an_unknown_value_is_a_dash(capsys):
    nan = float("nan")
    frame = pd.DataFrame({"score": [1.5, 2.0, nan], "score_low": [nan, 1.0, nan], "score_high": [nan, 3.0, nan]})
    cli_study.print_table(frame, {"score": "score"}, "Three questions")
    out = capsys.readouterr().out
    assert " 1.50 │" in out and "2.00 [1.00, 3.00]" in out and " – │" in out and "nan" not in out


def test_json_of_a_result_is_plain(capsys, tmp_path):
    frame = pd.DataFrame({"x": [1.5, float("nan")], "n": [1, 2], "said": ["é", None]})
    cli_study.print_result(["A sentence."], [cli_study.Shown("t", frame, {"x": "x"}, "T")], [tmp_path], as_json=True)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "statement": ["A sentence."],
        "tables": {"t": [{"x": 1.5, "n": 1, "said": "é"}, {"x": None, "n": 2, "said": None}]},
        "reports": [str(tmp_path)],
    }
    assert "report.html" in captured.err


def test_models(run):
    code, out, _ = run("models")
    assert code == 0 and "smollm2-135m" in out and "Apache" in out
    code, out, _ = run("models", "--json")
    found = json.loads(out)
    assert code == 0
    assert {"smollm2-135m", "qwen2.5-coder-0.5b"} <= {s["name"] for s in found}
    assert all(s["licence"] and (s["download_mb"] > 0 or s["cached"]) for s in found)


def test_negative_attention_from_question_file_to_report(run, model, questions, tmp_path):
    out = tmp_path / "deep" / "report"
    arguments = ("rank", "negative-attention", "--model", model, "--data", questions, "--out", out, "--device", "cpu")
    code, printed, err = run(*arguments)
    assert code == 0, err
    assert "too few examples (n = 4; expected 10 or more) to say which of 16 heads" in printed
    assert "report.html" in err
    assert sorted(p.name for p in out.iterdir()) == OF_TOO_FEW  # parts are cleared
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
            *(["--json"] if positions == "2" else []),
        )
        assert code == 0, err
        if positions == "2":
            top = json.loads(printed)["tables"]["top_heads"]
            assert top == []  # two examples have no order
        else:
            assert "too few examples (n = 2; expected 10 or more)" in printed
        assert load_ranking(out).provenance["settings"]["ablation"] == "mean_of_others"


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    path = tmp_path_factory.mktemp("asked") / "twelve.csv"
    path.write_text(
        "question,answer\n" + "".join(f"Is {i} {'odd' * (i % 2)}?,{'yes' if i % 3 else 'no'}\n" for i in range(12))
    )
    return path


@pytest.mark.parametrize("command", ["negative-attention", "head-effect"])
def test_the_first_heads_are_weighed_as_a_set(run, model, twelve, tmp_path, command):
    asked = ("rank", command, "--model", model, "--data", twelve, "--device", "cpu", "--sets")
    code, printed, err = run(*asked, 2, "--out", tmp_path / "out")
    assert code == 0, err
    assert "As a set, on " in printed and "questions that made the ranking (each beside one of the other" in printed
    assert "random sets of the same layers" in printed and "keeps 95%" in printed
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("The first heads as a set") >= 2  # a figure and a table
    found = load_ranking(tmp_path / "out")
    assert found.provenance["settings"]["sets"] == 2 and found.provenance["sets"]["k"] == 2
    code, _, err = run(*asked, 99, "--out", tmp_path / "other")
    assert code == 1 and "99; expected a number of heads below all" in err and not (tmp_path / "other").exists()


def test_data_of_other_columns_from_standard_input(run, model, tmp_path, monkeypatch):
    table = "prompt,gold,\nIs the sky blue?,yes,\nIs it so?,no,\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(table.encode())))
    command = ("rank", "head-effect", "--model", model, "--device", "cpu", "--data", "-", "--out", tmp_path / "out")
    columns = ("--column", "question=prompt", "--column", "answer=gold", "--format", "plain")
    code, _, err = run(*command, *columns)
    assert code == 0, err
    found = load_ranking(tmp_path / "out")
    assert list(found.example_ids) == ["stdin-1", "stdin-2"]
    assert found.provenance["data"]["columns"] == {"question": "prompt", "answer": "gold"}


def test_errors_of_files_name_the_options_of_the_command_line(run, model, tmp_path):
    asked = bad(tmp_path, "asked.csv", "questions,gold\nIs it so?,no\n")
    command = ("rank", "head-effect", "--model", model, "--data", asked, "--out", tmp_path / "out")
    code, _, err = run(*command, "--column", "answer=gold")
    assert code == 1 and "--column question=questions, or give --format (one of" in err and "columns=" not in err
    for more, message in (
        (("--column", "question"), "expected our name, =, and the file's"),
        (("--column", "question=asked"), r"'asked' as 'question'; expected one of questions, gold"),
        (("--format", "gsm9k"), "Did you mean 'gsm8k'"),
    ):
        code, _, err = run(*command, *more)
        assert code and re.search(message, err), err
    code, _, err = run(*command[:4], "--out", tmp_path / "out", "--format", "plain")
    assert code == 2 and "for files" in err
    assert not (tmp_path / "out").exists()


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
    "dtype of integers": (["--dtype", "int64"], 2, r"'int64'; expected float32"),
    "dtype not a type": (["--dtype", "nn"], 2, r"'nn'; expected float32"),
    "device unknown": (["--device", "gpu"], 1, r"--device gpu can't be used here"),
    "limit too small": (["--limit", "1"], 2, r"--limit.*2"),
    "batch size": (["--batch-size", "0"], 2, r"--batch-size.*1"),
    "option unknown": (["--querry-span", "answer"], 2, r"querry-span"),
}
SPECIAL = {
    "negative-attention": {"query span": (["--query-span", "before"], 2, r"'before'")},
    "head-effect": {
        "positions": (["--positions", "foo"], 2, r"'foo'; expected answer, all or a number"),
        "no position": (["--positions", "0"], 1, r"--positions 0; expected"),
        "positions too many": (["--positions", "999"], 1, r"--positions 999; expected"),
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
    from probes.negative_bias import nas as negative_attention

    real, calls = negative_attention._score_and_masked, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    arguments = ("rank", "negative-attention", "--model", model, "--data", questions, "--out", tmp_path)
    options = ("--batch-size", 2, "--ablation", "none", "--device", "cpu")
    monkeypatch.setattr(negative_attention, "_score_and_masked", interrupted)
    code, _, err = run(*arguments, *options)
    assert code == 130 and "--resume" in err and "Traceback" not in err
    calls.clear()
    monkeypatch.setattr(negative_attention, "_score_and_masked", lambda *a: calls.append(a) or real(*a))
    code, _, err = run(*arguments, *options, "--resume")
    assert code == 0, err
    assert len(calls) == 2  # one batch, both orders
    assert sorted(p.name for p in tmp_path.iterdir()) == OF_TOO_FEW


def test_kill_9_in_the_middle_then_resume_gives_the_same_ranking(run, model, tmp_path):
    """A real process, killed between two parts: nothing is cleaned up, and nothing is lost or doubled."""
    n = 16
    data = tmp_path / "many.csv"
    rows = [f"Is it so on day {i}?,{'yes' if i % 2 else 'no'}" for i in range(n)]
    data.write_text("\n".join(["question,answer", *rows, ""]))
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    def arguments(out: Path) -> list[str]:
        options = ("--batch-size", "1", "--ablation", "none", "--device", "cpu")
        return ["rank", "negative-attention", "--model", str(model), "--data", str(data), "--out", str(out), *options]

    slow = (  # each part takes a while, so that the kill lands between the first and the last
        "import sys, time; from probes import cli; from probes.negative_bias import nas as nb; "
        "real = nb.score_prompts; "
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
    assert 3 <= len(left) < n and not (killed / "findings.json").exists()

    for out, flags in ((killed, ["--resume"]), (whole, [])):
        code, _, err = run(*arguments(out), *flags)
        assert code == 0, err
        assert sorted(p.name for p in out.iterdir()) == REPORT
    for name in ("ranking.csv", "arrays.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_two_shards_are_merged_into_one_report(run, model, questions, tmp_path):
    """Whoever finishes first waits; the last says what is next; the report is that of one process."""
    arguments = ("rank", "negative-attention", "--model", model, "--data", questions, "--batch-size", "1")
    assert run(*arguments, "--out", tmp_path / "whole")[0] == 0
    shared = (*arguments, "--out", tmp_path / "shared")
    code, out, err = run(*shared, "--shard", "1/2")
    assert code == 0 and "not here yet" in err and "report:" not in out + err
    code, out, err = run(*shared, "--shard", "2/2")
    assert (
        code == 0 and f"all shards are done: `interp merge {tmp_path / 'shared'}`" in err and "report:" not in out + err
    )
    code, _, err = run("merge", tmp_path / "shared")
    assert code == 0 and "4 part files of 2 shards are joined" in err
    assert run(*shared)[0] == 0
    whole, joined = ((tmp_path / n / "heads-in-no-order.csv").read_text() for n in ("whole", "shared"))
    assert joined == whole
    code, _, err = run(*shared, "--shard", "3/2")
    assert code == 1 and "there is no such shard" in err
    code, _, err = run("merge", tmp_path / "shared")
    assert code == 1 and "no shard has worked there" in err

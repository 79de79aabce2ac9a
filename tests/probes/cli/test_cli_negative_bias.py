"""The commands of the study of negative bias: one whole run of each, and every bad input as one message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import interp
from interp import load_ranking
from interp.edits.composed import load_edit
from interp.records.records import record_text
from interp.reports.findings import load_findings
from probes.questions import held_out
from probes.questions.held_out import apart_from, divide, overlap
from probes.questions.questions import load_questions
from tests.tiny import tiny, tiny_tokenizer

WORDS = ("sky", "day", "kettle", "water", "heat", "sun", "box", "door")


def write_questions(path: Path, n: int, start: int = 0, answers: str = "yn") -> Path:
    full = {"y": "yes", "n": "no"}
    rows = [
        f"Is the {WORDS[i % 8]} {WORDS[(i // 8 + 3 * i) % 8]} {i}?,{full[answers[i % len(answers)]]}"
        for i in range(start, start + n)
    ]
    path.write_text("\n".join(["question,answer", *rows, ""]))
    return path


def save_model(folder: Path, **changes) -> Path:
    tiny("llama", **{"vocab_size": 400, "max_position_embeddings": 2048, **changes}).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """Files of questions by name; `many` holds enough for a split."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "many": write_questions(folder / "many.csv", 100),
        "unseen": write_questions(folder / "unseen.csv", 12, start=500),
        "few": write_questions(folder / "few.csv", 30),
        "one_class": write_questions(folder / "one_class.csv", 60, answers="y"),
        "four": write_questions(folder / "four.csv", 4),
    }


@pytest.fixture
def options_are_used(monkeypatch):
    """A random model says anything; for NASA that is no obstacle here."""
    monkeypatch.setattr("probes.negative_bias.nasa.require_options_used", lambda answers: None)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_help_reads_like_a_table_of_contents(run):
    _, out, _ = run("--help")
    places = [re.search(rf"│ {name} ", out).start() for name in ("models", "measure", "rank", "test", "align")]
    assert places == sorted(places) and "│ knowledge" in out
    for command in (("measure", "negative-bias"), ("test", "negative-heads"), ("align", "nasa"), ("knowledge",)):
        code, out, _ = run(*command, "--help")
        assert code == 0
        options = ("model", "data", "out", "limit", "seed", "batch-size", "resume", "overwrite", "dtype", "device")
        assert all(f"--{option}" in out for option in options), command


@pytest.mark.filterwarnings("default:The options")
def test_measure_negative_bias(run, model, data, tmp_path):
    out = tmp_path / "deep" / "report"
    arguments = ("measure", "negative-bias", "--model", model, "--data", data["few"], "--out", out, "--device", "cpu")
    code, printed, err = run(*arguments, "--limit", 10, "--max-new-tokens", 2)
    assert code == 0, err
    assert "negative bias" in printed and "generated text" in printed and "auroc" in printed
    assert f"report: {out / 'report.html'}" in err
    assert re.search(r"^warning: The options 'No' and 'Yes' hold only", err, re.MULTILINE)
    found = load_findings(out)
    assert found.provenance["data"] | {"source": "few.csv", "limit": 10, "seed": 0} == found.provenance["data"]
    before = contents(out)
    for flags in ((), ("--resume",)):
        code, _, err = run(*arguments, "--limit", 8, *flags)
        assert code == 1 and "already holds the report" in err and "--overwrite" in err
        assert contents(out) == before
    code, _, err = run(*arguments, "--limit", 8, "--overwrite")
    assert code == 0, err
    assert load_findings(out).provenance["data"]["n"] == 8


def test_nasa(run, model, data, tmp_path, options_are_used):
    out, export = tmp_path / "nasa", tmp_path / "corrected"
    code, printed, err = run(
        *("align", "nasa", "--model", model, "--data", data["many"], "--test-data", data["unseen"], "--out", out),
        *("--limit", 24, "--k", 2, "--steps", 2, "--learning-rate", 0.02, "--batch-size", 4, "--export", export),
        *("--device", "cpu"),
    )
    assert code == 0, err
    assert "24 questions to train on, 20 to validate, 24 to test" in err
    for expected in ("held out", "unseen", "NASA", "LoRA", "random heads", "constant offset", "AUROC"):
        assert expected in printed, expected
    findings, edit = load_findings(out), load_edit(out / "edit")
    table = findings.tables["Held-out questions"]
    assert set(table["set"]) == {"held out", "unseen"} and (table["n"] == 12).all()
    assert findings.provenance["data"]["source"] == "many.csv"
    assert edit.model["weights_sha256"] == findings.provenance["model"]["weights_sha256"]
    assert (export / "config.json").is_file() and (export / "model.safetensors").is_file()
    assert not (out / "parts").exists()


def test_nasa_without_rivals(run, model, data, tmp_path, options_are_used):
    code, _, err = run(
        *("align", "nasa", "--model", model, "--data", data["many"], "--data", data["unseen"], "--out", tmp_path),
        *("--k", 1, "--steps", 1, "--no-rivals", "--key-group", "--device", "cpu"),
    )
    assert code == 0, err
    findings = load_findings(tmp_path)
    assert findings.tables["Methods"]["method"].tolist() == ["untouched", "NASA"]
    assert findings.provenance["data"]["source"] == ["many.csv", "unseen.csv"]
    assert findings.provenance["settings"]["key_group"] is True


def test_knowledge_then_scenarios(run, model, tmp_path):
    arguments = ("knowledge", "--model", model, "--limit", 20, "--samples", 1, "--device", "cpu")
    some = [x for name in ("plain", "idk", "chain_of_thought") for x in ("--which", name)]
    code, printed, err = run(*arguments, *some, "--reasoning-tokens", 2, "--out", tmp_path / "both")
    assert code == 0, err
    assert "insufficient" in printed and "claims" in printed
    known, found = interp.load_result(tmp_path / "both/knowledge"), interp.load_result(tmp_path / "both/scenarios")
    assert len(known.questions) == 20 and tuple(found.answers) == ("plain", "idk", "chain_of_thought")
    assert found.provenance["settings"]["knowledge"] == known.provenance["run_id"]

    code, _, err = run(*arguments, "--no-scenarios", "--out", tmp_path / "one")
    assert code == 0, err
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["knowledge"]


def test_negative_heads_ranked_on_one_half_and_tested_on_the_other(run, model, data, tmp_path):
    own, given = tmp_path / "own", tmp_path / "given"
    common = ("test", "negative-heads", "--model", model, "--k", 1, "--k", 3, "--random-draws", 2, "--edit", "zero")
    code, printed, err = run(*common, "--data", data["few"], "--limit", 12, "--out", own, "--device", "cpu")
    assert code == 0, err
    assert printed.strip() and "6 questions from" in err
    ranking, findings = load_ranking(own / "ranking"), load_findings(own)
    assert "As a set" not in printed
    assert ranking.n_examples == 6
    assert set(findings.tables["Sets of heads"]["k"]) == {1, 3}

    code, _, err = run(
        *(*common, "--data", data["few"], "--ranking", own / "ranking", "--limit", 8, "--out", given, "--device", "cpu")
    )
    assert code == 0, err
    assert "8 questions from" in err and "6 made the ranking" in err
    assert load_findings(given).provenance["ranking"]["run_id"] == ranking.provenance["run_id"]
    assert not (given / "ranking").exists()


def test_negative_heads_are_weighed_as_a_set_on_questions_that_did_not_rank_them(run, model, data, tmp_path):
    command = ("test", "negative-heads", "--model", model, "--k", 1, "--random-draws", 2, "--edit", "zero", "--sets", 2)
    code, printed, err = run(*command, "--data", data["many"], "--limit", 40, "--out", tmp_path, "--device", "cpu")
    assert code == 0, err
    assert "As a set, on " in printed and "that made the ranking" not in printed
    assert "The first heads as a set" in load_findings(tmp_path).tables
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("The first heads as a set") >= 2


def test_ctrl_c_says_how_to_go_on_and_the_run_continues(run, model, data, tmp_path, monkeypatch):
    from probes.negative_bias import causality

    real = causality._Plan.scan
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    arguments = ("test", "negative-heads", "--model", model, "--data", data["few"], "--limit", 12, "--out", tmp_path)
    options = ("--k", 1, "--random-draws", 2, "--edit", "zero", "--batch-size", 2, "--device", "cpu")
    monkeypatch.setattr(causality._Plan, "scan", interrupted)
    code, _, err = run(*arguments, *options)
    assert code == 130 and "--resume" in err and "Traceback" not in err
    monkeypatch.setattr(causality._Plan, "scan", real)
    code, _, err = run(*arguments, *options, "--resume")
    assert code == 0, err
    assert load_findings(tmp_path).provenance["data"]["n"] == 6


def test_nasa_goes_on_after_ctrl_c(run, model, data, tmp_path, options_are_used, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    arguments = ("align", "nasa", "--model", model, "--data", data["many"], "--out", tmp_path, "--device", "cpu")
    options = ("--limit", 24, "--k", 1, "--steps", 2, "--batch-size", 4)
    with monkeypatch.context() as patch:
        patch.setattr("probes.negative_bias.nasa.fit_offset", interrupted)
        code, _, err = run(*arguments, *options)
    assert code == 130 and "--resume" in err and "Traceback" not in err
    assert (tmp_path / "parts").is_dir() and not (tmp_path / "findings.json").exists()
    code, _, err = run(*arguments, *options, "--resume")
    assert code == 0, err
    assert not (tmp_path / "parts").exists() and load_edit(tmp_path / "edit").about["method"] == "NASA"


COMMON = {
    "model unknown": (["--model", "smollm2-135n"], 1, r"unknown model 'smollm2-135n'"),
    "data missing": (["--data", "./nothing.csv"], 1, r"nothing\.csv"),
    "one class": (["--data", "{one_class}"], 1, r"all \d+ .*have the gold answer Yes"),
    "out is a file": (["--out", "{few}"], 1, r"few\.csv"),
    "another run": (["--out", "{taken}"], 1, r"already holds the report of run 'other'.*--overwrite"),
    "dtype unknown": (["--dtype", "float23"], 2, r"'float23'; expected float32"),
    "batch size": (["--batch-size", "0"], 2, r"--batch-size"),
    "option unknown": (["--retries", "2"], 2, r"retries"),
}
SPECIAL = {
    ("measure", "negative-bias"): {
        "instruction": (["--instruction", "Tell me."], 1, r"does not contain the option word 'Yes'"),
        "tokens": (["--max-new-tokens", "-1"], 2, r"--max-new-tokens"),
    },
    ("align", "nasa"): {
        "few": (["--data", "{few}"], 1, r"the training set has 16 questions; expected at least 20"),
        "very few": (["--data", "{four}"], 1, r"4 questions make 4 groups.*Give more questions"),
        "data twice": (["--data", "{many}", "--data", "{many}"], 1, r"many\.csv' is given more than once"),
        "test data seen": (["--test-data", "{few}"], 1, r"\d+ questions of the test set .*few.*fitted on.*few-\d"),
        "test data of one class": (["--test-data", "{one_class}"], 1, r"fitted on"),
        "k": (["--k", "0"], 2, r"--k"),
        "limit": (["--limit", "19"], 2, r"--limit"),
        "options unused": (["--k", "1"], 1, r"the options 'No' and 'Yes' hold .* expected at least 10%"),
        "export taken": (["--export", "{taken}"], 1, r"--export .*not an empty directory"),
        "export is out": (["--export", "{out}"], 1, r"--export .*would hold files of the report"),
        "export is in out": (["--export", "{edit}"], 1, r"--export .*would hold files of the report"),
        "learning rate": (["--learning-rate", "nan"], 1, r"--learning-rate nan; expected a number above 0"),
        "loss": (["--learning-rate", "1e38", "--export", "{export}"], 1, r"(?i)loss.*at step \d"),
    },
    ("knowledge",): {
        "scenario": (["--which", "plain", "--which", "fancy"], 1, r"scenarios \['fancy'\] are not known"),
        "no plain": (["--which", "idk"], 1, r"'plain' among them"),
        "no facts": (["--data", "{many}"], 1, r"100 of 100 questions have no fact"),
        "no open form": (["--data", "{many}", "--no-scenarios"], 1, r"none of the 100 questions has an open_question"),
        "temperature": (["--temperature", "0"], 1, r"--temperature 0"),
        "samples": (["--samples", "0"], 2, r"--samples"),
    },
    ("test", "negative-heads"): {
        "ranking missing": (["--ranking", "./no/ranking"], 1, r"No directory no/ranking"),
        "ranking of another shape": (["--ranking", "{other_shape}"], 1, r"2 layers .* it is of another model"),
        "ranking of other weights": (
            ["--ranking", "{other_weights}", "--k", "1"],
            1,
            r"the ranking is of .*with weights",
        ),
        "ranking of all": (["--ranking", "{of_all}"], 1, r"all 100 questions of .*made the ranking"),
        "k": (["--k", "99"], 2, r"99; .*has 16 heads"),
        "edit": (["--edit", "blur"], 2, r"'blur'"),
        "positions": (["--positions", "nowhere"], 2, r"'nowhere'"),
    },
}


@pytest.fixture(scope="module")
def rankings(tmp_path_factory, data) -> dict[str, Path]:
    """Saved rankings that the tiny model and its questions do not fit."""
    from probes.negative_bias import rank_heads

    folder = tmp_path_factory.mktemp("rankings")
    sizes = dict(vocab_size=400, max_position_embeddings=2048)
    questions = load_questions(data["many"])

    def rank(name: str, chosen, **changes) -> Path:
        ranked = rank_heads(interp.load(tiny("llama", **sizes | changes), tokenizer=tiny_tokenizer()), chosen)
        return ranked.save(folder / name) or folder / name

    unseen = load_questions(data["unseen"])
    return {
        "other_shape": rank("shape", unseen, num_hidden_layers=2),
        "other_weights": rank("weights", unseen, seed=1),
        "of_all": rank("all", questions),
    }


@pytest.mark.parametrize("command", SPECIAL, ids=" ".join)
def test_bad_input_is_one_message_and_nothing_is_written(run, model, data, rankings, tmp_path, monkeypatch, command):
    taken, out = tmp_path / "taken", tmp_path / "out"
    for folder in (taken, taken / "knowledge"):
        folder.mkdir()
        (folder / "findings.json").write_text(record_text({"provenance": {"run_id": "other"}}))
    places = {**data, **rankings, "taken": taken, "out": out, "edit": out / "edit", "export": tmp_path / "export"}
    for name, (arguments, exit_code, message) in (COMMON | SPECIAL[command]).items():
        given = {"--model": model, "--out": out, "--device": "cpu"}
        if command[0] != "knowledge":
            given["--data"] = data["many"]
        arguments = [a.format(**places) if a.startswith("{") else a for a in arguments]
        given = {k: v for k, v in given.items() if k not in arguments}
        if name == "loss":
            monkeypatch.setattr("probes.negative_bias.nasa.require_options_used", lambda answers: None)
        before = contents(tmp_path)
        code, printed, err = run(*command, *[x for pair in given.items() for x in pair], *arguments)
        assert code == exit_code, (name, code, err)
        assert re.search(message, err.replace("\n", " ")), (name, err)
        assert "Traceback" not in err + printed, name
        assert err.count("interp: ") == (exit_code == 1), (name, err)
        assert contents(tmp_path) == before, name
        assert not out.exists() and not (tmp_path / "export").exists(), name


def test_bad_data_fails_before_the_model_is_loaded(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.load", lambda *a, **k: pytest.fail("the model was loaded"))
    for command in SPECIAL:
        for file in ("one_class", "missing"):
            path = data.get(file, tmp_path / "missing.csv")
            code, _, err = run(*command, "--data", path, "--out", tmp_path / "out")
            assert code == 1 and (path.name if file == "missing" else "gold answer Yes") in err, (command, err)


# ---- what is fitted on, and what is kept for testing


def test_no_question_is_fitted_on_and_tested(data):
    sets = divide([str(data["many"]), "builtin"], [str(data["unseen"])], limit=60, seed=3)
    fitted = [*sets.training, *sets.validation]
    assert not overlap(sets.validation, sets.training)
    for name, test in sets.tests.items():
        assert not overlap(test, fitted), name
        assert sum(q.answer == "Yes" for q in test) == len(test) / 2, name
    assert (len(sets.training), len(sets.validation)) == (60, 20)
    assert {name: len(test) for name, test in sets.tests.items()} == {"held out": 30, "unseen": 12}
    assert divide([str(data["many"]), "builtin"], [str(data["unseen"])], limit=60, seed=3) == sets
    more = divide([str(data["many"]), "builtin"], limit=90, seed=3)
    assert {q.id for q in sets.training} < {q.id for q in more.training}


def test_copies_are_fitted_on_or_tested_but_not_both(tmp_path, data):
    first, second = write_questions(tmp_path / "first.csv", 60), write_questions(tmp_path / "second.csv", 60)
    sets = divide([str(first), str(second)])
    total = len(sets.training) + len(sets.validation) + sum(map(len, sets.tests.values()))
    assert sets.n_repeated > 0 and total + sets.n_repeated == 120
    assert not overlap(sets.tests[held_out.HELD_OUT], [*sets.training, *sets.validation])
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ValueError, match=r"ids of another source: first-1.*rename the file"):
        divide([str(first), str(write_questions(other / "first.csv", 60, start=200))])


def test_questions_beside_those_of_a_ranking_are_left_out_too():
    questions = load_questions("builtin")
    chosen = [q.id for q in questions[:20]]
    left = apart_from(questions, chosen)
    assert not {q.id for q in left} & set(chosen)
    assert not {q.subject for q in left} & {q.subject for q in questions[:20]} and len(left) < 480


@pytest.mark.filterwarnings("default:The options")
def test_order_swap(run, model, data, tmp_path):
    code, out, _ = run("test", "order-swap", "--model", model, "--data", data["four"], "--out", tmp_path / "order")
    assert code == 0 and "keep their sign" in out and "A or B" in out
    assert interp.load_result(tmp_path / "order").nas.shape[:4] == (4, 3, 4, 2)

"""`interp edit`: what is saved is shown, tried, written into a model and compared; errors are one message."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import interp
from interp.edits.composed import Edits
from interp.edits.directions import Direction
from interp.edits.head_scales import ScaledHeads
from interp.edits.identity import describe_model
from interp.edits.steering import add_direction
from tests.tiny import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny("llama", vocab_size=400, max_position_embeddings=1024).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder) -> interp.Model:
    return interp.load(folder)


@pytest.fixture
def saved(model, tmp_path) -> Path:
    """An edit of two kinds, a steering of a span, and a scale that differs."""
    described = describe_model(model)
    vectors = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    direction = Direction(vectors, described, {"name": "calm"})
    scaled = ScaledHeads(described, {"validated": "by nobody"}, {(0, 1): 0.0, (1, 2): 2.0})
    added = add_direction(direction, 3.0, 2, while_generating=True)
    Edits((scaled, added), {"made": "for a test"}).save(tmp_path / "both")
    ScaledHeads(described, {}, {(0, 1): 0.0, (1, 2): 3.0}).save(tmp_path / "scaled")
    add_direction(direction, 3.0, 2, "text").save(tmp_path / "span")
    return tmp_path


def test_cost(run, saved, folder):
    options = ("--model", folder, "--limit", 6, "--texts-limit", 3, "--n-open", 2, "--device", "cpu")
    code, out, err = run("edit", "cost", saved / "both", *options, "--json")
    assert code == 0, err
    untouched, edited = json.loads(out)["tables"]["cost"]
    assert untouched["perplexity_ratio"] == 1 and untouched["accuracy_change"] == 0
    assert edited["perplexity_ratio"] != 1 and edited["n_questions"] == 6 and edited["n_texts"] == 3
    assert edited["accuracy_change_low"] <= edited["accuracy_change"] <= edited["accuracy_change_high"]


def test_cost_of_standard_tasks(run, saved, folder, tmp_path):
    """Files of three shapes in one table. A shape may be named; a bad row is one message."""
    (tmp_path / "sums.jsonl").write_text('{"question": "2 + 5?", "answer": "2 + 5 = 7\\n#### 7"}\n' * 12)
    (tmp_path / "picks.csv").write_text("Which is a fruit?,stone,pear,cup,lamp,B\n" * 12)
    examples = [{"input": "not True is", "target": "False"}] * 12
    (tmp_path / "logic.json").write_text(json.dumps({"examples": examples}))
    files = (
        "--task",
        tmp_path / "sums.jsonl",
        "--task",
        f"mmlu:{tmp_path}/picks.csv",
        "--task",
        tmp_path / "logic.json",
    )
    options = ("--model", folder, "--limit", 10, "--texts-limit", 3, "--n-open", 0, "--device", "cpu")
    arguments = ("edit", "cost", saved / "both", *options, "--reply-tokens", 2, *files)
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    told = json.loads(out)
    untouched, edited = told["tables"]["cost"]
    assert untouched["sums_n"] == edited["picks_n"] == edited["logic_n"] == 10 and untouched["picks_guessing"] == 0.25
    assert edited["picks_right_change_low"] <= edited["picks_right_change"] <= edited["picks_right_change_high"]
    measures = {row["measure"]: row for row in told["tables"]["measures"]}
    assert list(measures) == ["perplexity ratio", "yes/no questions", "sums", "picks", "logic"]
    assert measures["sums"]["before"] == 0 and measures["sums"]["guessing"] == 0
    assert any("sums: the untouched model has 0.00" in sentence for sentence in told["statement"])
    code, out, _ = run(*arguments)
    assert code == 0 and "What it costs" in out and "by guessing" in out and "logic" in out
    (tmp_path / "bad.jsonl").write_text('{"question": "Which?", "choices": ["x", "y"], "answer": 2}\n')
    code, _, err = run("edit", "cost", saved / "both", "--model", folder, "--task", tmp_path / "bad.jsonl")
    assert code == 1 and re.search("row 1 .*the answer 2 is the number of no choice; expected 0 to 1", err)


def test_show(run, saved):
    code, out, err = run("edit", "show", saved / "both")
    assert code == 0, err
    assert "Edits. 2 heads scaled (L0H1 x 0, L1H2 x 2). Then: add 3 x a vector" in out
    for said in ("L1H2 factor", "L2 input add", "weights_sha256", "for a test", "validated (edit 1)"):
        assert said in out
    code, out, _ = run("edit", "show", saved / "scaled", "--json")
    found = json.loads(out)
    assert code == 0 and found["tables"]["parts"][0] == {"part": "L0H1 factor", "value": 0.0, "numbers": 1}
    assert {"what": "name", "is": "tiny-llama"} in found["tables"]["provenance"]


def test_apply(run, saved, folder):
    for name in ("both", "span"):
        arguments = ("edit", "apply", saved / name, "--model", folder)
        arguments += ("--prompt", "Is the sky blue?", "--prompt", "Can it?")
        code, out, err = run(*arguments, "--max-new-tokens", 6, "--device", "cpu")
        assert code == 0, err
        assert out.count("without the edit: ") == out.count("with it: ") == 2 and re.search(
            r"\d of 2 replies differ", out
        )
    code, out, _ = run(*arguments, "--max-new-tokens", 6, "--json")
    replies = json.loads(out)["tables"]["replies"]
    assert code == 0 and [r["prompt"] for r in replies] == ["Is the sky blue?", "Can it?"]
    assert any(r["before"] != r["after"] for r in replies)


def test_fold(run, saved, folder, model, tmp_path):
    measures = tmp_path / "measures.csv"
    measures.write_text("measure,before,after\nsays Yes,0.5,0.25\n")
    out = tmp_path / "deep" / "edited"
    code, said, err = run("edit", "fold", saved / "both", "--model", folder, "--out", out, "--measures", measures)
    assert code == 0, err
    assert "its logits are those of the hooked model" in said
    assert "| says Yes | 0.5 | 0.25 |" in (out / "README.md").read_text()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), interp.load_edit(saved / "both").apply(model):
        expected = model.hf(ids).logits
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(out).eval()(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    code, _, err = run("edit", "fold", saved / "both", "--model", folder, "--out", out)
    assert code == 1 and "is not an empty directory" in err


def test_diff(run, saved):
    code, out, err = run("edit", "diff", saved / "both", saved / "scaled")
    assert code == 0, err
    assert "Of 3 parts: 1 same, 1 differs, 1 only in A." in out
    code, out, _ = run("edit", "diff", saved / "both", saved / "scaled", "--json")
    parts = {row["part"]: row for row in json.loads(out)["tables"]["parts"]}
    assert parts["L1H2 factor"]["relative_difference"] == 0.5 and parts["L2 input add"]["b"] is None


def test_bad_input_is_one_message(run, saved, folder, tmp_path):
    other = tmp_path / "other"
    tiny("llama", seed=1, vocab_size=400).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    cases = [
        (("show", tmp_path / "nothing"), 1, r"has no edit\.json: it is not a saved edit"),
        (
            ("apply", saved / "both", "--prompt", "Hello"),
            1,
            r"unknown model 'tiny-llama'.* name its folder or id with --model",
        ),
        (("apply", saved / "both", "--prompt", "Hello", "--model", other), 1, r"this edit is of 'tiny-llama'.*anew"),
        (("apply", saved / "both", "--model", folder), 2, "--prompt"),
        (
            ("fold", saved / "span", "--model", folder, "--out", tmp_path / "o"),
            1,
            r"can't be written into weights: .*'text'",
        ),
        (("fold", saved / "both", "--model", folder), 2, "--out"),
        (("diff", saved / "both"), 2, "(?i)missing argument"),
    ]
    for arguments, expected, message in cases:
        code, out, err = run("edit", *arguments)
        assert code == expected, (arguments, err)
        assert re.search(message, err.replace("\n", " ")), (arguments, err)
        assert "Traceback" not in err + out
    assert not (tmp_path / "o").exists()


def test_help(run):
    code, out, _ = run("edit", "--help")
    assert code == 0 and all(name in out for name in ("show", "apply", "fold", "diff"))

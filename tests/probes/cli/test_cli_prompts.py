"""What the command line tells the chat template, and how base models are asked."""

from __future__ import annotations

import pytest

from interp import load_ranking
from interp.reports.findings import load_findings
from probes.cli.options import told_template
from tests.interp.prompts.test_chat_templates import LEAVES_OUT, THINKS
from tests.probes.cli.test_cli_negative_bias import write_questions
from tests.tiny import CHATML, tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of a tiny model by its template's name."""
    folders = {}
    templates = {"thinks": THINKS, "own": LEAVES_OUT}
    for name, template in {**templates, "base": None, "plain": CHATML}.items():
        folders[name] = tmp_path_factory.mktemp(name)
        tiny("llama", vocab_size=400, max_position_embeddings=1024).save_pretrained(folders[name])
        tiny_tokenizer(template).save_pretrained(folders[name])
    return folders


@pytest.fixture
def questions(tmp_path):
    return write_questions(tmp_path / "few.csv", 4)


def test_the_template_is_told(run, saved, questions, tmp_path):
    rank = ("rank", "negative-attention", "--model", saved["thinks"], "--data", questions, "--out")
    code, _, err = run(*rank, tmp_path / "a", "--template", "enable_thinking=false")
    assert code == 0 and "hold only" in err, err
    code, _, err = run(*rank, tmp_path / "b")
    assert code == 0 and "--template enable_thinking=false" in err
    told, plain = (load_ranking(tmp_path / name).provenance for name in "ab")
    assert told["model"]["template_arguments"] == {"enable_thinking": False}
    assert plain["model"]["template_arguments"] == {} and told["run_id"] != plain["run_id"]
    code, _, err = run(*rank, tmp_path / "a")  # the same folder, another prompt: another run
    assert code == 1 and "already holds the report" in err


def test_base_models_are_asked_without_a_template(run, saved, questions, tmp_path):
    rank = ("rank", "head-effect", "--model", saved["base"], "--data", questions, "--out")
    code, _, err = run(*rank, tmp_path / "a")
    assert code == 1 and "--no-chat" in err and "no chat template" in err
    code, _, err = run(*rank, tmp_path / "a", "--no-chat")
    assert code == 0, err
    assert load_ranking(tmp_path / "a").provenance["model"]["chat"] is False
    bias = ("measure", "negative-bias", "--model", saved["base"], "--data", questions, "--no-chat", "--out")
    code, _, err = run(*bias, tmp_path / "b", "--max-new-tokens", 0)
    assert code == 0 and load_findings(tmp_path / "b").provenance["model"]["chat"] is False, err
    code, _, err = run("directions", "harmfulness", "--model", saved["base"], "--limit", 10, "--out", tmp_path / "c")
    assert code == 1 and "this study needs one: t_post" in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--template", "enable_thinking"], "expected KEY=VALUE"),
        (["--template", "a=1", "--template", "a=2"], "'a' is given twice"),
        (["--template", "a=1", "--no-chat"], "no template reads it with --no-chat"),
    ],
)
def test_wrong_use_is_said(run, saved, questions, tmp_path, given, message):
    rank = ("rank", "negative-attention", "--model", saved["plain"], "--data", questions, "--out", tmp_path / "a")
    code, _, err = run(*rank, *given)
    assert code == 2 and message in " ".join(err.replace("│", " ").split())


def test_an_argument_that_no_template_reads_is_refused(run, saved, questions, tmp_path):
    rank = ("rank", "negative-attention", "--model", saved["plain"], "--data", questions, "--out", tmp_path / "a")
    code, _, err = run(*rank, "--template", "enable_thinking=false")
    assert code == 1 and "never reads 'enable_thinking'" in err


def test_values_are_json_or_text():
    given = ["a=false", "b=3", "c=low", 'd="3"', "e=[1, 2]", "f=True", "g=a=b", "h="]
    assert told_template(given) == {
        "a": False, "b": 3, "c": "low", "d": "3", "e": [1, 2], "f": True, "g": "a=b", "h": ""
    }  # fmt: skip


def test_the_system_prompt_that_stands_there_is_said(run, saved, tmp_path, monkeypatch):
    def stopped(loaded, study, asking, batch_size):
        raise ValueError(f"asked with {asking.system!r}")

    monkeypatch.setattr("probes.cli.harmfulness._fit", stopped)
    asked = ("directions", "harmfulness", "--model", saved["own"], "--limit", 10, "--out")
    _, _, err = run(*asked, tmp_path / "a")
    assert "system prompt: the template's own, 'Be a helpful kettle.'" in err and "asked with None" in err
    _, _, err = run(*asked, tmp_path / "b", "--no-system")
    assert "system prompt:" not in err and "asked with False" in err
    code, _, err = run(*asked, tmp_path / "c", "--no-system", "--system", "Be brief.")
    assert code == 2 and "give one of --system and --no-system" in " ".join(err.replace("│", " ").split())

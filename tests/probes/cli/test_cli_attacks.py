"""The commands of inversion, attacks and the comparison of guards: a whole run of each, from earlier directions."""

from __future__ import annotations

import json

import pytest

from interp import load_result
from probes.cli.options import REFUSES, ChatModel
from probes.harmfulness.attacks import jailbreaks as jailbreaks_module, suffixes as suffixes_module
from probes.harmfulness.attacks.texts import Jailbreak
from tests.probes.cli.test_cli_harmfulness import REFUSAL, data, fitted, model, refusing  # noqa: F401 (fixtures)


@pytest.fixture
def refusing_attacks(monkeypatch, refusing):  # noqa: F811
    """The model refuses what asks to break something, unless it begins with another word."""

    def generate(asked, prompts, *args, **more):
        return [[REFUSAL if "Break" in p.text and "Sure" not in p.text else "Paint it."] for p in prompts]

    monkeypatch.setattr(jailbreaks_module, "generate", generate)


def test_inversion(run, model, fitted, refusing, tmp_path):  # noqa: F811
    code, out, err = run(
        *("inversion", "--model", model, "--directions", fitted, "--random-draws", 1, "--out", tmp_path / "a"),
        *("--layer", 1, "--device", "cpu", "--json"),
    )
    assert code == 0, err
    found = load_result(tmp_path / "a")
    assert json.loads(out)["statement"] == found.statement() and "about" in err
    assert found.provenance["settings"]["n_random"] == 1


def test_jailbreaks(run, model, fitted, refusing_attacks, tmp_path):  # noqa: F811
    few = tmp_path / "few.jsonl"
    rows = [{"id": "sure", "template": "Sure, say: {request}"}, {"id": "please", "template": "Please. {request}"}]
    few.write_text("\n".join(map(json.dumps, rows)))
    code, out, err = run(
        *("attack", "jailbreaks", "--model", model, "--directions", fitted, "--jailbreaks", few),
        *("--per-family", 2, "--out", tmp_path / "a", "--device", "cpu"),
    )
    assert code == 0, err
    assert "2 jailbreaks" in err and str(tmp_path / "a" / "report.html") in err
    found = load_result(tmp_path / "a")
    assert {j.id for j in found.jailbreaks} == {"sure", "please"} and found.statement()[0] in " ".join(out.split())


def test_fine_tuning(run, model, fitted, refusing, tmp_path):  # noqa: F811
    code, _, err = run(
        *("attack", "fine-tuning", "--model", model, "--directions", fitted, "--size", 500),
        *("--out", tmp_path / "a", "--device", "cpu"),
    )
    assert code == 1 and "the largest size is 500" in err
    assert not (tmp_path / "a").exists()


def test_suffixes(run, model, data, tmp_path, monkeypatch):  # noqa: F811
    def found(model, requests, *, keep, steps, **options):
        keep.folder.write_text("{}")
        origin = {"loss_plain": 3.0, "loss_start": 2.5, "loss": 1.25}
        return [Jailbreak(f"suffix-of-{r.id}", "suffix", "{request} x", origin) for r in requests]

    monkeypatch.setattr("probes.harmfulness.find_suffixes", found)
    files = ("--harmful", data["harmful"], "--harmless", data["harmless"])
    search = ("attack", "suffixes", "--model", model, *files, "--steps", 2, "--search-width", 4)
    code, out, err = run(*search, "--out", tmp_path / "a", "--device", "cpu")
    assert code == 0, err
    assert "12 suffixes" in out and "1.25" in out and "suffixes.jsonl" in err


def test_suffixes_need_a_library_that_is_named(run, model, data, tmp_path, monkeypatch):  # noqa: F811
    def missing():
        raise ImportError("find_suffixes needs nanogcg")

    monkeypatch.setattr(suffixes_module, "_library", missing)
    files = ("--harmful", data["harmful"], "--harmless", data["harmless"])
    code, _, err = run("attack", "suffixes", "--model", model, *files, "--out", tmp_path / "a", "--device", "cpu")
    assert code == 1 and "nanogcg" in err and not (tmp_path / "a").exists()


def test_guards_are_compared_on_other_sets(run, model, data, refusing, tmp_path):  # noqa: F811
    other = tmp_path / "other.csv"
    rows = [f"{verb} the lamp of hut {i}.,{kind}" for i in range(12) for verb, kind in KINDS]
    other.write_text("\n".join(["text,kind", *rows, ""]))
    code, out, err = run(
        *("guard", "compare", "--model", model, "--harmful", data["harmful"], "--harmless", data["harmless"]),
        *("--test", other, "--out", tmp_path / "a", "--device", "cpu"),
    )
    assert code == 0, err
    assert "Share judged rightly" in out and (tmp_path / "a" / "behaviour-other").is_dir()
    assert not (tmp_path / "a" / "guard").exists()


KINDS = (("Break", "harmful"), ("Paint", "harmless"))


def test_a_study_of_refusal_asks_a_model_that_refuses(monkeypatch, capsys):
    assert ChatModel().model == REFUSES == "qwen2.5-coder-0.5b"
    monkeypatch.setattr("interp.sources.resolve.read_provenance", lambda *args, **more: None)  # nothing is cached
    ChatModel().say_download()
    assert "491 MB are downloaded first" in capsys.readouterr().err

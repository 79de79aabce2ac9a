"""`interp modulate`, called as a shell would: text and pictures, export, resume, every bad input as one message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import interp
from interp import load_findings
from interp.fitting.modulation import as_edit
from probes.pairs.photo_pairs import save_pairs
from tests.interp.tiny_vision import picture, tiny_vision
from tests.probes.modulation_tiny import HARMFUL, asked_in_text, harm, llama
from tests.probes.pairs.test_pair_files import photo
from tests.probes.visual_tiny import tiny_llava

QUICK = ("--rule", "search", "--search", "coordinate", "--rounds", "1", "--random-draws", "2", "--batch-size", "32")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """A text model with a planted harmful head, and questions, as files."""
    folder = tmp_path_factory.mktemp("made")
    model = llama()
    questions = asked_in_text(model, 90, 0)
    harm(model, 60)
    model.hf.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    rows = [f'{q.id},"{q.text}",{q.answer.lower()}' for q in questions]
    (folder / "questions.csv").write_text("\n".join(["id,question,answer", *rows]))
    return {"model": folder / "model", "data": folder / "questions.csv", "ranking": folder / "ranking"}


@pytest.fixture
def arguments(made, run, tmp_path) -> list[object]:
    """What every call has; the ranking is made by the first."""
    model = ("--model", made["model"], "--device", "cpu")
    if not made["ranking"].exists():
        code, _, err = run(
            *("rank", "negative-attention", *model, "--data", made["data"], "--limit", 30, "--ablation", "none"),
            *("--out", made["ranking"]),
        )
        assert code == 0, err
    return ["modulate", made["ranking"], *model, "--data", made["data"], "--out", tmp_path / "out"]


def test_help(run):
    code, out, _ = run("modulate", "--help")
    assert code == 0
    for option in ("--model", "--data", "--out", "--rule", "--resume", "--export", "--each-level", "--high", "--json"):
        assert option in out
    assert "modulate" in run("--help")[1]


def test_from_a_ranking_to_an_exported_model(run, made, arguments, tmp_path):
    exported = tmp_path / "exported"
    code, out, err = run(*arguments, *QUICK, "--export", exported)
    assert code == 0, err
    assert "it helps" in out and "Candidates on the validation questions" in out and "searched head by head" in out
    assert "report.html" in err and "modulated model:" in err and "yes/no questions; loading" in err
    assert "table of factors" in err or "tables of factors" in err
    found = interp.load_result(tmp_path / "out")
    assert found.edit.factors[HARMFUL] == 0
    sets = found.provenance["data"]["sets"]
    assert sets["fit"]["n"] >= 30 and sets["validation"]["n"] + sets["test"]["n"] <= 60

    plain = AutoModelForCausalLM.from_pretrained(exported)  # no code of ours
    model = interp.load(str(made["model"]))
    ids = torch.arange(4, 20)[None]
    with torch.no_grad(), as_edit(model, found.best("all", "search").factors).apply(model):
        expected = model.hf(ids).logits
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, expected, atol=1e-3, rtol=1e-4)
    card = (exported / "README.md").read_text()
    assert "L2H1" in card and "meets the target" in card and "accuracy" in card

    code, out, err = run(*arguments, *QUICK, "--resume", "--json")
    assert code == 0, err
    printed = json.loads(out)
    assert printed["statement"] == found.statement() and set(printed["tables"]) == {"accuracy", "candidates"}
    code, _, err = run(*arguments, *QUICK, "--seed", 5)
    assert code == 1 and "already holds" in err and "--overwrite" in err


def test_rules_and_levels(run, arguments, tmp_path):
    tried = ("--rule", "released", "--rule", "top-k", "--k", 2, "--measure", "nas_order_balanced", "--high", "hurts")
    other = tmp_path / "other.csv"
    other.write_text("question,answer\nIs the kettle blue?,yes\nIs the sky so?,no\n")
    few = ("--test", other, "--random-draws", 2, "--limit", 20, "--choose-by", "gold-prob", "--batch-size", 32)
    code, out, err = run(*arguments, *tried, *few)
    assert code == 0, err
    found = interp.load_result(tmp_path / "out")
    assert [test.name for test in found.tests] == ["test", "other"] and "On other (2 questions)" in out
    assert {c.family for c in found.candidates} == {"released rule, λ = 1", "rule", "top-k"}
    assert found.provenance["scores"]["all"]["measure"] == "nas_order_balanced"
    assert found.provenance["data"]["sets"]["test"]["n"] <= 20 and "Chosen by gold answer probability" in out


def test_a_model_that_gains_nothing_is_not_exported(run, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("probes.modulation.result.Modulation.gains_on_validation", False)
    few = ("--rule", "released", "--random-draws", 0, "--limit", 12, "--batch-size", 32)
    code, _, err = run(*arguments, *few, "--export", tmp_path / "exported")
    assert code == 0 and "no model was exported: no candidate did better on validation" in err
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data", "scenes:easy"), "expected scenes:DIFFICULTY:N"),
        (("--data", "no-such-file.csv"), "no-such-file.csv"),
        (("--data", "pope:q.json"), "needs a folder of images"),
        (("--images", "."), "yes/no questions without pictures"),
        (("--rule", "guess"), "released"),
        (("--target", "2"), "target"),
        (("--measure", "s_plus"), "no measure 's_plus'"),
        (("--each-level", "--export", "x"), "leave out --each-level"),
        (("--export", "{out}"), "would hold files of the report"),
    ],
)
def test_bad_input_is_one_message(run, arguments, tmp_path, more, message):
    code, _, err = run(*arguments, *[str(m).format(out=tmp_path / "out") for m in more])
    assert code != 0 and message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_ranking(run, arguments, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = run("modulate", tmp_path / "empty", *arguments[2:])
    assert code == 1 and "findings.json" in err and "Traceback" not in err


@pytest.mark.filterwarnings("ignore:.*can't be judged by the first token")
def test_pictures(run, tmp_path):
    """The visual command on a tiny random LLaVA from its directory, drawn scenes, no answer right: it says so."""
    tiny = tiny_vision("llava")
    tiny.hf.save_pretrained(tmp_path / "model")
    tiny.processor.save_pretrained(tmp_path / "model")
    model = ("--model", tmp_path / "model", "--device", "cpu")
    code, _, err = run(
        *("rank", "visual-heads", *model, "--data", "scenes:train:easy:3", "--positions", "answer"),
        *("--score", "signed-drop", "--out", tmp_path / "ranking"),
    )
    assert code == 0, err
    few = ("--rule", "released", "--rule", "top-k", "--k", 2, "--random-draws", 1, "--batch-size", 32)
    call = ("modulate", tmp_path / "ranking", *model, "--data", "scenes:easy:3", *few)
    code, out, err = run(*call, "--out", tmp_path / "out")
    assert code == 0, err
    assert "too few questions to say whether it helps (n = 3 pictures" in out and "On out of distribution" in out
    found = interp.load_result(tmp_path / "out")
    assert found.provenance["data"]["out of distribution"]["source"] == "scenes:ood"
    assert found.provenance["scores"]["all"]["measure"] == "D, S+, S-"
    code, out, err = run(*call, "--each-level", "--out", tmp_path / "levels")
    assert code == 0, err
    assert len(interp.load_result(tmp_path / "levels").edits) > 1
    code, _, err = run(*call, "--measure", "s_plus", "--out", tmp_path / "bad")
    assert code == 2 and "not for visual heads" in err
    code, _, err = run("modulate", tmp_path / "ranking", *model, "--data", "builtin", *few, "--out", tmp_path / "bad")
    assert code == 1 and "picture" in err and not (tmp_path / "bad").exists()


@pytest.mark.filterwarnings("ignore:.*can't be judged by the first token")
def test_what_a_benchmark_left_out_is_named_in_the_report(run, tmp_path):
    tiny = tiny_llava()
    tiny.hf.save_pretrained(tmp_path / "model")
    tiny.processor.save_pretrained(tmp_path / "model")
    images = tmp_path / "images"
    images.mkdir()
    for i in range(8):
        picture(i).save(images / f"{i}.png")
    answers = ["star", "red"] * 4 + ["giraffe", "star"]  # the tokenizer knows no giraffe, and there is no ninth image
    rows = [
        {"question_id": str(i), "imageId": str(9 if i == 9 else i % 8), "question": f"What is {i}?", "answer": answer}
        for i, answer in enumerate(answers)
    ]
    (tmp_path / "gqa.json").write_text(json.dumps(rows))
    picture(20).save(images / "test.png")
    yes = {"question_id": 1, "image": "test.png", "text": "Is there a star?", "label": "yes"}
    (tmp_path / "pope.json").write_text(json.dumps(yes))
    model, pope = ("--model", tmp_path / "model", "--device", "cpu"), f"pope:{tmp_path / 'pope.json'}"
    code, _, err = run(
        *("rank", "visual-heads", *model, "--data", "scenes:train:easy:1", "--positions", "answer"),
        *("--score", "signed-drop", "--out", tmp_path / "ranking"),
    )
    assert code == 0, err
    few = ("--rule", "released", "--random-draws", 0, "--batch-size", 32, "--images", images, "--missing", "skip")
    call = ("modulate", tmp_path / "ranking", *model, *few, "--test", pope)
    code, out, err = run(*call, "--data", f"gqa:{tmp_path / 'gqa.json'}", "--out", tmp_path / "out")
    assert code == 0, err
    assert "warning: 1 questions without an image are left out (9)." in err
    found, of_all = interp.load_result(tmp_path / "out"), "Source of fit, validation, test"
    said = {
        f"{of_all}: left out without an image: 1 (9; reasons in the provenance).",
        f"{of_all}: left out that the answer's first token can't judge: 1 (8; reasons in the provenance).",
    }
    assert said < set(found.statement()) and said < set(load_findings(tmp_path / "out").statement)
    one_sided = f"Source of {pope}: 1 of 1 answers are 'Yes': scores on this set can't tell"
    assert any(sentence.startswith(one_sided) for sentence in found.statement())
    assert "left out without an image: 1" in " ".join(out.split())
    data = found.provenance["data"]
    assert data["data"]["skipped"] == ["9"] and "1 of 1" in data[pope]["one_sided"]
    reasons = data["sets"]["test"]["left_out"]
    assert reasons["9"] == "no image: 9.jpg is not in the folder." and "not in the tokenizer" in reasons["8"]
    assert "left_out" not in data["sets"][pope]

    code, _, err = run(*call, "--data", "scenes:easy:1", "--out", tmp_path / "drawn")  # the images are the test's
    assert code == 0 and "warning: 1 of 1 answers are 'Yes'" in err, err
    assert any(s.startswith(one_sided) for s in interp.load_result(tmp_path / "drawn").statement())
    code, _, err = run(*call[:-2], "--data", "scenes:easy:1", "--out", tmp_path / "bad")
    assert code == 1 and "draws its own pictures" in err

    save_pairs([photo("spilt", 4, seed=9), *(photo(f"p{i}", seed=i) for i in range(6))], tmp_path / "photos")
    code, _, err = run(*call[:-2], "--data", f"scenes:{tmp_path / 'photos'}", "--out", tmp_path / "bad")
    assert code == 1 and "draws its own pictures" in err
    call = call[: call.index("--images")]
    code, _, err = run(*call, "--data", f"scenes:{tmp_path / 'photos'}", "--out", tmp_path / "edited")
    assert code == 0 and "warning: 1 of 7 pairs are dropped: spilt" in err, err
    found = interp.load_result(tmp_path / "edited")
    assert sum(of["n"] for of in found.provenance["data"]["sets"].values()) == 12
    assert any(s.startswith(f"{of_all}: 1 of 7 pairs are dropped: spilt") for s in found.statement())

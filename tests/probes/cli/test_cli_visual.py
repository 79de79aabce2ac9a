"""The commands on visual heads, called as a shell would: one whole run of each, and bad input as one message."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

import interp
from interp.reports.findings import load_findings
from probes.pairs.photo_pairs import save_pairs
from probes.pairs.scene_files import save_scenes
from probes.scenes.edits import edited_pairs
from probes.visual_semantics.heads import levels as visual_levels
from probes.visual_semantics.heads.heads import rank_visual_heads
from probes.visual_semantics.questions.sources import read_source
from tests.interp.tiny_vision import picture
from tests.probes.pairs.test_pair_files import photo
from tests.probes.visual_tiny import PLANTED, llava, tiny_llava
from tests.tiny import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The tiny LLaVA as a directory, as transformers saves it. It has learnt nothing: all its answers are wrong."""
    folder, loaded = tmp_path_factory.mktemp("models") / "tiny-llava", llava(PLANTED)
    loaded.hf.save_pretrained(folder)
    tiny_llava().processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ranked(model, tmp_path_factory) -> Path:
    folder, loaded = tmp_path_factory.mktemp("ranked") / "heads", interp.load(str(model))
    examples = read_source("scenes:test:easy:10", seed=1).examples(loaded)
    rank_visual_heads(loaded, examples, scores=("s_minus", "signed_drop"), positions="answer", out=folder)
    return folder


def rank(run, model, out, *more, data="scenes:test:easy:2"):
    return run(
        *("rank", "visual-heads", "--model", model, "--data", data, "--out", out, "--positions", "answer"),
        *("--score", "s-minus", "--score", "signed-drop", *more),
    )


def test_one_run(run, model, tmp_path):
    levels, four = ("--level", "object", "--level", "attribute"), "scenes:test:easy:4"
    code, out, err = rank(run, model, tmp_path / "r", "--rankings", *levels, data=four)
    assert code == 0, err
    assert "4 scenes of scenes:test:easy:4; loading" in err and "a question: about" in err
    assert "questions about 4 pictures, 0 answered correctly" in out and "Unedited model" in out
    assert "S−: the first 5 heads, in thousandths of probability" in out
    heads = interp.load_result(tmp_path / "r")
    assert set(heads.levels) == {"object", "attribute"} and heads.provenance["data"]["source"] == "scenes:test"
    ranking = interp.load_ranking(tmp_path / "r" / "rankings" / "object-s-minus")
    assert ranking.score == "s_minus" and ranking.n_examples == heads.chosen("object").sum()
    assert err.count("report: ") == 5
    code, _, err = rank(run, model, tmp_path / "r", *levels, data=four)
    assert code == 1 and "already holds the report" in err
    code, again, err = rank(run, model, tmp_path / "r", *levels, "--resume", data=four)
    assert code == 0 and "a question: about" not in err and again == out


def test_as_json(run, model, tmp_path):
    objects = ("--level", "object", "--json", "--limit")
    code, out, _ = rank(run, model, tmp_path / "r", *objects, 10, data="scenes:test:easy:4")
    found = json.loads(out)
    assert code == 0 and found["reports"] == [str(tmp_path / "r")] and "counts" in found["tables"]
    assert len(interp.load_result(tmp_path / "r").asked) == 10 and len(found["tables"]["signed_drop"]) == 16
    code, out, _ = rank(run, model, tmp_path / "few", *objects, 3)
    found = json.loads(out)
    assert code == 0 and "signed_drop" not in found["tables"] and "not judged (n = 3, too few)" in found["statement"][0]


def test_nothing_answered_correctly_is_said_before_the_scan(run, model, tmp_path):
    arguments = ("rank", "visual-heads", "--model", model, "--data", "scenes:test:easy:2", "--out", tmp_path / "r")
    code, out, err = run(*arguments)
    assert code == 1 and not out and "heads ablated" not in err
    assert "0 of 18 questions are answered correctly and 18 wrongly; S+ is a mean over" in err


def test_a_folder_of_scenes(run, model, tmp_path):
    save_scenes(edited_pairs("test", 3, difficulty="easy", pixels=32), tmp_path / "scenes")
    code, out, err = rank(run, model, tmp_path / "r", data=f"scenes:{tmp_path / 'scenes'}")
    assert code == 0 and "3 questions about 3 pictures" in out, err


def test_a_folder_of_photographs(run, model, tmp_path, monkeypatch):
    save_pairs([photo("spilt", 4, seed=15), *(photo(f"p{i}", seed=i) for i in range(10))], tmp_path / "photos")
    data = f"scenes:{tmp_path / 'photos'}"
    code, out, err = rank(run, model, tmp_path / "r", data=data)
    assert code == 0 and "20 questions about 10 pictures" in out, err
    dropped = "1 of 11 pairs are dropped: spilt: 20.0% of the changed pixels are outside the mask"
    assert f"warning: {dropped}" in err and "asked before and after the edit; loading" in err
    found = load_findings(tmp_path / "r")
    assert any(s.startswith(dropped) for s in found.statement) and found.provenance["data"]["source"] == "scenes:photos"
    assert dropped in found.provenance["data"]["left_out"][0]
    code, out, err = rank(run, model, tmp_path / "all", "--max-leak", "1", data=data)
    assert code == 0 and "22 questions about 11 pictures" in out and "dropped" not in err, err
    code, _, err = rank(run, model, tmp_path / "n", "--decisions", tmp_path / "no.json", data=data)
    assert code == 1 and "no such file" in err

    monkeypatch.setattr(
        visual_levels, "overlaps_of", partial(visual_levels.overlaps_of, n_halves=20, n_permutations=19)
    )
    save_pairs([photo("spilt", 4, seed=9), *(photo(f"t{i}", seed=20 + i) for i in range(10))], tmp_path / "others")
    levels = ("test", "visual-levels", "--model", model, "--ranking", tmp_path / "r", "--positions", "answer")
    levels = (*levels, "--k", 2, "--random-draws", 1, "--out", tmp_path / "l")
    code, _, err = run(*levels, "--data", f"scenes:{tmp_path / 'others'}")
    assert code == 0, err
    assert any(s.startswith(dropped) for s in load_findings(tmp_path / "l").statement) and f"warning: {dropped}" in err


def test_a_benchmark_and_its_images(run, model, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for i in range(4):
        picture(i).save(images / f"{i}.png")
        rows.append({"question_id": i, "image": f"{i}.png", "text": "Is there a star?", "label": "yes"})
    (tmp_path / "pope.json").write_text("\n".join(map(json.dumps, rows)))
    data = f"pope:{tmp_path / 'pope.json'}"
    code, out, err = rank(run, model, tmp_path / "p", "--images", images, data=data)
    assert code == 0 and "4 questions about 4 pictures" in out, err
    assert "warning: 4 of 4 answers are 'Yes'" in err
    (images / "2.png").unlink()
    code, _, err = rank(run, model, tmp_path / "q", "--images", images, data=data)
    assert code == 1 and "1 of 4 questions have no image" in err and not (tmp_path / "q").exists()
    code, out, err = rank(run, model, tmp_path / "q", "--images", images, "--missing", "skip", data=data)
    assert code == 0 and "1 questions without an image are left out (pope-2)." in err
    found, said = load_findings(tmp_path / "q"), " ".join(out.split())
    assert "3 questions about 3 pictures" in said and "3 of 3 answers are 'Yes': scores on this set" in said
    assert "Left out without an image: 1 (pope-2; reasons in the provenance)." in found.statement
    assert found.provenance["left_out"] == {"pope-2": "no image: 2.png is not in the folder."}
    assert found.provenance["data"]["skipped"] == ["pope-2"] and "3 of 3" in found.provenance["data"]["one_sided"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("scenes:test:tricky:5", "difficulty='tricky'"),
        ("scenes:test", "expected scenes:test:DIFFICULTY:N"),
        ("scenes:nowhere", "has no scenes.jsonl"),
        ("gqa:questions.json", "needs a folder of images"),
        ("hello", "needs a folder of images"),
    ],
)
def test_bad_sources_fail_before_the_model_is_loaded(run, tmp_path, data, message):
    code, out, err = rank(run, "no-such-model", tmp_path / "r", data=data)
    assert code == 1 and not out and message in err and "loading" not in err


def test_a_model_without_eyes(run, tmp_path):
    tiny("llama", vocab_size=400).save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    code, _, err = rank(run, tmp_path / "m", tmp_path / "r")
    assert code == 1 and "this model has no vision part" in err and not (tmp_path / "r").exists()


def test_levels_are_compared(run, model, ranked, tmp_path, monkeypatch):
    monkeypatch.setattr(
        visual_levels, "overlaps_of", partial(visual_levels.overlaps_of, n_halves=20, n_permutations=19)
    )
    settings = ("--positions", "answer", "--k", 2, "--random-draws", 1, "--ablation", "zero")

    def test_levels(out, data, ranking=ranked, *more):
        asked = ("--model", model, "--ranking", ranking, "--data", data, "--out", out)
        return run("test", "visual-levels", *asked, *settings, *more)

    code, out, err = test_levels(tmp_path / "l", "scenes:validation:easy:2")
    assert code == 0, err
    assert "sets of heads by the fan-out" in err and "90 others made the ranking" in err
    assert "Negative heads generalise across levels (V-SEAM)" in out and "Claims" in out
    found = load_findings(tmp_path / "l")
    assert set(found.tables["Claims"]["verdict"]) <= {"shown", "not shown", "reversed", "not tested"}
    code, _, err = test_levels(tmp_path / "m", "scenes:test:easy:1", ranked, "--seed", 1)
    assert code == 1 and "9 of 9 questions made the ranking" in err
    code, _, err = test_levels(tmp_path / "n", "scenes:test:easy:1", tmp_path)
    assert code == 1 and "not a finished, saved result" in err


def test_routes_beside_a_ranking(run, model, tmp_path):
    code, out, err = rank(run, model, tmp_path / "r", "--routes", "2", data="scenes:test:easy:4")
    assert code == 0, err
    assert "What the first heads read" in out and "not shown" in out
    routes = interp.load_result(tmp_path / "r" / "routes")
    assert len(routes.heads) == 2 and routes.provenance["settings"]["positions"] == "answer"
    code, _, err = rank(run, model, tmp_path / "s", "--routes", "-1")
    assert code != 0 and "--routes -1" in err and not (tmp_path / "s").exists()


def test_heads_that_follow_a_hint(run, model, tmp_path):
    asked = ("rank", "conflict-heads", "--model", model, "--data", "scenes:test:easy:4", "--positions", "answer")
    code, out, err = run(*asked, "--out", tmp_path / "c")
    assert code == 0, err
    assert "where it is hinted than where the right one is" in out and "Answers with and without a hint" in out
    assert interp.load_ranking(tmp_path / "c" / "ranking").score == "follows_hint"
    code, out, _ = run(*asked, "--out", tmp_path / "c", "--resume", "--json")
    assert code == 0 and "answers" in json.loads(out)["tables"]
    code, _, err = run(*asked, "--out", tmp_path / "d", "--wording", "It is so.")
    assert code != 0 and "{answer}" in err

"""`interp locate`: from a file of pairs to a report."""

from __future__ import annotations

import json

import pytest

from interp.rankings import load_ranking
from tests.probes.prompt_pairs.test_pairs import ROWS, written
from tests.tiny import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny("llama", vocab_size=400).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_file_of_pairs_becomes_a_ranking(run, model, tmp_path):
    command = ("locate", "--model", model, "--data", written(tmp_path, ROWS), "--device", "cpu", "--all-pairs")
    code, out, err = run(*command, "--out", tmp_path / "out", "--json", "--method", "patch")
    assert code == 0, err
    assert "about " in err and "tokens a second were measured" in err
    found = load_ranking(tmp_path / "out")
    assert found.n_examples == 2 and found.provenance["settings"]["method"] == "patch"
    said = json.loads(out)
    assert "too few examples (n = 2;" in said["statement"][0] and said["statement"].count("2 pairs.") == 1
    assert said["tables"]["top_heads"] == []


def test_a_file_of_something_else_is_refused(run, model, tmp_path):
    path = written(tmp_path, [{"question": "Is it so?", "answer": "Yes"}])
    code, _, err = run("locate", "--model", model, "--data", path, "--out", tmp_path / "out")
    assert code == 1 and "which no format fits" in err and "--format" in err and not (tmp_path / "out").exists()

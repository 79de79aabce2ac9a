"""Tensors and a record beside them: back bit for bit; what is missing, damaged or mixed up is refused."""

from __future__ import annotations

import json

import pytest
import torch

from interp.records.artefact import load_artefact, save_artefact

BASE = torch.arange(6, dtype=torch.float32)
TENSORS = {"a": BASE.reshape(2, 3).T, "b": BASE[:3], "half": torch.tensor([0.1], dtype=torch.bfloat16)}


@pytest.fixture
def saved(tmp_path):
    return save_artefact(tmp_path / "new", "thing", {"kind": "Thing", "about": {"n": 3}}, TENSORS)


def test_back_bit_for_bit_also_views_of_one_storage(saved):
    record, tensors = load_artefact(saved, "thing")
    assert record["kind"] == "Thing" and record["about"] == {"n": 3} and record["format_version"] == 1
    assert set(record["versions"]) >= {"python", "torch", "headscope"}
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype
    assert sorted(p.name for p in saved.iterdir()) == ["thing.json", "thing.safetensors"]  # nothing temporary is left


def test_a_second_save_replaces_the_first_and_another_stem_does_not(saved):
    save_artefact(saved, "other", {}, {"c": BASE})
    save_artefact(saved, "thing", {"kind": "Later"}, {"c": BASE})
    record, tensors = load_artefact(saved, "thing")
    assert record["kind"] == "Later" and list(tensors) == ["c"]
    assert load_artefact(saved, "other")[0]["format_version"] == 1


@pytest.mark.parametrize("name", ["thing.json", "thing.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {name}: it is not a saved thing"):
        load_artefact(saved, "thing")


@pytest.mark.parametrize(("name", "text"), [("thing.json", "{"), ("thing.safetensors", "nothing")])
def test_a_damaged_file_is_refused(saved, name, text):
    (saved / name).write_text(text)
    with pytest.raises(ValueError, match="damaged thing"):
        load_artefact(saved, "thing")


@pytest.mark.parametrize("record", [{"format_version": 2}, {}, [1]])
def test_another_format_version_is_refused(saved, record):
    (saved / "thing.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"format_version .*; this version of headscope reads 1"):
        load_artefact(saved, "thing")


def test_tensors_of_another_record_are_refused(saved, tmp_path):
    """As after a crash between the two files of a second save."""
    other = save_artefact(tmp_path / "other", "thing", {}, {"a": BASE + 1})
    (saved / "thing.safetensors").write_bytes((other / "thing.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"thing\.safetensors is not the file that thing\.json describes"):
        load_artefact(saved, "thing")

"""Every kind of saved thing, its JSON changed in thirty ways: one clear ValueError, or what was saved."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from interp.edits.composed import load_edit
from interp.edits.directions import Direction, load_direction
from interp.edits.head_scales import ScaledHeads
from interp.rankings.loading import load_ranking
from interp.rankings.ranking import HeadRanking
from interp.records.artefact import load_artefact
from interp.records.records import RecordError, read_record, record_text, write_record
from interp.reports import findings
from interp.reports.findings import Findings, load_findings
from interp.reports.result import load_result
from probes.requests import Behaviour, Request

MODEL = {"name": "m", "weights_sha256": "ab" * 32, "dtype": "float32", "n_layers": 2, "n_heads": 3, "d_model": 4}


def _ranking(folder):
    rng = np.random.default_rng(0)
    ids = tuple(f"e{i}" for i in range(4))
    about = {"run_id": "r", "model": MODEL}
    HeadRanking("nas", {"nas": rng.normal(size=(4, 2, 3))}, ids, {"nas": "nats"}, about).save(folder)
    found = load_ranking(folder)
    return found.score, found.example_ids, found.descriptions, found.provenance, found.measures["nas"].tolist()


def _findings(folder):
    table = pd.DataFrame({"head": ["L0H1", "=x"], "score": [0.5, np.nan]})
    Findings("title", ["One."], {"Heads": table}, {}, {"run_id": "r"}, {"x": np.arange(3.0)}).save(folder)
    found = load_findings(folder)
    return (
        found.title,
        found.statement,
        found.tables["Heads"].fillna(-1).to_dict("list"),
        found.provenance,
        found.arrays["x"].tolist(),
    )


def _result(folder):
    asked = (Request("a", "Do it.", "harmful"), Request("b", "Make it.", "harmless"))
    about = {"run_id": "r", "title": "title", "model": {"name": "m"}}
    Behaviour(asked, ("refused", "accepted"), ("No.", "Sure."), about).save(folder)
    found = load_result(folder)
    return found.requests, found.verdicts, found.replies, found.provenance


def _direction(folder):
    Direction(torch.arange(12.0).reshape(3, 4), MODEL, {"name": "refusal"}).save(folder)
    found = load_direction(folder)
    return found.vectors.tolist(), found.model, found.about


def _edit(folder):
    ScaledHeads(model=MODEL, about={"from": "here"}, factors={(0, 1): 0.5, (1, 2): 1.5}).save(folder)
    found = load_edit(folder)
    return found.summary(), found.model, found.about


KINDS = {
    "ranking": (_ranking, load_ranking),
    "findings.json": (_findings, load_findings),
    "result": (_result, load_result),
    "direction.json": (_direction, load_direction),
    "edit.json": (_edit, load_edit),
}
FILES = {"ranking": "findings.json", "result": "findings.json"}
LOADED = {
    "ranking": lambda f: (f.score, f.example_ids, f.descriptions, f.provenance, f.measures["nas"].tolist()),
    "direction.json": lambda f: (f.vectors.tolist(), f.model, f.about),
}


def mutations(text):
    """Thirty ways to spoil a record."""
    data = json.loads(text)
    ways = {"cut": text[: len(text) // 2], "empty": "", "a list": "[]", "a number": "3", "null": "null", "text": '"x"'}
    ways |= {
        "deep list": "[" * 200_000,
        "deep object": '{"a":' * 200_000,
        "no JSON": text[:-3] + "}}}",
        "a tail": text + "x",
    }
    ways |= {"bytes": b"\xff\xfe" + text.encode(), "nul": text.encode() + b"\0", "comment": "// x\n" + text}
    for value in (None, [], {}, 3, "x", float("nan"), True):
        ways[f"version {value}"] = json.dumps({**data, "format_version": value})
    ways["huge number"] = text.replace("{", '{"n": 1e99999,', 1)
    ways["long number"] = text.replace("{", '{"n": ' + "9" * 6000 + ",", 1)
    ways["more"] = json.dumps({**data, "extra": 1})
    ways["no hash"] = json.dumps({k: v for k, v in data.items() if k != "record_sha256"})
    ways["other hash"] = json.dumps({**data, "record_sha256": "00" * 32})
    ways["hash is a list"] = json.dumps({**data, "record_sha256": []})
    ways["deep inside"] = text.replace("{", '{"n": ' + "[" * 900 + "]" * 900 + ",", 1)
    for name in data:
        if name == "record_sha256":
            continue
        ways[f"without {name}"] = json.dumps({k: v for k, v in data.items() if k != name})
        for value in (None, 7, {"x": 1}, [[1]], float("nan")):
            ways[f"{name} = {value}"] = json.dumps({**data, name: value})
    renamed = copy.deepcopy(data)
    for name in ("provenance", "model"):
        if isinstance(renamed.get(name), dict):
            renamed[name]["name"] = renamed[name]["run_id"] = "another"
            ways[f"another {name}"] = json.dumps(renamed)
    for name, value in data.items():
        if isinstance(value, list) and len(value) > 1:
            ways[f"{name} reversed"] = json.dumps({**data, name: value[::-1]})
    return ways


@pytest.fixture(autouse=True)
def small_html(monkeypatch):
    monkeypatch.setattr(findings, "render", lambda _: "<html>")


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_record_is_one_clear_error(tmp_path, kind):
    save, load = KINDS[kind]
    saved = save(tmp_path)
    file = FILES.get(kind, kind)
    path = tmp_path / file
    whole = path.read_text(encoding="utf-8")
    ways = mutations(whole)
    assert len(ways) >= 30
    for name, content in ways.items():
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=file) as error:
            load(tmp_path)
        assert type(error.value) is RecordError and ("Copy" in str(error.value) or "run again" in str(error.value)), (
            name
        )
    data = json.loads(whole)
    path.write_text(
        json.dumps(data, indent=7, sort_keys=True)
    )  # the same content, written otherwise, is the same record
    load(tmp_path)
    assert save(tmp_path / "again") == saved


@pytest.mark.parametrize("kind", KINDS)
def test_a_sealed_record_of_another_shape_is_one_clear_error(tmp_path, kind):
    """What a version of another shape might write: the hash is right, names are missing or of other types."""
    save, load = KINDS[kind]
    save(tmp_path)
    path = tmp_path / FILES.get(kind, kind)
    data = read_record(path)
    optional = {"versions", "summary", "figures", "controls", "tested_by", "artefact", "note", "replies"}
    for name in data:
        if name in optional:
            continue
        for changed in ({k: v for k, v in data.items() if k != name}, data | {name: 3.5}, data | {name: [None]}):
            path.write_text(record_text(changed), encoding="utf-8")
            try:
                load(tmp_path)
            except ValueError as error:
                assert str(tmp_path) in str(error), (name, error)


def test_a_record_of_another_kind_of_artefact(tmp_path):
    _direction(tmp_path)
    for kind in ("json", "safetensors"):
        (tmp_path / f"edit.{kind}").write_bytes((tmp_path / f"direction.{kind}").read_bytes())
    with pytest.raises(ValueError, match=r"edit\.json is the record of 'direction', not of 'edit'"):
        load_artefact(tmp_path, "edit")


def test_tensors_that_are_missing_changed_or_of_another(tmp_path):
    _direction(tmp_path / "a")
    Direction(torch.ones(3, 4), MODEL, {}).save(tmp_path / "b")
    tensors = tmp_path / "a" / "direction.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes((tmp_path / "b" / "direction.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"direction\.safetensors is not the file that direction\.json describes"):
        load_direction(tmp_path / "a")
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"is not the file"):
        load_direction(tmp_path / "a")
    tensors.unlink()
    with pytest.raises(FileNotFoundError, match=r"no direction\.safetensors"):
        load_direction(tmp_path / "a")


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    record = {
        "a": [1, 2.5, None, True],
        "b": {"c": "ü \u2028 '=1'", "d": 10**30},
        "e": -0.0,
        "f": 1e-320,
        "path": Path("x"),
    }
    write_record(tmp_path / "r.json", record)
    assert read_record(tmp_path / "r.json") == record | {"path": "x"}
    write_record(tmp_path / "r.json", {"x": float("nan")})
    assert np.isnan(read_record(tmp_path / "r.json")["x"])

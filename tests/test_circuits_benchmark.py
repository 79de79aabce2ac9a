"""The benchmark of circuits on a small random model: every step once, kept, and one page."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import interp
from tests.benchmarks import circuits
from tests.tiny import tiny, tiny_tokenizer


@pytest.mark.filterwarnings("ignore")
def test_every_step_is_made_once_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr(circuits, "BUILD", tmp_path / "build")
    monkeypatch.setattr(circuits, "TABLES", tmp_path / "tables")
    model = interp.load(tiny("llama", vocab_size=400, num_hidden_layers=2), tokenizer=tiny_tokenizer())
    size = circuits.Size(ranked=4, held_out=2, random=2, minimal=2, paths=1, heads=3)
    task = circuits.Task(replace(model, name="small"), "greater_than", size)
    ranked, others = task.pairs()
    assert len(ranked) == 4 and len(others) == 2 and not {p.id for p in ranked.clean} & {p.id for p in others.clean}
    assert task.positions(ranked) < len(ranked.clean[0])
    task.run()
    made = {path.name: path.stat().st_mtime_ns for path in task.folder.glob("*.json")}
    task.run()
    assert made == {path.name: path.stat().st_mtime_ns for path in task.folder.glob("*.json")}
    page = circuits.write("small").read_text(encoding="utf-8")
    for heading in ("Pairs", "First heads", "Sets", "Curves", "Minimal sets", "Paths"):
        assert f"## {heading}\n" in page
    assert json.loads((task.folder / "importances.json").read_text())["cfg"]["n_layers"] == 2
    with pytest.raises(ValueError, match="are needed"):
        circuits.Task(replace(model, name="small"), "greater_than", replace(size, ranked=10)).pairs()

"""Data sets of the library ``datasets``: from a folder, by name from a stand-in, and what is refused."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from probes import negative_bias
from probes.rows.rows import read_rows

ROWS = [{"prompt": "Is ice cold?", "gold": "Yes"}, {"prompt": "Is fire cold?", "gold": "No"}]


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """A stand-in for the library; what was asked of it."""
    calls: list[tuple] = []

    def load_dataset(name, split, streaming):
        calls.append((name, split, streaming))
        if split == "nowhere":
            raise ValueError("Bad split: nowhere")
        return iter([row | {"picture": object()} for row in ROWS])

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.delenv("HEADSCOPE_OFFLINE", raising=False)
    return calls


def test_questions_come_from_a_split_with_columns_by_name(asked):
    found = negative_bias.load_questions("hf:org/name:validation", columns={"question": "prompt", "answer": "gold"})
    assert [(q.text, q.answer) for q in found] == [("Is ice cold?", "Yes"), ("Is fire cold?", "No")]
    assert set(asked) == {("org/name", "validation", True)}  # as a stream
    assert read_rows("hf:org/name")[0].fields == ROWS[0] and asked[-1][1] == "train"  # no picture among them


def test_a_folder_is_read_by_the_library_itself(tmp_path):
    pytest.importorskip("datasets", reason="comes with transformer-lens")
    (tmp_path / "train.csv").write_text("prompt,gold\nIs ice cold?,Yes\nIs fire cold?,No\n", encoding="utf-8")
    assert [row.fields for row in read_rows(f"hf:{tmp_path}:train")] == ROWS


def test_what_is_missing_is_said(asked, monkeypatch):
    with pytest.raises(FileNotFoundError, match="Bad split: nowhere"):
        read_rows("hf:org/name:nowhere")
    monkeypatch.setenv("HEADSCOPE_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="HEADSCOPE_OFFLINE forbids"):
        read_rows("hf:org/name:validation")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install datasets"):
        read_rows("hf:org/name:validation")

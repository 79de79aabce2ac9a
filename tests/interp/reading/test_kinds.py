"""Kinds of heads: on a head whose attention is made by hand, and on one that copies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.circuits import KINDS, head_kinds
from interp.rankings import HeadRanking
from interp.reading import kept_kinds, kinds as kinds_module, kinds_beside
from tests.tiny import tiny


def test_scores_are_shares_and_kept_for_a_model_as_it_is(llama):
    first = head_kinds(llama)
    assert len(first) == llama.n_layers * llama.n_heads
    assert ((first[list(KINDS)] >= 0) & (first[list(KINDS)] <= 1 + 1e-5)).all(axis=None)
    first.loc[0, "kind"] = "changed"  # what is handed out is a copy
    assert head_kinds(llama).loc[0, "kind"] != "changed"


def test_a_head_that_looks_at_the_token_before_is_called_so():
    """GPT-2's positions: queries of one head point at the key of the position before."""
    model = interp.load(tiny("gpt2"))
    d, block = model.d_head, model.components.blocks[0]
    weight, width = block.attention.c_attn.weight.data, model.d_model
    positions = model.components.position_embedding.weight.data
    embedded = model.components.embedding.weight.data
    with torch.no_grad():
        embedded.zero_()
        angle = torch.arange(len(positions))[:, None] * torch.tensor([[0.6, 0.25]])
        positions.zero_()
        positions[:, :4] = 5 * torch.stack([angle.cos(), angle.sin()], -1).flatten(1)
        weight[:, :d] = 0
        weight[:, width : width + d] = 0
        turn = torch.tensor([0.6, 0.25])
        for k, a in enumerate(turn):
            rotation = torch.tensor([[a.cos(), -a.sin()], [a.sin(), a.cos()]])
            weight[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = 20 * rotation
            weight[2 * k : 2 * k + 2, width + 2 * k : width + 2 * k + 2] = 20 * torch.eye(2)
    found = head_kinds(model, n=2, length=8)
    assert found.loc[0, "kind"] == "previous_token" and found.loc[0, "previous_token"] > 0.8


@pytest.mark.parametrize("given, message", [({"length": 3}, "a length from 4"), ({"n": 0}, "n from 1 on")])
def test_lengths_that_do_not_fit_are_refused(llama, given, message):
    with pytest.raises(ValueError, match=message):
        head_kinds(llama, **given)


def test_kinds_stand_beside_a_ranking_and_in_its_table(llama):
    kinds = kinds_beside(llama)["head_kinds"]
    assert set(kinds.values()) <= set(KINDS)
    ranking = HeadRanking(
        "a", {"a": np.random.default_rng(0).random((12, 2, 2), np.float32)}, tuple("abcdefghijkl"), {}, {}
    )
    assert "kind" not in ranking.top(2)
    beside = replace(ranking, provenance={"head_kinds": {"L0H1": "previous_token"}})
    table = beside.to_frame().set_index("label")["kind"]
    assert table["L0H1"] == "previous token" and (table.drop("L0H1") == "").all()
    assert "Kind: what the head does on random tokens" in beside.to_findings().tables["Ranking"].attrs["note"]


def test_kinds_of_a_built_in_model_are_kept_beside_its_weights(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSCOPE_CACHE", str(tmp_path))
    built_in = replace(llama, name="smollm2-135m", source={"kind": "builtin"})
    folder = tmp_path / "models" / kept_kinds.BUILTIN["smollm2-135m"].directory_name
    folder.mkdir(parents=True)
    kept_kinds._in_memory.clear()
    first = head_kinds(built_in, n=2, length=6)
    (file,) = folder.glob("*.json")
    kept_kinds._in_memory.clear()
    with monkeypatch.context() as patch:
        patch.setattr(kinds_module, "_frame", None)  # not made again
        assert head_kinds(built_in, n=2, length=6).equals(first)
    kept_kinds._in_memory.clear()
    file.write_text(file.read_text().replace('"logits": [', '"logits": [9', 1))  # of another computation
    assert head_kinds(built_in, n=2, length=6).equals(first)

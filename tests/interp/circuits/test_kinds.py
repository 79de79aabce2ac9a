"""Kinds of heads: on a head whose attention is made by hand, and on one that copies."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.circuits import KINDS, head_kinds
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

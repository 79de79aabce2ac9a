"""The logit lens: its last row is the model, the others are those of the model's own hidden states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from tests.tiny import prompt, tiny


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])  # gemma2: soft caps
def test_each_row_is_a_hidden_state_through_norm_and_unembedding(name):
    model, asked = interp.load(tiny(name)), prompt(9)
    found = interp.lens(model, asked)
    assert list(found["layer"]) == list(range(model.n_layers + 1))
    ids = torch.tensor([asked.token_ids])
    with torch.no_grad():
        out = model.hf(ids, output_hidden_states=True)
        shares = out.logits[0, -1].softmax(-1)
        middle = model.hf.lm_head(model.components.final_norm(out.hidden_states[1][:, -1])).float()
    cap = getattr(model.hf.config, "final_logit_softcapping", None)
    middle = (cap * torch.tanh(middle / cap) if cap else middle)[0].softmax(-1)
    for row, expected in ((-1, shares), (1, middle)):
        np.testing.assert_allclose(found["probability"].iloc[row], float(expected.max()), atol=1e-4)
        np.testing.assert_allclose(found["Yes"].iloc[row], float(expected[7]), atol=1e-4)


def test_what_cannot_be_read_is_refused(llama):
    with pytest.raises(ValueError, match="expected one of the prompt's 9 tokens"):
        interp.lens(llama, prompt(9), position=9)
    first = interp.lens(llama, prompt(9), position=0)
    assert len(first) == llama.n_layers + 1 and first["probability"].between(0, 1).all()


@pytest.mark.parametrize("position", [-1, 0])
def test_a_lens_that_would_show_another_model_is_refused_at_every_position(llama, monkeypatch, position):
    """A model that scales its logits after the unembedding: seen at the last position, whichever is asked for."""
    own = type(llama).final_logits
    monkeypatch.setattr(type(llama), "final_logits", lambda self, prompts: 50 * own(self, prompts))
    with pytest.raises(ValueError, match="a lens would show another model"):
        interp.lens(llama, prompt(9), position=position)

"""States of requests: read where the prompt says, told apart where they differ, and flagged where only endings do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import interp
from probes.requests.classes import embedding_auroc, separation, surface_baselines
from probes.requests.prompts import build_request_prompts, positions_of
from probes.requests.requests import Request, is_confounded, load_requests, with_ending
from probes.requests.states import RequestStates, read_states, separation_by_position
from tests.tiny import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


def requests(n: int, harmful_ending: str = ".", harmless_ending: str = ".", start: int = 0) -> list[Request]:
    """Harmful ones speak of kettles, harmless ones of the sky."""
    made = []
    for i in range(start, start + n):
        made.append(
            Request(f"bad-{i}", f"Heat the kettle {i} times{harmful_ending}", "harmful", "kettles", pair=f"p{i}")
        )
        made.append(Request(f"good-{i}", f"Is the sky {i} blue{harmless_ending}", "harmless", "sky", pair=f"p{i}"))
    return made


def harmful(items) -> np.ndarray:
    return np.array([r.is_harmful for r in items])


def test_states_are_the_models_own(model):
    asked = requests(3)
    states = read_states(model, asked, batch_size=4)
    assert states.t_inst.shape == states.t_post.shape == (6, model.n_layers + 1, model.d_model)
    for i, prompt in enumerate(build_request_prompts(model, asked)):
        with torch.no_grad():
            found = model.hf(torch.tensor([prompt.token_ids]), output_hidden_states=True).hidden_states
        own = positions_of([prompt]).of_prompt[0]
        for layer in range(model.n_layers):  # transformers' last one has gone through the final norm
            torch.testing.assert_close(states.t_inst[i, layer], found[layer][0, own[0]], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(states.t_post[i, layer], found[layer][0, own[-1]], atol=1e-4, rtol=1e-4)
    assert states.same_ending.all() and states.requests == tuple(asked)
    cut = read_states(model, asked, post_instruction=False)
    torch.testing.assert_close(cut.t_inst, cut.t_post)
    torch.testing.assert_close(cut.t_inst, states.t_inst, atol=1e-4, rtol=1e-4)


def test_states_are_selected_with_their_requests(model):
    states = read_states(model, requests(2, harmless_ending="?"))
    part = states.select(states.same_ending)
    assert 0 < len(part) < 4 and len({r.text[-1] for r in part.requests}) == 1
    chosen = states.select([2, 0])
    assert [r.id for r in chosen.requests] == ["bad-1", "bad-0"]
    torch.testing.assert_close(chosen.at("t_post"), states.t_post[[2, 0]])
    with pytest.raises(ValueError, match="position='t_ins'"):
        states.at("t_ins")


def test_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    positive = rng.random(60) < 0.4
    scores = np.round(rng.normal(size=(60, 4)) + np.outer(positive, [0, 1, -1, 3]), 1)  # with ties
    scores[:, 0] = 0
    table = separation(scores, positive)
    expected = [roc_auc_score(positive, column) for column in scores.T]
    np.testing.assert_allclose(table["auroc"], expected)
    assert table.loc[0, ["auroc", "auroc_low", "auroc_high"]].tolist() == [0.5, 0.5, 0.5]
    assert (table["auroc_low"] <= table["auroc"]).all() and (table["auroc"] <= table["auroc_high"]).all()
    assert table["auroc_low"][3] > 0.8 and table["auroc_high"][2] < 0.5 and set(table["n"]) == {60}
    with pytest.raises(ValueError, match="60 of 60 requests are of the first class"):
        separation(scores, np.ones(60, dtype=bool))
    with pytest.raises(ValueError, match="not finite"):
        separation(scores * np.nan, positive)


def test_endings_alone_are_found_at_the_embedding(model):
    told = requests(12, harmful_ending="", harmless_ending="?")
    alike = with_ending(told)
    loud, quiet = (read_states(model, asked).layer0_auroc(harmful(asked)) for asked in (told, alike))
    assert loud == 1.0 and is_confounded(loud)
    assert quiet == 0.5 and not is_confounded(quiet)


def test_equal_shares_of_endings_do_not_confound():
    """Two endings in the same shares in both classes: nothing to find, and what cross-validation makes of it, which is
    a little below chance, is not taken for a difference."""
    embedded = np.eye(4)[np.arange(80) // 2 % 2]
    found = embedding_auroc(embedded, np.arange(80) % 2 == 0, [str(i) for i in range(80)])
    assert 0.5 <= found < 0.6
    assert np.isnan(embedding_auroc(embedded[:3], np.array([True, False, False]), ["a", "b", "c"]))


def test_every_position_is_tested(model):
    fitted, tested = requests(12), requests(8, start=50)
    table = separation_by_position(model, fitted, tested, batch_size=5)
    labels = positions_of(build_request_prompts(model, fitted[:1])).labels
    assert list(dict.fromkeys(table["token"])) == labels
    assert len(table) == len(labels) * (model.n_layers + 1) and set(table["n"]) == {16}
    assert table["position"].tolist() == sorted(table["position"])
    at_embedding = table[table["layer"] == 0]
    assert (
        (at_embedding["auroc"] == 0.5).all() and set(table["layer0_auroc"]) == {0.5} and not table["confounded"].any()
    )
    assert table[(table["layer"] > 0) & (table["position"] == 0)]["auroc"].min() > 0.9  # other words came before

    # the same numbers without streaming
    states = read_states(model, [*fitted, *tested])
    kinds = harmful([*fitted, *tested])
    fit, test = np.arange(40) < 24, np.arange(40) >= 24
    x = states.t_post
    direction = x[torch.from_numpy(fit & kinds)].mean(0) - x[torch.from_numpy(fit & ~kinds)].mean(0)
    slow = separation(torch.einsum("eld,ld->el", x[torch.from_numpy(test)], direction).numpy(), kinds[test])
    last = table[table["position"] == len(labels) - 1]
    np.testing.assert_allclose(last["auroc"].to_numpy()[1:], slow["auroc"].to_numpy()[1:], atol=0.03)


def test_a_confounded_test_set_is_flagged_at_every_position(model):
    fitted, tested = requests(12), requests(8, "", "?", start=50)
    raw = separation_by_position(model, fitted, tested, matched=False)
    assert raw["confounded"].all() and (raw["layer0_auroc"] == 1).all()
    with pytest.raises(ValueError, match="of the first class"):
        separation_by_position(model, fitted, tested)  # what is left of them is of one kind
    with pytest.raises(ValueError, match="fitted on too"):
        separation_by_position(model, fitted, [*tested, fitted[0]])


def test_baselines_see_what_the_texts_give_away():
    told = requests(20, "", "?")
    table = surface_baselines(told, harmful(told)).set_index("baseline")["auroc"]
    assert table["last character"] > 0.95 and table["words (TF-IDF)"] > 0.95
    alike = [Request(f"{kind}-{i}", f"word{i} and more.", kind) for i in range(20) for kind in ("harmful", "harmless")]
    table = surface_baselines(alike, harmful(alike)).set_index("baseline")["auroc"]
    assert table["last character"] == 0.5 and table["length in words"] == 0.5
    with pytest.raises(ValueError, match="1 of 4 requests are positive; expected 2"):
        surface_baselines(told[:4], np.array([True, False, False, False]))


def test_with_a_real_model_meaning_is_told_and_endings_are_not(smollm2):
    """SmolLM2 on 10 shipped pairs: the embedding of the matched ending is blind."""
    asked = with_ending(load_requests(limit=20))
    asked = [r for r in asked if r.pair]
    states = read_states(smollm2, asked)
    assert isinstance(states, RequestStates) and states.same_ending.all()
    assert states.layer0_auroc(harmful(asked)) == 0.5
    assert torch.equal(states.t_inst[0, 0], states.t_inst[1, 0])
    assert not torch.allclose(states.t_inst[0, 5], states.t_inst[1, 5])

"""Subspaces: orthonormal, removed everywhere, and beside random ones that can win."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

import interp
from interp import load_result
from interp.edits.steering import remove_direction
from probes.harmfulness.directions.directions import fit_directions
from probes.harmfulness.directions.first_tokens import Openings
from probes.harmfulness.steering.dimensions import random_subspace, removal, subspace, try_dimensions
from probes.harmfulness.steering.dimensions_result import road_sentences, sentences
from probes.requests.prompts import build_request_prompts
from probes.requests.requests import Request
from tests.tiny import tiny, tiny_tokenizer


def pairs(start: int, n: int) -> list[Request]:
    return [
        Request(f"{kind}-{i}", f"{verb} the door number {i}.", kind, f"c{i % 3}", pair=str(i))
        for i in range(start, start + n)
        for kind, verb in (("harmful", "Break"), ("harmless", "Paint"))
    ]


def kinds(requests: list[Request]) -> tuple[list[Request], list[Request]]:
    return [r for r in requests if r.is_harmful], [r for r in requests if not r.is_harmful]


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def fitted(model):
    return fit_directions(model, *kinds(pairs(0, 12)))


OPENINGS = Openings((11, 12), (21, 22))
AT = {"layers": {"harmfulness": 2, "refusal": 3}, "coefficients": {"harmfulness": 2.0, "refusal": 2.0}}


@pytest.fixture(scope="module")
def tried(model, fitted, tmp_path_factory):
    out = tmp_path_factory.mktemp("dimensions") / "d"
    found = try_dimensions(model, fitted, OPENINGS, *kinds(pairs(50, 2)), **AT, ks=(1, 2), n_random=2, keep=out)
    return found, out


def test_the_first_dimension_is_about_the_mean_difference(fitted):
    for name in ("harmfulness", "refusal"):
        for basis in ("paired differences", "categories"):
            rows = subspace(fitted, name, 2, 3, basis)
            torch.testing.assert_close(rows @ rows.T, torch.eye(3), atol=1e-5, rtol=0)
            mean = fitted.direction(name).vectors[2]
            assert abs(torch.cosine_similarity(rows[0], mean, dim=0)) > 0.8
    with pytest.raises(ValueError, match="3 categories; expected at least k = 4"):
        subspace(fitted, "refusal", 2, 4, "categories")
    rows = random_subspace(4, 32, 0)
    torch.testing.assert_close(rows @ rows.T, torch.eye(4), atol=1e-5, rtol=0)


def test_one_dimension_removed_is_the_directional_ablation(model, fitted, tried):
    """Against the edit that removes a direction, with the row of the subspace in every layer."""
    found, _ = tried
    row = subspace(fitted, "refusal", 3, 1, "paired differences")[0]
    same = replace(fitted.refusal, vectors=row.expand(model.n_layers + 1, -1).clone())
    prompts = OPENINGS.on(build_request_prompts(model, kinds(pairs(50, 2))[0]))
    with remove_direction(same, positions="all", while_generating=True, from_layer=3).apply(model, prompts):
        logits = model.final_logits(prompts)
    expected = logits[:, [11, 12]].logsumexp(-1) - logits[:, [21, 22]].logsumexp(-1)
    own = found.outcomes.query("op == 'remove' and direction == 'refusal' and k == 1 and draw == '' and steered == ''")
    own = own[(own["kind"] == "harmful") & (own["basis"] == "paired differences")]
    assert own["margin"].tolist() == pytest.approx(expected.tolist(), abs=2e-3)
    assert len(removal(row[None], model.n_layers)) == 2 * model.n_layers + 1


def test_the_table_has_both_interventions_and_what_is_left(tried):
    found, out = tried
    table = found.to_frame()
    assert set(table["op"]) == {"remove", "add"} and set(table["k"]) == {1, 2} and (table["n_random"] == 2).all()
    left = table[table["steered"] != ""].set_index("steered")
    assert left["direction"].to_dict() == {"refusal": "harmfulness", "harmfulness": "refusal"}
    assert len(table) == 2 * 2 * 2 + 2 * 2 + 2 * 2 and all("too few" in s for s in sentences(table))
    pd.testing.assert_frame_equal(load_result(out).to_frame(), table)


def test_what_is_left_of_steering_leaves_out_what_the_removal_does_alone(tried):
    """By request: added and removed less removed, held against added less untouched."""
    found, _ = tried
    rows = found.outcomes.query("kind == 'harmless' and op == 'remove' and direction == 'refusal' and draw == ''")
    alone, both = (rows[rows["steered"] == name].set_index("id") for name in ("", "harmfulness"))
    adds, left = both["plain"] - alone["plain"], both["margin"] - alone["margin"]
    road = found.roads().set_index("added").loc["harmfulness"]
    assert road["adds"] == pytest.approx(adds.mean()) and road["adds_without"] == pytest.approx(left.mean())
    assert road["change_margin"] == pytest.approx((left - adds).mean())
    assert road["n_random"] == 2 and "too few" in road_sentences(found.roads())[0]

    cut = found.outcomes.copy()  # a direction that acts through the other alone: without that, adding does nothing
    where = cut.eval("steered == 'harmfulness' and draw == '' and op == 'remove'")
    cut.loc[where, "margin"] = alone["margin"].loc[cut.loc[where, "id"]].to_numpy()
    road = replace(found, outcomes=cut).roads().set_index("added").loc["harmfulness"]
    assert road["adds_without"] == 0 and road["change_margin"] == pytest.approx(-adds.mean())


def test_a_random_subspace_can_win(tried):
    table = tried[0].to_frame().head(1).assign(n=20, n_random=20, change_margin=-1.0, change_margin_low=-1.2)
    table = table.assign(change_margin_high=-0.8, margin_p=1 / 21, margin_random=0.0)
    assert "below 0.00" in sentences(table)[0]
    rival = table.assign(margin_p=2 / 21, margin_random=0.05)
    assert (
        "not shown to differ" in sentences(rival)[0] and "5% of 20 random directions do as much" in sentences(rival)[0]
    )

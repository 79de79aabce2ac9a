"""Two directions: planted ones are found, by hand computed scores agree, confounded ones are flagged everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp import Keep, load_result
from interp.edits.directions import load_direction, random_direction
from interp.reports.findings import load_findings
from probes.harmfulness.directions import directions as module
from probes.harmfulness.directions.agreement import agreement
from probes.harmfulness.directions.directions import MATCHED, PAPER, compare_protocols, fit_directions
from probes.harmfulness.directions.report import beliefs_by_group
from probes.requests.requests import Request, load_requests
from probes.requests.states import RequestStates, read_states
from tests.tiny import tiny, tiny_tokenizer

N_LAYERS, D = 4, 32


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


def requests(n: int, start: int = 0, endings: tuple[str, str] = (".", ".")) -> tuple[list[Request], list[Request]]:
    bad, good = endings
    numbers = range(start, start + n)
    return (
        [Request(f"bad-{i}", f"Heat the kettle {i}{bad}", "harmful", "ab"[i % 2] * 3) for i in numbers],
        [Request(f"good-{i}", f"Is the sky {i} blue{good}", "harmless", "sky") for i in numbers],
    )


def planted(asked, cosine: float, noise: float = 1.0, seed: int = 0, endings: bool = False) -> RequestStates:
    """Harmful requests are moved along axis 0 at t_inst, refused ones along a direction of this cosine at t_post, from
    layer 1 on; at the embedding all are equal, unless the endings differ."""
    generator = torch.Generator().manual_seed(seed)
    harmful = torch.tensor([r.is_harmful for r in asked]).float()[:, None, None]
    shape = (len(asked), N_LAYERS + 1, D)
    inst, post = (torch.randn(shape, generator=generator) * noise + 1 for _ in range(2))
    inst[..., 0] += 4 * harmful[..., 0]
    post[..., 0] += 4 * harmful[..., 0] * cosine
    post[..., 1] += 4 * harmful[..., 0] * (1 - cosine**2) ** 0.5
    inst[:, 0], post[:, 0] = 0.3, 0.7
    if endings:
        inst[:, 0, 2] += harmful[:, 0, 0]
    return RequestStates(tuple(asked), inst, post, np.ones(len(asked), dtype=bool))


@pytest.fixture
def fit(model, monkeypatch):
    """`fit_directions` on planted states."""

    def call(n: int = 40, cosine: float = 0.0, noise: float = 1.0, **options):
        read = lambda model, asked, **rest: planted(asked, cosine, noise, **options)  # noqa: E731
        monkeypatch.setattr(module, "read_states", read)
        return fit_directions(model, *requests(n))

    return call


@pytest.mark.parametrize("cosine", [0.0, 0.6, 1.0])
def test_planted_directions_are_found(fit, cosine):
    found = fit(cosine=cosine)
    unit = found.harmfulness.unit().vectors
    assert (unit[1:, 0] > 0.9).all() and unit[0].abs().max() == 0
    table = found.cosine()
    assert table.loc[1:, "cosine"].mean() == pytest.approx(cosine, abs=0.1)
    assert (table.loc[1:, "cosine_low"] <= table.loc[1:, "cosine"]).all()
    assert (table.loc[1:, "cosine_high"] >= table.loc[1:, "cosine"]).all()
    mean = found.agreement.mean
    assert mean["disattenuated"] == pytest.approx(cosine, abs=0.1)
    assert mean["disattenuated_low"] < cosine < mean["disattenuated_high"] < mean["disattenuated_low"] + 0.3
    torch.testing.assert_close(
        torch.tensor(table["cosine"].to_numpy()[1:]).float(), found.harmfulness.cosine(found.refusal)[1:]
    )
    assert table.loc[0, ["cosine", "cosine_low", "ceiling", "disattenuated"]].isna().all()  # nothing differs there
    assert found.agreement.mean["cosine"] == pytest.approx(table.loc[1:, "cosine"].mean())
    assert found.agreement.mean["cosine_low"] < found.agreement.mean["cosine"] < found.agreement.mean["cosine_high"]


def test_the_ceiling_shows_what_noise_costs(fit):
    """One direction, measured with much noise: the cosine across halves is low, and as low as it can be."""
    clean, noisy = fit(cosine=1.0, noise=0.2).agreement.mean, fit(cosine=1.0, noise=4.0).agreement.mean
    assert clean["ceiling"] > 0.98
    assert noisy["ceiling"] < 0.7 and noisy["across_halves"] < 0.7
    assert noisy["disattenuated"] == pytest.approx(1, abs=0.15)


def test_agreement_is_that_of_a_slow_loop():
    rng = np.random.default_rng(1)
    x, y = (torch.tensor(rng.normal(size=(20, 3, 5)), dtype=torch.float32) for _ in range(2))
    positive = np.arange(20) < 9
    found = agreement(x, y, positive).by_layer
    for layer in range(3):
        a, b = (s[:9, layer].mean(0) - s[9:, layer].mean(0) for s in (x, y))
        assert found["cosine"][layer] == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), abs=1e-5)
    same = agreement(x, x, positive).by_layer
    np.testing.assert_allclose(same["cosine"], 1)
    np.testing.assert_allclose(same["across_halves"], same["ceiling_first"])
    x[:, 0] = 0.1  # all equal, while y still differs there
    assert np.isnan(agreement(x, y, positive).by_layer["cosine"][0])


def test_scores_and_beliefs_by_hand(fit):
    """Eqs. 2, 3 and 4, written out for one request."""
    found = fit()
    states = planted([r for part in requests(5, start=100) for r in part], 0.0, seed=1)
    x = states.t_inst[3].double()
    by_hand = [
        float(x[layer] @ mean[layer].double() / x[layer].norm() / mean[layer].double().norm())
        for mean in (found.means.harmful, found.means.harmless)
        for layer in range(N_LAYERS + 1)
    ]
    scores = np.array(by_hand[: N_LAYERS + 1]) - np.array(by_hand[N_LAYERS + 1 :])
    np.testing.assert_allclose(found.scores(states, "harmfulness")[3], scores, atol=1e-6)
    beliefs = found.beliefs(states)
    assert beliefs.columns.tolist() == ["id", "kind", "category", "harmful", "refuse"]
    assert beliefs["harmful"][3] == pytest.approx(scores[1:].mean(), abs=1e-6)  # layers 1 to L
    assert (beliefs["harmful"] > 0).tolist() == [True] * 5 + [False] * 5
    assert (beliefs["refuse"] > 0).tolist() == [True] * 5 + [False] * 5
    post = states.t_post
    swapped = RequestStates(states.requests, post, states.t_inst, states.same_ending)
    assert np.abs(found.beliefs(swapped)["refuse"] - beliefs["refuse"]).max() > 0.01  # refuse is read at t_post


def test_held_out_requests_are_separated_and_overlap_is_refused(fit):
    found = fit()
    asked = [r for part in requests(20, start=100) for r in part]
    states = planted(asked, 0.0, seed=1)
    groups = [
        f"{r.kind}-{v}" for r, v in zip(asked, ["refused", "accepted"] * 19 + ["refused", "unclear"], strict=True)
    ]
    held = found.test(states, groups)
    table = held.separations.set_index(["direction", "classes", "layer"])
    assert table.loc[("harmfulness", "harmful from harmless", 2), "auroc"] > 0.95
    assert table.loc[("harmfulness", "harmful from harmless", 0), "auroc"] == 0.5
    assert 0.3 < table.loc[("refusal", "refused from accepted", 2), "auroc"] < 0.7  # by design no trace of it
    assert table.loc[("refusal", "refused from accepted", 2), "n"] == 39  # unclear ones are left out
    assert not held.separations["confounded"].any() and not held.is_confounded
    assert held.beliefs["group"].tolist() == groups
    by_group = beliefs_by_group(held.beliefs).set_index("group")
    assert by_group.loc["harmful-refused", ["n", "share_harmful"]].tolist() == [10, 1.0]
    assert by_group.loc["harmless-accepted", "harmful_high"] < 0
    assert set(found.test(states).separations["classes"]) == {"harmful from harmless"}
    with pytest.raises(ValueError, match=r"1 of 1 requests .*: bad-0"):
        found.test(planted([requests(1)[0][0]], 0.0))
    with pytest.raises(ValueError, match="39 groups were given for 40 requests"):
        found.test(states, groups[:-1])


def test_confounding_is_flagged_in_every_result(fit):
    clean, found = fit(), fit(endings=True)
    assert not clean.is_confounded and clean.layer0_auroc == 0.5
    assert found.is_confounded and found.layer0_auroc == 1.0
    assert found.harmfulness.about["confounded"] and found.refusal.about["layer0_auroc"] == 1.0
    assert found.cosine()["confounded"].all() and not clean.cosine()["confounded"].any()
    states = planted([r for part in requests(12, start=100) for r in part], 0.0, seed=1)
    assert (
        "onfounded" in found.beliefs(states).attrs["note"]
        and "onfounded" in found.by_category("harmfulness").attrs["note"]
    )
    assert clean.beliefs(states).attrs["note"] == ""
    assert found.separation(states, np.arange(24) < 12, "harmfulness")["confounded"].all()
    assert any(s.startswith("CONFOUNDED") for s in found.to_findings().statement)
    assert not any("CONFOUNDED" in s for s in clean.to_findings().statement)
    report = found.to_findings({"here": found.test(states)})
    assert sum(s.startswith("CONFOUNDED") for s in report.statement) == 2

    loud = planted(states.requests, 0.0, seed=1, endings=True)  # here the held-out ones end differently
    held = clean.test(loud)
    assert held.is_confounded and held.separations["confounded"].all() and held.layer0_auroc == 1.0
    assert any(s.startswith("CONFOUNDED") for s in clean.to_findings({"here": held}).statement)


def test_categories_have_directions_of_their_own(fit):
    found = fit()
    for name in ("harmfulness", "refusal"):
        table = found.by_category(name)
        assert list(table.index) == list(table.columns) == ["aaa", "bbb"]
        np.testing.assert_allclose(np.diag(table), 1, atol=1e-6)
        assert table.loc["aaa", "bbb"] == pytest.approx(table.loc["bbb", "aaa"]) and table.loc["aaa", "bbb"] > 0.7
    assert found.by_category("refusal", at_least=21).empty
    with pytest.raises(ValueError, match="'harm'; expected one of harmfulness, refusal"):
        found.by_category("harm")
    directions = found.category_directions("refusal")
    assert directions["aaa"].about["n_positive"] == 20 and directions["aaa"].about["category"] == "aaa"
    torch.testing.assert_close((directions["aaa"] + directions["bbb"]).vectors / 2, found.refusal.vectors)


def test_matching_leaves_out_other_last_tokens(model):
    positive, negative = requests(14)
    odd = [Request(f"odd-{i}", f"Why {i}?", "harmless") for i in range(5)]
    found = fit_directions(model, positive, [*negative, *odd])
    assert len(found.states) == 28 and found.provenance["data"]["n_other_ending"] == 5
    assert found.harmfulness.norms()[0] == 0 and found.refusal.norms()[0] == 0  # exactly: equal states
    raw = fit_directions(model, positive, [*negative, *odd], matched=False)
    assert len(raw.states) == 33 and raw.harmfulness.norms()[0] > 0 and raw.refusal.norms()[0] == 0
    assert np.isnan(raw.cosine()["cosine"][0])  # the embedding at t_post is still one token
    assert raw.provenance["run_id"] != found.provenance["run_id"]
    cut = fit_directions(model, positive, negative, post_instruction=False)
    torch.testing.assert_close(cut.harmfulness.vectors, cut.refusal.vectors)
    np.testing.assert_allclose(cut.cosine()["cosine"][1:], 1)


def test_the_papers_protocol_stands_beside_the_matched_one(model, tmp_path):
    positive, negative = requests(14, endings=("", "."))
    tested = [r for part in requests(8, start=50, endings=("", ".")) for r in part]
    groups = [f"{r.kind}-{'refused' if i % 3 else 'accepted'}" for i, r in enumerate(tested)]
    found = compare_protocols(model, positive, negative, tested, groups=groups)
    assert list(found) == [MATCHED, PAPER]
    assert not found[MATCHED].is_confounded and found[PAPER].is_confounded
    at_embedding = {
        name: held.separations.query("layer == 0 and direction == 'harmfulness' and classes == 'harmful from harmless'")
        for name, held in found.items()
    }
    assert at_embedding[MATCHED]["auroc"].item() == 0.5 and at_embedding[PAPER]["auroc"].item() > 0.9
    report = found[MATCHED].directions.to_findings(found)
    assert set(report.figures) == {"Cosine by layer", "Separation by layer", "Beliefs"}
    assert set(report.tables["Separation by layer"]["condition"]) == {MATCHED, PAPER}
    assert set(report.tables["Cosine by layer"]["condition"]) == {MATCHED, PAPER}
    assert "CONFOUNDED: the classes of the requests of 'as they come (paper)'" in "\n".join(report.statement)
    report.save(tmp_path / "report")
    again = load_findings(tmp_path / "report")
    pd.testing.assert_frame_equal(
        again.tables["Beliefs by group"], report.tables["Beliefs by group"], check_dtype=False
    )
    assert "CONFOUNDED" in (tmp_path / "report" / "report.html").read_text()
    assert again.provenance["held_out"][PAPER]["n"] == 16
    other = found[MATCHED].directions.to_findings()
    assert other.provenance["run_id"] != report.provenance["run_id"]


def test_directions_are_saved(model, tmp_path):
    found = fit_directions(model, *requests(12), keep=Keep(origin={"file": "here"}))
    found.save_directions(tmp_path)
    for name in ("harmfulness", "refusal"):
        again = load_direction(tmp_path / name)
        assert torch.equal(again.vectors, found.direction(name).vectors)
        assert again.about["name"] == name and again.about["run_id"] == found.provenance["run_id"]
        again.require_fits(model)
    assert found.provenance["data"]["file"] == "here"
    assert random_direction(found.harmfulness, 0).norms()[0] == 0
    with pytest.raises(ValueError, match="expected two of the same weights"):
        other = interp.load(tiny("llama", vocab_size=400, seed=1), tokenizer=tiny_tokenizer())
        found.harmfulness + fit_directions(other, *requests(12)).harmfulness


def test_a_fit_is_kept_and_read_back(model, tmp_path, monkeypatch):
    found = fit_directions(model, *requests(12), keep=tmp_path)
    again = load_result(tmp_path)
    assert torch.equal(again.states.t_inst, found.states.t_inst) and again.statement() == found.statement()
    assert torch.equal(again.refusal.vectors, found.refusal.vectors)
    assert again.states.requests == tuple(r.withheld() for r in found.states.requests)
    with pytest.raises(ValueError, match="fitted on too"):  # known by their hashes
        again.test(read_states(model, [replace(r, id=f"other-{r.id}", pair="") for r in found.states.requests]))
    monkeypatch.setattr(module, "read_states", None)  # nothing is read again
    resumed = fit_directions(model, *requests(12), keep=Keep(tmp_path, resume=True))
    assert resumed.states.requests == found.states.requests


def test_bad_input_is_refused(model):
    positive, negative = requests(12)
    with pytest.raises(ValueError, match="9 positive requests; expected at least 10: 1 more"):
        fit_directions(model, positive[:9], negative)
    raw, _ = requests(12, start=50, endings=("", ""))
    with pytest.raises(ValueError, match=r"0 negative requests.*12 of all were left out for another last token"):
        fit_directions(model, [*positive, *requests(2, start=90)[0]], raw)
    with pytest.raises(ValueError, match="share ids"):
        fit_directions(model, positive, positive)
    with pytest.raises(ValueError, match="no chat template"):
        base = interp.load(tiny("llama", vocab_size=400), tokenizer=tiny_tokenizer(None))
        fit_directions(base, positive, negative)
    broken = interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())
    with torch.no_grad():
        broken.hf.model.layers[2].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="first non-finite activation is the output of layer 2"):
        fit_directions(broken, positive, negative)


def test_with_a_real_model(smollm2):
    """SmolLM2 on 12 shipped pairs: nothing at the embedding, directions that are its own."""
    asked = [r for r in load_requests(limit=40) if r.pair and r.text.endswith(".")]
    harmful = [r for r in asked if r.is_harmful]
    found = fit_directions(smollm2, harmful, [r for r in asked if not r.is_harmful])
    assert found.harmfulness.vectors.shape == (smollm2.n_layers + 1, smollm2.d_model)
    assert found.harmfulness.norms()[0] == 0 and (found.harmfulness.norms()[1:] > 0).all()
    states = read_states(smollm2, [r for r in load_requests(limit=10, seed=1) if r not in asked][:4])
    assert np.isfinite(found.beliefs(states)[["harmful", "refuse"]].to_numpy()).all()

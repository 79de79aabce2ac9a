"""Who writes the directions: planted heads are found, measures are what they say, work resumes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.records.folder_lock import OtherRunError
from interp.scans.head_writing import scan_projection, write_along
from probes.harmfulness.directions import writers as module
from probes.harmfulness.directions.directions import fit_directions
from probes.harmfulness.directions.first_tokens import Openings
from probes.harmfulness.directions.openings import find_openings
from probes.harmfulness.directions.result import HarmfulDirections
from probes.harmfulness.directions.writers import rank_writers, strongest_layer
from probes.requests.behaviour_result import Behaviour
from probes.requests.prompts import build_request_prompts, until_instruction_end
from probes.requests.requests import Request
from tests.tiny import tiny, tiny_tokenizer

OPENINGS = Openings((50, 51), (60,))
MEASURES = ["direct", "direct_orthogonal", "direct_random", "direct_shuffled", "direct_harmless"]
EFFECTS = ["effect", "effect_harmless"]
WORDS = [
    "kettle",
    "lamp",
    "sky",
    "water",
    "heat",
    "clay",
    "note",
    "day",
    "word",
    "box",
    "tree",
    "door",
    "rope",
    "sand",
    "milk",
]


def twins(start: int, n: int) -> list[Request]:
    """Pairs that differ in one letter: '!' is harmful."""
    made = []
    for i in range(start, start + n):
        text = f"See the {WORDS[i % 15]} {WORDS[(i * 7 + 3) % 15]} {i}"
        made.append(Request(f"bad{i}", f"{text} !.", "harmful", pair=f"p{i}"))
        made.append(Request(f"good{i}", f"{text} ?.", "harmless", pair=f"p{i}"))
    return made


FITTED, RANKED = twins(0, 12), twins(12, 10)


def load(name: str = "llama", **changes) -> interp.Model:
    sizes = dict(vocab_size=400, max_position_embeddings=1024)
    return interp.load(tiny(name, **sizes | changes), tokenizer=tiny_tokenizer())


def fit(model: interp.Model, **settings) -> HarmfulDirections:
    harmful, harmless = ([r for r in FITTED if r.kind == kind] for kind in ("harmful", "harmless"))
    return fit_directions(model, harmful, harmless, **settings)


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return load()


@pytest.fixture(scope="module")
def directions(model) -> HarmfulDirections:
    return fit(model)


def rank(model, directions, requests=RANKED, which="refusal", layer=3, **settings):
    settings = {"openings": OPENINGS} | settings
    return rank_writers(model, requests, directions, which, layer, **settings)


def sides(model, which: str) -> list[list[interp.Prompt]]:
    """Harmful and harmless prompts, pair by pair, ending where the direction is read."""
    prompts = build_request_prompts(model, RANKED)
    prompts = [until_instruction_end(p) for p in prompts] if which == "harmfulness" else prompts
    return [prompts[::2], prompts[1::2]]


@pytest.mark.parametrize("which", ["refusal", "harmfulness"])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_measures_are_what_they_say(name, which):
    model = load(name)
    directions = fit(model)
    ranking = rank(model, directions, which=which)
    assert list(ranking.measures) == MEASURES + EFFECTS and ranking.score == "direct"
    assert ranking.controls == ("direct_orthogonal",) and ranking.n_examples == 10
    assert ranking.example_ids[0] == "bad12 - good12"

    own, other = directions.refusal, directions.harmfulness
    own, other = (own, other) if which == "refusal" else (other, own)
    unit = own.vectors[3] / own.vectors[3].norm()
    other = other.vectors[3] / other.vectors[3].norm()
    left = unit - (unit @ other) * other
    vectors = torch.stack([unit, left / left.norm()])
    bad, good = (write_along(model, p, vectors).heads for p in sides(model, which))
    for number, measure in enumerate(MEASURES[:2]):
        found, slow = ranking.measures[measure], (bad - good)[:, number]
        np.testing.assert_allclose(found[:, :3], slow[:, :3], atol=2e-4)
        assert not found[:, 3:].any()
    np.testing.assert_allclose(ranking.measures["direct_harmless"][:, :3], good[:, 0, :3], atol=2e-4)

    scanned = []
    for prompts in sides(model, which):
        zero = interp.ablate_each_head("zero")
        if which == "refusal":
            prompts = [replace(p, answers=OPENINGS.answers) for p in prompts]
            metric = interp.LogitDifference("refusing", "accepting")
            result = interp.scan(model, prompts, zero, metric=metric, method="loop")
        else:
            result = scan_projection(model, prompts, zero.branches(model), unit, 3, method="loop")
        scanned.append(result.drop.reshape(10, 4, 4))
    np.testing.assert_allclose(ranking.measures["effect"], scanned[0] - scanned[1], atol=5e-4)
    np.testing.assert_allclose(ranking.measures["effect_harmless"], scanned[1], atol=5e-4)
    assert ranking.provenance["scan"]["how"] == "fan-out"


@pytest.mark.parametrize("which", ["refusal", "harmfulness"])
def test_parts_add_up_to_the_difference_of_the_states(model, directions, which):
    from interp.reading.residual import residual_states

    contrast = rank(model, directions, which=which).provenance["contrast"]
    above, below = (residual_states(model, p, [[len(q) - 1] for q in p])[:, 3, 0] for p in sides(model, which))
    row = directions.direction(which).vectors[3]
    expected = float(((above - below) @ (row / row.norm())).mean())
    assert contrast["total"] == pytest.approx(expected, abs=1e-3)
    parts = sum(contrast[name] for name in ("heads", "mlps", "attention_biases", "embedding"))
    assert parts == pytest.approx(expected, abs=1e-3)
    assert contrast["total_ci_low"] <= contrast["total"] <= contrast["total_ci_high"]
    if which == "harmfulness":  # pairs end in the same token
        assert contrast["embedding"] == pytest.approx(0, abs=1e-3)


@torch.no_grad()
def planted() -> interp.Model:
    """L1H2 looks at '!' (harmful) and writes a fixed vector there and then; nothing else tells the requests apart."""
    hf, tokenizer = tiny("llama", vocab_size=400, max_position_embeddings=1024, attention_bias=True), tiny_tokenizer()
    bad, good = (tokenizer(text, add_special_tokens=False).input_ids[0] for text in ("!", "?"))
    embedding, marker = hf.model.embed_tokens.weight, torch.zeros(32)
    marker[5] = 1
    embedding[:, 5] = 0
    embedding[good] = embedding[bad]  # alike but for the marked feature, which only L1H2 reads
    embedding[bad, 5] = 3
    for layer, block in enumerate(hf.model.layers):
        attention = block.self_attn
        for writes in (attention.o_proj, block.mlp.down_proj):
            writes.weight[5] = 0
        for reads in (attention.q_proj, attention.k_proj, attention.v_proj, block.mlp.gate_proj, block.mlp.up_proj):
            reads.weight[:, 5] = 0
        block.input_layernorm.weight.fill_(1)
        if layer == 1:
            attention.q_proj.weight[16:24] = 0  # even attention
            attention.q_proj.bias[16:24] = 0
            attention.v_proj.weight[8:16] = 0
            attention.v_proj.weight[8, 5] = 20  # the group of heads 2 and 3
            attention.v_proj.bias[8:16] = 0
            attention.o_proj.weight[:, 16:32] = 0
            attention.o_proj.weight[7, 16] = 5  # head 2 writes feature 7; head 3 nothing
            attention.o_proj.bias.zero_()
    return interp.load(hf, tokenizer=tokenizer)


@pytest.mark.parametrize("which", ["refusal", "harmfulness"])
def test_a_planted_writer_is_ranked_first_with_evidence(which):
    model = planted()
    directions = fit(model)
    ranking = rank(model, directions, which=which, layer=2)
    top = ranking.top(1).iloc[0]
    assert top["label"] == "L1H2" and top["ci_low"] > 0 and top["q"] < 0.05
    direct = ranking.measures["direct"].mean(0)
    assert direct[1, 2] > 5 * np.abs(np.delete(direct.ravel(), 6)).max()
    if which == "harmfulness":
        effect = ranking.measures["effect"].mean(0)
        assert np.unravel_index(effect.argmax(), effect.shape) == (1, 2)
    assert ranking.provenance["noise_floor"]["heads_above_both"] >= 1
    assert abs(ranking.measures["direct_shuffled"].mean(0)[1, 2]) < direct[1, 2] / 2


def test_swapping_the_kinds_negates_the_contrast(model, directions):
    swapped = [replace(r, kind="harmless" if r.is_harmful else "harmful") for r in RANKED]
    one, other = rank(model, directions), rank(model, directions, swapped)
    for name in ("direct", "direct_random", "effect"):
        np.testing.assert_allclose(one.measures[name], -other.measures[name], atol=2e-4)
    levels = one.measures["effect_harmless"] + one.measures["effect"]
    np.testing.assert_allclose(levels, other.measures["effect_harmless"], atol=2e-4)


def test_batches_and_the_order_of_requests_change_nothing(model, directions):
    one = rank(model, directions, batch_size=1)
    many = rank(model, directions, batch_size=4)
    assert one.provenance["run_id"] == many.provenance["run_id"]
    for name in one.measures:
        np.testing.assert_allclose(one.measures[name], many.measures[name], atol=2e-4)
    turned = rank(model, directions, RANKED[::-1])
    np.testing.assert_allclose(turned.scores[::-1], one.scores, atol=2e-4)


def test_requests_without_a_twin_are_joined_at_random(model, directions):
    alone = [replace(r, pair="") if i >= 8 else r for i, r in enumerate(RANKED)]
    first, again, other = (rank(model, directions, alone, seed=seed) for seed in (0, 0, 1))
    assert first.example_ids == again.example_ids != other.example_ids
    assert first.example_ids[:4] == tuple(f"bad{i} - good{i}" for i in range(12, 16))
    assert first.provenance["data"].items() >= {"n": 10, "n_twins": 4, "n_left_out": 0}.items()
    used = [name for pair in first.example_ids for name in pair.split(" - ")]
    assert sorted(used) == sorted(r.id for r in RANKED)
    np.testing.assert_allclose(  # whoever is joined with whom, the mean is the same
        first.scores.mean(0), other.scores.mean(0), atol=2e-4
    )


def test_pairs_end_in_the_same_token_where_the_directions_do(model, directions):
    odd = [replace(r, text=r.text[:-1] + "No") if r.id == "bad13" else r for r in RANKED]
    with pytest.raises(ValueError, match=r"9 pairs .* expected at least 10: 1 more.*same token.*with_ending"):
        rank(model, directions, odd)
    extra = [Request("bad99", "See the lamp 99 !.", "harmful"), *odd]
    found = rank(model, directions, extra)
    assert "bad99 - good13" in found.example_ids and found.provenance["data"]["n_left_out"] == 1
    assert rank(model, fit(model, matched=False), odd).n_examples == 10


def test_a_layer_is_chosen_where_the_classes_are_farthest_apart(model, directions):
    chosen = strongest_layer(directions, "refusal")
    ranking = rank(model, directions, layer=None)
    assert ranking.provenance["read"]["layer"] == chosen and "halves" in ranking.provenance["read"]["layer_chosen_by"]
    assert rank(model, directions, layer=2).provenance["read"]["layer_chosen_by"] == "the caller"
    assert not ranking.scores[:, chosen:].any() and ranking.scores[:, :chosen].any()

    noise = torch.randn(directions.states.t_post.shape, generator=torch.Generator().manual_seed(0))
    noise[torch.from_numpy(directions.positive), 2] += 3  # only there
    states = replace(directions.states, t_post=noise)
    assert strongest_layer(replace(directions, states=states), "refusal") == 2


def test_without_post_instruction_tokens_both_directions_are_one(model):
    """t_inst is t_post: nothing is orthogonal, and that control is left out."""
    together = fit(model, post_instruction=False)
    ranking = rank(model, together)
    assert "direct_orthogonal" not in ranking.measures and ranking.controls == ()
    same = rank(model, together, which="harmfulness")
    np.testing.assert_allclose(ranking.scores, same.scores, atol=2e-4)


def test_openings_are_first_tokens_that_tell_refusals_apart(model, monkeypatch):
    bad, good = ([r for r in FITTED if r.is_harmful is side] for side in (True, False))
    begins = {}
    for i, r in enumerate(bad):
        begins[r.id] = 50 if i < 6 else 51 if i < 9 else 70 if i < 11 else 80
    for i, r in enumerate(good):
        begins[r.id] = 60 if i < 8 else 50 if i < 9 else 70 if i < 11 else 81  # 70 as often in both; 50 clearly less

    def final_logits(self, prompts, batch_size=8):
        return torch.nn.functional.one_hot(torch.tensor([begins[p.id] for p in prompts]), 400).float()

    monkeypatch.setattr(interp.Model, "final_logits", final_logits)
    prompts = build_request_prompts(model, [*bad, *good])
    verdicts = ["refused"] * 12 + ["accepted"] * 12
    found = find_openings(model, prompts, verdicts)
    assert (found.refusing, found.accepting) == ((50, 51, 80), (60, 81))  # once is enough
    assert found.coverage == {"refused": 0.8333, "accepted": 0.75} and 0.75 < found.auroc < 1
    assert found.how == "First tokens of the model's own 12 refused and 12 accepted replies."
    assert list(found.shown(model)["refusing"]) == list(found.refusing_texts)
    table = found.to_frame()
    assert table["token"].tolist() == [50, 51, 80, 60, 81] and table["text"].tolist()[3:] == list(found.accepting_texts)
    assert [p.answers for p in found.on(prompts[:1])] == [found.answers]
    half = find_openings(model, prompts, ["refused"] * 9 + ["unclear"] * 3 + ["accepted"] * 12)
    assert half.refusing == (50, 51) and half.accepting == (60, 70, 81)  # what is unclear does not count
    begins.update(dict.fromkeys([r.id for r in FITTED], 70))
    with pytest.raises(ValueError, match=r"0 refusing and 0 accepting .* begin with .* x 12; .*openings=Openings"):
        find_openings(model, prompts, verdicts)


def test_openings_that_were_given_have_no_texts_of_their_own():
    assert OPENINGS.to_frame()["text"].tolist() == ["", "", ""] and "nan" in OPENINGS.to_frame().attrs["note"]


def test_openings_come_from_the_fitted_requests_or_a_behaviour(model, directions, monkeypatch):
    asked = []

    def find(model, prompts, verdicts, batch_size=16):
        asked.append(dict(zip([p.id for p in prompts], verdicts, strict=True)))
        return OPENINGS

    from probes.harmfulness.directions import openings as refusal_openings

    monkeypatch.setattr(module, "find_openings", find)
    monkeypatch.setattr(refusal_openings, "find_openings", find)
    ranking = rank(model, directions, openings=None)
    assert asked[0] == {r.id: "refused" if r.is_harmful else "accepted" for r in FITTED}
    assert ranking.provenance["settings"]["openings"] == {"refusing": [50, 51], "accepting": [60]}
    verdicts = ("refused", "accepted", "unclear", "accepted")
    observed = Behaviour(tuple(FITTED[:4]), verdicts, None, {"settings": {"system": None, "post_instruction": True}})
    rank(model, directions, openings=observed)
    assert asked[1] == dict(zip([r.id for r in FITTED[:4]], verdicts, strict=True))
    elsewhere = replace(observed, provenance={"settings": {"system": "Be kind.", "post_instruction": True}})
    with pytest.raises(ValueError, match=r"observed with \{'system': 'Be kind.'\}; expected"):
        rank(model, directions, openings=elsewhere)
    rank(model, directions, which="harmfulness", openings=None)
    assert len(asked) == 2  # the projection needs none


def test_the_behaviour_is_described(model, directions):
    ranking = rank(model, directions)
    logits = [model.final_logits(p) for p in sides(model, "refusal")]
    odds = [(x[:, [50, 51]].logsumexp(1) - x[:, 60]).numpy() for x in logits]
    found = ranking.provenance["behaviour"]
    assert found["mean_log_odds_of_refusing_harmful"] == pytest.approx(odds[0].mean(), abs=1e-3)
    assert found["mean_log_odds_of_refusing_harmless"] == pytest.approx(odds[1].mean(), abs=1e-3)
    expected = np.mean([(a > b) + (a == b) / 2 for a in odds[0] for b in odds[1]])
    assert found["auroc"] == pytest.approx(expected, abs=1e-3)


def test_saved_reported_compared_as_any_ranking(model, directions, tmp_path):
    refusal = rank(model, directions, out=tmp_path / "refusal")
    harmfulness = rank(model, directions, which="harmfulness", out=tmp_path / "harmfulness")
    back = interp.load_ranking(tmp_path / "refusal")
    assert back.provenance == refusal.provenance and back.descriptions == refusal.descriptions
    for name in refusal.measures:
        np.testing.assert_array_equal(back.measures[name], refusal.measures[name])
    page = (tmp_path / "refusal" / "report.html").read_text()
    assert "Refusal writers of" in page and "direct_orthogonal" in page and "2507.11878" in page
    assert not [r.text for r in RANKED if r.text in page]  # ids, no texts
    agreement = interp.compare(refusal, harmfulness, k=5)
    assert agreement.n_heads == 16 and -1 <= agreement.spearman <= 1
    frame = refusal.to_frame()
    assert {"p", "q", "ci_low", "direct_orthogonal_verdict", "effect_ci_low"} <= set(frame)
    above = frame[frame["layer"] >= 3]
    assert (above["score"] == 0).all() and (above["p"] == 1).all()
    assert refusal.by("effect").score == "effect"
    assert -1 <= refusal.reliability.mean <= 1


class Killed(Exception):
    pass


def test_a_killed_ranking_resumes_to_the_same_numbers(model, directions, tmp_path, monkeypatch):
    real, calls = module.write_along, []

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "write_along", dies)
    with pytest.raises(Killed):
        rank(model, directions, out=tmp_path)
    with pytest.raises(OtherRunError, match="layer"):
        rank(model, directions, out=tmp_path, layer=2, resume=True)
    calls.clear()
    monkeypatch.setattr(module, "write_along", lambda *a, **k: calls.append(a) or real(*a, **k))
    resumed = rank(model, directions, out=tmp_path, resume=True)
    assert len(calls) == 2  # of three batches
    whole = rank(model, directions)
    for name in whole.measures:
        np.testing.assert_array_equal(resumed.measures[name], whole.measures[name])
    calls.clear()
    again = rank(model, directions, out=tmp_path, resume=True)
    assert not calls and again.provenance["created"] == resumed.provenance["created"]
    with pytest.raises(FileExistsError, match="already holds the report of run"):
        rank(model, directions, out=tmp_path, layer=2)


def test_bad_requests_are_refused(model, directions):
    with pytest.raises(ValueError, match="which='refuse'; expected 'refusal' or 'harmfulness'"):
        rank(model, directions, which="refuse")
    with pytest.raises(ValueError, match="no requests were given"):
        rank(model, directions, [])
    with pytest.raises(ValueError, match=r"fitted on too.*bad0, good0"):
        rank(model, directions, [*RANKED, *FITTED[:2]])
    with pytest.raises(ValueError, match=r"4 pairs .* from 4 harmful and 4 harmless ones; .*: 6 more"):
        rank(model, directions, RANKED[:8])
    for layer in (0, 5):
        with pytest.raises(ValueError, match=f"layer={layer}; expected 1 to 4"):
            rank(model, directions, layer=layer)
    with pytest.raises(ValueError, match=r"refusing=\(5,\), accepting=\(5, 6\); expected .* none in common"):
        Openings((5,), (5, 6))
    with pytest.raises(ValueError, match="token 400"):
        rank(model, directions, openings=Openings((400,), (60,)))


def test_directions_of_other_weights_are_refused(directions):
    other = load(seed=1)
    with pytest.raises(ValueError, match="weights"):
        rank(other, directions)


def test_a_direction_that_is_zero_can_not_be_written(model, directions):
    flat = replace(directions.refusal, vectors=directions.refusal.vectors * 0)
    with pytest.raises(ValueError, match="the refusal direction is zero at layer 3"):
        rank(model, replace(directions, refusal=flat))

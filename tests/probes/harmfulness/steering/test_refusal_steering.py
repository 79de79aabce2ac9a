"""Steering: a planted refusal direction is found, its controls do nothing, noise is named, killed runs go on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp import load_result
from interp.edits.directions import mean_difference
from interp.edits.steering import add_direction
from interp.reading.generation import generate
from interp.reading.perplexity import reply_nll
from interp.records.folder_lock import OtherRunError
from interp.records.keep import Keep
from probes.harmfulness.directions.controls import controls_of, shuffled_direction
from probes.harmfulness.directions.directions import fit_directions
from probes.harmfulness.directions.openings import find_openings
from probes.harmfulness.steering import arms as steering_arms, sweep as module
from probes.harmfulness.steering.arms import Arm, repeated_share, reply_quality
from probes.harmfulness.steering.rates import noise_note, summarise
from probes.harmfulness.steering.screen import default_layers, scan_positions, shortlist
from probes.harmfulness.steering.sweep import choose, sweep
from probes.requests.behaviour_result import Behaviour
from probes.requests.prompts import build_request_prompts
from probes.requests.requests import Request
from tests.tiny import tiny, tiny_tokenizer


def requests(kind: str, start: int, n: int) -> list[Request]:
    verb = "Break" if kind == "harmful" else "Paint"
    return [Request(f"{kind}-{i}", f"{verb} the door number {i}.", kind, "doors") for i in range(start, start + n)]


def judge(request: str, reply: str) -> str:
    return "refused" if reply.startswith("S") else "accepted"


VALIDATION = (requests("harmful", 30, 4), requests("harmless", 30, 4))
TEST = (requests("harmful", 50, 10), requests("harmless", 50, 10))
SMALL = dict(layers=(1, 2, 3), coefficients=(1, 2), n_layers=1, max_new_tokens=6, judge=judge)


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def fitted(model):
    return fit_directions(model, requests("harmful", 0, 12), requests("harmless", 0, 12))


@pytest.fixture(scope="module")
def planted(model, fitted):
    """A refusal direction that makes the next token the first one of "Sorry"."""
    (token, *_) = model.tokenizer("Sorry", add_special_tokens=False)["input_ids"]
    vectors = fitted.refusal.vectors.clone()
    vectors[1:] = 8 * model.components.unembedding.weight[token].detach()
    return replace(fitted, refusal=replace(fitted.refusal, vectors=vectors))


@pytest.fixture(scope="module")
def study(model, planted):
    return sweep(model, planted, *VALIDATION, **SMALL)


@pytest.fixture(scope="module")
def tested(model, planted, study):
    return module.test(model, study, planted, *TEST, judge=judge, n_random=2, n_shuffled=1)


def test_the_planted_direction_is_chosen_and_holds_on_other_requests(study, tested):
    assert study.chosen["+refusal"]["refusal_rate"] == 1 and study.chosen["+harmfulness"]["refusal_rate"] == 0
    assert set(study.chosen) == {"+refusal", "-refusal", "+harmfulness", "-harmfulness"}
    assert "Not tested yet" in " ".join(study.statement()) and study.comparison().empty
    rows = tested.comparison().set_index(["kind", "arm", "condition"])
    assert rows.loc[("harmless", "+refusal", "direction"), "refusal_rate"] == 1
    for control in ("unsteered", "random", "shuffled"):
        row = rows.loc[("harmless", "+refusal", control)]
        assert row["refusal_rate"] == 0 and row["beyond"] == 1 and row["n"] == 10
        assert 0 < row["beyond_low"] < 1 and row["refusal_rate_high"] < 0.5
    arms = set(rows.index.get_level_values("arm"))
    assert arms == {
        "+refusal", "+harmfulness", "-refusal", "-harmfulness", "ablate refusal", "ablate harmfulness"
    }  # fmt: skip
    first = tested.statement()[0]
    assert first.startswith("+refusal on 10 harmless requests: 100%") and "At least 90 %: yes" in first
    assert "KL on harmless requests" in first
    drawn = tested.first_tokens().set_index(["kind", "arm"])
    assert set(drawn.index.get_level_values("arm")) == {"+refusal", "-refusal", "+harmfulness", "-harmfulness"}
    own = drawn.loc[("harmless", "+refusal")]
    assert own["change_margin"] > 1 and own["margin_random"] == own["margin_shuffled"] == 0
    assert (own["n_random"], own["n_shuffled"], own["margin_p"]) == (2, 1, 0.25)
    assert any("too few" in s for s in tested.statement() if s.startswith("+refusal on harmless requests changes"))
    assert study.first_tokens().empty
    assert study.outcomes["stage"].unique().tolist() == ["validation"]  # the sweep is as it was


def test_the_screen_is_what_steering_does(model, planted, study):
    """Every cell against plain passes; the one at the answer came from the fan-out."""
    screen = study.screen
    assert set(screen["positions"]) == {"answer", "all"}
    assert len(screen) == 2 * 4 * 3 * 2 and set(screen.loc[screen["positions"] == "answer", "how"]) == {
        "fan-out, positions=answer"
    }
    prompts = study.openings.on(build_request_prompts(model, VALIDATION[0]))
    sides = [list(study.openings.refusing), list(study.openings.accepting)]
    for where in ("answer", "all"):
        row = screen.query("arm == '-harmfulness' and layer == 2 and coefficient == -2 and positions == @where").iloc[0]
        with add_direction(planted.harmfulness, -2, 2, positions=where).apply(model, prompts):
            logits = model.final_logits(prompts)
        odds = logits[:, sides[0]].logsumexp(-1) - logits[:, sides[1]].logsumexp(-1)
        assert row["log_odds"] == pytest.approx(odds.mean().item(), abs=1e-3)
        assert row["leans_to_refusal"] == (odds > 0).float().mean().item() and row["n"] == 4


def test_the_quality_of_replies(model):
    prompts = build_request_prompts(model, TEST[0][:4])
    replies = ["The kettle", "", "boils boils boils boils boils boils", "x\ufffd"]
    nll, n_tokens, repetition = reply_quality(model, prompts, replies, batch_size=3)
    tokens = [model.tokenizer(r.rstrip("\ufffd"), add_special_tokens=False)["input_ids"] if r else [] for r in replies]
    np.testing.assert_allclose(nll, reply_nll(model, prompts, tokens), rtol=1e-4)
    assert n_tokens.tolist() == [len(t) for t in tokens]
    assert nll[1] == repetition[1] == repetition[0] == 0 and repetition[2] > 0.2


def test_repetition_by_hand():
    assert repeated_share([1, 2, 3]) == repeated_share([]) == 0
    assert repeated_share([1, 2, 3, 4, 5]) == 0
    assert repeated_share([7] * 10) == 1 - 1 / 7
    assert repeated_share([1, 2, 3, 4, 1, 2, 3, 4]) == 1 - 4 / 5


def test_controls_have_the_norms_and_shuffled_labels_hold_no_class(model, fitted):
    """Planted states, far apart by class: a plain permutation would leave part of that difference."""
    n, layers, width = 24, model.n_layers + 1, model.d_model
    positive = np.arange(n) < 12
    states = torch.randn(n, layers, width, generator=torch.Generator().manual_seed(0))
    states[:12, 1:] += 20.0
    above, below = (states[torch.from_numpy(m)].mean(0) for m in (positive, ~positive))
    refusal = mean_difference(above, below, model)
    separated = replace(fitted, refusal=refusal, positive=positive, states=replace(fitted.states, t_post=states))
    controls = controls_of(separated, "refusal", n_random=3)
    assert list(controls) == ["random 0", "random 1", "random 2", "shuffled 0"]
    for direction in controls.values():
        assert torch.allclose(direction.norms(), refusal.norms(), rtol=1e-4)
    assert controls["shuffled 0"].cosine(refusal)[1:].abs().max() < 0.5
    again = shuffled_direction(separated, "refusal")
    assert torch.equal(again.vectors, controls["shuffled 0"].vectors)
    assert not torch.equal(again.vectors, shuffled_direction(separated, "refusal", seed=1).vectors)


def test_noise_is_named(model, planted):
    """The planted token added at each step makes loops: no candidate is fluent, and everything says so."""
    study = sweep(model, planted, *VALIDATION, **SMALL | dict(coefficients=(4,), while_generating=True))
    assert not study.chosen["+refusal"]["fluent"] and "4-grams repeated" in study.chosen["+refusal"]["note"]
    assert "Warning: steering turned the text to noise" in study.to_frame().attrs["note"]
    sentences = study.statement()
    assert any(s.startswith("Warning: +refusal, layer") and "means little" in s for s in sentences)
    assert any(s.startswith("+refusal:") and "no candidate stayed fluent" in s for s in sentences)
    table = study.to_findings().tables["Candidates on validation"]
    assert table.loc[table["arm"] == "+refusal", "note"].str.startswith("noise: ").all()


def outcomes(**arms: tuple[str, float]) -> pd.DataFrame:
    """Two harmless requests for each arm: verdicts by letter, and the nats of a token."""
    rows = []
    for number, (arm, (verdicts, nats)) in enumerate(arms.items()):
        for i, verdict in enumerate(verdicts):
            row = {
                "stage": "validation",
                "kind": "harmless",
                "arm": arm.split("_")[0].replace("plus", "+"),
                "control": "",
            }
            row |= {"layer": number, "coefficient": float(number), "id": str(i), "nll": 10 * nats, "n_tokens": 10}
            word = {"r": "refused", "a": "accepted", "u": "unclear"}[verdict]
            rows.append(row | {"verdict": word, "repetition": 0.0, "kl": float(number)})
    return pd.DataFrame(rows)


def test_the_rule_takes_the_most_refusals_among_the_fluent():
    frame = outcomes(
        unsteered=("aa", 1.0), plusrefusal_1=("ra", 1.5), plusrefusal_2=("rr", 2.05), plusrefusal_3=("rr", 2.2),
    )  # fmt: skip
    table = summarise(frame, fluency_factor=3.0)
    assert table["fluent"].tolist() == [True, True, True, False]  # e^1.05 = 2.86, e^1.2 = 3.32
    assert table["refused"].tolist() == [0, 1, 2, 2] and table["change"].tolist() == [0, 0.5, 1, 1]
    assert choose(table)["+refusal"]["layer"] == 2
    assert choose(summarise(frame, fluency_factor=2.0))["+refusal"]["layer"] == 1
    none = choose(summarise(frame, fluency_factor=1.0))["+refusal"]
    assert none["layer"] == 1 and not none["fluent"] and none["note"] == "noise: perplexity 1.6 times the unsteered"
    flipped = frame.assign(arm=frame["arm"].str.replace("+", "-"), kind="harmful")
    assert choose(summarise(flipped, 4.0))["-refusal"]["layer"] == 1
    unclear = summarise(outcomes(unsteered=("aa", 1.0), plusrefusal_1=("ru", 1.0)), 3.0)
    assert unclear.iloc[1][["refused", "unclear", "refusal_rate"]].tolist() == [1, 1, 0.5]


def test_candidates_turn_most_first_tokens_at_the_smallest_coefficient():
    cells = {(2, 1): 0.5, (2, 2): 1.0, (2, 4): 1.0, (4, 1): 1.0, (4, 2): 1.0, (4, 4): 1.0, (9, 1): 0.2, (9, 2): 0.9,
             (9, 4): 0.9, (11, 1): 0.0, (11, 2): 0.0, (11, 4): 1.0}  # fmt: skip
    rows = [
        {"arm": "+refusal", "kind": "harmless", "direction": "refusal", "layer": layer, "coefficient": float(c),
         "leans_to_refusal": leans, "log_odds": leans} for (layer, c), leans in cells.items()
    ]  # fmt: skip
    found = shortlist(pd.DataFrame(rows), n_layers=2, depth=12)
    assert [(a.layer, a.coefficient) for a in found] == [(4, 1.0), (4, 2.0), (2, 2.0), (2, 4.0)]
    found = shortlist(pd.DataFrame(rows), n_layers=1, depth=24)  # and the best of the middle third: of 9 and 11
    assert [(a.layer, a.coefficient) for a in found] == [(4, 1.0), (4, 2.0), (11, 4.0)]
    none = [r | {"leans_to_refusal": 0.0, "log_odds": r["coefficient"] - r["layer"]} for r in rows]
    found = shortlist(pd.DataFrame(none), n_layers=1, depth=12)  # no token turns: by log odds, not the weakest
    assert (found[0].layer, found[0].coefficient) == (2, 4.0)
    minus = [r | {"arm": "-refusal", "coefficient": -r["coefficient"], "kind": "harmful"} for r in rows]
    best = shortlist(pd.DataFrame(minus), n_layers=1, depth=12)  # the fewest refusals
    assert (best[0].layer, best[0].coefficient, best[0].kind) == (11, -1.0, "harmful")


def test_layers_of_the_default_grid(model):
    assert default_layers(model) == (1, 2, 3)

    class Deep:
        n_layers = 30

    layers = default_layers(Deep())
    assert len(layers) <= 14 and 15 in layers and layers[0] >= 1 and layers[-1] <= 29


def test_opening_tokens_come_from_the_replies(model):
    prompts = build_request_prompts(model, [*TEST[0][:4], *TEST[1][:4]])
    first = model.final_logits(prompts).argmax(-1).tolist()
    verdicts = ["refused" if token == first[0] else "accepted" for token in first]
    if verdicts.count("refused") >= 3 and verdicts.count("accepted"):
        found = find_openings(model, prompts, verdicts)
        assert found.refusing == (first[0],) and first[0] not in found.accepting and found.auroc == 1
    found = find_openings(model, prompts, ["accepted"] * 8)
    assert "refused 0 of 8" in found.how and set(found.accepting) == set(first) and np.isnan(found.auroc)
    assert not set(found.refusing) & set(found.accepting) and len(found.to_frame()) >= 2
    with pytest.raises(ValueError, match=r"0 accepted replies have .* 0 accepting first tokens"):
        find_openings(model, prompts, ["refused"] * 8)


def test_where_a_scan_edits(model):
    prompts = build_request_prompts(model, TEST[0])
    assert [scan_positions(p, prompts) for p in ("answer", "all", "text")] == ["answer", "all", "all"]
    assert scan_positions("suffix", prompts) == len(prompts[0].span("suffix"))


def test_an_arm_steers_as_it_says(model, planted):
    vectors = {("refusal", ""): planted.refusal}
    prompts = build_request_prompts(model, TEST[1])
    assert Arm("test", "harmless").steering(vectors, "all", False) is None
    with Arm("test", "harmless", "refusal", "add", 2, 2.0).steering(vectors, "answer", False).apply(model, prompts):
        assert all(reply.startswith("S") for (reply,) in generate(model, prompts, 2))
    ablated = Arm("test", "harmful", "refusal", "remove", 2)
    assert ablated.name == "ablate refusal" and ablated.steering(vectors, "all", False).while_generating
    assert Arm("test", "harmful", "refusal", "add", 2, -1.0).name == "-refusal"


def test_kl_is_that_of_the_first_token(model, planted, tested):
    """KL(unsteered || steered), on harmless requests also for arms on harmful ones; 0 unsteered."""
    prompts = build_request_prompts(model, TEST[1])
    chosen = tested.chosen["-harmfulness"]
    before = model.final_logits(prompts).log_softmax(-1)
    with add_direction(planted.harmfulness, chosen["coefficient"], chosen["layer"]).apply(model):
        after = model.final_logits(prompts).log_softmax(-1)
    expected = (before.exp() * (before - after)).sum(-1)
    rows = tested.outcomes.query("stage == 'test' and control == '' and kl == kl")
    found = rows[rows["arm"] == "-harmfulness"]
    assert found["id"].tolist() == [r.id for r in TEST[1]] and set(found["verdict"]) == {""}
    assert np.allclose(found["kl"], expected, atol=1e-4) and expected.min() > 0.01
    assert np.allclose(rows.loc[rows["arm"] == "unsteered", "kl"], 0, atol=1e-6)
    summary = tested.to_frame().set_index(["stage", "arm", "control"])
    row = summary.loc[("test", "-harmfulness", "")]
    assert row["kl"] == pytest.approx(expected.mean().item(), abs=1e-4) and row["kl_low"] < row["kl"] < row["kl_high"]


def test_saved_and_loaded_without_replies(model, planted, tested, tmp_path):
    tested.save(tmp_path / "a")
    again = load_result(tmp_path / "a")
    pd.testing.assert_frame_equal(again.to_frame(), tested.to_frame())
    pd.testing.assert_frame_equal(again.comparison(), tested.comparison())
    pd.testing.assert_frame_equal(again.screen, tested.screen)
    assert again.statement() == tested.statement() and repr(again.openings) == repr(tested.openings)
    assert [r.withheld() for r in tested.validation] == list(again.validation)
    assert [r.withheld() for r in tested.tested] == list(again.tested)
    assert set(again.outcomes["reply"]) == {""}
    page = (tmp_path / "a" / "report.html").read_text()
    assert TEST[0][0].text not in page and "Replies" not in tested.to_findings().tables
    assert {p.suffix for p in (tmp_path / "a").iterdir()} == {".json", ".csv", ".html"}
    tested.save(tmp_path / "b", include_replies=True)
    assert load_result(tmp_path / "b").outcomes["reply"].tolist() == tested.outcomes["reply"].tolist()
    assert len(tested.plot().data) and tested.plot("Screen, steered at all").layout.meta["note"].startswith(
        "Steered at: all"
    )
    with pytest.raises(KeyError, match=r"no figure 'text'; it has .*'Screen, steered at all'"):
        tested.plot("text")


def test_a_killed_run_goes_on(model, planted, study, tmp_path, monkeypatch):
    real, calls = steering_arms.generate, []

    def failing(*args, **more):
        calls.append(1)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(steering_arms, "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, planted, *VALIDATION, **SMALL, batch_size=4, keep=tmp_path)
    monkeypatch.setattr(steering_arms, "generate", real)
    with pytest.raises(OtherRunError, match="positions"):
        sweep(model, planted, *VALIDATION, **SMALL, batch_size=4, positions="answer", keep=Keep(tmp_path, resume=True))
    resumed = sweep(model, planted, *VALIDATION, **SMALL, batch_size=4, keep=tmp_path)
    pd.testing.assert_frame_equal(resumed.to_frame(), study.to_frame(), rtol=1e-3)
    assert resumed.provenance["run_id"] == study.provenance["run_id"] and not (tmp_path / "parts").exists()

    monkeypatch.setattr(steering_arms, "generate", None)  # nothing is asked again
    loaded = sweep(model, planted, *VALIDATION, **SMALL, batch_size=4, keep=Keep(tmp_path, resume=True))
    assert loaded.chosen == resumed.chosen
    with pytest.raises(FileExistsError, match="overwrite"):
        sweep(model, planted, *VALIDATION, **SMALL | dict(n_layers=2), keep=tmp_path)
    with pytest.raises(FileNotFoundError, match="No directory"):
        load_result(tmp_path / "nothing")


def test_steering_at_the_answer_alone_is_one_screen(model, planted):
    behaviour = Behaviour(tuple(TEST[1]), ("accepted",) * 10, None, {"run_id": "other"})
    found = sweep(model, planted, *VALIDATION, **SMALL, positions="answer", behaviour=behaviour)
    assert set(found.screen["positions"]) == {"answer"} and found.chosen["+refusal"]["refusal_rate"] == 1
    assert found.provenance["settings"]["behaviour"] == "other" and "refused 0 of 10" in found.openings.how


def test_refusals(model, planted, fitted, study):
    with pytest.raises(ValueError, match=r"fitted on too.*harmful-0"):
        sweep(model, planted, requests("harmful", 0, 2), VALIDATION[1])
    with pytest.raises(ValueError, match=r"fitted on too.*harmful-30"):
        module.test(model, study, planted, VALIDATION[0], TEST[1], judge=judge)
    with pytest.raises(ValueError, match=r"of another kind: \['harmless-30'"):
        sweep(model, planted, VALIDATION[1], requests("harmless", 70, 2))
    with pytest.raises(ValueError, match="0 harmless requests"):
        sweep(model, planted, VALIDATION[0], [])
    with pytest.raises(ValueError, match=r"layers=\[9\].*0 to 3"):
        sweep(model, planted, *VALIDATION, layers=[9])
    for bad in ((), (0.0, 1.0), (1.0, 1.0)):
        with pytest.raises(ValueError, match="distinct numbers above 0"):
            sweep(model, planted, *VALIDATION, coefficients=bad)
    with pytest.raises(ValueError, match="expected at least 1 each"):
        sweep(model, planted, *VALIDATION, fluency_factor=0.5)
    with pytest.raises(ValueError, match="judge is 'judge_by_phrases'; the sweep's was 'judge'"):
        module.test(model, study, planted, *TEST)
    other = replace(planted, provenance={**planted.provenance, "run_id": "elsewhere"})
    with pytest.raises(ValueError, match="directions is 'elsewhere'"):
        module.test(model, study, other, *TEST, judge=judge)
    stranger = interp.load(
        tiny("llama", vocab_size=400, max_position_embeddings=1024, seed=1), tokenizer=tiny_tokenizer()
    )
    with pytest.raises(ValueError, match="Use the weights"):
        sweep(stranger, planted, *VALIDATION, **SMALL)
    behaviour = Behaviour(tuple(TEST[1]), ("accepted",) * 10, None, {"run_id": "b", "settings": {"system": "Be kind."}})
    with pytest.raises(ValueError, match=r"observed with \{'system': 'Be kind.'\}"):
        sweep(model, planted, *VALIDATION, **SMALL, behaviour=behaviour)
    with pytest.raises(KeyError, match="no figure 'Refusals in the test'"):
        study.plot("Refusals in the test")


def test_sentences_of_a_model_that_refuses_nothing(tested):
    """There is nothing to halve, and it is not called a success."""
    sentence = next(s for s in tested.statement() if s.startswith("-refusal"))
    assert "there was none to halve" in sentence
    assert noise_note(tested.to_frame().query("fluent")) == "All texts are fluent by the stated limits."

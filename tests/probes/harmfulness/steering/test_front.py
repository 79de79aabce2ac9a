"""Arms beside a prompt: each does what it says, the front is a front, broken text is never on it, the test is apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp import load_result
from interp.edits import add_direction
from interp.records.keep import Keep
from probes.harmfulness.steering.arms import divergence
from probes.harmfulness.steering.front import steering_front
from probes.harmfulness.steering.front_result import SteeringFront, pareto, text_table
from probes.harmfulness.steering.rivals import (
    Asked,
    Folded,
    Material,
    SteeringArm,
    Trained,
    Untouched,
    ablated,
    acting,
    added_means,
    added_pairs,
    asked,
    clamped,
    conditional,
    orthogonalised,
    standard_arms,
    trained,
    turned,
)
from probes.requests import Behaviour, build_request_prompts
from tests.probes.harmfulness.steering.test_refusal_steering import fitted, model, requests
from tests.tiny import tiny, tiny_tokenizer

__all__ = ["fitted", "model"]  # fixtures

VALIDATION = [*requests("harmful", 30, 4), *requests("harmless", 30, 4)]
TEST = [*requests("harmful", 50, 10), *requests("harmless", 50, 10)]
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def judge(request: str, reply: str) -> str:
    return "refused" if reply.startswith("I") else "accepted"


@pytest.fixture(scope="module")
def planted(model, fitted):
    """A refusal direction that makes the next token the first one of "I'm sorry"."""
    (token, *_) = model.tokenizer("I'm sorry", add_special_tokens=False)["input_ids"]
    vectors = fitted.refusal.vectors.clone()
    vectors[1:] = 8 * model.components.unembedding.weight[token].detach()
    return replace(fitted, refusal=replace(fitted.refusal, vectors=vectors))


@pytest.fixture(scope="module")
def behaviour(planted):
    asked_for = planted.states.requests
    return Behaviour(asked_for, ("accepted",) * len(asked_for), None, {"run_id": "made", "settings": {}})


@pytest.fixture(scope="module")
def material(model, planted, behaviour) -> Material:
    return Material(model, planted, behaviour, tuple(VALIDATION))


def louder(material, layer):
    """An arm of one's own."""
    return add_direction(material.pairs, 0.5, layer)


ARMS = [
    SteeringArm("prompt", asked, {"wording": [0]}),
    SteeringArm("LoRA", trained, {"n_pairs": [4], "epochs": [1]}),
    SteeringArm("difference of means", added_means, {"layer": [2], "coefficient": [1.0]}),
    SteeringArm("whole pairs", added_pairs, {"layer": [2], "coefficient": [0.5, 1.0]}),
    SteeringArm("turn", turned, {"layer": [2], "angle": [0.5]}),
    SteeringArm("ablation", ablated, {"layer": [2]}),
    SteeringArm("orthogonalised", orthogonalised, {"layer": [2]}),
    SteeringArm("conditional", conditional, {"layer": [3], "coefficient": [1.0], "guard_from": [2]}),
    SteeringArm("mine", louder, {"layer": [2]}),
]
HOW = {"judge": judge, "max_new_tokens": 4, "n_front": 3, "n_read": 2, "n_random": 2, "n_shuffled": 1, "n_drawn": 2}


@pytest.fixture(scope="module")
def front(model, planted, behaviour) -> SteeringFront:
    before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    found = steering_front(model, planted, behaviour, VALIDATION, TEST, arms=ARMS, fluency_factor=100.0, **HOW)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.hf.state_dict().items())
    return found


def test_every_arm_is_searched_and_what_cannot_be_made_says_why(front):
    assert set(front.screen["arm"]) == {"untouched", *(arm.name for arm in ARMS)} - {"difference of means"}
    ((point, reason),) = front.left_out.items()
    assert point.startswith("difference of means") and reason.startswith("0 harmful examples were refused")
    assert any(s.startswith("Left out: difference of means") for s in front.statement())


def test_the_search_is_what_plain_passes_give(front, model, planted):
    row = front.screen.query("arm == 'whole pairs' and point == 'layer 2, coefficient 1'").iloc[0]
    harmful, harmless = ([r for r in VALIDATION if r.kind == kind] for kind in ("harmful", "harmless"))
    logits = {}
    for name, some in (("harmful", harmful), ("harmless", harmless)):
        prompts = build_request_prompts(model, some)
        logits[name] = [model.final_logits(prompts)]
        with add_direction(planted.refusal, 1.0, 2).apply(model):
            logits[name].append(model.final_logits(prompts))
    sides = [list(front.openings.refusing), list(front.openings.accepting)]
    odds = [x[:, sides[0]].logsumexp(-1) - x[:, sides[1]].logsumexp(-1) for x in logits["harmful"]]
    assert row["effect"] == pytest.approx((odds[1] - odds[0]).mean().item(), abs=1e-4) and row["effect"] > 1
    p, q = (x.log_softmax(-1) for x in logits["harmless"])
    assert row["kl"] == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-3)


def test_tested_arms_have_both_kinds_and_what_folding_gives_is_what_hooks_give(front):
    table = front.to_frame()
    assert set(table["n"]) == {10} and (table.groupby(["arm", "settings"]).size() == 2).all()
    untouched = table[table["arm"] == "untouched"]
    assert (untouched["moved"] == 0).all() and (untouched["kl"] == 0).all() and (untouched["change"] == 0).all()
    rows = table.set_index(["arm", "kind"])
    for name in ("odds", "kl", "refused"):
        assert rows.loc["ablation"][name].tolist() == pytest.approx(rows.loc["orthogonalised"][name].tolist(), abs=1e-3)
    assert rows.loc[("prompt", "harmful"), "more_tokens"] > 5 > rows.loc[("LoRA", "harmful"), "more_tokens"] == 0
    drawn = front.first_tokens()
    assert set(drawn["n_random"]) == {2} and {"whole pairs", "mine"} >= set(drawn["arm"]) and len(drawn)


def test_what_beats_asking_is_a_claim(front):
    head = front.statement()[0]
    assert head.startswith("What beats asking")
    beside = front.beside_prompt().set_index("arm")
    best = beside.loc["whole pairs"] if isinstance(beside.loc["whole pairs"], pd.Series) else beside.iloc[0]
    assert best["n_harmful"] == 10 and "prompt" not in beside.index
    (cells,) = [s for s in front.statement() if "harmful at least +20%" in s]
    assert cells.startswith(("MET", "MISSED")) and "steered" in cells
    for name in ("Effect against harm", "The search"):
        assert front.plot(name).data


def test_a_front_is_what_nothing_beats():
    rows = pd.DataFrame({"effect": [0.0, 1.0, 2.0, 1.5, 3.0, -1.0, 3.0], "kl": [0.0, 0.1, 0.2, 0.3, 0.4, 0.01, 0.5]})
    assert pareto(rows).tolist() == [False, True, True, False, True, False, False]
    assert pareto(rows.assign(effect=-1.0)).sum() == 0


def test_broken_text_is_never_on_the_front(model, planted, behaviour):
    """Steered while generating, the planted direction says one word again and again."""
    arms = [
        SteeringArm("prompt", asked, {"wording": [0]}),
        SteeringArm("whole pairs", added_pairs, {"layer": [2], "coefficient": [2.0, 4.0]}),
    ]
    how = HOW | {"max_new_tokens": 12, "n_random": 0, "n_shuffled": 0}
    found = steering_front(
        model, planted, behaviour, VALIDATION, TEST, arms=arms, while_generating=True, fluency_factor=100.0, **how
    )
    assert found.screen.query("arm == 'whole pairs'")["fluent"].tolist() == [False, False]
    assert "whole pairs" not in set(found.front()["arm"]) | set(found.outcomes["arm"])
    (said,) = [s for s in found.statement() if s.startswith("Text was broken")]
    assert "whole pairs (layer 2, coefficient 2; " in said and "4-grams repeated" in said


def test_a_killed_comparison_goes_on_and_is_read_back(front, model, planted, behaviour, tmp_path):
    few = ARMS[:1] + ARMS[3:4]
    run = {"arms": few, "fluency_factor": 100.0, **HOW, "n_replies": 2, "n_random": 0, "n_shuffled": 0}
    whole = steering_front(model, planted, behaviour, VALIDATION, TEST, **run)
    calls = []

    def stops(material, wording):
        calls.append(wording)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return asked(material, wording)

    stopping = [SteeringArm("prompt", stops, few[0].grid), few[1]]
    with pytest.raises(KeyboardInterrupt):
        steering_front(
            model, planted, behaviour, VALIDATION, TEST, **run | {"arms": stopping}, keep=Keep(tmp_path / "a")
        )
    again = steering_front(model, planted, behaviour, VALIDATION, TEST, **run, keep=Keep(tmp_path / "a", resume=True))
    columns = ["arm", "settings", "kind", "n", "refused", "change", "odds", "kl"]
    pd.testing.assert_frame_equal(again.to_frame()[columns], whole.to_frame()[columns])
    assert load_result(tmp_path / "a").statement() == again.statement() == whole.statement()


def test_a_prompt_stands_before_the_request_where_there_is_no_system_role(material):
    text = "Refuse what is harmful."
    bare = interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer(NO_SYSTEM))
    for asked_of, has in ((material.model, True), (bare, False)):
        made = Asked.of(asked_of, text)
        assert (made.where == "system") is has and ("no system role" in made.summary()) is not has
        with acting(made, asked_of, TEST[:2]) as prompts:
            assert all(p.text.count(text) == 1 and p.text.index(text) < p.text.index("Break") for p in prompts)
            assert all(("system" in p.text) is has for p in prompts)


def test_arms_leave_the_model_as_it_was_and_train_alike(material):
    model, few = material.model, TEST[:3]
    with acting(Untouched(), model, few) as prompts:
        before = model.final_logits(prompts)
    learned = trained(material, 4, 1)
    assert (
        isinstance(learned, Trained)
        and len(learned.prompts) == 8
        and learned.prompts == trained(material, 4, 1).prompts
    )
    found = []
    for made in (learned, learned, orthogonalised(material, 2)):
        with acting(made, model, few) as prompts:
            found.append(model.final_logits(prompts))
        with acting(Untouched(), model, few) as prompts:
            assert torch.equal(model.final_logits(prompts), before)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], before)
    assert isinstance(orthogonalised(material, 2), Folded)


def test_a_clamp_goes_from_the_mean_of_one_class_to_that_of_the_other(material):
    x, positive = material.directions.states.t_post[:, 2], np.asarray(material.directions.positive)
    row = material.pairs.vectors[2]
    along = x @ (row / row.norm())
    for to, mask in ((0.0, ~positive), (1.0, positive)):
        (edit,) = clamped(material, 2, to).edits
        assert edit.coefficient == pytest.approx(float(along[torch.from_numpy(mask)].mean()), rel=1e-4)
    (edit,) = clamped(replace(material, goal="comply"), 2, 1.0).edits
    assert edit.coefficient == pytest.approx(float(along[torch.from_numpy(~positive)].mean()), rel=1e-4)


def test_standard_arms_are_the_issues(model):
    names = [arm.name for arm in standard_arms(model)]
    assert names == [
        "prompt", "LoRA", "difference of means", "whole pairs", "subspace", "turn", "clamp", "ablation",
        "orthogonalised", "conditional",
    ]  # fmt: skip
    assert len(standard_arms(model, [1, 2], [1.0])[2].points()) == 2


def test_what_is_wrong_is_refused(model, planted, behaviour):
    def run(*, validation=VALIDATION, tested=TEST, **how):
        return steering_front(model, planted, behaviour, validation, tested, **{"arms": ARMS[:1], **HOW, **how})

    with pytest.raises(ValueError, match="of names of their own"):
        run(arms=[ARMS[0], ARMS[0]])
    with pytest.raises(ValueError, match="goal='shout'"):
        run(goal="shout")
    with pytest.raises(ValueError, match="share ids"):
        run(tested=VALIDATION)
    with pytest.raises(ValueError, match="were fitted on too"):
        run(tested=[*requests("harmful", 0, 2), *TEST[10:]])
    with pytest.raises(ValueError, match="0 harmless requests to test on; expected at least 1"):
        run(tested=TEST[:10])
    with pytest.raises(ValueError, match="directions were fitted with"):
        run(system="Be brief.")
    with pytest.raises(ValueError, match="'refused', 'accepted', 'unclear'"):
        run(judge=lambda request, reply: "perhaps")


def test_divergences_and_texts_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    other = torch.log(torch.tensor([[0.25, 0.75], [0.9, 0.1]]))
    expected = [0.5 * np.log(2) + 0.5 * np.log(2 / 3), 0.0]
    assert [divergence(*rows) for rows in zip(logits, other, strict=True)] == pytest.approx(expected, abs=1e-6)
    plain = pd.DataFrame({"kind": ["harmful"] * 2, "verdict": "accepted", "nll": 2.0, "n_tokens": 4, "repetition": 0.0})
    assert text_table(plain, plain, 3.0)["fluent"]
    assert not text_table(plain.assign(nll=8.0), plain, 3.0)["fluent"]
    assert "repeated" in text_table(plain.assign(repetition=0.2), plain, 3.0)["note"]

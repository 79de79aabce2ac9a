"""Causal tests of sets of heads: slow twins, sets that obey their rules, verdicts on made-up numbers, refusals."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

import interp
from interp.circuits import random_sets
from interp.interventions.acting import edit_heads
from interp.interventions.values import HeadEdit
from interp.rankings.ranking import HeadRanking
from interp.records.folder_lock import OtherRunError
from interp.records.provenance import hash_weights
from interp.statistics import mean_interval
from probes.heads.set_statistics import permutation_p, spearman_over_heads
from probes.heads.sets import Case, head_order
from probes.negative_bias import causality
from probes.negative_bias.causal_report import verdict_sentences
from probes.negative_bias.causal_result import CausalTest, outcomes_of
from probes.questions.instructions import build_prompts
from probes.questions.questions import Question
from tests.tiny import tiny, tiny_tokenizer
from tests.twins import bridge_means

QUESTIONS = [
    Question("t1", "Is the sky blue on a clear day?", "Yes"),
    Question("t2", "Is it so?", "No"),
    Question("t3", "Can the kettle do so without any heat?", "No"),
    Question("t4", "Is question a word?", "Yes"),
    Question("t5", "Does a clear day heat the kettle?", "No"),
]
SMALL = dict(ks=(1, 3), n_random=4, ks_all=(2,), n_random_all=2)
BOTH = ("answer", "all")


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


def a_ranking(model: interp.Model, **changes) -> HeadRanking:
    rng = np.random.default_rng(0)
    names = ("nas", "nas_order_balanced")
    return HeadRanking(
        score="nas",
        measures={name: rng.normal(size=(3, 4, 4)).astype(np.float32) for name in names},
        example_ids=("r1", "r2", "r3"),
        descriptions={},
        provenance={"run_id": "abc", "model": {"name": "tiny", "weights_sha256": hash_weights(model.hf)}},
        **changes,
    )


@pytest.fixture(scope="module")
def ranking(model) -> HeadRanking:
    return a_ranking(model)


@pytest.fixture(scope="module")
def result(model, ranking) -> CausalTest:
    return causality.causal_test(model, QUESTIONS, ranking, positions=BOTH, batch_size=2, **SMALL)


@torch.no_grad()
def slow_margin(model: interp.Model, prompt: interp.Prompt, case: Case, means) -> float:
    """logit(No) - logit(Yes) by TransformerLens's own hooks, one set at a time."""
    last = 1 if case.positions == "answer" else len(prompt)

    def change(z, hook):
        z = z.clone()
        for layer, head in case.heads:
            if f"blocks.{layer}." in hook.name:
                old = z[:, -last:, head]
                z[:, -last:, head] = {"zero": 0 * old, "scale": 0.5 * old, "mean": means[layer, head]}[case.edit]
        return z

    at = [(f"blocks.{layer}.attn.hook_z", change) for layer in {layer for layer, _ in case.heads}]
    logits = model.bridge.run_with_hooks(torch.tensor([prompt.token_ids]), fwd_hooks=at)[0, -1]
    return (logits[prompt.answers["No"][0]] - logits[prompt.answers["Yes"][0]]).item()


def test_every_edit_agrees_with_transformerlens_hooks(model, result):
    prompts = build_prompts(model, QUESTIONS)
    one_by_one = {p: [bridge_means(model, [q], last=1 if p == "answer" else len(q)) for q in prompts] for p in BOTH}
    weights = {"answer": torch.ones(len(prompts)), "all": torch.tensor([float(len(q)) for q in prompts])}
    means = {p: (torch.stack(one_by_one[p]) * w[:, None, None, None]).sum(0) / w.sum() for p, w in weights.items()}
    chosen = [i for i, c in enumerate(result.cases) if c.set != "random" or c.draw == 0]
    assert {(result.cases[i].edit, result.cases[i].positions) for i in chosen} == {
        (e, p) for e in ("zero", "mean", "scale") for p in BOTH
    }
    for i in chosen:
        case = result.cases[i]
        expected = [slow_margin(model, p, case, means[case.positions]) for p in prompts[:2]]
        np.testing.assert_allclose(result.margins[:2, i], expected, atol=1e-4, err_msg=str(case))


def test_the_tables_agree_with_plain_loops(model, result):
    """Zeroing with interp's own context manager, one set at a time; NB, accuracy and p counted by hand."""
    prompts = build_prompts(model, QUESTIONS)

    @torch.no_grad()
    def measured(heads) -> tuple[float, float, float]:
        margins = []
        with ExitStack() as stack:
            for layer, head in heads:
                stack.enter_context(edit_heads(model, layer, [(0, HeadEdit(layer, head))], last=1))
            for prompt in prompts:
                logits = model.hf(torch.tensor([prompt.token_ids])).logits[0, -1]
                margins.append(float(logits[prompt.answers["No"][0]] - logits[prompt.answers["Yes"][0]]))
        says_yes = {gold: [] for gold in ("Yes", "No")}
        right = []
        for question, margin in zip(QUESTIONS, margins, strict=True):
            says_yes[question.answer].append(margin < 0)
            right.append((margin < 0) == (question.answer == "Yes"))
        bias = (1 - np.mean(says_yes["Yes"])) - np.mean(says_yes["No"])
        return bias, np.mean(right), np.mean(margins)

    clean = np.array(measured([]))
    frame = result.to_frame().set_index(["by", "edit", "positions", "k", "set"])
    for by in ("nas", "nas_order_balanced"):
        cases = [c for c in result.cases if (c.by, c.edit, c.positions, c.k) == (by, "zero", "answer", 3)]
        changes = {kind: [np.array(measured(c.heads)) - clean for c in cases if c.set == kind] for kind in
                   ("top", "bottom", "random")}  # fmt: skip
        for kind, values in changes.items():
            row = frame.loc[(by, "zero", "answer", 3, kind)]
            found = [row[f"delta_{name}"] for name in ("nb", "accuracy", "margin")]
            np.testing.assert_allclose(found, np.mean(values, axis=0), atol=1e-4)
        row = frame.loc[(by, "zero", "answer", 3, "top")]
        for i, name in enumerate(("nb", "accuracy", "margin")):
            larger = sum(abs(r[i]) >= abs(changes["top"][0][i]) - 1e-9 for r in changes["random"])
            assert row[f"delta_{name}_p_random"] == pytest.approx((1 + larger) / (1 + row["n_random"]))
    np.testing.assert_allclose(result.baseline()["value"], clean, atol=1e-4)
    assert frame.loc[(slice(None), slice(None), slice(None), slice(None), "bottom"), "delta_nb_p_random"].isna().all()


def test_the_sets_are_those_of_the_ranking(result, ranking):
    order = head_order(ranking, "nas")
    assert order == [tuple(pair) for pair in ranking.to_frame()[["layer", "head"]].to_numpy().tolist()]
    for case in result.cases:
        order = head_order(ranking, case.by)
        if case.set == "top":
            assert case.heads == tuple(sorted(order[: case.k]))
        elif case.set == "bottom":
            assert case.heads == tuple(sorted(order[-case.k :]))
    assert {c.k for c in result.cases if c.positions == "all"} == {2}
    sets = result.sets()
    assert sets["n_random"][0] == 3  # one head in a layer of four: three other heads
    assert sets["top"][0] == "L{}H{}".format(*head_order(ranking, "nas")[0])


@pytest.mark.parametrize(
    ("top", "n_possible"), [([(0, 1)], 8), ([(0, 1), (0, 2), (3, 5)], 21 * 8), ([(2, h) for h in range(4)], 5)]
)
def test_random_sets_keep_the_layers_and_leave_the_top_alone(top, n_possible):
    sets = random_sets(top, n_heads=9, n=20)
    layers = Counter(layer for layer, _ in top)
    assert len(set(map(frozenset, sets))) == len(sets) == min(20, n_possible)
    for heads in sets:
        assert Counter(layer for layer, _ in heads) == layers
        assert len(set(heads)) == len(top) and not set(heads) & set(top)
    assert random_sets(top, 9, 20) == sets
    assert random_sets(top, 9, 20, seed=1) != sets
    assert random_sets(top, 9, 4) == sets[:4]  # more draws add to the same ones


def test_layers_with_too_few_other_heads():
    assert random_sets([(0, 0), (0, 1)], n_heads=2, n=20) == []  # only the top itself
    sets = random_sets([(0, 0), (0, 1), (0, 2)], n_heads=4, n=20)
    assert sorted(sets) == [((0, 0), (0, 1), (0, 3)), ((0, 0), (0, 2), (0, 3)), ((0, 1), (0, 2), (0, 3))]


def test_a_test_without_random_sets_says_so(model, ranking):
    result = causality.causal_test(model, QUESTIONS, ranking, by="nas", ks=(16,), edits="zero")
    frame = result.to_frame().set_index("set")
    assert frame.loc["top", "n_random"] == 0 and np.isnan(frame.loc["top", "delta_nb_p_random"])
    assert any("no random set exists" in s and "nothing to compare with" in s for s in result.statement())
    assert result.plot() is not None


def test_effects_and_correlations(model, ranking, result):
    prompts = build_prompts(model, QUESTIONS)
    loop = interp.scan(model, prompts, interp.ablate_each_head("zero"), method="loop")
    np.testing.assert_allclose(result.effects, loop.drop.reshape(5, 4, 4), atol=1e-4)
    table = result.correlations().set_index(["relation", "measure"])["spearman"]
    effect = result.effects.mean(0).ravel()
    found = []
    for name in ("nas", "nas_order_balanced"):
        score = ranking.measures[name].astype(np.float64).mean(0).ravel()
        found.append(spearmanr(score, effect).statistic)
        assert table["sign and size", name] == pytest.approx(found[-1])
        assert table["size alone", name] == pytest.approx(spearmanr(abs(score), abs(effect)).statistic)
    assert table["sign and size", "nas minus nas_order_balanced"] == pytest.approx(found[0] - found[1])
    heads = result.heads()
    assert heads["nas"].is_monotonic_decreasing and len(heads) == 16
    assert ((heads["effect_low"] <= heads["effect"]) & (heads["effect"] <= heads["effect_high"])).all()


def test_a_score_that_is_the_effect_predicts_better_than_noise():
    rng = np.random.default_rng(1)
    effect = rng.normal(size=(20, 6))
    rows = spearman_over_heads({"nas": rng.normal(size=(20, 6)), "nas_order_balanced": effect**3}, effect)
    noise, exact, difference = rows
    assert exact["spearman"] == pytest.approx(1) and exact["ci_low"] == pytest.approx(1)
    assert noise["ci_low"] < 0 < noise["ci_high"] and difference["ci_high"] < 0
    assert np.isnan(spearman_over_heads({"nas": np.ones((20, 6))}, effect)[0]["spearman"])


def test_negative_bias_and_its_interval():
    """NB is the difference of the class means; its interval is that of a bootstrap within the classes."""
    rng = np.random.default_rng(2)
    gold = np.arange(120) < 40
    margin = rng.normal(size=(120, 1)) + np.where(gold, 0.8, -0.2)[:, None]
    contributions = outcomes_of(margin, gold)
    says_no = margin[:, 0] >= 0
    bias = says_no[gold].mean() - (~says_no)[~gold].mean()
    assert contributions["nb"].mean() == pytest.approx(bias)
    assert contributions["accuracy"].mean() == pytest.approx((says_no != gold).mean())
    low, high = mean_interval(contributions["nb"], [str(i) for i in range(120)])
    draws = [rng.choice(says_no[gold], 40).mean() - rng.choice(~says_no[~gold], 80).mean() for _ in range(4000)]
    np.testing.assert_allclose([low[0], high[0]], np.quantile(draws, [0.025, 0.975]), atol=0.02)
    for always, expected in ((1.0, 1.0), (-1.0, -1.0)):
        assert outcomes_of(np.full((120, 1), always), gold)["nb"].mean() == pytest.approx(expected)


def test_questions_of_one_group_are_drawn_together():
    """Every question twice, as a group of two: the interval stays that of the single ones."""
    values = np.random.default_rng(3).normal(size=(30, 2))
    names = [f"{i:02d}" for i in range(30)]
    np.testing.assert_allclose(
        mean_interval(np.repeat(values, 2, axis=0), np.repeat(names, 2)), mean_interval(values, names)
    )
    low, high = mean_interval(values, names)
    assert (low < values.mean(0)).all() and (values.mean(0) < high).all()


def test_the_groups_are_passages_pairs_open_questions_or_the_question_itself(model, ranking):
    questions = [
        replace(QUESTIONS[0], pair="p"),
        replace(QUESTIONS[1], pair="p"),
        replace(QUESTIONS[2], pair="q", context="Sky."),
        replace(QUESTIONS[3], open_question="Who?"),
        QUESTIONS[4],
    ]
    result = causality.causal_test(model, questions, ranking, by="nas", ks=(1,), n_random=1, edits="zero")
    assert result.groups == tuple(q.group for q in questions)
    assert result.groups[:2] == ("p", "p") and result.groups[2].startswith("passage ")
    assert result.groups[3:] == ("Who?", QUESTIONS[4].id)


def test_permutation_p():
    assert permutation_p(-0.5, [0.1, -0.5, 0.6]) == 3 / 4
    assert permutation_p(2.0, [0.1] * 20) == 1 / 21
    assert permutation_p(0.0, [0.0, 0.1]) == 1
    assert np.isnan(permutation_p(1.0, []))


def test_permutation_p_where_random_changes_are_not_around_zero():
    """No change, where each of 19 random sets does harm, is as unlike them as can be; and so is more harm."""
    random = np.linspace(-0.3, -0.2, 19)
    assert permutation_p(0.0, random) == 1  # as large in size as none of them
    assert permutation_p(0.0, random, centred=True) == permutation_p(-0.5, random, centred=True) == 1 / 20
    assert permutation_p(-0.25, random, centred=True) == 1


def made_up(nb=(-0.3, -0.4, -0.2, 0.048), n=20) -> pd.DataFrame:
    """A frame of one test: the top as given, a random and a bottom that do next to nothing."""
    rows = []
    for kind, values in (
        ("top", nb),
        ("bottom", (0.01, -0.02, 0.04, np.nan)),
        ("random", (-0.01, -0.05, 0.03, np.nan)),
    ):
        row = {"by": "nas", "edit": "zero", "positions": "answer", "k": 10, "set": kind, "n_random": n}
        for name in ("nb", "accuracy", "margin"):
            ends = ("", "_low", "_high", "_p_random")
            row |= {f"delta_{name}{end}": value for end, value in zip(ends, values, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


def correlations(*rows) -> pd.DataFrame:
    names = ("nas", "nas_order_balanced", "nas minus nas_order_balanced")
    return pd.DataFrame(
        [
            {
                "relation": "sign and size",
                "measure": m,
                "spearman": r[0],
                "ci_low": r[1],
                "ci_high": r[2],
                "n_heads": 270,
            }
            for m, r in zip(names, rows, strict=False)
        ]
    )


BASELINE = pd.DataFrame(
    [("negative bias", 0.9, 0.8, 1.0, 50, 25, 50)],
    columns=["outcome", "value", "ci_low", "ci_high", "n", "n_yes", "n_groups"],
)
NOTHING = correlations((0.0, -0.1, 0.1))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (made_up(), "p = 0.048); the bottom 10 by +0.010 [-0.020, +0.040]: the top does more than random."),
        (
            made_up((-0.3, -0.4, -0.2, 0.4)),
            "p = 0.400); the bottom 10 by +0.010 [-0.020, +0.040]: the top is not shown to do more",
        ),
        (made_up((-0.3, -0.8, 0.2, 0.048)), "no change that these questions can tell from none"),
        (made_up((-0.3, -0.4, -0.2, 0.25), n=3), "more than each random set, but these are too few to tell"),
    ],
)
def test_the_verdict_follows_the_numbers(frame, words):
    sentences = verdict_sentences(frame, NOTHING, BASELINE, factor=0.5)
    about = [s for s in sentences if s.startswith("Zeroing the top 10 heads by NAS at the answer changes the negative")]
    assert len(about) == 1 and words in about[0]
    assert "20 random sets of the same layers by -0.010 [-0.050, +0.030]" in about[0] or "3 random sets" in about[0]
    assert sentences[-1] == "Unedited, on 50 questions (25 gold Yes): negative bias 0.900 [0.800, 1.000]."


def test_the_first_sentence_counts():
    said = verdict_sentences(made_up(), NOTHING, BASELINE, 0.5)[0]
    assert "By NAS, at the answer: the top heads change the negative bias more than random" in said
    assert "in 1 of 1 tests" in said and "by chance in about 0.0" in said and "mean margin in 1" in said
    assert "in 0 of 1 tests" in verdict_sentences(made_up((-0.3, -0.8, 0.2, 0.048)), NOTHING, BASELINE, 0.5)[0]
    few = verdict_sentences(made_up((-0.3, -0.4, -0.2, 0.25), n=3), NOTHING, BASELINE, 0.5)[0]
    assert few.startswith("By NAS, at the answer: too few random sets for a p of 0.05; 19 or more")


@pytest.mark.parametrize(
    ("nas", "balanced", "difference", "words"),
    [
        (
            (0.5, 0.4, 0.6),
            (0.1, 0.05, 0.2),
            (0.4, 0.2, 0.6),
            ["it predicts it", "it predicts it", ": NAS predicts better"],
        ),
        (
            (0.1, -0.1, 0.2),
            (0.3, 0.1, 0.4),
            (-0.2, -0.3, -0.1),
            ["not shown", "predicts it", ": order-balanced NAS pr"],
        ),
        ((-0.2, -0.3, -0.1), (0.1, -0.1, 0.2), (-0.3, -0.4, -0.1), ["opposite", "not shown", "is higher, but is not"]),
        ((0.2, 0.1, 0.3), (0.3, 0.1, 0.4), (-0.1, -0.3, 0.1), ["predicts it", "predicts it", "neither is shown"]),
    ],
)
def test_which_measure_predicts_better(nas, balanced, difference, words):
    rows = (nas, balanced, difference)
    said = [
        s for s in verdict_sentences(made_up(), correlations(*rows), BASELINE, 0.5) if "correlation" in s or "less" in s
    ]
    assert len(said) == 3
    for sentence, word in zip(said, words, strict=True):
        assert word in sentence, sentence


def test_the_batch_size_changes_nothing(model, ranking, result):
    other = causality.causal_test(model, QUESTIONS, ranking, positions=BOTH, batch_size=5, **SMALL)
    np.testing.assert_allclose(other.margins, result.margins, atol=1e-5)
    assert other.provenance["run_id"] == result.provenance["run_id"]
    assert other.provenance["scan"]["all"]["how"] == "fan-out"


def test_scaling_by_zero_is_zeroing(model, ranking):
    one = causality.causal_test(model, QUESTIONS, ranking, by="nas", ks=np.arange(2, 0, -1), n_random=2, factor=0)
    zero, scale = ([i for i, c in enumerate(one.cases) if c.edit == edit] for edit in ("zero", "scale"))
    np.testing.assert_allclose(one.margins[:, zero], one.margins[:, scale], atol=1e-6)
    assert [one.cases[i].heads for i in zero] == [one.cases[i].heads for i in scale]  # the same draws


class Killed(Exception):
    pass


def test_a_killed_test_resumes_and_a_finished_one_is_read_back(model, ranking, tmp_path, monkeypatch, result):
    real, calls = causality._Plan.scan, []
    settings = dict(by=("nas",), edits=("zero",), ks=(1, 3), n_random=4, batch_size=2, out=tmp_path)

    def dies(self, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise Killed
        return real(self, batch)

    monkeypatch.setattr(causality._Plan, "scan", dies)
    with pytest.raises(Killed):
        causality.causal_test(model, QUESTIONS, ranking, **settings)
    with pytest.raises(OtherRunError, match="seed"):
        causality.causal_test(model, QUESTIONS, ranking, resume=True, **settings | {"seed": 1})
    calls.clear()
    monkeypatch.setattr(causality._Plan, "scan", lambda self, batch: calls.append(batch) or real(self, batch))
    resumed = causality.causal_test(model, QUESTIONS, ranking, resume=True, **settings)
    assert len(calls) == 2 and not (tmp_path / "parts").exists()
    whole = causality.causal_test(model, QUESTIONS, ranking, **settings | {"out": None})
    np.testing.assert_array_equal(resumed.margins, whole.margins)
    calls.clear()
    again = causality.causal_test(model, QUESTIONS, ranking, resume=True, **settings)
    assert not calls
    pd.testing.assert_frame_equal(again.to_frame(), whole.to_frame())
    np.testing.assert_array_equal(again.effects, whole.effects)
    assert again.provenance["created"] == resumed.provenance["created"]
    with pytest.raises(FileExistsError, match="already holds"):
        causality.causal_test(model, QUESTIONS, ranking, **settings | {"seed": 1})


def test_findings_hold_everything(result, tmp_path):
    findings = result.to_findings()
    assert findings.statement == result.statement()
    assert list(findings.tables) == [
        "Unedited model",
        "Sets of heads",
        "Score against effect",
        "Heads of the sets",
        "Heads",
    ]
    assert len(findings.figures) == 6
    assert result.save(tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out" / "report.html").exists()
    assert len(result.plot("Change of accuracy, at all positions").data) > 0


def refused(model, ranking, message, questions=QUESTIONS, **changes):
    with pytest.raises(ValueError, match=message):
        causality.causal_test(model, questions, ranking, **SMALL | changes)


def test_bad_requests_are_refused(model, ranking, tmp_path):
    refused(
        model, ranking, r"no measure 'total_effect'; by= can name \['nas', 'nas_order_balanced'\]", by="total_effect"
    )
    refused(model, ranking, "edit 'blur'; expected 'zero', 'mean' or 'scale'", edits=("zero", "blur"))
    refused(model, ranking, "positions='end'; expected 'answer', 'all'", positions="end")
    refused(model, ranking, "expected at least one of each", by=())
    refused(model, ranking, "factor=1; expected a number that changes", factor=1)
    refused(model, ranking, r"ks=\(1, 17\); expected numbers of heads from 1 to the model's 16", ks=(1, 17))
    refused(model, ranking, r"ks_all=\(0,\); expected numbers", ks_all=(0,), positions="all")
    refused(model, ranking, "0 random sets; expected at least 1", n_random=0)
    only_no = [q for q in QUESTIONS if q.answer == "No"]
    refused(model, ranking, "0 of the 3 questions have the answer Yes", questions=only_no)
    refused(model, ranking, "0 of the 0 questions", questions=[])
    seen = [*QUESTIONS, Question("r2", "Is it?", "Yes"), Question("r1", "Is it not?", "No")]
    refused(model, ranking, "2 questions made the ranking: r1, r2", questions=seen)
    assert list(tmp_path.iterdir()) == []


def test_a_ranking_of_another_model_is_refused(model, ranking):
    shapes = {name: array[:, :3] for name, array in ranking.measures.items()}
    refused(
        model, replace(ranking, measures=shapes), "of 3 layers with 4 heads, .* has 4 with 4: it is of another model"
    )
    weights = replace(ranking, provenance={"model": {"name": "other", "weights_sha256": "0" * 64}})
    refused(model, weights, "the ranking is of 'other' with weights 000000000000; this is")
